from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from edgeutils import EdgeError
from edgeutils.hardware.bench import SMALL_NETWORK, Phone, simulate
from edgeutils.hardware.bench_monitor import Monitor, faults
from edgeutils.hardware.clock import OffsetEstimate, estimate_offset, rebuild_clock
from edgeutils.hardware.energy import Idle, naive_windows, summarise, window_energy
from edgeutils.hardware.readers import read_marks, read_trace
from edgeutils.hardware.report import analyse, explain, idle_power, load
from edgeutils.hardware.samples import mend_samples
from edgeutils.hardware.trace import Marks, MeterSpec, PowerTrace
from edgeutils.hardware.uncertainty import Budget, repeats_u, warm_up

# mean, period, naive in mJ; share of windows without a sample (naive); halves differ
REAL = {
    "EnergyNet_uid15582_cfg125_nhwc": (4.4, 4.8, 3.9, 0.91, False),
    "EnergyNet_uid8723_cfg181_nhwc": (55.6, 56.6, 50.8, 0.05, False),
    "mnv2_cifar10_fp32": (6.4, 6.7, 5.7, 0.81, True),
}


def marks_of(*windows, count=1):
    start, end = np.array(windows).T
    return Marks(start, end, np.full(start.size, count))


def even(power_w, period_s=1e-3, **meter):
    time_s = np.arange(power_w.size) * period_s
    return PowerTrace(time_s, power_w, MeterSpec("planted", **meter))


def square(
    windows=400, *, on_s=1.9e-3, off_s=0.7e-3, period_s=2e-4, aperture=1.0, seed=0, scatter=0.02
):
    """Marks of windows of 3 W, pauses of 1 W, as a monitor that averages over `aperture` sees it.

    Returned with the energy of a mean window.
    """
    rng = np.random.default_rng(seed)
    on = on_s * rng.uniform(0.9, 1.1, windows)
    start = 0.1 + np.cumsum(on + off_s * rng.uniform(0.5, 1.5, windows)) - on
    high_w = 3 * (1 + scatter * rng.standard_normal(windows))
    edges = np.column_stack([start, start + on]).ravel()
    power = np.column_stack([high_w, np.ones(windows)]).ravel()
    edges, power = np.r_[0.0, edges, edges[-1] + 0.2], np.r_[1.0, power]
    until = np.r_[0.0, np.cumsum(np.diff(edges) * power)]
    centre = np.arange(period_s, edges[-1] - period_s, period_s)
    reach = period_s * aperture / 2
    low, high = np.interp([centre - reach, centre + reach], edges, until)
    trace = PowerTrace(centre, (high - low) / (2 * reach), MeterSpec("planted"))
    marks = Marks(start, start + on, np.ones(windows, dtype=int))
    return trace, marks, float((high_w * on).mean())


# Windows


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


def test_uneven_samples_are_held_half_way_to_their_neighbours():
    trace = PowerTrace(np.array([0.0, 1.0, 2.0, 4.0, 5.0]), np.arange(5.0), MeterSpec("planted"))
    # Cells end at -0.5, 0.5, 1.5, 3.0, 4.5 and 5.5.
    windows = window_energy(trace, marks_of((0.0, 5.0), (1.5, 3.0), (2.5, 3.5)))
    expected = [0 + 1 * 1 + 2 * 1.5 + 3 * 1.5 + 4 * 0.5, 2 * 1.5, 2 * 0.5 + 3 * 0.5]
    assert windows["energy_j"].tolist() == pytest.approx(expected)


def test_many_windows_agree_with_a_loop_over_them():
    rng = np.random.default_rng(2)
    trace = even(rng.uniform(0, 4, 200_000))
    start = rng.uniform(0, 190, 100_000)
    windows = window_energy(trace, marks_of(*zip(start, start + 0.1, strict=True)))
    edges = (np.arange(200_001) - 0.5) * 1e-3
    for i in range(0, 100_000, 9973):
        inside = np.clip(edges, start[i], start[i] + 0.1)
        assert windows.loc[i, "energy_j"] == pytest.approx(np.diff(inside) @ trace.power_w)


