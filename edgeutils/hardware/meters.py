"""Live meters: one interface for sensors and replayed traces, and a thread that records them.

A counter tells the energy since some zero; two readings give the mean power between them, and
nothing is missed. A gauge tells the power of one moment, or of a spell that its maker chose.
Either way a reading is stamped by the monotonic clock on both sides of the read and counts for
the middle, on the clock of `edgeutils.hardware.stamps`: a runtime on the same machine that uses
it needs no clock offset. The meters of a machine are in `edgeutils.hardware.sensors`.

The recording thread shares the machine with the work that is measured, and the power it takes is
in the trace. `Recording.cpu_share` is its share of a processor; where it matters, run the work in
a child process and read no faster than `update_period` says is useful.
"""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import csv

from edgeutils import EdgeError, whole_file
from edgeutils.hardware.stamps import monotonic_epoch_us
from edgeutils.hardware.trace import Floats, Ints, MeterSpec, PowerTrace, require

#: More than any device at the edge takes, W: a larger reading is a fault of the meter.
_CREDIBLE_W = 1e4
_FASTEST_HZ = 10_000
#: So many equal readings of a gauge in a recording, and no other, mean that it is stuck.
_FROZEN_READINGS = 10
#: How long a recording waits for something new at its start and, of a counter, its end, s.
_MOVE_S = 3.0
#: Share of skipped readings that is worth a flag.
_MISSED_SHARE = 0.01


class MeterError(EdgeError):
    """A meter that cannot be read; `reason` and `cure` in words."""

    def __init__(self, reason: str, cure: str):
        super().__init__(f"{reason}; {cure}")
        self.reason, self.cure = reason, cure


class MeterEndedError(EdgeError):
    """The meter has nothing more to tell: a replayed trace is over."""


class Reading(NamedTuple):
    """What a meter said, and when."""

    stamp_ns: int  # middle of the read, monotonic clock, ns
    value: float  # counter: energy since some zero, J; gauge: power, W


