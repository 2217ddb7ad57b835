from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from edgeutils import EdgeError
from edgeutils.hardware.bench import (
    SMALL_NETWORK,
    Monitor,
    Phone,
    Workload,
    kernel_times,
    simulate,
)
from edgeutils.hardware.bench_monitor import EPOCH_US, JUMP_W, faults
from edgeutils.hardware.clock import SYNC_CHIP_S, SYNC_CHIPS
from edgeutils.hardware.energy import naive_windows
from edgeutils.hardware.readers import read_marks, read_trace
from edgeutils.hardware.report import analyse

#: Faults that a repair undoes: the largest error of the mean that may be left, and the phone.
REPAIRED = {
    "as the real one": (0.005, Phone()),
    "lost packets": (0.005, Phone()),
    "late packets": (0.005, Phone(ramp_s=0.0, heat_k_per_w=0.0)),
    "repeated packets": (0.005, Phone()),
    "backward stamps": (0.005, Phone()),
    "drift": (0.005, Phone(sync=True)),
    "additive error": (0.005, Phone()),
    "gain": (0.005, Phone(ramp_s=0.0, heat_k_per_w=0.0)),
    "absurd jumps": (0.005, Phone()),
    "all together": (0.01, Phone()),
}
SEEDS = range(4)
FLAWLESS = faults()["none"]


def flawless(**fields):
    return replace(FLAWLESS, **fields)


def measured(run):
    """Mean energy over the truth less 1, the meter's own error apart; and the summary."""
    summary = analyse(run.trace, run.marks).summary
    duration_s = (run.truth["end_s"] - run.truth["start_s"]).sum() / run.marks.inferences
    shown_j = run.mean_energy_j * (1 + run.gain) + run.error_w * duration_s
    return summary.mean_energy_j / shown_j - 1, summary


def test_faults_are_repaired_and_intervals_hold_the_truth():
    """Every trace close to the truth; 95 % intervals that hold the truth as often as they say."""
    held, wide = [], []
    for fault, (most, phone) in REPAIRED.items():
        for seed in SEEDS:
            run = simulate(seed=seed + 100 * len(held), phone=phone, monitor=faults()[fault])
            error, summary = measured(run)
            assert abs(error) < most, f"{fault}, {seed}: {error:.2%}"
            held.append(summary.low95_j <= run.expected_energy_j <= summary.high95_j)
            wide.append(summary.u_j / summary.mean_energy_j)
    # 40 intervals of 95 % hold the truth 34 times or more in 99.7 % of all cases.
    assert sum(held) >= stats.binom.ppf(0.003, len(held), 0.95)
    assert np.median(wide) < 0.005


@pytest.mark.parametrize("seed", range(3))
def test_what_a_first_script_does_fails_on_the_default(tmp_path, seed):
    run = simulate(seed=seed)
    power, log = run.write(tmp_path)
    naive = naive_windows(read_trace(power), read_marks(log))
    assert (naive["samples"] == 0).mean() > 0.9
    assert abs(naive["energy_j"].mean() / run.mean_energy_j - 1) > 0.05
    assert (run.marks.end_s - run.marks.start_s).mean() == pytest.approx(1.8e-3, rel=0.05)


@pytest.mark.parametrize("phone", [Phone(), Phone(sync=True, log_every=7)])
def test_readers_return_the_simulated_arrays(tmp_path, phone):
    run = simulate(seed=4, inferences=30, phone=phone)
    power, log = run.write(tmp_path)
    trace, marks = read_trace(power, meter=run.trace.meter), read_marks(log)
    np.testing.assert_array_equal(trace.time_s, run.trace.time_s)
    np.testing.assert_allclose(trace.power_w, run.trace.power_w, rtol=1e-6)
    shift_s = (marks.epoch_us - run.marks.epoch_us) / 1e6
    for name in ("start_s", "end_s", "sync_s"):
        np.testing.assert_allclose(
            getattr(marks, name) + shift_s, getattr(run.marks, name), atol=1e-9
        )
    np.testing.assert_array_equal(marks.count, run.marks.count)
    assert trace.epoch_us == run.trace.epoch_us
    assert run.source == "simulated"
    assert "simulated" in run.trace.meter.name
    assert "simulated" in power.name


def test_same_seed_same_bytes(tmp_path):
    files = [
        simulate(seed=seed, inferences=30).write(tmp_path / str(n))
        for n, seed in enumerate((7, 7, 8))
    ]
    first, again, other = ([path.read_bytes() for path in paths] for paths in files)
    assert first == again
    assert first[0] != other[0]


