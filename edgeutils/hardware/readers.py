"""Read what monitors, meters and devices wrote: power traces, and the marks of a device's work.

The format is told by the content of a file, never by its name. Tables are read by the names and
units of their columns (`instruments.yml` lists words, units and the exports of known instruments).
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from edgeutils.hardware.mlperf_logs import LOGS, find_log, read_log
from edgeutils.hardware.tables import blocks_of, find_layout, head_of, reading, table_of
from edgeutils.hardware.trace import Floats, Marks, MeterSpec, PowerTrace, require

#: Columns of the Monsoon's CSV. "Time(ms)" is a misnomer: it holds microseconds since 1970 at
#: which the sample reached the host over USB (github.com/msoon/PyMonsoon, issue 37).
MONSOON_COLUMNS = ("Time(ms)", "Main(mA)", "Main Voltage(V)")
#: A stamp that lies further before the one above it belongs to another recording, s.
_JOINED_S = 1.0
#: The unit of a stamp is told from the rate if that comes out within this factor.
_RATE_FACTOR = 3.0
#: No stamp is further from the origin of its clock, s (300 years).
_LONGEST_S = 1e10
#: Currents and voltages are kept beside the power, in half of its digits.
_KINDS = {"time": "f8", "power": "f8", "current": "f4", "voltage": "f4"}
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
#: Columns of stamps in a file of marks: how many of the unit are a second.
_STAMPS = {f"{edge}_{unit}": n for edge in ("start", "end") for unit, n in _PER_SECOND.items()}
_EXPECTED_MARKS = "a marks file: columns start and end, suffix _s, _ms, _us or _ns"
_OWN_POWER = "the file holds a voltage or a power of its own; leave the supply voltage out"
_EXPECTED = (
    "a power trace: a CSV with named columns and units such as time_s,power_w or "
    "time_us,current_ma,voltage_v, or a log of MLPerf Tiny or Inference"
)


def read_trace(
    path: str | Path, *, meter: str | MeterSpec | None = None, voltage_v: float | None = None
) -> PowerTrace:
    """Read a power trace: a file, the gzip of one, or the folder of an MLPerf run.

    Parameters
    ----------
    path
        A CSV (Monsoon, Nordic PPK2, Joulescope, or any with a time and a power, or a current and
        a voltage, whose names end in a unit), `trace1-energy.bin` or `results.json` of MLPerf
        Tiny, `spl.txt` of MLPerf Inference, or the folder that holds one of these three; their
        windows come along as `marks`.
    meter
        Instrument, by its name in `instruments.yml`; None: the one that the file gives away.
    voltage_v
        Supply voltage for a file that holds a current only, V.

    Stamps stay as they are: those of a Monsoon are arrival times, and small steps back pass with
    the flag `backward_stamps` (`edgeutils.hardware.clock.rebuild_clock` repairs both). A torn last
    line is left out (flag `torn_last_line`); `PowerTrace.oddities` explains the other flags.
    EdgeError: no trace, an unknown format, a line in the middle that is no number, stamps that
    jump back by more than a second, a file that is too large.
    """
    path = Path(path)
    spec = meter_spec(meter) if isinstance(meter, str) else meter
    require(voltage_v is None or 0 < voltage_v < np.inf, "expected a supply voltage above 0 V")
    with reading(path):
        if log := find_log(path):
            require(voltage_v is None, _OWN_POWER)
            trace = read_log(*log, spec or meter_spec(LOGS[log[1]][1]))
        else:
            trace = _read_table(path, spec, voltage_v)
    return replace(trace, flags=trace.flags + trace.oddities())


def read_marks(path: str | Path) -> Marks:
    """Read windows from a CSV with columns start and end, suffix _s, _ms, _us or _ns.

    A column `count` gives the inferences in each window (1 where it is missing), `name` what ran;
    rows named `sync` are the busy spells of a sync pulse. Other columns are left alone. EdgeError:
    a column is missing or there twice in different units, a value is no number, a window ends
    before it starts, or there is none.
    """
    path = Path(path)
    with reading(path):
        layout = find_layout(head_of(path), _rate_marks, _EXPECTED_MARKS)
        wanted, units = {}, {}
        for edge in ("start", "end"):
            index, units[edge] = _stamp_column(layout.header, edge)
            wanted[edge] = index, "stamp"
        for column, kind in (("count", "number"), ("name", "text")):
            if column in layout.header:
                wanted[column] = layout.header.index(column), kind
        values, torn = table_of(path, layout, wanted)
        require(not torn, "the last line is cut off; remove it or record again")
        epoch_us = _whole_us(values["start"][0], units["start"])
        span_s = np.column_stack([_since(values[e], units[e], epoch_us) for e in units])
        count = values.get("count", np.ones(len(span_s)))
        name = values.get("name", np.full(len(span_s), "")).astype(str)
        work = np.char.lower(np.char.strip(name)) != "sync"
        require(bool(work.any()), "0 inferences: the file holds sync pulses only")
        require(bool((count == np.rint(count)).all()), "count should hold whole numbers")
        names = tuple(name[work].tolist()) if "name" in wanted else ()
        (start_s, end_s), counts = span_s[work].T, count[work].astype(np.int64)
        return Marks(start_s, end_s, counts, epoch_us, names, sync_s=span_s[~work])


def meter_spec(name: str) -> MeterSpec:
    """Look an instrument up by its name in `instruments.yml`.

    The stated limits become standard uncertainties (limit over the root of 3, GUM 4.3.7);
    `gain_u` is None where the maker states none. EdgeError, listing the names, if it is unknown.
    """
    known = _facts()["instruments"]
    require(name in known, f"no instrument is called {name!r}; known: {', '.join(sorted(known))}")
    entry = known[name]
    limits = entry["gain_limits"]
    return MeterSpec(
        name=entry["name"],
        gain_u=None if limits is None else float(np.sqrt(np.square(limits).sum() / 3)),
        offset_u_w=float(entry.get("offset_limit_w", 0) / np.sqrt(3)),
        range_w=float(entry.get("range_w", np.inf)),
        source=entry["source"],
    )


@cache
def _facts() -> dict[str, Any]:
    return yaml.safe_load(Path(__file__).with_name("instruments.yml").read_text(encoding="utf-8"))


def _read_table(path: Path, meter: MeterSpec | None, voltage_v: float | None) -> PowerTrace:
    layout = find_layout(head_of(path), _rate_trace, _EXPECTED)
    found, recipe = _found(layout.header), _recipe(layout.header)
    _check_columns(layout.header, found, recipe.get("hint", ""), voltage_v)
    wanted = {q: (i, "stamp" if q == "time" else "number") for q, (i, _) in found.items()}
    # Bytes that grow in place keep the heap whole; a list of arrays takes half as much again.
    stored: dict[str, bytearray] = defaultdict(bytearray)
    clock, cut = (0, 0), False
    for columns, torn in blocks_of(path, layout, wanted):
        cut |= torn
        stamps = columns.pop("time")
        if not stored:
            clock = _clock(stamps, found["time"][1], recipe.get("rate_hz"))
        values: dict[str, Any] = {q: array * found[q][1] for q, array in columns.items()}
        if "power" not in values:
            values["power"] = values["current"] * values.get("voltage", voltage_v)
        values["time"] = _since(stamps, *clock)
        for quantity, array in values.items():
            stored[quantity].extend(array.astype(_KINDS[quantity], copy=False))
    whole = {quantity: np.frombuffer(data, _KINDS[quantity]) for quantity, data in stored.items()}
    spec = meter or (meter_spec(recipe["meter"]) if recipe else MeterSpec("not stated"))
    measured = whole.get("current"), whole.get("voltage")
    flags = ("torn_last_line",) if cut else ()
    trace = PowerTrace(whole["time"], whole["power"], spec, clock[1], *measured, flags=flags)
    step_s = np.diff(trace.time_s)
    require(
        bool((step_s >= -_JOINED_S).all()),
        f"stamps run back by {-step_s.min():.3g} s at line "
        f"{layout.line + 2 + step_s.argmin()}: two recordings were joined; cut the file there",
    )
    return trace


def _found(header: tuple[str, ...]) -> dict[str, tuple[int, float]]:
    """Column of each quantity, the one whose word comes first, and its unit in SI."""
    facts, ranked = _facts(), list[tuple[int, str, int, float]]()
    for index, cell in enumerate(header):
        # A superscript would survive isalnum, so the letters are listed.
        words = re.sub(r"[^a-z0-9]+", " ", re.sub("[µμ]", "u", cell.lower())).strip()
        stem, _, unit = words.rpartition(" ")
        for quantity, names in facts["words"].items():
            if stem in names and unit in facts["units"][quantity]:
                scale = float(facts["units"][quantity][unit])
                ranked.append((names.index(stem), quantity, index, scale))
    best = {quantity: (index, scale) for _, quantity, index, scale in sorted(ranked, reverse=True)}
    return best if "time" in best else {}


def _recipe(header: tuple[str, ...]) -> dict[str, Any]:
    """Recipe for the export of a known instrument; empty: none."""
    recipes = _facts()["recipes"]
    return next((r for r in recipes if list(header[: len(r["header"])]) == r["header"]), {})


def _check_columns(
    header: tuple[str, ...], found: Iterable[str], hint: str, voltage_v: float | None
) -> None:
    held = "power" in found or {"current", "voltage"} <= set(found)
    require(
        held or "current" in found,
        "expected a time and a power, or a current and a voltage, with units in the header; "
        f"found: {', '.join(header)[:80]} {hint}".strip(),
    )
    require(
        held or voltage_v is not None,
        f"the file holds a current but no voltage {hint}; give the supply voltage (voltage_v, on "
        "the command line --voltage)",
    )
    require(not held or voltage_v is None, _OWN_POWER)


def _clock(stamps: NDArray, unit_s: float, rate_hz: float | None) -> tuple[int, int]:
    """Stamps per second, and the origin in us, from the first stamps of a trace.

    Where the header's unit is known to be wrong, the date tells the unit, or else the rate.
    """
    per_second = round(1 / unit_s)
    if rate_hz:
        step = np.ptp(stamps) / max(stamps.size - 1, 1) * rate_hz
        off = {unit: abs(np.log(max(step, 1e-12) / unit)) for unit in _PER_SECOND.values()}
        dated = [unit for unit in off if 1e9 <= stamps[0] / unit < 5e9]
        per_second = dated[0] if dated else min(off, key=lambda unit: off[unit])
        require(
            bool(dated) or off[per_second] < np.log(_RATE_FACTOR),
            f"the stamps rise by {step / rate_hz:.3g} a sample, which is no {rate_hz} Hz in s, ms, "
            "us or ns; name the column time_s, time_ms or time_us",
        )
    return per_second, _whole_us(stamps[0], per_second)


def _whole_us(stamp: float, per_second: int) -> int:
    """Whole microseconds up to a stamp; exact where the stamp is an integer."""
    far = abs(stamp) > _LONGEST_S * per_second
    require(not far, f"the first stamp, {stamp:g}, is no time in the unit it has")
    exact = int(stamp) if isinstance(stamp, np.integer) else float(stamp)
    return int(exact * 10**6 // per_second)


def _since(stamps: NDArray, per_second: int, epoch_us: int) -> Floats:
    """Seconds from the epoch; the subtraction happens in the stamps' own unit, thus exactly."""
    base, rest = divmod(epoch_us * per_second, 10**6)
    return (stamps - base - rest / 1e6) / per_second


def _rate_trace(header: tuple[str, ...]) -> int:
    return len(_found(header)) or len(_recipe(header))


def _rate_marks(header: tuple[str, ...]) -> int:
    return sum(name in _STAMPS for name in header)


def _stamp_column(header: tuple[str, ...], edge: str) -> tuple[int, int]:
    """Index of the column of starts or ends, and how many of its unit are a second."""
    found = [name for name in header if name in _STAMPS and name.startswith(edge)]
    require(
        len(found) == 1,
        f"expected one column {edge}_s, {edge}_ms, {edge}_us or {edge}_ns, found "
        f"{' and '.join(found) or 'none'} among: {', '.join(header)[:80]}",
    )
    return header.index(found[0]), _STAMPS[found[0]]
