r"""How well the power of a trace agrees with the marks, by the offset of the clocks.

Busy time :math:`b(t)` by the marks is slid along the power :math:`x(t)` until both agree best:
:math:`C(\tau) = \sum_i x_i\,b(t_i - \tau)` is largest. The gaps between two windows have a level
of their own in it, as a phone may draw more there than within. What the power does beside being
busy is slid along in the same way, :math:`N(\tau)`, and tells how far noise moves the peak
(:math:`u = \sigma_{N'} / |C''|`) and which other peaks it could have lifted above the right one.
"""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from scipy.signal import correlate

from edgeutils import EdgeError
from edgeutils.hardware.trace import GAP_PERIODS, Floats, Ints, PowerTrace

#: Cells into which the time about the marks is cut at most, and at least within the search.
MOST_CELLS = 1 << 22
_LEAST_REACH = 200
_BLOCKS = 32
_CHUNK = 1 << 18
#: Largest drift that is looked for; quartz errs by up to 5e-5, more where a host slews its clock.
_MOST_DRIFT = 4e-4
#: Cells by which the largest drift moves the last window, for a drift to be looked for.
_LEAST_DRIFT = 10
#: Drift over its uncertainty from which it is used.
_DRIFT_SIGNAL = 3.0
#: To either side of a first estimate, the search for its refinement, s.
_NEAR_S = 0.05
#: The same about an offset that the gaps tell, cells.
NEXT = 3
#: The power does not step at the edges of a window, as the work begins and ends with what draws
#: less: its rise and fall may be displaced by this share of a window, but not by more than that, s.
RAMP = 0.1
_RAMP_S = 1e-3
_DAY_S = 86_400.0
#: Share of the samples that may be wild at either end.
_WILD = 1e-3
_TURNS = 4
#: Least and largest power of the gaps between windows, in units of that within.
_LEVELS = (-1.0, 4.0)
CURE = "give the offset by hand (--offset) or record with a sync pulse"


@dataclass(frozen=True)
class View:
    """The power about the marks on even cells, and the busy windows that are slid along it."""

    power_w: Floats  # power less its mean, shape (n,); 0 where nothing was seen
    low_s: float  # begin of the first cell, on the clock of the trace, s
    step_s: float  # length of a cell, s
    busy_s: Floats  # start and end of the windows by the device's clock, s, shape (m, 2)
    reach: int  # cells to either side that are searched
    ramp_s: float  # largest displacement of the power against the edges of the windows, s
    level: float = 0.0  # power of the gaps between windows over that within, both above the rest

    @property
    def span_s(self) -> float:
        """Time from the first start to the last end, s."""
        return float(np.ptp(self.busy_s))

    @property
    def edges(self) -> Ints:
        """First cell of each block, and the end."""
        return np.linspace(0, self.power_w.size, _BLOCKS + 1).astype(int)

    def part(self) -> Floats:
        """Place of each block between first start (0) and last end (1)."""
        middle_s = self.low_s + self.step_s * (self.edges[1:] + self.edges[:-1]) / 2
        return np.clip((middle_s - self.busy_s.min()) / self.span_s, 0, 1)

    def moved(self, offset_s: float, drift: float) -> Floats:
        """Windows by the clock of the trace, s."""
        return self.busy_s + offset_s + drift * (self.busy_s - self.busy_s.min())

    def form(self, windows_s: Floats, reach: int) -> Floats:
        """Power of work, in units of that within windows: `level` in the gaps, 0 beside."""
        form = self.share(windows_s, reach)
        if self.level:
            form += self.level * self.share(gaps_between(windows_s), reach)
        return form

    def share(self, windows_s: Floats, reach: int) -> Floats:
        """Share of each cell, and of `reach` cells before and after, inside the windows."""
        cells = self.power_w.size + 2 * reach
        place = np.clip((windows_s - self.low_s) / self.step_s + reach, 0, cells)
        whole = place.astype(np.int64)
        sign = np.array([1.0, -1.0])
        steps = np.zeros(cells + 2)
        for cell, weight in ((whole, 1 - place + whole), (whole + 1, place - whole)):
            steps += np.bincount(cell.ravel(), (sign * weight).ravel(), cells + 2)
        return np.clip(np.cumsum(steps, out=steps)[:cells], 0, 1)

    def slide(self, power_w: Floats, busy: Floats) -> Floats:
        """Multiply power and shifted busy time and sum: a row per block, by rising offset."""
        beyond = busy.size - power_w.size
        return np.stack(
            [
                correlate(busy[low : high + beyond], power_w[low:high], "valid", "fft")[::-1]
                for low, high in pairwise(self.edges)
            ]
        )


