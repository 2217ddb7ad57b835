"""The virtual bench: a simulated phone and a simulated monitor whose joules are known.

The phone runs a small network at the speed of a roofline, draws static and dynamic power,
climbs through its frequency states and warms up. The monitor writes the files of the real
one with the real one's faults. Nothing here is measured: whatever comes from the bench is
marked simulated, and serves to check the path from stamps to joules against a known truth.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.random import Generator
from numpy.typing import ArrayLike

from edgeutils import EdgeError
from edgeutils.hardware.trace import MONSOON_COLUMNS, Floats, Ints, Marks, PowerTrace

#: Host time at which every simulated recording begins, microseconds (2025-01-01 00:00 UTC).
_EPOCH_US = 1_735_689_600_000_000
_ROOM_C = 25.0


@dataclass(frozen=True)
class Workload:
    """A network as its kernels: multiply-accumulates and bytes moved by each."""

    name: str
    macs: tuple[float, ...]
    moved_bytes: tuple[float, ...]


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
    capacitance_f: float = 0.72e-9  # F: dynamic power is capacitance x voltage^2 x frequency
    macs_per_cycle: float = 8.0  # roof of computing
    bytes_per_s: float = 9e9  # roof of memory
    dispatch_s: float = 15e-6  # overhead of each kernel, s
    byte_j: float = 60e-12  # energy to move one byte from memory, J
    pause_s: float = 180e-6  # mean pause between two inferences, s
    pause_w: float = 1.3  # what a pause draws above idle, W
    heat_k_per_w: float = 14.0  # thermal resistance, K/W
    heat_s: float = 6.0  # thermal time constant, s
    throttle_c: float = 48.0  # from here the core is one state slower, degrees Celsius
    leak_per_k: float = 0.01  # relative rise of the idle power per kelvin
    noise: float = 0.05  # relative standard deviation of the time and of the power of a kernel


@dataclass(frozen=True)
class Monitor:
    """A simulated power monitor and its faults; by default those seen on a real one."""

    period_s: float = 200.3e-6  # time between two samples by the host's clock, s
    burst: int = 128  # samples in a USB packet: they arrive together, after the last was taken
    jitter_s: float = 150e-6  # mean lateness of a packet, s
    offset_s: float = 0.307  # how far the host's clock is ahead of the phone's, s
    lost: tuple[tuple[float, int], ...] = ((0.13, 12), (1.6, 300))  # (time s, samples) of losses
    noise_w: float = 0.02  # standard deviation of one sample, W


@dataclass(frozen=True)
class BenchRun:
    """One simulated recording and its truth."""

    trace: PowerTrace  # what the readers return for the files of `write`, as are the marks
    marks: Marks
    #: Per inference `start_s`, `end_s` (as the trace), `frequency_hz`, `temperature_c`, `energy_j`.
    truth: pd.DataFrame
    period_energy_j: float  # from the first start to the last end, J per inference
    monitor: Monitor
    phone: Phone
    source: str = field(default="simulated", init=False)

    def write(self, folder: str | Path) -> tuple[Path, Path]:
        """Write the monitor's CSV and the phone's log, and return their paths."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = folder / "simulated_power.csv", folder / "simulated_inference_time.csv"
        trace, marks = self.trace, self.marks
        columns = _stamps(trace.time_s, trace.epoch_us), trace.current_a, trace.voltage_v
        samples = pd.DataFrame(dict(zip(MONSOON_COLUMNS, columns, strict=True)))
        samples[MONSOON_COLUMNS[1]] *= 1e3
        # The real file ends each line with a comma, that is an empty fourth column.
        samples.assign(**{"": ""}).to_csv(paths[0], index=False, lineterminator="\n")
        start, end = (_stamps(t, marks.epoch_us) for t in (marks.start_s, marks.end_s))
        log = pd.DataFrame({"start_us": start, "end_us": end, "duration_us": end - start})
        log.to_csv(paths[1], index_label="inference_index", lineterminator="\n")
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

    Everything random follows from `seed`: the same seed gives the same bytes. Each inference
    has a mark of its own. EdgeError for fewer than one inference.
    """
    if inferences < 1:
        raise EdgeError(f"inferences is {inferences}, expected 1 or more")
    phone, monitor = phone or Phone(), monitor or Monitor()
    rng = np.random.default_rng(seed)
    edges_s, energy_j, truth = _phone(rng, phone, workload, inferences)
    trace = _record(rng, monitor, edges_s, energy_j)
    # The log has whole microseconds: so has the truth, that of the window between its stamps.
    log_us = _stamps(truth[["start_s", "end_s"]].to_numpy())
    reached_j = np.interp(log_us / 1e6, edges_s, energy_j)
    truth["energy_j"] = reached_j[:, 1] - reached_j[:, 0]
    truth[["start_s", "end_s"]] = log_us / 1e6 - (trace.epoch_us - _EPOCH_US) / 1e6
    first_us = int(log_us[0, 0])
    start_s, end_s = (log_us.T - first_us) / 1e6
    device_us = _EPOCH_US - round(monitor.offset_s * 1e6)
    marks = Marks(start_s, end_s, np.ones(inferences, dtype=np.int64), device_us + first_us)
    period_j = float(reached_j[-1, 1] - reached_j[0, 0]) / inferences
    return BenchRun(trace, marks, truth, period_j, monitor, phone)


def _phone(
    rng: Generator, phone: Phone, workload: Workload, inferences: int
) -> tuple[Floats, Floats, pd.DataFrame]:
    """Edges of the phases of constant power, energy up to each, and when inferences ran."""
    macs, moved = np.array(workload.macs), np.array(workload.moved_bytes)
    idle_s, idle_w = _idle(rng, phone)
    # Loading the network takes power before the first inference, as on a real phone.
    load_s, load_w = 0.15, phone.idle_w + 0.7
    phases: list[tuple[ArrayLike, ArrayLike]] = [(idle_s, idle_w), (load_s, load_w)]
    now_s, heat_c, busy_s = float(idle_s.sum()) + load_s, _ROOM_C, 0.0
    rows = []
    for _ in range(inferences):
        # The governor climbs one state per 15 ms of work; heat takes the top one away again.
        top = min(int(busy_s / 0.015), len(phone.states_hz) - 1)
        state = max(top - (heat_c > phone.throttle_c), 0)
        f_hz, volt = phone.states_hz[state], phone.states_v[state]
        compute_s = macs / (phone.macs_per_cycle * f_hz)
        length_s = np.maximum(compute_s, moved / phone.bytes_per_s) + phone.dispatch_s
        length_s *= np.exp(phone.noise * rng.standard_normal(macs.size))
        static_w = phone.idle_w * (1 + phone.leak_per_k * (heat_c - _ROOM_C))
        active_w = phone.capacitance_f * volt**2 * f_hz * (0.45 + 0.55 * compute_s / length_s)
        power_w = static_w + active_w + phone.byte_j * moved / length_s
        power_w *= np.exp(phone.noise * rng.standard_normal(macs.size))
        pause_s = phone.pause_s * rng.gamma(4.0, 0.25)
        phases += [(length_s, power_w), (pause_s, static_w + phone.pause_w)]
        took_s = float(length_s.sum())
        rows.append((now_s, now_s + took_s, f_hz, heat_c))
        now_s, busy_s = now_s + took_s + pause_s, busy_s + took_s
        warm_c = _ROOM_C + phone.heat_k_per_w * float(power_w @ length_s) / took_s
        heat_c += took_s / phone.heat_s * (warm_c - heat_c)
    phases.append(_idle(rng, phone))
    lengths_s, powers_w = (np.hstack(parts) for parts in zip(*phases, strict=True))
    edges_s, energy_j = (np.cumsum(np.hstack([0.0, x])) for x in (lengths_s, lengths_s * powers_w))
    truth = pd.DataFrame(rows, columns=["start_s", "end_s", "frequency_hz", "temperature_c"])
    return edges_s, energy_j, truth


def _idle(rng: Generator, phone: Phone) -> tuple[Floats, Floats]:
    """Idle time, 0.8 s in steps of 10 ms; now and then the system wakes for one of them."""
    awake = rng.random(80) < 0.06
    power_w = phone.idle_w * rng.uniform(0.8, 1.1, 80) + awake * rng.uniform(0.2, 1.0, 80)
    return np.full(80, 0.01), power_w


def _record(rng: Generator, monitor: Monitor, edges_s: Floats, energy_j: Floats) -> PowerTrace:
    """Return what the monitor writes down."""
    half_s = monitor.period_s / 2
    taken_s = np.arange(half_s, edges_s[-1] - half_s, monitor.period_s)
    before_j, after_j = np.interp([taken_s - half_s, taken_s + half_s], edges_s, energy_j)
    power_w = (after_j - before_j) / monitor.period_s
    power_w += monitor.noise_w * rng.standard_normal(taken_s.size)
    keep = np.ones(taken_s.size, dtype=bool)
    for at_s, samples in monitor.lost:
        first = int(at_s / monitor.period_s)
        keep[first : first + samples] = False
    taken_s, power_w = taken_s[keep], power_w[keep]
    # A burst arrives a little after its last sample was taken, its samples 1.2 us apart.
    number = np.arange(taken_s.size)
    burst = number // monitor.burst
    last = np.cumsum(np.bincount(burst)) - 1
    late_s = taken_s[last] + rng.exponential(monitor.jitter_s, last.size)
    arrived_s = np.maximum.accumulate(late_s[burst] - (last[burst] - number) * 1.2e-6)
    voltage_v = np.round(4.2 - 0.012 * power_w + 0.001 * rng.standard_normal(taken_s.size), 5)
    current_a = np.round(power_w / voltage_v, 8)
    stamp_us = _stamps(arrived_s, _EPOCH_US)
    return PowerTrace.from_stamps(stamp_us, current_a, voltage_v, "virtual bench (simulated)")


def _stamps(time_s: Floats, epoch_us: int = 0) -> Ints:
    return np.round(time_s * 1e6).astype(np.int64) + epoch_us
