"""Power traces and marks: what a monitor and a device wrote down, with every microsecond kept.

Stamps since 1970 need 51 bits in microseconds. They are subtracted as integers before they
become doubles, and the origin is kept beside the trace, so that a trace and the marks of
another machine can be related without losing a digit.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from edgeutils import EdgeError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Columns of the Monsoon's CSV. "Time(ms)" is a misnomer: it holds microseconds since 1970 at
#: which the sample reached the host over USB (github.com/msoon/PyMonsoon, issue 37).
MONSOON_COLUMNS = ("Time(ms)", "Main(mA)", "Main Voltage(V)")
#: 2001-09-09 in microseconds; a smaller stamp is no time of day in microseconds.
_EARLIEST_US = 10**15
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


@dataclass(frozen=True)
class PowerTrace:
    """Power over time at one boundary: n samples, float64; EdgeError for arrays that are none."""

    time_s: Floats  # time of each sample since `epoch_us`, s, shape (n,)
    power_w: Floats  # power of each sample, W, shape (n,)
    meter: str  # instrument in words; a simulated one says so
    epoch_us: int = 0  # origin of `time_s`, whole us since 1970 on the clock of the host
    current_a: Floats | None = None  # current behind `power_w`, A; None: meter gives power only
    voltage_v: Floats | None = None  # voltage behind `power_w`, V; likewise

    def __post_init__(self) -> None:
        shape = self.time_s.shape
        _require(len(shape) == 1 and shape[0] > 1, "a trace needs two samples or more")
        for name in ("time_s", "power_w", "current_a", "voltage_v"):
            values = getattr(self, name)
            if values is not None:
                same = values.shape == shape
                _require(same, f"{name} has shape {values.shape}, time_s {shape}")
                _require(bool(np.isfinite(values).all()), f"{name} holds NaN or infinity")

    @classmethod
    def from_stamps(
        cls, stamp_us: Ints, current_a: Floats, voltage_v: Floats, meter: str
    ) -> "PowerTrace":
        """Trace of stamps in whole microseconds since 1970, currents in A and voltages in V."""
        time_s, epoch_us = (stamp_us - stamp_us[0]) / 1e6, int(stamp_us[0])
        return cls(time_s, current_a * voltage_v, meter, epoch_us, current_a, voltage_v)


@dataclass(frozen=True)
class Marks:
    """When the device was at work: m windows by its own clock; EdgeError if one is no window."""

    start_s: Floats  # start of each window since `epoch_us`, s, shape (m,)
    end_s: Floats  # end of each window, likewise
    count: Ints  # inferences in each window, shape (m,)
    epoch_us: int = 0  # origin of the stamps, whole us since 1970 on the clock of the device

    def __post_init__(self) -> None:
        _require(self.start_s.size > 0, "the marks hold no window")
        shapes = {self.start_s.shape, self.end_s.shape, self.count.shape}
        _require(len(shapes) == 1, f"start, end and count differ in length: {sorted(shapes)}")
        backwards = np.flatnonzero(~(self.end_s > self.start_s))
        _require(
            backwards.size == 0,
            f"{backwards.size} window(s) do not end after their start, first: row {backwards[:1]}",
        )
        _require(bool((self.count > 0).all()), "count must be 1 or more in every window")

    @property
    def inferences(self) -> int:
        """Inferences in all windows."""
        return int(self.count.sum())

    def on(self, trace: PowerTrace, offset_s: float = 0.0) -> "Marks":
        """Return the same windows counted from the trace's origin, `offset_s` added to each."""
        shift = (self.epoch_us - trace.epoch_us) / 1e6 + offset_s
        start, end = self.start_s + shift, self.end_s + shift
        return replace(self, start_s=start, end_s=end, epoch_us=trace.epoch_us)


