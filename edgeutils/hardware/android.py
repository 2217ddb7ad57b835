"""Models on an Android phone, over adb: push, run `benchmark_model`, stamp, clean up.

No real phone was tried. What is here was written after the published sources and outputs of adb
and of TensorFlow Lite's `benchmark_model`, and is tested against a stand-in that replays them in
real shells (see `tests/stand_in_adb.py` for what was replayed).

The stock binary prints no stamps per inference, but it says when a loop begins and ends, and
flushes each line. The phone's own shell stamps the lines as they come, by the phone's clock: the
measured loop, without loading and warm-up, becomes one window with its number of inferences. A
patched binary may print a row `inference_index,start_us,end_us,duration_us` for each inference
after the loop, in microseconds since 1970 (gettimeofday): then each becomes a window.

Power that comes in through the cable does not pass the monitor: a phone that charges is refused.
Use adb over Wi-Fi (`adb tcpip 5555`, `adb connect ADDRESS:5555`, then unplug).
"""

import hashlib
import re
import secrets
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from edgeutils import EdgeError
from edgeutils.hardware.clock import SYNC_CHIP_S, SYNC_CHIPS
from edgeutils.hardware.runtimes import Plan, Run, check_model, marks_of, one_of, signal_name
from edgeutils.hardware.trace import Marks

_FACTS = yaml.safe_load(Path(__file__).with_suffix(".yml").read_text(encoding="utf-8"))
#: Relative excess of the marked loop over its inferences from which pauses are flagged.
_PAUSES = 0.05
#: Difference of the phone's two clocks that is a step of its day time, s; uptime has 10 ms.
_STEP_S = 0.05
_SAYS = _FACTS["says"]
_QUICK_S = 60.0  # for commands that take no time


@dataclass(frozen=True)
class _Phone:
    adb: str
    serial: str
    left: list[str] = field(default_factory=list)  # folders that could not be removed

    def call(self, *words: str, timeout_s: float = _QUICK_S) -> str:
        return _call([self.adb, "-s", self.serial, *words], timeout_s)

    def shell(self, *words: str, timeout_s: float = _QUICK_S) -> str:
        """Run words on the phone; adb joins its arguments for the phone's shell: quote them."""
        return self.call("shell", shlex.join(words), timeout_s=timeout_s)

    @contextmanager
    def folder(self) -> Iterator[str]:
        """Make a folder on the phone; what runs from it is stopped and it is removed, always."""
        remote = f"/data/local/tmp/edgeutils-{secrets.token_hex(4)}"
        try:
            self.shell("mkdir", remote)
            yield remote
        finally:
            try:
                self.shell("sh", "-c", _FACTS["clean"], remote)
            except EdgeError:
                self.left.append(remote)


def devices(adb: str = "adb") -> dict[str, str]:
    """State of each phone that adb sees, by serial: device (ready), unauthorized, offline ...

    EdgeError: adb does not start or answer.
    """
    listed = _call([adb, "devices"], _QUICK_S).partition("List of devices attached")[2]
    return dict(re.findall(r"^(\S+)\s+(no permissions|\S+)", listed, re.M))


def run(  # noqa: PLR0913 - keyword-only options
    model: str | Path,
    *,
    binary: str | Path,
    serial: str | None = None,
    delegate: str = "xnnpack",
    mask: str | None = None,
    charging: str = "refuse",
    timeout_s: float = 600.0,
    adb: str = "adb",
    **plan: Any,
) -> Run:
    """Run a model with `benchmark_model` (`binary`, built for the phone) and mark the loop.

    `plan` are the fields of `runtimes.Plan`; `delegate` is none, xnnpack, gpu or nnapi; `mask`
    the hexadecimal affinity mask of `taskset`, for instance f0 for the upper four of eight
    cores; `charging` refuse or flag. Battery, heat and governors before and after are in
    `device`, what the binary reports in `reported_s`.

    Flags: `charging`, `charging_unknown`, `thermal_throttling` (the phone said so before or
    after), `delegate_partial`, `delegate_not_applied` (operators stayed on the CPU),
    `delegate_unconfirmed` (no word about it), `loop_has_pauses` (marked loop more than 5 %
    longer than its inferences), `clock_stepped` (day time was set meanwhile),
    `left_on_phone` (clean-up failed).
    EdgeError: no phone or several, a phone that is not ready, charges, vanishes, has no space or
    another ABI; a run that fails or takes longer than `timeout_s`; a bad model or option.
    """
    (path, digest), chosen = check_model(model), Plan(**plan)
    one_of("delegate", delegate, _FACTS["delegates"])
    one_of("charging", charging, ("refuse", "flag"))
    if not re.fullmatch("[0-9a-fA-F]+", mask or "f"):
        raise EdgeError(f"mask is {mask!r}, expected hexadecimal digits such as f0")
    patience_s = timeout_s + (chosen.seconds or 0)
    phone = _Phone(adb, _choose(devices(adb), serial))
    properties = dict(re.findall(r"^\[(.+?)\]: \[(.*)\]", phone.shell("getprop"), re.M))
    program = _program(Path(binary), properties.get("ro.product.cpu.abilist", ""))
    before = _state(phone)
    if before["charging"] and charging == "refuse":
        raise EdgeError(_SAYS["charging"])
    try:
        with phone.folder() as remote:
            for file, name in ((program, "benchmark_model"), (path, "model.tflite")):
                phone.call("push", str(file), f"{remote}/{name}", timeout_s=timeout_s)
            words = _command(remote, chosen, delegate, mask, patience_s)
            output = phone.shell("sh", "-c", _FACTS["run"], "sh", *words, timeout_s=patience_s)
        marks, reported_s, flags = _read(output, path.stem)
        after = _state(phone)
    except EdgeError as error:
        left = f"; {phone.left[0]} was left on the phone" if phone.left else ""
        raise EdgeError(f"{path.name}: {error}{left}") from None
    taken, doubt = _delegated(output, delegate)
    charges = {True: ["charging"], None: ["charging_unknown"]}.get(before["charging"], [])
    hot = any((state["thermal_status"] or 0) > 0 for state in (before, after))
    flags += charges + doubt + ["thermal_throttling"] * hot + ["left_on_phone"] * bool(phone.left)
    device = {key: properties.get(key) for key in _FACTS["properties"]}
    device |= {"serial": phone.serial, "mask": mask, "before": before, "after": after}
    device["binary_sha256"] = hashlib.sha256(program.read_bytes()).hexdigest()
    how = chosen, taken, device, tuple(flags), reported_s
    return Run(marks, "benchmark_model", None, path.name, digest, *how)


