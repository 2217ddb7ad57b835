"""Measure a plan on a machine with an NVIDIA GPU that is at hand for minutes only.

    python benchmarks/measure_gpu.py --out FOLDER [--minutes 8] [--traces] [--from PART ...]
                                     [--store results/torch-h100] [--plan PLAN] [--estimate]

One call is one slice: it looks what works (`doctor.json`), measures what is missing of the plan
until the minutes are over, counted from its start, and packs the store into parts that are small
enough to travel. With `--traces` it first records the GPU at rest and under work, with marks; with
`--from` a store that is not there is unpacked from the parts of the slice before. `--estimate`
prints the minutes that the whole plan takes, and measures nothing. No setting of the machine is
changed. Writes into FOLDER `doctor.json`, `summary.json`, `store.tar.gz.NN`, and with `--traces`
`idle.csv.gz`, `busy.csv.gz`, `busy.marks.csv`.
"""

import argparse
import io
import json
import signal
import sys
import tarfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgeutils import ROOT
from edgeutils.hardware import campaign, doctor, meters, runtimes, sensors
from edgeutils.hardware.points import CampaignPlan, points, read_plan
from edgeutils.hardware.trace import Marks
from edgeutils.networks import zoo

PART_BYTES = 14_000_000  # of the packed store
#: Seconds of a point beside its work: building, capturing, analysing. A guess until measured.
OTHER_S = 0.25
#: Updates of the meter for which a point waits or goes on: before, after, and for the next reading.
UPDATES = 3
SPARE_S = 15.0  # kept back for stopping and packing
REST_S = 20.0  # length of the trace at rest
WORK = [(n, d) for n in ("resnet18-v00", "densenet-v00", "mobilenet-v2-v00")
        for d in ("float32", "float16")]  # fmt: skip


def estimate(plan: CampaignPlan, period_s: float = 0.1) -> dict[str, float]:
    """Points of a plan, seconds of each with a meter of that period, and minutes in all."""
    work_s = max(plan.seconds, plan.windows * max(plan.window_s, plan.updates * period_s))
    each_s = work_s + plan.seconds / 3 + UPDATES * period_s + OTHER_S
    number = len(points(plan))
    anchors = number * each_s / plan.anchor_kernel()[1] if plan.anchor else 0
    minutes = (number + anchors) * each_s / 60
    return {"points": number, "seconds_a_point": each_s, "minutes": minutes}


def unpack(parts: list[Path], store: Path) -> None:
    """Put the store of the slice before in its place."""
    packed = b"".join(part.read_bytes() for part in sorted(parts))
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(store, filter="data")


def pack(store: Path, out: Path) -> list[str]:
    """Pack the store; names of the parts."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.add(store, ".")
    data = packed.getvalue()
    names = []
    for i, start in enumerate(range(0, len(data), PART_BYTES)):
        names.append(f"store.tar.gz.{i:02d}")
        (out / names[-1]).write_bytes(data[start : start + PART_BYTES])
    return names


def joined(runs: list[runtimes.Run]) -> Marks:
    """Join the marks of several runs, by the clock of the first."""
    first = runs[0].marks
    shift_s = [(run.marks.epoch_us - first.epoch_us) / 1e6 for run in runs]
    edges = (
        np.hstack([getattr(run.marks, edge) + s for run, s in zip(runs, shift_s, strict=True)])
        for edge in ("start_s", "end_s")
    )
    count = np.hstack([run.marks.count for run in runs])
    names = tuple(name for run in runs for name in run.marks.name)
    return Marks(*edges, count, first.epoch_us, names, same_clock=True)


def traces(plan: CampaignPlan, out: Path, rest_s: float = REST_S) -> None:
    """Record the meter at rest, then with networks and pauses; hertz and device are the plan's."""
    meter, hertz = sensors.open_meter(plan.meter or "nvml"), plan.hertz or 100.0
    with meters.record(meter, hertz) as recording:
        recording.wait(rest_s)
    meters.write_trace(out / "idle.csv.gz", recording.trace(still_ok=True))
    device = "cpu" if plan.settings["processors"] == ["CPU"] else "cuda"
    how = {"runtime": "torch", "device": device, "seconds": rest_s / 20, "window_s": 0.2}
    child, runs = runtimes.Child(), []
    with meters.record(meter, hertz) as recording:
        for name, dtype in WORK:
            recording.wait(rest_s / 20)
            done = runtimes.run(zoo.network(name, dtype=dtype), child=child, warmup_s=0.2, **how)
            named = tuple(f"{name}-{dtype}" for _ in done.marks.name)
            runs.append(replace(done, marks=replace(done.marks, name=named)))
        recording.wait(rest_s / 20)
    child.close()
    meters.write_trace(out / "busy.csv.gz", recording.trace())
    runtimes.write_marks(out / "busy.marks.csv", joined(runs))


