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
    trace: PowerTrace, marks: Marks, *, offset_s: float = 0.0, idle_w: float = 0.0
) -> pd.DataFrame:
    """Integrate the power over each window.

    The trace has a rebuilt clock, the marks are by the device's. `offset_s` is added to the
    device's stamps to get the monitor's, s, and `idle_w`, a constant idle power, is subtracted, W.
    The result has a row per window: `start_s`, `end_s` (on the monitor's clock, since the trace's
    epoch), `duration_s`, `count`, `samples`, `gap_s` (time without samples), `energy_j` of the
    window, `energy_per_inference_j` and `power_w`. Energy is NaN where the window leaves the
    trace or spends more than a tenth of its time in a gap: it was not measured.

    Examples
    --------
    >>> time_s = np.linspace(0.0, 1.0, 11)
    >>> ramp = PowerTrace(time_s, power_w=2 * time_s, meter="a ramp")
    >>> marks = Marks(np.array([0.25]), np.array([0.75]), np.array([1]))
    >>> float(round(window_energy(ramp, marks).loc[0, "energy_j"], 12))
    0.5
    """
    local = marks.on(trace, offset_s)
    frame = _frame(trace, local)
    seen_s, seen_j, inside = _seen(trace, local.start_s, local.end_s)
    # What a gap of less than a tenth hides is taken to be like the rest of the window.
    known = inside & (seen_s > (1 - _MOST_GAP) * frame["duration_s"])
    power_w = seen_j / np.where(known, seen_s, np.nan) - idle_w
    energy_j = power_w * frame["duration_s"]
    return frame.assign(
        gap_s=np.maximum(frame["duration_s"] - seen_s, 0),
        energy_j=energy_j,
        energy_per_inference_j=energy_j / frame["count"],
        power_w=power_w,
    )


@dataclass(frozen=True)
class EnergySummary:
    """Energy of one inference in a run."""

    inferences: int  # in all windows of the marks
    mean_energy_j: float  # per inference over the windows that have an energy, J
    energy_per_period_j: float  # from first start to last end, so with the pauses, J per inference
    u_j: float  # standard uncertainty of the mean from the repeats alone, J; NaN for one window
    low95_j: float  # 95 % interval of the mean (Student's t on the batch means), J
    high95_j: float
    share_without_samples: float  # share of windows in which no sample lies
    first_half_j: float  # mean per inference over either half of the windows, J
    second_half_j: float
    #: `not_stationary` (the halves differ by more than 5 % and 3 standard uncertainties),
    #: `gaps` and `outside_trace` (windows left out for that reason).
    flags: tuple[str, ...]


def summarise(
    trace: PowerTrace, marks: Marks, *, offset_s: float = 0.0, idle_w: float = 0.0
) -> EnergySummary:
    """Energy per inference of a whole run, with an interval that respects drift within it.

    Parameters are those of `window_energy`. EdgeError if no window lies in the trace.
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
    inside = _seen(trace, windows["start_s"], windows["end_s"])[2]
    begin, end = windows["start_s"].min(), windows["end_s"].max()
    seen_s, seen_j, _ = _seen(trace, begin, end)
    period_j = float((seen_j / seen_s - idle_w) * (end - begin) / marks.inferences)
    found = {
        "not_stationary": drift > _DRIFT * mean and drift > 3 * np.hypot(first_u, second_u),
        "gaps": (windows["energy_j"].isna() & inside).any(),
        "outside_trace": not inside.all(),
    }
    return EnergySummary(
        inferences=marks.inferences,
        mean_energy_j=mean,
        energy_per_period_j=period_j if inside.all() else np.nan,
        u_j=u_j,
        low95_j=mean - reach,
        high95_j=mean + reach,
        share_without_samples=float((windows["samples"] == 0).mean()),
        first_half_j=first,
        second_half_j=second,
        flags=tuple(name for name, present in found.items() if present),
    )


def _batch_mean(windows: pd.DataFrame) -> tuple[float, float]:
    """Mean per inference, and its standard uncertainty by batches, as neighbours are alike."""
    energy, count = windows["energy_j"].to_numpy(), windows["count"].to_numpy()
    mean = float(energy.sum() / count.sum())
    batches = min(_BATCHES, energy.size)
    if batches < 2:
        return mean, np.nan
    edges = np.linspace(0, energy.size, batches, endpoint=False).astype(int)
    means = np.add.reduceat(energy, edges) / np.add.reduceat(count, edges)
    return mean, float(means.std(ddof=1) / np.sqrt(batches))


def _seen(
    trace: PowerTrace, start_s: Floats, end_s: Floats
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Seconds and joules seen in windows, and whether they lie between first and last sample.

    Each sample is held half-way to its neighbours; gaps add neither time nor energy.
    """
    step = np.diff(trace.time_s)
    usual = float(np.median(step))
    # Beside a gap a sample stands for its own half period only: the rest was not seen.
    half = np.where(step > _GAP_PERIODS * usual, usual, step) / 2
    left = trace.time_s - np.hstack([usual / 2, half])
    right = trace.time_s + np.hstack([half, usual / 2])
    edges = np.column_stack([left, right]).ravel()

    def seen(held: Floats) -> Floats:
        total = np.cumsum(held)
        until = np.column_stack([total - held, total]).ravel()
        return np.interp(end_s, edges, until) - np.interp(start_s, edges, until)

    inside = (start_s >= edges[0]) & (end_s <= edges[-1])
    return seen(right - left), seen((right - left) * trace.power_w), inside


def _frame(trace: PowerTrace, local: Marks) -> pd.DataFrame:
    """Windows, and the samples from each start to before each end."""
    low, high = np.searchsorted(trace.time_s, [local.start_s, local.end_s])
    frame = pd.DataFrame({"start_s": local.start_s, "end_s": local.end_s})
    duration_s = local.end_s - local.start_s
    return frame.assign(duration_s=duration_s, count=local.count, samples=high - low)
