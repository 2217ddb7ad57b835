import gzip
import itertools
import json
import re

import numpy as np
import pandas as pd
import pytest

from edgeutils import EdgeError
from edgeutils.hardware import tables
from edgeutils.hardware.energy import window_energy
from edgeutils.hardware.readers import meter_spec, read_marks, read_trace

HEADER = "Time(ms),Main(mA),Main Voltage(V),\n"
GOOD = HEADER + "1756255148138148,100.0,4.0,\n1756255148138349,200.0,4.1,\n"
PPK2 = "Timestamp(ms),Current(uA),D0-D7\n0.0,50000,00000000\n0.01,60000.5,00000101\n"
RUN = "mlperf-inference-v2.1/open/Krai/results"


def write(folder, text, name="x.csv"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# --- tables -------------------------------------------------------------------------------


def test_monsoon_is_in_si_units_and_keeps_each_microsecond(tmp_path):
    trace = read_trace(write(tmp_path, GOOD, "no name tells.the format"))
    assert trace.epoch_us == 1756255148138148
    assert trace.time_s.tolist() == [0.0, 201e-6]
    np.testing.assert_allclose(trace.power_w, [0.4, 0.82])
    np.testing.assert_allclose(trace.current_a, [0.1, 0.2])
    np.testing.assert_allclose(trace.voltage_v, [4.0, 4.1])
    assert trace.meter == meter_spec("monsoon_hvpm")
    assert trace.flags == ()


@pytest.mark.parametrize(
    ("text", "time_s", "power_w", "meter"),
    [
        ("time_s,power_w\n5,1\n5.5,2\n", [0, 0.5], [1, 2], "not stated"),
        ("time_us;power_mw\n5;1000\n6;2000\n", [0, 1e-6], [1, 2], "not stated"),
        ("t_ns\tI (mA)\tV (V)\n1\t500\t4\n3\t250\t4\n", [0, 2e-9], [2, 1], "not stated"),
        (
            "Zeit;x\ntime_ms;current_a;voltage_mv\n0,5;0,5;4000\n1;0,25;4000\n",
            [0, 5e-4],
            [2, 1],
            "not stated",
        ),
        ("#time (s),current (A),voltage (V)\n0,0.5,4\n5e-07,0.25,4\n", [0, 5e-7], [2, 1], "Joule"),
        (
            "Timestamp[ms],BusV[V],ShuntV[mV],LoadV[V],Current[mA]\n7,9,1,4,500\n8,9,1,4,250\n",
            [0, 1e-3],
            [2, 1],
            "not stated",
        ),
        (
            "timestamp_us,bus_voltage_V,current_mA,power_mW,pin\n7,4,500,2000,x\n8,4,250,1000,\n",
            [0, 1e-6],
            [2, 1],
            "not stated",
        ),
        ('"Time (s)","Power (µW)"\r\n"0","2e6"\r\n\r\n"1","1e6"\r\n', [0, 1], [2, 1], "not stated"),
        ("\ufefftime_s,power_w\n0,2\n1,1", [0, 1], [2, 1], "not stated"),
    ],
    ids=[
        "s,W",
        "semicolon",
        "tab",
        "decimal comma",
        "Joulescope",
        "INA219",
        "INA226",
        "quotes",
        "BOM",
    ],
)
def test_tables_are_read_by_names_and_units(tmp_path, text, time_s, power_w, meter):
    plain = read_trace(write(tmp_path, text))
    packed = read_trace(write(tmp_path, gzip.compress(text.encode()), "x.bin"))
    for trace in (plain, packed):
        np.testing.assert_allclose(trace.time_s - trace.time_s[0], time_s, rtol=1e-9)
        np.testing.assert_allclose(trace.power_w, power_w)
        assert trace.meter.name.startswith(meter)
        assert not set(trace.flags) - {"implausible_time"}


def test_a_current_alone_needs_the_supply_voltage(tmp_path):
    path = write(tmp_path, PPK2)
    with pytest.raises(EdgeError, match=r"no voltage \(the Power Profiler Kit logs none\); give"):
        read_trace(path)
    trace = read_trace(path, voltage_v=3.0)
    np.testing.assert_allclose(trace.power_w, [0.15, 0.1800015])
    assert trace.meter.name == "Nordic Power Profiler Kit II"
    with pytest.raises(EdgeError, match="supply voltage above 0"):
        read_trace(path, voltage_v=-3.0)
    with pytest.raises(EdgeError, match="leave the supply voltage out"):
        read_trace(write(tmp_path, GOOD), voltage_v=3.0)
    with pytest.raises(EdgeError, match="leave the supply voltage out"):
        read_trace(inference_run(tmp_path / "run"), voltage_v=3.0)


@pytest.mark.parametrize(("unit", "per_second"), [("s", 1), ("ms", 10**3), ("us", 10**6)])
@pytest.mark.parametrize("start_s", [0, 1756255148])
def test_the_unit_of_monsoon_stamps_is_told_by_their_values(tmp_path, unit, per_second, start_s):
    stamps = (start_s + np.arange(50) * 200e-6) * per_second
    text = HEADER + "".join(f"{stamp!r},100.0,4.0,\n" for stamp in stamps.tolist())
    trace = read_trace(write(tmp_path, text))
    np.testing.assert_allclose(np.diff(trace.time_s), 200e-6, atol=5e-7)
    assert trace.epoch_us == pytest.approx(start_s * 10**6, abs=1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found nothing"),
        ("a,b\n1,2\n", "expected a power trace: a CSV with named columns.*found 'a,b'"),
        ("1756255148138148,100.0,4.0\n", "expected a power trace.*found '1756"),
        ("time,power\n1,2\n", "found 'time,power'"),
        ("time_s,start_us\n1,2\n", "expected a time and a power"),
        (HEADER, "holds no row of data"),
        (
            GOOD + "1756255148138550,nan,4.1,\n" + GOOD[len(HEADER) :],
            "line 4 is cut off or no number",
        ),
        (GOOD + "rubbish,1,2,\n1756255148138550,1,2,\n", "line 4 is cut off or no number"),
        (GOOD + "1,2,3,4,5,6\n1756255148138550,1,2,\n", "line 4 is .*: 6 cells, 4 in the header"),
        (GOOD + "\n\n1756255148138550;1;2\n1756255148138550,1,2,\n", "line 6 is cut off or no row"),
        (b"\x89PNG\x00\xff\xfe\n\x00\x00", "found no text"),
        (GOOD.encode() + b"\xff\xfe\xfa,1,2,\n,,,\n", "line 4 is cut off or no number"),
        (HEADER + "0,100.0,4.0,\n10,100.0,4.0,\n", "is no 5000 Hz in s, ms, us or ns"),
        (GOOD + "1756255146000000,100.0,4.0,\n", r"back by 2.14 s at line 4: two recordings"),
        (HEADER + "1756255148138148,100.0,4.0,\n", "two samples"),
        ("time_s;power_w\n1;1.234,5\n2;1.234,5\n", "line 2 is cut off or no number"),
        ("time_s,power_w\n0,5,1,5\n1,0,2,5\n", "line 2 is .*: 4 cells, 2 in the header"),
        ("time_s,power_w\n1e300,1\n2e300,1\n", "is no time in the unit it has"),
        ("Timestamp,Value\n0,1\n1,1\n", "an Otii export does not say what Value is"),
        (gzip.compress(GOOD.encode() * 20)[:-20], "cannot be read .*copy it again"),
    ],
)
def test_broken_traces_are_named(tmp_path, text, message):
    with pytest.raises(EdgeError, match=message) as error:
        read_trace(write(tmp_path, text))
    assert str(error.value).startswith(str(tmp_path / "x.csv"))
    assert len(str(error.value).splitlines()) == 1


