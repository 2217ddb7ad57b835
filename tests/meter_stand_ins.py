"""Stand-ins for hardware: file trees, modules and a program that speak the real interfaces."""

import sys
import time
import types

# As a Raspberry Pi 5 prints it: 12 rails with current and voltage, two inputs with voltage only.
PMIC_A = {
    "3V7_WL_SW": (0, 0.09368929), "3V3_SYS": (1, 0.0878337), "1V8_SYS": (2, 0.1805471),
    "DDR_VDD2": (3, 0.2254398), "DDR_VDDQ": (4, 0.0666672), "1V1_SYS": (5, 0.1756674),
    "0V8_SW": (6, 0.376709), "VDD_CORE": (7, 6.22421), "3V3_DAC": (17, 0.00006105),
    "3V3_ADC": (18, 0.0003663), "0V8_AON": (16, 0.0030525), "HDMI": (22, 0.0241758),
}  # fmt: skip
PMIC_V = {
    "3V7_WL_SW": (8, 3.699776), "3V3_SYS": (9, 3.310033), "1V8_SYS": (10, 1.805126),
    "DDR_VDD2": (11, 1.104761), "DDR_VDDQ": (12, 0.6014646), "1V1_SYS": (13, 1.110255),
    "0V8_SW": (14, 0.8014644), "VDD_CORE": (15, 0.861733), "3V3_DAC": (20, 3.313183),
    "3V3_ADC": (21, 3.306773), "0V8_AON": (19, 0.8002922), "HDMI": (23, 5.08664),
    "EXT5V": (24, 5.09066), "BATT": (25, 0.0),
}  # fmt: skip
PMIC_TEXT = "".join(
    [f"{name + '_A':>13} current({i})={x:.8f}A\n" for name, (i, x) in PMIC_A.items()]
    + [f"{name + '_V':>13} volt({i})={x:.8f}V\n" for name, (i, x) in PMIC_V.items()]
)
PMIC_W = sum(current_a * PMIC_V[name][1] for name, (_, current_a) in PMIC_A.items())


def tree(root, files=None, **more):
    """Write files below `root`: {path: content}, or {path of a folder: {name: content}}."""
    for name, content in ((files or {}) | more).items():
        if isinstance(content, dict):
            tree(root / name, content)
            continue
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{content}\n")


def powercap(root, **energy_uj):
    """Two packages with subzones, psys, and package 0 once more by its other way."""
    zones = {
        "intel-rapl:0": "package-0", "intel-rapl:0:0": "core", "intel-rapl:0:1": "uncore",
        "intel-rapl:0:2": "dram", "intel-rapl:1": "package-1", "intel-rapl:1:0": "core",
        "intel-rapl:2": "psys", "intel-rapl-mmio:0": "package-0",
    }  # fmt: skip
    for number, (zone, name) in enumerate(zones.items()):
        files = {"name": name, "max_energy_range_uj": 262143328850}
        files["energy_uj"] = energy_uj.get(zone, 10**5 * 10**number)
        tree(root / "class/powercap" / zone, files)


def ina219(root, **files):
    """A board with one channel."""
    tree(root / "class/hwmon/hwmon3", {"name": "ina219", "in0_input": 4} | files)


def jetson(root, **values):
    """An INA3221 of a Jetson Orin Nano, with the shunts and sums that are no rails."""
    files = {"name": "ina3221", "in7_label": "sum of shunt voltages", "in7_input": 5}
    rails = [("VDD_IN", 5000, 1200), ("VDD_CPU_GPU_CV", 5000, 400), ("VDD_SOC", 5000, 300)]
    for number, (label, volts_mv, current_ma) in enumerate(rails, 1):
        files |= {f"in{number}_label": label, f"in{number}_enable": 1}
        files |= {f"in{number}_input": volts_mv, f"curr{number}_input": current_ma}
        files[f"in{number + 3}_input"] = 7  # voltage across the shunt
    files["curr4_input"] = 1900  # sum of the currents
    tree(root / "class/hwmon/hwmon1", files | values)
    tree(root / "class/hwmon/hwmon0", {"name": "cpu_thermal", "temp1_input": 42000})


