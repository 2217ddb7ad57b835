"""Summaries of the exploration chapter: plant a relation, find it again."""

import numpy as np
import pandas as pd
import pytest

from edgeutils import EdgeError, explore


def planted(slope, rng):
    """Five families on two systems; energy = level x macs**slope x a family's own factor."""
    rows = []
    for device, level in (("a", 1.0), ("b", 10.0)):
        for i, family in enumerate("vwxyz"):
            macs = np.exp(rng.uniform(10, 20, 40))
            energy = level * macs**slope * (1 + 0.02 * i) * np.exp(rng.normal(0, 0.1, 40))
            rows.append(
                pd.DataFrame(
                    {"device": device, "runtime": "r", "family": family, "macs": macs}
                ).assign(energy_j=energy, latency_s=energy / level)
            )
    return pd.concat(rows, ignore_index=True)


def test_elasticity_recovers_the_planted_slope_and_its_interval_holds_it():
    table = planted(0.7, np.random.default_rng(0))
    found = explore.elasticities(table, {"work": ["macs"], "time": ["latency_s"]})
    work, time = found.iloc[0], found.iloc[1]
    assert work["elasticity"] == pytest.approx(0.7, abs=0.01)
    assert work["low95"] < 0.7 < work["high95"]
    assert time["elasticity"] == pytest.approx(1)
    assert time["typical_error"] == pytest.approx(0, abs=1e-9)
    assert work["typical_error"] == pytest.approx(np.expm1(0.6745 * 0.1), rel=0.15)
    assert (work["n"], work["clusters"]) == (400, 5)


def test_one_cluster_is_refused():
    table = planted(0.7, np.random.default_rng(0)).assign(family="same")
    with pytest.raises(EdgeError, match="two values of family or more, not 1"):
        explore.elasticities(table, {"work": ["macs"]})


def test_ratios_pair_the_same_phone_and_network():
    table = pd.DataFrame(
        {
            "device": ["p", "p", "p", "q"],
            "name": ["n", "n", "m", "n"],
            "dtype": "float32",
            "processor": ["CPU1", "GPU", "GPU", "GPU"],
            "energy_j": [2.0, 1.0, 5.0, 9.0],
            "power_w": [4.0, 3.0, 5.0, 9.0],
        }
    )
    ratios = explore.processor_ratios(table)
    assert ratios[["device", "name", "energy", "power"]].to_numpy().tolist() == [
        ["p", "n", 0.5, 0.75]
    ]
    twins = table.assign(model="m", dtype=["float32", "float32", "float32", "int8"])
    assert explore.quantisation_ratios(twins).empty
    twins.loc[3, ["device", "energy_j"]] = ["p", 0.3]
    assert explore.quantisation_ratios(twins)["energy"].tolist() == [pytest.approx(0.1)]


def test_rank_correlation_is_taken_within_each_system():
    table = planted(0.7, np.random.default_rng(1)).assign(latency_s=lambda t: -t["energy_j"])
    ranks = explore.within_systems(table, ["macs", "latency_s"])
    assert ranks["device"].tolist() == ["a", "b"]
    assert (ranks["macs"] > 0.95).all()
    assert (ranks["latency_s"] == -1).all()


def test_concentration_and_energy_per_mac():
    assert explore.concentration(pd.Series([9.0] + [1.0] * 9)) == 0.5
    assert np.isnan(explore.concentration(pd.Series([], dtype=float)))
    kernels = pd.DataFrame(
        {
            "kernel_type": ["conv", "conv", "dw", "relu"],
            "macs": [1e6, 1e6, 1e6, 0],
            "energy_j": [1e-4, 3e-4, 6e-4, 1.0],
        }
    )
    costs = explore.energy_per_mac(kernels)
    assert costs[["kernel_type", "kernels", "median_pj"]].to_numpy().tolist() == [
        ["conv", 2, pytest.approx(200)],
        ["dw", 1, pytest.approx(600)],
    ]
    assert explore.energy_per_mac(kernels.iloc[:0]).empty
