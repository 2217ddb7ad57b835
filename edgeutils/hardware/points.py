"""What a campaign measures: the plan, a YAML file that a person writes, and the points it means.

A point is one workload (a kernel, a network of the zoo, a model file) under one setting (runtime,
threads, processor). Its key depends on what is measured alone, so that a campaign that is started
again finds what it has.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from edgeutils import EdgeError
from edgeutils.hardware.runtimes import RUNTIMES, check_model
from edgeutils.networks import sampler, tflite, zoo
from edgeutils.networks.graph import Graph, single_kernel
from edgeutils.networks.kernels import KERNEL_TYPES, Kernel

#: Level, what it is, and number type (None: the file says).
Workload = tuple[str, dict[str, Any], str | None]
#: Processors, and what `android.run` calls them; GPU is CUDA's for torch.
DELEGATES = {"CPU": "xnnpack", "GPU": "gpu", "NNAPI": "nnapi"}
#: Lists of a setting, their default and what may stand in them (None: whole numbers from 1).
_SETTINGS: dict[str, tuple[list, tuple[str, ...] | None]] = {
    "runtime": (["litert"], (*RUNTIMES, "android")),
    "threads": ([1], None),
    "dtypes": (["float32"], ("float32", "int8", "float16")),
    "processors": (["CPU"], tuple(DELEGATES)),
}
#: Ranges of the plan's numbers, and its anchor.
_FACTS = yaml.safe_load(Path(__file__).with_name("plan.yml").read_text(encoding="utf-8"))
#: Entries that may change from one start of a campaign to the next: no value depends on them.
EFFORT = ("visits", "attempts", "wait_s")
_FILE = ".tflite"
_LISTS = ("kernels_of", "models")


@dataclass(frozen=True)
class CampaignPlan:
    """The plan of a campaign; EdgeError for what no campaign can be made of."""

    name: str  # data set of the table
    device: str  # as the table calls this machine or phone
    seed: int = 0  # of the sampled kernels, of the order and of the inputs
    settings: Mapping[str, list] = field(default_factory=dict)  # runtime, threads, dtypes ...
    kernels: Mapping[str, int] = field(default_factory=dict)  # kernel type: how many are sampled
    networks: Any = field(default_factory=dict)  # family: how many variants; or a list of names
    kernels_of: list = field(default_factory=list)  # networks or files: each of their kernels
    models: list = field(default_factory=list)  # .tflite files, from the plan's folder
    again: float = 0.0  # share of the points that is measured again at another moment
    #: A kernel and `every_s`; or null.
    anchor: Any = field(default_factory=lambda: dict(_FACTS["anchor"]))
    precision: float = 0.02  # wanted half-width of the 95 % interval of the median, relative
    seconds: float = 0.15  # of work to begin with, s
    at_most_s: float = 2.0  # of work for one attempt at a point, s
    window_s: float = 0.005  # inferences are timed together until they last this long, s
    meter: str | None = None  # as `edgeutils doctor` names it; None: latency only
    hertz: float | None = None  # readings per second; None: as often as the meter has news
    updates: int = 20  # of the meter in a window, at least, so that its edges are no matter
    windows: int = 10  # in a run with a meter, at least
    cool_below_c: float | None = None  # wait until the hottest sensor is below this, deg C
    quiet: float = 0.05  # share of all processors that other work may use
    wait_s: float = 10.0  # longest wait for a cool and quiet machine before an attempt, s
    visits: int = 1  # moments at which each point is measured; their median counts
    attempts: int = 3  # visits of a point that stays in doubt, at most
    timeout_s: float = 120.0  # a model that takes so much longer than asked is given up, s
    android: Mapping[str, Any] = field(default_factory=dict)  # options of `android.run`

    def __post_init__(self) -> None:
        for name in ("name", "device"):
            value = getattr(self, name)
            if not (isinstance(value, str) and re.fullmatch(r"[\w. -]+", value)):
                raise EdgeError(f"{name} is {value!r}, expected letters, digits, dot, space or -")
        for name, (low, high) in _FACTS["ranges"].items():
            value = getattr(self, name)
            if not _number(value, low, high, name in _FACTS["whole"]) and not (value is None and
                    name in ("hertz", "cool_below_c")):  # fmt: skip
                what = "a whole number" if name in _FACTS["whole"] else "a number"
                raise EdgeError(f"{name} is {value!r}, expected {what} from {low:g} to {high:g}")
        if not (self.meter is None or isinstance(self.meter, str)):
            raise EdgeError(f"meter is {self.meter!r}, expected a name that edgeutils doctor lists")
        self._check_settings()
        self._check_workloads()
        if self.anchor is not None:
            self.anchor_kernel()

    def _check_settings(self) -> None:
        given = _mapping("settings", self.settings, _SETTINGS)
        object.__setattr__(self, "settings", {n: given.get(n, d[0]) for n, d in _SETTINGS.items()})
        for name, values in self.settings.items():
            valid = _SETTINGS[name][1]
            fits = isinstance(values, list) and values and all(
                value in valid if valid else _number(value, 1, 1024, True) for value in values
            )  # fmt: skip
            if not fits:
                expected = f"of {', '.join(valid)}" if valid else "of whole numbers from 1"
                raise EdgeError(f"settings: {name} is {values!r}, expected a list {expected}")
        if "android" in self.settings["runtime"] and "binary" not in self.android:
            raise EdgeError("runtime android needs android: {binary: PATH of benchmark_model}")
        runs, processors = self.settings["runtime"], self.settings["processors"]
        if processors != ["CPU"] and runs not in (["android"], ["torch"]):
            raise EdgeError(
                "GPU and NNAPI need runtime: [android] or [torch] alone; split the plan"
            )
        torch, dtypes = "torch" in runs, self.settings["dtypes"]
        unfit = torch and ("int8" in dtypes or "NNAPI" in processors or self.models)
        if unfit or ("float16" in dtypes and runs != ["torch"]):
            raise EdgeError(
                "torch runs kernels and networks in float32 and float16 on CPU and GPU, the other "
                "runtimes float32 and int8, and model files; split the plan"
            )

    def _check_workloads(self) -> None:
        _counts("kernels", _mapping("kernels", self.kernels, KERNEL_TYPES))
        if isinstance(self.networks, dict):
            _counts("networks", _mapping("networks", self.networks, zoo.FAMILIES))
        elif not _names(self.networks):
            raise EdgeError(f"networks is {self.networks!r}, expected family: number, or a list")
        for name in _LISTS:
            if not _names(getattr(self, name)):
                raise EdgeError(f"{name} is {getattr(self, name)!r}, expected a list of names")
        if not any((self.kernels, self.networks, self.kernels_of, self.models)):
            raise EdgeError(
                "the plan names no workload; give kernels, networks, kernels_of or models"
            )

    @property
    def rounds(self) -> int:
        """Visits of a point, at most."""
        return max(self.visits, self.attempts)

    def anchor_kernel(self) -> tuple[Kernel, float]:
        """Return the kernel that is measured again and again, and how often, s."""
        valid = [f.name for f in fields(Kernel)]
        given = dict(_mapping("anchor", self.anchor, [*valid, "every_s"]))
        every_s = given.pop("every_s", _FACTS["anchor"]["every_s"])
        if not _number(every_s, 0.01, 1e6):
            raise EdgeError(f"anchor: every_s is {every_s!r}, expected a number of seconds")
        if "kernel_type" not in given:
            raise EdgeError("anchor names no kernel; give kernel_type, hw, cin and so on, or null")
        return Kernel(**given), every_s


def read_plan(path: str | Path, **instead: Any) -> CampaignPlan:
    """Read a plan from YAML; `instead` replaces entries (None: as in the file).

    `runtime` replaces that of the settings. Model files are looked for beside the plan.
    """
    path = Path(path)
    try:
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise EdgeError(f"the plan {path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        said = " ".join(str(error).split())
        raise EdgeError(f"the plan {path} is no YAML: {said}") from None
    told = dict(_mapping("the plan", told, [f.name for f in fields(CampaignPlan)]))
    if lacking := [name for name in ("name", "device") if name not in told]:
        raise EdgeError(f"the plan {path} has no {' and no '.join(lacking)}; add it")
    if runtime := instead.pop("runtime", None):
        told["settings"] = {**_mapping("settings", told.get("settings", {}), _SETTINGS)}
        told["settings"]["runtime"] = [runtime]
    told |= {name: value for name, value in instead.items() if value is not None}
    for name in _LISTS:
        if _names(entries := told.get(name, [])):
            told[name] = [str((path.parent / e).resolve()) if e.endswith(_FILE) else e
                          for e in entries]  # fmt: skip
    return CampaignPlan(**told)


@dataclass(frozen=True)
class Point:
    """One workload under one setting; `what` is the kernel's configuration, or network, or file."""

    level: str  # kernel or network
    what: dict[str, Any]
    dtype: str | None  # None: a file says itself
    runtime: str
    threads: int
    processor: str = "CPU"  # or GPU, NNAPI
    repeat: int = 0  # 1: measured again, as a row of its own

    @property
    def key(self) -> str:
        """Hash of all fields; a file counts by its content."""
        what = {name: value for name, value in self.what.items() if name != "model"}
        return _digest(asdict(self) | {"what": what})

    @property
    def group(self) -> str:
        """What must stay in one fold: this workload, however it is run."""
        if self.level == "kernel":
            return self.kernel().label
        if "network" in self.what:
            return self.what["network"]
        return f"{Path(self.what['model']).stem}-{self.what['sha256'][:8]}"

    @property
    def name(self) -> str:
        """Name of the workload, with its number type; the second time it says so."""
        return "-".join(filter(None, [self.group, self.dtype])) + " again" * self.repeat

    def graph(self) -> Graph:
        """Make what is measured; EdgeError for a file, which is there already."""
        if self.level == "kernel":
            return single_kernel(self.kernel())
        if "network" not in self.what:
            raise EdgeError(f"{self.name} is a file, expected a kernel or network; read the file")
        return zoo.network(self.what["network"], dtype=self.dtype)

    def kernel(self) -> Kernel:
        """Kernel of a point of level kernel."""
        return Kernel(**self.what, dtype=self.dtype or "float32")