def battery(root, *, status="Discharging", online=0, **values):
    """A laptop: battery, charger, and a mouse with a battery of its own."""
    folder = root / "class/power_supply"
    tree(folder / "AC", {"type": "Mains", "online": online})
    tree(folder / "BAT0", {"type": "Battery", "status": status} | values)
    mouse = {"type": "Battery", "scope": "Device", "status": "Discharging", "power_now": 99}
    tree(folder / "hidpp_battery_0", mouse)


def vcgencmd(folder, *, text=PMIC_TEXT, code=0):
    """A program of that name which prints `text`; its folder belongs on PATH."""
    program = folder / "vcgencmd"
    (folder / "says").write_text(text)
    program.write_text(f'#!/bin/sh\n[ "$1" = pmic_read_adc ] && cat {folder}/says\nexit {code}\n')
    program.chmod(0o755)
    return str(folder)


class NVMLError(Exception):
    """NVML's error: a number and a text."""

    def __init__(self, value, text):
        super().__init__(text)
        self.value, self.text = value, text

    def __str__(self):
        return self.text


def nvml(monkeypatch, *, power_w=lambda: 50.0, update_s=0.02, energy_error=None):
    """A stand-in for the module pynvml: two GPUs, and the functions that are used of it.

    The energy counter grows in steps of `update_s`, in whole mJ.
    """
    module = types.ModuleType("pynvml")
    module.NVMLError = NVMLError
    state = {"s": time.monotonic(), "mj": 7e6, "init": False}

    def init():
        state["init"] = True

    def handle(index):
        if not state["init"]:
            raise NVMLError(1, "Uninitialized")
        if index >= 2:
            raise NVMLError(2, "Invalid Argument")
        return index

    def energy(_handle):
        if energy_error:
            raise NVMLError(*energy_error)
        steps = int((time.monotonic() - state["s"]) / update_s)
        state["s"] += steps * update_s
        state["mj"] += steps * update_s * power_w() * 1e3
        return int(state["mj"])

    module.nvmlInit, module.nvmlDeviceGetHandleByIndex = init, handle
    module.nvmlDeviceGetTotalEnergyConsumption = energy
    module.nvmlDeviceGetTemperature = lambda _handle, _sensor: 41
    module.nvmlDeviceGetClockInfo = lambda _handle, clock: {1: 1980}[clock]
    module.nvmlDeviceGetPowerUsage = lambda _handle: int(power_w() * 1e3)
    monkeypatch.setitem(sys.modules, "pynvml", module)


def monsoon(monkeypatch, *, serials=("12345",), power_w=lambda _t: 2.0, restart=False):
    """A stand-in for PyMonsoon: an engine that samples at 5 kHz and delivers 64 at a time."""
    package = types.ModuleType("Monsoon")
    package.HVPM, package.sampleEngine = (
        types.ModuleType(f"Monsoon.{name}") for name in ("HVPM", "sampleEngine")
    )
    package.seen = types.SimpleNamespace(volts=[], console=None)

    class Device:
        def enumerateDevices(self):
            return list(serials)

        def setup_usb(self):
            pass

        def setVout(self, volts):
            package.seen.volts.append(volts)

        def StartSampling(self, calibrate, most):
            pass

    class Engine:
        dropped = 0

        def __init__(self, device):
            self.device, self.columns = device, [[] for _ in range(6)]

        def ConsoleOutput(self, on):
            package.seen.console = on

        def setStopTrigger(self, style, level):
            self.stop = lambda: style(0.0, level)

        def startSampling(self, samples):
            began = time.time()
            for _ in range(1 + restart):
                self.device.StartSampling(1250, samples)
            taken = 0
            while not self.stop():
                time.sleep(0.0128)
                due = int((time.time() - began) * 5000)
                arrived_s = time.time() - began
                for number in range(taken, due):
                    self.columns[0].append(arrived_s)
                    self.columns[1].append(power_w(number / 5000) / 4.2 * 1e3)
                    self.columns[4].append(4.2)
                taken = due

        def getSamples(self):
            return self.columns

    package.HVPM.Monsoon = Device
    package.sampleEngine.SampleEngine = Engine
    package.sampleEngine.channels = types.SimpleNamespace(timeStamp=0, MainCurrent=1, MainVoltage=4)
    package.sampleEngine.triggers = types.SimpleNamespace(SAMPLECOUNT_INFINITE=0xFFFFFFFF)
    for module in (package, package.HVPM, package.sampleEngine):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return package
