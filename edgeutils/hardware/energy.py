r"""From power to joules: the energy of every window of a trace.

A sample of an averaging monitor stands for the time half-way to its neighbours, so a window
may begin and end anywhere and takes its share of the samples at its edges. One cumulative
integral, :math:`E(t) = \int_{t_0}^{t} P\,\mathrm{d}t`, serves all windows: two look-ups each.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from edgeutils import EdgeError
from edgeutils.hardware.trace import Floats, Marks, PowerTrace

#: Period of the Monsoon's samples by its data sheet (5 kHz), s.
NOMINAL_PERIOD_S = 200e-6
#: A step of more periods than this is a gap: the power in it is unknown.
_GAP_PERIODS = 4.5
#: A window with a larger share of its time in a gap has no energy.
_MOST_GAP = 0.1
_BATCHES = 20
#: Halves that differ by more than this share and by 3 standard uncertainties: not stationary.
_DRIFT = 0.05


def naive_windows(
    trace: PowerTrace, marks: Marks, *, period_s: float = NOMINAL_PERIOD_S
) -> pd.DataFrame:
    """Do what a first script does: mask the samples by raw stamps, add up power x period.

    Parameters
    ----------
    trace
        Trace with the stamps of its file.
    marks
        Windows, taken as if the device had the monitor's clock.
    period_s
        Nominal time between samples, s.

    Returns
    -------
    pandas.DataFrame
        One row per window: `start_s`, `end_s`, `duration_s`, `count`, `samples` (that carry a
        stamp inside), `power_w` (their mean; NaN where there is none) and `energy_j` (their sum
        times the period; 0 where there is none, which is the fault to look at).
    """
    local = marks.on(trace)
    low, high = _inside(trace, local)
    total = np.concatenate([[0.0], np.cumsum(trace.power_w)])
    power_sum = total[high] - total[low]
    samples = high - low
    return _frame(local).assign(
        samples=samples,
        power_w=np.divide(power_sum, samples, out=np.full(samples.size, np.nan), where=samples > 0),
        energy_j=power_sum * period_s,
    )


def window_energy(
    trace: PowerTrace, marks: Marks, *, offset_s: float = 0.0, idle_w: float = 0.0
) -> pd.DataFrame:
    """Integrate the power over each window.

    Parameters
    ----------
    trace
        Trace on a rebuilt clock.
    marks
        Windows by the device's clock.
    offset_s
        What is added to the device's stamps to get the monitor's, s.
    idle_w
        Constant idle power that is subtracted, W.

    Returns
    -------
    pandas.DataFrame
        One row per window: `start_s`, `end_s` (on the monitor's clock, since the trace's epoch),
        `duration_s`, `count`, `samples`, `gap_s` (time without samples), `energy_j` of the
        window, `energy_per_inference_j` and `power_w`. Energy is NaN where the window leaves the
        trace or spends more than a tenth of its time in a gap: it was not measured.

    Examples
    --------
    >>> time_s = np.linspace(0.0, 1.0, 11)
    >>> ramp = PowerTrace(time_s, power_w=2 * time_s, meter="a ramp")
    >>> marks = Marks(np.array([0.25]), np.array([0.75]), np.array([1]))
    >>> round(window_energy(ramp, marks).loc[0, "energy_j"], 12)
    0.5
    """
    local = marks.on(trace, offset_s)
    frame = _frame(local)
    duration_s = frame["duration_s"].to_numpy()
    low, high = _inside(trace, local)
    held = _Held(trace)
    seen_s, seen_j = held.between(local.start_s, local.end_s)
    # What a gap of less than a tenth hides is taken to be like the rest of the window.
    known = held.covers(local.start_s, local.end_s) & (seen_s > (1 - _MOST_GAP) * duration_s)
    power_w = np.full(duration_s.size, np.nan)
    np.divide(seen_j, seen_s, out=power_w, where=known)
    power_w -= idle_w
    return frame.assign(
        samples=high - low,
        gap_s=np.maximum(duration_s - seen_s, 0),
        energy_j=power_w * duration_s,
        energy_per_inference_j=power_w * duration_s / local.count,
        power_w=power_w,
    )


@dataclass(frozen=True)
class EnergySummary:
    """Energy of one inference in a run.

    Attributes
    ----------
    inferences, windows
        Inferences and windows in the marks.
    mean_energy_j
        Mean energy per inference over the windows that have one, J.
    energy_per_period_j
        Energy from the first start to the last end over the inferences: with the pauses, J.
    u_j
        Standard uncertainty of `mean_energy_j` from the repeats alone, J: the spread of batch
        means, since inferences that follow each other are alike. NaN for one window.
    low95_j, high95_j
        95 % interval of the mean (Student's t on the batch means), J.
    share_without_samples
        Share of windows in which no sample lies.
    first_half_j, second_half_j
        Mean per inference over either half of the windows, J.
    flags
        `not_stationary` (the halves differ by more than 5 % and 3 standard uncertainties),
        `gaps` and `outside_trace` (windows left out for that reason).
    """

    inferences: int
    windows: int
    mean_energy_j: float
    energy_per_period_j: float
    u_j: float
    low95_j: float
    high95_j: float
    share_without_samples: float
    first_half_j: float
    second_half_j: float
    flags: tuple[str, ...]


def summarise(
    trace: PowerTrace, marks: Marks, *, offset_s: float = 0.0, idle_w: float = 0.0
) -> EnergySummary:
    """Energy per inference of a whole run, with an interval that respects drift within it.

    Parameters are those of `window_energy`.

    Raises
    ------
    EdgeError
        No window lies in the trace.
    """
    windows = window_energy(trace, marks, offset_s=offset_s, idle_w=idle_w)
    usable = windows.dropna(subset="energy_j")
    if usable.empty:
        raise EdgeError(
            f"none of the {len(windows)} windows lies in the part of the trace that has samples; "
            "check the clock offset and that both files are of one run"
        )
    mean, u_j = _batch_mean(usable)
    reach = stats.t.ppf(0.975, min(len(usable), _BATCHES) - 1) * u_j if len(usable) > 1 else np.nan
    half = len(usable) // 2
    first, first_u = _batch_mean(usable.iloc[:half]) if half else (np.nan, np.nan)
    second, second_u = _batch_mean(usable.iloc[half:])
    drift = abs(first - second)
    local = marks.on(trace, offset_s)
    outside = ~_Held(trace).covers(local.start_s, local.end_s)
    found = {
        "not_stationary": drift > _DRIFT * mean and drift > 3 * np.hypot(first_u, second_u),
        "gaps": bool((windows["energy_j"].isna() & ~outside).any()),
        "outside_trace": bool(outside.any()),
    }
    return EnergySummary(
        inferences=marks.inferences,
        windows=len(windows),
        mean_energy_j=mean,
        energy_per_period_j=_period_energy(trace, local, idle_w),
        u_j=u_j,
        low95_j=mean - reach,
        high95_j=mean + reach,
        share_without_samples=float((windows["samples"] == 0).mean()),
        first_half_j=first,
        second_half_j=second,
        flags=tuple(name for name, present in found.items() if present),
    )


def _batch_mean(windows: pd.DataFrame) -> tuple[float, float]:
    """Mean per inference and its standard uncertainty from consecutive batches."""
    energy, count = windows["energy_j"].to_numpy(), windows["count"].to_numpy()
    mean = float(energy.sum() / count.sum())
    batches = min(_BATCHES, energy.size)
    if batches < 2:
        return mean, float("nan")
    edges = np.linspace(0, energy.size, batches + 1).astype(int)[:-1]
    means = np.add.reduceat(energy, edges) / np.add.reduceat(count, edges)
    return mean, float(means.std(ddof=1) / np.sqrt(batches))


def _period_energy(trace: PowerTrace, local: Marks, idle_w: float) -> float:
    """Mean power outside gaps from first start to last end, times that span, per inference."""
    held = _Held(trace)
    start, end = local.start_s.min(), local.end_s.max()
    if not held.covers(start, end):
        return float("nan")
    seen_s, seen_j = held.between(start, end)
    return float((seen_j / seen_s - idle_w) * (end - start) / local.inferences)


class _Held:
    """Energy and time seen up to any instant, each sample held half-way to its neighbours."""

    def __init__(self, trace: PowerTrace) -> None:
        step = np.diff(trace.time_s)
        usual = float(np.median(step))
        # Beside a gap a sample stands for its own half period only: the rest was not seen.
        half = np.where(step > _GAP_PERIODS * usual, usual, step) / 2
        left = trace.time_s - np.concatenate([[usual / 2], half])
        right = trace.time_s + np.concatenate([half, [usual / 2]])
        self._edges = np.column_stack([left, right]).ravel()
        self._seen = _both_edges(right - left)
        self._energy = _both_edges((right - left) * trace.power_w)

    def covers(self, start_s: Floats, end_s: Floats) -> NDArray[np.bool_]:
        """Whether a window lies between first and last sample (gaps may be in it)."""
        return (start_s >= self._edges[0]) & (end_s <= self._edges[-1])

    def between(self, start_s: Floats, end_s: Floats) -> tuple[Floats, Floats]:
        """Seconds seen and joules seen in windows."""
        seen, energy = (
            np.interp(end_s, self._edges, total) - np.interp(start_s, self._edges, total)
            for total in (self._seen, self._energy)
        )
        return seen, energy


def _both_edges(parts: Floats) -> Floats:
    """Return the running total at the left and the right edge of each part."""
    total = np.cumsum(parts)
    return np.column_stack([total - parts, total]).ravel()


def _frame(local: Marks) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "start_s": local.start_s,
            "end_s": local.end_s,
            "duration_s": local.end_s - local.start_s,
            "count": local.count,
        }
    )


def _inside(trace: PowerTrace, local: Marks) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First sample at or after each start, first at or after each end."""
    low, high = (
        np.searchsorted(trace.time_s, t, side="left") for t in (local.start_s, local.end_s)
    )
    return low, high