def points(plan: CampaignPlan) -> list[Point]:
    """Points of a plan in the order in which they are measured, each key once.

    The order is random, but each type of kernel and each family, in each number type, is spread
    evenly over it: any part of a campaign tells of all.
    """
    found = {point.key: point for point in _all(plan)}
    once, rng = list(found.values()), np.random.default_rng(plan.seed)
    twice = rng.permutation(len(once))[: round(plan.again * len(once))]
    every = [*once, *(replace(once[i], repeat=1) for i in twice)]
    order = pd.Series([every[i] for i in rng.permutation(len(every))])
    names = [p.what.get("kernel_type", p.group.rpartition("-v")[0]) for p in order]
    alike = order.groupby([f"{name} {p.dtype}" for name, p in zip(names, order, strict=True)])
    place = (alike.cumcount() + rng.random(len(every))) / alike.transform("size")
    return [order[i] for i in np.argsort(place)]


def _all(plan: CampaignPlan) -> Iterator[Point]:
    settings = plan.settings
    workloads = [each for dtype in settings["dtypes"] for each in _workloads(plan, dtype)]
    for path in plan.models:
        digest = check_model(path)[1]
        workloads.append(("network", {"model": path, "sha256": digest}, None))
    for runtime, processor in itertools.product(settings["runtime"], settings["processors"]):
        for threads in settings["threads"] if processor == "CPU" else settings["threads"][:1]:
            for level, what, dtype in workloads:
                yield Point(level, what, dtype, runtime, threads, processor)


