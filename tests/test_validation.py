import math

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, RegressorMixin, clone

from edgeutils import EdgeError
from edgeutils.networks import sampler, zoo
from edgeutils.networks.kernels import kernel_frame
from edgeutils.regression.kernel_predictor import MEMBERS, KernelPredictor
from edgeutils.regression.predictors import NETWORK_FEATURES, FlopsLine, PaperForest
from edgeutils.regression.studies import (
    FEATURE_GROUPS,
    ablation_models,
    kernel_ablation_models,
    kernel_errors,
    kernel_models,
    kernel_study,
    network_systems,
    networks_from_kernels,
)
from edgeutils.regression.validation import (
    Split,
    against,
    bootstrap_interval,
    coverage_test,
    cross_validate,
    learning_curve,
    metrics,
    noise_floor,
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


def test_grouped_folds_spread_every_kernel_type_evenly_and_keep_groups_whole():
    # A common type, two that a few folds could easily miss, and configurations measured twice.
    kinds = np.repeat(["conv-bn-relu", "relu", "fc"], [83, 11, 7])
    group = np.concatenate([np.arange(101), np.arange(0, 101, 2)])
    table = pd.DataFrame({"group": [f"g{i}" for i in group], "kernel_type": kinds[group]})
    table = table.sample(frac=1, random_state=1)
    for seed in range(5):
        folds = list(split_rows(table, Split("grouped", folds=5), seed))
        assert sorted(np.concatenate([test for _, test in folds])) == list(range(len(table)))
        for train, test in folds:
            assert not set(table["group"].iloc[train]) & set(table["group"].iloc[test])
            held = table.iloc[test].drop_duplicates()["kernel_type"].value_counts()
            for kind, count in {"conv-bn-relu": 83, "relu": 11, "fc": 7}.items():
                assert held[kind] in (count // 5, count // 5 + 1)


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
    assert found["rmspe"] == pytest.approx(np.sqrt((0.05**2 + 0.25**2 + 0.5**2) / 4))
    assert (found["within5"], found["within15"]) == (0.25, 0.5)
    # The median of 1.222, 1.105, 1.222 and 3.
    assert found["width"] == pytest.approx(11 / 9)
    assert np.isinf(metrics(errors.assign(low90=-1.0))["width"])
    without = metrics(errors.assign(low90=np.nan, high90=np.nan))
    assert np.isnan([without["coverage"], without["width"]]).all()


def test_summaries_carry_every_metric_and_an_interval_of_any_share():
    rng = np.random.default_rng(3)
    errors = pd.DataFrame({"split": "r", "method": "m", "group": range(50)})
    errors = errors.assign(measured=rng.uniform(1, 9, 50), low90=0.8, high90=1.2)
    errors["predicted"] = errors["measured"] * rng.normal(1, 0.1, 50)
    errors["ape"] = (errors["predicted"] / errors["measured"] - 1).abs()
    row = summarise(errors, column="within10").iloc[0]
    assert set(metrics(errors)) <= set(row.index)
    assert row["within10"] == (errors["ape"] <= 0.1).mean()
    assert 0.4 < row["within10_low95"] < row["within10"] < row["within10_high95"] < 0.95


def test_coverage_is_doubted_when_it_should_be():
    def covering(inside, n):
        measured = np.where(np.arange(n) < inside, 1.0, 3.0)
        return pd.DataFrame({"measured": measured, "low90": 0.5, "high90": 2.0})

    assert coverage_test(covering(90, 100)) == pytest.approx(1)
    # By hand: the probability of all counts that are no more likely than 80 of 100.
    chances = [math.comb(100, k) * 0.9**k * 0.1 ** (100 - k) for k in range(101)]
    as_rare = sum(p for p in chances if p <= chances[80] * (1 + 1e-9))
    assert coverage_test(covering(80, 100)) == pytest.approx(as_rare)
    assert coverage_test(covering(100, 100)) < 0.001
    assert coverage_test(covering(80, 100), level=0.8) == pytest.approx(1)
    assert np.isnan(coverage_test(covering(9, 10).assign(low90=np.nan)))
    assert np.isnan(coverage_test(covering(0, 0)))


def floors(table, **options):
    found = noise_floor(table, **options).set_index("method")
    return found.loc["repeats"], found.loc["neighbours"]


def test_noise_is_recovered_from_repeats_and_so_is_the_best_that_a_model_can_do():
    rng = np.random.default_rng(8)
    group = np.repeat(np.arange(900), rng.integers(1, 5, 900))
    truth = np.exp(rng.normal(0, 2, 900))[group]
    table = pd.DataFrame({"group": group, "energy_j": truth * rng.lognormal(0, 0.2, len(group))})
    found, none = floors(table)
    assert found["n"] == len(group) - 900
    assert found["sd"] == pytest.approx(0.2, rel=0.06)
    assert found["typical_sd"] == pytest.approx(found["sd"], rel=0.05)
    # No constant factor does better on a large sample, and the best one reaches it.
    measured = rng.lognormal(0, found["typical_sd"], 100_000)
    ape = np.abs(np.linspace(0.8, 1.2, 81)[:, None] / measured - 1)
    assert ape.mean(axis=1).min() == pytest.approx(found["mape_floor"], rel=0.01)
    assert (ape <= 0.1).mean(axis=1).max() == pytest.approx(found["within10_ceiling"], rel=0.02)
    assert none["n"] == 0
    assert np.isnan(none["sd"])


def test_a_few_wild_repeats_raise_the_sd_more_than_the_floor():
    rng = np.random.default_rng(9)
    spread = np.where(np.arange(600) % 20 < 2, 0.5, 0.05)
    table = pd.DataFrame({"group": np.arange(600) // 2, "energy_j": rng.lognormal(0, spread)})
    found, _ = floors(table)
    reached = np.abs(1 / table["energy_j"] - 1).mean()  # by somebody who knows the truth
    assert found["mape_floor"] == pytest.approx(reached, rel=0.1)
    assert found["sd"] > 1.5 * found["typical_sd"]


def test_only_like_rows_are_repeats():
    table = pd.DataFrame({"group": "a", "dtype": ["float32", "int8"] * 2, "energy_j": [1, 2, 1, 2]})
    found, _ = floors(table)
    assert (found["n"], found["sd"], found["mape_floor"], found["within10_ceiling"]) == (2, 0, 0, 1)
    for column in ("processor", "task", "model", "macs"):
        assert floors(table.assign(**{column: range(4)}))[0]["n"] == 0
    # Copied values, and rows that were not measured, tell nothing.
    assert floors(table.assign(flags=["", "", "copy implausible-power", "copy"]))[0]["n"] == 0
    assert floors(table.assign(energy_j=[1, 2, 0, None]))[0]["n"] == 0


def convs(n, sd, seed=1):
    """Convolutions whose latency spans a factor of some 500, with log-normal noise."""
    frame = kernel_frame(sampler.sample("conv-bn-relu", n, seed=seed))
    moved = frame["input_bytes"] + frame["output_bytes"]
    noise = np.random.default_rng(seed).lognormal(0, sd, n)
    latency = (2e-5 + 3e-11 * frame["macs"] ** 0.95 + 2e-10 * moved) * noise
    return frame.assign(latency_s=latency, group=range(n))


@pytest.mark.parametrize("sd", [0.05, 0.1, 0.2])
def test_noise_is_recovered_from_neighbours_on_a_steep_trend(sd):
    table = convs(440, sd)
    assert np.log(table["latency_s"]).std() > 1
    _, found = floors(table, target="latency_s")
    assert found["n"] == 110
    assert found["sd"] == pytest.approx(sd, rel=0.2)
    assert found["mape_floor"] == pytest.approx(sd * np.sqrt(2 / np.pi), rel=0.2)


def test_a_power_law_without_noise_has_no_floor():
    table = convs(200, 0.0).assign(latency_s=lambda t: t["hw"] ** 2 * t["cin"] * t["cout"] ** 1.3)
    assert floors(table, target="latency_s")[1]["sd"] < 1e-6


def test_the_noise_of_each_setting_is_its_own():
    low, high = convs(400, 0.05), convs(400, 0.2, seed=2)
    table = pd.concat([low.assign(device="a"), high.assign(device="b")])
    found = noise_floor(table, "latency_s", by="device").set_index(["device", "method"])["sd"]
    assert found["a", "neighbours"] == pytest.approx(0.05, rel=0.2)
    assert found["b", "neighbours"] == pytest.approx(0.2, rel=0.2)
    # Pooled: the devices are not compared with each other.
    pooled = np.sqrt((0.05**2 + 0.2**2) / 2)
    slower = table.assign(latency_s=table["latency_s"] * np.where(table["device"] == "a", 1, 10))
    for rows_of_both in (table, slower):
        neighbours = floors(rows_of_both, target="latency_s")[1]
        assert neighbours["n"] == 200
        assert neighbours["sd"] == pytest.approx(pooled, rel=0.2)


def test_noise_of_too_few_rows_or_none_is_missing():
    assert floors(convs(20, 0.1), target="latency_s")[1]["n"] == 0
    assert noise_floor(convs(5, 0.1).head(0), "latency_s").empty
    with pytest.raises(EdgeError, match="noise_floor needs the columns energy_j; the table has no"):
        noise_floor(convs(5, 0.1))


class Witness(RegressorMixin, BaseEstimator):
    """Predicts 1 where it saw a row's value of the column in training, else 2."""

    def __init__(self, column="device"):
        self.column = column

    def fit(self, table, target):
        self.seen_ = set(table[self.column])
        return self

    def predict(self, table):
        return np.where(table[self.column].isin(self.seen_), 1.0, 2.0)


@pytest.mark.parametrize("column", ["device", "family", "kernel_type"])
def test_kernels_of_an_unseen_device_family_or_type(column):
    kinds = ("conv-bn-relu", "maxpool", "relu")
    table = kernel_frame(k for kind in kinds for k in sampler.sample(kind, 12, seed=1))
    table = table.assign(group=table["name"], energy_j=1.0, name=[f"k{i}" for i in range(36)])
    table["device"] = np.array(["phone", "board"])[np.arange(36) % 2]
    table["family"] = np.array(["alexnet", "resnet", "vgg"])[np.arange(36) // 2 % 3]
    by = None if column == "kernel_type" else "kernel_type"
    splits = {"unseen": Split("leave_out", column), "random": Split("random", folds=3)}
    errors = cross_validate({"witness": Witness(column)}, table, splits, by=by)
    unseen, mixed = (errors[errors["split"] == split] for split in splits)
    assert sorted(unseen["name"]) == sorted(table["name"])
    assert (unseen["predicted"] == 2).all()
    assert unseen["fold"].nunique() == table[column].nunique()
    assert (unseen.groupby(["fold", *([by] if by else [])])[column].nunique() == 1).all()
    assert (mixed["predicted"] == 1).all()


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
            "level": "kernel",
            "name": [f"k{i}" for i in range(13)],
            "group": range(13),
            "hw": [7, 14, 28, 56] * 3 + [None],
            "cin": [*range(8, 20), None],
            "macs": [0.0] * 12 + [None],
            "params": 0.0,
            "weight_bytes": 0.0,
            "input_bytes": [8000.0 * i for i in range(1, 13)] + [None],
            "dtype": "float32",
        }
    )
    table = table.assign(output_bytes=table["input_bytes"], energy_j=1e-3).reindex(columns=COLUMNS)
    table.loc[:11, "energy_j"] = 1e-5 + 1e-8 * table["input_bytes"]
    study = kernel_study({"deepen2023": table})
    errors = kernel_errors(study, folds=3)
    assert errors["study"].unique().tolist() == ["other kernels, phone CPU"]
    assert "k12" not in set(errors["name"])
    assert set(errors["method"]) == {*kernel_models(), "kernel predictor"}
    assert "latency x power" not in set(errors["method"])  # nobody measured the latency
    ours = errors[errors["method"] == "kernel predictor"]
    assert ours["ape"].median() < 0.05


def test_an_ablation_lacks_what_its_name_says():
    models = kernel_ablation_models(trees=5, seed=3)
    ours = {name: model for name, model in models.items() if isinstance(model, KernelPredictor)}
    assert {model.seed for model in ours.values()} == {3}
    assert {name for name, model in ours.items() if model.even_noise} == {
        "without allowance for noise"
    }
    lacks = {name: set(MEMBERS) - set(model.members) for name, model in ours.items()}
    assert lacks == {
        "kernel predictor": set(),
        "without allowance for noise": set(),
        "without tiles and caches": {"tiles"},
        "without sharing between types": {"shared", "shared, stepped"},
        "without trees": {"boosting", "forest"},
        "without all but one process": set(MEMBERS) - {"sizes"},
    }


def test_the_forest_on_logs_predicts_the_target_itself():
    table = priced(sampler.sample("relu", 30, seed=1))
    forest = clone(kernel_ablation_models(trees=30)["paper's forest on logs"])
    found = forest.fit(table, table["latency_s"].to_numpy()).predict(table)
    assert np.median(np.abs(found / table["latency_s"] - 1)) < 0.2


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
    assert errors.groupby("method").size().to_dict() == dict.fromkeys(kernel_models(), 3)
    physical = errors[errors["method"] == "physical model"]
    assert physical["error"].tolist() == pytest.approx([-0.2] * 3, abs=0.01)
    # Of a network with a kernel of a type that nobody measured nothing can be said.
    lacking = table[table["kernel_type"] != "maxpool"]
    few = lacking[lacking["kernel_type"].isna() | (lacking.groupby("kernel_type").cumcount() < 5)]
    assert networks_from_kernels(few, trees=5).empty


def test_networks_with_a_kernel_of_a_type_that_was_hardly_measured_are_left_out():
    net = zoo.variant("squeezenet", 0)
    kinds = list(dict.fromkeys(kernel.kernel_type for kernel in net.kernels))
    drawn = pd.concat([priced(sampler.sample(kind, 5, seed=1)) for kind in kinds])
    seen = drawn.assign(level="kernel", group=[f"k{i}" for i in range(len(drawn))])
    seen = seen[(seen["kernel_type"] != "maxpool") | (seen.groupby("kernel_type").cumcount() < 4)]
    whole = {"level": "network", "group": net.name, "dtype": "float32", "latency_s": 1.0}
    table = pd.concat([seen, pd.DataFrame([whole])], ignore_index=True)
    methods = networks_from_kernels(table, trees=5)["method"]
    assert "kernel predictor" not in set(methods)


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
