from itertools import pairwise

import numpy as np
import pytest

from edgeutils import EdgeError
from edgeutils.hardware.clock import estimate_offset, rebuild_clock
from edgeutils.hardware.energy import naive_windows, summarise, window_energy
from edgeutils.hardware.trace import Marks, PowerTrace, read_marks, read_monsoon

# offset s; mean, period, naive in mJ; share of windows without a sample (naive); halves differ
REAL = {
    "EnergyNet_uid15582_cfg125_nhwc": (4.4, 4.8, 3.9, 0.91, False),
    "EnergyNet_uid8723_cfg181_nhwc": (55.6, 56.6, 50.8, 0.05, False),
    "mnv2_cifar10_fp32": (6.4, 6.7, 5.7, 0.81, True),
}


def marks_of(*windows, count=1):
    start, end = np.array(windows).T
    return Marks(start, end, np.full(start.size, count))


def even(power_w, period_s=1e-3):
    return PowerTrace(np.arange(power_w.size) * period_s, power_w, "planted")


def test_constant_power_times_duration_wherever_the_edges_fall():
    rng = np.random.default_rng(1)
    start = np.sort(rng.uniform(0, 8, 50))
    end = start + rng.uniform(1e-5, 1.5, 50)
    windows = window_energy(even(np.full(10_000, 2.5)), marks_of(*zip(start, end, strict=True)))
    np.testing.assert_allclose(windows["energy_j"], 2.5 * (end - start), rtol=1e-9)
    np.testing.assert_allclose(windows["power_w"], 2.5, rtol=1e-9)


def test_windows_add_up_to_the_whole():
    trace = even(np.random.default_rng(0).uniform(0, 4, 5000))
    edges = np.linspace(0.1, 4.7, 333)
    parts = window_energy(trace, marks_of(*pairwise(edges)))
    whole = window_energy(trace, marks_of((0.1, 4.7)))
    assert parts["energy_j"].sum() == pytest.approx(whole.loc[0, "energy_j"], rel=1e-10)


def test_offset_idle_and_count_are_used():
    trace = even(np.where(np.arange(1000) >= 500, 3.0, 1.0))
    windows = window_energy(trace, marks_of((0.1, 0.2), count=5), offset_s=0.5, idle_w=1.0)
    assert windows.loc[0, "energy_j"] == pytest.approx(0.2)
    assert windows.loc[0, "energy_per_inference_j"] == pytest.approx(0.04)
    assert windows.loc[0, "start_s"] == pytest.approx(0.6)
    assert windows.loc[0, "samples"] == pytest.approx(100, abs=1)


def test_what_was_not_measured_is_nan():
    trace = even(np.ones(1000))
    holed = PowerTrace(np.delete(trace.time_s, slice(400, 450)), np.ones(950), "holed")
    windows = window_energy(holed, marks_of((0.1, 0.2), (0.38, 0.46), (0.42, 0.43), (0.9, 1.1)))
    assert windows["energy_j"].isna().tolist() == [False, True, True, True]
    assert windows.loc[2, "samples"] == 0
    assert windows["gap_s"].tolist() == pytest.approx([0.0, 0.05, 0.01, 0.1005], abs=1e-9)
    summary = summarise(holed, marks_of((0.1, 0.2), (0.3, 0.35), (0.42, 0.43), (0.5, 0.9)))
    assert summary.flags == ("gaps",)
    # The gap counts as time like the rest of the run, with its mean power.
    assert summary.energy_per_period_j == pytest.approx(0.8 / 4)


def test_naive_masks_and_multiplies():
    trace = PowerTrace(np.array([0.0, 0.01, 0.01, 0.02]), np.array([1.0, 2.0, 4.0, 8.0]), "raw")
    windows = naive_windows(trace, marks_of((0.005, 0.015), (0.012, 0.018)), period_s=0.001)
    assert windows["samples"].tolist() == [2, 0]
    assert windows["energy_j"].tolist() == pytest.approx([0.006, 0.0])
    assert windows.loc[0, "power_w"] == 3.0
    assert np.isnan(windows.loc[1, "power_w"])


