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

from edgeutils import EdgeError
from edgeutils.hardware.trace import MONSOON_COLUMNS, Floats, Marks, PowerTrace

#: Host time at which every simulated recording begins, microseconds (2025-01-01 00:00 UTC).
_EPOCH_US = 1_735_689_600_000_000
_METER = "virtual bench (simulated)"


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
    """A simulated phone; the values are those of a mid-range phone's order of magnitude.

    Attributes
    ----------
    idle_w
        Power of the idle phone at 25 degrees Celsius, W.
    states_hz, states_v
        Frequency states of the core, Hz, and their voltages, V.
    capacitance_f
        Effective switched capacitance: dynamic power is capacitance x voltage^2 x frequency, F.
    macs_per_cycle, bytes_per_s, dispatch_s
        Roofs of computing and of memory, and the overhead of each kernel, s.
    byte_j
        Energy to move one byte from memory, J.
    pause_s, pause_w
        Mean pause between two inferences, s, and what it draws above idle, W.
    heat_k_per_w, heat_s, throttle_c
        Thermal resistance, K/W, time constant, s, and temperature from which the core is one
        state slower, degrees Celsius.
    leak_per_k
        Relative rise of the idle power per kelvin.
    noise
        Relative standard deviation of the time and of the power of a kernel.
    """

    idle_w: float = 0.35
    states_hz: tuple[float, ...] = (0.9e9, 1.5e9, 2.1e9, 2.6e9)
    states_v: tuple[float, ...] = (0.62, 0.70, 0.82, 0.95)
    capacitance_f: float = 0.72e-9
    macs_per_cycle: float = 8.0
    bytes_per_s: float = 9e9
    dispatch_s: float = 15e-6
    byte_j: float = 60e-12
    pause_s: float = 180e-6
    pause_w: float = 1.3
    heat_k_per_w: float = 14.0
    heat_s: float = 6.0
    throttle_c: float = 48.0
    leak_per_k: float = 0.01
    noise: float = 0.05


@dataclass(frozen=True)
class Monitor:
    """A simulated power monitor and its faults; by default those seen on a real one.

    Attributes
    ----------
    period_s
        Time between two samples by the host's clock, s.
    burst
        Samples in a USB packet: they arrive together, after the last was taken.
    jitter_s
        Mean lateness of a packet, s.
    offset_s
        How far the host's clock is ahead of the phone's, s.
    lost
        (time s, samples) of every loss.
    noise_w
        Standard deviation of one sample, W.
    """

    period_s: float = 200.3e-6
    burst: int = 128
    jitter_s: float = 150e-6
    offset_s: float = 0.307
    lost: tuple[tuple[float, int], ...] = ((0.13, 12), (1.6, 300))
    noise_w: float = 0.02


