"""Power traces and marks: what a monitor and a device wrote down, with every microsecond kept.

Stamps since 1970 need 51 bits in microseconds. They are subtracted as integers before they
become doubles, and the origin is kept beside the trace, so that a trace and the marks of
another machine can be related without losing a digit.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edgeutils import EdgeError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: A step of more periods than this is a gap: the power in it is unknown.
GAP_PERIODS = 4.5
#: 2100-01-01 in microseconds since 1970: a later stamp has another unit than was said.
_LATEST_US = 4_102_444_800_000_000


@dataclass(frozen=True)
class MeterSpec:
    """What is known of the instrument behind a trace."""

    name: str  # instrument in words; a simulated one says so
    #: Relative standard uncertainty of the power, the same for all samples (an error of gain);
    #: None: the maker states none, and a budget cannot include it.
    gain_u: float | None = None
    offset_u_w: float = 0.0  # standard uncertainty of a constant error of the power, W
    range_w: float = np.inf  # largest power that it can read, W: samples there are clipped
    source: str = ""  # where the figures are from


@dataclass(frozen=True)
class PowerTrace:
    """Power over time at one boundary: n samples; EdgeError for arrays that are none.

    The arrays cannot be written to. A sample is the mean power about its stamp, half-way to its
    neighbours.
    """

    time_s: Floats  # time of each sample since `epoch_us`, s, shape (n,)
    power_w: Floats  # power of each sample, W, shape (n,)
    meter: MeterSpec
    epoch_us: int = 0  # origin of `time_s`, whole us since 1970 on the clock of the host
    current_a: NDArray[np.floating] | None = None  # current behind `power_w`, A; None: not given
    voltage_v: NDArray[np.floating] | None = None  # voltage behind `power_w`, V; likewise
    boundary: str = "none"  # where the power was taken (measurement table); none: not stated
    marks: "Marks | None" = None  # windows that came in the same file or folder
    flags: tuple[str, ...] = ()  # what the reader found odd

    def __post_init__(self) -> None:
        shape = self.time_s.shape
        require(len(shape) == 1 and shape[0] > 1, "a trace needs two samples or more")
        for name in ("time_s", "power_w", "current_a", "voltage_v"):
            values = getattr(self, name)
            if values is not None:
                same = values.shape == shape
                require(same, f"{name} has shape {values.shape}, time_s {shape}")
                require(bool(np.isfinite(values).all()), f"{name} holds NaN or infinity")
                view = values.view()
                view.flags.writeable = False
                object.__setattr__(self, name, view)

    @classmethod
    def from_stamps(
        cls, stamp_us: Ints, current_a: Floats, voltage_v: Floats, meter: MeterSpec
    ) -> "PowerTrace":
        """Trace of stamps in whole microseconds since 1970, currents in A and voltages in V."""
        time_s, epoch_us = (stamp_us - stamp_us[0]) / 1e6, int(stamp_us[0])
        return cls(time_s, current_a * voltage_v, meter, epoch_us, current_a, voltage_v)

    def only(self, rows: NDArray) -> "PowerTrace":
        """Return the trace of some samples: numbers, or True for each that stays, shape (n,)."""
        arrays = {name: getattr(self, name) for name in ("current_a", "voltage_v")}
        kept = {name: values[rows] for name, values in arrays.items() if values is not None}
        return replace(self, time_s=self.time_s[rows], power_w=self.power_w[rows], **kept)

    @cached_property
    def period_s(self) -> float:
        """Median time between two samples, s; of raw arrival stamps it says little."""
        return float(np.median(np.diff(self.time_s)))

    @cached_property
    def gaps_s(self) -> Floats:
        """Stretches without samples: last stamp before and first after each, s, shape (g, 2)."""
        before = np.flatnonzero(np.diff(self.time_s) > GAP_PERIODS * self.period_s)
        return np.column_stack([self.time_s[before], self.time_s[before + 1]])

    def oddities(self) -> tuple[str, ...]:
        """Name what a user should look at, as flags; each means that the trace may be wrong.

        `backward_stamps`: a stamp lies before the one above it. `negative_power`: the current ran
        backwards, or the probe is the wrong way round. `implausible_power`: a mean above 1 kW or
        below 1 uW, more than the instrument can read, a voltage above 1 kV or below 0.3 V, or a
        power that is not current times voltage: a unit may be wrong. `implausible_time`: samples
        less than 0.1 us or more than an hour apart, or stamps after the year 2100: likewise.
        """
        mean_w = abs(float(self.power_w.mean()))
        span_s = float(self.time_s[-1] - self.time_s[0])
        step_s = span_s / (self.time_s.size - 1)
        wrong_w = not 1e-6 <= mean_w <= 1e3 or mean_w > self.meter.range_w
        if self.voltage_v is not None:
            mean_v = abs(float(self.voltage_v.mean(dtype=np.float64)))
            wrong_w |= not 0.3 <= mean_v <= 1e3
            if self.current_a is not None:
                mean_a = abs(float(self.current_a.mean(dtype=np.float64)))
                wrong_w |= not mean_w / 10 <= mean_a * mean_v <= mean_w * 10
        found = {
            "backward_stamps": bool((self.time_s[1:] < self.time_s[:-1]).any()),
            "negative_power": bool(self.power_w.min() < 0),
            "implausible_power": wrong_w,
            "implausible_time": not 1e-7 <= step_s <= 3600 or self.epoch_us > _LATEST_US,
        }
        return tuple(name for name, present in found.items() if present)


@dataclass(frozen=True)
class Marks:
    """When the device was at work: m windows by its own clock; EdgeError if one is no window."""

    start_s: Floats  # start of each window since `epoch_us`, s, shape (m,)
    end_s: Floats  # end of each window, likewise
    count: Ints  # inferences in each window, shape (m,)
    epoch_us: int = 0  # origin of the stamps, whole us since 1970 on the clock of the device
    name: tuple[str, ...] = ()  # what ran in each window; empty: not said
    official_j: Floats | None = None  # energy that the file's own rule gives each window, J, (m,)
    #: Busy spells of a sync pulse, on the clock of the device, since `epoch_us`, s, shape (k, 2).
    sync_s: Floats = field(default_factory=lambda: np.empty((0, 2)))
    same_clock: bool = False  # stamped by the clock of the trace: the offset is 0, exactly

    def __post_init__(self) -> None:
        require(self.start_s.size > 0, "the marks hold no window")
        shapes = {self.start_s.shape, self.end_s.shape, self.count.shape}
        require(len(shapes) == 1, f"start, end and count differ in length: {sorted(shapes)}")
        backwards = np.flatnonzero(~(self.end_s > self.start_s))
        require(
            backwards.size == 0,
            f"{backwards.size} window(s) do not end after their start, first: row {backwards[:1]}",
        )
        require(bool((self.count > 0).all()), "count must be 1 or more in every window")

    @property
    def inferences(self) -> int:
        """Inferences in all windows."""
        return int(self.count.sum())

    def on(self, trace: PowerTrace, offset_s: float = 0.0, drift: float = 0.0) -> "Marks":
        """Return the same windows counted from the trace's origin, on the monitor's clock.

        `offset_s` is added to each stamp, and `drift` (s/s) times the time since the first start.
        """
        shift_s = (self.epoch_us - trace.epoch_us) / 1e6 + offset_s
        first_s = self.start_s.min()
        stamps = {name: getattr(self, name) for name in ("start_s", "end_s", "sync_s")}
        moved = {name: s + shift_s + drift * (s - first_s) for name, s in stamps.items()}
        return replace(self, epoch_us=trace.epoch_us, **moved)


def require(condition: bool, message: str) -> None:
    """Raise an EdgeError with that message unless the condition holds."""
    if not condition:
        raise EdgeError(message)
