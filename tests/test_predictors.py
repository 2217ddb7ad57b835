import json

import numpy as np
import pandas as pd
import pytest

from edgeutils import EdgeError
from edgeutils.networks.kernels import KERNEL_TYPES, add_work
from edgeutils.regression.features import design
from edgeutils.regression.physical import costs
from edgeutils.regression.predictors import (
    PAPER_FORESTS,
    FlopsAndBytes,
    FlopsLine,
    LatencyTimesPower,
    PaperForest,
    PerType,
    PhysicalModel,
)


def convolutions(rows, seed=0):
    """Random convolutions whose energy is 10 uJ + 100 pJ / MAC + 1 nJ / element, without noise."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "kernel_type": "conv-bn-relu",
            "hw": rng.choice([7, 14, 28, 56, 112], rows),
            "cin": rng.integers(3, 512, rows),
            "cout": rng.integers(8, 512, rows),
            "kernel_size": rng.choice([1, 3, 5], rows),
            "stride": rng.choice([1, 2], rows),
            "dtype": "float32",
        }
    )
    table = add_work(table)
    elements = (table["input_bytes"] + table["output_bytes"]) / 4
    return table.assign(energy_j=1e-5 + 1e-10 * table["macs"] + 1e-9 * elements)


def networks(rows=80, seed=0):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "macs": rng.uniform(1e7, 1e9, rows),
            "layers": rng.integers(20, 120, rows),
            "dtype": rng.choice(["float32", "uint8"], rows),
            "family": rng.choice(list("abcd"), rows),
        }
    )
    cheap = np.where(table["dtype"] == "uint8", 0.3, 1.0)
    energy = cheap * (1e-2 + 2e-10 * table["macs"] + 1e-4 * table["layers"])
    return table.assign(energy_j=energy, latency_s=energy / 4.0)


def test_flops_line_recovers_slope_and_intercept():
    table = pd.DataFrame({"macs": [1e6, 2e6, 5e6]})
    line = FlopsLine().fit(table, 0.5 + 3e-7 * table["macs"])
    assert (line.intercept_, line.slope_) == pytest.approx((0.5, 3e-7))
    assert line.predict(pd.DataFrame({"macs": [1e7]})) == pytest.approx([3.5])


def test_flops_and_bytes_recovers_both_slopes_and_the_intercept():
    table = convolutions(40)
    moved = table[["input_bytes", "output_bytes", "weight_bytes"]].sum(axis=1)
    model = FlopsAndBytes().fit(table, 0.5 + 3e-10 * table["macs"] + 2e-9 * moved)
    assert model.line_.coef_ == pytest.approx([3e-10, 2e-9], rel=1e-6)
    assert model.predict(table.head(0).reindex([0]).fillna(0)) == pytest.approx([0.5])


def test_each_type_has_a_model_of_its_own_in_whatever_order_its_rows_come():
    kinds = np.array(["relu", "bn", "relu", "bn", "bn", "relu"])
    table = pd.DataFrame({"kernel_type": kinds, "macs": [1.0, 2, 3, 4, 5, 6]}, index=[3] * 6)
    slope = np.where(kinds == "bn", 10.0, 1.0)
    lines = PerType(FlopsLine()).fit(table, slope * table["macs"])
    assert list(lines.models_) == ["relu", "bn"]
    assert lines.predict(table) == pytest.approx(slope * table["macs"].to_numpy())
    with pytest.raises(
        EdgeError, match=r"no fc kernel was in the training; it had \['relu', 'bn'\]"
    ):
        lines.predict(table.assign(kernel_type="fc"))


def test_latency_times_power_recovers_the_power():
    table = networks()
    model = LatencyTimesPower().fit(table, table["energy_j"])
    assert model.power_w_ == pytest.approx(4.0)
    assert model.predict(table) == pytest.approx(table["energy_j"].to_numpy())


def test_physical_model_recovers_costs_of_both_number_types():
    table = networks()
    model = PhysicalModel(("macs", "layers")).fit(table, table["energy_j"])
    planted = np.array([1e-2, 2e-10, 1e-4])
    assert model.costs_ == pytest.approx(np.concatenate([planted, 0.3 * planted]), rel=1e-6)


def test_physical_model_shrugs_off_outliers_and_never_pays_negative():
    table = networks()
    energy = table["energy_j"].to_numpy().copy()
    energy[:4] *= 5
    model = PhysicalModel(("macs", "layers")).fit(table, energy)
    good = slice(4, None)
    assert model.predict(table)[good] == pytest.approx(table["energy_j"].to_numpy()[good], rel=0.02)
    falling = PhysicalModel(("macs",), by_dtype=False).fit(table, 1 / table["macs"])
    assert (falling.costs_ >= 0).all()


def test_rows_that_rounding_spoils_count_less():
    x = np.column_stack([np.ones(40), np.linspace(1, 40, 40)])
    truth = 0.1 + 0.05 * x[:, 1]
    rounded = np.maximum(np.round(truth), 1)  # below 1.5 all read 1
    told, untold = (costs(x, rounded, rounding=step) for step in (1.0, 0.0))
    assert np.abs(told - [0.1, 0.05]).sum() < 0.7 * np.abs(untold - [0.1, 0.05]).sum()
    assert (told >= 0).all()
    # A column without any work has no price, and no part in the others'.
    assert costs(np.column_stack([x, 0 * truth]), truth) == pytest.approx([0.1, 0.05, 0])


def test_relative_errors_serve_the_small_and_absolute_ones_the_large():
    table = networks(200)
    # A price the model has no term for makes both compromise, each at the other end.
    energy = table["energy_j"] * np.where(table["macs"] > 3e8, 1.5, 1.0)
    small = (table["macs"] < 2e8).to_numpy()
    error = {
        relative: np.abs(
            PhysicalModel(("macs",), relative=relative).fit(table, energy).predict(table) / energy
            - 1
        )[small].mean()
        for relative in (True, False)
    }
    assert error[True] < error[False]


def test_physical_interval_covers_unseen_groups():
    rng = np.random.default_rng(1)
    table = networks(400)
    noisy = table["energy_j"] * np.exp(rng.normal(0, 0.1, len(table)))
    train, test = table[:200], table[200:]
    model = PhysicalModel(("macs", "layers"), group="family").fit(train, noisy[:200])
    low, high = model.interval(test)
    assert 0.83 < np.mean((low <= noisy[200:]) & (noisy[200:] <= high)) < 0.97


def test_paper_forest_has_a_setting_for_every_type_of_the_paper():
    assert set(PAPER_FORESTS) == set(KERNEL_TYPES) - {"transpose-conv"}
    table = convolutions(60)
    forest = PaperForest(trees=20).fit(table, table["energy_j"])
    assert forest.forest_.n_estimators == 20
    assert forest.forest_.max_features == 6
    error = np.abs(forest.predict(table) / table["energy_j"] - 1)
    assert np.median(error) < 0.3
    again = PaperForest(trees=20).fit(table, table["energy_j"])
    assert np.array_equal(forest.predict(table), again.predict(table))


def test_paper_forest_takes_gaps_in_the_configuration():
    pools = pd.DataFrame(
        {"kernel_type": "maxpool", "hw": [7, 14, 28], "cin": 64, "kernel_size": 3, "stride": 2}
    )
    forest = PaperForest(trees=5).fit(pools, [1.0, 2.0, 3.0])
    assert 1 <= forest.predict(pools).min() <= forest.predict(pools).max() <= 3


def test_fitted_costs_are_plain_numbers():
    table = networks()
    model = PhysicalModel(("macs", "layers")).fit(table, table["energy_j"])
    assert json.loads(json.dumps(model.costs_.tolist())) == model.costs_.tolist()


def test_messages_name_the_lacking_column_the_bad_target_and_mixed_types():
    with pytest.raises(EdgeError, match="needs the column macs"):
        FlopsLine().fit(pd.DataFrame({"hw": [1]}), [1.0])
    with pytest.raises(EdgeError, match=r"needs the column dense_macs \(lacking: 'conv_macs'\)"):
        design(pd.DataFrame({"macs": [1]}), ("dense_macs",))
    with pytest.raises(EdgeError, match="must be positive in every row"):
        FlopsLine().fit(pd.DataFrame({"macs": [1, 2]}), [1.0, 0.0])
    mixed = pd.DataFrame({"kernel_type": ["relu", "bn"], "hw": 7, "cin": 8})
    with pytest.raises(EdgeError, match="these rows hold relu, bn"):
        PaperForest().fit(mixed, [1.0, 2.0])
