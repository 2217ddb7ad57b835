"""Clocks: when a sample was taken, and how far the device's clock is from the monitor's.

A monitor samples evenly; what it writes down is when a USB packet arrived. The samples of one
packet arrive together, so only the last of each burst has a stamp close to its own time.
Between those stamps the samples are counted, and counting gives back the even clock.
"""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from scipy.ndimage import uniform_filter1d
from scipy.signal import correlate

from edgeutils import EdgeError
from edgeutils.hardware.trace import Floats, Ints, Marks, PowerTrace

#: Bursts on either side whose median tells a lasting shift from a late packet.
_NEIGHBOURS = 5
#: A lasting shift of this many samples or more counts as loss; less drowns in USB jitter.
_LEAST_LOSS = 4
#: Median absolute deviation to standard deviation, for a normal distribution.
_MAD_TO_SD = 1.4826
_BLOCKS = 16
_RESAMPLES = 200
#: Length of the moving mean that is removed before gaps between inferences are looked for, s.
_FINE_S = 3e-3
#: Peak over robust noise from which the gaps are believed.
_FINE_SIGNAL = 6.0
#: Difference of the two offsets that is never worth a flag, s.
_DISPUTE_S = 5e-3


@dataclass(frozen=True)
class ClockReport:
    """What was found while the clock was rebuilt."""

    period_s: float  # time between two samples by the host's clock, s
    lost_samples: int  # that never arrived, by the lasting shifts of the arrival times
    jitter_s: float  # robust standard deviation of the bursts' arrival about the clock, s
    bursts: int  # groups of samples that arrived together
    longest_wait_s: float  # longest time without any arrival, s
    gaps: tuple[tuple[float, int], ...]  # (time of the first sample after it, s; samples lost)


