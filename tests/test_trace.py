from dataclasses import replace

import numpy as np
import pytest

from edgeutils import EdgeError
from edgeutils.hardware.trace import Marks, MeterSpec, PowerTrace

TIME_S = np.arange(5) / 1000
GOOD = PowerTrace(TIME_S, np.full(5, 2.0), MeterSpec("m"))


def test_arrays_that_are_no_trace_are_refused():
    time_s = np.arange(3.0)
    with pytest.raises(EdgeError, match=r"power_w has shape \(2,\), time_s \(3,\)"):
        PowerTrace(time_s, np.ones(2), MeterSpec("m"))
    with pytest.raises(EdgeError, match="power_w holds NaN"):
        PowerTrace(time_s, np.array([1, np.nan, 1]), MeterSpec("m"))
    with pytest.raises(EdgeError, match="two samples"):
        PowerTrace(time_s[:1], np.ones(1), MeterSpec("m"))


def test_a_trace_cannot_be_written_to_and_leaves_the_caller_s_array_alone():
    power_w = np.ones(5)
    trace = PowerTrace(TIME_S, power_w, MeterSpec("m"))
    with pytest.raises(ValueError, match="read-only"):
        trace.power_w[0] = 3
    power_w[0] = 2


@pytest.mark.parametrize(
    ("start_s", "end_s", "count", "message"),
    [
        ([], [], [], "no window"),
        ([1.0], [1.0], [1], "do not end after their start"),
        ([1.0], [np.nan], [1], "do not end after their start"),
        ([1.0], [2.0], [0], "count must be 1 or more"),
        ([1.0, 2.0], [2.0], [1, 1], "differ in length"),
    ],
)
def test_windows_that_are_none_are_refused(start_s, end_s, count, message):
    with pytest.raises(EdgeError, match=message):
        Marks(np.array(start_s), np.array(end_s), np.array(count, dtype=int))


def test_gaps_and_period_are_found():
    time_s = np.delete(np.arange(100) / 1000, slice(40, 60))
    trace = PowerTrace(time_s, np.ones(80), MeterSpec("m"))
    assert trace.period_s == pytest.approx(1e-3)
    np.testing.assert_allclose(trace.gaps_s, [[0.039, 0.060]])


def test_marks_move_to_the_monitor_s_clock_with_offset_and_drift():
    trace = replace(GOOD, epoch_us=1_000_000)
    pulse = np.array([[0.0, 0.05]])
    marks = Marks(np.array([0.5, 10.5]), np.array([1.0, 11.0]), np.array([1, 2]), 3_000_000)
    local = replace(marks, sync_s=pulse).on(trace, offset_s=0.25, drift=1e-3)
    np.testing.assert_allclose(local.start_s, [2.75, 12.76])
    np.testing.assert_allclose(local.end_s, [3.2505, 13.2605])
    np.testing.assert_allclose(local.sync_s, [[2.2495, 2.29955]])
    assert (local.epoch_us, local.inferences) == (1_000_000, 3)


@pytest.mark.parametrize(
    ("changed", "flag"),
    [
        ({}, None),
        ({"time_s": TIME_S[[0, 2, 1, 3, 4]]}, "backward_stamps"),
        ({"power_w": np.array([2, 2, -0.1, 2, 2])}, "negative_power"),
        ({"power_w": np.full(5, 2000.0)}, "implausible_power"),
        ({"power_w": np.full(5, 2e-7)}, "implausible_power"),
        ({"meter": MeterSpec("m", range_w=1.0)}, "implausible_power"),
        ({"voltage_v": np.full(5, 4200.0)}, "implausible_power"),
        ({"voltage_v": np.full(5, 0.0042)}, "implausible_power"),
        ({"voltage_v": np.full(5, 4.0), "current_a": np.full(5, 0.5)}, None),
        ({"voltage_v": np.full(5, 4.0), "current_a": np.full(5, 500.0)}, "implausible_power"),
        ({"time_s": TIME_S * 1e-6}, "implausible_time"),
        ({"time_s": TIME_S * 1e8}, "implausible_time"),
        ({"epoch_us": 1756255148138148000}, "implausible_time"),
    ],
)
def test_what_is_odd_is_flagged(changed, flag):
    assert replace(GOOD, **changed).oddities() == ((flag,) if flag else ())
