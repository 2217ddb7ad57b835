"""The monitor of the virtual bench: what a power monitor makes of power over time.

Every fault of a real monitor is a field of `Monitor`, so that each can be tried on its own
(`faults`) and all of them together.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.random import Generator

from edgeutils.hardware.trace import Floats, Ints, MeterSpec, PowerTrace

#: Host time at which every simulated recording begins, microseconds (2025-01-01 00:00 UTC).
EPOCH_US = 1_735_689_600_000_000
#: Power of an absurd sample, W: a wrong bit in a packet, not something that a phone draws.
JUMP_W = 1000.0
#: Time between two samples of a burst by their stamps, s.
_WITHIN_BURST_S = 1.2e-6
_METER = MeterSpec(
    "virtual bench (simulated)", gain_u=1e-3, offset_u_w=2e-4, source="fields of the simulation"
)


@dataclass(frozen=True)
class Monitor:
    """A simulated power monitor and its faults; by default those seen on a real one.

    Times are by the host's clock and count from the beginning of the recording.
    """

    period_s: float = 200.3e-6  # time between two samples, s
    burst: int = 128  # samples in a USB packet: they arrive together, after the last was taken
    jitter_s: float = 150e-6  # mean lateness of a packet, s
    offset_s: float = 0.307  # how far the host's clock is ahead of the phone's at its first start
    lost: tuple[tuple[float, int], ...] = ((0.13, 12), (1.6, 256))  # (time s, samples) of losses
    noise_w: float = 0.02  # standard deviation of one sample, W
    #: Gain and additive error of a recording are drawn from its uncertainties; clips at its range.
    meter: MeterSpec = _METER
    drift: float = 0.0  # what the host's clock gains on the phone's, s/s
    aperture: float = 1.0  # share of the period that a sample averages; small: a snapshot
    held: int = 1  # samples that repeat one reading, as the sensor is slower than whoever asks it
    torn: bool = False  # whether losses fall inside a packet; else they begin with one
    repeated: float = 0.0  # share of the packets that are written twice
    backward: float = 0.0  # share of the packets stamped earlier than the packet before
    set_back: tuple[tuple[float, float], ...] = ()  # (time s, s) by which the host's clock is reset
    quantum_a: float = 1e-8  # step of the current, A
    jumps: int = 0  # samples with an absurd power
    broken_rows: int = 0  # rows of the written file that hold no number
    cut: bool = False  # the written file ends in the middle of a row


def faults() -> dict[str, Monitor]:
    """Return monitors by the name of their fault: none, each alone, those of a real one, all."""
    text = Path(__file__).with_name("bench_faults.yml").read_text(encoding="utf-8")
    return {name: _monitor(**fields) for name, fields in yaml.safe_load(text).items()}


def _monitor(*, meter: dict[str, float] | None = None, **fields: Any) -> Monitor:
    listed = {name: tuple(map(tuple, v)) for name, v in fields.items() if isinstance(v, list)}
    return Monitor(meter=replace(_METER, **(meter or {})), **(fields | listed))  # type: ignore[arg-type]


def record(
    rng: Generator, monitor: Monitor, edges_s: Floats, energy_j: Floats
) -> tuple[PowerTrace, Floats, float, float]:
    """Record power with a monitor: `energy_j` is the energy up to each time `edges_s`, s.

    Returns the trace, the true time of each of its samples since `EPOCH_US`, s, and the relative
    and the additive error (W) of the power that were drawn for this recording.
    """
    half_s = monitor.period_s / 2
    taken_s = np.arange(half_s, edges_s[-1] - half_s, monitor.period_s)
    reach_s = half_s * monitor.aperture
    before_j, after_j = np.interp([taken_s - reach_s, taken_s + reach_s], edges_s, energy_j)
    spec = monitor.meter
    gain, error_w = np.array([spec.gain_u or 0.0, spec.offset_u_w]) * rng.standard_normal(2)
    power_w = (after_j - before_j) / (2 * reach_s) * (1 + gain) + error_w
    power_w += monitor.noise_w * rng.standard_normal(taken_s.size)
    power_w = np.clip(power_w, -spec.range_w, spec.range_w)
    power_w = power_w[np.arange(taken_s.size) // monitor.held * monitor.held]
    jumped = rng.integers(taken_s.size, size=monitor.jumps)
    power_w[jumped] = JUMP_W * rng.choice([-1.0, 1.0], monitor.jumps)
    voltage_v = np.round(4.2 - 0.012 * power_w.clip(0, 10), 5)
    current_a = np.round(power_w / voltage_v / monitor.quantum_a) * monitor.quantum_a
    kept, packet = _packets(monitor, taken_s.size)
    taken_s, arrived_s, row = _arrivals(rng, monitor, taken_s[kept], packet)
    stamp_us = to_us(arrived_s, EPOCH_US)
    current_a, voltage_v = (values[kept][row] for values in (current_a, voltage_v))
    trace = PowerTrace.from_stamps(stamp_us, current_a, voltage_v, spec)
    return trace, taken_s, float(gain), float(error_w)


def _packets(monitor: Monitor, samples: int) -> tuple[Ints, Ints]:
    """Return which samples are not lost, and the packet that each of them is in."""
    keep = np.ones(samples, dtype=bool)
    fresh = [0]
    for at_s, lost in sorted(monitor.lost):
        first = int(at_s / monitor.period_s)
        if not monitor.torn:
            first -= max(first - fresh[-1], 0) % monitor.burst
        keep[first : first + lost] = False
        fresh.append(first + lost)
    kept = np.flatnonzero(keep)
    begun = np.array([0] if monitor.torn else fresh)
    place = np.arange(kept.size) if monitor.torn else kept
    place = place - begun[np.searchsorted(begun, place, side="right") - 1]
    return kept, np.cumsum(place % monitor.burst == 0) - 1


def _arrivals(
    rng: Generator, monitor: Monitor, taken_s: Floats, burst: Ints
) -> tuple[Floats, Floats, Ints]:
    """Return when each row was taken and when stamped, s, and the sample that is in it."""
    # A burst arrives a little after its last sample was taken, its samples 1.2 us apart.
    last = np.cumsum(np.bincount(burst)) - 1
    number = np.arange(taken_s.size)
    late_s = taken_s[last] + rng.exponential(monitor.jitter_s, last.size)
    arrived_s = late_s[burst] - (last[burst] - number) * _WITHIN_BURST_S
    arrived_s = np.maximum.accumulate(arrived_s)
    early = np.flatnonzero(rng.random(last.size) < monitor.backward)
    arrived_s -= np.isin(burst, early[early > 0]) * 1.5 * monitor.burst * monitor.period_s
    for at_s, step_s in monitor.set_back:
        arrived_s[arrived_s > at_s] -= step_s
    # A packet that comes twice is written twice as a whole.
    twice = np.flatnonzero(np.isin(burst, np.flatnonzero(rng.random(last.size) < monitor.repeated)))
    row = np.append(number, twice)
    row = row[np.argsort(np.append(burst, burst[twice]), kind="stable")]
    return taken_s[row], arrived_s[row], row


def to_us(time_s: Floats, epoch_us: int = 0) -> Ints:
    """Whole microseconds since the origin of `time_s` plus `epoch_us`."""
    return np.round(time_s * 1e6).astype(np.int64) + epoch_us
