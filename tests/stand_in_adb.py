#!/usr/bin/env -S python3 -IS
"""Stand in for adb with a phone behind it: replays what the real programs were seen to print.

A folder (STAND_IN_PHONE) is the phone: its `/data/local/tmp`, its programs, and `plan.json`, which
says how it behaves. `adb shell` joins its arguments and gives them to a real shell, as adb does, so
quoting, pipes, stamps and clean-up are really exercised. `benchmark_model` prints the texts below
at the pace of the plan (a number is a pause in seconds).

Where the texts are from (shortened; the mean is set to what the stand-in's loop really lasts):

- `CPU`: tensorflow/tensorflow issue 42507 (Android, TensorFlow 2.3).
- `GPU`: issue 43541 (Android; whole graph on the GPU), `GPU_PARTLY`: issues 57907 (operators) and
  the log of a build of 2024 with `INFO:` and percentiles (AM62x manual of Texas Instruments).
- `GPU_NOT`: issue 49012 (delegate applied, nothing executed by it).
- `CUSTOM_OP`, `REFUSED`: the messages of the interpreter, with the closing lines of
  `benchmark_tflite_model.cc` and `benchmark_main.cc`.
- `WRONG_ABI`: issue 42956; `No space left on device`, `device offline`, `device unauthorized`,
  `device '...' not found`, `no permissions`: adb's own, as quoted in many bug reports.
- `THERMAL`: the dump in the comments of Skia's machine monitor; `BATTERY`: dumps of several phones
  in public repositories.
- Rows `inference_index,start_us,end_us,duration_us`: the format of the public phone logs.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

BEGIN = (
    "Running benchmark for at least {} iterations and at least 0 seconds but terminate if "
    "exceeding 150 seconds."
)
NOTE = (
    "Note: as the benchmark tool itself affects memory footprint, the following is only "
    "APPROXIMATE to the actual memory footprint of the model at runtime. Take the information at "
    "your discretion."
)
HEAD = [
    "STARTING!",
    "Log parameter values verbosely: [0]",
    "Num threads: [4]",
    "Graph: [/data/local/tmp/espcn_harmonic_2x_slim_w_cl.tflite]",
    "#threads used for CPU inference: [4]",
    "Loaded model /data/local/tmp/espcn_harmonic_2x_slim_w_cl.tflite",
]
CPU = [
    *HEAD,
    "The input model file size (MB): 0.004448",
    "Initialized session in 0.855ms.",
    BEGIN.format(1),
    0.05,
    "count=15 first=49060 curr=33682 min=32825 max=49060 avg=34825.1 std=3930",
    "",
    BEGIN.format(50),
    0.3,
    "count=50 first=32891 curr=33978 min=32641 max=34005 avg=6000.0 std=450",
    "",
    "Inference timings in us: Init: 855, First inference: 49060, Warmup (avg): 34825.1, "
    "Inference (avg): 33209.4",
    NOTE,
    "Peak memory footprint (MB): init=0 overall=12.8672",
]
#: The same at once, for tests of everything but time.
TAIL = [step for step in CPU[len(HEAD) :] if isinstance(step, str)]
QUICK = HEAD + TAIL
GPU = [
    *HEAD,
    "INFO: Initialized TensorFlow Lite runtime.",
    "INFO: Created TensorFlow Lite delegate for GPU.",
    "INFO: Initialized OpenCL-based API.",
    "INFO: Created 1 GPU delegate kernels.",
    "Explicitly applied GPU delegate, and the model graph will be completely executed by the "
    "delegate.",
    *TAIL,
]
GPU_PARTLY = [
    *(f"INFO: {line}" for line in HEAD),
    "INFO: Created TensorFlow Lite delegate for GPU.",
    "ERROR: Following operations are not supported by GPU delegate:",
    "ARG_MAX: Operation is not supported.",
    "97 operations will run on the GPU, and the remaining 200 operations will run on the CPU.",
    "INFO: Explicitly applied GPU delegate, and the model graph will be partially executed by the "
    "delegate w/ 22 delegate kernels.",
    f"INFO: {BEGIN.format(1)}",
    "INFO: count=1 curr=905463 p5=905463 median=905463 p95=905463",
    f"INFO: {BEGIN.format(50)}",
    "INFO: count=50 first=900416 curr=898333 min=898007 max=906121 avg=6000 std=1549 p5=898333 "
    "median=899281 p95=904305",
    "INFO: Inference timings in us: Init: 614333, First inference: 905463, Warmup (avg): 905463, "
    "Inference (avg): 899641",
]
GPU_NOT = [
    *HEAD,
    "INFO: Created TensorFlow Lite delegate for GPU.",
    "ERROR: tensorflow/lite/core/subgraph.cc:1169 node_index >= 0 was not true.",
    "ERROR: Couldn't get node and registration info for op: -1793924896",
    "INFO: Created 0 GPU delegate kernels.",
    "Though GPU delegate is explicitly applied, the model graph will not be executed by the "
    "delegate.",
    *TAIL,
]
CUSTOM_OP = [
    *HEAD,
    "ERROR: Encountered unresolved custom op: fake-op-double.",
    "See instructions: https://www.tensorflow.org/lite/guide/ops_custom ",
    "ERROR: Node number 0 (fake-op-double) failed to prepare.",
    "Failed to allocate tensors!",
    "Benchmarking failed.",
]
REFUSED = [
    *HEAD,
    "INFO: Created TensorFlow Lite delegate for GPU.",
    "ERROR: Failed to apply GPU delegate.",
    "ERROR: Benchmarking failed.",
]
WRONG_ABI = ["/system/bin/sh: ./benchmark_model: not executable: 64-bit ELF file"]
BATTERY = """Current Battery Service state:
  AC powered: false
  USB powered: false
  Wireless powered: false
  Max charging current: 0
  Charge counter: 2483000
  status: 3
  health: 2
  present: true
  level: 67
  scale: 100
  voltage: 3964
  temperature: 337
  technology: Li-poly
