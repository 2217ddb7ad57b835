import numpy as np
import pytest

from edgeutils import EdgeError
from edgeutils.hardware.trace import Marks, PowerTrace, read_marks, read_monsoon

HEADER = "Time(ms),Main(mA),Main Voltage(V),\n"
GOOD = HEADER + "1756255148138148,100.0,4.0,\n1756255148138149,200.0,4.1,\n"


def write(folder, text, name="x.csv"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_monsoon_is_in_si_units_and_keeps_each_microsecond(tmp_path):
    trace = read_monsoon(write(tmp_path, GOOD))
    assert trace.epoch_us == 1756255148138148
    assert trace.time_s.tolist() == [0.0, 1e-6]
    np.testing.assert_allclose(trace.power_w, [0.4, 0.82])
    np.testing.assert_allclose(trace.current_a, [0.1, 0.2])
    assert trace.voltage_v.tolist() == [4.0, 4.1]
    assert "Monsoon" in trace.meter


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "missing: Time"),
        ("a,b\n1,2\n", r"missing: Time\(ms\), Main\(mA\), Main Voltage\(V\); found: a, b"),
        (HEADER, "ends after its header"),
        (GOOD + "1756255148138150,20", "line 4 is cut off"),
        (GOOD + "1756255148138150,nan,4.1,\n", "line 4 is cut off or no number"),
        (GOOD + "rubbish,1,2,\n", "line 4 is cut off or no number"),
        (GOOD + "1,2,3,4,5,6\n", "not a Monsoon CSV"),
        (b"\x89PNG\x00\xff\xfe\n\x00\x00", "missing: Time"),
        (GOOD.encode() + b"\xff\xfe\xfa,1,2,\n", "not a Monsoon CSV|no number"),
        (HEADER + "0,100.0,4.0,\n200,100.0,4.0,\n", "microseconds since 1970"),
        (GOOD + "1756255148138000,100.0,4.0,\n", "backwards at line 4"),
        (HEADER + "1756255148138148,100.0,4.0,\n", "two samples"),
    ],
)
def test_broken_monsoon_files_are_named(tmp_path, text, message):
    with pytest.raises(EdgeError, match=message):
        read_monsoon(write(tmp_path, text))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(EdgeError, match="does not exist"):
        read_marks(tmp_path / "none.csv")


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
    path = write(tmp_path, f"name,start_{unit},end_{unit},count\nx,{start},{end},7\n")
    marks = read_marks(path)
    first_us = marks.epoch_us - 1756255148955224 + marks.start_s[0] * 1e6
    assert first_us == pytest.approx(0, abs=0.5)
    assert marks.end_s[0] - marks.start_s[0] == pytest.approx(3430e-6, abs=5e-7)
    assert marks.inferences == 7


def test_trace_and_marks_are_related_to_the_microsecond(tmp_path):
    trace = read_monsoon(write(tmp_path, GOOD))
    path = write(tmp_path, "start_ns,end_us\n1756255148138151500,1756255148138161\n", "marks.csv")
    local = read_marks(path).on(trace, offset_s=0.5)
    assert local.start_s[0] == pytest.approx(0.5 + 3.5e-6, abs=1e-12)
    assert local.end_s[0] == pytest.approx(0.5 + 13e-6, abs=1e-12)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("start_us\n1\n", "end_s, end_ms, end_us or end_ns, found none among: start_us"),
        ("start_us,start_s,end_s\n1,1,2\n", "found start_us and start_s"),
        ("start_s,end_s\n2,1\n", "do not end after their start"),
        ("start_s,end_s,count\n1,2,0\n", "count must be 1 or more"),
        ("start_s,end_s\n1,\n", "line 2 is cut off"),
        ("start_s,end_s\n", "ends after its header"),
    ],
)
def test_broken_marks_are_named(tmp_path, text, message):
    with pytest.raises(EdgeError, match=message):
        read_marks(write(tmp_path, text))


def test_arrays_that_are_no_trace_are_refused():
    time_s = np.arange(3.0)
    with pytest.raises(EdgeError, match=r"power_w has shape \(2,\), time_s \(3,\)"):
        PowerTrace(time_s, np.ones(2), "m")
    with pytest.raises(EdgeError, match="power_w holds NaN"):
        PowerTrace(time_s, np.array([1, np.nan, 1]), "m")
    with pytest.raises(EdgeError, match="no window"):
        Marks(np.array([]), np.array([]), np.array([], dtype=int))
