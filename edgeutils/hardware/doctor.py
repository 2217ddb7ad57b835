"""What can be measured on this machine, and whether a meter reads a known load rightly."""

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgeutils import EdgeError
from edgeutils.hardware import runtimes, sensors
from edgeutils.hardware.meters import Meter, MeterError, record, update_period

#: A load bought as P watts is within 5 %, as common resistors are; a rectangular distribution.
_LOAD_U = 0.05 / np.sqrt(3)
_COVERAGE = 2.0  # standard uncertainties in an interval of 95 %
_PARTS = 10  # into which a recording is cut to see how much the power scatters


def examine(
    known_load_w: float | None = None,
    *,
    meter: str | None = None,
    switch: Callable[[bool], None] | None = None,
    sysfs: Path | None = None,
) -> dict[str, Any]:
    """Say which meters and runtimes can be used here, and why not the others.

    With `meter` its update period is looked up too. With `known_load_w`, W, it is compared with
    a load, see `known_load`, which `switch` is for. The value is ready for JSON: None for what is
    missing, and beside the contract `meter` and `known_load` where asked for. EdgeError: a load
    without meter or switch; MeterError: that meter cannot be read.
    """
    if known_load_w is not None and not (meter and switch and 0 < known_load_w < np.inf):
        raise EdgeError(
            f"a known load of {known_load_w:g} W needs a power above 0 W and the meter that reads "
            "it; add --meter NAME"
        )
    sysfs = sysfs or sensors.SYSFS
    found: dict[str, Any] = {
        "meters": sensors.survey(sysfs=sysfs),
        "runtimes": runtimes.available(),
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    if meter:
        opened = sensors.open_meter(meter, sysfs=sysfs)
        found["meter"] = {"name": opened.name, "boundary": opened.boundary}
        found["meter"] |= {} if opened.stream else update_period(opened)._asdict()
        if known_load_w and switch:
            found["known_load"] = known_load(opened, known_load_w, switch)
    return found


def known_load(
    meter: Meter,
    load_w: float,
    switch: Callable[[bool], None],
    *,
    seconds: float = 10.0,
    hertz: float = 20.0,
) -> dict[str, Any]:
    """Compare what a load of `load_w` adds to the reading of `meter` with `load_w`.

    `switch` is called before each of two recordings of `seconds` and returns once the load is
    off (False) or on (True); the rest of the machine may draw power too as long as it is steady.
    `ratio` is read over known: divide by it to correct the meter. `agrees` tells whether 1 lies
    within two standard uncertainties, `ratio_u` (scatter of both recordings, `u_w`; the meter's
    stated gain, `gain_u`; a load known to 5 %). `gain_u` is None where the maker states no
    accuracy: then this check is all that is known of it. MeterError if the meter does not see
    the load.
    """
    means_w, variances = [], []
    for load_on in (False, True):
        switch(load_on)
        with record(meter, hertz) as recording:
            recording.wait(seconds)
        # A load that is off may well read 0 W all the time: that is no fault here.
        power_w = recording.trace(still_ok=True).power_w
        parts_w = [part.mean() for part in np.array_split(power_w, min(_PARTS, power_w.size))]
        means_w.append(float(power_w.mean()))
        variances.append(np.var(parts_w, ddof=1) / len(parts_w))
    (off_w, on_w), u_w = means_w, float(np.sqrt(sum(variances)))
    if on_w - off_w <= _COVERAGE * u_w:
        raise MeterError(
            f"{meter.name} reads {off_w:.4g} W without and {on_w:.4g} W with the load of "
            f"{load_w:g} W, so it does not see it",
            "connect the load at the place where the meter reads, and stop other work",
        )
    gain_u, ratio = meter.spec.gain_u, (on_w - off_w) / load_w
    ratio_u = float(np.linalg.norm([_LOAD_U, gain_u or 0.0, u_w / load_w]))
    agrees = abs(ratio - 1) <= _COVERAGE * ratio_u
    found = {"load_w": load_w, "off_w": off_w, "on_w": on_w, "u_w": u_w, "gain_u": gain_u}
    return found | {"ratio": ratio, "ratio_u": ratio_u, "agrees": agrees}
