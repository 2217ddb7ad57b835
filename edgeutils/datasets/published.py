"""Printed and aggregated figures that the repository holds: the paper's tables and MLPerf's power.

Nothing is corrected here: what the paper prints is what the table says, and a doubtful cell
carries a flag instead.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from edgeutils import ROOT, EdgeError
from edgeutils.networks import zoo

PUBLISHED = ROOT / "data" / "published"

_BOARDS = {"rpi4": "Raspberry Pi 4", "rpi4coral": "Raspberry Pi 4", "vim4": "VIM4"}
_BOARDS |= {name: name.capitalize() for name in ("firefly", "xavier", "orin", "odroid")}
_RUNTIMES = {"tflite": "TFLite", "armnn": "Arm NN"}
_SYSTEM = re.compile(
    r"(?P<board>[a-z0-9]+)(?:-power\.(?P<mode>\d+))?(?:-fan\.(?P<fan>\w+))?"
    r"-(?P<runtime>tflite|armnn)-v(?P<version>[\d.]+)-(?P<backend>ruy|neon|opencl)"
)
_MODEL = re.compile(r"(?P<family>mobilenet-v[123]|efficientnet-lite|resnet)")


def load_applications(files: dict[str, Path]) -> tuple[pd.DataFrame, dict[str, int]]:
    """Energy (J) and mean power (W) of 12 networks on 8 phones, as printed by Tu et al. (2023).

    An empty cell stays a row with missing values and the flag ``empty-cell``; the cells listed
    in `suspected_typos.csv` keep the printed value and carry that file's flag.
    """
    key = ["dnn", "processor", "device"]
    energy = pd.read_csv(files["application_energy_eci_j.csv"])
    power = pd.read_csv(files["application_power_apc_w.csv"])
    table = energy.rename(columns={"value": "energy_j"}).merge(
        power.rename(columns={"value": "power_w"}), on=key, how="left", validate="one_to_one"
    )
    table = table.merge(pd.read_csv(files["applications.csv"]), on="dnn", how="left")
    typos = pd.read_csv(files["suspected_typos.csv"])
    typos = typos.groupby(key)["flag"].first().rename("flags")
    table = table.join(typos, on=key)
    empty = table["energy_j"].isna() | table["power_w"].isna()
    table.loc[empty, "flags"] = "empty-cell"
    threads = table["processor"].map({"CPU1": 1, "CPU4": 4})
    table = table.assign(
        name=table["dnn"], group=table["family"], threads=threads, runtime="TFLite"
    ).drop(columns="dnn")
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
    """Board, processor and runtime of an MLPerf Inference system name.

    Returns
    -------
    dict
        `device`, `processor` (CPU, or GPU where OpenCL ran) and `runtime`; the power mode and the
        fan stay in the runtime, so that one board in two states gives two rows.

    Raises
    ------
    EdgeError
        A name that does not follow the submitter's pattern.

    Examples
    --------
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
    if match["mode"]:
        runtime += f", power mode {match['mode']}"
    if match["fan"]:
        runtime += f", fan {match['fan']}"
    processor = "GPU" if match["backend"] == "opencl" else "CPU"
    return {"device": _BOARDS[match["board"]], "processor": processor, "runtime": runtime}


def mlperf_rows(figures: pd.DataFrame) -> pd.DataFrame:
    """Columns of the measurement table from the columns of `mlperf_inference_power.csv`."""
    systems = {system: parse_system(system) for system in figures["system"].unique()}
    rows = pd.DataFrame([systems[system] for system in figures["system"]], index=figures.index)
    family = figures["model"].str.extract(_MODEL.pattern)["family"]
    quantised = figures["model"].str.contains(r"(?<!non-)quantized|uint8")
    flags = figures["result_valid"].map({"VALID": ""}).fillna("invalid-run")
    return rows.assign(
        level="network",
        name=figures["model"],
        model=figures["model"],
        family=family,
        group=family,
        task="image classification",
        accuracy=figures["top1_accuracy_pct"] / 100,
        dtype=np.where(quantised, "uint8", "float32"),
        latency_s=figures["mean_latency_ms"] / 1e3,
        power_w=figures["mean_power_w"],
        energy_j=figures["energy_mj"] / 1e3,
        flags=flags,
    )


def load_mlperf_power(files: dict[str, Path]) -> tuple[pd.DataFrame, dict[str, int]]:
    """Mean power (W) x mean latency (s) of image classifiers on six boards, at the wall plug.

    Figures computed from MLPerf Inference v1.0, v1.1 and v2.1 (`edgeutils data build mlperf`).
    `group` is the family: rows of one family must not be split between training and test.
    """
    figures = pd.read_csv(files["mlperf_inference_power.csv"], dtype={"round": str})
    table = mlperf_rows(figures)
    seen = table.groupby(["device", "processor", "runtime"])["name"].transform("size")
    single = int((seen == 1).sum())
    return table, {
        "run marked invalid by the harness": int((table["flags"] != "").sum()),
        "system with a single network (kept)": single,
    }


def network_table() -> pd.DataFrame:
    """MLPerf's networks with the work each of them does, for exploration and prediction.

    Returns
    -------
    pandas.DataFrame
        The measurement table of `mlperf-inference-power` (1 row per board, runtime and network;
        s, W, J), `macs` and `params` filled in from the zoo, and the zoo's further features
        (layers, activations ...) as columns at the end.
    """
    from edgeutils.datasets import load  # noqa: PLC0415  the package imports this module

    table = load("mlperf-inference-power")
    features = zoo.features(sorted(table["name"].unique()))
    joined = features.reindex(table["name"]).reset_index(drop=True)
    known = [name for name in joined.columns if name in table.columns]
    table[known] = joined[known]
    return pd.concat([table, joined.drop(columns=known)], axis=1)