def availability(adb: str = "adb") -> dict[str, Any]:
    """Say whether a phone is ready, for `doctor`."""
    try:
        found = devices(adb)
        ready = [serial for serial, state in found.items() if state == "device"]
        reason, cure = f"ready: {', '.join(ready or [_choose(found, None)])}", None
    except EdgeError as error:
        ready, (reason, _, cure) = [], str(error).partition("; ")
    return {"name": "android", "available": bool(ready), "reason": reason, "cure": cure}


def _call(command: Sequence[str], timeout_s: float) -> str:
    how: dict[str, Any] = {"capture_output": True, "encoding": "utf-8", "errors": "replace"}
    how |= {"stdin": subprocess.DEVNULL, "timeout": timeout_s}
    try:
        done = subprocess.run(command, check=False, **how)
    except OSError:
        raise EdgeError(f"{command[0]} {_SAYS['no adb']}") from None
    except subprocess.TimeoutExpired:
        raise EdgeError(_SAYS["timeout"].format(timeout_s)) from None
    # adb itself ends with 255 and no word when the phone goes away.
    if done.returncode == 255 and not done.stderr.strip():
        raise EdgeError(_SAYS["gone"])
    if done.returncode:
        raise EdgeError(_failure(done.stderr + done.stdout, done.returncode))
    return done.stdout


