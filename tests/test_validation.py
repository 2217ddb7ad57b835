import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, RegressorMixin

from edgeutils import EdgeError
from edgeutils.networks import sampler, zoo
from edgeutils.networks.kernels import kernel_frame
from edgeutils.regression.predictors import NETWORK_FEATURES, FlopsLine, PaperForest
from edgeutils.regression.studies import (
    FEATURE_GROUPS,
    ablation_models,
    kernel_errors,
    kernel_study,
    network_systems,
    networks_from_kernels,
)
from edgeutils.regression.validation import (
    Split,
    against,
    bootstrap_interval,
    cross_validate,
    learning_curve,
    metrics,
    split_rows,
    summarise,
)
from edgeutils.table import COLUMNS


class Oracle(RegressorMixin, BaseEstimator):
    """Knows the truth up to a factor, and how unsure it is."""

    def __init__(self, factor=1.0):
        self.factor = factor

    def fit(self, table, target):
        self.seen_ = set(table["group"])
        return self

    def predict(self, table):
        return self.factor * table["truth_j"].to_numpy()

    def interval(self, table):
        return 0.9 * table["truth_j"].to_numpy(), 1.1 * table["truth_j"].to_numpy()


def rows(n=60, groups=12):
    group = np.arange(n) % groups
    truth = 1.0 + group
    return pd.DataFrame({"group": group, "macs": truth, "truth_j": truth, "energy_j": truth})


@pytest.mark.parametrize("split", [Split("random"), Split("grouped"), Split("leave_out")])
def test_every_row_is_tested_once_and_groups_stay_whole(split):
    table = rows()
    tested = []
    for train, test in split_rows(table, split, seed=4):
        assert not set(train) & set(test)
        assert len(train) + len(test) == len(table)
        if split.kind != "random":
            assert not set(table["group"][train]) & set(table["group"][test])
        tested += test.tolist()
    assert sorted(tested) == list(range(len(table)))


def test_folds_depend_on_the_seed_only():
    table = rows()
    first, again, other = (
        [test.tolist() for _, test in split_rows(table, Split("grouped"), seed)]
        for seed in (0, 0, 1)
    )
    assert first == again != other


def test_a_leak_shows_under_random_but_not_under_grouped_folds():
    # Every group has a price of its own that no feature tells, and its rows are near copies: a
    # forest can only know it by having seen a sibling.
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(30), 4)
    price = np.exp(rng.normal(0, 1, 30))[group]
    table = pd.DataFrame(
        {"group": group, "hw": rng.permutation(30)[group] + 10, "cin": rng.integers(8, 99, 120)}
    ).assign(kernel_type="relu", energy_j=price)
    splits = {"random": Split("random"), "grouped": Split("grouped")}
    errors = cross_validate({"forest": PaperForest(trees=30)}, table, splits)
    mape = summarise(errors).set_index("split")["mape"]
    assert mape["random"] < 0.35
    assert mape["grouped"] > 0.6


def test_errors_carry_what_was_asked():
    models = {"exact": Oracle(), "half": Oracle(0.5), "line": FlopsLine()}
    errors = cross_validate(models, rows(), {"grouped": Split("grouped", folds=3)}, seeds=(0, 1))
    assert len(errors) == 60 * 3 * 2
    table = summarise(errors).set_index("method")
    assert table["mape"].to_dict() == pytest.approx({"exact": 0, "half": 0.5, "line": 0})
    assert table["coverage"].iloc[:2].tolist() == [1.0, 1.0]
    assert np.isnan(table.loc["line", "coverage"])
    assert table["n"].tolist() == [120] * 3


def test_fits_are_apart_and_summaries_are_medians_over_units():
    table = pd.concat(
        [
            rows().assign(system=s, energy_j=f * rows().truth_j)
            for s, f in (("a", 1.0), ("b", 2.0), ("c", 10.0))
        ]
    )
    errors = cross_validate({"line": FlopsLine()}, table, {"r": Split("random")}, by="system")
    assert errors["ape"].max() < 1e-9
    oracle = cross_validate({"o": Oracle()}, table, {"r": Split("random")}, by="system")
    assert summarise(oracle, unit="system")["mape"].tolist() == pytest.approx([0.5])