def _workloads(plan: CampaignPlan, dtype: str) -> Iterator[Workload]:
    parts = [_kernels_of(name, dtype) for name in plan.kernels_of]
    kernels = dict.fromkeys(replace(kernel, name="") for part in parts for kernel in part)
    for kind, n in plan.kernels.items():
        drawn = sampler.sample(kind, n, seed=plan.seed, dtype=dtype, exclude=set(kernels))
        kernels |= dict.fromkeys(drawn)
    for kernel in kernels:
        yield "kernel", configuration(kernel), dtype
    names = plan.networks
    if isinstance(names, dict):
        names = [zoo.variant(f, i).name for f, n in names.items() for i in range(n)]
    for name in names:
        zoo.network(name, dtype=dtype)  # an unknown name is told now, not after a day
        yield "network", {"network": name}, dtype


def configuration(kernel: Kernel) -> dict[str, Any]:
    """Say what a kernel is, whatever its number type and name."""
    given = asdict(kernel).items()
    return {name: v for name, v in given if v is not None and name not in ("dtype", "name")}


def _kernels_of(name: str, dtype: str) -> Iterable[Kernel]:
    if name.endswith(_FILE):
        return [replace(kernel, dtype=dtype) for kernel in tflite.read(name).kernels]
    return zoo.network(name, dtype=dtype).kernels


def _digest(value: Mapping[str, Any]) -> str:
    text = json.dumps({k: v for k, v in value.items() if v is not None}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _number(value: Any, low: float, high: float, whole: bool = False) -> bool:
    kind = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    return kind and low <= value <= high


def _names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _mapping(what: str, given: Any, valid: Any) -> Mapping[str, Any]:
    if not isinstance(given, dict):
        raise EdgeError(f"{what} is {given!r:.60}, expected entries NAME: VALUE")
    if unknown := [str(name) for name in given if name not in valid]:
        raise EdgeError(f"{what} has unknown {', '.join(unknown)}; use: {', '.join(valid)}")
    return given


def _counts(what: str, given: Mapping[str, Any]) -> None:
    for name, n in given.items():
        if not _number(n, 1, 1_000_000, True):
            raise EdgeError(f"{what}: {name} is {n!r}, expected a number from 1")
