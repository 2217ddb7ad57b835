"""Figures that the repository holds, none corrected: the paper's tables and MLPerf's power."""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from edgeutils import ROOT, EdgeError

PUBLISHED = ROOT / "data" / "published"

_BOARDS = {"rpi4": "Raspberry Pi 4", "rpi4coral": "Raspberry Pi 4", "vim4": "VIM4"}
_BOARDS |= {name: name.capitalize() for name in ("firefly", "xavier", "orin", "odroid")}
_RUNTIMES = {"tflite": "TFLite", "armnn": "Arm NN"}
_SYSTEM = re.compile(
    r"(?P<board>[a-z0-9]+)(?:-power\.(?P<mode>\d+))?(?:-fan\.(?P<fan>\w+))?"
    r"-(?P<runtime>tflite|armnn)-v(?P<version>[\d.]+)-(?P<backend>ruy|neon|opencl)"
)
_FAMILY = r"(mobilenet-v[123]|efficientnet-lite|resnet)"


def load_applications(files: dict[str, Path]) -> tuple[pd.DataFrame, dict[str, int]]:
    """Energy (J) and mean power (W) of 12 networks on 8 phones, as printed by Tu et al. (2023).

    Nothing is corrected: an empty cell stays a row with the flag ``empty-cell``, and the cells
    listed in `suspected_typos.csv` keep the printed value and carry that file's flag.
    """
    key = ["dnn", "processor", "device"]
    energy = pd.read_csv(files["application_energy_eci_j.csv"])
    power = pd.read_csv(files["application_power_apc_w.csv"])
    typos = pd.read_csv(files["suspected_typos.csv"]).groupby(key)["flag"].first()
    table = energy.merge(power, on=key, how="left", validate="one_to_one")
    table = table.rename(columns={"value_x": "energy_j", "value_y": "power_w"})
    table = table.merge(pd.read_csv(files["applications.csv"]), on="dnn", how="left")
    table = table.join(typos.rename("flags"), on=key)
    empty = table["energy_j"].isna() | table["power_w"].isna()
    table.loc[empty, "flags"] = "empty-cell"
    table["threads"] = table["processor"].map({"CPU1": 1, "CPU4": 4})
    table = table.rename(columns={"dnn": "name"})
    flags = table["flags"].value_counts()
    return table, {
        "cell empty in both printed tables, kept as missing": int(empty.sum()),
        "suspected typo, left as printed": int(flags.get("suspected-typo", 0)),
        "value repeated in another cell, left as printed": int(flags.get("repeated-value", 0)),
    }


def paper_devices() -> pd.DataFrame:
    """Return the paper's device table: SoC, printed TDP (W), published PCS and IECS."""
    return pd.read_csv(PUBLISHED / "devices.csv")


def parse_system(system: str) -> dict[str, str]:
    """`device`, `processor` and `runtime` of an MLPerf Inference system name.

    The processor is a GPU where OpenCL ran. The power mode and the fan stay in the runtime, so
    that one board in two states gives two rows. EdgeError: an unknown pattern or board.

    >>> parse_system("firefly-armnn-v22.05-opencl")
    {'device': 'Firefly', 'processor': 'GPU', 'runtime': 'Arm NN 22.05 opencl'}
    """
    match = _SYSTEM.fullmatch(system)
    if match is None or match["board"] not in _BOARDS:
        raise EdgeError(
            f"system {system!r} should read board[-power.N][-fan.X]-runtime-vN-backend with a "
            f"board of {', '.join(_BOARDS)}; add the board to edgeutils/datasets/published.py"
        )
    runtime = f"{_RUNTIMES[match['runtime']]} {match['version']} {match['backend']}"
    for state, label in ((match["mode"], "power mode"), (match["fan"], "fan")):
        runtime += f", {label} {state}" if state else ""
    processor = "GPU" if match["backend"] == "opencl" else "CPU"
    return {"device": _BOARDS[match["board"]], "processor": processor, "runtime": runtime}


def mlperf_rows(figures: pd.DataFrame) -> pd.DataFrame:
    """Columns of the measurement table from those of `mlperf_inference_power.csv`."""
    rows = pd.DataFrame([parse_system(system) for system in figures["system"]], figures.index)
    quantised = figures["model"].str.contains(r"(?<!non-)quantized|uint8")
    return rows.assign(
        name=figures["model"],
        family=figures["model"].str.extract(_FAMILY)[0],
        accuracy=figures["top1_accuracy_pct"] / 100,
        dtype=np.where(quantised, "uint8", "float32"),
        latency_s=figures["mean_latency_ms"] / 1e3,
        power_w=figures["mean_power_w"],
        energy_j=figures["energy_mj"] / 1e3,
        flags=np.where(figures["result_valid"] == "VALID", "", "invalid-run"),
    )


def load_mlperf_power(files: dict[str, Path]) -> tuple[pd.DataFrame, dict[str, int]]:
    """Mean power (W) x mean latency (s) of image classifiers on six boards, at the wall plug."""
    table = mlperf_rows(pd.read_csv(files["mlperf_inference_power.csv"]))
    networks = table.groupby(["device", "processor", "runtime"])["name"].size()
    return table, {
        "run marked invalid by the harness": int((table["flags"] != "").sum()),
        "system with a single network (kept)": int((networks == 1).sum()),
    }