def _failure(text: str, code: int) -> str:
    """Make one sentence of what a program said before it failed: the telling line and a cure."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no message"]
    for pattern, cure in _FACTS["cures"].items():
        if telling := [line for line in lines if re.search(pattern, line)]:
            return f"{telling[0][-200:]}; {cure}"
    telling = [line for line in lines if re.search("error|fail", line, re.I)] or lines[-1:]
    how = signal_name(code - 128) if code > 128 else f"exit {code}"
    return f"{telling[0][-200:]} ({how}); try another delegate or binary"


def _choose(found: Mapping[str, str], serial: str | None) -> str:
    if not found:
        raise EdgeError(_SAYS["no phone"])
    listed = ", ".join(f"{name} ({state})" for name, state in found.items())
    chosen = [name for name in found if serial in (None, name)]
    if not chosen:
        raise EdgeError(f"adb sees no phone {serial}; it sees: {listed}")
    if len(chosen) > 1:
        raise EdgeError(f"adb sees several phones; choose one by serial=: {listed}")
    state = found[chosen[0]]
    if state != "device":
        cure = _FACTS["states"].get(state, "start Android on it")
        raise EdgeError(f"phone {chosen[0]} is {state}; {cure}")
    return chosen[0]


def _program(binary: Path, abis: str) -> Path:
    """Check that the binary was built for the phone, by the header of its ELF file."""
    if not binary.is_file():
        raise EdgeError(f"{binary} does not exist; build or download benchmark_model for Android")
    with binary.open("rb") as file:
        header = file.read(20)
    machine = int.from_bytes(header[18:20], "little")
    abi = _FACTS["abis"].get(machine) if header[:4] == b"\x7fELF" else None
    if abi is None or (abis and abi not in abis.split(",")):
        built = f"built for {abi}" if abi else "no program for Android"
        raise EdgeError(f"{binary.name} is {built}, but the phone runs {abis}; take that build")
    return binary


def _command(
    remote: str, plan: Plan, delegate: str, mask: str | None, timeout_s: float
) -> list[str]:
    """Arguments of the script: folder, sync pulse, and the command that it stamps."""
    chips = " ".join(map(str, SYNC_CHIPS)) if plan.sync else ""
    asked = asdict(plan) | {"inferences": plan.inferences or 1, "seconds": plan.seconds or 0}
    command = _FACTS["command"].format(folder=remote, timeout_s=timeout_s, **asked).split()
    taskset = ["taskset", mask] if mask else []
    script = [remote, str(round(SYNC_CHIP_S * 1e6)), chips]
    return script + taskset + command + _FACTS["delegates"][delegate]


def _state(phone: _Phone) -> dict[str, Any]:
    """Battery, heat and governors; None for what the phone does not tell."""
    text = phone.shell("sh", "-c", _FACTS["state"])
    powered = re.findall(r"^\s+[\w ]*powered: (\w+)", text, re.M)
    current = text.partition("Current temperatures from HAL")[2] or text
    heat = re.findall(r"Temperature\{mValue=([-\d.]+),.*?mName=([^,}]+)", current)
    heat = heat or [(int(v) / 1e3, k) for k, v in re.findall(r"^(\S+) (\d{4,6})$", text, re.M)]
    state: dict[str, Any] = {"charging": "true" in powered if powered else None}
    for key, (pattern, per_unit) in _FACTS["numbers"].items():
        told = re.search(pattern, text)
        state[key] = int(told[1]) / per_unit if told else None
    # -99.9 and the like stand for a sensor that is not there.
    state["temperature_c"] = {name: float(value) for value, name in heat if float(value) > -90}
    governors = text.rpartition("=====\n")[2].split()
    return state | {"governor": " ".join(sorted(set(governors))) or None}


def _delegated(output: str, delegate: str) -> tuple[str, list[str]]:
    """Tell which delegate took the model, and doubts, by the words of `benchmark_model`."""
    words = r" delegate.* the model graph will (?:be )?(completely|partially|not be) executed"
    told = re.search(delegate.upper() + words, output)
    how = "unconfirmed" if told is None else told[1]
    flags = {"unconfirmed": "unconfirmed", "partially": "partial", "not be": "not_applied"}
    doubt = [f"delegate_{flags[how]}"] if how in flags and delegate != "none" else []
    return "none" if how == "not be" else delegate, doubt


def _read(output: str, name: str) -> tuple[Marks, dict[str, float], list[str]]:
    """Return marks, reported latencies (s) and flags from what the script printed."""
    # Every line becomes its stamp in us, a blank and what was said.
    text = re.sub(r"^(\d+)\.(\d{6}) (?:\| )?(?:INFO: )?", r"\1\2 ", output, flags=re.M)
    ended = re.search(r" edgeutils-exit=(\d+)", text)
    if ended is None:
        raise EdgeError(_SAYS["gone"])
    if int(ended[1]):
        said = re.sub(r"^\d+ ", "", text[: ended.start()], flags=re.M)
        raise EdgeError(_failure(said.rpartition("\n")[0], int(ended[1])))
    begins = re.findall(r"^(\d+) Running benchmark for at least", text, re.M)
    counts = re.findall(r"^(\d+) count=(\d+) ?(.*)", text, re.M)
    if len(begins) != 2 or len(counts) != 2 or counts[1][1] == "0":
        raise EdgeError(_SAYS["no loop"])
    end, number, told = counts[1]
    pairs = re.findall(r"(\w+)=([\d.e+]+)", told)
    pairs += re.findall(r"timings in us: (Init): ([\d.e+]+)", text)
    reported = {key.lower(): float(us) for key, us in pairs}
    # A single inference is reported as `curr` alone.
    work_us = int(number) * reported.get("avg", reported.get("curr", np.inf))
    pauses = int(end) - int(begins[1]) > (1 + _PAUSES) * work_us
    ups = [int(day) / 1e6 - float(up) for day, up in re.findall(r"^(\d+) up (\d.*)", text, re.M)]
    steps = bool(ups) and np.ptp(ups) > _STEP_S
    flags = ["loop_has_pauses"] * bool(pauses) + ["clock_stepped"] * bool(steps)
    seconds = {f"{key}_s": us / 1e6 for key, us in reported.items()}
    return _marks(text, (begins[1], end, number), name), seconds, flags


def _marks(text: str, loop: tuple[str, str, str], name: str) -> Marks:
    """Make marks of each inference if there are stamps of each, else of the whole loop."""
    rows = re.findall(r"^\d+ \d+,(\d+),(\d+),\d+$", text, re.M)
    windows = np.array([(*row, 1) for row in rows] or [loop], dtype=np.int64)
    stamps = re.findall(r"^(\d+) ", text, re.M)
    if windows[0, 0] < int(stamps[0]) or windows[-1, 1] > int(stamps[-1]):
        raise EdgeError(_SAYS["other clock"])
    # A busy spell lasts from the first of a row of ones to the next zero.
    chips = np.array([(0, 0), *re.findall(r"^(\d+) chip (\d)", text, re.M)], dtype=np.int64)
    edges = chips[1:, 0][np.diff(chips[:, 1]) != 0]
    return marks_of(windows * [1000, 1000, 1], edges.reshape(-1, 2) * 1000, name, here=False)