def test_interval_covers_the_truth_where_neighbours_are_alike():
    """AR(1) energies: the naive sd / sqrt(n) would cover far too seldom, batch means do not."""
    hits, trials = 0, 100
    for seed in range(trials):
        rng = np.random.default_rng(seed)
        noise = rng.standard_normal(600)
        power = np.empty(600)
        power[0] = noise[0]
        for i in range(1, 600):
            power[i] = 0.7 * power[i - 1] + noise[i]
        trace = even(np.repeat(5 + 0.5 * power, 10))
        start = np.arange(2, 598) * 0.01 - 0.0005
        marks = marks_of(*zip(start, start + 0.01, strict=True))
        summary = summarise(trace, marks)
        hits += summary.low95_j <= 0.05 <= summary.high95_j
    assert 0.87 <= hits / trials <= 1.0


def test_drift_is_flagged():
    ramp = even(np.linspace(2, 4, 10_000))
    start = np.arange(100) * 0.05 + 1
    summary = summarise(ramp, marks_of(*zip(start, start + 0.04, strict=True)))
    assert summary.flags == ("not_stationary",)
    assert summary.second_half_j > summary.first_half_j


def test_one_window_has_no_interval():
    summary = summarise(even(np.ones(100)), marks_of((0.01, 0.05)))
    assert summary.mean_energy_j == pytest.approx(0.04)
    assert np.isnan([summary.u_j, summary.low95_j, summary.high95_j]).all()


def test_marks_beside_the_trace_are_refused():
    with pytest.raises(EdgeError, match="none of the 1 windows"):
        summarise(even(np.ones(100)), marks_of((5.0, 6.0)))


@pytest.mark.parametrize("name", REAL)
def test_real_runs(mirror, name):
    mean_mj, period_mj, naive_mj, empty, drifts = REAL[name]
    folder = mirror / "platformx/demo/live_runs"
    trace = read_monsoon(folder / f"{name}_power.csv")
    marks = read_marks(folder / f"{name}_inference_time.csv")
    naive = naive_windows(trace, marks)
    assert naive["energy_j"].mean() * 1e3 == pytest.approx(naive_mj, abs=0.06)
    assert (naive["samples"] == 0).mean() == pytest.approx(empty, abs=0.01)
    rebuilt, _ = rebuild_clock(trace)
    summary = summarise(rebuilt, marks, offset_s=estimate_offset(rebuilt, marks).offset_s)
    assert summary.mean_energy_j * 1e3 == pytest.approx(mean_mj, rel=0.02)
    assert summary.energy_per_period_j * 1e3 == pytest.approx(period_mj, rel=0.02)
    assert summary.share_without_samples == 0
    assert ("not_stationary" in summary.flags) == drifts


def test_the_ramp_of_the_third_run_is_its_wrong_offset(mirror):
    folder = mirror / "platformx/demo/live_runs"
    rebuilt, _ = rebuild_clock(read_monsoon(folder / "mnv2_cifar10_fp32_power.csv"))
    marks = read_marks(folder / "mnv2_cifar10_fp32_inference_time.csv")
    found = estimate_offset(rebuilt, marks)
    by_block = summarise(rebuilt, marks, offset_s=found.offset_s)
    by_gaps = summarise(rebuilt, marks, offset_s=found.gaps_offset_s)
    halves = [by_block.first_half_j, by_block.second_half_j]
    assert np.array(halves) * 1e3 == pytest.approx([7.5, 5.3], rel=0.02)
    halves = [by_gaps.first_half_j, by_gaps.second_half_j]
    assert np.array(halves) * 1e3 == pytest.approx([5.7, 5.4], rel=0.02)
    assert by_gaps.flags == ()