def test_offset_idle_and_count_are_used():
    trace = even(np.where(np.arange(1000) >= 500, 3.0, 1.0))
    windows = window_energy(trace, marks_of((0.1, 0.2), count=5), offset_s=0.5, idle_w=1.0)
    assert windows.loc[0, "energy_j"] == pytest.approx(0.2)
    assert windows.loc[0, "energy_per_inference_j"] == pytest.approx(0.04)
    assert windows.loc[0, "start_s"] == pytest.approx(0.6)
    assert windows.loc[0, "samples"] == pytest.approx(100, abs=1)


def test_what_was_not_measured_is_nan():
    trace = even(np.ones(1000))
    holed = PowerTrace(np.delete(trace.time_s, slice(400, 450)), np.ones(950), MeterSpec("holed"))
    windows = window_energy(holed, marks_of((0.1, 0.2), (0.38, 0.46), (0.42, 0.43), (0.9, 1.1)))
    assert windows["energy_j"].isna().tolist() == [False, True, True, True]
    assert windows.loc[2, "samples"] == 0
    assert windows["gap_s"].tolist() == pytest.approx([0.0, 0.05, 0.01, 0.1005], abs=1e-9)
    summary = summarise(holed, marks_of((0.1, 0.2), (0.3, 0.35), (0.42, 0.43), (0.5, 0.9)))
    assert summary.flags == ("gaps",)
    assert summary.windows["flags"].tolist() == [(), (), ("gaps",), ()]
    # The gap draws what was drawn beside it.
    assert summary.energy_per_period_j == pytest.approx(0.8 / 4)


def test_a_lost_window_counts_as_those_around_it():
    """The power rises along the run: leaving the end out would pull the mean down."""
    trace = even(np.linspace(2, 4, 10_000))
    start = np.arange(100) * 0.05 + 3
    marks = marks_of(*zip(start, start + 0.04, strict=True))
    lost = (trace.time_s > 7) & (trace.time_s < 7.9)
    holed = PowerTrace(trace.time_s[~lost], trace.power_w[~lost], MeterSpec("holed"))
    whole, part = summarise(trace, marks), summarise(holed, marks)
    assert part.mean_energy_j == pytest.approx(whole.mean_energy_j, rel=1e-3)
    assert part.windows["energy_j"].mean() < whole.mean_energy_j * 0.985
    assert part.energy_per_period_j == pytest.approx(whole.energy_per_period_j, rel=1e-3)


def test_naive_masks_and_multiplies():
    trace = PowerTrace(
        np.array([0.0, 0.01, 0.01, 0.02]), np.array([1.0, 2.0, 4.0, 8.0]), MeterSpec("raw")
    )
    windows = naive_windows(trace, marks_of((0.005, 0.015), (0.012, 0.018)), period_s=0.001)
    assert windows["samples"].tolist() == [2, 0]
    assert windows["energy_j"].tolist() == pytest.approx([0.006, 0.0])
    assert windows.loc[0, "power_w"] == 3.0
    assert np.isnan(windows.loc[1, "power_w"])


# Edges


@pytest.mark.parametrize("aperture", [1.0, 0.02])
@pytest.mark.parametrize(
    ("on_s", "off_s", "period_s", "lost"),
    [
        (1.9e-3, 0.7e-3, 2e-4, 0.02),  # pauses of some samples
        (1.9e-3, 0.12e-3, 2e-4, 0.01),  # pauses shorter than a sample
        (2.3e-3, 4e-3, 1e-3, 0.08),  # two samples to a window
        (0.4e-3, 2e-3, 1e-3, 0.3),  # windows shorter than a sample
    ],
)
def test_what_edges_lose_is_given_back(on_s, off_s, period_s, lost, aperture):
    errors, raw = [], []
    for seed in range(6):
        trace, marks, truth = square(
            on_s=on_s, off_s=off_s, period_s=period_s, aperture=aperture, seed=seed
        )
        mended, plain = summarise(trace, marks), summarise(trace, marks, repair=False)
        errors.append((mended.mean_energy_j - truth) / truth)
        raw.append((plain.mean_energy_j - truth) / truth)
        assert abs(errors[-1]) < 4 * mended.u_j / truth
        assert mended.edges.outside_w == pytest.approx(1.0, abs=0.1)
    assert np.mean(raw) < -lost / 2
    assert abs(np.mean(errors)) < max(abs(np.mean(raw)) / 20, 2e-3)


