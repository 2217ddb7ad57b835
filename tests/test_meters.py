"""Live meters, on imitations: no test here has seen a real RAPL, GPU, gauge, INA, Pi or Monsoon."""

import itertools
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import meter_stand_ins as stand_in
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from edgeutils import EdgeError
from edgeutils.hardware import commands, doctor, sensors, stamps
from edgeutils.hardware.clock import rebuild_clock
from edgeutils.hardware.energy import window_energy
from edgeutils.hardware.meters import (
    Meter,
    MeterError,
    Replay,
    record,
    update_period,
    write_trace,
)
from edgeutils.hardware.readers import read_trace
from edgeutils.hardware.sensors import open_meter, status, survey
from edgeutils.hardware.trace import Marks, MeterSpec, PowerTrace

SPEC = MeterSpec("imitation")
NAMES = ["powercap", "nvml", "nvml-power", "battery", "hwmon", "pmic", "monsoon"]


def planted(seconds=4.0, hertz=1000.0, seed=0):
    """Idle at 1 W, five bursts of 5 W that last 0.3 s; marks and the energy of each burst."""
    time_s = (np.arange(int(seconds * hertz)) + 0.5) / hertz
    start_s = 0.4 + 0.7 * np.arange(5)
    busy = ((time_s[:, None] >= start_s) & (time_s[:, None] < start_s + 0.3)).any(axis=1)
    power_w = 1.0 + 4.0 * busy + 0.01 * np.random.default_rng(seed).standard_normal(time_s.size)
    trace = PowerTrace(time_s, power_w, SPEC, 1_700_000_000_000_000, boundary="battery")
    marks = Marks(start_s, start_s + 0.3, np.ones(5, dtype=np.int64), trace.epoch_us)
    return trace, marks


def ratio(again, trace):
    """Energy of a recording over that of the original during the same time."""
    begin_s, end_s = again.time_s[[0, -1]] + np.array([-0.5, 0.5]) * again.period_s
    shift_s = (again.epoch_us - trace.epoch_us) / 1e6
    edges_s = np.arange(trace.time_s.size + 1) * trace.period_s
    until_j = np.hstack([0, np.cumsum(trace.power_w * trace.period_s)])
    truth_j = np.diff(np.interp([begin_s + shift_s, end_s + shift_s], edges_s, until_j))[0]
    return float(again.power_w.sum() * again.period_s / truth_j)


def gauge(sample, name="gauge"):
    return Meter(name, "none", SPEC, False, sample)


def counter(sample, name="counter"):
    return Meter(name, "none", SPEC, True, sample)


def rising(by):
    """A sample that grows by as much at each reading."""
    numbers = itertools.count(1)
    return lambda: float(by * next(numbers))


def recorded(meter, hertz, seconds=None):
    with record(meter, hertz) as recording:
        recording.wait(seconds)
    return recording


class Source:
    """A device whose power the test sets; its counter is always up to date."""

    def __init__(self, power_w=1.0):
        self._power_w, self._energy_j, self._at = power_w, 0.0, time.monotonic()
        self._lock = threading.Lock()

    def energy_j(self, power_w=None):
        """Energy until now; from now on the power is another, if one is given."""
        with self._lock:
            now = time.monotonic()
            self._energy_j += self._power_w * (now - self._at)
            self._at, self._power_w = now, self._power_w if power_w is None else power_w
            return self._energy_j


class Clock:
    """Time that passes only when it is asked for: 100 us, now and then 3 ms as when held up."""

    def __init__(self, seed=0):
        self._now_ns, self._rng = 10**12, np.random.default_rng(seed)

    def monotonic_ns(self):
        self._now_ns += 100_000 if self._rng.random() < 0.999 else 3_000_000
        return self._now_ns

    def monotonic(self):
        return self._now_ns / 1e9


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("edgeutils.hardware.meters.time", clock)
    return clock


@pytest.fixture
def sysfs(tmp_path):
    return tmp_path / "sys"


