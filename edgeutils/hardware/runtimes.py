"""Runtimes: run a model many times and stamp it, so that a power trace can be cut into inferences.

LiteRT and tflite-runtime run on this machine, by default in a child process: a model that crashes
or hangs ends in one sentence. Phones are in `android`, PyTorch is in `pytorch`. What comes back is
a `Run`; `write_marks` writes its marks for another machine, where the meter is.
"""

import hashlib
import json
import os
import platform
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from edgeutils import ROOT, EdgeError, whole_file
from edgeutils.hardware import child as worker
from edgeutils.hardware.clock import SYNC_CHIP_S, SYNC_CHIPS
from edgeutils.hardware.stamps import EPOCH_VARIABLE, monotonic_epoch_us
from edgeutils.hardware.trace import Floats, Marks
from edgeutils.networks.graph import Graph
from edgeutils.networks.model_file import check_identifier, model_path

#: Name of a runtime: (module, distribution).
RUNTIMES = {
    "litert": ("ai_edge_litert.interpreter", "ai-edge-litert"),
    "tflite-runtime": ("tflite_runtime.interpreter", "tflite-runtime"),
    "torch": ("torch", "torch"),
}
Stamps = Sequence[Sequence[int]] | NDArray[np.int64]
#: Name of the rows of a marks file that are busy spells of a sync pulse, not work.
SYNC_NAME = "sync"


@dataclass(frozen=True)
class Plan:
    """How much is run, on this machine or on a phone; EdgeError for an amount that cannot be."""

    inferences: int | None = None  # None: 100, or as many as `seconds` allows
    seconds: float | None = None  # time to run for, s; None: `inferences` rules
    threads: int = 1
    warmup: int = 10  # inferences before the first mark
    warmup_s: float = 0.0  # if above 0: warm up for this time instead, s
    #: With `seconds`: a window holds as many inferences as last this long, s; None: `block`.
    window_s: float | None = None
    #: The work goes on after the last mark for this time, s: a meter's last sample is of it too.
    tail_s: float = 0.0
    sync: bool = False  # emit a sync pulse (`clock.SYNC_CHIPS`) before and after

    def __post_init__(self) -> None:
        if self.seconds is None:
            inferences = 100 if self.inferences is None else self.inferences
            object.__setattr__(self, "inferences", inferences)
        elif self.inferences is not None:
            raise EdgeError("both inferences and seconds are given; give one of the two")
        elif not 0 < self.seconds < np.inf:
            raise EdgeError(f"seconds is {self.seconds}, expected a time above 0")
        if self.window_s is not None and not (self.seconds and 0 < self.window_s < np.inf):
            raise EdgeError(f"window_s is {self.window_s}, expected a time above 0, with seconds")
        for name in ("warmup_s", "tail_s"):
            if not 0 <= getattr(self, name) < np.inf:
                raise EdgeError(f"{name} is {getattr(self, name)}, expected a time of 0 or more")
        if self.window_s and not (self.warmup or self.warmup_s):
            raise EdgeError("window_s is found in the warm-up, but warmup is 0; give 1 or more")
        for name, least in {"inferences": 1, "threads": 1, "warmup": 0}.items():
            at_least(name, getattr(self, name), least)


@dataclass(frozen=True)
class Run:
    """Inferences that ran, when, and how."""

    marks: Marks  # windows of inferences, by the clock of the device
    runtime: str  # litert, tflite-runtime, torch or benchmark_model
    version: str | None  # of the runtime; None: it does not say
    model: str  # name of the model's file, or of the graph
    model_sha256: str
    plan: Plan  # what was asked for
    delegate: str  # what took nodes of the model, as the runtime reported: xnnpack, gpu, cuda, none
    device: Mapping[str, Any]  # what is known of the machine and its state; None: not readable
    flags: tuple[str, ...] = ()  # what was not as asked
    #: Latencies that the runtime itself reported, s; empty: none.
    reported_s: Mapping[str, float] = field(default_factory=dict)

    @property
    def latency_s(self) -> Floats:
        """Mean latency of an inference in each window, s, shape (m,)."""
        return (self.marks.end_s - self.marks.start_s) / self.marks.count