def test_what_is_no_file_is_named(tmp_path):
    with pytest.raises(EdgeError, match="does not exist"):
        read_marks(tmp_path / "none.csv")
    with pytest.raises(EdgeError, match="does not exist"):
        read_trace(tmp_path / "none.csv")
    with pytest.raises(EdgeError, match=r"has no trace: expected trace1-energy\.bin"):
        read_trace(tmp_path)


@pytest.mark.parametrize(
    "tail", ["17562551481385", "1756255148138550,20", "1756255148138550,nan,4.1,\n", "\0\0\0\0\n\n"]
)
def test_a_torn_last_line_is_left_out_and_flagged(tmp_path, tail):
    trace = read_trace(write(tmp_path, GOOD + tail))
    assert trace.time_s.size == 2
    assert trace.flags == ("torn_last_line",)


def test_small_steps_back_and_negative_currents_pass_with_a_flag(tmp_path):
    text = GOOD + "1756255148138148,-100.0,4.0,\n1756255148138749,200.0,4.0,\n"
    assert read_trace(write(tmp_path, text)).flags == ("backward_stamps", "negative_power")


def test_blocks_join_without_a_seam(tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    stamps = 1756255148138148 + np.cumsum(rng.integers(0, 400, 5000))
    values = rng.normal(100, 5, (2, 5000))
    rows = [f"{s},{a!r},{v!r},\n" for s, a, v in zip(stamps, *values.tolist(), strict=True)]
    path = write(tmp_path, HEADER + "".join(rows))
    monkeypatch.setattr(tables, "BLOCK_BYTES", 1000)
    for file in (path, write(tmp_path, gzip.compress(path.read_bytes()), "x.gz")):
        trace = read_trace(file)
        np.testing.assert_array_equal(np.rint(trace.time_s * 1e6), stamps - stamps[0])
        np.testing.assert_allclose(trace.power_w, values[0] * values[1] / 1000, rtol=1e-12)
    rows[3000] = "1756255149,1,\n"
    with pytest.raises(EdgeError, match="line 3002 is cut off"):
        read_trace(write(tmp_path, HEADER + "".join(rows)))
    rows[3000] = f"{stamps[2999] - 2_000_000},1,1,\n"
    with pytest.raises(EdgeError, match="line 3002: two recordings"):
        read_trace(write(tmp_path, HEADER + "".join(rows)))
    with pytest.raises(EdgeError, match="longer than any"):
        read_trace(write(tmp_path, GOOD + "1" * 5000))


def test_files_without_end_are_refused_before_they_fill_the_memory(tmp_path, monkeypatch):
    huge = tmp_path / "huge.csv"
    with huge.open("wb") as stream:
        stream.truncate(40 * 2**30)
    for read in (read_trace, read_marks):
        with pytest.raises(EdgeError, match="larger than 4 GiB, the most"):
            read(huge)
    monkeypatch.setattr(tables, "MOST_BYTES", 10**6)
    bomb = gzip.compress((HEADER + "1756255148138148,1.0,4.0,\n" * 10**5).encode())
    assert len(bomb) < 10**5
    with pytest.raises(EdgeError, match="larger than 4 GiB, the most"):
        read_trace(write(tmp_path, bomb))


# --- instruments --------------------------------------------------------------------------


def test_stated_limits_become_standard_uncertainties(tmp_path):
    assert meter_spec("monsoon_hvpm").gain_u == pytest.approx(0.01 / 3**0.5)
    assert meter_spec("ina219").gain_u == pytest.approx((2 * 0.005**2 + 0.01**2) ** 0.5 / 3**0.5)
    assert meter_spec("rapl").gain_u is None
    trace = read_trace(write(tmp_path, GOOD), meter="ina226")
    assert trace.meter == meter_spec("ina226")
    with pytest.raises(EdgeError, match=r"no instrument is called 'x'; known: battery, ina219"):
        read_trace(write(tmp_path, GOOD), meter="x")


# --- marks --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "start", "end"),
    [
        ("us", "1756255148955224", "1756255148958654"),
        ("ns", "1756255148955224000", "1756255148958654000"),
        ("ms", "1756255148955.224", "1756255148958.654"),
        ("s", "1756255148.955224", "1756255148.958654"),
    ],
)
def test_marks_in_every_unit(tmp_path, unit, start, end):
    text = f"name,start_{unit},end_{unit},count\nx,{start},{end},7\n"
    for content in (text, text.replace(",", ";"), gzip.compress(text.encode())):
        marks = read_marks(write(tmp_path, content))
        first_us = marks.epoch_us - 1756255148955224 + marks.start_s[0] * 1e6
        assert first_us == pytest.approx(0, abs=0.5)
        assert marks.end_s[0] - marks.start_s[0] == pytest.approx(3430e-6, abs=5e-7)
        assert (marks.inferences, marks.name) == (7, ("x",))


