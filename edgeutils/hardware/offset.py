"""How far the device's clock is from the monitor's, from the marks and the power itself.

The peak of their agreement (`agreement`) is the estimate; the gaps between the windows tell which
of the peaks it is, and give a second opinion; folding the power over the windows places the edges.
A sync pulse in the marks decides by itself.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import uniform_filter1d
from scipy.signal import correlate
from scipy.stats import iqr, norm

from edgeutils import EdgeError
from edgeutils.hardware.agreement import (
    CURE,
    MOST_CELLS,
    NEXT,
    RAMP,
    Fit,
    View,
    best_fit,
    gaps_between,
    levelled,
    mean_cells,
    view_of,
)
from edgeutils.hardware.arrivals import MAD_TO_SD
from edgeutils.hardware.trace import Floats, Marks, PowerTrace

#: Chips of the sync pulse, busy for 1 and idle for 0: the Barker code of length 13, whose
#: autocorrelation has no second peak above 1/13 (R. H. Barker, 1953).
SYNC_CHIPS = (1, 1, 1, 1, 1, 0, 0, 1, 1, 0, 1, 0, 1)
#: Length of one chip, s.
SYNC_CHIP_S = 0.05
#: Correlation of power and sync pulse from which it is believed, and its lead over the next.
_SYNC_SEEN = 0.5
_SYNC_LEAD = 0.1
#: Length of the moving mean that is removed before gaps between inferences are looked for, s.
_FINE_S = 3e-3
#: Peak over robust noise from which the gaps are believed, and its lead over the next peak.
_FINE_SIGNAL = 6.0
_FINE_LEAD = 3.0
#: Difference of the two offsets that is never worth a flag, s.
_DISPUTE_S = 5e-3
#: Variance about a sync pulse that is never undercut, as a share of the mean over the trace.
_SYNC_FLOOR = 0.02
#: Alike peaks may lie apart by this share of the time from first start to last end, and by half of
#: the search.
_MOST_SPREAD = 0.2
#: Peaks that noise of so many standard deviations would make the highest count as alike.
_ALIKE = 3.0
#: Folding: windows and cells at most, windows at least, cells from one start to the next at least;
#: cells to either side that are tried; parts of a window.
_FOLDED = 4000
_FOLDED_CELLS = 1 << 16
_FEWEST_FOLDED = 10
_FOLD_CELLS = 3
_FOLD_REACH = 25
_PARTS = 8
#: What folding errs by at least, cells: the least that the virtual bench shows is half of it.
_FOLD_FLOOR = 0.15
#: Steps of the power at the two edges that differ by this factor: the smaller is not quite blind.
_STEP = 2.5
#: Spread of the times from start to start, between their quartiles, at least, cells.
_LEAST_UNEVEN = 0.3


@dataclass(frozen=True)
class OffsetEstimate:
    """How far the monitor's clock is ahead of the device's: found in a trace, or given by hand."""

    offset_s: float  # what is added to the device's stamps to get the monitor's, s
    u_s: float  # standard uncertainty of `offset_s`, s
    drift: float = 0.0  # what is added per second since the first start, s/s; 0: not significant
    drift_u: float = 0.0  # standard uncertainty of the drift, s/s
    correlation: float = np.nan  # of busy time and power at `offset_s`, -1 to 1; NaN: not compared
    gaps_offset_s: float | None = None  # the same by the gaps between inferences; None: no trace
    #: `offset_disputed`: the two differ by more than 3 `u_s` and 5 ms; `offset_by_sync`: from the
    #: sync pulse.
    flags: tuple[str, ...] = ()


def estimate_offset(trace: PowerTrace, marks: Marks, *, search_s: float = 1.0) -> OffsetEstimate:
    """Find the clock offset: shift the marks until busy time and power agree best.

    Parameters
    ----------
    trace
        Power on a rebuilt clock.
    marks
        Windows by the device's clock. With a sync pulse the pulse decides, wherever in the trace
        it is; marks by the clock of the trace have the offset 0, exactly.
    search_s
        Largest offset that is tried to either side, s.

    Raises
    ------
    EdgeError
        The trace cannot decide: the marks do not meet it within `search_s`, the power never
        changes, peaks that noise could exchange lie far apart or at the end of the search, or the
        sync pulse is not seen.
    """
    if marks.same_clock:
        return OffsetEstimate(0.0, 0.0)
    if np.ptp(trace.power_w) <= 0:
        raise EdgeError(f"the power never changes, so that no clock offset is in it; {CURE}")
    local = marks.on(trace)
    if local.sync_s.size:
        pulse_s, score = _sync_offset(trace, local.sync_s)
        view = view_of(trace, local.sync_s + pulse_s, 2 * SYNC_CHIP_S)
        # Within a chip a governor may still be raising the frequency.
        fit = best_fit(replace(view, ramp_s=RAMP * SYNC_CHIP_S))
        by_pulse = _estimate(fit, None, ("offset_by_sync",), base_s=pulse_s)
        return _by_gaps(trace, local, replace(by_pulse, correlation=score))
    view = view_of(trace, np.column_stack([local.start_s, local.end_s]), search_s)
    view = levelled(view, view.busy_s, view.reach)
    fit = best_fit(view)
    gaps_s, alone = _gaps(view, fit)
    if gaps_s is not None and alone:
        place = view.reach + round((gaps_s - fit.offset_s) / view.step_s)
        if fit.doubt[min(max(place, 0), fit.doubt.size - 1)] < _ALIKE:
            # The power as a whole leaves some peaks open; the gaps tell which one it is, but not
            # from what dips at the same place within each window.
            fit = best_fit(levelled(view, view.moved(gaps_s, fit.drift), NEXT), gaps_s)
            folded = _folded(view, fit)
            if folded is not None:
                return _estimate(folded, gaps_s, ())
            return _estimate(fit, gaps_s, (), u_s=_within(view, fit))
    u_s = _spread(view, fit, refuse=gaps_s is None)
    apart_s = abs((fit.offset_s if gaps_s is None else gaps_s) - fit.offset_s)
    if apart_s <= max(3 * np.hypot(u_s, fit.u_s), _DISPUTE_S):
        return _estimate(_folded(view, fit) or fit, gaps_s, (), u_s=u_s)
    # Either may be right: the truth is as likely within that distance of the one as of the other.
    return _estimate(fit, gaps_s, ("offset_disputed",), u_s=max(u_s, apart_s / np.sqrt(3)))


def _by_gaps(trace: PowerTrace, local: Marks, found: OffsetEstimate) -> OffsetEstimate:
    """Sharpen what the sync pulse told by the gaps between windows, if those are clear."""
    windows = np.column_stack([local.start_s, local.end_s])
    view = view_of(trace, windows + found.offset_s, len(SYNC_CHIPS) * SYNC_CHIP_S)
    start = Fit(0.0, 0.0, found.drift, 0.0, 0.0, np.zeros(1))
    gaps_s, alone = _gaps(view, start)
    if gaps_s is None or not alone or abs(gaps_s) > 3 * found.u_s:
        return found
    fit = best_fit(levelled(view, view.moved(gaps_s, found.drift), NEXT), gaps_s)
    fit = _folded(view, fit) or fit
    return _estimate(fit, found.offset_s + gaps_s, found.flags, base_s=found.offset_s)


def _spread(view: View, fit: Fit, *, refuse: bool) -> float:
    """Uncertainty by other peaks that noise may hide below this one, s; EdgeError if they are far.

    Each weighs as much as it is probable that noise lifts the wrong one above the right one.
    """
    doubt = fit.doubt
    peak = doubt <= np.minimum(np.append(doubt[1:], np.inf), np.append(np.inf, doubt[:-1]))
    peak &= doubt < _ALIKE
    lag_s = view.step_s * (np.flatnonzero(peak) - view.reach)
    farthest_s = float(lag_s[np.argmax(np.abs(lag_s))])
    ends = bool(peak[0] or peak[-1])
    most_s = min(_MOST_SPREAD * view.span_s, view.reach * view.step_s / 2)
    if refuse and (ends or abs(farthest_s) > most_s):
        raise EdgeError(
            f"the trace cannot decide the clock offset: at {fit.offset_s:.3g} s and at "
            f"{fit.offset_s + farthest_s:.3g} s the marks fit about as well (correlation "
            f"{fit.correlation:.2f}); {CURE}"
        )
    weight = norm.sf(doubt[peak])
    return float(np.sqrt(weight @ lag_s**2 / weight.sum()))


def _within(view: View, fit: Fit) -> float:
    """Uncertainty by what dips at the same place within each window, as if it were the gap, s."""
    pitch = int(np.median(np.diff(np.sort(view.busy_s[:, 0]))) / view.step_s)
    lag = np.arange(-min(pitch, view.reach), min(pitch, view.reach) + 1)
    weight = norm.sf(fit.doubt[view.reach + lag])
    return float(np.sqrt(weight @ lag**2 / weight.sum())) * view.step_s


def _folded(view: View, fit: Fit) -> Fit | None:
    """Place the edges of the windows by folding the power over them.

    Power is regressed on the parts of a window and on the gap, whatever the inference draws as it
    goes on: only pauses and windows that differ in length then tell one offset from another. The
    estimate is the mean over the likelihood, in which each window counts once, as what noise does
    to one sample of it it does to the next. None: too few windows, too short, or too much alike.
    """
    windows_s = view.moved(fit.offset_s, fit.drift)
    windows_s = windows_s[np.argsort(windows_s[:, 0])]
    middle, length_s = windows_s.shape[0] // 2, np.diff(windows_s)[:, 0]
    apart_s = np.diff(windows_s[:, 0])
    pitch_s, uneven_s = (float(f(apart_s)) if middle else 0.0 for f in (np.median, iqr))
    most = int(min(_FOLDED, _FOLDED_CELLS * view.step_s / max(pitch_s, view.step_s)))
    if pitch_s < _FOLD_CELLS * view.step_s or min(most, 2 * middle) < _FEWEST_FOLDED:
        return None
    if uneven_s < _LEAST_UNEVEN * view.step_s:
        return None
    here = slice(max(middle - most // 2, 0), middle + most // 2)
    windows_s, length_s = windows_s[here], length_s[here]
    reach_s = min(1.2 * pitch_s, _FOLD_REACH * view.step_s)
    width = max(int(max(_FINE_S, 2 * pitch_s) / view.step_s), 3)
    low, high = ((windows_s[[0, -1], [0, 1]] - view.low_s) / view.step_s).astype(int)
    margin = int((pitch_s + reach_s) / view.step_s) + width
    low, high = max(low - margin, 0), min(high + margin, view.power_w.size)
    near = replace(view, power_w=view.power_w[low:high], low_s=view.low_s + low * view.step_s)
    parts = int(np.clip(np.ceil(np.median(length_s) / view.step_s), 1, _PARTS))
    place = windows_s[:, :1] + length_s[:, None] * np.linspace(0, 1, parts + 1)
    spans = [place[:, k : k + 2] for k in range(parts)]
    gaps_s = gaps_between(windows_s)
    spans += [gaps_s] if gaps_s.size else []
    power_w = near.power_w - uniform_filter1d(near.power_w, width)
    move_s = np.arange(-reach_s, reach_s, view.step_s / 2)
    left, _ = _left(near, power_w, spans, width, move_s)
    fine_s = move_s[np.argmin(left)] + view.step_s * np.arange(-0.45, 0.46, 0.1)
    fine, level_w = _left(near, power_w, spans, width, fine_s)
    order = np.argsort(move_s := np.hstack([move_s, fine_s]))
    move_s, left = move_s[order], np.hstack([left, fine])[order]
    likely = np.gradient(move_s) * (left / left.min()) ** (-windows_s.shape[0] / 2)
    likely /= likely.sum()
    mean_s = float(likely @ move_s)
    blind_s = 0.0
    if gaps_s.size:
        # Where the power hardly steps from the gap to its neighbour, part of that may be the gap.
        low, high = np.sort(np.abs(level_w[[0, -2]] - level_w[-1]))
        blind_s = max(0.0, 1 - _STEP * low / high) * float(np.median(length_s)) / parts
    spread_s = np.sqrt(likely @ (move_s - mean_s) ** 2 + (_FOLD_FLOOR * view.step_s) ** 2)
    u_s = float(np.hypot(spread_s, blind_s))
    return replace(fit, offset_s=fit.offset_s + mean_s, u_s=u_s)


def _left(
    view: View, power_w: Floats, spans_s: list[Floats], width: int, move_s: Floats
) -> tuple[Floats, Floats]:
    """Sum of squares that spans with levels of their own leave of the power, by offset.

    The levels, W, are those at the offset that leaves least.
    """
    left, levels_w = np.empty(move_s.size), np.empty((move_s.size, len(spans_s)))
    for i, by_s in enumerate(move_s):
        forms = np.stack([view.share(span_s + by_s, 0) for span_s in spans_s])
        forms -= uniform_filter1d(forms, width, axis=1)
        levels_w[i] = np.linalg.lstsq(forms @ forms.T, forms @ power_w, rcond=1e-9)[0]
        rest = power_w - levels_w[i] @ forms
        left[i] = rest @ rest
    return left, levels_w[np.argmin(left)]


def _gaps(view: View, fit: Fit) -> tuple[float | None, bool]:
    """Offset at which the gaps between windows meet the dips of the power, s, and whether alone.

    None if no offset stands out. Of several alike the one at the peak of the fit is taken.
    """
    windows_s = view.moved(fit.offset_s, fit.drift)
    gaps_s = gaps_between(windows_s)
    if not gaps_s.size:
        return None, False
    width = max(int(_FINE_S / view.step_s), 3)
    gaps = view.share(gaps_s, view.reach)
    dips = uniform_filter1d(view.power_w, width) - view.power_w
    dips = np.clip(dips, -3 * dips.std(), 3 * dips.std())
    match = view.slide(dips, gaps - uniform_filter1d(gaps, width)).sum(axis=0)
    noise = MAD_TO_SD * np.median(np.abs(match))
    peak = int(np.argmax(np.abs(match)))
    if np.abs(match[peak]) < _FINE_SIGNAL * noise:
        return None, False
    # A pause may draw less than the work or more.
    match, best = np.abs(match), peak
    alike = np.flatnonzero(match > match[best] - _FINE_LEAD * noise)
    if np.abs(alike - view.reach).min() <= 1:
        best = view.reach - 1 + int(np.argmax(match[view.reach - 1 : view.reach + 2]))
    alone = bool(np.abs(alike - best).max() <= width)
    return fit.offset_s + (best - view.reach) * view.step_s, alone


def _sync_offset(trace: PowerTrace, sync_s: Floats) -> tuple[float, float]:
    """Offset at which the sync pulse is seen, anywhere in the trace, s; and its correlation."""
    step_s = max(SYNC_CHIP_S / 20, float(np.ptp(trace.time_s)) / MOST_CELLS)
    begin_s, length_s = float(sync_s.min()), float(np.ptp(sync_s))
    low_s = float(trace.time_s[0])
    power_w = mean_cells(trace, low_s, step_s, int(np.ptp(trace.time_s) / step_s))
    pulse = View(np.zeros(int(length_s / step_s) + 1), begin_s, step_s, sync_s, 0, 0.0)
    # A pulse lasts from its first spell to its last: longer gaps part one from the next.
    spells = np.sort(sync_s, axis=0)
    parted = np.flatnonzero(spells[1:, 0] - spells[:-1, 1] > len(SYNC_CHIPS) * SYNC_CHIP_S)
    whole = np.column_stack(
        [spells[np.hstack([0, parted + 1]), 0], spells[np.hstack([parted, -1]), 1]]
    )
    inside, busy = pulse.share(whole, 0), pulse.share(spells, 0)
    form = busy - inside * busy.sum() / inside.sum()
    if power_w.size < form.size:
        raise EdgeError(f"the sync pulse lasts {length_s:.3g} s, longer than the trace; {CURE}")
    total, square, match = (
        correlate(values, kernel, "valid", "fft")
        for values, kernel in ((power_w, inside), (power_w**2, inside), (power_w, form))
    )
    around = np.maximum(square - total**2 / inside.sum(), 0) + _SYNC_FLOOR * square.mean()
    score = match / np.sqrt(around * (form @ form))
    best, chip = int(np.argmax(score)), int(SYNC_CHIP_S / step_s)
    others = np.hstack([score[: max(best - chip, 0)], score[best + chip :]]).max(initial=0)
    if score[best] < _SYNC_SEEN or score[best] - others < _SYNC_LEAD:
        raise EdgeError(
            f"the sync pulse is not seen in the trace: the best agreement is {score[best]:.2f}, "
            f"the next {others:.2f}, expected {_SYNC_SEEN} and {_SYNC_LEAD} less; give the offset "
            "by hand (--offset) or record again with the device idle about the pulse"
        )
    return low_s + best * step_s - begin_s, float(score[best])


def _estimate(
    fit: Fit, gaps_s: float | None, flags: tuple[str, ...], *, u_s: float = 0.0, base_s: float = 0.0
) -> OffsetEstimate:
    return OffsetEstimate(
        offset_s=base_s + fit.offset_s,
        u_s=float(np.hypot(fit.u_s, u_s)),
        drift=fit.drift,
        drift_u=fit.drift_u,
        correlation=fit.correlation,
        gaps_offset_s=gaps_s,
        flags=flags,
    )
