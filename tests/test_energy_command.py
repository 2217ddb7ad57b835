"""The command `energy`: JSON by the contract, a summary for people, one-sentence errors."""

import json
import subprocess
import sys

import numpy as np
import pytest

from edgeutils import ROOT, cli
from edgeutils.hardware.bench import Phone, simulate
from edgeutils.hardware.report import explain

WINDOW = ["start_s", "end_s", "inferences", "energy_j", "energy_per_inference_j", "u_j"]
WINDOW += ["low95_j", "high95_j", "samples", "flags"]
KEYS = [
    "windows",
    "inferences",
    "mean_energy_j",
    "energy_per_period_j",
    "u_j",
    "low95_j",
    "high95_j",
]
KEYS += ["steady", "budget", "idle_policy", "boundary", "clock", "flags"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Trace and marks of a simulated phone, as the real monitor writes them."""
    run = simulate(seed=2, inferences=200, phone=Phone(pause_w=0.6))
    power, log = run.write(tmp_path_factory.mktemp("energy"))
    return run, str(power), str(log)


@pytest.fixture
def call(monkeypatch, capsys):
    """Run the command line in this process: exit code, stdout, stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["edgeutils", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return run


def strict(text):
    """Parse JSON without its NaN and Infinity, which are none."""

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_json_holds_the_contract(call, files):
    run, power, log = files
    code, out, err = call("energy", power, "--marks", log, "--boundary", "battery", "--json")
    assert (code, err) == (0, "")
    found = strict(out)
    assert [key for key in found if key in KEYS] == KEYS
    assert set(WINDOW) <= set(found["windows"][0])
    assert "official_energy_j" not in found["windows"][0]
    assert set(found["steady"]) == {"inferences", "mean_energy_j", "u_j"}
    assert list(found["budget"]) == ["meter", "clock", "edges", "idle", "repeats"]
    assert {"period_s", "offset_s", "offset_u_s", "lost_samples"} <= set(found["clock"])
    assert (found["idle_policy"], found["boundary"]) == ("none", "battery")
    assert found["inferences"] == len(found["windows"]) == 200
    squares = sum(u**2 for u in found["budget"].values() if u is not None)
    assert squares == pytest.approx(found["u_j"] ** 2, rel=1e-9)
    assert found["mean_energy_j"] == pytest.approx(run.mean_energy_j, rel=0.01)
    assert found["energy_per_period_j"] == pytest.approx(run.period_energy_j, rel=0.01)
    assert found["clock"]["offset_s"] == pytest.approx(run.monitor.offset_s, abs=1e-3)
    assert found["clock"]["period_s"] == pytest.approx(run.monitor.period_s, rel=1e-3)
    for window in found["windows"]:
        if window["energy_j"] is None:
            assert {"gaps", "outside_trace"} & set(window["flags"])
            assert window["u_j"] is window["low95_j"] is window["energy_per_inference_j"] is None
        else:
            assert window["low95_j"] < window["energy_j"] < window["high95_j"]
    assert set(found["flags"]) <= set(explain())


def test_text_is_short_and_explains_the_flags(call, files):
    code, out, err = call("energy", files[1], "--marks", files[2], "--idle", "surrounding")
    assert (code, err) == (0, "")
    assert "energy per inference" in out
    assert "surrounding" in out
    assert explain()["lost_samples"].split(";")[0] in " ".join(out.split())
    assert len(out.splitlines()) < 40


def test_idle_and_offset_are_used(call, files):
    run, power, log = files
    base = ("energy", power, "--marks", log, "--json", "--offset")
    plain = strict(call(*base, run.monitor.offset_s)[1])
    less = strict(call(*base, run.monitor.offset_s, "--idle", "const:0.3")[1])
    assert plain["clock"]["offset_s"] == run.monitor.offset_s
    assert "offset_by_hand" in plain["flags"]
    assert less["idle_policy"] == "constant"
    seconds = np.mean([w["end_s"] - w["start_s"] for w in less["windows"] if w["energy_j"]])
    assert plain["mean_energy_j"] - less["mean_energy_j"] == pytest.approx(0.3 * seconds, rel=0.01)


def test_one_window_gives_null_not_nan(call, files, tmp_path):
    run, power, _ = files
    marks = tmp_path / "one.csv"
    first_us = run.marks.epoch_us
    marks.write_text(f"start_us,end_us\n{first_us},{first_us + 100_000}\n")
    code, out, _ = call("energy", power, "--marks", marks, "--offset", 0.307, "--json")
    found = strict(out)
    assert code == 0
    assert found["u_j"] is found["low95_j"] is found["budget"]["repeats"] is None
    assert found["mean_energy_j"] > 0
    assert "one_window" in found["flags"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{power}"], ["no marks of its own", "--marks FILE"]),
        (["no/such.csv", "--marks", "{log}"], ["no/such.csv", "does not exist"]),
        (["{power}", "--marks", "{power}"], ["start", "end"]),
        (["{power}", "--marks", "{log}", "--idle", "some"], ["'some'", "const:W"]),
        (["{power}", "--marks", "{log}", "--idle", "const:x"], ["const:0.35", "'x'"]),
        (["{power}", "--marks", "{log}", "--idle", "recorded:{log}"], []),
        (["{power}", "--marks", "{log}", "--boundary", "plug"], ["'plug'", "battery", "wall"]),
        (["{power}", "--marks", "{log}", "--meter", "ruler"], ["'ruler'", "known:"]),
        (["{power}", "--marks", "{log}", "--offset", "nan"], ["--offset", "seconds"]),
        (["{power}", "--marks", "{log}", "--offset", "500"], ["none of the 200 windows"]),
        (["{log}", "--marks", "{log}"], []),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(call, files, arguments, said):
    named = {"power": files[1], "log": files[2]}
    code, out, err = call("energy", *(a.format(**named) for a in arguments), "--json")
    assert code == 2
    assert out == ""
    assert len(err.strip().splitlines()) == 1
    assert err.startswith("edgeutils: ")
    assert all(word in err for word in said)


def test_every_flag_has_a_sentence():
    sentences = explain()
    assert all(text.endswith(".") and ". " not in text for text in sentences.values())


def test_an_mlperf_folder_brings_its_marks_and_the_official_value(call, mirror):
    folder = next((mirror / "mlperf-tiny-v1.2").rglob("trace1-energy.bin")).parent
    code, out, _ = call("energy", folder, "--json")
    found = strict(out)
    assert code == 0
    for window in found["windows"]:
        assert window["energy_j"] == pytest.approx(window["official_energy_j"], rel=2e-4)


def test_the_command_is_there():
    command = [sys.executable, "-c", "from edgeutils.cli import main; main()", "energy", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    for option in ("--marks", "--idle", "--boundary", "--meter", "--offset", "--json"):
        assert option in done.stdout