@dataclass
class Meter:
    """What can be recorded; reading it raises MeterError when it cannot be read (any more)."""

    name: str
    boundary: str  # where the power is taken, see the measurement table
    spec: MeterSpec
    counter: bool  # True: readings are energies that only grow; False: powers
    sample: Callable[[], float]  # energy, J, or power, W
    #: An instrument that samples by its own clock and delivers packets has this instead of
    #: `sample`: it collects until the function it is given, asked at every packet, says so.
    #: Stamps are those of arrival: `clock.rebuild_clock` is for them.
    stream: Callable[[Callable[[], bool]], PowerTrace] | None = None
    #: What else it knows of the device now: `temperature_c`, deg C, `clock_mhz`; None: unknown.
    state: Callable[[], dict[str, float | None]] = dict

    def read(self) -> Reading:
        """Read it once, stamped on both sides."""
        before_ns = time.monotonic_ns()
        value = self.sample()
        return Reading((before_ns + time.monotonic_ns()) // 2, value)


class Replay(Meter):
    """A trace behind the interface of a live meter, at the times at which it was recorded.

    The first reading is that of the first stamp; from there it plays `speed` times as fast as
    the trace was recorded. Stamps are the trace's own: a recording has its epoch, and its marks
    fit. `counter` chooses what it poses as; `update_s` is how seldom a poor meter looks anew
    (0: at every reading). MeterEndedError after the end of the trace.
    """

    def __init__(
        self, trace: PowerTrace, *, speed: float = 1.0, counter: bool = True, update_s: float = 0.0
    ):
        require(speed > 0, f"speed is {speed:g}, expected more than 0")
        super().__init__("replay", trace.boundary, trace.meter, counter, self._value)
        self._speed, self._update_s, self._power_w = speed, update_s, trace.power_w
        middles_s = (trace.time_s[1:] + trace.time_s[:-1]) / 2
        self._edges_s = np.hstack([trace.time_s[0], middles_s, trace.time_s[-1]])
        self._energy_j = np.hstack([0.0, np.cumsum(trace.power_w * np.diff(self._edges_s))])
        self._zero_ns = (trace.epoch_us - monotonic_epoch_us()) * 1000
        self._start_ns, self._now_s = 0, -np.inf

    def read(self) -> Reading:
        """Read the trace where it plays now."""
        if self._now_s >= self._edges_s[-1]:
            raise MeterEndedError("the replayed trace is over; make a new Replay of it")
        self._start_ns = self._start_ns or time.monotonic_ns()
        passed_s = (time.monotonic_ns() - self._start_ns) / 1e9 * self._speed
        self._now_s = min(self._edges_s[0] + passed_s, self._edges_s[-1])
        return Reading(self._zero_ns + round(self._now_s * 1e9), self.sample())

    def _value(self) -> float:
        first_s, seen_s = self._edges_s[0], self._now_s
        if self._update_s:
            seen_s = first_s + (seen_s - first_s) // self._update_s * self._update_s
        if self.counter:
            return float(np.interp(seen_s, self._edges_s, self._energy_j))
        return float(self._power_w[np.searchsorted(self._edges_s[1:-1], seen_s, side="right")])


class Recording:
    """What `record` records, while it does and afterwards.

    >>> trace = PowerTrace(np.arange(40) / 400, np.tile([1.0, 3.0], 20), MeterSpec("bench"))
    >>> with record(Replay(trace), 200) as recording:
    ...     recording.wait()
    >>> round(recording.trace().power_w.mean(), 1)
    2.0
    """

    def __init__(self, meter: Meter, hertz: float):
        fits = 0 < hertz <= _FASTEST_HZ
        require(fits, f"hertz is {hertz:g}, expected above 0 and up to {_FASTEST_HZ}")
        self.readings: list[Reading] = []  # so far; none of a meter with a `stream`
        self.missed = 0  # readings that were due while another took too long
        self.cpu_share = np.nan  # processor time of the thread over the time it ran; NaN: it runs
        self._meter, self._period_ns = meter, round(1e9 / hertz)
        self._stop, self._moving = threading.Event(), threading.Event()
        self._result: Future[PowerTrace | None] = Future()

    def wait(self, seconds: float | None = None) -> None:
        """Let it record for some seconds, or until the meter ends or fails."""
        wait([self._result], seconds)

    def _run(self) -> PowerTrace | None:
        began_ns, cpu_ns = time.monotonic_ns(), time.thread_time_ns()
        try:
            if self._meter.stream:
                return self._meter.stream(self._stopped)
            self._poll()
        except MeterEndedError:
            if len(self.readings) < 3:
                raise
        finally:
            passed_ns = max(time.monotonic_ns() - began_ns, 1)
            self.cpu_share = (time.thread_time_ns() - cpu_ns) / passed_ns
            self._moving.set()
        return None

    def _stopped(self) -> bool:
        self._moving.set()
        return self._stop.is_set()

    def _poll(self) -> None:
        due_ns = time.monotonic_ns()
        while not self._stop.is_set():
            self.readings.append(self._meter.read())
            if self._moved_since(0):
                self._moving.set()
            due_ns += self._period_ns
            skipped = max((time.monotonic_ns() - due_ns) // self._period_ns, 0)
            self.missed += skipped
            due_ns += skipped * self._period_ns
            self._stop.wait((due_ns - time.monotonic_ns()) / 1e9)
        # One at the stop and two more, so that the last sample ends after the block; and the last
        # energy counts only once the counter has shown it.
        stop, give_up_s = len(self.readings), time.monotonic() + _MOVE_S
        while len(self.readings) < stop + 3 or not (
            self._moved_since(stop) or time.monotonic() > give_up_s
        ):
            self.readings.append(self._meter.read())
            time.sleep(self._period_ns / 1e9)

    def _moved_since(self, index: int) -> bool:
        return not self._meter.counter or self.readings[-1].value != self.readings[index].value

    def trace(self, *, still_ok: bool = False) -> PowerTrace:
        """Return what was recorded, stamps on the clock of `stamps`.

        A counter becomes the mean power over even steps, its total kept; a gauge keeps its
        readings. Flags: `missed_readings` (more than 1 % of them), `slow_meter` (most readings of
        a counter found it unchanged: no window shorter than its update period can be resolved).
        EdgeError: the meter failed, was stuck (unless `still_ok`: a gauge may say the same all the
        time), ran backwards or told what cannot be.
        """
        require(self._result.done(), "the recording is not over; ask for it after the with block")
        meter, streamed = self._meter, self._result.result()
        flags = ["missed_readings"] * (self.missed > _MISSED_SHARE * len(self.readings))
        if streamed:
            power_w = streamed.power_w
        else:
            stamps_ns, power_w = (np.array(column) for column in zip(*self.readings, strict=True))
            time_us = np.round(stamps_ns / 1000)
        if meter.counter:
            time_us, power_w, slow = _counted(stamps_ns, power_w, meter.name)
            flags += ["slow_meter"] * slow
        elif power_w.size >= _FROZEN_READINGS and np.ptp(power_w) == 0 and not still_ok:
            raise MeterError(
                f"{meter.name} said {power_w[0]:g} W in {power_w.size} readings and nothing else",
                "record for longer and change the load; if it stays so, the sensor is stuck",
            )
        wrong_w = power_w[~(np.abs(power_w) <= _CREDIBLE_W)]
        if wrong_w.size:
            raise MeterError(
                f"{meter.name} says {wrong_w[0]:.3g} W, which cannot be",
                "record again; if it stays so, its driver was restarted or gives a wrong unit",
            )
        if streamed:
            return streamed
        time_s, epoch_us = (time_us - time_us[0]) / 1e6, monotonic_epoch_us() + int(time_us[0])
        return PowerTrace(
            time_s, power_w, meter.spec, epoch_us, boundary=meter.boundary, flags=tuple(flags)
        )


@contextmanager
def record(meter: Meter, hertz: float) -> Iterator[Recording]:
    """Record `meter` in a thread of its own while the block runs, `hertz` readings per second.

    The block starts once the meter has told something new, and the recording covers it to its
    end; the trace is there after the block. A meter with a `stream` samples by its own clock:
    `hertz` is not used. EdgeError for a rate that is not above 0 and at most 10 kHz.
    """
    recording = Recording(meter, hertz)
    with ThreadPoolExecutor(1, meter.name) as thread:
        recording._result = thread.submit(recording._run)
        try:
            recording._moving.wait(_MOVE_S)
            yield recording
        finally:
            recording._stop.set()


def _counted(stamps_ns: Ints, energy_j: Floats, name: str) -> tuple[Floats, Floats, bool]:
    """Mean power over even steps from a counter that grows, and whether it grows seldom.

    Only where the counter moved is its energy known. The steps are even so that each sample
    covers exactly its own, and whole microseconds so that a file keeps them.
    """
    grown_j = np.diff(energy_j)
    moved = np.flatnonzero(grown_j > 0) + 1
    if (grown_j < 0).any() or moved.size < 3:
        did = "ran backwards" if (grown_j < 0).any() else f"moved {moved.size} time(s)"
        cure = "record again, and for longer; its driver was restarted, the computer slept"
        raise MeterError(f"the counter of {name} {did}", f"{cure}, or it is stuck")
    # A counter that is read at every update moved just now; of a slower one it is known that it
    # moved since the reading before.
    slow = bool(moved.size < stamps_ns.size / 2)
    time_us = (stamps_ns[moved] + stamps_ns[moved - slow]) / 2e3
    step_us = 2 * max(round(float(np.median(np.diff(time_us))) / 2), 1)
    first_us = np.ceil(time_us[0])
    edges_us = first_us + step_us * np.arange(max((time_us[-1] - first_us) // step_us, 2) + 1)
    power_w = np.diff(np.interp(edges_us, time_us, energy_j[moved])) / step_us * 1e6
    return edges_us[:-1] + step_us / 2, power_w, slow


class UpdatePeriod(NamedTuple):
    """How often a meter tells something new."""

    period_s: float | None  # time between two updates, s; None: fewer than 3 were seen
    read_s: float  # median time between two readings: updates faster than this are not seen, s
    updates: int  # that were seen


def update_period(meter: Meter, seconds: float = 2.0) -> UpdatePeriod:
    """Read `meter` as fast as it goes and find how often its value changes.

    No window shorter than that can be resolved, and reading faster only costs power. An update
    to an equal value is not seen, but counted by the others: their distances are multiples.
    """
    readings = [meter.read()]
    while readings[-1].stamp_ns - readings[0].stamp_ns < seconds * 1e9:
        readings.append(meter.read())
    stamps_ns, values = (np.array(column) for column in zip(*readings, strict=True))
    changed = np.flatnonzero(np.diff(values)) + 1
    step_ns = np.diff(stamps_ns)
    read_s = float(np.median(step_ns)) / 1e9
    # Where the reader was held up, it is not known when the change came.
    sharp = changed[step_ns[changed - 1] <= 1e10 * read_s]
    if sharp.size < 3:
        return UpdatePeriod(None, read_s, changed.size)
    apart_s = np.diff(stamps_ns[sharp] + stamps_ns[sharp - 1]) / 2e9
    times = np.maximum(np.round(apart_s / np.quantile(apart_s, 0.1)), 1)
    return UpdatePeriod(float(apart_s.sum() / times.sum()), read_s, changed.size)


def write_trace(path: str | Path, trace: PowerTrace) -> Path:
    """Write a trace as CSV (gzip where the name ends in .gz) that `readers.read_trace` reads.

    Columns: time_us (whole microseconds since 1970; what `record` returns has no others),
    power_w, and current_a and voltage_v where the trace has them; numbers to the last digit.
    A file of that name is replaced only once the new one is whole.
    """
    path = Path(path)
    stamp_us = np.round(trace.time_s * 1e6).astype(np.int64) + trace.epoch_us
    columns = {"time_us": stamp_us, "power_w": trace.power_w}
    columns |= {"current_a": trace.current_a, "voltage_v": trace.voltage_v}
    table = pa.table({name: values for name, values in columns.items() if values is not None})
    path.parent.mkdir(parents=True, exist_ok=True)
    # The stream compresses by the end of the name.
    with whole_file(path) as partial, pa.output_stream(partial) as sink:
        # Of older pyarrow the header would have quotes.
        sink.write(f"{','.join(table.column_names)}\n".encode())
        csv.write_csv(table, sink, csv.WriteOptions(include_header=False))
    return path
