"""PlatformX: power-monitor traces of a phone, and kernel energies that are no ground truth."""

from pathlib import Path

import pandas as pd

from edgeutils.datasets.deepen import same_configuration
from edgeutils.hardware import report

#: The benchmark summed the energy of this many runs (upstream measurement script).
_RUNS = 10
_SHAPE = {"HW": "hw", "KERNEL_SIZE": "kernel_size", "CIN": "cin", "COUT": "cout"}
_SHAPE |= {"STRIDES": "stride"}


def load_pixel(files: dict[str, Path]) -> tuple[pd.DataFrame, dict[str, int]]:
    """Load the Pixel kernels (J per run), every row flagged ``unfit``: not for training.

    The values hardly follow the work of a kernel, nor do the two phones agree; they are kept as
    a lesson in looking at data before learning from them.
    """
    parts = []
    for path, local in files.items():
        device = "Pixel 8 Pro" if "Pixel8pro" in path else "Pixel 7"
        processor = "CPU" if path.endswith("_cpu.csv") else "unstated"
        parts.append(pd.read_csv(local).assign(device=device, processor=processor, flags="unfit"))
    raw = pd.concat(parts, ignore_index=True).rename(columns=_SHAPE)
    shape = list(_SHAPE.values())
    table = raw[["device", "processor", "flags", *shape]].assign(
        name=raw["id"].str.removesuffix(".tflite"),
        group=same_configuration(raw[shape]),
        energy_j=raw["energy_mJ"] / 1e3 / _RUNS,
    )
    return table, {"row unfit for training (flagged)": len(table)}


def load_traces(files: dict[str, Path]) -> tuple[pd.DataFrame, dict[str, int]]:
    """Load the three marked runs: mean energy (J), latency (s) and power (W) of an inference.

    The clock is rebuilt, and the phone's stamps are shifted by the offset found in the trace.
    """
    rows, lost, missing = [], 0, 0
    for path in (path for path in files if path.endswith("_power.csv")):
        marks = files[path.replace("_power.csv", "_inference_time.csv")]
        found = report.analyse(*report.load(files[path], marks=marks))
        summary, windows = found.summary, found.summary.windows
        lost += found.clock.lost_samples
        missing += int(windows["energy_j"].isna().sum())
        name = path.rsplit("/", 1)[1].removesuffix("_power.csv")
        row = {
            "name": name,
            "family": name.split("_")[0],
            "latency_s": windows["duration_s"].mean(),
            "latency_std": windows["duration_s"].std(),
            "power_w": windows["power_w"].mean(),
            "energy_j": summary.mean_energy_j,
            "energy_std": windows["energy_per_inference_j"].std(),
            "energy_u": summary.u_j,
            "repeats": summary.inferences,
            "flags": " ".join(found.flags),
        }
        rows.append(row)
    return pd.DataFrame(rows), {
        "sample lost by the monitor (clock rebuilt around it)": lost,
        "inference in a gap or outside the trace, left out": missing,
        "trace without marks, no row": len(files) - 2 * len(rows),
    }
