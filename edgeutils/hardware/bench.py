"""The virtual bench: a simulated phone and a simulated monitor whose joules are known.

The phone runs a small network at the speed of a roofline with tile steps and a cache cliff,
draws static and dynamic power, climbs through its frequency states and warms up. The monitor
(`bench_monitor`) writes the files of the real one with the real one's faults. Nothing here is
measured: whatever comes from the bench is marked simulated, and serves to check the path from
stamps to joules against a known truth.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.random import Generator

from edgeutils import EdgeError
from edgeutils.hardware.bench_monitor import EPOCH_US, Monitor, record, to_us
from edgeutils.hardware.clock import SYNC_CHIP_S, SYNC_CHIPS
from edgeutils.hardware.readers import MONSOON_COLUMNS
from edgeutils.hardware.runtimes import write_marks
from edgeutils.hardware.trace import Floats, Ints, Marks, PowerTrace

_ROOM_C = 25.0


@dataclass(frozen=True)
class Workload:
    """A network as its kernels: multiply-accumulates and bytes moved by each."""

    name: str
    macs: tuple[float, ...]
    moved_bytes: tuple[float, ...]
    channels: tuple[int, ...] = ()  # output channels of each kernel; empty: they fill the tiles

    def times(self, factor: float) -> "Workload":
        """Return the same network with its work and its bytes multiplied."""
        macs, moved = (tuple(factor * x for x in part) for part in (self.macs, self.moved_bytes))
        return Workload(f"{self.name} x {factor:g}", macs, moved, self.channels)


#: Twelve kernels whose work falls and rises as in a small convolutional network.
SMALL_NETWORK = Workload(
    "small simulated network",
    macs=(5.4e6, 0.9e6, 3.2e6, 0.7e6, 3.2e6, 0.4e6, 3.2e6, 0.3e6, 6.4e6, 0.2e6, 3.2e6, 0.1e6),
    moved_bytes=(9e5, 1.2e6, 8e5, 9e5, 6e5, 5e5, 4e5, 3e5, 5e5, 2e5, 4e5, 5e5),
)


@dataclass(frozen=True)
class Phone:
    """A simulated phone; the values are those of a mid-range phone's order of magnitude."""

    idle_w: float = 0.35  # power of the idle phone at room temperature, W
    states_hz: tuple[float, ...] = (0.9e9, 1.5e9, 2.1e9, 2.6e9)  # frequency states of the core, Hz
    states_v: tuple[float, ...] = (0.62, 0.70, 0.82, 0.95)  # and their voltages, V
    ramp_s: float = 0.015  # work after which the governor climbs one state, s; 0: starts on top
    capacitance_f: float = 0.72e-9  # F: dynamic power is capacitance x voltage^2 x frequency
    macs_per_cycle: float = 8.0  # roof of computing
    tile: int = 8  # channels computed at a time: the rest of the last tile is computed in vain
    bytes_per_s: float = 9e9  # roof of memory
    cache_bytes: float = 448e3  # a kernel that moves no more than this finds it all in the cache
    cache_bytes_per_s: float = 30e9  # roof of the cache
    dispatch_s: float = 18e-6  # overhead of each kernel, s
    byte_j: float = 60e-12  # energy to move one byte from memory, J
    cache_byte_j: float = 10e-12  # and from the cache, J
    pause_s: float = 180e-6  # mean pause between two inferences, s
    pause_w: float = 1.3  # what a pause draws above idle, W
    heat_k_per_w: float = 14.0  # thermal resistance, K/W; 0: never warms up
    heat_s: float = 6.0  # thermal time constant, s
    throttle_c: float = 48.0  # from here the core is one state slower, degrees Celsius
    leak_per_k: float = 0.01  # relative rise of the idle power per kelvin
    noise: float = 0.05  # relative standard deviation of the time and of the power of a kernel
    slow_noise: float = 0.01  # relative standard deviation of the power that comes and goes slowly
    slow_s: float = 0.03  # time after which the slow noise has forgotten itself, s
    log_every: int = 1  # inferences (and the pauses between them) in each window of the log
    sync: bool = False  # whether the sync pulse of `clock` runs before and after the inferences
    sync_w: float = 1.5  # what a busy chip of the pulse draws above idle, W