@pytest.fixture
def have(sysfs, tmp_path, monkeypatch):
    """Put a stand-in of some hardware into the machine: have("nvml", gpus=1)."""

    def install(kind, **options):
        place = {"vcgencmd": tmp_path, "nvml": monkeypatch, "monsoon": monkeypatch}.get(kind, sysfs)
        found = getattr(stand_in, kind)(place, **options)
        if kind == "vcgencmd":
            monkeypatch.setenv("PATH", found, prepend=os.pathsep)
        return found

    return install


# --- the clock ------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [str(stamps.monotonic_epoch_us()), "123"], ids=["own", "given"])
def test_a_child_inherits_the_place_of_the_monotonic_clock(given):
    done = subprocess.run(
        [sys.executable, "-c", f"import {stamps.__name__} as s; print(s.monotonic_epoch_us())"],
        env={**os.environ, stamps.EPOCH_VARIABLE: given},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == given


def test_monotonic_stamps_are_placed_in_1970(monkeypatch):
    now_us = stamps.monotonic_epoch_us() + time.monotonic_ns() // 1000
    assert abs(now_us - time.time_ns() // 1000) < 1e6
    monkeypatch.setenv(stamps.EPOCH_VARIABLE, "noon")
    with pytest.raises(EdgeError, match="whole microseconds"):
        stamps.monotonic_epoch_us.__wrapped__()


def test_marks_of_the_same_process_need_no_offset():
    device, spans_s = Source(), []
    with record(counter(device.energy_j), 500) as recording:
        for _ in range(4):
            time.sleep(0.05)
            begin_s = time.monotonic()
            device.energy_j(9.0)
            time.sleep(0.1)
            device.energy_j(1.0)
            spans_s.append((begin_s, time.monotonic()))
    start_s, end_s = np.transpose(spans_s)
    count, epoch_us = np.ones(4, dtype=np.int64), stamps.monotonic_epoch_us()
    marks = Marks(start_s, end_s, count, epoch_us, same_clock=True)
    windows = window_energy(recording.trace(), marks)
    assert windows["energy_j"].sum() == pytest.approx(9.0 * (end_s - start_s).sum(), rel=0.1)


# --- recording ------------------------------------------------------------------------------


def test_replayed_counter_gives_back_energy_epoch_and_windows():
    trace, marks = planted()
    again = recorded(Replay(trace, speed=8), 500).trace()
    assert ratio(again, trace) == pytest.approx(1, abs=1e-3)
    assert np.ptp(again.time_s) == pytest.approx(4.0, abs=0.2)
    assert (again.boundary, again.meter) == ("battery", SPEC)
    # The marks of the original fit.
    shift_s = (again.epoch_us - marks.epoch_us) / 1e6
    middle_s = again.time_s[:, None] + shift_s
    busy = ((middle_s > marks.start_s) & (middle_s < marks.end_s)).any(axis=1)
    assert np.corrcoef(busy, again.power_w)[0, 1] > 0.8


def test_replayed_gauge_at_real_speed():
    trace, _ = planted(seconds=1.2)
    recording = recorded(Replay(trace, counter=False), 400)
    again = recording.trace()
    sample = np.minimum((again.time_s + 5e-4) * 1e3, trace.time_s.size - 1).astype(int)
    shift = round((again.epoch_us - trace.epoch_us) / 1e3)
    said_w = trace.power_w[np.clip(sample[:, None] + shift + [-1, 0, 1], 0, trace.time_s.size - 1)]
    assert (np.abs(said_w - again.power_w[:, None]).min(axis=1) == 0).all()
    assert abs(np.ptp(again.time_s) - 1.2) < 0.1
    assert len(recording.readings) == again.time_s.size
    assert 0 < recording.cpu_share < 0.9


def test_a_replay_plays_once_and_forwards():
    replay = Replay(planted(seconds=0.1)[0])
    recorded(replay, 400).trace()
    with pytest.raises(EdgeError, match="over; make a new Replay"):
        recorded(replay, 400).trace()
    with pytest.raises(EdgeError, match="speed is 0, expected more than 0"):
        Replay(planted()[0], speed=0)


def test_a_slow_counter_keeps_its_energy_and_is_flagged():
    trace, _ = planted(seconds=3.0)
    again = recorded(Replay(trace, speed=3, update_s=0.05), 400).trace()
    assert "slow_meter" in again.flags
    assert again.period_s == pytest.approx(0.05, rel=0.1)
    # When it moved is known to the half of 7.5 ms, more under load, at either end of 3 s.
    assert ratio(again, trace) == pytest.approx(1, abs=0.03)


def test_steps_of_a_recorded_counter_are_even_whole_microseconds():
    trace = recorded(counter(Source(3.0).energy_j), 300, 0.2).trace()
    assert np.unique(np.diff(np.round(trace.time_s * 1e6).astype(int))).size == 1
    # The source is asked somewhat off the middle of the read.
    assert np.median(trace.power_w) == pytest.approx(3.0, rel=0.02)


@pytest.mark.parametrize("update_s", [0.001, 0.02, 0.1])
def test_update_period_is_found(clock, update_s):
    found = update_period(Replay(planted()[0], update_s=update_s), seconds=2.0)
    assert found.period_s == pytest.approx(update_s, rel=0.02)
    assert found.read_s == pytest.approx(100e-6, rel=0.01)


def test_an_update_to_an_equal_value_hides_no_period(clock):
    values = np.random.default_rng(0).integers(0, 2, 10**6)
    found = update_period(gauge(lambda: float(values[int(clock.monotonic() / 0.01)])), 1.0)
    assert found.period_s == pytest.approx(0.01, rel=0.02)
    assert found.updates < 70


def test_a_meter_that_never_changes_has_no_update_period(clock):
    found = update_period(gauge(lambda: 1.0), seconds=0.01)
    assert (found.period_s, found.updates) == (None, 0)


def test_missed_readings_are_counted():
    def slowly():
        time.sleep(0.01)
        return time.monotonic() % 100

    recording = recorded(gauge(slowly), 1000, 0.3)
    assert recording.missed > 100
    assert "missed_readings" in recording.trace().flags


def test_a_recording_that_runs_gives_no_trace():
    with (
        record(gauge(rising(1)), 100) as recording,
        pytest.raises(EdgeError, match="after the with block"),
    ):
        recording.trace()


def test_an_exception_in_the_block_stops_the_thread():
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError), record(gauge(rising(1)), 100):
        1 / 0  # noqa: B018
    assert threading.active_count() == before


def test_a_meter_that_fails_in_mid_run_says_so():
    values = iter([1.0, 2.0, 3.0])

    def sample():
        for value in values:
            return value
        raise MeterError("gone", "plug it in")

    with pytest.raises(MeterError, match="gone; plug it in"):
        recorded(gauge(sample), 200).trace()


@pytest.mark.parametrize(
    ("meter", "message"),
    [
        (gauge(lambda: 0.0), r"gauge said 0 W in \d+ .* sensor is stuck"),
        (gauge(lambda: 3.3), r"gauge said 3.3 W in \d+ .* sensor is stuck"),
        (gauge(rising(1e6)), "e.06 W, which cannot be"),
        (gauge(lambda: float("nan")), "nan W, which cannot be"),
        (counter(lambda: 5.0), r"counter of counter moved 0 time.* or it is stuck"),
        (counter(rising(-1)), "counter of counter ran backwards; record again"),
        (counter(rising(1e6)), "e.0[78] W, which cannot be"),
    ],
)
def test_readings_that_cannot_be_are_no_trace(monkeypatch, meter, message):
    monkeypatch.setattr("edgeutils.hardware.meters._MOVE_S", 0.1)
    recording = recorded(meter, 100, 0.2)
    with pytest.raises(MeterError, match=message):
        recording.trace()


@pytest.mark.parametrize("hertz", [0, -1, 1e5, float("nan")])
def test_rates_that_cannot_be_are_refused(hertz):
    with pytest.raises(EdgeError, match="expected above 0 and up to 10000"):
        recorded(gauge(rising(1)), hertz, 0)


# --- files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_a_written_recording_reads_back_to_the_last_digit(tmp_path, name):
    trace = recorded(counter(Source(2.0).energy_j), 500, 0.1).trace()
    path = write_trace(tmp_path / "new" / name, trace)
    again = read_trace(path)
    assert again.epoch_us == trace.epoch_us
    np.testing.assert_array_equal(again.power_w, trace.power_w)
    np.testing.assert_array_equal(again.time_s, trace.time_s)
    assert [p.name for p in path.parent.iterdir()] == [name]
    assert (path.read_bytes()[:2] == b"\x1f\x8b") == name.endswith(".gz")


def test_current_and_voltage_are_written_too(tmp_path):
    stamp_us = 1_700_000_000_000_000 + np.array([0, 200, 400])
    trace = PowerTrace.from_stamps(stamp_us, np.array([0.1, 0.2, 0.3]), np.full(3, 4.2), SPEC)
    again = read_trace(write_trace(tmp_path / "t.csv", trace))
    np.testing.assert_allclose(again.power_w, trace.power_w, rtol=1e-7)
    np.testing.assert_allclose(again.current_a, trace.current_a, rtol=1e-6)


# --- what a machine has ---------------------------------------------------------------------

BATTERY = {"current_now": 625_000, "voltage_now": 12_000_000}
MOUSE = {"type": "Battery", "scope": "Device", "status": "Discharging", "power_now": 99}
NO_BOARD = 'error=1 error_msg="Command not registered"\n'


@pytest.mark.parametrize(
    ("kind", "options", "name", "watts_or_joules", "boundary"),
    [
        # Zone number n holds 10**n times 0.1 J: the digits of the sum tell the zones.
        ("powercap", {}, "powercap", 1000.1, "package"),
        ("powercap", {}, "powercap:psys", 10.0**5, "none"),
        ("powercap", {}, "powercap:core", 10001.0, "core_rail"),
        ("powercap", {}, "powercap:dram", 10.0**2, "none"),
        ("nvml", {}, "nvml-power", 50.0, "accelerator"),
        ("battery", {"power_now": 7_500_000}, "battery", 7.5, "battery"),
        ("battery", BATTERY, "battery", 7.5, "battery"),
        ("battery", BATTERY | {"current_now": -625_000}, "battery", 7.5, "battery"),
        ("jetson", {}, "hwmon", 6.0, "board_supply"),
        ("jetson", {}, "hwmon:VDD_SOC", 1.5, "core_rail"),
        ("jetson", {}, "hwmon:VDD_SOC+VDD_CPU_GPU_CV", 3.5, "core_rail"),
        ("ina219", {"in1_input": 5100, "curr1_input": 600}, "hwmon", 3.06, "board_supply"),
        ("ina219", {"in1_input": 5, "power1_input": 3_050_000}, "hwmon", 3.05, "board_supply"),
        ("vcgencmd", {}, "pmic", stand_in.PMIC_W, "core_rail"),
        ("vcgencmd", {}, "pmic:VDD_CORE", 6.22421 * 0.861733, "core_rail"),
    ],
)
def test_a_meter_reads_each_rail_once(
    *, have, sysfs, kind, options, name, watts_or_joules, boundary
):
    have(kind, **options)
    meter = open_meter(name, sysfs=sysfs)
    assert meter.read().value == pytest.approx(watts_or_joules, rel=1e-6)
    assert meter.boundary == boundary
    assert meter.counter == (kind == "powercap")


@pytest.mark.parametrize(
    ("kind", "options", "name", "reason", "cure"),
    [
        (None, {}, "powercap", "no energy counter", "modprobe intel_rapl_msr"),
        ("powercap", {}, "powercap:gpu", "but core, dram, package, psys, uncore", "powercap:NAME"),
        ("powercap", {"intel-rapl:0": "what"}, "powercap", "cannot be read as a number", "restart"),
        ("nvml", {}, "nvml:7", "Invalid Argument", "nvidia-smi -L"),
        ("nvml", {}, "nvml:first", "'first' is no number", "nvidia-smi -L"),
        # Its power is not told in place of its energy.
        ("nvml", {"energy_error": (3, "Not Supported")}, "nvml", "Not Supported", "nvml-power"),
        ("nvml", {"energy_error": (15, "GPU is lost")}, "nvml", "GPU is lost", "restart the comp"),
        ("nvml", {"energy_error": (999, "Unknown")}, "nvml", "Unknown", "update its driver"),
        (None, {}, "battery", "no battery", "outside the computer"),
        ("tree", {"class/power_supply/hid": MOUSE}, "battery", "no battery", "outside"),
        ("battery", {"status": "Charging", "power_now": 10**7}, "battery", "(Charging)", "unplug"),
        ("battery", {"status": "Full", "power_now": 0}, "battery", "(Full)", "unplug"),
        ("battery", {"status": "Not charging"}, "battery", "(Not charging)", "unplug"),
        ("battery", {"online": 1, "power_now": 10**7}, "battery", "(AC)", "unplug the charger"),
        ("battery", {"power_now": 0}, "battery", "0 W while the battery discharges", "wait some"),
        ("battery", {"voltage_now": 10**7}, "battery", "current_now cannot be read", "gauge"),
        ("battery", BATTERY | {"current_now": "many"}, "battery", "read as a number", "gauge"),
        (None, {}, "hwmon", "no current sensor", "modprobe ina3221"),
        ("jetson", {}, "hwmon:VDD_IN+VDD_SOC", "a rail that feeds others", "hwmon:RAIL"),
        ("jetson", {}, "hwmon:VDD_SOC+VDD_SOC", "a rail that feeds others", "hwmon:RAIL"),
        ("jetson", {}, "hwmon:VDD_GPU", "the rails VDD_IN, VDD_CPU_GPU_CV, VDD_SOC", "hwmon:RAIL"),
        # Several rails and no whole.
        ("jetson", {"in1_enable": 0}, "hwmon", "the rails VDD_CPU_GPU_CV, VDD_SOC,", "hwmon:RAIL"),
        ("vcgencmd", {"text": NO_BOARD}, "pmic", "told no currents, but 'error=1", "group video"),
        ("vcgencmd", {"text": "", "code": 255}, "pmic", "told no currents", "group video"),
        ("vcgencmd", {"text": "EXT5V_V volt(24)=5.0V"}, "pmic", "told no currents", "firmware"),
        ("vcgencmd", {}, "pmic:EXT5V", "it has the rails 3V7_WL_SW", "pmic:RAIL"),
        ("monsoon", {"serials": ()}, "monsoon", "no monitor is connected", "udev"),
        # A voltage may destroy what is connected.
        ("monsoon", {}, "monsoon:42", "'42' is no output voltage", "0.8 to 13.5 V"),
        ("monsoon", {}, "monsoon:full", "'full' is no output voltage", "0.8 to 13.5 V"),
        ("monsoon", {}, "monsoon:nan", "'nan' is no output voltage", "0.8 to 13.5 V"),
        ("monsoon", {}, "monsoon:0", "'0' is no output voltage", "0.8 to 13.5 V"),
    ],
)
def test_what_is_wrong_is_named_with_its_cure(*, have, sysfs, kind, options, name, reason, cure):
    if kind:
        have(kind, **options)
    found = status(name, sysfs=sysfs)
    assert not found["available"]
    assert reason in found["reason"]
    assert cure in found["cure"]


@pytest.mark.parametrize(
    ("name", "module", "cure"),
    [
        ("nvml", "pynvml", "pip install nvidia-ml-py"),
        ("monsoon", "Monsoon", "pip install 'edgeutils[monsoon]'"),
    ],
)
def test_without_the_library_the_cure_is_to_install_it(monkeypatch, name, module, cure):
    monkeypatch.setitem(sys.modules, module, None)
    assert cure in status(name)["cure"]


def test_a_counter_that_lacks_permission_names_the_cure(have, sysfs, monkeypatch):
    have("powercap")
    read_text = Path.read_text

    def as_a_user(path, *args, **kwargs):
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return read_text(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", as_a_user)
    found = status("powercap", sysfs=sysfs)
    assert not found["available"]
    assert "energy_uj may not be read by this user" in found["reason"]
    assert "chgrp" in found["cure"]
    assert "udev" in found["cure"]


def test_accuracy_is_that_of_the_instrument_or_unknown(have, sysfs):
    have("powercap")
    assert open_meter("powercap", sysfs=sysfs).spec.gain_u is None
    have("ina219", power1_input=1)
    assert "INA219" in open_meter("hwmon", sysfs=sysfs).spec.name
    have("ina219", name="ina999")
    assert open_meter("hwmon", sysfs=sysfs).spec == MeterSpec("ina999")


def test_each_counter_turns_by_itself(have, sysfs):
    top = 262143328850
    have("powercap", **{"intel-rapl:0": top - 10**6, "intel-rapl:1": 5 * 10**6})
    meter = open_meter("powercap", sysfs=sysfs)
    first = meter.read().value
    for uj in (2 * 10**6, 3 * 10**6, 1 * 10**6):
        (sysfs / "class/powercap/intel-rapl:0/energy_uj").write_text(f"{uj}\n")
        last = meter.read().value
    # 1 J to the top, a second turn after 3 J, and 1 J of the third.
    assert last - first == pytest.approx(1 + top / 1e6 + 1, rel=1e-9)


def test_recording_a_tree_that_lives(have, sysfs):
    have("powercap")
    device, stop = Source(20.0), threading.Event()
    path = sysfs / "class/powercap/intel-rapl:0/energy_uj"

    def live():
        while not stop.wait(0.001):
            path.with_name("new").write_text(f"{int(device.energy_j() * 1e6)}\n")
            path.with_name("new").replace(path)

    thread = threading.Thread(target=live)
    thread.start()
    try:
        trace = recorded(open_meter("powercap", sysfs=sysfs), 100, 0.4).trace()
    finally:
        stop.set()
        thread.join()
    assert trace.boundary == "package"
    assert trace.power_w[1:].mean() == pytest.approx(20.0, rel=0.2)


def test_the_gpus_counter_is_recorded_in_joules(have):
    have("nvml", power_w=lambda: 60.0, update_s=0.05)
    trace = recorded(open_meter("nvml:1"), 250, 0.6).trace()
    assert trace.power_w.mean() == pytest.approx(60.0, rel=0.1)
    assert trace.boundary == "accelerator"
    assert "slow_meter" in trace.flags


def test_plugging_the_charger_in_ends_the_recording(have, sysfs):
    have("battery", power_now=5_000_000)
    with record(open_meter("battery", sysfs=sysfs), 100) as recording:
        recording.wait(0.05)
        (sysfs / "class/power_supply/AC/online").write_text("1\n")
        recording.wait(5.0)
    with pytest.raises(MeterError, match=r"AC.*unplug the charger"):
        recording.trace()


def test_samples_of_a_monsoon_come_in_bursts_on_our_clock(have):
    package = have("monsoon", power_w=lambda t: 2.0 + (t % 0.2 > 0.1))
    begin_us = stamps.monotonic_epoch_us() + time.monotonic_ns() // 1000
    trace = recorded(open_meter("monsoon"), 1.0, 0.5).trace()
    end_us = stamps.monotonic_epoch_us() + time.monotonic_ns() // 1000
    assert package.seen.volts == []  # the output was left alone
    assert package.seen.console is False
    assert trace.power_w.mean() == pytest.approx(2.5, abs=0.2)
    stamp_us = trace.epoch_us + trace.time_s * 1e6
    assert begin_us - 50_000 < stamp_us[0] < stamp_us[-1] < end_us + 50_000
    rebuilt, report = rebuild_clock(trace)
    assert report.period_s == pytest.approx(2e-4, rel=0.05)
    assert "Monsoon" in rebuilt.meter.name
    recorded(open_meter("monsoon:4.2"), 1.0, 0.1)
    assert package.seen.volts == [4.2]


def test_a_monsoon_that_is_lost(have):
    have("monsoon", restart=True)
    with pytest.raises(MeterError, match="disconnected meanwhile"):
        recorded(open_meter("monsoon"), 1.0, 0.1).trace()


# --- doctor ---------------------------------------------------------------------------------


def test_names_are_listed_where_one_is_unknown():
    with pytest.raises(EdgeError, match="unknown meter 'watts'; choose one of powercap, nvml"):
        open_meter("watts")


def test_a_survey_never_raises(sysfs):
    stand_in.tree(
        sysfs,
        {
            "class/powercap/intel-rapl:0/oops": 1,
            "class/power_supply/BAT0/type": "Battery",
            "class/hwmon/hwmon0": {"name": "ina226", "power1_input": "-"},
        },
    )
    (sysfs / "class/power_supply/BAT1").mkdir()
    (sysfs / "class/power_supply/BAT1/type").write_bytes(b"\xff\xfe")
    found = survey(sysfs=sysfs)
    assert [meter["name"] for meter in found] == NAMES
    assert all(meter["reason"] for meter in found)
    assert all(meter["cure"] for meter in found if not meter["available"])


def test_the_doctor_answers_as_agreed(have, sysfs, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setitem(sys.modules, "Monsoon", None)
    have("jetson")
    found = json.loads(json.dumps(doctor.examine(sysfs=sysfs)))
    assert set(found) == {"meters", "runtimes", "python", "platform"}
    for row in found["meters"] + found["runtimes"]:
        assert set(row) == {"name", "available", "reason", "cure"}
    works = {row["name"] for row in found["meters"] if row["available"]}
    assert works == {"hwmon"} | ({"pmic"} & works)


@pytest.mark.parametrize(("factor", "agrees"), [(1.0, True), (1.3, False)])
def test_a_known_load_is_checked_above_what_else_draws_power(factor, agrees):
    device = Source(4.0)

    def switch(on):
        device.energy_j(4.0 + 10.0 * factor * on)

    found = doctor.known_load(counter(device.energy_j), 10.0, switch, seconds=0.5, hertz=100)
    assert found["ratio"] == pytest.approx(factor, rel=0.05)
    assert found["agrees"] is agrees
    assert found["gain_u"] is None


def test_a_load_that_is_off_may_read_zero_and_one_that_is_not_seen_is_named():
    state = {"on": False}
    meter = gauge(lambda: 3.0 * state["on"])
    found = doctor.known_load(meter, 3.0, lambda on: state.update(on=on), seconds=0.1, hertz=100)
    assert found["off_w"] == 0
    assert found["ratio"] == pytest.approx(1.0)
    with pytest.raises(MeterError, match="does not see it; connect the load"):
        doctor.known_load(meter, 3.0, lambda _on: state.update(on=True), seconds=0.1, hertz=100)


def test_the_command_prints_one_value(have, sysfs, monkeypatch):
    app = typer.Typer()
    app.command()(commands.doctor)
    have("jetson")
    monkeypatch.setattr(sensors, "SYSFS", sysfs)
    printed = CliRunner().invoke(app, ["--json"])
    assert printed.exit_code == 0
    assert [row["name"] for row in json.loads(printed.stdout)["meters"]] == NAMES
    plain = CliRunner().invoke(app, ["--meter", "hwmon"])
    assert "powercap" in plain.stdout
    assert "boundary board_supply, period_s unknown" in " ".join(plain.stdout.split())
    refused = CliRunner().invoke(app, ["--known-load", "5"])
    assert isinstance(refused.exception, EdgeError)
    assert "--meter" in str(refused.exception)
