"""The whole path from files to joules, and its result as one JSON value.

The order is: read, rebuild the clock, mend the samples, find the offset, subtract the idle power,
integrate, and say how well the result is known.
"""

from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from edgeutils import EdgeError
from edgeutils.hardware.clock import ClockReport, OffsetEstimate, estimate_offset, rebuild_clock
from edgeutils.hardware.energy import EnergySummary, Idle, summarise
from edgeutils.hardware.readers import read_marks, read_trace
from edgeutils.hardware.samples import mend_samples
from edgeutils.hardware.trace import Marks, PowerTrace
from edgeutils.hardware.uncertainty import interval, repeats_u
from edgeutils.table import BOUNDARIES

#: Time beside the windows that is no idle time: a device loads before them and cleans up after, s.
GUARD_S = 0.2
_LEAST_IDLE = 20
_WINDOW = ["start_s", "end_s", "inferences", "energy_j", "energy_per_inference_j", "u_j"]
_WINDOW += ["low95_j", "high95_j", "samples", "flags", "official_energy_j", "name"]
_SUMMARY = ("inferences", "mean_energy_j", "energy_per_period_j", "u_j", "low95_j", "high95_j")


@dataclass(frozen=True)
class Measurement:
    """A trace and its marks on their way to joules, with all that was found."""

    trace: PowerTrace  # on a rebuilt clock, samples mended
    marks: Marks
    clock: ClockReport
    offset: OffsetEstimate
    idle: Idle
    summary: EnergySummary
    flags: tuple[str, ...]  # of all steps; `explain` has a sentence for each


@cache
def explain() -> dict[str, str]:
    """Return a sentence for each flag that a measurement can carry."""
    return yaml.safe_load(Path(__file__).with_name("flags.yml").read_text(encoding="utf-8"))


def idle_power(policy: str, trace: PowerTrace, marks: Marks) -> Idle:
    """Idle power by a policy: `none`, `const:W`, `recorded:FILE` or `surrounding`.

    The marks are on the trace's clock. A recorded idle trace gives the mean of its samples.
    `surrounding` takes the power before the first window and after the last, without the 0.2 s
    next to them and to a sync pulse; where the two sides differ, half the difference over the
    root of 3 is part of the uncertainty. EdgeError: another policy, no number, or too little time
    outside the windows.
    """
    name, _, argument = policy.partition(":")
    if name == "const":
        return Idle("constant", _watts(argument))
    if name == "recorded" and argument:
        recorded = mend_samples(rebuild_clock(read_trace(argument))[0])
        return Idle("recorded", *_mean_power(recorded.power_w))
    if policy == "surrounding":
        return _surrounding(trace, marks)
    if policy != "none":
        raise EdgeError(
            f"--idle is {policy!r}, expected none, const:W (watts), recorded:FILE (an idle trace) "
            "or surrounding"
        )
    return Idle()


def _surrounding(trace: PowerTrace, marks: Marks) -> Idle:
    around_s = marks.start_s.min() - GUARD_S, marks.end_s.max() + GUARD_S
    low, high = np.searchsorted(trace.time_s, around_s)
    resting = np.ones(trace.power_w.size, dtype=bool)
    for begin_s, end_s in marks.sync_s:
        resting[slice(*np.searchsorted(trace.time_s, [begin_s - GUARD_S, end_s + GUARD_S]))] = False
    both = [trace.power_w[side][resting[side]] for side in (slice(low), slice(high, None))]
    sides = [side for side in both if side.size >= _LEAST_IDLE]
    if not sides:
        raise EdgeError(
            f"--idle surrounding needs {_LEAST_IDLE} samples or more at least {GUARD_S} s before "
            f"the first window or after the last, found {both[0].size} and {both[1].size}; "
            "record for longer around the run, or use --idle recorded:FILE"
        )
    means, us, freedoms = np.transpose([_mean_power(side) for side in sides])
    u_w = np.hypot(np.sqrt((us**2).sum()) / len(sides), np.ptp(means) / 2 / np.sqrt(3))
    return Idle("surrounding", float(means.mean()), float(u_w), float(freedoms.sum()))


def _watts(text: str) -> float:
    try:
        power_w = float(text)
    except ValueError:
        power_w = np.nan
    if not np.isfinite(power_w):
        raise EdgeError(f"--idle const:W takes a power in watts such as const:0.35, not {text!r}")
    return power_w


def _mean_power(power_w: np.ndarray) -> tuple[float, float, float]:
    """Mean of samples, W, its standard uncertainty and the degrees of freedom of that."""
    return float(power_w.mean()), *repeats_u(np.asarray(power_w, dtype=np.float64))