def kernel_times(workload: Workload, phone: Phone, f_hz: float) -> tuple[Floats, Floats, Floats]:
    r"""Seconds of computing, seconds in all and joules of moving, of each kernel, without noise.

    With M multiply-accumulates, c channels, tiles of v channels and B bytes,

    .. math:: t = \max\left(\frac{M}{r f}\,\frac{v\lceil c/v\rceil}{c},\; \frac{B}{b(B)}\right)
              + t_0,

    where r is `macs_per_cycle`, f the frequency `f_hz`, :math:`t_0` the dispatch and b the
    bandwidth of the cache for what fits into it, else that of the memory. Each array has shape
    (kernels,).

    Examples
    --------
    >>> one = [Workload("one", (8e6,), (1e5,), (c,)) for c in (8, 9)]
    >>> [round(float(kernel_times(w, Phone(), 1e9)[0][0]) * 1e3, 3) for w in one]
    [1.0, 1.778]
    """
    macs, moved = np.array(workload.macs), np.array(workload.moved_bytes)
    channels = np.array(workload.channels or (phone.tile,) * macs.size)
    padded = np.ceil(channels / phone.tile) * phone.tile / channels
    compute_s = macs * padded / (phone.macs_per_cycle * f_hz)
    fits = moved <= phone.cache_bytes
    memory_s = moved / np.where(fits, phone.cache_bytes_per_s, phone.bytes_per_s)
    moved_j = moved * np.where(fits, phone.cache_byte_j, phone.byte_j)
    return compute_s, np.maximum(compute_s, memory_s) + phone.dispatch_s, moved_j


