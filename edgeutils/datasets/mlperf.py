"""Raw MLPerf runs, with the official window or windows stamped.

MLPerf Inference logs the wall power once a second (`spl.txt`); MLPerf Tiny integrates the supply
of the board to one value of energy per millisecond.
"""

import re
from pathlib import Path

import pandas as pd

from edgeutils import EdgeError
from edgeutils.datasets.published import PUBLISHED, mlperf_rows
from edgeutils.hardware.energy import window_energy
from edgeutils.hardware.readers import read_trace

_KEY = ["round", "division", "submitter", "system", "model"]
_NUMBER = r"([0-9.eE+-]+)"
_RUN = re.compile(
    r"(?:.*?v(?P<round>\d+\.\d+)[^/]*/)?(?:.*/)?(?P<division>closed|open)/(?P<submitter>[^/]+)/results/"
    r"(?P<system>[^/]+)/(?P<model>[^/]+)/(?i:singlestream)/performance/run_1/mlperf_log_summary\.txt"
)
_TINY = re.compile(
    r"(?P<division>closed|open)/(?P<submitter>[^/]+)/results/(?P<device>[^/]+)/(?P<task>[^/]+)/"
    r"(?:(?P<variant>[^/]+)/)?(?:energy|power)/results\.txt"
)


def build_mlperf(root: str | Path) -> pd.DataFrame:
    """Recompute `mlperf_inference_power.csv` from a folder of MLPerf Inference logs.

    Energy of one inference = mean of the wattmeter's samples in the official window x mean
    single-stream latency. `root` is a checkout of `inference_results_vN.N`, or a folder with
    several. NaN: no `accuracy.txt`. EdgeError: no run, or a log that lacks what it should hold.
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
    rows = [match.groupdict() | _inference_run(Path(match.string).parent) for match in powered]
    table = pd.DataFrame(rows).sort_values(_KEY, ignore_index=True)
    table["energy_mj"] = table["mean_power_w"] * table["mean_latency_ms"]
    table.attrs["defects"] = {"run without a wattmeter log, left out": len(runs) - len(powered)}
    return table


def compare_with_committed(figures: pd.DataFrame) -> tuple[int, float | None]:
    """Count the runs that are committed too, and find the largest relative difference."""
    committed = pd.read_csv(PUBLISHED / "mlperf_inference_power.csv", dtype={"round": str})
    both = figures.merge(committed, on=_KEY, suffixes=("", "_committed"))
    numbers = figures.select_dtypes("number").columns
    ratio = both[numbers] / both[numbers + "_committed"].set_axis(numbers, axis=1)
    return len(both), float((ratio - 1).abs().max(axis=None)) if len(both) else None


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _found(what: str, value: str, path: Path) -> str:
    """First group of the pattern `value` where it follows the literal text `what`."""
    match = re.search(re.escape(what) + value, _text(path))
    if match is None:
        raise EdgeError(f"{path}: expected {what!r} and a value; the run is incomplete")
    return match[1]


def _inference_run(run: Path) -> dict[str, object]:
    """Figures of one run folder."""
    detail, summary = run / "mlperf_log_detail.txt", run / "mlperf_log_summary.txt"
    accuracy = run.parents[1] / "accuracy" / "accuracy.txt"
    latency_ms = float(_found("Mean latency (ns)", rf"\s*: {_NUMBER}", summary)) / 1e6
    trace = read_trace(run)
    window = trace.marks
    if window is None or window.official_j is None:
        raise EdgeError(f"{detail}: expected power_begin and power_end; the run is incomplete")
    begin_s, end_s = window.start_s[0], window.end_s[0]
    percent = _found("accuracy=", rf"{_NUMBER}%", accuracy) if accuracy.is_file() else "nan"
    return {
        "power_samples": int(((trace.time_s >= begin_s) & (trace.time_s <= end_s)).sum()),
        "mean_power_w": window.official_j[0] / (end_s - begin_s),
        "mean_latency_ms": latency_ms,
        "result_valid": _found("Result is : ", r"(\w+)", summary),
        "top1_accuracy_pct": float(percent),
    }


def load_inference(files: dict[str, Path]) -> tuple[pd.DataFrame, dict[str, int]]:
    """One row per raw run that has a wattmeter log."""
    path, local = next(iter(files.items()))
    figures = build_mlperf(local.as_posix().removesuffix(path))
    return mlperf_rows(figures), figures.attrs["defects"]


def tiny_windows(folder: Path) -> pd.DataFrame:
    """Energy of every window (a row) of one MLPerf Tiny run, from its samples and as printed.

    `energy_j` is the sum of the samples, `official_j` as printed, `latency_s` that of one of the
    `inferences`. EdgeError: no trace, a wrong format, or a report that does not match the trace.
    """
    trace = read_trace(folder)
    marks = trace.marks
    if marks is None or marks.official_j is None:
        raise EdgeError(f"{folder}: expected the stamps and the report of the windows in it")
    windows = {
        "energy_j": window_energy(trace, marks)["energy_j"],
        "official_j": marks.official_j,
        "inferences": marks.count,
        "latency_s": (marks.end_s - marks.start_s) / marks.count,
    }
    return pd.DataFrame(windows)


def load_tiny(files: dict[str, Path]) -> tuple[pd.DataFrame, dict[str, int]]:
    """One row per run: the median energy of an inference over the windows of its trace (J).

    A run without a trace is left out and counted: its printed value cannot be recomputed.
    """
    runs = {files[path].parent: match for path in files if (match := _TINY.fullmatch(path))}
    rows = []
    for folder, match in runs.items():
        if not any((folder / name).is_file() for name in ("trace1-energy.bin", "results.json")):
            continue
        windows = tiny_windows(folder)
        energy_j = windows["energy_j"] / windows["inferences"]
        row = {
            "device": f"{match['submitter']} {match['device']}",
            "name": "-".join(part for part in (match["task"], match["variant"]) if part),
            "family": match["variant"] or match["task"],
            "group": match["task"],
            "task": match["task"],
            "latency_s": windows["latency_s"].median(),
            "power_w": (energy_j / windows["latency_s"]).median(),
            "energy_j": energy_j.median(),
            "energy_std": energy_j.std(),
            "repeats": len(windows),
        }
        rows.append(row)
    return pd.DataFrame(rows), {"run without a trace, left out": len(runs) - len(rows)}