def stop(*_: object) -> None:
    """End the slice as Ctrl-C does: what is measured is kept."""
    raise KeyboardInterrupt


def slice_of(plan: CampaignPlan, store: Path, until_s: float) -> None:
    """Measure until the monotonic time `until_s`."""
    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(until_s - time.monotonic(), 0.001))
    try:
        campaign.run(plan, store)
    except KeyboardInterrupt:
        sys.stderr.write("the time is over; call again to go on\n")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def summary(plan: CampaignPlan, store: Path) -> dict:
    """Say what is done, what is left, and what failed."""
    rows, how = campaign.tables(store)
    steps_s = how["started"].sort_values().diff().dt.total_seconds()
    every = len(points(plan))
    left_min = (every - len(rows)) * float(steps_s.median()) / 60
    return {
        "points": every,
        "done": len(rows),
        "minutes_left": left_min,
        "failed": Counter(str(why)[:120] for why in how["reason"].dropna()).most_common(8),
        "flags": Counter(" ".join(rows["flags"]).split()).most_common(),
        "levels": rows["level"].value_counts().to_dict(),
        "median_s_a_point": float(steps_s.median()),
    }


def main() -> None:
    """Measure one slice."""
    began_s, told = time.monotonic(), argparse.ArgumentParser(description=__doc__)
    default = ROOT / "data" / "measured" / "torch-h100" / "plan.yml"
    told.add_argument("--plan", type=Path, default=default)
    told.add_argument("--store", type=Path, default=ROOT / "results" / "torch-h100")
    told.add_argument("--out", type=Path)
    told.add_argument("--minutes", type=float, default=8.0)
    told.add_argument("--traces", action="store_true")
    told.add_argument("--from", dest="parts", type=Path, nargs="*", default=[])
    told.add_argument("--estimate", action="store_true")
    asked = told.parse_args()
    plan = read_plan(asked.plan)
    if asked.estimate or asked.out is None:
        print(json.dumps(estimate(plan), indent=1))
        return
    asked.out.mkdir(parents=True, exist_ok=True)
    if asked.parts and not asked.store.exists():
        unpack(asked.parts, asked.store)
    found = doctor.examine(meter=plan.meter)
    found["estimate"] = estimate(plan, found.get("meter", {}).get("period_s") or 0.1)
    (asked.out / "doctor.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(json.dumps({name: found.get(name) for name in ("meter", "estimate")}), flush=True)
    if asked.traces:
        traces(plan, asked.out)
    try:
        slice_of(plan, asked.store, began_s + 60 * asked.minutes - SPARE_S)
    finally:
        parts = pack(asked.store, asked.out)  # whatever went wrong, what is measured comes back
    said = summary(plan, asked.store) | {"parts": parts}
    (asked.out / "summary.json").write_text(json.dumps(said, indent=1), encoding="utf-8")
    print(json.dumps(said, indent=1))


if __name__ == "__main__":
    main()
