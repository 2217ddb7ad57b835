"""Speed, memory and accuracy of the way from a file to the energy of its windows.

An hour of a 5 kHz monitor (18 million rows in the format of the real one, in bursts, written to a
temporary folder) is parsed by `pyarrow.csv` and, side by side, read, put on an even clock and
integrated over 100,000 windows by this module. Each run has a process of its own, so that its
peak of memory is its own; the runs alternate, and the medians count. The loop that masks the
samples of one window after the other runs beside over 20 of the windows, and its time for all is
estimated from these. Then every official window of the MLPerf runs at hand is integrated and
compared.

    python benchmarks/traces.py [--rows N] [--repeats N]

writes `benchmarks/results/traces.json`.
"""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path

import numpy as np
from pyarrow import csv

from edgeutils import datasets
from edgeutils.hardware.clock import rebuild_clock
from edgeutils.hardware.energy import window_energy
from edgeutils.hardware.readers import read_trace
from edgeutils.hardware.trace import Marks, PowerTrace

RESULT = Path(__file__).parent / "results" / "traces.json"
START_US = 1756255148138148
PERIOD_US = 200
BURST = 128
WINDOWS = 100_000
LOOPED = 20
#: Runs of one job that differ by more than this share: the machine was busy with something else.
STABLE = 0.1