def test_without_pauses_there_is_nothing_to_give_back():
    trace = even(np.random.default_rng(3).uniform(2, 3, 3000))
    marks = marks_of(*pairwise(np.linspace(0.2, 2.8, 901)))
    mended, plain = summarise(trace, marks), summarise(trace, marks, repair=False)
    assert mended.mean_energy_j == pytest.approx(plain.mean_energy_j, rel=1e-3)
    assert mended.budget.edges < 1e-3 * mended.mean_energy_j


def test_long_windows_are_hardly_touched():
    trace = even(np.where(np.arange(20_000) // 1000 % 2 == 1, 3.0, 1.0))
    marks = marks_of(*[(k + 0.9998, k + 1.9995) for k in range(1, 18, 2)])
    mended, plain = summarise(trace, marks), summarise(trace, marks, repair=False)
    assert mended.mean_energy_j == pytest.approx(plain.mean_energy_j, rel=1e-3)


def test_a_rate_too_low_says_so_and_widens_the_budget():
    slow = summarise(*square(on_s=1.9e-3, off_s=0.2e-3, period_s=4e-3)[:2])
    fast = summarise(*square(on_s=1.9e-3, off_s=0.2e-3, period_s=2e-4)[:2])
    assert {"rate_too_low", "few_samples"} <= set(slow.flags)
    assert "rate_too_low" not in fast.flags
    assert slow.budget.edges > 10 * fast.budget.edges


# The budget


def test_components_add_up():
    run = simulate(seed=1, inferences=300)
    found = analyse(run.trace, run.marks, idle="surrounding").summary
    parts = vars(found.budget)
    assert set(parts) == {"meter", "clock", "edges", "idle", "repeats"}
    assert all(part > 0 for part in parts.values())
    assert sum(part**2 for part in parts.values()) == pytest.approx(found.u_j**2, rel=1e-12)
    assert found.low95_j < found.mean_energy_j < found.high95_j


def test_meter_counts_gain_times_energy_and_offset_times_duration():
    power_w = 2 + 0.1 * np.random.default_rng(0).standard_normal(5000)
    trace = even(power_w, gain_u=0.01, offset_u_w=0.03)
    marks = marks_of(*pairwise(np.linspace(0.5, 4.5, 41)))
    found = summarise(trace, marks)
    assert found.budget.meter == pytest.approx(np.hypot(0.01 * 0.2, 0.03 * 0.1), rel=0.01)
    # A constant idle is not from this meter: the gain still acts on all that was read.
    assert summarise(trace, marks, idle=Idle("constant", 1.5)).budget.meter == pytest.approx(
        found.budget.meter, rel=1e-9
    )
    same = summarise(trace, marks, idle=Idle("surrounding", 1.5)).budget.meter
    assert same == pytest.approx(0.01 * 0.05, rel=0.02)
    unknown = summarise(even(power_w), marks)
    assert np.isnan(unknown.budget.meter)
    assert unknown.u_j == pytest.approx(unknown.budget.repeats, rel=0.01)


def test_clock_counts_what_a_moved_window_gains_and_loses():
    trace = even(np.where(np.arange(4000) < 2000, 1.0, 3.0))
    marks = marks_of((1.5, 2.0), (1.55, 2.0))
    # Later by 10 ms: each window swaps 10 ms at 1 W for as long at 3 W.
    found = summarise(trace, marks, offset=OffsetEstimate(0.0, 0.01))
    assert found.budget.clock == pytest.approx(0.02 / np.sqrt(2), rel=0.05)
    assert summarise(trace, marks).budget.clock == 0.0
    turned = summarise(trace, marks, offset=OffsetEstimate(0.0, 0.0, drift_u=0.01))
    assert 0 < turned.budget.clock < found.budget.clock


def test_idle_counts_its_uncertainty_times_the_duration():
    marks = marks_of(*pairwise(np.linspace(0.5, 4.5, 41)))
    found = summarise(even(np.full(5000, 2.0)), marks, idle=Idle("recorded", 0.5, 0.02, 9.0))
    assert found.mean_energy_j == pytest.approx(0.15)
    assert found.budget.idle == pytest.approx(0.002)
    assert found.freedom == pytest.approx(9.0)


@pytest.mark.parametrize(("memory", "least", "most"), [(0.0, 0.92, 0.98), (0.7, 0.9, 0.99)])
def test_interval_covers_the_truth_where_neighbours_are_alike(memory, least, most):
    """AR(1) energies: sd / sqrt(n) would cover 58 % where the memory is 0.7."""
    hits, trials = 0, 300
    for seed in range(trials):
        noise = np.random.default_rng(seed).standard_normal(700)
        values = np.empty(700)
        values[0] = 0.0
        for i in range(1, 700):
            values[i] = memory * values[i - 1] + noise[i]
        u, freedom = repeats_u(values[100:])
        low, high = Budget(0, 0, 0, 0, u).total(Budget(1, 1, 1, 1, freedom))[0] * np.array([-1, 1])
        reach = 2.18  # Student's t of 12 degrees of freedom
        hits += reach * low <= values[100:].mean() <= reach * high
    assert least <= hits / trials <= most


def test_few_values_get_the_classical_uncertainty():
    values = np.array([5.0, 7.0, 6.0, 9.0, 8.0])
    assert repeats_u(values) == pytest.approx((values.std(ddof=1) / np.sqrt(5), 4.0))
    assert np.isnan(repeats_u(values[:1])).all()


def test_effective_degrees_of_freedom():
    """Two equal components with 3 and 6: u^4 / (a^4/3 + b^4/6) = 8."""
    u, freedom = Budget(1.0, 0.0, 1.0, np.nan, 0.0).total(Budget(3, 1, 6, 1, 1))
    assert u == pytest.approx(np.sqrt(2))
    assert freedom == pytest.approx(4 / (1 / 3 + 1 / 6))


def test_interval_of_the_bench_covers_the_expected_energy():
    hits, errors, us = 0, [], []
    for seed in range(24):
        run = simulate(seed=seed, inferences=250, monitor=Monitor(lost=(), jitter_s=2e-5))
        found = analyse(run.trace, run.marks).summary
        hits += found.low95_j <= run.expected_energy_j <= found.high95_j
        errors.append(found.mean_energy_j / run.mean_energy_j - 1)
        us.append(found.u_j / run.mean_energy_j)
    assert hits >= 20
    # Of short runs an offset may stay uncertain: then the budget says so.
    assert (np.abs(errors) < np.maximum(5e-3, 3 * np.array(us))).all()
    assert np.quantile(np.abs(errors), 0.9) < 5e-3
    assert abs(np.median(errors)) < 1e-3


# Odd runs


def test_one_window_of_one_inference_has_no_interval():
    summary = summarise(even(np.ones(100)), marks_of((0.01, 0.05)))
    assert summary.mean_energy_j == pytest.approx(0.04, rel=1e-4)
    assert np.isnan([summary.u_j, summary.low95_j, summary.high95_j, summary.budget.repeats]).all()
    assert "one_window" in summary.flags


def test_one_window_of_many_inferences_is_judged_by_its_power():
    power_w = (
        2 + np.tile([0.5, -0.5], 5000) + 0.1 * np.random.default_rng(0).standard_normal(10_000)
    )
    summary = summarise(even(power_w), marks_of((1.0, 9.0), count=1000))
    assert summary.mean_energy_j == pytest.approx(0.016, rel=1e-3)
    assert 0 < summary.budget.repeats < 1e-3 * 0.016
    assert summary.low95_j < 0.016 < summary.high95_j


def test_windows_of_several_inferences():
    rng = np.random.default_rng(4)
    edges = np.cumsum(rng.uniform(0.02, 0.04, 61)) + 0.5
    count = rng.integers(1, 9, 60)
    power_w = np.zeros(4000)
    for (start, end), n in zip(pairwise(edges), count, strict=True):
        power_w[round(start * 1e3) : round(end * 1e3)] = 0.05 * n / (end - start)
    summary = summarise(even(power_w), Marks(edges[:-1], edges[1:], count))
    assert summary.inferences == count.sum()
    assert summary.mean_energy_j == pytest.approx(0.05, rel=0.01)
    assert summary.u_j < 0.05 * 0.02


def test_overlapping_windows_are_flagged():
    summary = summarise(even(np.full(2000, 2.0)), marks_of((0.2, 0.6), (0.5, 0.9), (1.0, 1.4)))
    assert "overlapping_marks" in summary.flags
    assert summary.windows["flags"].tolist() == [(), ("overlapping_marks",), ()]
    assert summary.mean_energy_j == pytest.approx(0.8, rel=1e-3)


def test_drift_is_flagged():
    ramp = even(np.linspace(2, 4, 10_000))
    start = np.arange(100) * 0.05 + 1
    marks = marks_of(*zip(start, start + 0.04, strict=True))
    summary = summarise(ramp, marks)
    assert summary.flags == ("not_stationary",)
    assert summary.second_half_j > summary.first_half_j
    slight = summarise(even(np.linspace(2, 2.1, 10_000)), marks)
    assert slight.flags == ("heat_drift",)


def test_the_steady_part_leaves_the_warm_up_out():
    rng = np.random.default_rng(6)
    each_w = 2 + 0.05 * rng.standard_normal(300)
    each_w[:40] += np.linspace(3, 0.5, 40)
    trace = even(np.repeat(each_w, 10))
    start = np.arange(300) * 0.01 - 0.0005
    summary = summarise(trace, marks_of(*zip(start, start + 0.01, strict=True)))
    assert warm_up(each_w) == pytest.approx(40, abs=10)
    assert summary.steady.inferences == pytest.approx(260, abs=10)
    assert summary.steady.mean_energy_j == pytest.approx(0.02, rel=5e-3)
    assert summary.mean_energy_j > 0.0215
    assert summary.u_j > 10 * summary.steady.u_j


def test_marks_beside_the_trace_are_refused():
    with pytest.raises(EdgeError, match="none of the 1 windows"):
        summarise(even(np.ones(100)), marks_of((5.0, 6.0)))


# Idle


def test_idle_policies(tmp_path):
    rng = np.random.default_rng(0)
    power_w = 0.5 + 0.01 * rng.standard_normal(10_000)
    power_w[4000:6000] += 2.0
    trace, marks = even(power_w), marks_of((4.0, 6.0))
    assert idle_power("none", trace, marks) == Idle()
    assert idle_power("const:0.35", trace, marks) == Idle("constant", 0.35)
    around = idle_power("surrounding", trace, marks)
    assert around.policy == "surrounding"
    assert around.power_w == pytest.approx(0.5, abs=5 * around.u_w)
    assert 0 < around.u_w < 0.001
    power_w[6000:] += 0.2  # the two sides differ: the uncertainty says so
    uneven = idle_power("surrounding", even(power_w), marks)
    assert uneven.power_w == pytest.approx(0.6, abs=0.01)
    assert uneven.u_w == pytest.approx(0.1 / np.sqrt(3), rel=0.02)
    path = tmp_path / "idle.csv"
    rows = (f"{i * 1e-3:.3f},{p:.5f}\n" for i, p in enumerate(power_w[:3000]))
    path.write_text("time_s,power_w\n" + "".join(rows))
    recorded = idle_power(f"recorded:{path}", trace, marks)
    assert recorded.policy == "recorded"
    assert recorded.power_w == pytest.approx(0.5, abs=0.002)
    assert 0 < recorded.u_w < 0.001


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("const:many", "const:0.35, not 'many'"),
        ("const:", "takes a power in watts"),
        ("const:nan", "not 'nan'"),
        ("recorded:", "expected none, const:W"),
        ("nothing", "'nothing', expected none, const:W"),
        ("recorded:no/such.csv", "no/such.csv"),
        ("surrounding", "20 samples or more"),
    ],
)
def test_idle_mistakes_are_named(policy, message):
    trace = even(np.ones(1000))
    with pytest.raises(EdgeError, match=message) as caught:
        idle_power(policy, trace, marks_of((0.1, 0.9)))
    assert "\n" not in str(caught.value)


