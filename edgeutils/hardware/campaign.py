"""Measuring campaigns: thousands of kernels and networks, one after the other, and resumable.

Each point runs in a process of its own. Its value is the median over windows of inferences; the
interval of the median (order statistics, which ask for no distribution) says whether more windows
are needed. An anchor kernel that is measured every minute shows whether the machine is still the
same; what other processes take is looked at during every run. Points with a doubt are visited
again at the end. The windows of one visit are alike in much that another visit does not share: only
several `visits`, whose median counts, make the interval a statement about another hour, and points
that are measured `again` put it to the test.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from edgeutils import EdgeError, __version__
from edgeutils.hardware import android, runtimes, sensors
from edgeutils.hardware.conditions import OtherWork, settle, state
from edgeutils.hardware.meters import Meter, record, update_period, write_trace
from edgeutils.hardware.points import DELEGATES, CampaignPlan, Point, configuration, points
from edgeutils.hardware.report import analyse
from edgeutils.hardware.store import Best, Store, load
from edgeutils.hardware.trace import Floats, PowerTrace
from edgeutils.networks.kernels import WORK, Kernel, kernel_frame
from edgeutils.networks.tflite import read, write
from edgeutils.progress import Progress
from edgeutils.table import COLUMNS, measurement_table, write_table

#: Standard uncertainties in half of a 95 % interval.
_REACH = float(stats.norm.ppf(0.975))
#: Fewest values whose extremes hold their median 95 times in 100.
_LEAST = 6
_KEPT = 50  # windows of a point whose latencies are kept
_LOOK_S = 0.5


def median_u(values: Floats) -> tuple[float, float]:
    """Median of independent values, shape (n,), and its standard uncertainty.

    The uncertainty is half of the 95 % interval between two order statistics over 1.96; of two to
    five values, too few for that, the interval is Student's; of one it is NaN.

    >>> median, u = median_u(np.arange(1.0, 10.0))
    >>> median, round(1.96 * u, 2)  # from the second to the eighth
    (5.0, 3.0)
    """
    n, middle = values.size, float(np.median(values))
    if n < 2:
        return middle, np.nan
    if n < _LEAST:
        half = stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n)
    else:
        rank, ordered = int(stats.binom.ppf(0.025, n, 0.5)), np.sort(values)
        half = (ordered[n - rank] - ordered[rank - 1]) / 2
    return middle, float(half) / _REACH


def run(
    plan: CampaignPlan,
    folder: str | Path,
    *,
    progress: Progress | None = None,
    open_meter: Callable[[str], Meter] = sensors.open_meter,
) -> list[Best]:
    """Measure what is missing of a plan, and write the tables; started again it goes on.

    The store in `folder` may be of this plan only. However this ends, `measurements.parquet` and
    `conditions.parquet` hold what was measured so far (killed: as they were; see `tables`).
    EdgeError: another plan or another campaign in the folder, a meter that cannot be read, a
    workload that does not exist. A model that fails is a row with the flag `failed`, no error.
    """
    with Store(folder, plan, lambda: points(plan)) as store:
        meter = open_meter(plan.meter) if plan.meter else None
        session = _Session(plan, store, progress or Progress(), meter)
        try:
            for attempt in range(1, plan.rounds + 1):
                session.round(attempt)
        finally:
            session.child.close()
            session.model.unlink(missing_ok=True)
            best = store.best()
            if best:
                write_tables(folder)
    return best


@dataclass
class _Session:
    """A campaign from one start to the next."""

    plan: CampaignPlan
    store: Store
    progress: Progress
    meter: Meter | None
    hertz: float = 1.0
    window_s: float = 0.0
    tail_s: float = 0.0  # one update of the meter, s
    child: runtimes.Child = field(default_factory=runtimes.Child)  # of torch
    seen: dict[str, Any] = field(default_factory=dict)  # what the meter said at the end of a run
    share: float | None = None  # of the processors that others took when last looked at
    anchored_s: float = field(default=-np.inf)  # monotonic time of the last anchor, s

    def __post_init__(self) -> None:
        self.model = self.store.folder / "model.tflite"
        self.window_s = self.plan.window_s
        if self.meter and not self.meter.stream:
            period_s = update_period(self.meter).period_s
            if period_s is None and self.plan.hertz is None:
                raise EdgeError(
                    f"{self.meter.name} told hardly anything new in 2 s, so that no window is long "
                    "enough; give hertz and window_s in the plan, or another meter"
                )
            period_s = period_s or 1 / (self.plan.hertz or 1.0)
            self.hertz = self.plan.hertz or min(1 / period_s, 1000.0)
            self.window_s, self.tail_s = max(self.window_s, self.plan.updates * period_s), period_s

    def round(self, attempt: int) -> None:
        """Visit the points that were visited once less: all of them, or at last those in doubt."""
        doubtful = {best.key for best in self.store.best() if best.doubtful}
        todo = [
            (key, point)
            for key, (point, done) in self.store.points().items()
            if done == attempt - 1 and (attempt <= self.plan.visits or key in doubtful)
        ]
        if not todo:
            return
        self.progress.start("measuring", attempt, self.plan.rounds)
        began, flagged = time.monotonic(), 0
        for done, (key, point) in enumerate(todo):
            self.anchor()
            left_s = (time.monotonic() - began) / max(done, 1) * (len(todo) - done)
            left = f"{left_s / 60:.0f} min left" if done else "time left unknown"
            self.progress.tell(f"{done} of {len(todo)} points, {flagged} in doubt, {left}")
            result = self.attempt(point, f"{key}-{attempt}")
            self.store.add(key, attempt, result)
            flagged += Best(key, point, attempt, result).doubtful
        self.anchor(now=True)
        visited = {key for key, _ in todo}  # whether a point drifted shows at the end only
        flagged = sum(best.doubtful for best in self.store.best() if best.key in visited)
        self.progress.stop(f"{len(todo)} points, {flagged} in doubt,")

    def anchor(self, *, now: bool = False) -> None:
        """Measure the anchor kernel if it is due; what others disturbed does not count."""
        if self.plan.anchor is None:
            return
        kernel, every_s = self.plan.anchor_kernel()
        if not now and time.monotonic() - self.anchored_s < every_s:
            return
        first = [self.plan.settings[name][0] for name in ("runtime", "threads", "processors")]
        point = Point("kernel", configuration(kernel), kernel.dtype, *first)
        for _ in range(self.plan.attempts):
            result = self.attempt(point, "anchor")
            if "failed" in result["flags"]:
                raise EdgeError(f"the anchor cannot be measured: {result['reason']}")
            if "disturbed" not in result["flags"]:
                self.store.add_anchor(result["started_s"], result["latency_s"])
                break
        self.anchored_s = time.monotonic()

    def attempt(self, point: Point, label: str) -> dict[str, Any]:
        """Measure a point once: a result to be stored, of a failure too."""
        if self.share is None:
            others = OtherWork()
            time.sleep(_LOOK_S if self.plan.quiet < 1 else 0.0)
            self.share = others.share()
        limits = {n: getattr(self.plan, n) for n in ("quiet", "cool_below_c", "wait_s")}
        waited_s, flags = settle(self.share, **limits)
        result = {"started_s": time.time(), "waited_s": waited_s, "version": __version__, **state()}
        others = OtherWork()
        try:
            model, work = self._model(point)
            result |= work | self._measure(point, model, label)
        except EdgeError as error:
            result |= {"latency_s": None, "reason": str(error), "flags": ["failed"]}
        finally:
            self.model.unlink(missing_ok=True)
        self.share = result["others_share"] = others.share()
        doubts = [*flags, *["disturbed"] * (self.share > self.plan.quiet)]
        return result | {"flags": list(dict.fromkeys([*doubts, *result["flags"]]))}

    def _model(self, point: Point) -> tuple[Any, dict[str, Any]]:
        """File of a model, written where there is none, or graph; and what is known of its work."""
        if "model" in point.what:
            path, digest = runtimes.check_model(point.what["model"])
            if digest != point.what["sha256"]:
                raise EdgeError(f"{path.name} is not the file that the campaign began with")
            found = read(path)
            return path, {"dtype": found.dtype, **_total(found.kernels)}
        graph = point.graph()
        family = {"family": graph.family} if point.level == "network" else {}
        work = family | _total(graph.kernels)
        return graph if point.runtime == "torch" else write(graph, self.model), work

    def _measure(self, point: Point, model: Any, label: str) -> dict[str, Any]:
        """Run until the interval is narrow enough or the time is over; windows are pooled."""
        plan, latencies, spent_s = self.plan, np.empty(0), 0.0
        seconds = max(plan.seconds, plan.windows * self.window_s if self.meter else 0.0)
        at_most_s = max(plan.at_most_s, 2 * seconds if self.meter else 0.0)
        energy: dict[str, Any] = {}
        inferences = 0
        while True:
            done, trace = self._run(point, model, seconds)
            latencies = np.hstack([latencies, done.latency_s])
            inferences += done.marks.inferences
            spent_s += max(float(done.marks.end_s[-1] - done.marks.start_s[0]), seconds)
            latency_s, u_s = median_u(latencies)
            width, left_s = _REACH * u_s / latency_s, at_most_s - spent_s
            if trace:
                energy = self._energy(trace, done, label)
            if width <= plan.precision or left_s < plan.seconds / 2:
                break
            wanted_s = spent_s * ((width / plan.precision) ** 2 - 1)
            seconds = left_s if np.isnan(width) else min(left_s, max(spent_s, wanted_s))
        told = {name: done.device.get(name) for name in ("governor", "python", "machine")}
        told |= {"runtime_version": done.version, "delegate": done.delegate, **self.seen}
        unstable = ["unstable"] * (not width <= plan.precision)
        flags = [*unstable, *done.flags, *energy.pop("flags", ())]
        counts = {"inferences": inferences, "model_sha256": done.model_sha256, "flags": flags}
        return told | energy | _latency(latencies) | counts

    def _run(
        self, point: Point, model: Any, seconds: float
    ) -> tuple[runtimes.Run, PowerTrace | None]:
        def once() -> runtimes.Run:
            how: dict[str, Any] = {"seconds": seconds, "threads": point.threads}
            how |= {"timeout_s": self.plan.timeout_s}
            if point.runtime == "android":
                delegate = DELEGATES[point.processor]
                return android.run(model, delegate=delegate, **how, **self.plan.android)
            how |= {"window_s": self.window_s, "warmup_s": self.plan.seconds / 3}
            how |= {"tail_s": self.tail_s, "seed": self.plan.seed}
            if point.runtime == "torch":
                device = "cpu" if point.processor == "CPU" else "cuda"
                how |= {"device": device, "child": self.child}
            return runtimes.run(model, runtime=point.runtime, **how)

        if self.meter is None:
            return once(), None
        with record(self.meter, self.hertz) as recording:
            done, self.seen = once(), self.meter.state()
        return done, recording.trace()

    def _energy(self, trace: PowerTrace, done: runtimes.Run, label: str) -> dict[str, Any]:
        """Energy of an inference of the last and longest run; its trace and marks are kept."""
        stem = self.store.folder / "traces" / label
        write_trace(stem.with_suffix(".csv.gz"), trace)
        runtimes.write_marks(stem.with_suffix(".marks.csv"), done.marks)
        found = analyse(trace, done.marks)
        summary, each = found.summary, found.summary.windows
        # Energy is a mean, so its time is too, not the median that the latency is.
        power_w = summary.mean_energy_j * each["count"].sum() / each["duration_s"].sum()
        return {
            "energy_j": summary.mean_energy_j,
            "energy_std": _known(each["energy_per_inference_j"].std()),
            "energy_u": _known(summary.u_j),
            "power_w": power_w,
            "power_std": _known(each["power_w"].std()),
            "power_u": _known(power_w * summary.u_j / abs(summary.mean_energy_j)),
            "boundary": trace.boundary,
            "flags": found.flags,
        }


def _latency(values_s: Floats) -> dict[str, Any]:
    """Sum up the latencies of all windows; None: there are too few to say."""
    latency_s, u_s = median_u(values_s)
    std_s = values_s.std(ddof=1) if values_s.size > 1 else np.nan
    kept = np.unique(np.linspace(0, values_s.size - 1, _KEPT).astype(int))
    return {
        "latency_s": latency_s,
        "latency_std": _known(std_s),
        "latency_u": _known(u_s),
        "width": _known(_REACH * u_s / latency_s),
        "repeats": values_s.size,
        "latencies_ns": [round(float(value) * 1e9) for value in values_s[kept]],
    }


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _total(kernels: Iterable[Kernel]) -> dict[str, Any]:
    frame = kernel_frame(kernels)
    return {name: float(frame[name].sum()) for name in ("macs", "params", "weight_bytes")}


def tables(folder: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measurement table of a store, and how each of its rows came about, row by row.

    Rows are in the order of the campaign. `conditions` has `key` (the point), `attempts` made,
    `visits` that count, `spread` of their latencies (largest over smallest, minus 1), and of the
    one with the narrowest interval: `started` (UTC), `others_share` of the processors,
    `latencies_ns` of up to 50 windows (evenly taken from all), the reason of a failure, versions
    and the state of the machine; what could not be read is missing.

    EdgeError: no store, or nothing measured yet.
    """
    plan, best = load(folder)
    if not best:
        raise EdgeError(f"nothing was measured in {folder} yet; run edgeutils measure first")
    rows = pd.DataFrame([_row(each) for each in best])
    kernels = [each.point.kernel() for each in best if each.point.level == "kernel"]
    if kernels:
        frame = kernel_frame(kernels).drop(columns="name")
        frame.index = rows.index[rows["level"] == "kernel"]
        wanted = [name for name in frame if name in COLUMNS]
        rows = frame[wanted].combine_first(rows)
    given = rows.reindex(columns=[name for name in rows if name in COLUMNS])
    fixed = {"dataset": plan["name"], "device": plan["device"], "source": "measured"}
    return measurement_table(given, **fixed, idle_policy="none"), _conditions(best)


