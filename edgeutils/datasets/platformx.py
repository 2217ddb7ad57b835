"""PlatformX: power-monitor traces of a phone, and kernel energies that are no ground truth."""

from pathlib import Path

import pandas as pd

from edgeutils.datasets.deepen import same_configuration

#: The benchmark summed the energy of this many runs (upstream measurement script).
_RUNS = 10

_SHAPE = ("HW", "KERNEL_SIZE", "CIN", "COUT")
_PIXEL = {
    "conv_source.csv": ("Pixel 7", "unstated"),
    "conv_source_Pixel7_cpu.csv": ("Pixel 7", "CPU"),
    "Pixel8pro_full.csv": ("Pixel 8 Pro", "unstated"),
    "Pixel8pro_full_cpu.csv": ("Pixel 8 Pro", "CPU"),
}


def load_pixel(files: dict[str, Path]) -> tuple[pd.DataFrame, dict[str, int]]:
    """Load the Pixel kernels (J per run), every row flagged ``unfit``: not for training.

    The values hardly follow the work that a kernel does, nor do the two phones agree on the
    same kernels; they are kept as a lesson in looking at data before learning from them.
    """
    parts = []
    for path, local in files.items():
        raw = pd.read_csv(local)
        device, processor = _PIXEL[path.rsplit("/", 1)[1]]
        columns = {c: c.lower() for c in _SHAPE} | {"STRIDES": "stride"}
        part = raw[list(columns)].rename(columns=columns)
        parts.append(
            part.assign(
                device=device,
                processor=processor,
                name=raw["id"].str.removesuffix(".tflite"),
                group=same_configuration(part),
                # Variants of one convolution (relu6, hswish ...) share its work.
                kernel_type="conv-bn-relu",
                dtype="float32",
                runtime="TFLite",
                energy_j=raw["energy_mJ"] / 1e3 / _RUNS,
                flags="unfit",
            )
        )
    table = pd.concat(parts, ignore_index=True)
    return table, {"row unfit for training (flagged)": len(table)}


def load_traces(files: dict[str, Path]) -> tuple[pd.DataFrame, dict[str, int]]:
    """Load the three marked runs: mean energy (J), latency (s) and power (W) of an inference.

    The monitor's clock is rebuilt and the phone's stamps are shifted by the offset estimated
    from the trace itself (`edgeutils.hardware`). Traces without marks give no row.
    """
    # Only this set needs the hardware part; importing it here keeps the others light.
    from edgeutils.hardware import clock, energy, trace  # noqa: PLC0415

    rows, lost, missing = [], 0, 0
    for path in (path for path in files if path.endswith("_power.csv")):
        marks = trace.read_marks(files[path.replace("_power.csv", "_inference_time.csv")])
        rebuilt, report = clock.rebuild_clock(trace.read_monsoon(files[path]))
        offset = clock.estimate_offset(rebuilt, marks)
        windows = energy.window_energy(rebuilt, marks, offset_s=offset.offset_s)
        summary = energy.summarise(rebuilt, marks, offset_s=offset.offset_s)
        lost += report.lost_samples
        missing += int(windows["energy_j"].isna().sum())
        name = path.rsplit("/", 1)[1].removesuffix("_power.csv")
        rows.append(
            {
                "device": "phone of PlatformX",
                "runtime": "TFLite",
                "name": name,
                "model": name,
                "family": name.split("_")[0],
                "group": name.split("_")[0],
                "latency_s": windows["duration_s"].mean(),
                "latency_std": windows["duration_s"].std(),
                "power_w": windows["power_w"].mean(),
                "energy_j": summary.mean_energy_j,
                "energy_std": windows["energy_per_inference_j"].std(),
                "energy_u": summary.u_j,
                "repeats": summary.inferences,
                "flags": " ".join((*summary.flags, *offset.flags)),
            }
        )
    return pd.DataFrame(rows), {
        "sample lost by the monitor (clock rebuilt around it)": lost,
        "inference in a gap or outside the trace, left out": missing,
        "trace without marks, no row": len(files) - 2 * len(rows),
    }