# Samples


def noisy(samples=5000, seed=0):
    return 2 + 0.3 * np.random.default_rng(seed).standard_normal(samples)


def test_sound_samples_are_left_alone():
    trace = even(noisy())
    assert mend_samples(trace) is trace
    stepped = even(np.round(noisy() * 4) / 4)  # a coarse meter: equal neighbours by chance
    assert mend_samples(stepped) is stepped
    flat = even(np.where(np.arange(1000) % 400 < 300, 5.0, 1.0))
    assert mend_samples(flat) is flat


def test_absurd_jumps_are_replaced():
    power_w = noisy()
    jumped = power_w.copy()
    jumped[[100, 2000, 2001, 4999]] = [1000, -1000, 900, 1000]
    mended = mend_samples(even(jumped))
    assert mended.flags == ("absurd_jumps",)
    assert np.abs(mended.power_w - power_w).max() < 2
    bursts = power_w.copy()
    bursts[1000:1010] = 500  # ten samples in a row are power, not a wrong bit
    assert mend_samples(even(bursts)).flags == ()


def test_held_readings_are_collapsed():
    readings = noisy(1000)
    mended = mend_samples(even(np.repeat(readings, 5), 2e-4))
    assert mended.flags == ("held_readings",)
    assert mended.period_s == pytest.approx(1e-3)
    np.testing.assert_allclose(np.intersect1d(mended.power_w, readings).size, 999, atol=1)