def run(  # noqa: PLR0913 - keyword-only options
    model: str | Path | Graph,
    *,
    runtime: str = "litert",
    xnnpack: bool = True,
    device: str = "cpu",
    block: int = 1,
    seed: int = 0,
    child: "bool | Child" = True,
    timeout_s: float = 600.0,
    **plan: Any,
) -> Run:
    """Run a `.tflite` model, or with `torch` a graph, on this machine and mark its inferences.

    `plan` are the fields of `Plan`: inferences or seconds, threads, warmup, sync and so on. A
    window holds `block` inferences (the last one what is left), or more where `window_s` asks for
    it: choose it so that a window is longer than the meter's period. Inputs are random, from
    `seed`. The marks are on the clock of meters that record on this machine (`same_clock`).

    With `child` the model runs in a process of its own, stopped `timeout_s` after the time that
    was asked for (`seconds`); without, a model that crashes takes this process with it and nothing
    stops one that hangs. A `Child` is used and left running, as PyTorch and CUDA take seconds to
    start.

    PyTorch runs on `device`, cpu or cuda, in the number type of the graph, float32 or float16;
    see `torch_child` for how, and `networks.torch_network` for as what. On cuda, `window_s` makes
    windows of replays that last about 2 ms, and `threads` counts for nothing.

    Flags: `xnnpack_not_applied` (asked for, but the runtime left every operator where it was:
    tflite-runtime 2.14 does so with quantised models), `open_batch_as_1` (the model leaves the
    number of its inputs open; one was given).
    EdgeError: an option out of range, no runtime, no model, a file that is no model, an operator
    that the runtime does not have, an input of open shape, a crash (the signal is named), the
    timeout.
    """
    one_of("runtime", runtime, RUNTIMES)
    at_least("block", block, 1)
    (package, distribution), chosen = RUNTIMES[runtime], Plan(**plan)
    asked = {**asdict(chosen), "runtime": runtime, "package": package, "block": block, "seed": seed}
    asked |= {"parent": os.getpid(), "xnnpack": xnnpack, "device": device}
    asked["cure"] = f"pip install {distribution}, or see edgeutils doctor"
    asked |= {"chips": SYNC_CHIPS if chosen.sync else (), "chip_s": SYNC_CHIP_S}
    if isinstance(model, Graph) != (runtime == "torch"):
        raise EdgeError(f"{runtime} got {model!r:.60}; give a graph to torch, a file to the others")
    if isinstance(model, Graph):
        one_of("device", device, ("cpu", "cuda"))
        name = stem = model.name
        asked["graph"] = asdict(model)
        digest = hashlib.sha256(json.dumps(asked["graph"]).encode()).hexdigest()
    else:
        path, digest = check_model(model)
        name, stem, asked["path"] = path.name, path.stem, str(path.resolve())
    asked["model"] = name
    if child:
        with nullcontext(child) if isinstance(child, Child) else closing(Child()) as process:
            answer = process.ask(asked, timeout_s + (chosen.seconds or 0))
    else:
        answer = worker.execute(asked)
    marks = marks_of(answer["windows"], answer["sync"], stem, here=True)
    how = chosen, answer["delegate"], _machine(), tuple(answer["flags"])
    return Run(marks, runtime, _version(distribution), name, digest, *how)


def check_model(model: str | Path) -> tuple[Path, str]:
    """Return path and SHA-256 of a `.tflite`; EdgeError if it is missing or something else."""
    path = model_path(model)
    with path.open("rb") as file:
        check_identifier(file, path.name)
        file.seek(0)
        return path, hashlib.file_digest(file, "sha256").hexdigest()


def one_of(name: str, value: str, valid: Iterable[str]) -> None:
    """Refuse an option that is not among the valid ones."""
    if value not in valid:
        raise EdgeError(f"{name} is {value!r}, expected one of {', '.join(valid)}")


def at_least(name: str, value: int | None, least: int) -> None:
    """Refuse an option that is given and too small."""
    if value is not None and value < least:
        raise EdgeError(f"{name} is {value}, expected {least} or more")


def signal_name(number: int) -> str:
    """Name a signal, and what usually sends it."""
    if number not in set(signal.Signals):
        return f"signal {number}"
    hint = " (often: out of memory)" if number == signal.SIGKILL else ""
    return signal.Signals(number).name + hint


def _version(distribution: str) -> str | None:
    """Version of an installed package; None: it is not installed."""
    return next((found.version for found in metadata.distributions(name=distribution)), None)


def marks_of(windows: Stamps, spells: Stamps, name: str, *, here: bool) -> Marks:
    """Make marks of stamps in ns, counted from the microsecond of the first: no digit is lost.

    `here`: by the monotonic clock of this machine; else since 1970 by the clock of a device.
    """
    start, end, count = np.array(windows, dtype=np.int64).T
    sync = np.array(spells, dtype=np.int64).reshape(-1, 2)
    first_us = int(start[0]) // 1000
    start_s, end_s, sync_s = ((ns - first_us * 1000) / 1e9 for ns in (start, end, sync))
    epoch_us, names = first_us + (monotonic_epoch_us() if here else 0), (name,) * count.size
    return Marks(start_s, end_s, count, epoch_us, names, sync_s=sync_s, same_clock=here)