def write_hour(path: Path, rows: int) -> None:
    """Write a Monsoon CSV: bursts of 128 samples, 1 us apart, values of 90,000 rows repeated."""
    rng, repeated = np.random.default_rng(0), 90_000
    values = 100 + 20 * rng.standard_normal(repeated), 4.19 + 0.002 * rng.integers(-3, 4, repeated)
    tails = [f",{a!r},{v!r},\n" for a, v in zip(*(x.tolist() for x in values), strict=True)]
    with path.open("w", encoding="ascii") as stream:
        stream.write("Time(ms),Main(mA),Main Voltage(V),\n")
        for low in range(0, rows, repeated):
            number = np.arange(low, min(low + repeated, rows))
            last = (number // BURST + 1) * BURST - 1
            stamps = START_US + last * PERIOD_US - (last - number)
            stream.write("".join(map("".join, zip(map(str, stamps.tolist()), tails, strict=False))))


def windows_of(trace: PowerTrace) -> Marks:
    """Even windows over the whole trace, half of the time."""
    edges = np.linspace(trace.time_s[BURST], trace.time_s[-BURST], 2 * WINDOWS + 1)
    ones = np.ones(WINDOWS, dtype=np.int64)
    return Marks(edges[:-1:2], edges[1::2], ones, trace.epoch_us)


def parse(path: Path) -> dict[str, float]:
    """Parse the file with Arrow and nothing else."""
    start = time.perf_counter()
    csv.read_csv(path)
    return {"seconds": time.perf_counter() - start}


def read(path: Path) -> dict[str, float]:
    """Read the trace."""
    start = time.perf_counter()
    read_trace(path)
    return {"seconds": time.perf_counter() - start}


def whole(path: Path) -> dict[str, float]:
    """Read, repair and integrate; say how long each part took."""
    stamps = [time.perf_counter()]
    trace = read_trace(path)
    stamps.append(time.perf_counter())
    rebuilt, _ = rebuild_clock(trace)
    stamps.append(time.perf_counter())
    del trace
    marks = windows_of(rebuilt)
    window_energy(rebuilt, marks)
    stamps.append(time.perf_counter())
    parts = dict(zip(("read_s", "repair_s", "windows_s"), np.diff(stamps).tolist(), strict=True))
    return parts | {"seconds": stamps[-1] - stamps[0], "looped_s": loop_and_mask(rebuilt, marks)}


def loop_and_mask(trace: PowerTrace, marks: Marks) -> float:
    """Mask the samples of a few windows one by one, and return the time that all would take."""
    start = time.perf_counter()
    for i in np.linspace(0, WINDOWS - 1, LOOPED).astype(int):
        inside = (trace.time_s >= marks.start_s[i]) & (trace.time_s < marks.end_s[i])
        (trace.power_w[inside] * trace.period_s).sum()
    return (time.perf_counter() - start) / LOOPED * WINDOWS


def peaked(job: Callable[[Path], dict[str, float]], path: Path) -> dict[str, float]:
    """Run a job and add the peak of memory of this process, MB."""
    found = job(path)
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return found | {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit}


def side_by_side(path: Path, repeats: int) -> dict[str, dict[str, float]]:
    """Medians of the jobs, and how far the slowest run was from the fastest."""
    jobs, found = (parse, read, whole), {}
    context = multiprocessing.get_context("spawn")
    for _ in range(repeats):
        for job in jobs:
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                found.setdefault(job.__name__, []).append(pool.submit(peaked, job, path).result())
    result = {}
    for name, runs in found.items():
        median = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        seconds = [run["seconds"] for run in runs]
        result[name] = median | {"fastest_s": min(seconds), "slowest_s": max(seconds)}
    return result


def official_windows() -> list[dict[str, str | int | float]]:
    """Largest relative error of the windows of each data set, and of their mean power."""
    mirror, rows = datasets.mirror(), []
    logs = {
        "trace1-energy.bin": "mlperf-tiny-*",
        "results.json": "mlperf-tiny-*",
        "spl.txt": "mlperf-inference-*",
    }
    for log, folders in logs.items():
        for folder in sorted(mirror.glob(folders)) if mirror else []:
            errors = []
            for file in sorted(folder.rglob(log)):
                trace = read_trace(file.parent)
                ours_j = window_energy(trace, trace.marks)["energy_j"].to_numpy()
                errors += np.abs(ours_j / trace.marks.official_j - 1).tolist()
            if errors:
                row = {"data": folder.name, "log": log, "windows": len(errors)}
                rows.append(
                    row | {"largest_error": max(errors), "median_error": statistics.median(errors)}
                )
    return rows


def mean_powers() -> list[dict[str, str | int | float | None]]:
    """Largest relative difference of the figures of raw runs from the committed ones."""
    mirror = datasets.mirror()
    rows = []
    for folder in sorted(mirror.glob("mlperf-inference-*")) if mirror else []:
        runs, largest = datasets.compare_with_committed(datasets.build_mlperf(folder))
        rows.append({"data": folder.name, "runs": runs, "largest_error": largest})
    return rows


def environment() -> dict[str, str | int | float]:
    """Machine and versions behind the figures."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.is_file() else []
    model = next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), "")
    return {
        "cpu": model or platform.processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 0,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "pyarrow": version("pyarrow"),
        "load_1min": os.getloadavg()[0],
    }


def main() -> None:
    """Run the benchmark, print its tables and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=18_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hour.csv"
        write_hour(path, options.rows)
        speed = side_by_side(path, options.repeats)
        size_mb = path.stat().st_size / 1e6
    result = {
        "environment": environment(),
        "rows": options.rows,
        "file_mb": size_mb,
        "windows": WINDOWS,
        "repeats": options.repeats,
        "speed": speed,
        "read_over_parse": speed["read"]["seconds"] / speed["parse"]["seconds"],
        "whole_over_parse": speed["whole"]["seconds"] / speed["parse"]["seconds"],
        "loop_over_windows": speed["whole"]["looped_s"] / speed["whole"]["windows_s"],
        "official": official_windows(),
        "mean_power": mean_powers(),
    }
    print(f"{options.rows:,} rows, {size_mb:.0f} MB, medians of {options.repeats}")
    for name, figures in speed.items():
        steps = ", ".join(f"{k} {v:.2f}" for k, v in figures.items() if k.endswith("_s"))
        print(f"{name:6} {figures['seconds']:6.2f} s  peak {figures['peak_mb']:5.0f} MB  ({steps})")
        if figures["slowest_s"] > (1 + STABLE) * figures["fastest_s"]:
            print("       unstable: close other programs and run again, or raise --repeats")
    print(
        "read / parse {read_over_parse:.2f}, whole / parse {whole_over_parse:.2f}, "
        "loop and mask (estimated) / windows {loop_over_windows:.0f}".format(**result)
    )
    for row in result["official"]:
        name, count = f"{row['data']} {row['log']}", row["windows"]
        print(f"{name:44} {count:4} windows, largest error {row['largest_error']:.1e}")
    for row in result["mean_power"]:
        name, error = f"{row['data']} mean power", row["largest_error"]
        print(f"{name:44} {row['runs']:4} runs, largest difference {error:.1e}")
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
