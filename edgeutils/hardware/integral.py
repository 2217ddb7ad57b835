r"""The integral of a trace, the energy of windows, and samples that lie half inside a window.

A sample of an averaging monitor stands for its cell, the time half-way to its neighbours. One
cumulative integral, :math:`E(t) = \int_{t_0}^{t} P\,\mathrm{d}t`, serves all windows: two
look-ups each.

**The bias of the edges.** A cell of length T with a share b inside windows averages both, so
that :math:`s = b\,p_\mathrm{in} + (1 - b)\,p_\mathrm{out}`. Holding s over the cell credits the
window with T b s, which is too little by :math:`T b (1 - b) (p_\mathrm{in} - p_\mathrm{out})`,
always in the same direction; short windows at a low rate lose per cents. What belongs to the
windows is exactly :math:`T (s - (1 - b)\,p_\mathrm{out})`, hence only the power right outside is
needed. It is the intercept of a regression over the cells at edges that are not wholly inside,

.. math:: s = (1 - b)\,p_\mathrm{out} + b_1\,p_1 + b_2\,p_2 + \epsilon,

where :math:`b_1` is the part of b less than T/2 from an edge and :math:`b_2` the rest: the first
kernel of a network draws another power than its middle. The two cells at the ends of the run see
another outside (a phone that loads or falls asleep) and are left out where there are others.
A sensor that takes snapshots, or averages over a part of the period, owes the windows the same on
average; only the regression differs, whose shares are then those of the middle of the cell:
whichever fits best is taken.

Wide normal priors, :math:`p_\mathrm{out}` from nothing to the mean power and :math:`p_1, p_2`
within a quarter of it, matter only where the samples do not decide; then the uncertainty is
large too, as it should be. To it comes, over the root of 12, what one p for all depths would
change: the model is as coarse.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from edgeutils.hardware.trace import GAP_PERIODS, Floats, Ints, Marks, PowerTrace

#: Period of the Monsoon's samples by its data sheet (5 kHz), s.
NOMINAL_PERIOD_S = 200e-6
#: A window with a larger share of its time in a gap has no energy.
_MOST_GAP = 0.1
#: Samples summed at a time: no temporary array is longer.
_BLOCK = 1 << 20
#: Inner cells from which the cells at the ends of the run can be left out.
_ENOUGH = 12
#: Cells that decide well enough: of more, every k-th is used.
_PLENTY = 30_000
#: Prior of the power right outside and of the two inside: mean and sd over the mean power.
_PRIOR = np.array([[0.5, 0.5], [1.0, 0.25], [1.0, 0.25]])
#: Scatter of the samples at edges over the mean power that is assumed at the least.
_LEAST_SCATTER = 0.02
#: Shares of the period that a sample may average: from all of it to a snapshot.
_APERTURES = (1.0, 0.8, 0.6, 0.4, 0.2, 0.02)
#: Shares closer to 0 or 1 than this are rounding.
_TINY = 1e-6


class Integral:
    """Energy up to any time, each sample held half-way to its neighbours; gaps add nothing.

    Beside a gap a sample stands for half a period: the rest was not seen.
    """

    def __init__(self, trace: PowerTrace) -> None:
        self.time_s, self.power_w, self.period_s = trace.time_s, trace.power_w, trace.period_s
        n = self.time_s.size
        self._until_j = np.zeros(n + 1)
        for low in range(0, n, _BLOCK):
            high = min(low + _BLOCK, n)
            half = self._half(np.diff(self.time_s[max(low - 1, 0) : high + 1]))
            ends = [self.period_s / 2] * (low == 0), [self.period_s / 2] * (high == n)
            half = np.concatenate([ends[0], half, ends[1]])
            np.cumsum(
                (half[:-1] + half[1:]) * self.power_w[low:high],
                out=self._until_j[low + 1 : high + 1],
            )
            self._until_j[low + 1 : high + 1] += self._until_j[low]
        #: Time that no sample stands for, s, shape (g, 2).
        self.holes_s = trace.gaps_s + np.array([0.5, -0.5]) * self.period_s
        (self.first_s, _), (_, self.last_s) = np.transpose(self.cells(np.array([0, n - 1])))

    def _half(self, step_s: Floats) -> Floats:
        return np.where(step_s > GAP_PERIODS * self.period_s, self.period_s, step_s) / 2

    def cells(self, index: Ints) -> tuple[Floats, Floats]:
        """Left and right end of the cells of some samples, s."""
        time_s, last = self.time_s, self.time_s.size - 1
        before, after = time_s[np.maximum(index - 1, 0)], time_s[np.minimum(index + 1, last)]
        here = time_s[index]
        left = here - self._half(np.where(index == 0, self.period_s, here - before))
        return left, here + self._half(np.where(index == last, self.period_s, after - here))

    def cell_of(self, at_s: Floats) -> Ints:
        """Sample in whose cell a time lies; in a gap, the one after it."""
        index = np.maximum(np.searchsorted(self.time_s, at_s, side="right") - 1, 0)
        beyond = (at_s > self.cells(index)[1]) & (index < self.time_s.size - 1)
        return np.where(beyond, index + 1, index)

    def energy_j(self, start_s: Floats, end_s: Floats) -> Floats:
        """Energy between two times, J."""
        return self._until(end_s) - self._until(start_s)

    def _until(self, at_s: Floats) -> Floats:
        at_s = np.clip(at_s, self.first_s, self.last_s)
        index = self.cell_of(at_s)
        inside_s = np.maximum(at_s - self.cells(index)[0], 0.0)
        return self._until_j[index] + inside_s * self.power_w[index]

    def seen_s(self, start_s: Floats, end_s: Floats) -> Floats:
        """Time between two times that samples stand for, s."""
        inside = np.clip([start_s, end_s], self.first_s, self.last_s)
        return inside[1] - inside[0] - _overlap(*inside, *self.holes_s.T)


def naive_windows(
    trace: PowerTrace, marks: Marks, *, period_s: float = NOMINAL_PERIOD_S
) -> pd.DataFrame:
    """Do what a first script does: mask the samples by raw stamps, add up power x period.

    The marks are taken as if the device had the monitor's clock, the samples as if one came
    every `period_s` seconds. The result is that of `window_energy` without `gap_s` and
    `energy_per_inference_j`: `power_w` is the mean of the samples that carry a stamp inside (NaN
    where there is none) and `energy_j` their sum times the period (0 where there is none, which
    is the fault to look at).
    """
    local = marks.on(trace)
    total = np.cumsum(np.hstack([0.0, trace.power_w]))
    low, high = np.searchsorted(trace.time_s, [local.start_s, local.end_s])
    frame, power_sum = _frame(trace, local), total[high] - total[low]
    return frame.assign(power_w=power_sum / frame["samples"], energy_j=power_sum * period_s)


def window_energy(
    trace: PowerTrace,
    marks: Marks,
    *,
    offset_s: float = 0.0,
    idle_w: float = 0.0,
    drift: float = 0.0,
) -> pd.DataFrame:
    """Integrate the power over each window, the samples held as they are (edges not repaired).

    The trace has a rebuilt clock, the marks are by the device's. `offset_s` and `drift` (s/s,
    since the first start) take the device's stamps to the monitor's, and `idle_w`, a constant
    idle power, is subtracted, W.
    The result has a row per window: `start_s`, `end_s` (on the monitor's clock, since the trace's
    epoch), `duration_s`, `count`, `samples`, `gap_s` (time without samples), `energy_j` of the
    window, `energy_per_inference_j` and `power_w`. Energy is NaN where the window leaves the
    trace or spends more than a tenth of its time in a gap: it was not measured.

    Examples
    --------
    >>> from edgeutils.hardware.trace import MeterSpec
    >>> time_s = np.linspace(0.0, 1.0, 11)
    >>> ramp = PowerTrace(time_s, 2 * time_s, MeterSpec("a ramp"))
    >>> marks = Marks(np.array([0.25]), np.array([0.75]), np.array([1]))
    >>> float(round(window_energy(ramp, marks).loc[0, "energy_j"], 12))
    0.5
    """
    return windows_on(trace, marks.on(trace, offset_s, drift), Integral(trace), idle_w)


def windows_on(trace: PowerTrace, local: Marks, integral: Integral, idle_w: float) -> pd.DataFrame:
    """Do as `window_energy` for windows on the trace's clock."""
    frame = _frame(trace, local)
    seen_s = integral.seen_s(local.start_s, local.end_s)
    inside = (local.start_s >= integral.first_s) & (local.end_s <= integral.last_s)
    # What a gap of less than a tenth hides is taken to be like the rest of the window.
    known = inside & (seen_s > (1 - _MOST_GAP) * frame["duration_s"])
    seen_j = integral.energy_j(local.start_s, local.end_s)
    power_w = seen_j / np.where(known, seen_s, np.nan) - idle_w
    energy_j = power_w * frame["duration_s"]
    return frame.assign(
        gap_s=np.maximum(frame["duration_s"] - seen_s, 0),
        energy_j=energy_j,
        energy_per_inference_j=energy_j / frame["count"],
        power_w=power_w,
    )