class Child:
    """A process that runs what it is asked to, one request after the other; see `child`.

    It starts with the first request, and anew after one that failed; `close` ends it.
    """

    _process: Any = None

    def ask(self, asked: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """Return the answer; EdgeError: it is one, or there is none in time or at all."""
        try:
            self._process = self._process or self._start()
            return self._answer(asked, f"{asked['model']}: {asked['runtime']}", timeout_s)
        except BaseException:
            self.close()
            raise

    def _start(self) -> subprocess.Popen:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        env = {**os.environ, "PYTHONPATH": path, EPOCH_VARIABLE: str(monotonic_epoch_us())}
        # -P: a file numpy.py in the user's folder is none of ours.
        command = [sys.executable, "-P", "-m", worker.__name__]
        # A runtime may print without end: to a file, of which the end is read.
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        return subprocess.Popen(command, stderr=self._said, env=env, **pipes)

    def _answer(self, asked: Mapping[str, Any], name: str, timeout_s: float) -> dict[str, Any]:
        pipe = self._process.stdout
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(asked).encode() + b"\n")
            self._process.stdin.flush()
        if not select.select([pipe], [], [], timeout_s)[0]:
            raise EdgeError(
                f"{name} was stopped after {timeout_s:g} s; ask for fewer inferences or a "
                "longer timeout_s, or take the model for one that hangs"
            )
        if answered := pipe.readline():
            answer = json.loads(answered)
            if "error" in answer:
                raise EdgeError(answer["error"])
            return answer
        code = self._process.wait()
        how = signal_name(-code) if code < 0 else f"exit {code}"
        self._said.seek(max(0, self._said.seek(0, os.SEEK_END) - 2000))
        last = ["nothing", *self._said.read().decode(errors="replace").split("\n")]
        words = [line for line in last if line.strip()][-1][:200]
        cure = "try xnnpack=False or the other runtime"
        raise EdgeError(f"{name} crashed ({how}) and said last: {words}; {cure}")

    def close(self) -> None:
        """End it at once."""
        if self._process:
            self._process.kill()
            self._process.communicate()
            self._said.close()
        self._process = None


def _machine(root: Path = Path("/sys/devices/system/cpu")) -> dict[str, Any]:
    """Say what is known of this machine."""
    files = root.glob("cpu*/cpufreq/scaling_governor")
    return {
        "machine": platform.machine(),
        "python": platform.python_version(),
        "governor": " ".join(sorted({file.read_text().strip() for file in files})) or None,
    }


def write_marks(path: str | Path, marks: Marks) -> Path:
    """Write marks as a CSV that `read_marks` reads back, whole or not at all.

    Columns `start_us,end_us,count,name`, whole microseconds since 1970 by the device's clock;
    a row named `sync` is a busy spell of a sync pulse. Neither `same_clock` nor `official_j`
    is written. EdgeError: a window shorter than a microsecond, a window named `sync`, or a
    folder that cannot be written to.
    """
    path = Path(path)
    if SYNC_NAME in marks.name:
        raise EdgeError(f"a window is named {SYNC_NAME!r}, which marks a sync pulse; rename it")
    spans = np.concatenate([np.column_stack([marks.start_s, marks.end_s]), marks.sync_s])
    start_us, end_us = marks.epoch_us + np.round(spans * 1e6).astype(np.int64).T
    short = int((end_us <= start_us).sum())
    if short:
        raise EdgeError(f"{short} window(s) are shorter than 1 us; mark blocks of inferences")
    pulses = len(marks.sync_s)
    count = [*marks.count, *[1] * pulses]
    name = [*(marks.name or [""] * marks.count.size), *[SYNC_NAME] * pulses]
    frame = pd.DataFrame({"start_us": start_us, "end_us": end_us, "count": count, "name": name})
    try:
        with whole_file(path) as partial:
            frame.to_csv(partial, index=False, lineterminator="\n", compression=None)
    except OSError as error:
        raise EdgeError(f"{path} cannot be written: {error}") from None
    return path


def available(adb: str = "adb") -> list[dict[str, Any]]:
    """Name, available, reason and cure of each runtime, for `doctor`; each import is tried."""
    from edgeutils.hardware import android  # noqa: PLC0415 - it needs Run from here

    found = []
    for name, (package, distribution) in RUNTIMES.items():
        command = [sys.executable, "-P", "-c", f"import {package}"]
        tried = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        works, said = tried.returncode == 0, (tried.stderr.strip().splitlines() or ["no word"])[-1]
        reason = f"version {_version(distribution)}"
        if not works:
            reason = f"its package cannot be imported ({said[:200]})"
        # tflite-runtime was built for numpy 1 and says so only by failing to import.
        old = "numpy" in tried.stderr and "No module" not in said
        cure = None if works else f"pip install {'numpy<2' if old else distribution}"
        found.append({"name": name, "available": works, "reason": reason, "cure": cure})
    return [*found, android.availability(adb)]
