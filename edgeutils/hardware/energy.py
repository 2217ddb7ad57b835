r"""From power to joules per inference, with an uncertainty that adds up.

**What the number is.** `mean_energy_j` estimates *the energy of an inference of this workload in
a run like this one*: same device, same start, same length, same conditions (the repeatability
conditions of the GUM, JCGM 100:2008, B.2.15). The windows are a sample of those inferences; the
interval therefore holds the scatter between inferences, and it covers the mean of many such runs
95 times in 100. Set against the mean over just the windows that ran, it covers more often.

**The budget.** Five components, independent of each other, in J per inference:

.. math:: u^2 = u_\mathrm{meter}^2 + u_\mathrm{clock}^2 + u_\mathrm{edges}^2
                + u_\mathrm{idle}^2 + u_\mathrm{repeats}^2

- meter: the error of gain times the energy and the additive error times the duration, which do
  not average out; from the data sheet. Unknown, and not in the sum, where the maker states none.
  An idle power read in the same recording carries the same errors: its additive one cancels.
- clock: root mean square change of the mean when the windows are moved by plus and minus the
  uncertainty of the offset, and turned about their middle by that of the drift.
- edges: the mean is repaired for samples half inside a window (`edgeutils.hardware.integral`);
  this is the uncertainty of the repair. Windows shorter than two samples cannot be told from the
  pauses beside them, whose energy then counts as unknown.
- idle: the uncertainty of the idle power times the duration.
- repeats: long-run standard error of the mean, neighbours being alike
  (`edgeutils.hardware.uncertainty`). It is taken from the steady part and scaled to the whole
  where the run is stationary after a warm-up, from everything where it is not, and from the
  power inside the window where there is a single one with several inferences. With a single
  inference it is unknown, and so are the sum and the interval.

The noise of the samples is in the scatter of the windows, hence in repeats. The interval is
Student's t with the effective degrees of freedom of Welch and Satterthwaite (GUM, annex G).
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from edgeutils import EdgeError
from edgeutils.hardware.integral import (
    LEFT_ALONE,
    Edges,
    Integral,
    naive_windows,
    repair_edges,
    window_energy,
    windows_on,
)
from edgeutils.hardware.offset import OffsetEstimate
from edgeutils.hardware.trace import Floats, Marks, PowerTrace
from edgeutils.hardware.uncertainty import Budget, interval, repeats_u, slope_range, warm_up

__all__ = ["EnergySummary", "Idle", "Steady", "naive_windows", "summarise", "window_energy"]

#: Halves that differ by more than this share and by 3 standard uncertainties: not stationary.
_UNSTEADY = 0.05
#: A straight drift by more than this share, and by 3 standard uncertainties, is flagged.
_DRIFT = 0.01
_FEW_SAMPLES = 5
#: A window of fewer samples cannot be told from the pauses beside it.
_RESOLVED = 2
#: Windows on either side, at the least, that stand for windows lost in a gap.
_AROUND = 5
#: Parts in which the power of a single window is looked at.
_PARTS = 400
#: Columns with the change of each window where the clocks are moved by their uncertainty.
_MOVES = ("later", "earlier", "turned", "turned_back")


@dataclass(frozen=True)
class Idle:
    """What is subtracted as idle power."""

    policy: str = "none"  # one of the idle policies of the measurement table
    power_w: float = 0.0  # W
    u_w: float = 0.0  # standard uncertainty, W
    freedom: float = np.inf  # its degrees of freedom


@dataclass(frozen=True)
class Steady:
    """The run without its warm-up; NaN where what is left is not stationary either."""

    inferences: int = 0
    mean_energy_j: float = np.nan  # per inference, J
    u_j: float = np.nan  # standard uncertainty, with all components of the budget, J


@dataclass(frozen=True)
class EnergySummary:
    """Energy of one inference in a run."""

    inferences: int  # in all windows of the marks
    mean_energy_j: float  # per inference over the windows that have an energy, J
    energy_per_period_j: float  # from first start to last end, so with the pauses, J per inference
    u_j: float  # standard uncertainty of the mean, J; NaN: the repeats are unknown
    low95_j: float  # 95 % interval of the mean, J
    high95_j: float
    budget: Budget  # components of `u_j`, J
    freedom: float  # effective degrees of freedom of `u_j`
    steady: Steady
    share_without_samples: float  # share of windows in which no sample lies
    first_half_j: float  # mean per inference over either half of the windows, J
    second_half_j: float
    edges: Edges  # the repair of the partial samples
    #: As `window_energy`, with the edges repaired; beside it `u_j`, the standard uncertainty of
    #: `energy_j` by meter, clock, edges and idle, and `flags`, shape (m,).
    windows: pd.DataFrame
    flags: tuple[str, ...]  # explained in `flags.yml`


def summarise(
    trace: PowerTrace,
    marks: Marks,
    *,
    offset: OffsetEstimate | float = 0.0,
    idle: Idle | float = 0.0,
    repair: bool = True,
) -> EnergySummary:
    """Energy per inference of a whole run, with the budget of its uncertainty.

    The trace has a rebuilt clock. `offset` takes the device's stamps to the monitor's (a number,
    s, has no uncertainty), `idle` is subtracted (likewise, W), and `repair` = False leaves samples
    half inside a window as they are. EdgeError if no window lies in the trace.
    """
    if not isinstance(offset, OffsetEstimate):
        offset = OffsetEstimate(float(offset), 0.0)
    if not isinstance(idle, Idle):
        idle = Idle("constant" if idle else "none", float(idle))
    integral = Integral(trace)
    local = marks.on(trace, offset.offset_s, offset.drift)
    windows = windows_on(trace, local, integral, idle.power_w)
    known = windows["energy_j"].notna().to_numpy()
    if not known.any():
        raise EdgeError(
            f"none of the {len(windows)} windows lies in the part of the trace that has samples; "
            "check the clock offset and that both files are of one run"
        )
    windows["weight"] = _weights(windows, known)
    run = _Run(trace, integral, offset, idle, _mend(windows, known, integral, repair))
    _spread(windows, run)
    used = windows[known].sort_values("start_s", kind="stable")
    rest = used.iloc[warm_up(_each(used)) :]
    unsteady, (first, second), repeats, rest_repeats = _scatter(used, rest, integral)
    budget, freedoms = _budget(used, repeats, run)
    u_j, freedom = budget.total(freedoms)
    low95_j, high95_j = interval(_mean(used), u_j, freedom)
    steady = Steady()
    if not _halves(rest)[0]:
        steady_u = Budget.total(*_budget(rest, rest_repeats, run))[0]
        steady = Steady(int(rest["count"].sum()), _mean(rest), steady_u)
    found, windows["flags"] = _flags(windows, integral, known)
    change, change_u = slope_range(_each(rest))
    drifts = abs(change) > max(_DRIFT * abs(_mean(used)), 3 * change_u)
    found |= {"not_stationary": unsteady, "heat_drift": drifts and not unsteady}
    return EnergySummary(
        inferences=marks.inferences,
        mean_energy_j=_mean(used),
        energy_per_period_j=_period_j(windows, run, marks.inferences),
        u_j=u_j,
        low95_j=low95_j,
        high95_j=high95_j,
        budget=budget,
        freedom=freedom,
        steady=steady,
        share_without_samples=float((windows["samples"] == 0).mean()),
        first_half_j=first,
        second_half_j=second,
        edges=run.edges,
        windows=windows.drop(columns=["outside_s", "weight", *_MOVES]),
        flags=tuple(name for name, present in found.items() if present),
    )


@dataclass(frozen=True)
class _Run:
    """What the uncertainty of a run depends on, beside its windows."""

    trace: PowerTrace
    integral: Integral
    offset: OffsetEstimate
    idle: Idle
    edges: Edges


def _mend(
    windows: pd.DataFrame, known: NDArray[np.bool_], integral: Integral, repair: bool
) -> Edges:
    """Add to the windows what samples at their edges owe them."""
    start_s, end_s = windows.loc[known, ["start_s", "end_s"]].to_numpy().T
    used, edges = windows[known].sort_values("start_s", kind="stable"), LEFT_ALONE
    if repair:
        warm_s = used["start_s"].iloc[warm_up(_each(used))]
        edges = repair_edges(integral, start_s, end_s, from_s=warm_s)
    windows["outside_s"] = 0.0
    windows.loc[known, "energy_j"] += edges.owed_j
    windows.loc[known, "outside_s"] += edges.outside_s
    windows["energy_per_inference_j"] = windows["energy_j"] / windows["count"]
    windows["power_w"] = windows["energy_j"] / windows["duration_s"]
    return edges


def _spread(windows: pd.DataFrame, run: _Run) -> None:
    """Give each window its change where the clocks are moved, and its standard uncertainty."""
    start_s, end_s, duration_s = windows[["start_s", "end_s", "duration_s"]].to_numpy().T
    still_j, by_s = run.integral.energy_j(start_s, end_s), run.offset.u_s
    turn_s = run.offset.drift_u * (start_s - (start_s.min() + end_s.max()) / 2)
    for name, move_s in zip(_MOVES, (by_s, -by_s, turn_s, -turn_s), strict=True):
        moved = (
            run.integral.energy_j(start_s + move_s, end_s + move_s) if np.any(move_s) else still_j
        )
        windows[name] = moved - still_j
    moved_j = _moved(windows[list(_MOVES)].to_numpy().T)
    gain_j, error_j = _meter(windows["energy_j"].to_numpy(), duration_s, run)
    doubt_w = np.hypot(run.edges.outside_u_w, run.edges.scatter_w)
    parts = gain_j, error_j, moved_j, doubt_w * windows["outside_s"], run.idle.u_w * duration_s
    windows["u_j"] = np.sqrt(sum(part**2 for part in parts))


def _moved(change_j: Floats) -> Floats:
    """Uncertainty by changes under plus and minus that of the offset, and of the drift."""
    return np.sqrt((change_j**2).sum(axis=0) / 2)


def _meter(energy_j: Floats, duration_s: Floats, run: _Run) -> tuple[Floats, Floats]:
    """Uncertainty by the errors of gain and of offset of the instrument, J."""
    meter, policy = run.trace.meter, run.idle.policy
    same_meter = policy in ("recorded", "surrounding")
    read_j = energy_j + (0.0 if same_meter else run.idle.power_w) * duration_s
    gain_j = (meter.gain_u or 0.0) * np.abs(read_j)
    return gain_j, (policy != "surrounding") * meter.offset_u_w * duration_s


def _budget(used: pd.DataFrame, repeats: tuple[float, float], run: _Run) -> tuple[Budget, Budget]:
    """Components of the mean over some windows, J per inference, and their degrees of freedom."""
    columns = ["energy_j", "duration_s", "outside_s", *_MOVES]
    total = used[columns].mul(used["weight"], axis=0).sum() / (used["count"] @ used["weight"])
    meter = np.hypot(*_meter(total["energy_j"], total["duration_s"], run))
    stated = run.trace.meter.gain_u is not None or run.trace.meter.offset_u_w > 0
    components = Budget(
        meter=float(meter) if stated else np.nan,
        clock=float(_moved(total[list(_MOVES)].to_numpy())),
        edges=float(np.hypot(run.edges.outside_u_w * total["outside_s"], _unresolved(used, run))),
        idle=float(run.idle.u_w * total["duration_s"]),
        repeats=float(repeats[0]),
    )
    return components, Budget(
        np.inf, np.inf, run.edges.freedom, run.idle.freedom, float(repeats[1])
    )


def _unresolved(used: pd.DataFrame, run: _Run) -> float:
    """Uncertainty of the mean by windows too short to be told from the pauses, J per inference.

    What windows and pauses take together is known. Of windows shorter than two samples the part of
    the pauses is not: it may lie anywhere between nothing and twice what was found.
    """
    share = float((used["duration_s"] < _RESOLVED * run.integral.period_s).mean())
    if not share:
        return 0.0
    pause_j = _period_j(used, run, float(used["count"] @ used["weight"])) - _mean(used)
    return share * abs(_mean(used) if np.isnan(pause_j) else pause_j) / float(np.sqrt(3))


def _weights(windows: pd.DataFrame, known: NDArray[np.bool_]) -> Floats:
    """How many windows each stands for: one lost in a gap counts as those around it.

    A run that warms up would else be judged by the part that was seen.
    """
    order = np.argsort(windows["start_s"].to_numpy(), kind="stable")
    at, weight = np.flatnonzero(known[order]), np.ones(len(windows))
    lost = np.diff(at) - 1
    for before in np.flatnonzero(lost):
        reach = max(int(lost[before]) // 2, _AROUND)
        for around in (at[: before + 1][-reach:], at[before + 1 :][:reach]):
            weight[order[around]] += lost[before] / 2 / around.size
    return weight


def _mean(used: pd.DataFrame) -> float:
    if not len(used):
        return np.nan
    return float((used["energy_j"] @ used["weight"]) / (used["count"] @ used["weight"]))


def _each(used: pd.DataFrame) -> Floats:
    """Energy of each window per inference of the mean window, J; their mean is `_mean`."""
    count, mean = used["count"].to_numpy(), _mean(used)
    return mean + (used["energy_j"].to_numpy() - mean * count) / count.mean()


def _scatter(
    used: pd.DataFrame, rest: pd.DataFrame, integral: Integral
) -> tuple[bool, tuple[float, float], tuple[float, float], tuple[float, float]]:
    """Whether the run is not stationary, its halves; repeats of the whole and of the rest."""
    alone = repeats_u(_each(rest)) if len(used) > 1 else _within(used, integral)
    whole = alone[0] * float(np.sqrt(len(rest) / len(used))), alone[1]
    unsteady, halves = _halves(used, whole[0])
    return unsteady, halves, repeats_u(_each(used)) if unsteady else whole, alone


def _halves(used: pd.DataFrame, rest_u: float = np.inf) -> tuple[bool, tuple[float, float]]:
    """Whether the halves differ by more than a share and by 3 uncertainties; and their means.

    `rest_u` is the uncertainty that the mean would have by the part without warm-up: the scatter
    of a half that holds a warm-up would hide it.
    """
    halves = used.iloc[: len(used) // 2], used.iloc[len(used) // 2 :]
    first, second = (_mean(half) for half in halves)
    first_u, second_u = (repeats_u(_each(half))[0] if len(half) else np.nan for half in halves)
    u = np.minimum(np.hypot(first_u, second_u), 2 * rest_u)
    differ = abs(first - second) > np.maximum(_UNSTEADY * abs(_mean(used)), 3 * u)
    return bool(differ), (first, second)


def _within(used: pd.DataFrame, integral: Integral) -> tuple[float, float]:
    """Repeats of a single window with several inferences, by its power; NaN for one inference."""
    count, samples, start_s, end_s = used.iloc[0][["count", "samples", "start_s", "end_s"]]
    parts = min(_PARTS, int(samples) // _FEW_SAMPLES)
    if count < 2 or parts < 2 * _FEW_SAMPLES:
        return np.nan, np.nan
    edges_s = np.linspace(start_s, end_s, parts + 1)
    return repeats_u(integral.energy_j(edges_s[:-1], edges_s[1:]) * parts / count)


def _period_j(windows: pd.DataFrame, run: _Run, inferences: float) -> float:
    """Energy from first start to last end; a gap draws what was drawn before and after it."""
    begin, end, integral = windows["start_s"].min(), windows["end_s"].max(), run.integral
    if begin < integral.first_s or end > integral.last_s:
        return np.nan
    low, high = np.clip(integral.holes_s, begin, end).T
    reach_s = np.minimum(high - low, np.minimum(low - begin, end - high))
    reach_s = np.maximum(reach_s, integral.period_s)
    beside = np.array([low - reach_s, high]), np.array([low, high + reach_s])
    seen_s = np.maximum(integral.seen_s(*beside).sum(axis=0), 1e-12)
    hidden_j = integral.energy_j(*beside).sum(axis=0) / seen_s * (high - low)
    total_j = integral.energy_j(begin, end) + hidden_j.sum() - run.idle.power_w * (end - begin)
    return float(total_j / inferences)


def _flags(
    windows: pd.DataFrame, integral: Integral, known: NDArray[np.bool_]
) -> tuple[dict[str, bool], list[tuple[str, ...]]]:
    """Find what is odd about the windows: of the run, and of each."""
    start_s, end_s = windows["start_s"].to_numpy(), windows["end_s"].to_numpy()
    inside = (start_s >= integral.first_s) & (end_s <= integral.last_s)
    order = np.argsort(start_s, kind="stable")
    overlap = np.zeros(start_s.size, dtype=bool)
    reached_s = np.maximum.accumulate(end_s[order])[:-1]
    # Stamps are whole microseconds at best: less is rounding.
    overlap[order[1:]] = start_s[order[1:]] < reached_s - 1e-6
    each = {
        "gaps": inside & ~known,
        "outside_trace": ~inside,
        "overlapping_marks": overlap,
        "few_samples": known & (windows["samples"].to_numpy() < _FEW_SAMPLES),
        "rate_too_low": known & (end_s - start_s < _RESOLVED * integral.period_s),
    }
    codes = sum(present.astype(int) << bit for bit, present in enumerate(each.values()))
    names = {
        code: tuple(name for bit, name in enumerate(each) if code >> bit & 1)
        for code in np.unique(codes)
    }
    found = {name: bool(present.any()) for name, present in each.items()}
    return found | {"one_window": int(known.sum()) == 1}, [names[code] for code in codes]