@dataclass(frozen=True)
class Fit:
    """A peak of the agreement."""

    offset_s: float
    u_s: float  # by the noise about the peak
    drift: float
    drift_u: float
    correlation: float
    doubt: Floats  # lead over each offset about it, in standard deviations, shape (2 reach + 1,)


def view_of(trace: PowerTrace, busy_s: Floats, search_s: float) -> View:
    """Cut the power about the marks into cells; EdgeError if they do not meet the trace."""
    begin_s, end_s = float(trace.time_s[0]), float(trace.time_s[-1])
    beside_s = max(busy_s.min() - end_s, begin_s - busy_s.max())
    if beside_s > search_s:
        why = "check that both files are of one run"
        if beside_s > _DAY_S:
            why = "their stamps seem to count from different origins (since 1970, since the start)"
        raise EdgeError(
            f"the marks lie {beside_s:.3g} s beside the trace, {search_s:g} s are searched; "
            f"{why}, or {CURE}"
        )
    margin_s = 2 * search_s + np.ptp(busy_s)
    low_s = max(begin_s, busy_s.min() - margin_s)
    high_s = min(end_s, busy_s.max() + margin_s)
    # Cells and samples begin together where their lengths agree.
    low_s = float(trace.time_s[np.searchsorted(trace.time_s, low_s)]) - trace.period_s / 2
    step_s = max(min(trace.period_s, search_s / _LEAST_REACH), (high_s - low_s) / MOST_CELLS)
    cells = max(int((high_s - low_s) / step_s), 2)
    power_w = mean_cells(trace, low_s, step_s, cells)
    ramp_s = min(_RAMP_S, RAMP * float(np.median(np.diff(busy_s))))
    return View(power_w, low_s, step_s, busy_s, int(np.ceil(search_s / step_s)), ramp_s)


def mean_cells(trace: PowerTrace, low_s: float, step_s: float, cells: int) -> Floats:
    """Mean power in each cell less that of all, W; 0 in gaps. Samples reach half-way to others."""
    power_w, period = np.zeros(cells), trace.period_s
    seen = np.zeros(cells, dtype=bool)
    for first in range(0, cells, _CHUNK):
        edges = low_s + step_s * np.arange(first, min(first + _CHUNK, cells) + 1)
        low, high = np.searchsorted(trace.time_s, edges[[0, -1]])
        part = slice(max(low - 2, 0), high + 2)
        time_s = trace.time_s[part]
        half = np.diff(time_s)
        half = np.where(half > GAP_PERIODS * period, period, half) / 2
        left, right = np.hstack([period / 2, half]), np.hstack([half, period / 2])
        knots = np.column_stack([time_s - left, time_s + right]).ravel()
        until = []
        for held in (left + right, (left + right) * trace.power_w[part]):
            total = np.cumsum(held)
            until.append(np.interp(edges, knots, np.column_stack([total - held, total]).ravel()))
        time, energy = np.diff(until)
        here = slice(first, first + time.size)
        seen[here] = time > step_s / 100
        np.divide(energy, time, out=power_w[here], where=seen[here])
    # A wrong bit in a packet must not outweigh all the work.
    least, most = np.quantile(power_w[seen], [_WILD, 1 - _WILD])
    np.clip(power_w, 2 * least - most, 2 * most - least, out=power_w)
    power_w -= power_w.mean(where=seen)
    power_w[~seen] = 0
    return power_w


def best_fit(view: View, near_s: float | None = None) -> Fit:
    """Find the best peak, of all or about `near_s`; with a drift where that is significant."""
    most = int(_MOST_DRIFT * view.span_s / view.step_s)
    if most >= _LEAST_DRIFT:
        fit = _judge(view, *_search(view, near_s, most), free=True)
        if _DRIFT_SIGNAL * fit.drift_u < abs(fit.drift) < 2 * _MOST_DRIFT:
            return fit
    return _judge(view, *_search(view, near_s, 0), free=False)


