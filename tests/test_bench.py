import numpy as np
import pytest

from edgeutils import EdgeError
from edgeutils.hardware.bench import Monitor, Phone, Workload, simulate
from edgeutils.hardware.clock import estimate_offset, rebuild_clock
from edgeutils.hardware.energy import naive_windows, summarise, window_energy
from edgeutils.hardware.trace import read_marks, read_monsoon

FAULTS = {
    "default": Monitor(),
    "no loss": Monitor(lost=()),
    "clock behind": Monitor(offset_s=-0.45, lost=((0.2, 40),)),
    "slow clock, late packets": Monitor(period_s=201e-6, jitter_s=4e-4),
    "two gaps": Monitor(lost=((1.2, 200), (1.7, 500))),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_truth_is_recovered_through_the_files(tmp_path, fault, seed):
    run = simulate(seed=seed, monitor=FAULTS[fault])
    power, log = run.write(tmp_path)
    trace, marks = read_monsoon(power), read_marks(log)
    naive = naive_windows(trace, marks)
    rebuilt, report = rebuild_clock(trace)
    offset = estimate_offset(rebuilt, marks)
    windows = window_energy(rebuilt, marks, offset_s=offset.offset_s)
    summary = summarise(rebuilt, marks, offset_s=offset.offset_s)
    seen = windows["energy_j"].notna().to_numpy()
    true_j = run.truth["energy_j"].to_numpy()
    assert summary.mean_energy_j == pytest.approx(true_j[seen].mean(), rel=0.01)
    assert summary.mean_energy_j == pytest.approx(true_j.mean(), rel=0.01)
    assert summary.energy_per_period_j == pytest.approx(run.period_energy_j, rel=0.01)
    assert offset.offset_s == pytest.approx(run.monitor.offset_s, abs=1e-3)
    lost = sum(samples for _, samples in run.monitor.lost)
    assert report.lost_samples == pytest.approx(lost, abs=4)
    assert (naive["samples"] == 0).mean() > 0.85
    assert abs(naive["energy_j"].mean() / true_j.mean() - 1) > 0.05


def test_readers_return_the_simulated_arrays(tmp_path):
    run = simulate(seed=4, inferences=30)
    power, log = run.write(tmp_path)
    trace, marks = read_monsoon(power, meter=run.trace.meter), read_marks(log)
    np.testing.assert_array_equal(trace.time_s, run.trace.time_s)
    np.testing.assert_allclose(trace.power_w, run.trace.power_w, rtol=1e-12)
    np.testing.assert_array_equal(marks.start_s, run.marks.start_s)
    np.testing.assert_array_equal(marks.end_s, run.marks.end_s)
    assert (trace.epoch_us, marks.epoch_us) == (run.trace.epoch_us, run.marks.epoch_us)
    assert run.source == "simulated"
    assert "simulated" in run.trace.meter
    assert "simulated" in power.name


def test_same_seed_same_bytes(tmp_path):
    files = [
        simulate(seed=seed, inferences=30).write(tmp_path / str(n))
        for n, seed in enumerate((7, 7, 8))
    ]
    first, again, other = ([path.read_bytes() for path in paths] for paths in files)
    assert first == again
    assert first[0] != other[0]


def test_the_monitor_has_the_faults_of_the_real_one():
    trace = simulate(seed=0).trace
    step_s = np.diff(trace.time_s)
    assert np.median(step_s) < 3e-6
    assert 0.025 < np.quantile(step_s, 0.999) < 0.035
    assert step_s.max() > 0.06


def test_more_work_costs_more_and_heat_slows_down():
    light = Workload("light", macs=(1e6,), moved_bytes=(1e5,))
    heavy = Workload("heavy", macs=(5e7,), moved_bytes=(1e5,))
    energy = [simulate(inferences=20, workload=w).truth["energy_j"].mean() for w in (light, heavy)]
    assert energy[1] > 10 * energy[0]
    hot = simulate(inferences=300, phone=Phone(heat_s=0.2, throttle_c=35.0)).truth
    assert hot["frequency_hz"].iloc[-50:].mean() < hot["frequency_hz"].max()
    assert hot["temperature_c"].max() > 35


def test_no_inference_is_refused():
    with pytest.raises(EdgeError, match="inferences is 0, expected 1 or more"):
        simulate(inferences=0)