def test_rows_named_sync_are_pulses(tmp_path):
    rows = "sync,1,2,0\nwork,5,7,3\nSync ,8,9,\n".replace(",\n", ",0\n")
    marks = read_marks(write(tmp_path, "name,start_s,end_s,count\n" + rows))
    assert (marks.name, marks.inferences) == (("work",), 3)
    assert (marks.sync_s + marks.epoch_us / 1e6).tolist() == [[1, 2], [8, 9]]


def test_trace_and_marks_are_related_to_the_microsecond(tmp_path):
    trace = read_trace(write(tmp_path, GOOD))
    path = write(tmp_path, "start_ns,end_us\n1756255148138151500,1756255148138161\n", "marks.csv")
    local = read_marks(path).on(trace, offset_s=0.5)
    assert local.start_s[0] == pytest.approx(0.5 + 3.5e-6, abs=1e-12)
    assert local.end_s[0] == pytest.approx(0.5 + 13e-6, abs=1e-12)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time_s,power_w\n1,1\n", "expected a marks file: columns start and end.*found 'time_s,"),
        ("start_us\n1\n", "end_s, end_ms, end_us or end_ns, found none among: start_us"),
        ("start_us,start_s,end_s\n1,1,2\n", "found start_us and start_s"),
        ("start_s,end_s\n2,1\n", "do not end after their start"),
        ("start_s,end_s,count\n1,2,0\n", "count must be 1 or more"),
        ("start_s,end_s,count\n1,2,1.5\n", "whole numbers"),
        ("start_s,end_s\n1,2\n3,\n", "last line is cut off"),
        ("start_s,end_s\n1,x\n3,4\n", "line 2 is cut off"),
        ('name,start_s,end_s\n"a, b",1,2\n"a, b",x,3\nc,4,5\n', "line 3 is cut off"),
        ("start_s,end_s\n", "holds no row of data"),
        ("name,start_s,end_s\nsync,1,2\n", "0 inferences: the file holds sync pulses only"),
    ],
)
def test_broken_marks_are_named(tmp_path, text, message):
    with pytest.raises(EdgeError, match=message):
        read_marks(write(tmp_path, text))


