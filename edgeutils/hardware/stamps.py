"""One clock for meters and runtimes: monotonic stamps, related to 1970 once and for all.

`time.monotonic_ns` never jumps and counts from the same zero in every process of a machine, but
that zero means nothing elsewhere; the time of day means something, but is set while one measures.
So everything is stamped by the monotonic clock, and its zero is placed on the calendar once, in
the first process that asks. Trace and marks that use the same constant are on the same clock.
"""

import os
import time
from functools import cache

from edgeutils import EdgeError

#: Hands the constant to a child process, whose own look at the time of day would differ:
#: `env={**os.environ, EPOCH_VARIABLE: str(monotonic_epoch_us())}`.
EPOCH_VARIABLE = "EDGEUTILS_MONOTONIC_EPOCH_US"


@cache
def monotonic_epoch_us() -> int:
    """Time of the monotonic clock's zero, whole us since 1970; constant within a process.

    A stamp is `monotonic_epoch_us() + time.monotonic_ns() // 1000` microseconds since 1970; as an
    origin, `epoch_us` of a trace or of marks, it loses nothing. Taken from the environment
    variable `EPOCH_VARIABLE` where a parent set it, else from one reading of both clocks.
    EdgeError if the variable is no whole number.
    """
    inherited = os.environ.get(EPOCH_VARIABLE)
    try:
        return (time.time_ns() - time.monotonic_ns()) // 1000 if not inherited else int(inherited)
    except ValueError:
        raise EdgeError(
            f"{EPOCH_VARIABLE} should be whole microseconds since 1970, but is {inherited!r:.40}; "
            "unset it"
        ) from None