def test_clipping_is_flagged():
    clipped = mend_samples(even(np.minimum(noisy(), 2.4)))
    assert clipped.flags == ("clipped",)
    ranged = even(np.minimum(noisy(), 2.4) + 1e-9 * noisy(seed=1), range_w=2.4)
    assert mend_samples(ranged).flags == ("clipped",)


# Real runs


@pytest.mark.parametrize("name", REAL)
def test_real_runs(mirror, name):
    mean_mj, period_mj, naive_mj, empty, drifts = REAL[name]
    folder = mirror / "platformx/demo/live_runs"
    trace = read_trace(folder / f"{name}_power.csv")
    marks = read_marks(folder / f"{name}_inference_time.csv")
    naive = naive_windows(trace, marks)
    assert naive["energy_j"].mean() * 1e3 == pytest.approx(naive_mj, abs=0.06)
    assert (naive["samples"] == 0).mean() == pytest.approx(empty, abs=0.01)
    found = analyse(trace, marks)
    summary = found.summary
    assert summary.mean_energy_j * 1e3 == pytest.approx(mean_mj, rel=0.02)
    assert summary.energy_per_period_j * 1e3 == pytest.approx(period_mj, rel=0.02)
    assert summary.share_without_samples == 0
    assert ("not_stationary" in found.flags) == drifts
    assert set(found.flags) <= set(explain())
    assert summary.low95_j < summary.mean_energy_j < summary.high95_j
    odd, even_ = (
        summarise(
            found.trace,
            Marks(marks.start_s[k::2], marks.end_s[k::2], marks.count[k::2], marks.epoch_us),
            offset=found.offset,
        )
        for k in (0, 1)
    )
    u_j = np.hypot(odd.budget.repeats, even_.budget.repeats)
    assert abs(odd.mean_energy_j - even_.mean_energy_j) < 2 * u_j