@dataclass(frozen=True)
class BenchRun:
    """One simulated recording and its truth."""

    trace: PowerTrace  # what the readers return for the files of `write`, as are the marks
    marks: Marks
    #: Per window `start_s`, `end_s` (as the trace), `frequency_hz`, `temperature_c`, `energy_j`
    #: (what it took) and `expected_j` (what it takes on average over the noise), both J.
    truth: pd.DataFrame
    period_energy_j: float  # from the first start to the last end, J per inference
    monitor: Monitor
    phone: Phone
    taken_s: Floats  # true time of each sample, as `trace.time_s`, s, shape (n,)
    gain: float  # relative error of the meter in this recording
    error_w: float  # additive error of the meter in this recording, W
    source: str = field(default="simulated", init=False)

    @property
    def mean_energy_j(self) -> float:
        """Energy that an inference of this run took, without the pauses, J."""
        return float(self.truth["energy_j"].sum() / self.marks.inferences)

    @property
    def expected_energy_j(self) -> float:
        """Energy that an inference takes on average over many such runs, J."""
        return float(self.truth["expected_j"].sum() / self.marks.inferences)

    def write(self, folder: str | Path) -> tuple[Path, Path]:
        """Write the monitor's CSV and the phone's log, and return their paths."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = folder / "simulated_power.csv", folder / "simulated_inference_time.csv"
        trace, marks = self.trace, self.marks
        columns = to_us(trace.time_s, trace.epoch_us), trace.current_a, trace.voltage_v
        samples = pd.DataFrame(dict(zip(MONSOON_COLUMNS, columns, strict=True)))
        samples[MONSOON_COLUMNS[1]] *= 1e3
        broken = np.linspace(0, len(samples), self.monitor.broken_rows + 2, dtype=int)[1:-1]
        samples.loc[broken, list(MONSOON_COLUMNS[1:])] = np.nan
        # The real file ends each line with a comma, that is an empty fourth column.
        text = samples.assign(**{"": ""}).to_csv(index=False, lineterminator="\n")
        paths[0].write_text(text[: -12 if self.monitor.cut else None], encoding="utf-8")
        if len(marks.sync_s) or (marks.count > 1).any():
            write_marks(paths[1], marks)
            return paths
        start_us, end_us = (to_us(t, marks.epoch_us) for t in (marks.start_s, marks.end_s))
        log = {"start_us": start_us, "end_us": end_us, "duration_us": end_us - start_us}
        table = pd.DataFrame(log)
        table.to_csv(paths[1], index_label="inference_index", lineterminator="\n")
        return paths


def simulate(
    *,
    seed: int = 0,
    inferences: int = 670,
    workload: Workload = SMALL_NETWORK,
    phone: Phone | None = None,
    monitor: Monitor | None = None,
) -> BenchRun:
    """Run `inferences` inferences of a workload on a phone and record them with a monitor.

    Everything random follows from `seed`: the same seed gives the same bytes. EdgeError for
    fewer than one inference.
    """
    if inferences < 1:
        raise EdgeError(f"inferences is {inferences}, expected 1 or more")
    phone, monitor = phone or Phone(), monitor or Monitor()
    rng = np.random.default_rng(seed)
    sums, work, pulses, state = _run(rng, phone, workload, inferences)
    trace, taken_s, gain, error_w = record(rng, monitor, sums[0], sums[1])
    origin_s = (trace.epoch_us - EPOCH_US) / 1e6
    first = np.arange(0, inferences, phone.log_every)
    last = np.append(first[1:], inferences) - 1
    edges = np.column_stack([work[first, 0], work[last, 1]])
    # The log has whole microseconds: so has the truth, that of the window between its stamps.
    first_us, pace = int(to_us(sums[0, edges[0, 0]])), 1 + monitor.drift
    log_us, sync_us = (np.round((sums[0, e] * 1e6 - first_us) / pace) for e in (edges, pulses))
    host_s = (first_us + log_us * pace) / 1e6
    reached_j = np.interp(host_s, sums[0], sums[1])
    truth = pd.DataFrame(host_s - origin_s, columns=["start_s", "end_s"])
    truth[["frequency_hz", "temperature_c"]] = state[first]
    truth["energy_j"] = reached_j[:, 1] - reached_j[:, 0]
    truth["expected_j"] = sums[2, edges[:, 1]] - sums[2, edges[:, 0]]
    device_us = EPOCH_US - round(monitor.offset_s * 1e6) + first_us
    count = np.diff(last, prepend=-1)
    start_s, end_s = log_us.T / 1e6
    marks = Marks(start_s, end_s, count, device_us, sync_s=sync_us / 1e6)
    period_j = float(reached_j[-1, 1] - reached_j[0, 0]) / inferences
    taken_s = taken_s - origin_s
    return BenchRun(trace, marks, truth, period_j, monitor, phone, taken_s, gain, error_w)


def _run(
    rng: Generator, phone: Phone, workload: Workload, inferences: int
) -> tuple[Floats, Ints, Ints, Floats]:
    """Run the phone, in phases of constant power with n edges.

    Returned: time, energy and expected energy up to each edge, s and J, shape (3, n); edges at
    which each inference starts and ends, shape (inferences, 2), and each busy spell of a sync
    pulse, shape (k, 2); frequency and temperature of each inference, Hz and degrees Celsius,
    shape (inferences, 2).
    """
    # Loading the network takes power before the first inference, as on a real phone.
    phases = [_idle(rng, phone), _phase(0.15, phone.idle_w + 0.7)] + [_pulse(phone)] * phone.sync
    begin, kernels = sum(phase.shape[1] for phase in phases), len(workload.macs)
    work = begin + np.arange(inferences)[:, None] * (kernels + 1) + [0, kernels]
    pulses = np.concatenate([_SPELLS + begin - _PULSE_PHASES, _SPELLS + work[-1, 1] + 1])
    state, top = np.empty((inferences, 2)), len(phone.states_hz) - 1
    heat_c, busy_s, slow = _ROOM_C, 0.0, rng.standard_normal()
    for row in state:
        # The governor climbs state by state; heat takes the top one away again.
        reached = min(int(busy_s / phone.ramp_s), top) if phone.ramp_s else top
        at = max(reached - (heat_c > phone.throttle_c), 0)
        row[:] = phone.states_hz[at], heat_c
        inference = _inference(rng, phone, workload, at, heat_c)
        inference[1] *= 1 + phone.slow_noise * slow
        phases.append(inference)
        took_s = float(inference[0].sum())
        keep = np.exp(-took_s / phone.slow_s)
        slow = keep * slow + np.sqrt(1 - keep**2) * rng.standard_normal()
        busy_s += float(inference[0, :-1].sum())
        warm_c = _ROOM_C + phone.heat_k_per_w * (inference[0] @ inference[1]) / took_s
        heat_c += took_s / phone.heat_s * (warm_c - heat_c)
    phases += [_pulse(phone)] * phone.sync + [_idle(rng, phone)]
    length_s, power_w, expected_j = np.hstack(phases)
    steps = np.stack([length_s, length_s * power_w, expected_j])
    sums = np.cumsum(np.pad(steps, ((0, 0), (1, 0))), axis=1)
    return sums, work, pulses[: None if phone.sync else 0], state


def _inference(rng: Generator, phone: Phone, workload: Workload, at: int, heat_c: float) -> Floats:
    """Phases of the kernels of an inference and of the pause after it: s, W, expected J."""
    f_hz, volt = phone.states_hz[at], phone.states_v[at]
    compute_s, usual_s, moved_j = kernel_times(workload, phone, f_hz)
    # Of the dynamic power, 45 % are there whenever the core is not idle.
    dynamic_w = phone.capacitance_f * volt**2 * f_hz
    static_w = phone.idle_w * (1 + phone.leak_per_k * (heat_c - _ROOM_C))
    # Log-normal factors with mean 1, so that the expected energies are those without noise.
    length_s, factor = np.exp(
        phone.noise * rng.standard_normal((2, usual_s.size)) - phone.noise**2 / 2
    )
    length_s *= usual_s
    worked_j = 0.55 * dynamic_w * compute_s + moved_j
    power_w = (static_w + 0.45 * dynamic_w + worked_j / length_s) * factor
    expected_j = (static_w + 0.45 * dynamic_w) * usual_s + worked_j
    pause = _phase(phone.pause_s * rng.gamma(4.0, 0.25), static_w + phone.pause_w)
    pause[2] = phone.pause_s * pause[1]
    return np.hstack([[length_s, power_w, expected_j], pause])


def _phase(length_s: float, power_w: float) -> Floats:
    return np.array([[length_s], [power_w], [length_s * power_w]])


def _pulse(phone: Phone) -> Floats:
    """Phases of a sync pulse between two chips of idling."""
    power_w = phone.idle_w + phone.sync_w * np.array([0, *SYNC_CHIPS, 0])
    return np.stack([np.full_like(power_w, SYNC_CHIP_S), power_w, SYNC_CHIP_S * power_w])


#: Phases of `_pulse`, and the edges between which its busy spells lie, counted from its first.
_PULSE_PHASES = len(SYNC_CHIPS) + 2
_SPELLS = np.flatnonzero(np.diff([0, 0, *SYNC_CHIPS, 0, 0])).reshape(-1, 2)


def _idle(rng: Generator, phone: Phone) -> Floats:
    """Idle time, 0.8 s in steps of 10 ms; now and then the system wakes for one of them."""
    awake = rng.random(80) < 0.06
    power_w = phone.idle_w * rng.uniform(0.8, 1.1, 80) + awake * rng.uniform(0.2, 1.0, 80)
    return np.stack([np.full(80, 0.01), power_w, 0.01 * power_w])