def _search(view: View, near_s: float | None, most: int) -> tuple[float, float]:
    """Offset, s, and drift of the best peak, to a cell; the drift is up to `most` cells in all."""
    near, reach = min(view.reach, int(np.ceil(_NEAR_S / view.step_s))), view.reach
    offset_s, drift = near_s or 0.0, 0.0
    if near_s is not None:
        reach = near = NEXT
    for turn in range(_TURNS):
        # Where clocks drift the peak is blunt until the marks are moved by the drift.
        lag, cells = _best(view, reach, most, view.moved(offset_s, drift))
        if turn == 0 and abs(lag) == view.reach:
            raise EdgeError(
                f"the agreement of marks and power still rises at the end of the search, "
                f"{lag * view.step_s:.3g} s; search farther, or {CURE}"
            )
        offset_s, drift = offset_s + lag * view.step_s, drift + cells * view.step_s / view.span_s
        reach, most = near, min(most, near)
        if turn and not (lag or cells):
            break
    return offset_s, drift


def _best(view: View, reach: int, most: int, windows_s: Floats) -> tuple[int, int]:
    """Cells by which the windows are best moved: at their begin, and more at their end."""
    busy = view.form(windows_s, reach + most)
    rows = view.slide(view.power_w, busy)
    scale = _scale(view, busy[most : busy.size - most])
    part, best, found = view.part(), -np.inf, (0, 0)
    for cells in range(-most, most + 1):
        begin = most + np.rint(cells * part).astype(int)
        score = np.zeros(scale.size)
        for row, first in zip(rows, begin, strict=True):
            score += row[first : first + scale.size]
        score /= scale
        lag = int(np.argmax(score))
        if score[lag] > best:
            best, found = score[lag], (lag - reach, cells)
    return found


def _scale(view: View, busy: Floats) -> Floats:
    """Divisor that makes a sum of products a correlation, by rising offset."""
    return np.sqrt(np.maximum(_product(view, busy, busy), 1) * np.sum(view.power_w**2))


def _product(view: View, one: Floats, other: Floats) -> Floats:
    """Covariance of two forms times the number of cells, by rising offset."""
    n = view.power_w.size
    sums = [np.cumsum(np.hstack([0.0, b])) for b in (one * other, one, other)]
    both, first, second = ((s[n:] - s[:-n])[::-1] for s in sums)
    return both - first * second / n


def gaps_between(windows_s: Floats) -> Floats:
    """Return starts and ends of the gaps between windows, s, shape (gaps, 2)."""
    gaps_s = np.column_stack([np.sort(windows_s[:, 1])[:-1], np.sort(windows_s[:, 0])[1:]])
    return gaps_s[gaps_s[:, 1] > gaps_s[:, 0]]


def _explained(view: View, windows_s: Floats, reach: int) -> tuple[Floats, Floats]:
    """Multiple correlation of the power with windows and gaps, and the level, by rising offset.

    Power is regressed on both with a coefficient each, as a phone may draw more between two
    inferences than within them.
    """
    windows, gaps = view.share(windows_s, reach), view.share(gaps_between(windows_s), reach)
    x, y = (view.slide(view.power_w, form).sum(axis=0) for form in (windows, gaps))
    xx, yy = (np.maximum(_product(view, form, form), 1e-9) for form in (windows, gaps))
    xy = _product(view, windows, gaps)
    # Where the gaps are too few to tell them from the rest their level is 0.
    det = xx * yy - xy**2
    clear = det > 1e-6 * xx * np.maximum(yy, 1)
    within = np.where(clear, x * yy - y * xy, x) / np.where(clear, det, xx)
    between = np.where(clear, y * xx - x * xy, 0) / np.where(clear, det, 1)
    explained = np.where(within > 0, within * x + between * y, 0)
    level = np.clip(between / np.where(within > 0, within, 1), *_LEVELS)
    return np.sqrt(np.maximum(explained, 0) / np.sum(view.power_w**2)), level