# --- MLPerf -------------------------------------------------------------------------------

TINY_UJ = np.random.default_rng(0).uniform(1, 2, 400).astype("<f4")
TINY_EDGES = [(50, 150), (200, 260)]
TINY_REPORT = "".join(
    f"1.0 ulp-ml:   Energy       : {TINY_UJ[a:b].astype(float).sum():.6f} uJ\n"
    f"1.0 ulp-ml:   # Inferences :      {b - a}\n"
    for a, b in TINY_EDGES
)


def tiny_run(folder):
    """Write a run whose stamps lie up to 0.4 ms beside the samples that they mean."""
    stamps = [0.004, 0.0504, 0.1497, 0.2, 0.2601]
    raw = b"\xf1" + np.float32(1000).tobytes() + TINY_UJ.tobytes()
    write(folder, raw, "trace1-energy.bin")
    write(folder, json.dumps(stamps), "trace1-timestamps.json")
    write(folder, TINY_REPORT, "results.txt")
    return folder


def trials_run(folder):
    """Write the same windows as two trials of v1.3."""
    trials = [
        {
            "infer": {"iterations": b - a},
            "power": {
                "samples": (TINY_UJ[:b].astype(float) * 1e-6).tolist(),
                "timestamps": [["00", 3], ["01", a], ["02", b]],
            },
        }
        for a, b in TINY_EDGES
    ]
    write(folder, json.dumps(trials), "results.json")
    write(folder, TINY_REPORT.replace("Energy  ", "Total Energy"), "results.txt")
    return folder


