"""The command line: exit codes, one-sentence mistakes, and an environment made on demand."""

import subprocess
import sys

import pytest

from edgeutils import ROOT, __main__


def edgeutils(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", "from edgeutils.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "-p", "02_exploration.device=nonsense"], ["nonsense", "Huawei P40 Pro"]),
        (["run", "-p", "02_exploration.network=DNN0"], ["DNN0", "DNN12"]),
        (["run", "-p", "no_such=1"], ["no_such=1", "02_exploration.device"]),
        (["run", "06_nothing"], ["06_nothing", "05_scoring"]),
        (["book", "--profile", "fast"], ["'fast'", "quick or full"]),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(arguments, said):
    done = edgeutils(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert all(word in done.stderr for word in said)


def test_help_names_the_commands():
    done = edgeutils("--help")
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("run", "book", "test", "lint", "lab", "data"))


def test_make_help_names_the_targets():
    done = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for target in ("book", "run", "test", "lab", "serve", "lint", "linkcheck", "clean"):
        assert f"\n{target} " in f"\n{done}"


def test_the_environment_is_kept_until_its_inputs_change(tmp_path, monkeypatch):
    for name in ("requirements.txt", "pyproject.toml"):
        (tmp_path / name).write_text(name)
    steps: list[list[str]] = []
    monkeypatch.setattr(__main__, "ROOT", tmp_path)
    monkeypatch.setattr(__main__, "VENV", tmp_path / ".venv")

    def pretend(step, command, *_):
        steps.append(command)
        (tmp_path / ".venv" / "bin").mkdir(parents=True, exist_ok=True)
        (tmp_path / ".venv" / "bin" / "python").touch()
        (tmp_path / ".venv" / "pyvenv.cfg").write_text(f"version = {sys.version.split()[0]}\n")

    monkeypatch.setattr(__main__, "_run", pretend)
    __main__.ensure_environment()
    assert len(steps) == 2
    __main__.ensure_environment()
    assert len(steps) == 2
    (tmp_path / "requirements.txt").write_text("changed")
    __main__.ensure_environment()
    assert len(steps) == 3
    assert "requirements.txt" in steps[-1]


def test_a_python_outside_the_lock_is_refused(tmp_path, monkeypatch):
    for name in ("requirements.txt", "pyproject.toml"):
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(__main__, "ROOT", tmp_path)
    monkeypatch.setattr(__main__, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(__main__, "PYTHONS", ((3, 30), (3, 31)))
    with pytest.raises(SystemExit, match=r"Python 3\.30 to 3\.31 is needed"):
        __main__.ensure_environment()


def test_a_failing_step_shows_its_last_lines(capsys):
    command = [sys.executable, "-c", "print('the cause'); raise SystemExit(3)"]
    with pytest.raises(SystemExit, match="Trying failed"):
        __main__._run("Trying", command)
    assert "the cause" in capsys.readouterr().err