def levelled(view: View, windows_s: Floats, reach: int) -> View:
    """Give the gaps the level by which most of the power is explained."""
    score, level = _explained(view, windows_s, reach)
    return replace(view, level=float(level[np.argmax(score)]))


def _judge(view: View, offset_s: float, drift: float, *, free: bool) -> Fit:
    """Refine a peak between the cells, and say how far noise may have moved it."""
    reach, windows_s = view.reach, view.moved(offset_s, drift)
    busy = view.form(windows_s, reach)
    under = busy[reach : reach + view.power_w.size]
    under = under - under.mean()
    gain_w = view.power_w @ under / max(under @ under, 1e-9)
    scale = _scale(view, busy)
    agree = view.slide(view.power_w, busy) / scale
    noise = view.slide(view.power_w - gain_w * under, busy) / scale
    score = agree.sum(axis=0)
    far = _structure(noise.sum(axis=0))[np.abs(np.arange(-reach, reach + 1))]
    other = score if free else np.maximum(score, _explained(view, windows_s, reach)[0])
    width, bend, power = _bend(score, noise, view.step_s)
    rise = (agree[:, reach + width] - agree[:, reach - width]) / (2 * width * view.step_s)
    # Curvature by the edges of windows in each block, as that of the power itself is too noisy.
    cell = (windows_s.ravel() - view.low_s) / view.step_s
    weight = np.histogram(cell, view.edges)[0] / cell.size
    basis = np.stack([np.ones(_BLOCKS), view.part() * view.span_s])
    matrix = bend * (basis * weight) @ basis.T
    drift_u = _MOST_DRIFT / np.sqrt(3)
    move, cov = np.array([rise.sum() / bend, 0.0]), np.diag([power.sum() / bend**2, 0.0])
    if np.linalg.det(matrix) > 1e-6 * matrix[0, 0] ** 2 * view.span_s**2:
        inverse = np.linalg.inv(matrix)
        both = inverse @ ((basis * power) @ basis.T) @ inverse
        drift_u = min(drift_u, float(np.sqrt(both[1, 1])))
        if free:
            move, cov = inverse @ (basis @ rise), both
    # The parabola holds about the peak only.
    move = np.clip(move, *(np.array([-1, 1])[:, None] * width * view.step_s / [1, view.span_s]))
    # Displaced edges leave power unexplained: the less of that, the less they can be.
    ramp_s = view.ramp_s * min(1.0, (1 - float(score[reach]) ** 2) / (2 * RAMP))
    return Fit(
        offset_s=offset_s + float(move[0]),
        u_s=float(np.sqrt(cov[0, 0] + view.step_s**2 / 12 + ramp_s**2 / 3)),
        drift=drift + float(move[1]),
        drift_u=drift_u,
        correlation=float(score[reach]),
        doubt=(other[reach] - other) / far,
    )


def _bend(score: Floats, noise: Floats, step_s: float) -> tuple[int, float, Floats]:
    """Half-width of the peak in cells, its curvature, and each block's variance of the slope.

    A peak with a sharp top looks bent at any width: the right one is that by which noise moves it.
    """
    reach, width = score.size // 2, 1
    while 2 * width < reach:
        around = score[[reach - width, reach, reach + width]]
        bend = float(around @ [-1, 2, -1]) / (width * step_s) ** 2
        slopes = (noise[:, 2 * width :] - noise[:, : -2 * width]) / (2 * width * step_s)
        power = np.mean(slopes**2, axis=1)
        if bend > 0 and np.sqrt(power.sum()) / bend < width * step_s:
            return width, bend, power
        width *= 2
    raise EdgeError(f"the power does not tell when the device was busy; {CURE}")


def _structure(noise: Floats) -> Floats:
    """Return the standard deviation of noise differences, by the distance of the offsets."""
    size = noise.size
    square = np.cumsum(noise**2)
    alike = correlate(noise, noise, "full", "fft")[size - 1 :]
    both = square[::-1] + square[-1] - np.hstack([0.0, square[:-1]])
    sd = np.sqrt(np.maximum(both - 2 * alike, 0) / np.arange(size, 0, -1))
    # Of the largest distances there are too few: they are taken to be like half of them.
    sd[size // 2 :] = sd[size // 4 : size // 2].mean()
    return np.maximum(sd, 1e-12)