def test_the_step_at_the_edges_of_real_inferences_is_clear(mirror):
    folder = mirror / "platformx/demo/live_runs"
    name = "EnergyNet_uid8723_cfg181_nhwc"
    trace = read_trace(folder / f"{name}_power.csv")
    marks = read_marks(folder / f"{name}_inference_time.csv")
    rebuilt = rebuild_clock(trace)[0]
    offset = estimate_offset(rebuilt, marks)
    mended = summarise(rebuilt, marks, offset=offset)
    plain = summarise(rebuilt, marks, offset=offset, repair=False)
    inside_w = mended.windows["power_w"].mean()
    assert inside_w - mended.edges.outside_w > 10 * mended.edges.outside_u_w
    assert mended.mean_energy_j / plain.mean_energy_j - 1 == pytest.approx(5e-4, rel=0.5)


def test_the_ramp_of_the_third_run_is_its_wrong_offset(mirror):
    folder = mirror / "platformx/demo/live_runs"
    rebuilt, _ = rebuild_clock(read_trace(folder / "mnv2_cifar10_fp32_power.csv"))
    marks = read_marks(folder / "mnv2_cifar10_fp32_inference_time.csv")
    found = estimate_offset(rebuilt, marks)
    by_block = summarise(rebuilt, marks, offset=found.offset_s)
    by_gaps = summarise(rebuilt, marks, offset=found.gaps_offset_s)
    halves = [by_block.first_half_j, by_block.second_half_j]
    assert np.array(halves) * 1e3 == pytest.approx([7.5, 5.3], rel=0.02)
    halves = [by_gaps.first_half_j, by_gaps.second_half_j]
    assert np.array(halves) * 1e3 == pytest.approx([5.7, 5.4], rel=0.03)


