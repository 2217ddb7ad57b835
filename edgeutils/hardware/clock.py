"""Clocks: when a sample was taken, and how far the device's clock is from the monitor's.

A monitor samples evenly; what it writes down is when a USB packet arrived. The samples of one
packet arrive together, so only the last of each burst has a stamp close to its own time.
Between those stamps the samples are counted, and counting gives back the even clock. A meter
that is polled needs none of this: its stamps are the times at which it was read.
"""

from dataclasses import dataclass, replace

import numpy as np

from edgeutils import EdgeError
from edgeutils.hardware.arrivals import (
    LEAST_LOSS,
    LEAST_SIGMA,
    common_slope,
    floors,
    frequent_losses,
    lower_slope,
    one_sided,
    robust_sd,
    segments,
    shortest_period,
)
from edgeutils.hardware.offset import SYNC_CHIP_S, SYNC_CHIPS, OffsetEstimate, estimate_offset
from edgeutils.hardware.trace import Floats, Ints, PowerTrace

__all__ = [
    "SYNC_CHIPS",
    "SYNC_CHIP_S",
    "ClockReport",
    "OffsetEstimate",
    "estimate_offset",
    "rebuild_clock",
]

#: Stamps are bursts where a quarter of the steps is shorter than the mean step by this factor.
_BURSTY = 20
_FEWEST_BURSTS = 4
#: A wait between two bursts is shorter than this, s; the longest seen on a Monsoon is 0.21 s.
_LONGEST_WAIT_S = 0.5
#: Length of the stretches from which the period is taken first, bursts.
_SHORT_BURSTS = (2, 4, 8, 16)
#: Periods from one burst to the next and over all that differ by so many errors, and by this
#: share: losses are many.
_OFTEN_SIGMA = 5
_OFTEN = 2e-3
#: Steps that are looked at to tell what kind of stamps they are.
_DRAWN = 100_000
#: Stamps that go back for good by more than this are those of another recording, s.
_JOINED_S = 1.0
#: Bursts over which the wander of the two quartz clocks is averaged, and where it is believed.
_WANDER_BURSTS = 100
_WANDER_SIGMA = 8
#: Rows that are alike by stamp and power, over what chance explains, from which they are repeats.
_REPEATS = 10
#: Standard deviation of the steps, over their mean, from which single stamps can be taken to be
#: late; steps for that at least; and stamps of which the clock is made at most.
_DELAYED = 0.25
_FEWEST_ALONE = 400
_MOST_ALONE = 1_000_000
_CHUNK = 1 << 20


@dataclass(frozen=True)
class ClockReport:
    """What was found while the clock was rebuilt."""

    period_s: float  # time between two samples by the host's clock, s
    lost_samples: int  # that never arrived, by the lasting shifts of the arrival times
    jitter_s: float  # robust standard deviation of the arrival of bursts, or of the steps, s
    bursts: int  # groups of samples that arrived together; 0: the stamps were kept, not rebuilt
    longest_wait_s: float  # longest time without any arrival, s
    gaps: tuple[tuple[float, int], ...]  # (time of the first sample after it, s; samples lost)
    repeated_samples: int = 0  # rows that were there twice and were left out
    backward_stamps: int = 0  # stamps before that of the row above
    set_back_s: float = 0.0  # how far the host's clock was set back on the way, in all, s


