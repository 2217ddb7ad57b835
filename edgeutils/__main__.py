"""`python -m edgeutils COMMAND`: make `.venv` if needed, then run the command in it.

This is what the Makefile calls and what works where make is missing, so it uses the standard
library only until the environment stands. Who has an environment of their own with
requirements.txt installed calls the command `edgeutils` instead.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from edgeutils import ROOT

VENV = ROOT / ".venv"
PYTHONS = ((3, 11), (3, 13))  # first and last version that requirements.txt was tested with


def _fingerprint() -> str:
    parts = [(ROOT / name).read_bytes() for name in ("requirements.txt", "pyproject.toml")]
    return hashlib.sha256(b"".join(parts) + sys.version.encode()).hexdigest()


def _version_of(environment: Path) -> str:
    """Python version that an environment was made with, as its own pyvenv.cfg says."""
    lines = (environment / "pyvenv.cfg").read_text().splitlines()
    settings = dict(line.split(" = ", 1) for line in lines if " = " in line)
    return settings.get("version", settings.get("version_info", ""))


def _run(step: str, command: list[str], count: str = "", total: int = 0) -> None:
    """Run a long command; every ten seconds say how many output lines start with `count`."""
    start = said = time.monotonic()
    sys.stderr.write(f"{step} ...\n")
    lines, done = [], 0
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout or ():
            lines.append(line)
            done += bool(count) and line.startswith(count)
            if count and time.monotonic() - said > 10:
                said = time.monotonic()
                sys.stderr.write(f"  {done} of {total} packages, {said - start:.0f} s\n")
    if process.returncode:
        sys.stderr.write("".join(lines[-40:]))
        raise SystemExit(f"{step} failed; the lines above say why")
    sys.stderr.write(f"{step}: done in {time.monotonic() - start:.0f} s\n")


def ensure_environment() -> Path:
    """Create or update `.venv` from requirements.txt and return its Python."""
    python = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = VENV / "requirements.sha256"
    if stamp.is_file() and stamp.read_text() == _fingerprint():
        return python
    if not PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        raise SystemExit(
            f"Python 3.{PYTHONS[0][1]} to 3.{PYTHONS[1][1]} is needed, this is "
            f"{sys.version.split()[0]}; name another one: make PYTHON=python3.12 ..."
        )
    uv = shutil.which("uv")
    packages = (ROOT / "requirements.txt").read_text().count("==")
    if not python.exists() or _version_of(VENV) != sys.version.split()[0]:
        make = [uv, "venv", "--clear", "--python", sys.executable] if uv else []
        make = make or [sys.executable, "-m", "venv", "--clear"]
        _run("Creating the environment .venv", [*make, str(VENV)])
    install = [str(python), "-m", "pip", "install", "--disable-pip-version-check"]
    if uv:
        install = [uv, "pip", "install", "--python", str(python)]
    step = "Installing requirements.txt (a few minutes the first time)"
    _run(step, [*install, "-r", "requirements.txt"], "Collecting", packages)
    stamp.write_text(_fingerprint())
    return python


def main() -> None:
    """Run the command line in the project's own environment."""
    if Path(sys.prefix).resolve() != VENV.resolve():
        python = ensure_environment()
        command = [str(python), "-m", "edgeutils", *sys.argv[1:]]
        if os.name == "nt":
            raise SystemExit(subprocess.run(command, check=False).returncode)
        sys.stderr.flush()
        os.execv(python, command)  # noqa: S606
    from edgeutils.cli import main as run_command  # noqa: PLC0415

    run_command()


if __name__ == "__main__":
    main()
