"""Summaries of the exploration chapter: plant a relation, find it again."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from edgeutils import EdgeError, explore
from edgeutils.networks import zoo


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


def campaign(ratio, **settings):
    """Rows of a network and of all its kernels, whose sum is `ratio` times its own latency."""
    net = zoo.network("resnet8")
    kernels = dict.fromkeys(replace(kernel, name="") for kernel in net.kernels)
    alone = {k.label: (i + 1) * 1e-6 for i, k in enumerate(kernels)}
    rows = [{"level": "kernel", "group": k.label, "macs": float(k.macs)} for k in kernels]
    total_s = sum(alone[k.label] for k in net.kernels)
    rows.append({"level": "network", "group": "resnet8", "family": "resnet"})
    latency_s = [*alone.values(), total_s / ratio]
    return pd.DataFrame(rows).assign(latency_s=latency_s, **settings)


def test_kernel_sums_recover_the_planted_ratio():
    first = campaign(1.25, dtype="float32", processor="CPU1")
    second = campaign(0.8, dtype="int8", processor="CPU2")
    incomplete = campaign(1.0, dtype="int8", processor="CPU1").drop(index=0)
    # Of three measurements the middle one counts; a file is no network of the zoo.
    twice = [first.iloc[[0]].assign(latency_s=factor) for factor in (1e-9, 1.0)]
    file = second.iloc[[-1]].assign(group="mine-0123abcd", family=None)
    found = explore.kernel_sums(pd.concat([first, second, incomplete, *twice, file]))
    assert found[["name", "family", "dtype", "processor"]].to_numpy().tolist() == [
        ["resnet8", "resnet", "float32", "CPU1"],
        ["resnet8", "resnet", "int8", "CPU2"],
    ]
    assert found["ratio"].tolist() == pytest.approx([1.25, 0.8])
    net = zoo.network("resnet8")
    assert (found["kernels"] == len(net.kernels)).all()
    # More kernels than distinct ones: each counts as often as the network has it.
    alone = dict(zip(first["group"], first["latency_s"], strict=True))
    idle_s = sum(alone[k.label] for k in net.kernels if not k.macs)
    assert 0 < idle_s < found["sum_s"].iloc[0]
    assert found["no_macs_s"].tolist() == pytest.approx([idle_s, idle_s])


def test_kernel_sums_need_both_levels():
    table = campaign(1.0, dtype="float32", processor="CPU1")
    for level in ("kernel", "network"):
        found = explore.kernel_sums(table[table["level"] == level])
        assert found.empty
        assert "ratio" in found