def analyse(
    trace: PowerTrace, marks: Marks, *, idle: str = "none", offset: OffsetEstimate | None = None
) -> Measurement:
    """Take a trace as it was read, and its marks, to joules.

    `offset` None: marks by the clock of the trace keep their place, that of others is estimated.
    EdgeError: no window lies in the trace, its mean power is negative, or the offset or the idle
    power cannot be found.
    """
    mean_w = float(trace.power_w.mean())
    if mean_w < 0:
        raise EdgeError(
            f"the mean power is {mean_w:.3g} W, expected above 0; the probe is "
            "the wrong way round, so change the sign of the current"
        )
    rebuilt, clock = rebuild_clock(trace)
    mended = mend_samples(rebuilt)
    offset = offset or estimate_offset(mended, marks)
    placed = marks.on(mended, offset.offset_s, offset.drift)
    subtracted = idle_power(idle, mended, placed)
    summary = summarise(mended, marks, offset=offset, idle=subtracted)
    found = {
        "lost_samples": clock.lost_samples > 0,
        "repeated_samples": clock.repeated_samples > 0,
        "backward_stamps": clock.backward_stamps > 0,
        "clock_set_back": clock.set_back_s > 0,
        "meter_unspecified": mended.meter.gain_u is None,
        "negative_energy": bool((summary.windows["energy_j"] < 0).any()),
    }
    flags = (*mended.flags, *(name for name, present in found.items() if present))
    flags = tuple(dict.fromkeys((*flags, *offset.flags, *summary.flags)))
    return Measurement(mended, marks, clock, offset, subtracted, summary, flags)


def load(
    path: str | Path,
    *,
    marks: str | Path | None = None,
    boundary: str | None = None,
    meter: str | None = None,
    voltage_v: float | None = None,
) -> tuple[PowerTrace, Marks]:
    """Read a trace and its marks.

    `marks` None: those that came with the trace; `boundary` and `meter` None: what the file says;
    `voltage_v`: supply voltage for a file that holds a current only, V.
    EdgeError for what cannot be read, an unknown boundary or meter, and a trace without marks.
    """
    if boundary is not None and boundary not in BOUNDARIES:
        raise EdgeError(f"--boundary is {boundary!r}, expected one of {', '.join(BOUNDARIES)}")
    trace = read_trace(path, meter=meter, voltage_v=voltage_v)
    windows = trace.marks if marks is None else read_marks(marks)
    if windows is None:
        raise EdgeError(
            f"{Path(path).name} has no marks of its own; give the windows in which inferences ran "
            "with --marks FILE, a CSV with columns start_s and end_s (or _ms, _us, _ns)"
        )
    return replace(trace, boundary=boundary or trace.boundary), windows


def report(found: Measurement) -> dict[str, Any]:
    """Return a measurement as the JSON value of `edgeutils energy`; null for what is not known.

    In `windows`, `u_j` and the interval are those of `energy_j` by meter, clock, edges and idle:
    how well this window is known, whatever others took. At the top they are those of
    `mean_energy_j`. `start_s` and `end_s` count from `epoch_us` on the monitor's clock.
    """
    summary, meter, official_j = found.summary, found.trace.meter, found.marks.official_j
    windows = summary.windows.rename(columns={"count": "inferences"})
    limits = interval(windows["energy_j"].to_numpy(), windows["u_j"].to_numpy(), np.inf)
    windows["low95_j"], windows["high95_j"] = limits
    more = {"official_energy_j": official_j, "name": found.marks.name or None}
    windows = windows.assign(
        **{name: values for name, values in more.items() if values is not None}
    )
    steady = asdict(summary.steady) | {"inferences": summary.steady.inferences or None}
    clock = {"period_s": found.clock.period_s, "offset_s": found.offset.offset_s}
    clock |= {"offset_u_s": found.offset.u_s, "lost_samples": found.clock.lost_samples}
    clock |= {"drift": found.offset.drift, "drift_u": found.offset.drift_u}
    return _plain(
        {"windows": windows[[name for name in _WINDOW if name in windows]].to_dict("records")}
        | {name: getattr(summary, name) for name in _SUMMARY}
        | {"steady": steady, "budget": asdict(summary.budget)}
        | {"idle_policy": found.idle.policy, "boundary": found.trace.boundary}
        | {"clock": clock, "flags": found.flags, "epoch_us": found.trace.epoch_us}
        | {"idle": {"power_w": found.idle.power_w, "u_w": found.idle.u_w}}
        | {"meter": {n: getattr(meter, n) for n in ("name", "gain_u", "offset_u_w", "source")}}
    )


def _plain(value: Any) -> Any:
    """Python's own types, NaN and infinity as None."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