def inference_run(folder, *, detail="result_query_count", summary=""):
    """Write 30 s at 2 W with 10 s at 5 W inside, the first and last of them stamped on an edge."""
    spl = [
        f"Time,03-05-2021 23:59:{s:02d}.500,Watts,{5.0 if 10 <= s <= 20 else 2.0:.6f},Volts,230.0"
        for s in range(30)
    ]
    write(folder, "\n".join(spl) + "\n", "spl.txt")
    window = {"power_begin": "03-05-2021 23:59:10.500", "power_end": "03-05-2021 23:59:20.500"}
    entries = window | ({detail: 50 if detail == "result_query_count" else 5.0} if detail else {})
    lines = [f":::MLLOG {json.dumps({'key': k, 'value': v})}\n" for k, v in entries.items()]
    write(folder, "".join(lines), "mlperf_log_detail.txt")
    write(folder, summary, "mlperf_log_summary.txt")
    return folder


def pack(folder):
    for path in list(folder.iterdir()):
        write(folder, gzip.compress(path.read_bytes()), f"{path.name}.gz")
        path.unlink()
    return folder


@pytest.mark.parametrize("change", [lambda f: f, pack, lambda f: f / "trace1-energy.bin"])
def test_tiny_windows_give_the_official_energy(tmp_path, change):
    trace = read_trace(change(tiny_run(tmp_path)))
    marks = trace.marks
    assert (trace.boundary, trace.flags, marks.same_clock) == ("board_supply", (), True)
    assert marks.count.tolist() == [100, 60]
    truth_j = [TINY_UJ[a:b].astype(float).sum() * 1e-6 for a, b in TINY_EDGES]
    np.testing.assert_allclose(marks.official_j, truth_j, rtol=1e-8)
    np.testing.assert_allclose(window_energy(trace, marks)["energy_j"], truth_j, rtol=1e-12)


@pytest.mark.parametrize("change", [lambda f: f, pack, lambda f: f / "results.json"])
def test_trials_are_put_end_to_end(tmp_path, change):
    trace = read_trace(change(trials_run(tmp_path)))
    assert trace.time_s.size == 150 + 260
    assert trace.flags == ("trials_joined",)
    truth_j = [TINY_UJ[a:b].astype(float).sum() * 1e-6 for a, b in TINY_EDGES]
    np.testing.assert_allclose(window_energy(trace, trace.marks)["energy_j"], truth_j, rtol=1e-12)
    np.testing.assert_allclose(trace.marks.official_j, truth_j, rtol=1e-8)


def test_trials_tell_their_inferences_without_a_report(tmp_path):
    (trials_run(tmp_path) / "results.txt").unlink()
    marks = read_trace(tmp_path).marks
    assert (marks.count.tolist(), marks.official_j) == ([100, 60], None)


@pytest.mark.parametrize("change", [lambda f: f, pack, lambda f: f / "spl.txt"])
def test_inference_window_has_the_mean_of_the_samples_stamped_in_it(tmp_path, change):
    trace = read_trace(change(inference_run(tmp_path)))
    marks = trace.marks
    assert (trace.boundary, trace.flags, marks.inferences) == ("wall", (), 50)
    assert trace.epoch_us == pd.Timestamp("2021-03-05 23:59:00.5").value // 1000
    assert (marks.start_s.tolist(), marks.end_s.tolist()) == ([10.0], [20.0])
    assert marks.official_j.tolist() == [50.0]
    np.testing.assert_allclose(window_energy(trace, marks)["energy_j"], [50.0])


@pytest.mark.parametrize(
    ("detail", "summary"),
    [
        ("result_qps_with_loadgen_overhead", ""),
        (None, "Mean latency (ns)               : 200000000\n"),
    ],
)
def test_inferences_are_counted_from_the_rate_where_the_log_gives_no_count(
    tmp_path, detail, summary
):
    trace = read_trace(inference_run(tmp_path, detail=detail, summary=summary))
    assert (trace.marks.inferences, trace.flags) == (50, ("count_from_rate",))


