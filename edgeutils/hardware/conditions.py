"""The state of this machine around a measurement: heat, other work, clocks; waiting for calm."""

import os
import resource
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import psutil

#: Time over which other work is looked for while waiting, s: the kernel counts in steps of 10 ms.
_LOOK_S = 0.5


class OtherWork:
    """Share of all processors that was busy, but not with this process or its children.

    Counts from the moment when it is made.
    """

    def __init__(self) -> None:
        self._start = _seconds()

    def share(self) -> float:
        """Share since the start, 0 to 1; time that the host of a virtual machine stole is in it."""
        spent = [now - then for now, then in zip(_seconds(), self._start, strict=True)]
        busy_s, all_s, own_s = spent
        return min(max(busy_s - own_s, 0.0) / all_s, 1.0) if all_s > 0 else 0.0


def _seconds() -> tuple[float, float, float]:
    """Processor time of this machine since it started, s: busy, in all, and our own."""
    times = psutil.cpu_times()._asdict()
    # Linux counts guests as users too.
    all_s = sum(times.values()) - times.get("guest", 0.0) - times.get("guest_nice", 0.0)
    own = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    own_s = sum(each.ru_utime + each.ru_stime for each in own)
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            own_s += sum(child.cpu_times()[:2])
    return all_s - times["idle"] - times.get("iowait", 0.0), all_s, own_s


def temperature_c() -> float | None:
    """Hottest sensor of this machine, deg C; None: none can be read."""
    if not hasattr(psutil, "sensors_temperatures"):
        return None
    groups = psutil.sensors_temperatures().values()
    return max((each.current for group in groups for each in group), default=None)


def settle(
    share: float, *, quiet: float, cool_below_c: float | None, wait_s: float
) -> tuple[float, tuple[str, ...]]:
    """Wait until the machine is cool and others are quiet, at most `wait_s`.

    `share` is what others took when last looked at. Returns the time waited, s, and what is not
    so yet: `hot`, `busy`.
    """
    began = time.monotonic()
    while True:
        heat_c = temperature_c() if cool_below_c is not None else None
        hot = heat_c is not None and cool_below_c is not None and heat_c >= cool_below_c
        flags = ("hot",) * hot + ("busy",) * (share > quiet)
        waited_s = time.monotonic() - began
        if not flags or waited_s >= wait_s:
            return waited_s, flags
        others = OtherWork()
        time.sleep(min(_LOOK_S, wait_s - waited_s))
        share = others.share()


def state() -> dict[str, Any]:
    """Read what can be read of this machine now; None: it cannot."""
    clock = psutil.cpu_freq() if hasattr(psutil, "cpu_freq") else None
    return {
        "load1": os.getloadavg()[0],
        "temperature_c": temperature_c(),
        "clock_mhz": clock.current if clock else None,
        "cpu": _cpu(),
    }


@cache
def _cpu() -> str | None:
    """Name of the processor, and how many of it there are."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    told = dict(line.split(":", 1) for line in lines if ":" in line)
    names = {key.strip(): value.strip() for key, value in told.items()}
    name = names.get("model name") or names.get("Model")
    return f"{name}, {psutil.cpu_count()} logical" if name else None
