"""Samples that are not what the device drew: absurd jumps, readings held, clipping."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgeutils.hardware.trace import Floats, Ints, PowerTrace

#: A sample beyond so many times the 99.9th percentile, on its own or as one of two, is absurd:
#: a wrong bit in a packet. If more than one in a thousand is, then they are no such faults.
_ABSURD = 10.0
_RARE = 1e-3
#: Share of the changes that must fall on every k-th sample for readings held k samples long.
_REGULAR = 0.9
#: Equal samples at the very top, against those at the next value below, that tell clipping.
_PILE = 10
_LEAST_PILE = 5
_DRAWN = 100_000


def mend_samples(trace: PowerTrace) -> PowerTrace:
    """Repair samples whose power cannot be what was drawn; flags say what was found.

    The trace has a rebuilt clock. `absurd_jumps`: one or two samples beyond ten times all others
    are replaced by the line between their neighbours. `held_readings`: every reading is there k
    times, as the sensor is slower than the recording: one of each is left, in the middle of its
    time. `clipped`: samples pile up at the largest value, or at the meter's range; this cannot be
    repaired, and the energy is too low.
    """
    trace = _without_jumps(trace)
    held = _held(trace.power_w)
    if held is not None:
        first, last = held
        middle_s = (trace.time_s[first] + trace.time_s[last]) / 2
        flags = (*trace.flags, "held_readings")
        trace = replace(trace.only(first), time_s=middle_s, flags=flags)
    top_w = trace.meter.range_w * (1 - 1e-3)
    at_range = np.isfinite(top_w) and int((trace.power_w >= top_w).sum()) >= _LEAST_PILE
    if at_range or _piles_up(trace.power_w if trace.current_a is None else trace.current_a):
        trace = replace(trace, flags=(*trace.flags, "clipped"))
    return trace


def _without_jumps(trace: PowerTrace) -> PowerTrace:
    power_w = trace.power_w
    drawn = np.abs(power_w[:: max(power_w.size // _DRAWN, 1)])
    limit_w = _ABSURD * float(np.quantile(drawn, 1 - _RARE))
    bad = np.flatnonzero((power_w > limit_w) | (power_w < -limit_w))
    long = bad.size > 2 and bool((bad[2:] - bad[:-2] == 2).any())
    if not bad.size or long or bad.size > max(_RARE * power_w.size, 1) or limit_w == 0:
        return trace
    near = np.setdiff1d(np.clip(bad[:, None] + np.arange(-3, 4), 0, power_w.size - 1), bad)
    mended = power_w.copy()
    mended[bad] = np.interp(bad, near, power_w[near])
    return replace(trace, power_w=mended, flags=(*trace.flags, "absurd_jumps"))


def _held(power_w: Floats) -> tuple[Ints, Ints] | None:
    """First and last sample of each reading, if every reading is there k > 1 times."""
    changes = np.flatnonzero(power_w[1:] != power_w[:-1]) + 1
    if not 2 * _LEAST_PILE < changes.size <= power_w.size / 2:
        return None
    lengths = np.diff(changes)
    times = int(np.bincount(lengths).argmax())
    phases = np.bincount(changes % times)
    # Readings that happen to be equal last a multiple, which must stay the exception.
    usual = (lengths == times).mean() > 0.5
    if times < 2 or not usual or phases.max() < _REGULAR * changes.size:
        return None
    first = np.arange(phases.argmax(), power_w.size, times)
    return first, np.minimum(first + times, power_w.size) - 1


def _piles_up(values: NDArray[np.floating]) -> bool:
    """Whether far more samples have the largest value than the one below it."""
    top = values.max()
    at_top = int((values == top).sum())
    if at_top < _LEAST_PILE or np.unique(values[:: max(values.size // _DRAWN, 1)]).size < 50:
        return False
    below = values[values < top]
    return bool(at_top > _PILE * (below == below.max()).sum())