def read_monsoon(path: str | Path, *, meter: str = "Monsoon HVPM") -> PowerTrace:
    """Read the CSV of a Monsoon power monitor, stamps as they are.

    The stamps are arrival times: samples come in bursts of about 128, microseconds apart. Give
    the result to `edgeutils.hardware.clock.rebuild_clock` before anything is selected by time.
    EdgeError, naming the line: wrong header, no samples, a line that is cut off or no number,
    stamps that are no microseconds since 1970 or run backwards.
    """
    path = Path(path)
    frame = _numbers(path, MONSOON_COLUMNS, "a Monsoon CSV")
    stamps, current_ma, voltage_v = (frame[name].to_numpy() for name in MONSOON_COLUMNS)
    stamp_us = stamps.astype(np.int64)
    if stamp_us[0] < _EARLIEST_US:
        raise EdgeError(
            f"{path.name}: the first column should be microseconds since 1970, but starts with "
            f"{stamp_us[0]}; export the trace with PyMonsoon's CSV writer"
        )
    back = np.flatnonzero(np.diff(stamp_us) < 0)
    if back.size:
        raise EdgeError(
            f"{path.name}: stamps run backwards at line {back[0] + 3}; "
            "the file is cut off or two recordings were joined"
        )
    return PowerTrace.from_stamps(stamp_us, current_ma / 1e3, voltage_v.astype(np.float64), meter)


def read_marks(path: str | Path) -> Marks:
    """Read windows from a CSV with columns start and end, suffix _s, _ms, _us or _ns.

    A column `count` gives the inferences in each window (1 where it is missing); other columns
    are left alone. EdgeError: a column is missing or there twice in different units, a value is
    no number, or a window ends before it starts.
    """
    path = Path(path)
    header = _header(path)
    names = [_unit_column(path, header, what) for what in ("start", "end")]
    frame = _numbers(path, names + ["count"] * ("count" in header), "a marks file")
    units = [_PER_SECOND[name.rsplit("_", 1)[1]] for name in names]
    epoch_us = int(frame[names[0]].iloc[0]) * 10**6 // units[0]
    start, end = (_since(frame[n], unit, epoch_us) for n, unit in zip(names, units, strict=True))
    count = frame.get("count", pd.Series(1, index=frame.index)).to_numpy(np.int64)
    try:
        return Marks(start, end, count, epoch_us)
    except EdgeError as error:
        raise EdgeError(f"{path.name}: {error}") from None


def _since(stamps: pd.Series, per_second: int, epoch_us: int) -> Floats:
    """Seconds from the epoch; the subtraction happens in the stamps' own unit, thus exactly."""
    base, rest = divmod(epoch_us * per_second, 10**6)
    return ((stamps - base) / per_second - rest / 1e6 / per_second).to_numpy(np.float64)


def _unit_column(path: Path, header: list[str], what: str) -> str:
    found = [name for name in header if name in {f"{what}_{unit}" for unit in _PER_SECOND}]
    if len(found) == 1:
        return found[0]
    raise EdgeError(
        f"{path.name}: expected one column {what}_s, {what}_ms, {what}_us or {what}_ns, found "
        f"{' and '.join(found) or 'none'} among: {', '.join(header) or 'nothing'}"
    )


def _header(path: Path) -> list[str]:
    if not path.is_file():
        raise EdgeError(f"{path} does not exist")
    with path.open(encoding="utf-8", errors="replace") as lines:
        return [name.strip() for name in lines.readline().split(",") if name.strip()]


def _numbers(path: Path, columns: Sequence[str], kind: str) -> pd.DataFrame:
    """Columns of a CSV, every cell a finite number."""
    header = _header(path)
    missing = [name for name in columns if name not in header]
    if missing:
        raise EdgeError(
            f"{path.name}: {kind} starts with the columns {', '.join(columns)}; "
            f"missing: {', '.join(missing)}; found: {', '.join(header)[:80] or 'nothing'}"
        )
    try:
        frame = pd.read_csv(path, skipinitialspace=True).rename(columns=str.strip)[list(columns)]
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise EdgeError(f"{path.name}: not {kind}: {error}") from None
    if frame.empty:
        raise EdgeError(f"{path.name}: the file ends after its header; record it again")
    frame = frame.apply(pd.to_numeric, errors="coerce")
    bad = np.flatnonzero(~np.isfinite(frame.to_numpy(np.float64)).all(axis=1))
    if bad.size:
        raise EdgeError(
            f"{path.name}: line {bad[0] + 2} is cut off or no number "
            f"({bad.size} such line(s)); remove it or record again"
        )
    return frame


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise EdgeError(message)
