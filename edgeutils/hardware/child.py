"""Runs of models in this process, stamped: what `runtimes.Child` starts as a child process.

`python -m edgeutils.hardware.child` reads requests (a line of JSON each) from its standard input
and writes an answer to each (likewise) to its standard output; what the runtime prints goes to
standard error. Nothing is imported that the runtime does not need, and nothing happens between
the end of the work and its stamp. The process dies with the one that started it.
"""

import ctypes
import gc
import importlib
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby, repeat
from typing import Any, NamedTuple

import numpy as np

from edgeutils import EdgeError

#: Idle time on either side of a sync pulse, so that it stands apart from the work, s.
_REST_S = 0.2
#: Wider integers are often indices: 0 and 1 exist in every table that one looks them up in.
_INDICES = 2
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Work(NamedTuple):
    """A model that is ready to run."""

    invoke: Callable[[], Any]  # runs it, or only starts it where there is a `finish`
    finish: Callable[[], Any] | None = None  # returns once all that was started has ended
    number: int = 1  # inferences of one call
    delegate: str = "none"  # see `runtimes.Run`
    flags: Sequence[str] = ()

    def whole(self) -> None:
        """Run it to its end."""
        self.invoke()
        if self.finish:
            self.finish()


def execute(request: Mapping[str, Any]) -> dict[str, Any]:
    """Load a model, pulse, warm up, run and stamp it; the request is made in `runtimes.run`.

    Returns `windows` (start ns, end ns, inferences), `sync` (start ns, end ns of each busy spell),
    both by `time.monotonic_ns`, `delegate` and `flags`.
    EdgeError: the runtime cannot be imported, or cannot load or run the model.
    """
    name = f"{request['model']}: {request['runtime']}"
    try:
        if request["runtime"] == "torch":
            work = importlib.import_module("edgeutils.hardware.torch_child").load(request)
        else:
            work = _interpreter(request)
        gc.disable()
        sync = _pulse(request["chips"], request["chip_s"])
        each_s = warm_up(work.whole, request["warmup"], request["warmup_s"])
        block, least_s = request["block"], request["window_s"]
        block = block if least_s is None else max(block, math.ceil(least_s / each_s))
        windows = _windows(work, request["inferences"], request["seconds"], block)
        warm_up(work.whole, 0, request["tail_s"])
        sync += _pulse(request["chips"], request["chip_s"])
    except (ImportError, AttributeError) as error:
        raise EdgeError(f"{name} does not import ({_line(error)}); {request['cure']}") from None
    except (RuntimeError, ValueError) as error:
        raise EdgeError(f"{name} cannot run it: {_line(error)}") from None
    finally:
        gc.enable()
    return {"windows": windows, "sync": sync, "delegate": work.delegate, "flags": work.flags}


def _interpreter(request: Mapping[str, Any]) -> Work:
    """Load a `.tflite` file into LiteRT or tflite-runtime."""
    package = importlib.import_module(request["package"])
    ops = package.OpResolverType
    resolver = ops.AUTO if request["xnnpack"] else ops.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    options = {"num_threads": request["threads"], "experimental_op_resolver_type": resolver}
    interpreter = package.Interpreter(request["path"], **options)
    interpreter.allocate_tensors()
    flags = _fill(interpreter, np.random.default_rng(request["seed"]))
    # No public call says whether a delegate took nodes; both packages have this one.
    taken = any(node["op_name"] == "DELEGATE" for node in interpreter._get_ops_details())
    flags += ["xnnpack_not_applied"] * (request["xnnpack"] and not taken)
    return Work(interpreter.invoke, delegate="xnnpack" if taken else "none", flags=flags)


def _fill(interpreter: Any, rng: np.random.Generator) -> list[str]:
    """Fill the inputs with valid random data: the whole range of 8 bits, [0, 1) for floats."""
    flags: list[str] = []
    for detail in interpreter.get_input_details():
        dtype, shape = np.dtype(detail["dtype"]), detail["shape"]
        what, signature = f"input {detail['name']}", detail["shape_signature"].tolist()
        if -1 in signature[1:]:
            raise EdgeError(f"{what} has the open shape {signature}; fix it and convert again")
        if dtype.kind == "f":
            values = rng.random(shape)
        elif dtype.kind in "iu" and dtype.itemsize == 1:
            values = rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max + 1, shape)
        elif dtype.kind in "iub":
            values = rng.integers(0, _INDICES, shape)
        else:
            raise EdgeError(f"{what} is of type {dtype}; only numbers can be filled in")
        interpreter.set_tensor(detail["index"], values.astype(dtype))
        flags = ["open_batch_as_1"] if -1 in signature else flags
    return flags


def warm_up(invoke: Callable[[], None], count: int, least_s: float) -> float:
    """Run `count` inferences, and more until `least_s` has passed; the shortest took this long, s.

    With `least_s` the time alone counts, after one inference: ten of a slow model would take long.
    """
    clock, shortest = time.monotonic_ns, 10**18
    began = clock()
    done, most = 0, 1 if least_s else count
    while done < most or clock() - began < least_s * 1e9:
        start = clock()
        invoke()
        shortest = min(shortest, clock() - start)
        done += 1
    return max(shortest, 1) / 1e9


def _windows(
    work: Work, inferences: int | None, seconds: float | None, block: int
) -> list[tuple[int, int, int]]:
    """Start ns, end ns and inferences of each block, until one of the bounds is reached."""
    invoke, finish = work.invoke, work.finish
    clock, windows, end = time.monotonic_ns, [], 0
    left = math.inf if inferences is None else inferences
    until = math.inf if seconds is None else clock() + seconds * 1e9
    while left > 0 and end < until:
        count = int(min(block, left))
        turns = repeat(None, count)
        start = clock()
        for _ in turns:
            invoke()
        if finish:
            finish()
        end = clock()
        windows.append((start, end, count * work.number))
        left -= count
    return windows


def _pulse(chips: Sequence[int], chip_s: float) -> list[tuple[int, int]]:
    """Keep one core busy for each 1 and idle for each 0; returns when it was busy, ns."""
    spells: list[tuple[int, int]] = []
    time.sleep(_REST_S if chips else 0)
    edge = time.monotonic_ns()
    for busy, alike in groupby(chips):
        start = time.monotonic_ns()
        edge += round(len(list(alike)) * chip_s * 1e9)
        if busy:
            while time.monotonic_ns() < edge:
                pass
            spells.append((start, time.monotonic_ns()))
        else:
            time.sleep(max(0, edge - start) / 1e9)
    time.sleep(_REST_S if chips else 0)
    return spells


def _line(error: Exception) -> str:
    """First line of what a runtime says: the rest repeats it."""
    return (str(error).strip().splitlines() or [repr(error)])[0][:200]


def main() -> None:
    """Answer requests until there are no more; a mistake of the user is an answer too."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with os.fdopen(os.dup(1), "w", 1, encoding="utf-8") as answers:
        os.dup2(2, 1)
        for line in sys.stdin:
            try:
                request = json.loads(line)
                # The parent may have ended before the kernel was told to watch it.
                if os.getppid() != request["parent"]:
                    break
                answer = execute(request)
            except EdgeError as error:
                answer = {"error": str(error)}
            answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