"""
THERMAL = """IsStatusOverride: false
Thermal Status: 0
Cached temperatures:
\tTemperature{mValue=99.0, mType=3, mName=TYPE_SKIN, mStatus=0}
HAL Ready: true
Current temperatures from HAL:
\tTemperature{mValue=24.0, mType=1, mName=TYPE_CPU, mStatus=0}
\tTemperature{mValue=25.3, mType=4, mName=TYPE_SKIN, mStatus=0}
\tTemperature{mValue=-99.9, mType=6, mName=TYPE_POWER_AMPLIFIER, mStatus=0}
Current cooling devices from HAL:
\tCoolingDevice{mValue=0, mType=2, mName=TYPE_CPU}
"""
PROPERTIES = """[ro.build.version.release]: [14]
[ro.product.cpu.abi]: [arm64-v8a]
[ro.product.cpu.abilist]: [arm64-v8a,armeabi-v7a,armeabi]
[ro.product.model]: [Pixel 7]
"""
#: Rows of a patched binary: a thousand inferences a second, each of 700 us, printed at the end.
ROWS = """echo inference_index,start_us,end_us,duration_us; start=$(date +%s%6N)
for i in 0 1 2 3 4 5 6 7 8 9; do
  echo "$i,$((start + 1000 * i)),$((start + 1000 * i + 700)),700"