@pytest.mark.parametrize("version", ["v0.7", "v1.2", "v1.3"])
def test_official_windows_of_mlperf_tiny_are_reproduced(mirror, version):
    files = (mirror / f"mlperf-tiny-{version}").rglob("*")
    folders = sorted({f.parent for f in files if f.name in ("trace1-energy.bin", "results.json")})
    seen = 0
    for folder in folders:
        try:
            trace, marks = load(folder)
        except EdgeError:
            continue
        if marks.official_j is None:
            continue
        summary = analyse(trace, marks).summary
        ratio = summary.windows["energy_j"].to_numpy() / marks.official_j
        assert np.abs(ratio - 1).max() < 2e-4, folder.name
        seen += 1
    assert seen > 0


def test_a_network_on_a_steady_phone_is_right_to_half_a_per_cent():
    phone = Phone(ramp_s=0.0, heat_k_per_w=0.0)
    for factor in (0.3, 1.0, 6.0):
        run = simulate(
            seed=5,
            inferences=int(500 / (1 + factor)),
            workload=SMALL_NETWORK.times(factor),
            phone=phone,
            monitor=faults()["none"],
        )
        found = analyse(run.trace, run.marks, offset=OffsetEstimate(0.0, 0.0)).summary
        assert found.mean_energy_j == pytest.approx(run.mean_energy_j, rel=5e-3)


def test_the_sync_pulse_is_no_idle_time():
    power_w = np.full(10_000, 0.5)
    power_w[4000:6000] += 2.0
    power_w[1000:1500] += 3.0
    marks = replace(marks_of((4.0, 6.0)), sync_s=np.array([[1.0, 1.2], [1.3, 1.5]]))
    assert idle_power("surrounding", even(power_w), marks).power_w == pytest.approx(0.5)


def test_windows_too_short_for_the_rate_leave_the_pauses_open():
    phone = Phone(pause_s=2e-3)
    run = simulate(seed=3, inferences=600, phone=phone, monitor=faults()["100 Hz"])
    found = analyse(run.trace, run.marks, offset=OffsetEstimate(run.monitor.offset_s, 1e-5))
    summary, true_j = found.summary, run.expected_energy_j
    assert "rate_too_low" in found.flags
    assert summary.low95_j < true_j < summary.high95_j
    pauses_j = summary.energy_per_period_j - summary.mean_energy_j
    assert summary.budget.edges > abs(pauses_j) / 2


def test_a_probe_the_wrong_way_round_is_named():
    with pytest.raises(EdgeError, match=r"mean power is -2 W, .* wrong way round"):
        analyse(even(np.full(1000, -2.0)), marks_of((0.1, 0.2)))