def test_the_expected_energy_is_the_mean_of_many_runs():
    runs = [simulate(seed=seed, inferences=40, monitor=flawless()) for seed in range(60)]
    took = np.array([run.mean_energy_j for run in runs])
    expected = np.mean([run.expected_energy_j for run in runs])
    assert abs(took.mean() - expected) < 4 * took.std() / np.sqrt(took.size)
    assert took.std() / np.sqrt(took.size) < 0.002 * expected


def test_a_flawless_monitor_shows_all_that_was_taken():
    run = simulate(seed=1, inferences=300, monitor=flawless())
    start_s, end_s = run.truth["start_s"].iloc[0], run.truth["end_s"].iloc[-1]
    inside = (run.trace.time_s > start_s) & (run.trace.time_s < end_s)
    total_j = run.trace.power_w[inside].sum() * run.monitor.period_s
    assert total_j == pytest.approx(run.period_energy_j * 300, rel=2e-3)
    np.testing.assert_allclose(run.trace.time_s, run.taken_s, atol=1e-6)


def test_the_monitor_has_the_faults_of_the_real_one():
    trace = simulate(seed=0).trace
    step_s = np.diff(trace.time_s)
    assert np.median(step_s) < 3e-6
    assert 0.025 < np.quantile(step_s, 0.999) < 0.035
    assert step_s.max() > 0.06


@pytest.mark.parametrize(
    ("fields", "seen"),
    [
        ({"burst": 64}, lambda r: np.median(np.diff(r.trace.time_s)) < 3e-6),
        ({"jitter_s": 1e-4}, lambda r: 5e-5 < np.diff(r.trace.time_s).std() < 2e-4),
        ({"lost": ((0.5, 77),)}, lambda r: np.diff(r.taken_s).max() / 200.3e-6 > 77),
        (
            {"burst": 100, "lost": ((0.5, 77),)},
            lambda r: r.taken_s[::100].size > 9 and np.diff(r.taken_s)[99::100].max() > 70 * 2e-4,
        ),
        ({"noise_w": 0.5}, lambda r: r.trace.power_w.min() < -0.5),
        (
            {"held": 4, "noise_w": 0.01},
            lambda r: 0.7 < (np.diff(r.trace.power_w) == 0).mean() < 0.8,
        ),
        ({"repeated": 0.1, "burst": 9}, lambda r: 0.05 < (np.diff(r.taken_s) < 0).mean() * 9 < 0.2),
        ({"backward": 0.1, "burst": 9}, lambda r: np.diff(r.trace.time_s).min() < -5e-4),
        ({"set_back": ((0.5, 0.2),)}, lambda r: (np.diff(r.trace.time_s) < -0.19).sum() == 1),
        ({"quantum_a": 0.05}, lambda r: np.unique(r.trace.current_a).size < 40),
        ({"jumps": 3}, lambda r: (np.abs(r.trace.power_w) > JUMP_W / 2).sum() == 3),
        ({"period_s": 1e-2}, lambda r: np.median(np.diff(r.trace.time_s)) == pytest.approx(1e-2)),
    ],
)
def test_each_fault_is_seen_in_the_trace(fields, seen):
    clean = simulate(seed=2, inferences=100, monitor=flawless())
    assert seen(simulate(seed=2, inferences=100, monitor=flawless(**fields)))
    assert not seen(clean)


def test_snapshots_are_noisier_than_means():
    mean, snapshot = (
        simulate(seed=2, inferences=200, monitor=flawless(aperture=a)).trace for a in (1.0, 0.01)
    )
    assert np.diff(snapshot.power_w).std() > 1.05 * np.diff(mean.power_w).std()


def test_gain_and_additive_error_are_drawn_from_the_meter():
    meter = replace(FLAWLESS.meter, gain_u=0.01, offset_u_w=0.02)
    runs = [simulate(seed=s, inferences=1, monitor=flawless(meter=meter)) for s in range(200)]
    z = np.array([(run.gain / 0.01, run.error_w / 0.02) for run in runs])
    assert np.abs(z.mean(axis=0)).max() < 0.3
    assert np.abs(z.std(axis=0) - 1).max() < 0.2
    clean = simulate(seed=5, inferences=1, monitor=flawless()).trace.power_w
    power_w = clean * (1 + runs[5].gain) + runs[5].error_w
    np.testing.assert_allclose(runs[5].trace.power_w, power_w, atol=1e-4)


def test_clips_at_the_meters_range():
    run = simulate(monitor=flawless(meter=replace(FLAWLESS.meter, range_w=2.0)), inferences=50)
    assert run.trace.power_w.max() == pytest.approx(2.0, abs=1e-6)
    assert (run.trace.power_w > 1.999).sum() > 10