def test_metrics_on_a_planted_case():
    errors = pd.DataFrame(
        {
            "measured": [1.0, 2.0, 4.0, 8.0],
            "predicted": [1.05, 2.0, 5.0, 4.0],
            "low90": [0.9, 1.9, 4.5, 3.0],
            "high90": [1.1, 2.1, 5.5, 9.0],
        }
    )
    errors["ape"] = (errors["predicted"] / errors["measured"] - 1).abs()
    found = metrics(errors)
    assert found["mape"] == pytest.approx(0.2)
    assert found["median_ape"] == pytest.approx(0.15)
    assert (found["within10"], found["coverage"], found["n"]) == (0.5, 0.75, 4)
    assert found["rank"] == pytest.approx(0.8)


def test_bootstrap_by_cluster_is_wide_where_rows_are_copies():
    rng = np.random.default_rng(5)
    one_each = rng.normal(10, 1, 20)
    copies = pd.DataFrame({"group": np.repeat(np.arange(20), 50), "ape": np.repeat(one_each, 50)})
    low, high = bootstrap_interval(copies)
    # Standard error of 20 groups of sd 1, not of 1000 rows.
    assert high - low == pytest.approx(2 * 1.96 * one_each.std() / np.sqrt(20), rel=0.15)
    assert low < one_each.mean() < high


def test_bootstrap_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(6)
    hits = 0
    for draw in range(100):
        values = pd.DataFrame({"group": np.arange(40), "ape": rng.normal(3, 1, 40)})
        low, high = bootstrap_interval(values, draws=300, seed=draw)
        hits += low <= 3 <= high
    assert hits >= 86


def test_network_systems_joins_twins_and_drops_small_systems():
    names = [f"mobilenet-v1-1.0-{r}-{q}" for r in range(25) for q in ("quantized", "non-quantized")]
    table = pd.DataFrame({"device": "VIM4", "runtime": "x", "name": names, "energy_j": 1.0})
    single = table.head(1).assign(device="Odroid")
    found = network_systems(pd.concat([table, single]))
    assert found["system"].unique().tolist() == ["VIM4, x"]
    assert found["group"].nunique() == 25


def test_kernel_study_leaves_out_rows_without_configuration():
    table = pd.DataFrame(
        {
            "kernel_type": "relu",
            "name": [f"k{i}" for i in range(13)],
            "group": range(13),
            "hw": [7, 14, 28, 56] * 3 + [None],
            "cin": [*range(8, 20), None],
            "macs": [0.0] * 12 + [None],
            "params": 0.0,
            "input_bytes": [8000.0 * i for i in range(1, 13)] + [None],
            "dtype": "float32",
        }
    )
    table = table.assign(output_bytes=table["input_bytes"], energy_j=1e-3).reindex(columns=COLUMNS)
    table.loc[:11, "energy_j"] = 1e-5 + 1e-8 * table["input_bytes"]
    study = kernel_study({"deepen2023": table})
    errors = kernel_errors(study, folds=3)
    assert errors["study"].unique().tolist() == ["relu"]
    assert "k12" not in set(errors["name"])
    assert errors["method"].nunique() == 4
    ours = errors[errors["method"] == "Gaussian process"]
    assert ours["ape"].median() < 0.05


def test_kernel_study_without_any_set_is_empty_but_has_its_column():
    assert kernel_study({})["study"].tolist() == []


def priced(kernels):
    """Kernels with a latency that the physical model can express."""
    frame = kernel_frame(kernels)
    elements = (frame["input_bytes"] + frame["output_bytes"]) / 4
    return frame.assign(latency_s=1e-6 + 1e-11 * frame["macs"] + 1e-10 * elements)


