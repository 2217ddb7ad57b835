"""Raw MLPerf runs: a wattmeter log per Inference run, an energy trace per Tiny run.

MLPerf Inference logs the wall power once a second (`spl.txt`) and stamps the official window
with `power_begin` and `power_end`. MLPerf Tiny integrates the supply of the board to one value
of energy per millisecond and stamps every window of inferences.
"""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd

from edgeutils import EdgeError
from edgeutils.datasets.published import PUBLISHED, mlperf_rows

_STAMP = "%m-%d-%Y %H:%M:%S.%f"
_KEY = ["round", "division", "submitter", "system", "model"]
_NUMBER = r"([0-9.eE+-]+)"
_RUN = re.compile(
    r"(?:.*?v(?P<round>\d+\.\d+)[^/]*/)?(?:.*/)?(?P<division>closed|open)/(?P<submitter>[^/]+)/results/"
    r"(?P<system>[^/]+)/(?P<model>[^/]+)/(?i:singlestream)/performance/run_1/mlperf_log_summary\.txt"
)


def build_mlperf(root: str | Path) -> pd.DataFrame:
    """Recompute `mlperf_inference_power.csv` from a folder of MLPerf Inference logs.

    Energy of one inference = mean of the wattmeter's samples between `power_begin` and
    `power_end` x mean latency of the single-stream scenario. `root` is a checkout of
    `inference_results_vN.N`, or a folder that holds several.

    Returns
    -------
    pandas.DataFrame
        The columns of the committed file (power in W, latency in ms, accuracy in %, NaN without
        `accuracy.txt`, energy in mJ). ``attrs["defects"]`` counts runs without a wattmeter log.

    Raises
    ------
    EdgeError
        No run below `root`, or a log that lacks what it should hold.
    """
    root = Path(root).resolve()
    found = [_RUN.fullmatch(p.as_posix()) for p in sorted(root.rglob("mlperf_log_summary.txt"))]
    runs = [match for match in found if match]
    powered = [match for match in runs if Path(match.string).with_name("spl.txt").is_file()]
    if not powered:
        raise EdgeError(
            f"{root} holds no MLPerf Inference run with power; expected "
            "DIVISION/SUBMITTER/results/SYSTEM/MODEL/singlestream/performance/run_1/spl.txt"
        )
    if any(match["round"] is None for match in powered):
        raise EdgeError(f"{root}: expected a folder named after the round, as v2.1, in the path")
    rows = [{**match.groupdict(), **_inference_run(Path(match.string).parent)} for match in powered]
    table = pd.DataFrame(rows).sort_values(_KEY, ignore_index=True)
    table["energy_mj"] = table["mean_power_w"] * table["mean_latency_ms"]
    table.attrs["defects"] = {"run without a wattmeter log, left out": len(runs) - len(powered)}
    return table


def compare_with_committed(figures: pd.DataFrame) -> tuple[int, float | None]:
    """Count the runs that are committed too, and find the largest relative difference."""
    committed = pd.read_csv(PUBLISHED / "mlperf_inference_power.csv", dtype={"round": str})
    both = figures.merge(committed, on=_KEY, suffixes=("", "_committed"))
    if both.empty:
        return 0, None
    numbers = list(figures.select_dtypes("number"))
    ratio = both[numbers].to_numpy() / both[[f"{n}_committed" for n in numbers]].to_numpy()
    return len(both), float(np.nanmax(np.abs(ratio - 1)))


