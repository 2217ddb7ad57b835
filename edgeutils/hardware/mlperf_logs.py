"""Raw runs of MLPerf: the power, the official windows and their energy by the format's own rule.

MLPerf Tiny logs the energy of every millisecond, with the device's own stamps on the same clock;
the official energy of a window is the sum of the samples from its first to before its last.
MLPerf Inference logs the wall power once a second; the official power is the mean of the samples
that are stamped between `power_begin` and `power_end`.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from edgeutils import EdgeError
from edgeutils.hardware.tables import bytes_of, find_layout, head_of, table_of
from edgeutils.hardware.trace import Floats, Marks, MeterSpec, PowerTrace, require

#: Logs by the name they have in a run folder: how they begin, and the instrument behind them.
LOGS = {
    "results.json": (rb"\s*[\[{]", "mlperf_tiny"),
    "trace1-energy.bin": (rb"\xf1", "mlperf_tiny"),
    "spl.txt": (rb"Time,\d\d-\d\d-\d{4} ", "spec_ptd"),
}
_STAMP = "%m-%d-%Y %H:%M:%S.%f"
_NUMBER = r"(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)"
#: Samples a second in `results.json` of MLPerf Tiny v1.3.
_TRIAL_HZ = 1000
#: No stamp of a run is later, s: what is would overflow.
_LATEST_S = 1e9
#: What JSON of another form than expected leads to.
_NO_LOG = LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError


def find_log(path: Path) -> tuple[Path, str] | None:
    """Find the log in a run folder, or tell by its first bytes which log a file is.

    The result is the file and its name in `LOGS`; None: another file. EdgeError for a folder
    without a log.
    """
    if not path.is_dir():
        head = head_of(path)
        return next(((path, n) for n, (start, _) in LOGS.items() if re.match(start, head)), None)
    for name in LOGS:
        if file := _beside(path, name):
            return file, name
    raise EdgeError(
        "the folder has no trace: expected trace1-energy.bin and its timestamps or results.json "
        "(MLPerf Tiny), or spl.txt and mlperf_log_detail.txt (MLPerf Inference) in it"
    )


def read_log(file: Path, name: str, meter: MeterSpec) -> PowerTrace:
    """Read a log called `name` in `LOGS`, with the files beside it; EdgeError if it is broken."""
    if name == "spl.txt":
        return _inference(file, meter)
    joined = name == "results.json"
    samples_j, rate_hz, marks = _trials(file) if joined else _tiny(file)
    flags = ("trials_joined",) if joined else ()
    time_s = (np.arange(samples_j.size) + 0.5) / rate_hz
    power_w = samples_j * rate_hz
    return PowerTrace(time_s, power_w, meter, boundary="board_supply", marks=marks, flags=flags)


def _beside(folder: Path, name: str) -> Path | None:
    """File of that name in the folder, or its gzip."""
    files = (folder / name, folder / f"{name}.gz")
    return next((file for file in files if file.is_file()), None)


def _text(folder: Path, name: str) -> str:
    file = _beside(folder, name)
    return bytes_of(file).decode("utf-8", errors="replace") if file else ""


def _tiny(file: Path) -> tuple[Floats, float, Marks | None]:
    """MLPerf Tiny up to v1.2: byte F1, rate and microjoules as little-endian float32."""
    raw = bytes_of(file)
    values = np.frombuffer(raw, "<f4", len(raw) // 4, 1) if len(raw) % 4 == 1 else np.empty(0)
    sound = values.size > 2 and bool(np.isfinite(values).all()) and 0 < values[0] <= 1e7
    require(
        raw[:1] == b"\xf1" and sound,
        "expected the byte F1, a float32 rate and float32 samples; it is cut off, so copy it again",
    )
    rate_hz, samples_j = float(values[0]), values[1:].astype(float) * 1e-6
    stamps = _text(file.parent, "trace1-timestamps.json")
    if not stamps:
        return samples_j, rate_hz, None
    try:
        # The first stamp is the start of the trace, then start and end of each window follow.
        stamps_s = np.array(json.loads(stamps)[1:], dtype=float).reshape(-1, 2)
    except _NO_LOG:
        raise EdgeError(
            "expected in trace1-timestamps.json the start, then start and end of each window in "
            "seconds; a different number of stamps or something else came"
        ) from None
    edges = np.rint(stamps_s.clip(-1, _LATEST_S) * rate_hz)
    return samples_j, rate_hz, _windows(file.parent, edges, samples_j, rate_hz, [])


def _trials(file: Path) -> tuple[Floats, float, Marks]:
    """MLPerf Tiny v1.3: trials of joules per millisecond, put end to end.

    The window of a trial lies between its last two stamps.
    """
    samples, edges, counts, size = [], [], [], 0
    try:
        for trial in json.loads(bytes_of(file)):
            samples.append(np.array(trial["power"]["samples"], dtype=float).ravel())
            edges.append([size + int(stamp[1]) for stamp in trial["power"]["timestamps"][-2:]])
            counts.append(int(trial.get("infer", {}).get("iterations", 0)))
            size += samples[-1].size
        samples_j, windows = np.concatenate(samples), np.array(edges, float).reshape(-1, 2)
    except _NO_LOG:
        raise EdgeError("expected power.samples and two power.timestamps in every trial") from None
    return samples_j, _TRIAL_HZ, _windows(file.parent, windows, samples_j, _TRIAL_HZ, counts)


def _windows(
    folder: Path, edges: Floats, samples_j: Floats, rate_hz: float, counts: Sequence[int]
) -> Marks:
    """Windows by the index of their samples, with the inferences and energies of the report."""
    text = _text(folder, "results.txt")
    official_j = [float(x) * 1e-6 for x in re.findall(rf"\bEnergy\s*: +{_NUMBER} uJ", text)]
    counts = [int(x) for x in re.findall(r"Inferences\s*: +(\d{1,15})\b", text)] or counts
    require(
        len(counts) == len(edges) and len(official_j) in (len(edges), 0),
        f"results.txt and the trace name different numbers of windows, {len(counts)} and "
        f"{len(edges)}; expected both, of one run, in one folder",
    )
    inside = bool(((edges >= 0) & (edges <= samples_j.size)).all())
    require(inside, "a window leaves the trace: it is cut off, so copy it again")
    start_s, end_s = edges.T / rate_hz
    official = np.array(official_j) if official_j else None
    return Marks(start_s, end_s, np.array(counts), official_j=official, same_clock=True)


def _inference(file: Path, meter: MeterSpec) -> PowerTrace:
    """MLPerf Inference: a line a second; the clocks of both logs are kept together by NTP."""
    expected = "lines that begin with Time,MM-DD-YYYY HH:MM:SS.mmm,Watts,number,"
    layout = find_layout(head_of(file), lambda cells: cells[2:3] == ("Watts",), expected)
    # The lines have no header: the first one tells the number of the cells, and is data.
    wanted = {"time": (1, "text"), "power": (3, "number")}
    columns, torn = table_of(file, replace(layout, line=0, start=0), wanted)
    stamps_us, power_w = _since_1970(columns["time"]), columns["power"]
    detail = _text(file.parent, "mlperf_log_detail.txt")
    summary = _text(file.parent, "mlperf_log_summary.txt")
    marks, flags = _official(detail, summary, stamps_us, power_w) if detail else (None, ())
    flags += ("torn_last_line",) if torn else ()
    epoch_us = int(stamps_us[0])
    time_s = (stamps_us - epoch_us) / 1e6
    return PowerTrace(time_s, power_w, meter, epoch_us, boundary="wall", marks=marks, flags=flags)


def _official(
    detail: str, summary: str, stamps_us: NDArray[np.int64], power_w: Floats
) -> tuple[Marks, tuple[str, ...]]:
    """Official window and energy; a flag where the log gives a rate instead of the count."""

    def logged(key: str, pattern: str) -> str:
        return (re.findall(rf'"key": "{key}", "value": "?{pattern}', detail) or [""])[-1]

    edges_us = _since_1970([logged(f"power_{edge}", '([^",]+)') for edge in ("begin", "end")])
    inside = (stamps_us >= edges_us[0]) & (stamps_us <= edges_us[1])
    require(
        bool(inside.any()),
        "no sample lies between power_begin and power_end of mlperf_log_detail.txt; both must be "
        "of one run, on clocks of one time zone",
    )
    epoch_us = int(stamps_us[0])
    start_s, end_s = (edges_us - epoch_us)[:, None] / 1e6
    window_s = end_s - start_s
    count = int(logged("result_query_count", r"(\d{1,15})") or 0)
    flags = () if count else ("count_from_rate",)
    if not count:
        latency_ns = re.search(rf"Mean latency \(ns\)\s*: {_NUMBER}", summary)
        mean_s = max(float(latency_ns[1]), 1.0) / 1e9 if latency_ns else np.inf
        rate = float(logged("result_qps_with_loadgen_overhead", _NUMBER) or 1 / mean_s)
        count = round(min(rate * window_s[0], 1e15))
    require(
        count > 0,
        "the number of inferences is not known: expected result_query_count or a rate in "
        "mlperf_log_detail.txt, or a mean latency in mlperf_log_summary.txt",
    )
    official_j = power_w[inside].mean() * window_s
    counts = np.array([count])
    return Marks(start_s, end_s, counts, epoch_us, official_j=official_j, same_clock=True), flags


def _since_1970(stamps: Sequence[str] | NDArray) -> NDArray[np.int64]:
    """Microseconds since 1970 of times as the logs write them."""
    times = pd.to_datetime(stamps, format=_STAMP, errors="coerce")
    require(
        not times.hasnans,
        "expected times as MM-DD-YYYY HH:MM:SS.mmm, in mlperf_log_detail.txt for power_begin and "
        f"power_end, found {stamps[int(times.isna().argmax())][:40]!r}",
    )
    return times.to_numpy("datetime64[us]").astype(np.int64)