done; sleep 0.1"""
HANG = "exec sleep 60"
#: A phone that does all right; a test changes what it is about.
PLAN = {
    "devices": "R58N1\tdevice\n",
    "steps": QUICK,
    "exit": 0,
    "battery": [BATTERY],
    "thermalservice": [THERMAL],
    "push": None,  # what a push says that fails
    "lost_at": None,  # the phone goes away when this text is printed for the second time
}
PHONE_TMP = "/data/local/tmp"
#: The first state is shown once, if there is another.
DUMPSYS = """#!/bin/sh
cd "$STAND_IN_PHONE"; cat "$1.0"
[ -f "$1.1" ] && mv "$1.1" "$1.0"; true
"""


def program(path, lines):
    path.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    return path


def make_phone(folder, shell, **changes):
    """Make a phone in a folder and return the adb that reaches it."""
    plan = PLAN | changes
    for name in ("bin", PHONE_TMP[1:]):
        (folder / name).mkdir(parents=True)
    os.symlink(shell, folder / "bin" / "sh")
    (folder / "plan.json").write_text(json.dumps(plan))
    for name in ("battery", "thermalservice"):
        for number, text in enumerate(plan[name]):
            (folder / f"{name}.{number}").write_text(text)
    (folder / "properties").write_text(PROPERTIES)
    programs = {"dumpsys": [DUMPSYS], "getprop": ['cat "$STAND_IN_PHONE/properties"']}
    for name, lines in programs.items():
        program(folder / "bin" / name, lines).chmod(0o755)
    # Started by hand this file finds a Python; here, the fastest way to the one at hand.
    command = f'exec "{sys.executable}" -IS "{__file__}" "$@"'
    adb = program(folder / "adb", [command])
    adb.chmod(0o755)
    return str(adb)


def benchmark_model(plan):
    """Lines of a program that prints, pauses and ends as planned, and notes its arguments."""
    lines = ['printf "%s\\n" "$@" > "$STAND_IN_PHONE/argv"']
    for step in plan["steps"]:
        known = step if step in (ROWS, HANG) else f"echo {shlex.quote(str(step))}"
        lines.append(known if isinstance(step, str) else f"sleep {step}")
    code = plan["exit"]
    return [*lines, f"kill -{code - 128} $$" if code > 128 else f"exit {code}"]


def fail(text, code=1):
    sys.stderr.write(text + "\n")
    sys.exit(code)


def shell(phone, plan, words):
    """Join the words, as adb does, and run them; on the phone, paths start elsewhere."""
    command = " ".join(words).replace(PHONE_TMP, str(phone) + PHONE_TMP)
    # A session of its own: what runs on a phone does not end with adb.
    running = subprocess.Popen(
        [phone / "bin" / "sh", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=os.environ | {"PATH": f"{phone / 'bin'}:{os.environ['PATH']}"},
        start_new_session=True,
        text=True,
    )
    seen = 0
    for line in running.stdout:
        sys.stdout.write(line)
        sys.stdout.flush()
        seen += bool(plan["lost_at"] and plan["lost_at"] in line)
        if seen == 2:
            os.killpg(running.pid, signal.SIGKILL)
            (phone / "lost").touch()
            sys.exit(255)
    code = running.wait()
    sys.exit(code if code >= 0 else 128 - code)


def push(phone, plan, local, remote):
    if plan["push"]:
        fail(plan["push"].format(local=local, remote=remote))
    goal = Path(f"{phone}{remote}")
    if goal.name == "benchmark_model":
        program(goal, benchmark_model(plan))
    else:
        shutil.copyfile(local, goal)
    sys.stdout.write(f"{local}: 1 file pushed, 0 skipped. 45.5 MB/s (54044899 bytes in 1.133s)\n")


def main(words):
    phone = Path(os.environ["STAND_IN_PHONE"])
    plan = json.loads((phone / "plan.json").read_text())
    if words[0] == "devices":
        sys.stderr.write("* daemon not running; starting now at tcp:5037\n")
        sys.stdout.write("List of devices attached\n" + plan["devices"] + "\n")
    elif words[0] != "-s":
        fail("adb: more than one device/emulator")
    elif (phone / "lost").exists():
        fail(f"adb: device '{words[1]}' not found")
    elif words[2] == "shell":
        shell(phone, plan, words[3:])
    else:
        push(phone, plan, *words[3:])


if __name__ == "__main__":
    main(sys.argv[1:])
