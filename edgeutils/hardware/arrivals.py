"""Lines through the arrival times of bursts: their common slope, and where samples were lost.

In all functions `last` is the number of the last sample of each burst and `arrival` when it came,
s; a segment is a stretch of bursts without a loss.
"""

import numpy as np
from scipy.ndimage import maximum_filter1d, median_filter, minimum_filter1d

from edgeutils.hardware.trace import Floats, Ints

#: Bursts on either side whose median tells a lasting shift from a late packet.
_NEIGHBOURS = 5
#: A lasting shift of this many samples or more counts as loss, and so many standard deviations
#: of the shifts that are none; less drowns in USB jitter.
LEAST_LOSS = 4
LEAST_SIGMA = 5
#: Median absolute deviation to standard deviation, for a normal distribution.
MAD_TO_SD = 1.4826
#: Upper tail over lower tail from which lateness has a floor.
_ONE_SIDED = 2.0


def robust_sd(values: Floats) -> float:
    """Return the standard deviation that a few wild values do not move."""
    return float(MAD_TO_SD * np.median(np.abs(values - np.median(values))))


def one_sided(values: Floats) -> bool:
    """Tell whether values reach far above their median, but not below it."""
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
    return bool(high - middle > _ONE_SIDED * (middle - low))


def floors(late_s: Floats, first: Ints) -> Floats:
    """Least lateness in each segment, s; the least of n is too high by the mean over n."""
    parts = [part[part > np.median(part) - 3 * robust_sd(part)] for part in np.split(late_s, first)]
    parts = [part if part.size else late_s for part in parts]
    return np.array([part.min() - (part.mean() - part.min()) / part.size for part in parts])


def lower_slope(index: Floats, late_s: Floats) -> float:
    """Slope of the line under all points that is closest to them, without those far below.

    What is never early but often late touches its true line (Moon, Skelly and Towsley, 1999).
    """
    keep = late_s > np.median(late_s) - 3 * robust_sd(late_s)
    x, y = index[keep], late_s[keep]
    hull: list[int] = []
    for i in range(x.size):
        while len(hull) > 1 and (y[hull[-1]] - y[hull[-2]]) * (x[i] - x[hull[-2]]) >= (
            y[i] - y[hull[-2]]
        ) * (x[hull[-1]] - x[hull[-2]]):
            hull.pop()
        hull.append(i)
    # The closest line carries the side above the mean of all.
    right = int(np.clip(np.searchsorted(x[hull], x.mean()), 1, len(hull) - 1))
    low, high = hull[right - 1], hull[right]
    return float((y[high] - y[low]) / (x[high] - x[low]))


def _shifts(residual: Floats, least_s: float) -> Ints:
    """Bursts from which on the arrival times stay later, or earlier, by `least_s` or more."""
    reach = _NEIGHBOURS // 2
    padded = np.pad(median_filter(residual, _NEIGHBOURS, mode="nearest"), reach + 1, mode="edge")
    jump = padded[2 * reach + 1 :][: residual.size] - padded[: residual.size]
    size = np.abs(jump)
    least_s = max(least_s, LEAST_SIGMA * robust_sd(jump))
    highest = (size >= least_s) & (size == maximum_filter1d(size, 2 * _NEIGHBOURS + 1))
    burst = np.flatnonzero(highest)
    # The jump itself is the sharpest of the steps around.
    around = np.clip(burst[:, None] + np.arange(-reach, reach + 1), 1, residual.size - 1)
    steps = (residual[around] - residual[around - 1]) * np.sign(jump[burst])[:, None]
    return np.unique(around[np.arange(burst.size), np.argmax(steps, axis=1)])


def segments(last: Ints, arrival: Floats, period: float) -> tuple[Ints, Ints, Floats]:
    """First burst of each segment but the first, segment of each burst, intercepts."""
    residual = arrival - period * last
    first = _shifts(residual, LEAST_LOSS * period)
    segment = np.searchsorted(first, np.arange(last.size), side="right")
    return first, segment, np.array([np.median(part) for part in np.split(residual, first)])


def frequent_losses(last: Ints, arrival: Floats, near: float) -> tuple[Ints, Ints, Floats, float]:
    """Return segments and period where samples were lost every few bursts.

    `near` is the period from one burst to the next. A burst and the two after it that are all late
    come after a loss.
    """
    residual = arrival - near * last
    least = minimum_filter1d(residual, 3, origin=-1, mode="nearest")
    most = maximum_filter1d(residual, 2, origin=0, mode="nearest")
    first = 1 + np.flatnonzero(least[1:] - most[:-1] > LEAST_LOSS * near)
    segment = np.searchsorted(first, np.arange(last.size), side="right")
    period = common_slope(last, arrival, segment)
    residual = arrival - period * last
    return first, segment, np.array([np.median(p) for p in np.split(residual, first)]), period


def shortest_period(last: Ints, arrival: Floats, lag: int) -> tuple[float, float]:
    """Period in the half of all stretches of `lag` bursts that agree best; and its error, s."""
    slope = np.sort((arrival[lag:] - arrival[:-lag]) / (last[lag:] - last[:-lag]))
    half = slope.size // 2
    best = int(np.argmin(slope[half:] - slope[: slope.size - half]))
    agree = slope[best : best + half + 1]
    # The mean of the shortest half converges with the cube root (Rousseeuw & Leroy, 1988).
    return float(agree.mean()), float(np.ptp(agree) / np.cbrt(last.size / lag))


def common_slope(index: Ints, arrival: Floats, segment: Ints) -> float:
    """Slope that all segments share, by least squares without the late packets."""
    keep = np.ones(index.size, dtype=bool)
    slope = 0.0
    for _ in range(3):
        mass = np.maximum(np.bincount(segment, keep), 1)
        x, y = (v - (np.bincount(segment, keep * v) / mass)[segment] for v in (index, arrival))
        slope = float((keep * x * y).sum() / (keep * x * x).sum())
        error = y - slope * x
        error = np.abs(error - np.median(error))
        keep = error <= 3 * MAD_TO_SD * np.median(error) + 1e-9
    return slope
