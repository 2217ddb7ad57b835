"""The meters of a machine: what Linux, NVIDIA's driver, a Raspberry Pi 5 and a Monsoon offer.

Each is opened by name, `NAME` or `NAME:CHANNEL`, and says why it cannot be and what to do. Facts
and cures are in meters.yml. No meter stands in for another, and no rail is counted twice.

Sources: the kernel's documents sysfs-class-powercap, sysfs-class-power, hwmon/ina2xx and
hwmon/ina3221; the NVML API reference; PyMonsoon 0.1.88; the output of a Pi 5. Tried against
imitations of these only (PyMonsoon's own engine on made-up packets), never on the hardware itself.
"""

import re
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib import import_module
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from edgeutils import EdgeError
from edgeutils.hardware.meters import Meter, MeterError
from edgeutils.hardware.readers import meter_spec
from edgeutils.hardware.stamps import monotonic_epoch_us
from edgeutils.hardware.trace import MeterSpec, PowerTrace

SYSFS = Path("/sys")
_RAIL = re.compile(r"(\w+)_([AV]) \w+\(\d+\)=([\d.]+)[AV]")
_VCGENCMD_S = 5.0  # a Pi 5 takes 23 ms to answer (github.com/ml-energy/zeus, pull request 274)


@dataclass(frozen=True)
class _Request:
    """What a meter is opened with, and what the openers share."""

    name: str
    channel: str  # what follows the colon, else empty
    sysfs: Path
    facts: dict[str, Any]  # its part of meters.yml

    @property
    def rails(self) -> list[str]:
        return self.channel.split("+") if self.channel else []

    def error(self, wrong: str | int, seen: object = "") -> MeterError:
        answers = self.facts["wrong"]
        reason, cure = answers[wrong if wrong in answers else "other"]
        return MeterError(f"{self.name}: {reason.format(seen)}", cure)

    def meter(self, sample: Callable[[], float], boundary: str = "") -> Meter:
        boundary = boundary or self.facts["boundary"]
        spec = meter_spec(self.facts["instrument"])
        return Meter(self.name, boundary, spec, self.facts.get("counter", False), sample)

    def number(self, path: Path) -> int:
        try:
            return int(path.read_text(encoding="utf-8"))
        except PermissionError:
            raise self.error("denied", path) from None
        except (OSError, ValueError) as error:
            raise self.error("broken", f"{path} cannot be read as a number ({error})") from None

    def library(self, name: str) -> Any:
        try:
            return import_module(name)
        except ImportError as error:
            raise self.error("library", error) from None


@cache
def _facts() -> dict[str, Any]:
    return yaml.safe_load(Path(__file__).with_name("meters.yml").read_text(encoding="utf-8"))


def open_meter(name: str, *, sysfs: Path = SYSFS) -> Meter:
    """Open a meter of this machine: powercap, powercap:psys, nvml:1, hwmon:VDD_IN and so on.

    `sysfs` is where the kernel's files lie. MeterError, with a cure: absent, no permission,
    nothing to read there. EdgeError for an unknown name.
    """
    kind, _, channel = name.partition(":")
    if kind not in _OPENERS:
        raise EdgeError(f"unknown meter {name!r}; choose one of {', '.join(_OPENERS)}")
    return _OPENERS[kind](_Request(name, channel, sysfs, _facts()[kind]))


def survey(*, sysfs: Path = SYSFS) -> list[dict[str, Any]]:
    """Try every meter; see `status`."""
    return [status(name, sysfs=sysfs) for name in _OPENERS]


def status(name: str, *, sysfs: Path = SYSFS) -> dict[str, Any]:
    """Open a meter and read it once: name, available, reason (or what it is), cure (or None).

    EdgeError for an unknown name; a meter that is not there is no error.
    """
    try:
        meter = open_meter(name, sysfs=sysfs)
        if not meter.stream:
            meter.read()
    except MeterError as error:
        reason = error.reason.removeprefix(f"{name}: ")
        return {"name": name, "available": False, "reason": reason, "cure": error.cure}
    what = _facts()[name.partition(":")[0]]["what"]
    return {"name": name, "available": True, "reason": what, "cure": None}