def test_networks_are_recovered_as_sums_of_predicted_kernels():
    nets = [zoo.variant("squeezenet", index) for index in range(3)]
    kinds = dict.fromkeys(kernel.kernel_type for kernel in nets[0].kernels)
    drawn = pd.concat([priced(sampler.sample(kind, 12, seed=1)) for kind in kinds])
    seen = drawn.assign(level="kernel", group=[f"k{i}" for i in range(len(drawn))])
    whole = [
        {"level": "network", "group": net.name, "dtype": "float32", "family": "squeezenet"}
        | {"latency_s": 1.25 * priced(net.kernels)["latency_s"].sum()}
        for net in nets
    ]
    table = pd.concat([seen, pd.DataFrame(whole)], ignore_index=True)
    errors = networks_from_kernels(table, trees=5)
    assert errors.groupby("method").size().tolist() == [3, 3, 3, 3]
    physical = errors[errors["method"] == "physical model"]
    assert physical["error"].tolist() == pytest.approx([-0.2] * 3, abs=0.01)
    # Of a network with a kernel of a type that nobody measured nothing can be said.
    lacking = table[table["kernel_type"] != "maxpool"]
    assert networks_from_kernels(lacking, trees=5).empty


def test_another_target_is_predicted():
    table = rows().assign(latency_s=lambda t: 2 * t["energy_j"])
    split = {"grouped": Split("grouped")}
    joules, seconds = (
        cross_validate({"line": FlopsLine()}, table, split, target=target)
        for target in ("energy_j", "latency_s")
    )
    assert seconds["predicted"].tolist() == pytest.approx((2 * joules["predicted"]).tolist())
    assert seconds["error"].tolist() == pytest.approx(joules["error"].tolist())


def test_excess_is_paired_row_by_row():
    table = rows().assign(name=[f"n{i}" for i in range(60)])
    split = {"grouped": Split("grouped")}
    baseline = cross_validate({"exact": Oracle(1.1)}, table, split, seeds=(0, 1))
    errors = cross_validate({"worse": Oracle(1.3), "better": Oracle(1.0)}, table, split)
    excess = against(errors, baseline).groupby("method")["excess"].mean()
    assert excess.to_dict() == pytest.approx({"worse": 0.2, "better": -0.1})
    with pytest.raises(EdgeError, match="30 rows have no partner in the baseline"):
        against(errors[errors["method"] == "worse"], baseline[baseline["measured"] > 6])


def test_more_points_teach_more_and_no_fit_sees_more_than_said():
    rng = np.random.default_rng(7)
    macs = rng.uniform(1, 10, 200)
    noisy = pd.DataFrame({"group": range(200), "macs": macs})
    noisy = noisy.assign(energy_j=(5 + macs) * np.exp(rng.normal(0, 0.3, 200)))
    curve = learning_curve({"line": FlopsLine()}, noisy, Split("grouped"), [4, 100], seeds=range(5))
    mape = curve.groupby("points")["ape"].mean()
    assert mape[4] > 1.1 * mape[100]
    assert curve.groupby("points").size().tolist() == [1000, 1000]


def test_feature_groups_hold_every_feature_once():
    columns = [c for group in FEATURE_GROUPS.values() for c in group]
    assert sorted(columns) == sorted(NETWORK_FEATURES)
    assert len(ablation_models()) == 2 * len(FEATURE_GROUPS) + 1


def test_messages():
    with pytest.raises(EdgeError, match="unknown split 'loo'; use one of: random, grouped"):
        Split("loo")
    with pytest.raises(EdgeError, match="needs the column family; the table has none"):
        list(split_rows(rows(), Split("leave_out", "family")))
    with pytest.raises(EdgeError, match="into 5 folds needs as many groups, and the table has 3"):
        list(split_rows(rows(6, 3), Split("grouped")))


def test_without_rows_there_are_no_errors_and_no_crash():
    errors = kernel_errors(kernel_study({}))
    assert errors.empty
    assert {"study", "kernel_type", "hw", "ape", "measured"} <= set(errors.columns)
    assert summarise(errors, ("study", "method")).empty