@pytest.mark.parametrize(
    ("run", "remove"),
    [(tiny_run, "trace1-timestamps.json"), (inference_run, "mlperf_log_detail.txt")],
)
def test_a_log_without_its_windows_is_a_trace_without_marks(tmp_path, run, remove):
    (run(tmp_path) / remove).unlink()
    trace = read_trace(tmp_path)
    assert (trace.marks, trace.flags) == (None, ())


@pytest.mark.parametrize(
    ("run", "name", "change", "message"),
    [
        (tiny_run, "trace1-energy.bin", lambda b: b[:-2], "expected the byte F1"),
        (tiny_run, "trace1-energy.bin", lambda b: b"\xf1", "expected the byte F1"),
        (tiny_run, "trace1-energy.bin", lambda b: b[:405], "leaves the trace: it is cut off"),
        (
            tiny_run,
            "trace1-energy.bin",
            lambda b: b[:9] + b"\xff" * 4 + b[13:],
            "expected the byte F1",
        ),
        (tiny_run, "trace1-timestamps.json", lambda b: b"[0, 1, 2, 3]", "a different number"),
        (
            tiny_run,
            "trace1-timestamps.json",
            lambda b: b"[0, NaN, 2]",
            "different numbers of windows",
        ),
        (tiny_run, "trace1-timestamps.json", lambda b: b"[0, NaN, 2, 3, 4]", "leaves the trace"),
        (tiny_run, "results.txt", lambda b: b"", "numbers of windows, 0 and 2"),
        (
            tiny_run,
            "results.txt",
            lambda b: b.replace(b"Energy", b"energy", 1),
            "numbers of windows",
        ),
        (trials_run, "results.json", lambda b: b[:200], r"expected power\.samples"),
        (trials_run, "results.json", lambda b: b"[" * 10**5, r"expected power\.samples"),
        (trials_run, "results.json", lambda b: b"[]", r"expected power\.samples"),
        (
            trials_run,
            "results.json",
            lambda b: b.replace(b"150]", b"1e99]"),
            "leaves the trace",
        ),
        (inference_run, "spl.txt", lambda b: b.replace(b"Watts", b""), "expected lines that begin"),
        (inference_run, "spl.txt", lambda b: b.replace(b"Watts,", b"", 1), "line 1 is .*: 5 cells"),
        (inference_run, "spl.txt", lambda b: b[:60], "no sample lies between"),
        (
            inference_run,
            "spl.txt",
            lambda b: b.replace(b"03-05", b"13-05", 2),
            "found '13-05-2021 23",
        ),
        (inference_run, "mlperf_log_detail.txt", lambda b: b"x", "expected times .* found ''"),
        (
            inference_run,
            "mlperf_log_detail.txt",
            lambda b: b.replace(b" 23:", b" 22:"),
            "no sample",
        ),
        (
            inference_run,
            "mlperf_log_detail.txt",
            lambda b: b.replace(b"query", b""),
            "number of inf",
        ),
    ],
)
def test_broken_runs_are_named(tmp_path, run, name, change, message):
    path = run(tmp_path) / name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(EdgeError, match=re.escape(str(tmp_path)) + ".*" + message):
        read_trace(tmp_path)


def test_a_torn_power_log_is_flagged(tmp_path):
    path = inference_run(tmp_path) / "spl.txt"
    path.write_bytes(path.read_bytes()[:-40])
    trace = read_trace(tmp_path)
    assert (trace.time_s.size, trace.flags) == (29, ("torn_last_line",))


# --- anything at all ----------------------------------------------------------------------