def _row(best: Best) -> dict[str, Any]:
    point, result = best.point, best.result
    numbers = ("latency_s", "latency_std", "latency_u", "energy_j", "energy_std", "energy_u")
    names = (*numbers, "power_w", "power_std", "power_u", "repeats", "family", *WORK)
    cpu = point.processor == "CPU"
    version = result.get("runtime_version")
    return {name: result[name] for name in names if result.get(name) is not None} | {
        "name": point.name,
        "level": point.level,
        "model": point.what.get("network") or point.what.get("model"),
        "dtype": point.dtype or result.get("dtype"),
        "group": point.group,
        "runtime": " ".join(filter(None, [point.runtime, version])),
        "threads": point.threads if cpu else None,
        "processor": f"CPU{point.threads}" if cpu else point.processor,
        "boundary": result.get("boundary", "none"),
        "flags": " ".join(result["flags"]),
    }


_CONDITIONS = [
    "key", "attempts", "visits", "spread", "repeat", "started", "others_share", "waited_s", "load1",
    "temperature_c", "clock_mhz", "governor", "cpu", "machine", "python", "version",
    "runtime_version", "delegate", "anchor_ratio", "width", "inferences", "latencies_ns",
    "model_sha256", "reason",
]  # fmt: skip


def _conditions(best: list[Best]) -> pd.DataFrame:
    rows: list[Mapping[str, Any]] = []
    for each in best:
        started = datetime.fromtimestamp(each.result["started_s"], UTC)
        more = {"key": each.key, "attempts": each.attempts, "repeat": each.point.repeat}
        rows.append({**each.result, **more, "started": started})
    return pd.DataFrame(rows).reindex(columns=_CONDITIONS)


def write_tables(folder: str | Path) -> None:
    """Write `measurements.parquet` and `conditions.parquet` into the store; see `tables`."""
    for name, table in zip(("measurements", "conditions"), tables(folder), strict=True):
        write_table(table, Path(folder) / f"{name}.parquet")