def _found(what: str, value: str, path: Path) -> str:
    """First group of the pattern `value` where it follows the literal text `what`."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    match = re.search(re.escape(what) + value, text)
    if match is None:
        raise EdgeError(f"{path}: expected {what!r} and a value; the run is incomplete")
    return match[1]


def _inference_run(run: Path) -> dict[str, object]:
    """Figures of one run folder."""
    detail, summary = run / "mlperf_log_detail.txt", run / "mlperf_log_summary.txt"
    edges = [_found(f'"power_{e}", "value": ', '"([^"]+)"', detail) for e in ("begin", "end")]
    log = (run / "spl.txt").read_text(encoding="utf-8", errors="replace")
    spl = pd.DataFrame(re.findall(rf"^Time,([^,]+),Watts,{_NUMBER},", log, re.M))
    spl = spl.reindex(columns=[0, 1])
    inside = pd.to_datetime(spl[0], format=_STAMP).between(*pd.to_datetime(edges, format=_STAMP))
    watts = spl.loc[inside, 1].astype(float)
    if watts.empty:
        raise EdgeError(f"{run / 'spl.txt'}: no sample lies between power_begin and power_end")
    accuracy = run.parents[1] / "accuracy" / "accuracy.txt"
    seen = accuracy.is_file()
    return {
        "power_samples": len(watts),
        "mean_power_w": watts.mean(),
        "mean_latency_ms": float(_found("Mean latency (ns)", rf"\s*: {_NUMBER}", summary)) / 1e6,
        "result_valid": _found("Result is : ", r"(\w+)", summary),
        "top1_accuracy_pct": float(_found("accuracy=", rf"{_NUMBER}%", accuracy))
        if seen
        else np.nan,
    }


def load_inference(files: dict[str, Path]) -> tuple[pd.DataFrame, dict[str, int]]:
    """One row per raw run that has a wattmeter log."""
    first_path, first_local = next(iter(files.items()))
    figures = build_mlperf(first_local.as_posix().removesuffix(first_path))
    return mlperf_rows(figures), figures.attrs["defects"]


_TASKS = {
    "ad": ("anomaly detection", "autoencoder"),
    "ic": ("image classification", "resnet"),
    "kws": ("keyword spotting", "ds-cnn"),
    "sww": ("streaming wake word", "streaming-wakeword"),
    "vww": ("visual wake words", "mobilenet-v1"),
}
_TINY = re.compile(
    r"(?P<division>closed|open)/(?P<submitter>[^/]+)/results/(?P<device>[^/]+)/(?P<task>[^/]+)/"
    r"(?:(?P<variant>[^/]+)/)?(?:energy|power)/results\.txt"
)


def read_energy_trace(folder: Path) -> tuple[np.ndarray, float, np.ndarray]:
    """Read `trace1-energy.bin` and `trace1-timestamps.json` of an MLPerf Tiny run.

    Returns
    -------
    energy_j, rate_hz, stamps_s
        Energy of each sample (J, shape (n,)); samples per second; start of the trace, then start
        and end of each of the w windows (s, shape (2 w + 1,)).

    Raises
    ------
    EdgeError
        The folder has no trace, or the file is not in the format.
    """
    binary, stamps = folder / "trace1-energy.bin", folder / "trace1-timestamps.json"
    if not (binary.is_file() and stamps.is_file()):
        raise EdgeError(f"{folder} has no trace: expected trace1-energy.bin and its timestamps")
    raw = binary.read_bytes()
    if raw[:1] != b"\xf1" or len(raw) < 5 or (len(raw) - 5) % 4:
        raise EdgeError(f"{binary}: expected the byte F1, a float32 rate and float32 samples")
    rate_hz = float(np.frombuffer(raw, "<f4", count=1, offset=1)[0])
    energy_j = np.frombuffer(raw, "<f4", offset=5).astype(float) * 1e-6
    return energy_j, rate_hz, np.array(json.loads(stamps.read_text(encoding="utf-8")), dtype=float)


def tiny_windows(folder: Path) -> pd.DataFrame:
    """Energy of every window of one MLPerf Tiny run, from its samples and as printed.

    Returns
    -------
    pandas.DataFrame
        One row per window: `energy_j` (sum of the samples, J), `official_j` (as printed, J),
        `inferences` (count), `latency_s` (s per inference).

    Raises
    ------
    EdgeError
        No trace in the folder, or a report whose windows do not match the trace.
    """
    text = (folder / "results.txt").read_text(encoding="utf-8", errors="replace")
    official = [float(x) * 1e-6 for x in re.findall(rf"\bEnergy\s*: +{_NUMBER} uJ", text)]
    count = [int(x) for x in re.findall(r"Inferences\s*: +(\d+)", text)]
    seconds = [float(x) for x in re.findall(rf"(?:Runtime|Elapsed time)\s*: +{_NUMBER}", text)]
    if (folder / "results.json").is_file():
        energy_j = _json_windows(folder / "results.json")
    else:
        samples, rate_hz, stamps_s = read_energy_trace(folder)
        edges = np.rint(stamps_s[1:] * rate_hz).astype(int).reshape(-1, 2)
        energy_j = [float(samples[start:end].sum()) for start, end in edges]
    if len({len(energy_j), len(official), len(count), len(seconds)}) != 1:
        raise EdgeError(f"{folder}: the report and the trace name different numbers of windows")
    windows = {"energy_j": energy_j, "official_j": official, "inferences": count}
    return pd.DataFrame(windows).assign(latency_s=np.divide(seconds, count))


def _json_windows(path: Path) -> list[float]:
    """Energy of each trial of a v1.3 `results.json`, J: the samples between its last two stamps."""
    energies = []
    for trial in json.loads(path.read_text(encoding="utf-8")):
        try:
            power = trial["power"]
            start, end = (int(stamp[1]) for stamp in power["timestamps"][-2:])
            energies.append(float(np.sum(power["samples"][start:end])))
        except (KeyError, TypeError, ValueError, IndexError):
            raise EdgeError(f"{path}: expected power.samples and two power.timestamps") from None
    return energies


def load_tiny(files: dict[str, Path]) -> tuple[pd.DataFrame, dict[str, int]]:
    """One row per run: the median energy of an inference over the windows of its trace (J).

    A run that comes without a trace is left out and counted: its printed value cannot be
    recomputed, so it is not passed off as one that was.
    """
    runs, without = [], 0
    for path, local in files.items():
        match = _TINY.fullmatch(path)
        if match is None:
            continue
        if {"trace1-energy.bin", "results.json"} & {p.name for p in local.parent.iterdir()}:
            runs.append(_tiny_row(match, tiny_windows(local.parent)))
        else:
            without += 1
    return pd.DataFrame(runs), {"run without a trace, left out": without}


def _tiny_row(match: re.Match[str], windows: pd.DataFrame) -> dict[str, object]:
    energy_j = windows["energy_j"] / windows["inferences"]
    task, family = _TASKS[match["task"]]
    return {
        "device": f"{match['submitter']} {match['device']}",
        "name": "-".join(part for part in (match["task"], match["variant"]) if part),
        "family": match["variant"] or family,
        "group": match["task"],
        "task": task,
        "latency_s": windows["latency_s"].median(),
        "power_w": (energy_j / windows["latency_s"]).median(),
        "energy_j": energy_j.median(),
        "energy_std": energy_j.std(),
        "repeats": len(windows),
    }