@dataclass(frozen=True)
class BenchRun:
    """One simulated recording and its truth.

    Attributes
    ----------
    trace, marks
        What the readers return for the files of `write`.
    truth
        One row per inference: `start_s`, `end_s` (host's clock, since the trace's epoch),
        `latency_s`, `energy_j`, `power_w`, `frequency_hz`, `temperature_c`.
    period_energy_j
        True energy from the first start to the last end over the inferences, J.
    monitor, phone, workload
        What was simulated.
    source
        Always `simulated`.
    """

    trace: PowerTrace
    marks: Marks
    truth: pd.DataFrame
    period_energy_j: float
    monitor: Monitor
    phone: Phone
    workload: Workload
    source: str = field(default="simulated", init=False)

    def write(self, folder: str | Path) -> tuple[Path, Path]:
        """Write the monitor's CSV and the phone's log, and return their paths."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = folder / "simulated_power.csv", folder / "simulated_inference_time.csv"
        trace, marks = self.trace, self.marks
        if trace.current_a is None or trace.voltage_v is None:
            raise EdgeError("this run has no current and voltage; make it with bench.simulate")
        columns = [_stamps(trace.time_s, trace.epoch_us), trace.current_a * 1e3, trace.voltage_v]
        # The real file ends each line with a comma, that is an empty fourth column.
        samples = pd.DataFrame(dict(zip(MONSOON_COLUMNS, columns, strict=True))).assign(**{"": ""})
        samples.to_csv(paths[0], index=False, lineterminator="\n")
        start, end = (_stamps(t, marks.epoch_us) for t in (marks.start_s, marks.end_s))
        log = {"start_us": start, "end_us": end, "duration_us": end - start}
        pd.DataFrame(log).to_csv(paths[1], index_label="inference_index", lineterminator="\n")
        return paths


def simulate(
    *,
    seed: int = 0,
    inferences: int = 670,
    workload: Workload = SMALL_NETWORK,
    phone: Phone | None = None,
    monitor: Monitor | None = None,
) -> BenchRun:
    """Run `inferences` inferences on the simulated phone and record them.

    Parameters
    ----------
    seed
        Everything random follows from it: the same seed gives the same bytes.
    inferences
        Number of inferences, one mark each.
    workload, phone, monitor
        What runs, on what, seen by what.

    Raises
    ------
    EdgeError
        Fewer than one inference.

    Examples
    --------
    >>> run = simulate(seed=1, inferences=50)
    >>> run.source, len(run.truth)
    ('simulated', 50)
    """
    if inferences < 1:
        raise EdgeError(f"inferences is {inferences}, expected 1 or more")
    phone, monitor = phone or Phone(), monitor or Monitor()
    rng = np.random.default_rng(seed)
    edges_s, energy_j, truth = _phone(rng, phone, workload, inferences)
    trace, first_s = _record(rng, monitor, edges_s, energy_j)
    start_us, end_us = (
        np.round(truth[name] * 1e6).astype(np.int64) for name in ("start_s", "end_s")
    )
    # The log has whole microseconds: so has the truth, that of the window between its stamps.
    truth["start_s"], truth["end_s"] = start_us / 1e6, end_us / 1e6
    truth["latency_s"] = (end_us - start_us) / 1e6
    reached = np.interp(truth[["start_s", "end_s"]].to_numpy(), edges_s, energy_j)
    truth["energy_j"] = reached[:, 1] - reached[:, 0]
    truth["power_w"] = truth["energy_j"] / truth["latency_s"]
    truth[["start_s", "end_s"]] -= first_s
    device_us = _EPOCH_US - round(monitor.offset_s * 1e6)
    marks = Marks(
        start_s=((start_us - start_us[0]) / 1e6).to_numpy(),
        end_s=((end_us - start_us[0]) / 1e6).to_numpy(),
        count=np.ones(inferences, dtype=np.int64),
        epoch_us=int(device_us + start_us[0]),
    )
    whole = float(reached[-1, 1] - reached[0, 0]) / inferences
    return BenchRun(trace, marks, truth, whole, monitor, phone, workload)


def _phone(
    rng: Generator, phone: Phone, workload: Workload, inferences: int
) -> tuple[Floats, Floats, pd.DataFrame]:
    """Edges of the phases of constant power, energy up to each, and when inferences ran."""
    macs, moved = np.array(workload.macs), np.array(workload.moved_bytes)
    lengths, powers = _idle(rng, phone, 0.8)
    # Loading the network takes power before the first inference, as on a real phone.
    lengths.append(np.array([0.15]))
    powers.append(np.array([phone.idle_w + 0.7]))
    now, top, heat_c, busy_s = sum(float(part.sum()) for part in lengths), 0, 25.0, 0.0
    rows = []
    for _ in range(inferences):
        # The governor climbs one state per 15 ms of work; heat takes the top one away again.
        top = min(int(busy_s / 0.015), len(phone.states_hz) - 1)
        state = max(top - (heat_c > phone.throttle_c), 0)
        f_hz, volt = phone.states_hz[state], phone.states_v[state]
        compute = macs / (phone.macs_per_cycle * f_hz)
        memory = moved / phone.bytes_per_s
        length = (np.maximum(compute, memory) + phone.dispatch_s) * np.exp(
            phone.noise * rng.standard_normal(macs.size)
        )
        static = phone.idle_w * (1 + phone.leak_per_k * (heat_c - 25.0))
        active = phone.capacitance_f * volt**2 * f_hz * (0.45 + 0.55 * compute / length)
        power = static + active + phone.byte_j * moved / length
        power = power * np.exp(phone.noise * rng.standard_normal(macs.size))
        pause = phone.pause_s * rng.gamma(4.0, 0.25)
        lengths += [length, np.array([pause])]
        powers += [power, np.array([static + phone.pause_w])]
        took = float(length.sum())
        rows.append((now, now + took, f_hz, heat_c))
        now, busy_s = now + took + pause, busy_s + took
        drawn = float(power @ length) / took
        heat_c += took / phone.heat_s * (25.0 + phone.heat_k_per_w * drawn - heat_c)
    after, after_w = _idle(rng, phone, 0.8)
    length_s = np.concatenate(lengths + after)
    power_w = np.concatenate(powers + after_w)
    edges_s = np.concatenate([[0.0], np.cumsum(length_s)])
    energy_j = np.concatenate([[0.0], np.cumsum(length_s * power_w)])
    truth = pd.DataFrame(rows, columns=["start_s", "end_s", "frequency_hz", "temperature_c"])
    return edges_s, energy_j, truth


def _idle(rng: Generator, phone: Phone, length_s: float) -> tuple[list[Floats], list[Floats]]:
    """Idle time in steps of 10 ms; now and then the system wakes for one of them."""
    steps = round(length_s / 0.01)
    awake = rng.random(steps) < 0.06
    power_w = phone.idle_w * rng.uniform(0.8, 1.1, steps) + awake * rng.uniform(0.2, 1.0, steps)
    return [np.full(steps, 0.01)], [power_w]


def _record(
    rng: Generator, monitor: Monitor, edges_s: Floats, energy_j: Floats
) -> tuple[PowerTrace, float]:
    """Return what the monitor writes down, and the true time of its first stamp."""
    half = monitor.period_s / 2
    taken = np.arange(half, edges_s[-1] - half, monitor.period_s)
    reached = np.interp([taken - half, taken + half], edges_s, energy_j)
    power_w = (reached[1] - reached[0]) / monitor.period_s
    power_w = power_w + monitor.noise_w * rng.standard_normal(taken.size)
    keep = np.ones(taken.size, dtype=bool)
    for at_s, samples in monitor.lost:
        first = int(at_s / monitor.period_s)
        keep[first : first + samples] = False
    taken, power_w = taken[keep], power_w[keep]
    arrived = _arrivals(rng, monitor, taken)
    stamp_us = np.round(arrived * 1e6).astype(np.int64)
    voltage_v = np.round(4.2 - 0.012 * power_w + 0.001 * rng.standard_normal(taken.size), 5)
    current_a = np.round(power_w / voltage_v, 8)
    trace = PowerTrace(
        time_s=(stamp_us - stamp_us[0]) / 1e6,
        power_w=current_a * voltage_v,
        meter=_METER,
        epoch_us=int(_EPOCH_US + stamp_us[0]),
        current_a=current_a,
        voltage_v=voltage_v,
    )
    return trace, float(stamp_us[0] / 1e6)


def _arrivals(rng: Generator, monitor: Monitor, taken: Floats) -> Floats:
    """Host time of every sample: a burst comes a little after its last sample was taken."""
    burst = np.arange(taken.size) // monitor.burst
    last = taken[np.append(np.flatnonzero(np.diff(burst)), taken.size - 1)]
    late = last + rng.exponential(monitor.jitter_s, last.size)
    within = np.arange(taken.size) % monitor.burst
    size = np.bincount(burst)
    return np.maximum.accumulate(late[burst] - (size[burst] - 1 - within) * 1.2e-6)


def _stamps(time_s: Floats, epoch_us: int) -> np.ndarray:
    return np.round(time_s * 1e6).astype(np.int64) + epoch_us