def _frame(trace: PowerTrace, local: Marks) -> pd.DataFrame:
    """Windows, and the samples from each start to before each end."""
    low, high = np.searchsorted(trace.time_s, [local.start_s, local.end_s])
    frame = pd.DataFrame({"start_s": local.start_s, "end_s": local.end_s})
    duration_s = local.end_s - local.start_s
    return frame.assign(duration_s=duration_s, count=local.count, samples=high - low)


@dataclass(frozen=True)
class Edges:
    """What the samples that lie half inside a window owe to the windows."""

    owed_j: Floats  # to be added to each window, J, shape (m,)
    outside_s: Floats  # time outside that the window's share of such samples covers, s, (m,)
    outside_w: float  # power right outside the windows, W
    outside_u_w: float  # its standard uncertainty, W
    scatter_w: float  # standard deviation of the samples about the regression, W
    step_w: float  # power just inside less that outside, W
    freedom: float  # degrees of freedom of `outside_u_w`


#: Samples at edges are left as they are.
LEFT_ALONE = Edges(np.zeros(1), np.zeros(1), 0.0, 0.0, 0.0, 0.0, np.inf)


def repair_edges(
    integral: Integral, start_s: Floats, end_s: Floats, *, from_s: float = -np.inf
) -> Edges:
    """Find what a mean over cells takes from windows, by the regression above.

    Windows are on the trace's clock, shape (m,) each. They may overlap: then what lies in any of
    them is inside. `from_s` leaves cells before it out of the regression: while a device warms up,
    long windows of little power would pass for cells that lie far inside.
    """
    index, low, high = _cells_at(integral, np.concatenate([start_s, end_s]))
    begin, stop = _union(start_s, end_s)
    width_s = np.maximum(high - low, _TINY * integral.period_s)
    inside, deep_s = _overlap(low, high, begin, stop) / width_s, integral.period_s / 2
    partly = (inside < 1 - _TINY) & (width_s < 1.5 * integral.period_s)
    inner = partly & (low > max(begin[0], from_s)) & (high < stop[-1])
    rows = np.flatnonzero(inner if inner.sum() >= _ENOUGH else partly)
    rows = rows[:: rows.size // _PLENTY + 1]
    mean_w = abs(float(integral.energy_j(begin, stop).sum() / (stop - begin).sum()))
    power_w = integral.power_w[index[rows]]
    designs = _designs(low[rows], high[rows], begin, stop, deep_s)
    fits = [_regress(design, power_w, mean_w) for design in designs]
    best = int(np.argmin([scatter_w for _, _, scatter_w in fits]))
    fit, fit_u, scatter_w = fits[best]
    # What the depth of an edge changes stands for what the model leaves out.
    flat = np.column_stack([designs[best][:, 0], designs[best][:, 1:].sum(axis=1)])
    differ_w = fit[0] - _regress(flat, power_w, mean_w)[0][0]
    fit_u = float(np.hypot(fit_u, differ_w / np.sqrt(12)))
    # Each window has a cell at its start and one at its end, which may be the same.
    owed_j, outside_s = np.zeros((2, start_s.size))
    first, last = np.searchsorted(index, [integral.cell_of(start_s), integral.cell_of(end_s)])
    for cell, counts in ((first, True), (last, last != first)):
        mine = np.minimum(end_s, high[cell]) - np.maximum(start_s, low[cell])
        whole = np.maximum(inside[cell], _TINY) * width_s[cell]
        away_s = np.clip(mine / whole, 0, 1) * (1 - inside[cell]) * width_s[cell]
        away_s *= counts & (inside[cell] > _TINY)
        owed_j += away_s * (integral.power_w[index[cell]] - fit[0])
        outside_s += away_s
    freedom = max(float(rows.size - fit.size), 1.0)
    return Edges(owed_j, outside_s, fit[0], fit_u, scatter_w, fit[1] - fit[0], freedom)


def _designs(low: Floats, high: Floats, begin: Floats, stop: Floats, deep_s: float) -> list[Floats]:
    """Shares of each cell outside, near an edge and deep inside, by what a sample averages."""
    designs = []
    for aperture in _APERTURES:
        trim_s = (1 - aperture) / 2 * (high - low)
        width_s = np.maximum(aperture * (high - low), 1e-12)
        ends, long = (low + trim_s, high - trim_s), stop - begin > 2 * deep_s
        inside = _overlap(*ends, begin, stop) / width_s
        deep = _overlap(*ends, begin[long] + deep_s, stop[long] - deep_s) / width_s
        designs.append(np.column_stack([1 - inside, inside - deep, deep]))
    return designs


def _cells_at(integral: Integral, at_s: Floats) -> tuple[Ints, Floats, Floats]:
    """Find the samples whose cells hold the times, their neighbours, and the ends of the cells."""
    at = integral.cell_of(at_s)
    index = np.unique(np.clip([at - 1, at, at + 1], 0, integral.time_s.size - 1))
    return index, *integral.cells(index)


def _regress(design: Floats, power_w: Floats, mean_w: float) -> tuple[Floats, float, float]:
    """Return the coefficients, the standard uncertainty of the first, the residuals' deviation.

    Least squares with the prior as three more rows; the covariance is White's (the scatter
    grows with the share inside), or the plain one where cells are few.
    """
    prior, prior_sd = _PRIOR[: design.shape[1]].T * mean_w
    free = max(power_w.size - design.shape[1], 1)
    plain = power_w - design @ np.linalg.lstsq(design, power_w, rcond=None)[0]
    scatter_w = max(float(np.sqrt(plain @ plain / free)), _LEAST_SCATTER * mean_w, 1e-12)
    precision = np.diag((scatter_w / np.maximum(prior_sd, 1e-12)) ** 2)
    inverse = np.linalg.inv(design.T @ design + precision)
    fit = inverse @ (design.T @ power_w + precision @ prior)
    squares = (power_w - design @ fit) ** 2 if power_w.size >= _ENOUGH else scatter_w**2
    meat = design.T @ (design * np.broadcast_to(squares, power_w.shape)[:, None])
    covariance = inverse @ (meat + scatter_w**2 * precision) @ inverse
    return fit, float(np.sqrt(covariance[0, 0])), scatter_w


def _union(start_s: Floats, end_s: Floats) -> tuple[Floats, Floats]:
    """Windows in order, those that overlap or touch made one."""
    order = np.argsort(start_s)
    start_s, end_s = start_s[order], np.maximum.accumulate(end_s[order])
    new = np.append(True, start_s[1:] > end_s[:-1])
    return start_s[new], end_s[np.append(new[1:], True)]


def _overlap(low_s: Floats, high_s: Floats, start_s: Floats, end_s: Floats) -> Floats:
    """Time of each interval that lies inside the windows, which are in order and apart, s."""
    if not start_s.size:
        return np.zeros_like(low_s)
    edges = np.column_stack([start_s, end_s]).ravel()
    until = np.cumsum(np.column_stack([0 * start_s, end_s - start_s]))
    from_s, to_s = np.interp([low_s, high_s], edges, until)
    return to_s - from_s