def test_clock_of_the_log_drifts():
    slow, fast = (simulate(monitor=flawless(drift=d), inferences=200) for d in (0.0, 1e-2))
    np.testing.assert_allclose(fast.marks.end_s * 1.01, slow.marks.end_s, atol=2e-6)
    moved = fast.marks.on(fast.trace, fast.monitor.offset_s, fast.monitor.drift)
    np.testing.assert_allclose(moved.start_s, fast.truth["start_s"], atol=1e-9)


def test_windows_of_several_inferences():
    run = simulate(inferences=50, phone=Phone(log_every=20))
    assert run.marks.count.tolist() == [20, 20, 10]
    alone = simulate(inferences=50)
    span = alone.truth["end_s"].iloc[19] - alone.truth["start_s"].iloc[0]
    assert run.marks.end_s[0] - run.marks.start_s[0] == pytest.approx(span, abs=2e-6)
    assert run.truth["energy_j"].sum() > alone.truth["energy_j"].sum()


def test_sync_pulse_is_in_power_and_marks():
    run = simulate(seed=1, inferences=20, phone=Phone(sync=True), monitor=flawless())
    busy_s = 2 * sum(SYNC_CHIPS) * SYNC_CHIP_S
    assert np.diff(run.marks.sync_s).sum() == pytest.approx(busy_s, abs=2e-6)
    for start_s, end_s in run.marks.on(run.trace).sync_s:
        inside = (run.taken_s > start_s + 2e-4) & (run.taken_s < end_s - 2e-4)
        power_w = run.trace.power_w[inside]
        np.testing.assert_allclose(power_w, run.phone.idle_w + run.phone.sync_w, atol=0.01)


def test_broken_rows_and_a_cut_file_are_in_the_file_only(tmp_path):
    run = simulate(inferences=3, monitor=Monitor(broken_rows=2))
    with pytest.raises(EdgeError, match=r"no number|NaN"):
        read_trace(run.write(tmp_path)[0])
    whole = simulate(inferences=3).write(tmp_path / "whole")[0].read_bytes()
    cut = simulate(inferences=3, monitor=Monitor(cut=True)).write(tmp_path / "cut")[0].read_bytes()
    assert whole.startswith(cut)
    assert "torn_last_line" in read_trace(tmp_path / "cut" / "simulated_power.csv").flags


def test_tile_steps_and_a_cache_cliff():
    def seconds(channels=8, moved=1e4, phone=None):
        one = Workload("one", (1e4 * channels,), (moved,), (channels,))
        return kernel_times(one, phone or Phone(), 2e9)[1][0]

    by_channels = np.array([seconds(c) for c in range(1, 33)])
    steps = np.flatnonzero(np.diff(by_channels) > 1e-12) + 1
    assert steps.tolist() == [8, 16, 24]
    assert seconds(9, phone=Phone(tile=1)) < seconds(9)
    inside, outside = seconds(moved=448e3), seconds(moved=449e3)
    assert inside < outside < 0.2 * seconds(moved=4.49e6)


def test_more_work_costs_more_and_heat_slows_down():
    light = Workload("light", macs=(1e6,), moved_bytes=(1e5,))
    heavy = Workload("heavy", macs=(5e7,), moved_bytes=(1e5,))
    energy = [simulate(inferences=20, workload=w).mean_energy_j for w in (light, heavy)]
    assert energy[1] > 10 * energy[0]
    hot = simulate(inferences=300, phone=Phone(heat_s=0.2, throttle_c=35.0)).truth
    assert hot["frequency_hz"].iloc[-50:].mean() < hot["frequency_hz"].max()
    assert hot["temperature_c"].max() > 35
    assert simulate(inferences=9, phone=Phone(ramp_s=0)).truth["frequency_hz"].min() == 2.6e9
    twice = SMALL_NETWORK.times(2)
    assert sum(twice.macs) == 2 * sum(SMALL_NETWORK.macs)


def test_slow_noise_makes_neighbours_alike():
    def likeness(slow_noise):
        phone = Phone(ramp_s=0, heat_k_per_w=0, noise=1e-3, slow_noise=slow_noise)
        energy = simulate(phone=phone, monitor=flawless()).truth["energy_j"]
        return energy.autocorr(3)

    assert abs(likeness(0.0)) < 0.15
    assert likeness(0.02) > 0.6


def test_recordings_begin_at_a_fixed_time():
    trace = simulate(inferences=1, monitor=flawless()).trace
    assert trace.epoch_us == pytest.approx(EPOCH_US, abs=1000)


def test_no_inference_is_refused():
    with pytest.raises(EdgeError, match="inferences is 0, expected 1 or more"):
        simulate(inferences=0)