def _text(path: Path) -> str:
    """Content of a file, empty where there is none to read."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _powercap(request: _Request) -> Meter:
    """Open all packages together, or all zones of one name; never a zone with a part of itself.

    A counter that turned round its range between two readings is noticed, twice is not: at
    100 W the range of 262 kJ lasts 44 minutes.
    """
    # A package's second entry, intel-rapl-mmio, is the same counter by another way.
    folders = sorted((request.sysfs / "class/powercap").glob("intel-rapl:*"))
    kinds = {folder: _text(folder / "name").partition("-")[0] for folder in folders}
    wanted = request.channel or "package"
    zones = [folder for folder in folders if kinds[folder] == wanted]
    if not zones:
        offered = ", ".join(sorted(set(kinds.values())))
        raise request.error("channel" if folders else "absent", offered)
    range_uj = np.array([request.number(zone / "max_energy_range_uj") for zone in zones])
    before_uj, total_uj = np.zeros_like(range_uj), 0

    def energy_j() -> float:
        nonlocal before_uj, total_uj
        now_uj = np.array([request.number(zone / "energy_uj") for zone in zones])
        total_uj += int(((now_uj - before_uj) % range_uj).sum())
        before_uj = now_uj
        return total_uj / 1e6

    return request.meter(energy_j, request.facts["boundary"].get(wanted, "none"))


def _nvml(request: _Request) -> Meter:
    """Open a GPU by its number: energy since the driver was loaded, or the power of now."""
    library = request.library("pynvml")

    def ask(function: str, *arguments: Any) -> Any:
        try:
            return getattr(library, function)(*arguments)
        except library.NVMLError as error:
            raise request.error(error.value, error) from None

    number = request.channel or "0"
    if not number.isdecimal():
        raise request.error(2, f"{number!r} is no number of a GPU")
    ask("nvmlInit")
    gpu = ask("nvmlDeviceGetHandleByIndex", int(number))

    def state() -> dict[str, float | None]:
        told: dict[str, float | None] = dict.fromkeys(request.facts["state"])
        for name, (function, which) in request.facts["state"].items():
            with suppress(library.NVMLError):
                told[name] = getattr(library, function)(gpu, which)
        return told

    meter = request.meter(lambda: ask(request.facts["function"], gpu) / 1e3)  # mJ or mW
    return replace(meter, state=state)


def _battery(request: _Request) -> Meter:
    """Open the batteries; reading is refused while they are charged or mains carries the load.

    The kernel wants current_now below zero while discharging, but many drivers give it above,
    and power_now has no rule: so the status tells the direction, and the size is taken.
    """
    kinds = {f: _text(f / "type") for f in sorted((request.sysfs / "class/power_supply").glob("*"))}
    # "Device" is the battery of a mouse or a headset.
    own = [f for f, k in kinds.items() if k == "Battery" and _text(f / "scope") != "Device"]
    mains = [folder for folder, kind in kinds.items() if kind != "Battery"]
    if not own:
        raise request.error("absent")

    def power_w() -> float:
        plugged = [folder.name for folder in mains if _text(folder / "online") not in ("", "0")]
        states = {folder: _text(folder / "status") for folder in own}
        emptied = [folder for folder, state in states.items() if state == "Discharging"]
        if plugged or "Charging" in states.values() or not emptied:
            raise request.error("mains", ", ".join(plugged or states.values()))
        power_w = sum(_discharge_w(request, folder) for folder in emptied)
        if power_w == 0:
            raise request.error("zero")
        return power_w

    return request.meter(power_w)


def _discharge_w(request: _Request, folder: Path) -> float:
    if _text(folder / "power_now"):
        return abs(request.number(folder / "power_now")) / 1e6  # uW
    current_ua = abs(request.number(folder / "current_now"))
    return current_ua * request.number(folder / "voltage_now") / 1e12  # uV


def _hwmon(request: _Request) -> Meter:
    """Open the rail that holds all others, or those asked for; never a whole with its parts."""
    rails = _ina_rails(request.sysfs / "class/hwmon")
    if not rails:
        raise request.error("absent")
    wholes = [rail for rail in rails if rail in request.facts["wholes"] or len(rails) == 1]
    asked = request.rails or wholes[:1]
    twice = len(asked) > 1 and (len(set(asked)) < len(asked) or set(asked) & set(wholes))
    if not asked or twice or not set(asked) <= set(rails):
        raise request.error("channel", ", ".join(rails))
    chip = _text(rails[asked[0]][0].with_name("name"))
    spec = meter_spec(chip) if chip in request.facts["instruments"] else MeterSpec(chip)
    boundary = request.facts["boundary"]["whole" if asked[0] in wholes else "rail"]

    def power_w() -> float:
        return sum(prod(map(request.number, rails[rail])) for rail in asked) / 1e6

    return Meter(request.name, boundary, spec, False, power_w)


def _ina_rails(hwmon: Path) -> dict[str, list[Path]]:
    """Files of each rail in use, by its label; the product of what they say is its power, uW."""
    rails: dict[str, list[Path]] = {}
    for folder in sorted(hwmon.glob("hwmon*")):
        chip = _text(folder / "name")
        # An INA3221 has three channels; its in4 to in7 and curr4 are shunts and sums, no rails.
        for number in range(1, 4 if chip == "ina3221" else 2):
            label = _text(folder / f"in{number}_label") or f"{chip}-{folder.name}-{number}"
            label += f"-{folder.name}" if label in rails else ""
            used = label != "NC" and _text(folder / f"in{number}_enable") != "0"
            power, *volts_amps = (folder / f"{of}{number}_input" for of in ("power", "in", "curr"))
            files = [power] if power.is_file() else volts_amps  # uW, or mV and mA
            if chip.startswith("ina") and used and files[-1].is_file():
                rails[label] = files
    return rails


def _pmic(request: _Request) -> Meter:
    """Open the rails of a Raspberry Pi 5, all or those asked for.

    The chip reads one after another; at little load its memory rails read 0.
    """
    program = shutil.which("vcgencmd")
    if program is None:
        raise request.error("absent")
    command = [program, "pmic_read_adc"]
    how: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}

    def power_w() -> float:
        try:
            said = subprocess.run(command, timeout=_VCGENCMD_S, check=False, **how).stdout
        except (OSError, subprocess.TimeoutExpired) as error:
            raise request.error("failed", str(error)) from None
        told = {(unit, rail): float(value) for rail, unit, value in _RAIL.findall(said)}
        rails_w = {r: told["V", r] * told["A", r] for unit, r in told if unit == "A"}
        if not rails_w:
            raise request.error("failed", said.strip()[:80])
        if not set(request.rails) <= set(rails_w):
            raise request.error("channel", ", ".join(rails_w))
        return sum(rails_w[rail] for rail in set(request.rails) or rails_w)

    return request.meter(power_w)


def _monsoon(request: _Request) -> Meter:
    """Open a Monsoon HVPM. Its output is left as it is set unless the channel gives volts.

    The wrong voltage destroys a phone, so there is no default.
    """
    library = request.library("Monsoon.HVPM")
    plain = re.fullmatch(r"\d+(\.\d+)?", request.channel)
    least_v, most_v = request.facts["volts"]
    if request.channel and not (plain and least_v <= float(request.channel) <= most_v):
        raise request.error("volts", request.channel)
    try:
        connected = library.Monsoon().enumerateDevices()
    except Exception as error:
        # Without permission or libusb, pyusb throws errors of several kinds.
        raise request.error("usb", f"USB cannot be searched ({error!r:.100})") from None
    if not connected:
        raise request.error("usb", "no monitor is connected")
    return replace(request.meter(lambda: np.nan), stream=partial(_monsoon_trace, request))


def _monsoon_trace(request: _Request, stopped: Callable[[], bool]) -> PowerTrace:
    """Sample at 5 kHz until `stopped` says so; the stamps are those of arrival."""
    device = request.library("Monsoon.HVPM").Monsoon()
    sampling = request.library("Monsoon.sampleEngine")
    begun_ns: list[int] = []
    start = device.StartSampling

    def stamped_start(*arguments: Any) -> None:
        # The engine counts its stamps from just before it calls this.
        begun_ns.append(time.monotonic_ns())
        start(*arguments)

    device.StartSampling = stamped_start
    try:
        device.setup_usb()
        if request.channel:
            device.setVout(float(request.channel))
        engine = sampling.SampleEngine(device)
        engine.ConsoleOutput(False)
        engine.setStopTrigger(lambda _value, _level: stopped(), 0)
        engine.startSampling(sampling.triggers.SAMPLECOUNT_INFINITE)
        columns, channels = engine.getSamples(), sampling.channels
        wanted = channels.timeStamp, channels.MainCurrent, channels.MainVoltage
        stamps_s, current_ma, voltage_v = (np.asarray(columns[i], float) for i in wanted)
    except Exception as error:
        # PyMonsoon lets through whatever pyusb, libusb or a missing device throw.
        raise request.error("usb", f"PyMonsoon failed ({error!r:.100})") from None
    if len(begun_ns) > 1:
        # PyMonsoon starts anew and forgets what it had.
        raise request.error("usb", "the monitor was disconnected meanwhile")
    if stamps_s.size < 2:
        raise request.error("usb", "the monitor sent no samples")
    stamp_us = monotonic_epoch_us() + begun_ns[0] // 1000 + np.round(stamps_s * 1e6).astype(int)
    spec = meter_spec(request.facts["instrument"])
    trace = PowerTrace.from_stamps(stamp_us, current_ma / 1e3, voltage_v, spec)
    lost = ("lost_samples",) if engine.dropped else ()
    return replace(trace, boundary=request.facts["boundary"], flags=lost)


_OPENERS: dict[str, Callable[[_Request], Meter]] = {
    "powercap": _powercap, "nvml": _nvml, "nvml-power": _nvml, "battery": _battery, "hwmon": _hwmon,
    "pmic": _pmic, "monsoon": _monsoon,
}  # fmt: skip