def rebuild_clock(trace: PowerTrace) -> tuple[PowerTrace, ClockReport]:
    r"""Put the samples of a trace on the clock by which they were taken.

    Samples that came in bursts were taken evenly. The last sample of burst j, number
    :math:`k_j`, arrives at :math:`a_j = o_{s(j)} + T k_j + \epsilon_j`. The period T is common;
    the intercept o changes only where samples were lost, which shows as a shift of
    :math:`a_j - T k_j` that lasts. As no sample arrives before it was taken, a shift that is
    undone later was lateness, not loss. Samples are lost as a whole, so that the intercepts differ
    by multiples of T, and one line goes through all segments: the one under all arrivals where
    lateness has a floor, else the trimmed common slope. What the two quartz clocks wander in
    minutes is followed where it is clear. Stamps of single samples, each late by itself, are
    bursts of one.

    Stamps that are no bursts (even, or of a meter that was polled) are the samples' own times and
    are kept; single ones that run backwards are put between their neighbours.

    Rows that are there twice are left out, else the trace comes back with the same samples and
    epoch, and `time_s` rising (the first samples of a burst were taken before the first arrival,
    hence before zero), beside the report.

    Raises
    ------
    EdgeError
        Fewer than 4 bursts: nothing to fit. Stamps that go back by more than a second for good:
        two recordings in one file.
    """
    steps = np.diff(trace.time_s)
    bursty_s = _bursty(trace.time_s, steps)
    trace, repeated = _without_repeats(trace, steps, bursty_s)
    if repeated:
        steps = np.diff(trace.time_s)
    if bursty_s is not None:
        found = _counted(trace, steps, _ends(steps, bursty_s))
    elif _delayed(steps):
        found = _counted(trace, steps, np.arange(0, steps.size + 1, 1 + steps.size // _MOST_ALONE))
    else:
        found = _kept(trace, steps)
    report = replace(found[1], repeated_samples=repeated, backward_stamps=int((steps < 0).sum()))
    return found[0], report


def _bursty(time_s: Floats, steps: Floats) -> float | None:
    """Mean time between two samples, s, if they came in bursts; None if their stamps are true."""
    small = float(np.quantile(_some(steps), 0.25))
    # Long gaps touch only some of the windows, each a quarter of the trace.
    window = max(steps.size // 4, 1)
    first = np.arange(0, time_s.size - window, max((time_s.size - window) // 1000, 1))
    mean_s = float(np.median(time_s[first + window] - time_s[first])) / window
    bursts = 1 + int((steps > _BURSTY * max(small, 0) + 1e-9).sum())
    if bursts < _FEWEST_BURSTS:
        if 1 < bursts < steps.size and _BURSTY * small < np.mean(steps) < _LONGEST_WAIT_S / bursts:
            raise EdgeError(
                f"rebuilding the clock needs {_FEWEST_BURSTS} bursts of samples or more, this "
                f"trace has {bursts}; record for longer"
            )
        return None
    return mean_s if mean_s > 0 and small < mean_s / _BURSTY else None


def _some(steps: Floats) -> Floats:
    """Return all steps, or of very many a random part."""
    if steps.size <= _DRAWN:
        return steps
    return steps[np.random.default_rng(0).integers(0, steps.size, _DRAWN)]


def _without_repeats(
    trace: PowerTrace, steps: Floats, bursty_s: float | None
) -> tuple[PowerTrace, int]:
    """Trace without rows, and without bursts, that are those before once more; and their number."""
    power = trace.power_w
    alike = power[1:] == power[:-1]
    twice = np.flatnonzero(alike & (steps == 0)) + 1
    if bursty_s is not None:
        # Within a burst stamps are often alike: equal rows must be more than chance explains.
        expected = np.count_nonzero(alike & (steps > 0)) / max(np.count_nonzero(steps > 0), 1)
        if twice.size < _REPEATS * (1 + expected * np.count_nonzero(steps == 0)):
            twice = twice[:0]
        edges = np.hstack([0, np.flatnonzero(np.abs(steps) > bursty_s / 2) + 1, power.size])
        size = np.diff(edges)
        again = (size[1:] == size[:-1]) & (power[edges[2:] - 1] == power[edges[1:-1] - 1])
        for burst in np.flatnonzero(again) + 1:
            here = power[edges[burst] : edges[burst + 1]]
            before = power[edges[burst - 1] : edges[burst]]
            if np.ptp(here) > 0 and np.array_equal(here, before):
                twice = np.union1d(twice, np.arange(edges[burst], edges[burst + 1]))
    if not twice.size:
        return trace, 0
    keep = np.ones(power.size, dtype=bool)
    keep[twice] = False
    return trace.only(keep), int(twice.size)


def _kept(trace: PowerTrace, steps: Floats) -> tuple[PowerTrace, ClockReport]:
    """Keep stamps that are the samples' own times, put in order."""
    some = _some(steps)
    usual = float(np.median(some))
    if usual <= 0:
        raise EdgeError(
            f"half of the {steps.size + 1} stamps do not advance, expected times of samples; "
            "check the column that holds the time"
        )
    jitter_s = robust_sd(some)
    set_back_s = 0.0
    longest_wait_s = float(steps.max())
    if steps.min() < 0:
        time_s, set_back_s = _in_order(trace.time_s, usual)
        trace, steps = replace(trace, time_s=time_s), np.diff(time_s)
    late = np.flatnonzero(steps > max(1.5 * usual, usual + LEAST_SIGMA * jitter_s))
    # A reading that came late makes the next step shorter, a loss does not.
    late = late[steps[late] + steps[np.minimum(late + 1, steps.size - 1)] > 2.5 * usual]
    if late.size > _FEWEST_BURSTS and np.std(np.diff(late)) < np.mean(np.diff(late)) / 2:
        late = late[:0]  # at even distances: no loss, but stamps of few digits
    period = float((steps.sum() - steps[late].sum()) / max(steps.size - late.size, 1))
    lost = np.round(steps[late] / period).astype(int) - 1
    return trace, ClockReport(
        period_s=period,
        lost_samples=int(lost.sum()),
        jitter_s=jitter_s,
        bursts=0,
        longest_wait_s=longest_wait_s,
        gaps=tuple((float(trace.time_s[i + 1]), int(n)) for i, n in zip(late, lost, strict=True)),
        set_back_s=set_back_s,
    )


def _in_order(time_s: Floats, usual: float) -> tuple[Floats, float]:
    """Stamps without those that run backwards; and how far the clock was set back for good, s."""
    time_s, set_back_s = time_s.copy(), 0.0
    late = time_s > np.minimum.accumulate(time_s[::-1])[::-1]
    early = time_s < np.maximum.accumulate(time_s)
    edges = np.flatnonzero(np.diff(np.hstack([False, late | early, False])))
    wrong = np.zeros(time_s.size, dtype=bool)
    for low, high in zip(edges[::2], edges[1::2], strict=True):
        part = slice(low, high)
        few = min((late[part], early[part]), key=np.count_nonzero)
        if high - low <= 3 or np.count_nonzero(few) <= (high - low) / 4:
            wrong[part] = few if high - low > 3 else True
            continue
        turn = low + int(np.argmin(np.diff(time_s[part])))
        back_s = float(time_s[turn] - time_s[turn + 1])
        _not_joined(back_s, max(_JOINED_S, 10 * usual))
        time_s[: turn + 1] -= back_s + usual
        set_back_s += back_s + usual
    number = np.arange(time_s.size)
    time_s[wrong] = np.interp(number[wrong], number[~wrong], time_s[~wrong])
    return np.maximum.accumulate(time_s), set_back_s


def _not_joined(back_s: float, most_s: float) -> None:
    if back_s > most_s:
        raise EdgeError(
            f"the stamps go back by {back_s:.3g} s and stay there, expected {most_s:.3g} s at "
            "most; split the file where the second recording begins"
        )


def _delayed(steps: Floats) -> bool:
    """Whether each stamp is late by itself: a long step is then made up for by the next."""
    if steps.size < _FEWEST_ALONE:
        return False
    some = steps[:_DRAWN]
    usual = np.mean(np.clip(some, 0, 4 * np.median(some)))
    some = np.clip(some, 0, 4 * usual) - usual
    return bool(some.std() > _DELAYED * usual and some[1:] @ some[:-1] < -0.2 * (some @ some))


def _ends(steps: Floats, bursty_s: float) -> Ints:
    """Return the last sample of each burst."""
    last = np.append(np.flatnonzero(steps > bursty_s / 2), steps.size)
    # Beside a stamp that runs backwards no burst ends.
    last = last[(steps[last - 1] >= 0) & (steps[np.minimum(last + 1, steps.size - 1)] >= 0)]
    if last.size < _FEWEST_BURSTS:
        raise EdgeError(
            f"rebuilding the clock needs {_FEWEST_BURSTS} bursts of samples or more, this trace "
            f"has {last.size}; record for longer"
        )
    return last


def _counted(trace: PowerTrace, steps: Floats, last: Ints) -> tuple[PowerTrace, ClockReport]:
    """Rebuild the even clock of samples that came late; `last` are those least so."""
    arrival = trace.time_s[last]
    segment, first = np.zeros(last.size, dtype=np.int64), last[:0]
    median = np.zeros(1)
    for lag in _SHORT_BURSTS:
        period, u_s = shortest_period(last, arrival - median[segment], min(lag, last.size // 3))
        first, segment, median = segments(last, arrival, period)
    slope = common_slope(last, arrival, segment)
    # Losses too small to be seen bend the common slope; short stretches between do not.
    if abs(slope - period) < 3 * u_s:
        period = slope
        first, segment, median = segments(last, arrival, period)
    near, near_u_s = shortest_period(last, arrival, 1)
    grouped = int(np.median(np.diff(last))) > 2 * LEAST_LOSS
    if grouped and abs(period - near) > max(_OFTEN_SIGMA * near_u_s, _OFTEN * near):
        first, segment, median, period = frequent_losses(last, arrival, near)
    intercept = np.minimum.accumulate(median[::-1])[::-1]
    _not_joined(float((median - intercept).max()), _JOINED_S)
    set_back_s = float(median[0] - intercept[0])
    # Samples are lost as a whole, so that one line goes through all segments.
    even = arrival - (median - intercept)[segment]
    size = np.bincount(segment)[segment]
    floor = one_sided(arrival - period * last - median[segment])
    floor &= last.size < _FEWEST_BURSTS * _WANDER_BURSTS
    # Beside a loss a packet that came late is easily taken for one from after it.
    inner = np.ones(last.size, dtype=bool)
    if first.size < last.size / 10:
        inner[np.clip(first[:, None] + np.arange(-2, 2), 0, last.size - 1)] = False
    if floor:
        long = inner & (size == size.max())
        period += lower_slope(last[long], (arrival - period * last)[long])
        intercept = floors(even - period * last, first)
        intercept = np.minimum.accumulate(intercept[::-1])[::-1]
    before = np.round((intercept - intercept[np.argmax(np.bincount(segment))]) / period)
    counted = last + before[segment]
    # Of a short segment the number of samples lost may be wrong by one.
    long = inner & (size > size.max() / 4)
    if floor:
        period += lower_slope(counted[long], (even - period * counted)[long])
    intercept = np.median((even - period * counted)[long]) + period * before
    begin = last[first - 1] + 1
    time_s = _fill(trace.time_s.size, period, begin, intercept)
    spread = arrival - period * last
    spread -= np.array([np.median(part) for part in np.split(spread, first)])[segment]
    spread = spread - _wander(time_s, last, spread)
    lost = np.diff(before).astype(int)
    gaps = zip(begin[lost > 0], lost[lost > 0], strict=True)
    report = ClockReport(
        period_s=period,
        lost_samples=int(lost.sum()),
        jitter_s=robust_sd(spread),
        bursts=int(last.size),
        longest_wait_s=float(steps.max()),
        gaps=tuple((float(time_s[b]), int(n)) for b, n in gaps),
        set_back_s=set_back_s if set_back_s > LEAST_LOSS * period else 0.0,
    )
    return replace(trace, time_s=time_s), report


def _fill(size: int, period: float, begin: Ints, intercept: Floats) -> Floats:
    """Return the times of all samples: a common period, an intercept for each segment."""
    time_s = np.arange(size, dtype=np.float64)
    time_s *= period
    edges = [0, *begin, size]
    for low, high, start_s in zip(edges[:-1], edges[1:], intercept, strict=True):
        time_s[low:high] += start_s
    return time_s


def _wander(time_s: Floats, last: Ints, spread: Floats) -> Floats:
    """Add to `time_s` what arrivals wander beyond their jitter; and return it for each burst."""
    blocks = last.size // _WANDER_BURSTS
    none = np.zeros(last.size)
    if blocks < _FEWEST_BURSTS:
        return none
    edges = np.linspace(0, last.size, blocks + 1).astype(int)[1:-1]
    level_s = np.array([np.median(part) for part in np.split(spread, edges)])
    jitter_s = np.median([robust_sd(part) for part in np.split(spread, edges)])
    if np.ptp(level_s) < _WANDER_SIGMA * jitter_s / np.sqrt(_WANDER_BURSTS):
        return none
    middle = np.array([np.mean(part) for part in np.split(last, edges)])
    # Half a block is left at either end: the wander goes on there as between the first two.
    level_s = np.hstack(
        [1.5 * level_s[0] - 0.5 * level_s[1], level_s, 1.5 * level_s[-1] - 0.5 * level_s[-2]]
    )
    middle = np.hstack([0, middle, time_s.size])
    for low in range(0, time_s.size, _CHUNK):
        part = time_s[low : low + _CHUNK]
        part += np.interp(np.arange(low, low + part.size), middle, level_s)
    return np.interp(last, middle, level_s)
