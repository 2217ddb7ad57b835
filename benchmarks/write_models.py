"""Time how long `.tflite` models take to write: 1,000 convolutions, 450 networks, and TensorFlow.

The convolutions are drawn as they occur in networks. A model's time covers its graph and its
file in a temporary folder; the file is deleted before the next is written, outside the clock.
With `--tensorflow`, some of the same convolutions are also made by TensorFlow's converter, by the
Python that is given (an environment of its own in which tensorflow is installed).

    python benchmarks/write_models.py [--repeats N] [--tensorflow PYTHON]

writes `benchmarks/results/write_models.json`.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from edgeutils.networks import zoo
from edgeutils.networks.graph import Graph, single_kernel
from edgeutils.networks.kernels import Kernel
from edgeutils.networks.sampler import sample
from edgeutils.networks.tflite import write

RESULT = Path(__file__).parent / "results" / "write_models.json"
KERNELS, VARIANTS, COMPARED = 1000, 50, 20
#: Runs of one job that differ by more than this share: the machine was busy with something else.
STABLE = 0.2


def timed(make: Callable[[], Graph], path: Path) -> dict[str, float]:
    """Seconds that a graph and its file take, and the bytes written."""
    start = time.perf_counter()
    write(make(), path)
    seconds = time.perf_counter() - start
    size = path.stat().st_size
    path.unlink()
    return {"seconds": seconds, "bytes": size}


def summary(runs: list[list[dict[str, float]]]) -> dict[str, float]:
    """Median over the runs of the total, the slowest model, and the spread of the totals."""
    totals = [sum(model["seconds"] for model in run) for run in runs]
    seconds = [statistics.median(times) for times in zip(*map(column, runs), strict=True)]
    return {
        "models": len(runs[0]),
        "total_s": statistics.median(totals),
        "fastest_total_s": min(totals),
        "slowest_total_s": max(totals),
        "median_model_s": statistics.median(seconds),
        "slowest_model_s": max(seconds),
        "total_mb": sum(model["bytes"] for model in runs[0]) / 1e6,
        "largest_mb": max(model["bytes"] for model in runs[0]) / 1e6,
    }


def column(run: list[dict[str, float]]) -> list[float]:
    """Seconds of each model of a run."""
    return [model["seconds"] for model in run]


def repeated(makes: list[Callable[[], Graph]], folder: Path, repeats: int) -> list:
    """Time every model in turn, as often as asked; the first model once more before."""
    timed(makes[0], folder / "first.tflite")
    path = folder / "model.tflite"
    return [[timed(make, path) for make in makes] for _ in range(repeats)]


def beside_tensorflow(
    python: str, kernels: list[Kernel], ours: list[list[dict[str, float]]]
) -> dict[str, object]:
    """Make some of the kernels with TensorFlow, and compare model by model."""
    chosen = range(0, len(kernels), len(kernels) // COMPARED)
    fields = ("hw", "cin", "cout", "kernel_size", "stride")
    asked = [[getattr(kernels[i], field) for field in fields] for i in chosen]
    script = Path(__file__).with_name("convert_tensorflow.py")
    done = subprocess.run(
        [python, script], input=json.dumps(asked), capture_output=True, text=True, check=True
    )
    theirs = json.loads(done.stdout)
    pairs = []
    for i, model in zip(chosen, theirs["models"], strict=True):
        seconds = statistics.median(run[i]["seconds"] for run in ours)
        pairs.append((seconds, model["seconds"], ours[0][i]["bytes"], model["bytes"]))
    ratios = [their_s / our_s for our_s, their_s, _, _ in pairs]
    return {
        "tensorflow": theirs["version"],
        "models": len(pairs),
        "median_ours_s": statistics.median(pair[0] for pair in pairs),
        "median_theirs_s": statistics.median(pair[1] for pair in pairs),
        "median_ratio": statistics.median(ratios),
        "smallest_ratio": min(ratios),
        "largest_ratio": max(ratios),
        "largest_difference_of_size_bytes": max(abs(pair[2] - pair[3]) for pair in pairs),
    }


def main() -> None:
    """Time all, warn where runs differ, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tensorflow", metavar="PYTHON", help="Python that has tensorflow")
    options = parser.parse_args()
    result: dict[str, object] = {
        "environment": {
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
            "load_1min": os.getloadavg()[0],
        },
        "repeats": options.repeats,
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for dtype in ("float32", "int8"):
            kernels = sample("conv-bn-relu", KERNELS, dtype=dtype)
            makes = [lambda kernel=kernel: single_kernel(kernel) for kernel in kernels]
            runs = repeated(makes, folder, options.repeats)
            result[f"kernels_{dtype}"] = summary(runs)
            if dtype == "float32" and options.tensorflow:
                result["beside_tensorflow"] = beside_tensorflow(options.tensorflow, kernels, runs)
        names = [(family, index) for family in zoo.FAMILIES for index in range(VARIANTS)]
        makes = [lambda name=name: zoo.variant(*name) for name in names]
        result["networks_float32"] = summary(repeated(makes, folder, options.repeats))
    for name, found in result.items():
        if name.startswith(("kernels", "networks")):
            print(name, json.dumps(found))
            if found["slowest_total_s"] > (1 + STABLE) * found["fastest_total_s"]:
                print(f"{name}: runs differ by more than {STABLE:.0%}; repeat on a quiet machine")
    print(json.dumps(result.get("beside_tensorflow")))
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