def mutants(rng, content, number):
    """Truncations, flipped bytes, spliced garbage, doubled and swapped parts."""
    for kind in itertools.islice(itertools.cycle(range(5)), number):
        raw = bytearray(content)
        at, to = sorted(rng.integers(0, len(raw), 2))
        if kind == 0:
            del raw[at:]
        elif kind == 1:
            for spot in rng.integers(0, len(raw), rng.integers(1, 20)):
                raw[spot] ^= 1 << rng.integers(0, 8)
        elif kind == 2:
            raw[at:to] = rng.bytes(rng.integers(0, 200))
        elif kind == 3:
            raw[at:at] = raw[at:to]
        else:
            digits = [i for i, c in enumerate(raw) if chr(c) in "0123456789.,;eE+-\n"] or [0]
            for spot in rng.choice(digits, 5):
                raw[spot] = int(rng.choice(list(b"0987.,;eE+-\n\0_xinfa")))
        yield bytes(raw)


FORMATS = {
    "x.csv": lambda f: write(f, GOOD * 3, "x.csv"),
    "ppk2.csv": lambda f: write(f, PPK2 + "0.02,1,0\n" * 50, "ppk2.csv"),
    "x.csv.gz": lambda f: write(f, gzip.compress(GOOD.encode()), "x.csv.gz"),
    "trace1-energy.bin": tiny_run,
    "trace1-timestamps.json": tiny_run,
    "results.txt": tiny_run,
    "results.json": trials_run,
    "spl.txt": inference_run,
    "mlperf_log_detail.txt": inference_run,
    "marks.csv": lambda f: write(f, "name,start_us,end_us,count\n" + "x,5,6,1\n" * 30, "marks.csv"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", FORMATS)
def test_of_mutated_files_only_edge_errors_come(tmp_path, name):
    rng = np.random.default_rng(list(name.encode()))
    where = FORMATS[name](tmp_path)
    path, seen = tmp_path / name, 0
    for content in mutants(rng, path.read_bytes(), 60):
        path.write_bytes(content)
        try:
            if name == "marks.csv":
                read_marks(where)
            else:
                read_trace(where, voltage_v=3.0 if "ppk2" in name else None)
        except EdgeError as error:
            seen += 1
            assert len(str(error).splitlines()) == 1  # noqa: PT017
    assert seen > 10


# --- the real sets ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("round_", "log", "windows", "most"),
    [
        ("mlperf-tiny-v0.7", "trace1-energy.bin", 100, 2e-4),
        ("mlperf-tiny-v1.2", "trace1-energy.bin", 90, 2e-4),
        ("mlperf-tiny-v1.3", "results.json", 30, 1e-12),
    ],
)
def test_every_official_window_is_reproduced(mirror, round_, log, windows, most):
    errors = []
    for file in sorted((mirror / round_).rglob(log)):
        trace = read_trace(file.parent)
        energy_j = window_energy(trace, trace.marks)["energy_j"]
        errors += (energy_j / trace.marks.official_j - 1).tolist()
    assert len(errors) == windows
    assert np.abs(errors).max() < most


def test_mean_power_of_raw_runs_is_the_published_one(mirror):
    table = pd.read_csv(mirror / "derived/mlperf_inference_power.csv", dtype={"round": str})
    rows = table.set_index(["round", "system", "model"])["mean_power_w"]
    files = sorted(
        mirror.glob("mlperf-inference-v*/open/*/results/*/*/*/performance/run_1/spl.txt")
    )
    assert len(files) == 48
    for file in files:
        trace = read_trace(file.parent)
        marks, system, model = trace.marks, file.parents[4].name, file.parents[3].name
        figure_w = rows[file.relative_to(mirror).parts[0][-3:], system, model]
        window_s = marks.end_s - marks.start_s
        assert marks.official_j / window_s == pytest.approx(figure_w, rel=1e-12)
        # The integral over the window itself, its edges within samples, agrees to half a permille.
        energy_j = window_energy(trace, marks)["energy_j"][0]
        assert energy_j / window_s == pytest.approx(figure_w, rel=5e-4)


def test_the_monitor_with_nothing_attached_reads_almost_nothing(mirror):
    trace = read_trace(mirror / "platformx/HV Main Example.csv")
    assert trace.flags == ("negative_power",)
    assert abs(trace.power_w.mean()) < 1e-3
