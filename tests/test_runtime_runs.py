"""Runs are stamped, crashes and hangs end in one sentence, and marks survive the file.

Nothing here touches a real phone: see `stand_in_adb` for what stands in for one.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import stand_in_adb as stand_in
from ai_edge_litert import schema_py_generated as schema
from test_runtimes import fully_connected, packed

from edgeutils import EdgeError
from edgeutils.hardware import android, runtimes
from edgeutils.hardware.clock import SYNC_CHIP_S, SYNC_CHIPS
from edgeutils.hardware.readers import read_marks
from edgeutils.hardware.stamps import monotonic_epoch_us
from edgeutils.hardware.trace import Marks
from edgeutils.networks.graph import single_kernel
from edgeutils.networks.kernels import Kernel

both = pytest.mark.parametrize("child", [True, False], ids=["child", "in process"])
everywhere = pytest.mark.parametrize("runtime", ["litert", "tflite-runtime"])
#: Busy spells of one pulse, in chips: starts and ends of the runs of ones.
SPELLS = np.flatnonzero(np.diff([0, *SYNC_CHIPS, 0])).reshape(-1, 2)


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "tiny model;x.tflite"
    path.write_bytes(fully_connected(np.ones((64, 64), dtype=np.float32)))
    return path


def skip_without(runtime):
    if runtime == "tflite-runtime" and (sys.version_info >= (3, 12) or sys.platform != "linux"):
        pytest.skip("tflite-runtime has no wheel beyond Python 3.11 on Linux")


@both
@everywhere
def test_every_inference_is_marked(model, runtime, child):
    skip_without(runtime)
    before_us = time.time_ns() // 1000
    run = runtimes.run(model, runtime=runtime, inferences=20, child=child)
    after_us = time.time_ns() // 1000
    assert run.marks.inferences == run.latency_s.size == 20
    assert run.marks.same_clock
    assert set(run.marks.name) == {model.stem}
    assert (run.latency_s > 0).all()
    # One inference ends before the next starts, and all lie within the call (1 s: NTP may slew).
    assert (run.marks.start_s[1:] >= run.marks.end_s[:-1]).all()
    first_us = run.marks.epoch_us + 1e6 * run.marks.start_s[0]
    assert before_us - 1e6 < first_us < run.marks.epoch_us + 1e6 * run.marks.end_s[-1]
    assert run.marks.epoch_us + 1e6 * run.marks.end_s[-1] < after_us + 1e6
    assert run.delegate == "xnnpack"
    assert len(run.model_sha256) == 64


def test_child_and_parent_share_the_clock(model):
    before_ns = time.monotonic_ns()
    run = runtimes.run(model, inferences=3)
    after_ns = time.monotonic_ns()
    stamps_us = run.marks.epoch_us - monotonic_epoch_us() + 1e6 * run.marks.start_s
    assert before_ns / 1e3 - 1 < stamps_us.min() <= stamps_us.max() < after_ns / 1e3


def test_latency_is_that_of_the_work(tmp_path):
    """A hundred times the work takes far longer: the stamps are about the work."""
    each = []
    for size in (32, 1024):
        path = tmp_path / f"{size}.tflite"
        path.write_bytes(fully_connected(np.ones((size, size), dtype=np.float32)))
        run = runtimes.run(path, inferences=60, block=20, child=False, xnnpack=False)
        each.append(np.median(run.latency_s))
    assert each[1] > 5 * each[0]


def test_latency_is_the_mean_of_a_window():
    marks = Marks(np.array([0.0, 1.0, 2.0]), np.array([0.1, 1.2, 2.6]), np.array([1, 1, 2]))
    run = runtimes.Run(marks, "litert", None, "m", "0", runtimes.Plan(), "none", {})
    np.testing.assert_allclose(run.latency_s, [0.1, 0.2, 0.3])


def test_blocks_and_seconds(model):
    run = runtimes.run(model, inferences=25, block=10, child=False)
    assert run.marks.count.tolist() == [10, 10, 5]
    run = runtimes.run(model, seconds=0.05, block=7, child=False)
    assert set(run.marks.count) == {7}
    assert run.marks.end_s[-1] == pytest.approx(0.05, abs=0.03)


def test_xnnpack_can_be_switched_off(model):
    run = runtimes.run(model, inferences=3, xnnpack=False, child=False)
    assert (run.delegate, run.flags) == ("none", ())


@everywhere
def test_quantised_models_run(mirror, runtime):
    skip_without(runtime)
    (path,) = mirror.rglob("kws_ref_model.tflite")
    run = runtimes.run(path, runtime=runtime, inferences=5)
    # tflite-runtime 2.14 leaves quantised operators to its own kernels, and one is told.
    told = "xnnpack_not_applied" in run.flags
    assert told == (run.delegate == "none") == (runtime == "tflite-runtime")
    assert "open_batch_as_1" in run.flags


def test_sync_pulses_before_and_after(model):
    run = runtimes.run(model, inferences=5, sync=True)
    spells = run.marks.sync_s
    assert spells.shape == (2 * len(SPELLS), 2)
    for pulse in (spells[: len(SPELLS)], spells[len(SPELLS) :]):
        # Work of others may delay an edge, not the pattern as a whole.
        np.testing.assert_allclose(pulse - pulse[0, 0], SPELLS * SYNC_CHIP_S, atol=0.04)
    assert spells[len(SPELLS) - 1, 1] < run.marks.start_s[0]
    assert run.marks.end_s[-1] < spells[len(SPELLS), 0]


def hangs():
    """A WHILE whose condition hands on a constant: true for ever."""
    made = schema.ModelT()
    made.version, made.subgraphs, made.operatorCodes = 3, [], []
    made.buffers = [schema.BufferT(), schema.BufferT()]
    made.buffers[1].data = np.ones(1, dtype=np.uint8)
    for code in (schema.BuiltinOperator.WHILE, schema.BuiltinOperator.LOGICAL_NOT):
        operator_code = schema.OperatorCodeT()
        operator_code.builtinCode = operator_code.deprecatedBuiltinCode = code
        operator_code.version = 1
        made.operatorCodes.append(operator_code)
    for kind in ("main", "condition", "body"):
        graph = schema.SubGraphT()
        graph.tensors, graph.operators = [], []
        for buffer in (0, 0):
            tensor = schema.TensorT()
            tensor.name, tensor.shape, tensor.buffer = b"t", [1], buffer
            tensor.type = schema.TensorType.BOOL
            graph.tensors.append(tensor)
        operator = schema.OperatorT()
        operator.inputs, operator.outputs = [0], [1]
        if kind == "main":
            operator.opcodeIndex = 0
            operator.builtinOptionsType = schema.BuiltinOptions.WhileOptions
            operator.builtinOptions = schema.WhileOptionsT()
            operator.builtinOptions.condSubgraphIndex = 1
            operator.builtinOptions.bodySubgraphIndex = 2
            graph.operators = [operator]
        elif kind == "body":
            operator.opcodeIndex = 1
            graph.operators = [operator]
        else:
            graph.tensors[1].buffer = 1
        graph.inputs, graph.outputs = [0], [1]
        made.subgraphs.append(graph)
    return packed(made)


def test_a_model_that_hangs_is_stopped(tmp_path):
    path = tmp_path / "hangs.tflite"
    path.write_bytes(hangs())
    began = time.monotonic()
    with pytest.raises(EdgeError, match=r"hangs.tflite: litert was stopped after 1 s; ask for"):
        runtimes.run(path, warmup=0, inferences=1, timeout_s=1)
    assert time.monotonic() - began < 10


def crashes():
    """A concatenation without its options: LiteRT 2.3 follows a null pointer."""
    made = schema.ModelT.InitFromObj(
        schema.Model.GetRootAs(fully_connected(np.ones((8, 8), dtype=np.float32)), 0)
    )
    code = schema.BuiltinOperator.CONCATENATION
    made.operatorCodes[0].builtinCode = made.operatorCodes[0].deprecatedBuiltinCode = code
    made.subgraphs[0].operators[0].builtinOptions = None
    made.subgraphs[0].operators[0].builtinOptionsType = schema.BuiltinOptions.NONE
    return packed(made)


def test_a_model_that_crashes_does_not_take_us_along(tmp_path):
    path = tmp_path / "crashes.tflite"
    path.write_bytes(crashes())
    with pytest.raises(
        EdgeError, match=r"crashes.tflite: litert crashed \(SIGSEGV\) and said last"
    ):
        runtimes.run(path)


def test_the_users_folder_is_not_searched_for_modules(model, tmp_path, monkeypatch):
    (tmp_path / "numpy.py").write_text("raise SystemExit('mine')")
    monkeypatch.chdir(tmp_path)
    assert runtimes.run(model, inferences=1).marks.inferences == 1


@both
def test_custom_operators_are_named(mirror, child):
    (path,) = mirror.rglob("model_invoking_error.tflite")
    with pytest.raises(EdgeError, match=r"litert cannot run it: .*unresolved custom op: fake-op"):
        runtimes.run(path, child=child)


def reshaped(signature):
    made = schema.ModelT.InitFromObj(
        schema.Model.GetRootAs(fully_connected(np.ones((8, 8), dtype=np.float32)), 0)
    )
    made.subgraphs[0].tensors[0].shapeSignature = signature
    return packed(made)


def test_open_shapes(tmp_path):
    path = tmp_path / "open.tflite"
    path.write_bytes(reshaped([-1, 8]))
    assert runtimes.run(path, inferences=1, child=False).flags == ("open_batch_as_1",)
    path.write_bytes(reshaped([1, -1]))
    with pytest.raises(EdgeError, match=r"input x has the open shape \[1, -1\]; fix it"):
        runtimes.run(path, inferences=1)


def test_a_runtime_that_does_not_import(model, monkeypatch):
    monkeypatch.setitem(runtimes.RUNTIMES, "litert", ("no_such_runtime", "ai-edge-litert"))
    with pytest.raises(EdgeError, match=r"does not import \(No module named 'no_such_runtime'\)"):
        runtimes.run(model)
    (found,) = (entry for entry in runtimes.available() if entry["name"] == "litert")
    assert found["available"] is False
    assert found["cure"] == "pip install ai-edge-litert"
    assert "no_such_runtime" in found["reason"]


def test_pytorch_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in ("edgeutils.hardware.torch_child", "edgeutils.networks.torch_network"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    graph = single_kernel(Kernel("relu", hw=4, cin=8))
    with pytest.raises(EdgeError, match=r"relu: torch does not import .*; pip install torch, or"):
        runtimes.run(graph, runtime="torch", child=False)
    code = "import edgeutils.cli, edgeutils.hardware.campaign, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_what_is_available():
    found = {entry["name"]: entry for entry in runtimes.available("no-such-adb")}
    assert set(found) == {"litert", "tflite-runtime", "torch", "android"}
    assert found["litert"]["available"] is True
    assert found["litert"]["reason"].startswith("version ")
    assert found["android"]["reason"] == "no-such-adb cannot be started"
    assert "platform-tools" in found["android"]["cure"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inferences": 0}, "inferences is 0, expected 1 or more"),
        ({"seconds": 0}, "seconds is 0, expected a time above 0"),
        ({"seconds": float("nan")}, "seconds is nan"),
        ({"inferences": 3, "seconds": 3}, "give one of the two"),
        ({"threads": 0}, "threads is 0, expected 1"),
        ({"warmup": -1}, "warmup is -1, expected 0"),
        ({"block": 0}, "block is 0, expected 1"),
        ({"runtime": "onnx"}, "runtime is 'onnx', expected one of litert, tflite-runtime"),
    ],
)
def test_options_out_of_range(model, options, message):
    with pytest.raises(EdgeError, match=message):
        runtimes.run(model, **options)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist or is no file; give the path of a .tflite"),
        (b"", r"no .tflite model: bytes 4 to 7 should be b'TFL3', but are b''"),
        (b"\x08\x00\x00\x00ONNX and so on", r"but are b'ONNX'; convert the model"),
        (b"\x1c\x00\x00\x00TFL3" + b"\xff" * 64, "garbage.tflite: litert"),
        ("cut", "garbage.tflite: litert"),
    ],
)
def test_no_model(tmp_path, content, message):
    path = tmp_path / "garbage.tflite"
    if content is not None:
        whole = fully_connected(np.ones((64, 64), dtype=np.float32))
        path.write_bytes(whole[: len(whole) // 3] if content == "cut" else content)
    with pytest.raises(EdgeError, match=message) as caught:
        runtimes.run(path)
    assert "\n" not in str(caught.value)


def test_marks_survive_the_file_to_the_microsecond(tmp_path):
    rng = np.random.default_rng(7)
    edges_us = np.cumsum(rng.integers(1, 5000, size=2000)).astype(np.int64)
    start_s, end_s = (edges_us.reshape(-1, 2) / 1e6).T
    epoch_us = 1_735_689_600_123_457
    names = tuple(f'a "quoted", name {i}' for i in range(1000))
    sync_s = np.array([[-2.0, -1.5], [-1.25, -1.0]])
    marks = Marks(start_s, end_s, rng.integers(1, 9, 1000), epoch_us, names, sync_s=sync_s)
    path = runtimes.write_marks(tmp_path / "marks.csv", marks)
    assert path.read_text().startswith("start_us,end_us,count,name\n")
    back = read_marks(path)

    def stamps_us(marks, span_s):
        return marks.epoch_us + np.round(span_s * 1e6).astype(np.int64)

    for name in ("start_s", "end_s", "sync_s"):
        written, read = getattr(marks, name), getattr(back, name)
        np.testing.assert_array_equal(stamps_us(marks, written), stamps_us(back, read))
    np.testing.assert_array_equal(back.count, marks.count)
    assert back.name == marks.name


def test_marks_are_written_whole_or_not_at_all(tmp_path, model):
    marks = Marks(np.array([0.0]), np.array([1e-7]), np.array([1]), 10**15)
    with pytest.raises(EdgeError, match=r"1 window\(s\) are shorter than 1 us; mark blocks"):
        runtimes.write_marks(tmp_path / "marks.csv", marks)
    marks = Marks(np.array([0.0]), np.array([1.0]), np.array([1]), 10**15, ("sync",))
    with pytest.raises(EdgeError, match="named 'sync'"):
        runtimes.write_marks(tmp_path / "marks.csv", marks)
    marks = Marks(np.array([0.0]), np.array([1.0]), np.array([1]), 10**15)
    with pytest.raises(EdgeError, match="cannot be written"):
        runtimes.write_marks(tmp_path / "nowhere" / "marks.csv", marks)
    assert sorted(tmp_path.iterdir()) == [model]


# ---- a phone over adb -------------------------------------------------------------------------

SHELLS = [found for name in ("mksh", "bash", "dash") if (found := shutil.which(name))]


@pytest.fixture
def phone(tmp_path, monkeypatch):
    """Return a function that makes the phone and runs the model on it."""
    folder, binary = tmp_path / "phone", tmp_path / "benchmark model;x"
    binary.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00\xb7\x00")
    monkeypatch.setenv("STAND_IN_PHONE", str(folder))

    def start(model, *, shell=SHELLS[0], plan=(), **options):
        adb = stand_in.make_phone(folder, shell, **dict(plan))
        return android.run(model, adb=adb, **({"binary": binary, "inferences": 50} | options))

    start.tmp = folder / stand_in.PHONE_TMP[1:]
    start.argv = folder / "argv"
    return start


@pytest.mark.parametrize("shell", SHELLS, ids=lambda path: Path(path).name)
def test_the_loop_alone_is_marked_between_two_pulses(phone, model, shell):
    before_us = time.time_ns() // 1000
    plan = {"steps": stand_in.CPU}
    run = phone(model, shell=shell, plan=plan, delegate="none", threads=4, sync=True)
    marks = run.marks
    assert (marks.inferences, marks.start_s.size, marks.same_clock) == (50, 1, False)
    # The stand-in's loop lasts 0.3 s; warm-up and loading are outside.
    assert marks.end_s[0] - marks.start_s[0] == pytest.approx(0.3, abs=0.1)
    assert before_us + 50_000 < marks.epoch_us < time.time_ns() // 1000 - 300_000
    assert marks.sync_s.shape == (2 * len(SPELLS), 2)
    first, second = np.split(marks.sync_s, 2)
    for pulse in (first, second):
        np.testing.assert_allclose(pulse - pulse[0, 0], SPELLS * SYNC_CHIP_S, atol=0.04)
    assert first[-1, 1] < marks.start_s[0] < marks.end_s[-1] < second[0, 0]
    assert run.reported_s["min_s"] == pytest.approx(32641e-6)
    assert run.reported_s["init_s"] == pytest.approx(855e-6)
    assert run.device["before"] == {
        "charging": False,
        "battery_percent": 67,
        "battery_c": 33.7,
        "thermal_status": 0,
        "temperature_c": {"TYPE_CPU": 24.0, "TYPE_SKIN": 25.3},
        "governor": run.device["before"]["governor"],
    }
    assert run.device["ro.product.model"] == "Pixel 7"
    assert "clock_stepped" not in run.flags
    assert list(phone.tmp.iterdir()) == []
    words = phone.argv.read_text().split()
    asked = {"--num_threads=4", "--num_runs=50", "--warmup_runs=10", "--use_xnnpack=false"}
    assert asked < set(words)


def test_a_patched_binary_marks_every_inference(phone, model):
    run = phone(model, plan={"steps": [*stand_in.QUICK, stand_in.ROWS]}, delegate="none")
    assert run.marks.count.tolist() == [1] * 10
    np.testing.assert_allclose(run.latency_s, 7e-4, rtol=1e-6)
    np.testing.assert_allclose(np.diff(run.marks.start_s), 1e-3, rtol=1e-6)


def test_a_phone_without_warm_up(phone, model):
    steps = [*stand_in.HEAD, stand_in.BEGIN.format(0), "count=0", *stand_in.TAIL[4:]]
    assert phone(model, plan={"steps": steps}, warmup=0).marks.inferences == 50


def test_stamps_of_another_clock_are_refused(phone, model):
    steps = [*stand_in.QUICK, "0,5000,5700,700", "1,6000,6700,700"]
    with pytest.raises(EdgeError, match="not from the time of the run; patch the binary"):
        phone(model, plan={"steps": steps})
    assert list(phone.tmp.iterdir()) == []


@pytest.mark.parametrize(
    ("steps", "taken", "flag"),
    [
        (stand_in.GPU, "gpu", None),
        (stand_in.GPU_PARTLY, "gpu", "delegate_partial"),
        (stand_in.GPU_NOT, "none", "delegate_not_applied"),
        (stand_in.QUICK, "gpu", "delegate_unconfirmed"),
    ],
)
def test_what_the_delegate_left_to_the_cpu_is_told(phone, model, steps, taken, flag):
    run = phone(model, plan={"steps": steps}, delegate="gpu", charging="flag")
    assert run.delegate == taken
    assert [name for name in run.flags if name.startswith("delegate")] == [flag] * bool(flag)
    assert run.marks.inferences == 50
    assert "--use_gpu=true" in phone.argv.read_text()


def test_a_warm_phone_is_flagged(phone, model):
    hot = stand_in.THERMAL.replace("Status: 0\n", "Status: 2\n", 1)
    run = phone(model, plan={"thermalservice": [stand_in.THERMAL, hot]})
    assert "thermal_throttling" in run.flags
    assert run.device["after"]["thermal_status"] == 2


def test_pauses_in_the_loop_are_flagged(phone, model):
    steps = [
        s.replace("avg=6000.0", "avg=3000.0") if isinstance(s, str) else s for s in stand_in.CPU
    ]
    assert "loop_has_pauses" in phone(model, plan={"steps": steps}).flags


def charging(kind):
    return stand_in.BATTERY.replace(f"{kind} powered: false", f"{kind} powered: true")


def test_a_phone_that_charges_is_refused_or_flagged(phone, model):
    plan = {"battery": [charging("USB")]}
    with pytest.raises(EdgeError, match=r"the phone charges, .* use adb over Wi-Fi"):
        phone(model, plan=plan)
    shutil.rmtree(phone.argv.parent)
    assert "charging" in phone(model, plan=plan, charging="flag").flags
    shutil.rmtree(phone.argv.parent)
    assert "charging_unknown" in phone(model, plan={"battery": ["no battery"]}).flags


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ("", "adb sees no phone; connect one"),
        ("R58N1\tunauthorized\n", "phone R58N1 is unauthorized; unlock it and accept"),
        ("R58N1\toffline\n", "phone R58N1 is offline; reconnect it"),
        (
            "R58N1\tno permissions (user in plugdev group; wrong udev rules?); see [http]\n",
            "phone R58N1 is no permissions; add a udev rule",
        ),
        (
            "R58N1\tdevice\nemulator-5554\tdevice\n",
            r"several phones; choose one by serial=: R58N1 \(device\), emulator-5554",
        ),
    ],
)
def test_phones_that_cannot_be_used(phone, model, listed, message):
    with pytest.raises(EdgeError, match=message):
        phone(model, plan={"devices": listed})
    assert not phone.argv.exists()


def test_one_of_several_phones_is_chosen(phone, model):
    plan = {"devices": "R58N1\toffline\n192.168.1.7:5555\tdevice\n"}
    run = phone(model, plan=plan, serial="192.168.1.7:5555")
    assert run.device["serial"] == "192.168.1.7:5555"
    with pytest.raises(EdgeError, match=r"sees no phone X; it sees: R58N1 \(offline\)"):
        android.run(model, binary=model, serial="X", adb=str(phone.argv.with_name("adb")))
    assert (
        android.availability(str(phone.argv.with_name("adb")))["reason"]
        == "ready: 192.168.1.7:5555"
    )


NO_SPACE = (
    "adb: error: failed to copy '{local}' to '{remote}': remote couldn't create file: "
    "No space left on device"
)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"push": NO_SPACE}, "No space left on device; free space in /data"),
        ({"steps": stand_in.WRONG_ABI, "exit": 126}, "64-bit ELF file; take a binary built for"),
        ({"steps": stand_in.CUSTOM_OP, "exit": 1}, "fake-op-double.; only models of built-in"),
        ({"steps": stand_in.REFUSED, "exit": 1}, "Failed to apply GPU delegate.; the delegate"),
        ({"steps": stand_in.HEAD, "exit": 139}, r"\(SIGSEGV\); try another delegate"),
        ({"steps": stand_in.HEAD, "exit": 137}, r"\(SIGKILL \(often: out of memory\)\)"),
        ({"steps": stand_in.HEAD}, "did not report one loop of warm-up"),
        ({"lost_at": "Running benchmark"}, r"vanished in mid-run; .*edgeutils-\w+ was left on"),
    ],
)
def test_runs_that_fail_leave_nothing_behind(phone, model, plan, message):
    with pytest.raises(EdgeError, match=message) as caught:
        phone(model, plan=plan, delegate="none")
    assert str(caught.value).startswith(f"{model.name}: ")
    assert "\n" not in str(caught.value)
    assert (list(phone.tmp.iterdir()) == []) == ("lost_at" not in plan)


def test_a_run_that_hangs_is_stopped_on_the_phone_too(phone, model):
    steps = [*stand_in.QUICK[:10], stand_in.HANG]
    with pytest.raises(EdgeError, match="the phone did not finish within 2 s; it was stopped"):
        phone(model, plan={"steps": steps}, timeout_s=2)
    assert list(phone.tmp.iterdir()) == []
    # A killed process stays in the list until the system has cleared it away.
    end = time.monotonic() + 5
    while (left := running(phone)) and time.monotonic() < end:
        time.sleep(0.05)
    assert left == []


def running(phone):
    """Processes of the stand-in phone, this one apart."""
    mine = f"STAND_IN_PHONE={phone.argv.parent}".encode()
    names = [name for name in Path("/proc").glob("[0-9]*/environ") if os.access(name, os.R_OK)]
    return [name for name in names if mine in read(name) and int(name.parts[2]) != os.getpid()]


def read(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_a_binary_for_another_phone_is_refused(phone, model, tmp_path):
    other = tmp_path / "x86"
    other.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00\x3e\x00")
    with pytest.raises(EdgeError, match="x86 is built for x86_64, but the phone runs arm64-v8a,"):
        phone(model, binary=other)
    shutil.rmtree(phone.argv.parent)
    with pytest.raises(EdgeError, match="is no program for Android"):
        phone(model, binary=model)
    shutil.rmtree(phone.argv.parent)
    with pytest.raises(EdgeError, match="none does not exist; build or download"):
        phone(model, binary=tmp_path / "none")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delegate": "dsp"}, "delegate is 'dsp', expected one of none, xnnpack, gpu, nnapi"),
        ({"mask": "f0; reboot"}, "mask is 'f0; reboot', expected hexadecimal digits"),
        ({"charging": "yes"}, "charging is 'yes', expected one of refuse, flag"),
        ({"inferences": 0}, "inferences is 0"),
    ],
)
def test_options_for_the_phone_out_of_range(phone, model, options, message):
    with pytest.raises(EdgeError, match=message):
        phone(model, **options)
    assert not phone.argv.exists()


def test_the_mask_is_handed_to_taskset(phone, model):
    if shutil.which("taskset") is None:
        pytest.skip("no taskset on this machine")
    assert phone(model, mask="1").device["mask"] == "1"