def rebuild_clock(trace: PowerTrace) -> tuple[PowerTrace, ClockReport]:
    r"""Put evenly taken samples back on an even clock.

    The last sample of burst j, number :math:`k_j`, arrives at
    :math:`a_j = o_{s(j)} + T k_j + \epsilon_j`. The period T is common; the intercept o
    changes only where samples were lost, which shows as a shift of :math:`a_j - T k_j` that
    lasts (a late packet comes back). T is the trimmed common slope, o the median of each
    segment. The trace comes back with the same samples and epoch but `time_s` rebuilt (the
    first samples were taken before the first arrival, hence before zero), beside the report.
    EdgeError for fewer than 4 bursts: nothing to fit.
    """
    time_s = trace.time_s
    steps = np.diff(time_s)
    last = np.append(np.flatnonzero(steps > np.ptp(time_s) / steps.size / 2), steps.size)
    if last.size < 4 or np.ptp(time_s) <= 0:
        raise EdgeError(
            f"rebuilding the clock needs 4 bursts of samples or more, this trace has {last.size}; "
            "record for longer"
        )
    arrival = time_s[last]
    lag = max(1, last.size // 20)
    period = float(np.median((arrival[lag:] - arrival[:-lag]) / (last[lag:] - last[:-lag])))
    for _ in range(4):
        first = _shifts(arrival - period * last, _LEAST_LOSS * period)
        segment = np.searchsorted(first, np.arange(last.size), side="right")
        period = _common_slope(last, arrival, segment)
    residual = arrival - period * last
    intercept = np.array([np.median(residual[segment == s]) for s in range(first.size + 1)])
    spread = residual - intercept[segment]
    begin = last[first - 1] + 1
    sample = np.arange(time_s.size)
    rebuilt = period * sample + intercept[np.searchsorted(begin, sample, side="right")]
    lost = np.round(np.diff(intercept) / period).astype(int)
    report = ClockReport(
        period_s=period,
        lost_samples=int(lost.sum()),
        jitter_s=float(_MAD_TO_SD * np.median(np.abs(spread - np.median(spread)))),
        bursts=int(last.size),
        longest_wait_s=float(steps.max()),
        gaps=tuple((float(rebuilt[b]), int(n)) for b, n in zip(begin, lost, strict=True)),
    )
    return replace(trace, time_s=rebuilt), report


def _shifts(residual: Floats, least_s: float) -> Ints:
    """Bursts from which on the arrival times stay later by `least_s` or more."""
    width = _NEIGHBOURS
    around = np.lib.stride_tricks.sliding_window_view(np.pad(residual, width, mode="edge"), width)
    medians = np.median(around, axis=1)
    jump = medians[width : width + residual.size] - medians[: residual.size]
    highest = np.argsort(jump)[::-1]
    found: list[int] = []
    for burst in highest[jump[highest] >= least_s]:
        low = max(burst - 2, 1)
        sharpest = low + int(np.argmax(np.diff(residual[low - 1 : burst + 3])))
        if all(abs(sharpest - other) >= width for other in found):
            found.append(sharpest)
    return np.array(sorted(found), dtype=np.int64)


def _common_slope(index: Ints, arrival: Floats, segment: Ints) -> float:
    """Slope that all segments share, by least squares without the late packets."""
    keep = np.ones(index.size, dtype=bool)
    slope = 0.0
    for _ in range(3):
        mass = np.maximum(np.bincount(segment, keep), 1)
        x, y = (v - (np.bincount(segment, keep * v) / mass)[segment] for v in (index, arrival))
        slope = float((keep * x * y).sum() / (keep * x * x).sum())
        error = y - slope * x
        error = np.abs(error - np.median(error))
        keep = error <= 3 * _MAD_TO_SD * np.median(error) + 1e-9
    return slope


@dataclass(frozen=True)
class OffsetEstimate:
    """How far the monitor's clock is ahead of the device's."""

    offset_s: float  # what is added to the device's stamps to get the monitor's, s
    u_s: float  # standard uncertainty from resampling blocks of the trace, s
    correlation: float  # of busy time and power at `offset_s`, -1 to 1
    gaps_offset_s: float | None  # the same by the gaps between inferences; None: no clear trace
    flags: tuple[str, ...]  # `offset_disputed`: the two differ by more than 3 `u_s` and 5 ms


def estimate_offset(
    trace: PowerTrace, marks: Marks, *, search_s: float = 1.0, seed: int = 0
) -> OffsetEstimate:
    """Find the clock offset: shift the marks until busy time and power agree best.

    The trace is one on a rebuilt clock, `search_s` the largest offset that is tried, s, to either
    side, and `seed` that of the block bootstrap behind `u_s`. EdgeError if the marks do not meet
    the trace within `search_s`, or the power never changes.
    """
    local = marks.on(trace)
    period = float(np.median(np.diff(trace.time_s)))
    grid = np.arange(trace.time_s[0], trace.time_s[-1], period)
    lead, tail = local.start_s.min() - grid[-1], grid[0] - local.end_s.max()
    if max(lead, tail) > search_s:
        raise EdgeError(
            f"the marks lie {max(lead, tail):.3g} s beside the trace, {search_s:g} s are searched; "
            "check that both files are of one run and their stamps count from 1970"
        )
    power = np.interp(grid, trace.time_s, trace.power_w)
    if np.ptp(power) <= 0:
        raise EdgeError("the power never changes, so that no clock offset can be found in it")
    reach = int(np.ceil(search_s / period))
    lags = np.arange(-reach, reach + 1) * period
    padded = grid[0] + period * np.arange(-reach, grid.size + reach)
    busy = _share(padded, period, local.start_s, local.end_s)
    correlation, resampled = _correlations(power, busy, seed)
    best = int(np.argmax(correlation))
    low, high = np.quantile(lags[np.argmax(resampled, axis=1)], [0.16, 0.84])
    u_s = float(max((high - low) / 2, period / np.sqrt(12)))
    ripple = _ripple(power, padded, period, local)
    gaps_offset = None if ripple is None else float(lags[ripple])
    disputed = gaps_offset is not None and abs(gaps_offset - lags[best]) > max(3 * u_s, _DISPUTE_S)
    return OffsetEstimate(
        offset_s=float(lags[best]),
        u_s=u_s,
        correlation=float(correlation[best]),
        gaps_offset_s=gaps_offset,
        flags=("offset_disputed",) if disputed else (),
    )


def _share(centre_s: Floats, width_s: float, start_s: Floats, end_s: Floats) -> Floats:
    """Share of each interval of `width_s` about a centre that lies inside a window."""
    edges = np.column_stack([np.sort(start_s), np.sort(end_s)]).ravel()
    inside = np.cumsum(np.diff(edges, prepend=edges[0]) * (np.arange(edges.size) % 2))
    until = np.interp([centre_s - width_s / 2, centre_s + width_s / 2], edges, inside)
    return (until[1] - until[0]) / width_s


def _slide(signal: Floats, padded: Floats) -> Floats:
    """Sum of products of `signal` and the part of `padded` under it, by rising offset."""
    return correlate(padded, signal, mode="valid")[::-1]


def _correlations(power: Floats, busy: Floats, seed: int) -> tuple[Floats, Floats]:
    """Correlation of power and shifted busy time by lag; and the same for resampled blocks."""
    power = (power - power.mean()) / power.std()
    edges = np.linspace(0, power.size, _BLOCKS + 1).astype(int)
    parts = []
    for low, high in pairwise(edges):
        under, ones = busy[low : busy.size - power.size + high], np.ones(high - low)
        pairs = (power[low:high], under), (ones, under), (ones, under**2)
        parts.append([_slide(signal, padded) for signal, padded in pairs])
    alike = np.full(_BLOCKS, 1 / _BLOCKS)
    draws = np.random.default_rng(seed).multinomial(_BLOCKS, alike, size=_RESAMPLES)
    weight = np.vstack([np.ones(_BLOCKS), draws]).astype(float)
    n = (weight @ np.diff(edges))[:, None]
    p_sum = (weight @ np.add.reduceat(power, edges[:-1]))[:, None]
    products, b_sum, squares = weight @ np.stack(parts, axis=1)
    variance = squares - b_sum**2 / n
    covariance = products - p_sum * b_sum / n
    scores = covariance / np.sqrt(np.maximum(variance, 1.0) * n)
    return scores[0], scores[1:]


def _ripple(power: Floats, padded: Floats, period: float, marks: Marks) -> int | None:
    """Index of the lag at which the gaps between windows meet the dips of the power."""
    start, end = np.sort(marks.end_s)[:-1], np.sort(marks.start_s)[1:]
    if not (end > start).any():
        return None
    width = max(int(_FINE_S / period), 3)
    gaps = _share(padded, period, start[end > start], end[end > start])
    dips = uniform_filter1d(power, width) - power
    dips = np.clip(dips, -3 * dips.std(), 3 * dips.std())
    match = _slide(dips, gaps - uniform_filter1d(gaps, width))
    noise = _MAD_TO_SD * float(np.median(np.abs(match)))
    peak = int(np.argmax(np.abs(match)))
    if np.abs(match[peak]) < _FINE_SIGNAL * noise:
        return None
    low = max(peak - width, 0)
    return low + int(np.argmax(match[low : peak + width + 1]))
