"""The command `edgeutils`: run the stages, build the book, handle data; errors are one sentence.

Exit codes: 0 done, 1 something that was run failed, 2 the command was not understood.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from edgeutils import ROOT, EdgeError
from edgeutils.datasets.commands import app as data_app
from edgeutils.hardware import commands as hardware
from edgeutils.networks import commands as networks
from edgeutils.regression import commands as regression

app = typer.Typer(
    help="Measure, predict and score the energy of deep learning on edge devices.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(data_app, name="data")
app.command()(hardware.energy)
app.command()(hardware.measure)
app.command()(networks.kernels)
app.command()(regression.fit)
app.command()(regression.predict)
app.command()(hardware.doctor)

Profile = Annotated[str, typer.Option(help="quick (embedded data) or full (every public set).")]
Parameter = Annotated[
    list[str] | None,
    typer.Option("-p", "--parameter", metavar="STAGE.NAME=VALUE", help="Set a parameter."),
]
Force = Annotated[bool, typer.Option(help="Run the stages even if nothing changed.")]


@app.command()
def run(
    stages: Annotated[list[str] | None, typer.Argument(help="Default: all.")] = None,
    profile: Profile = "quick",
    parameter: Parameter = None,
    force: Force = False,
) -> None:
    """Run the stages, and what they depend on, where something changed."""
    _run_stages(profile, stages or [], parameter or [], force)


@app.command()
def book(profile: Profile = "quick", parameter: Parameter = None, force: Force = False) -> None:
    """Run the stages and build the book into _build/html."""
    from edgeutils.book import BuildError, build_book  # noqa: PLC0415
    from edgeutils.progress import Progress  # noqa: PLC0415

    project = _run_stages(profile, [], parameter or [], force)
    try:
        page = build_book(project, Progress())
    except BuildError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    typer.echo(f"The book is ready: open {page} (or run make serve)")


def _run_stages(profile: str, stages: list[str], parameters: list[str], force: bool):
    # Imported here so that `edgeutils data` and the help do not wait for papermill.
    from edgeutils.execution import StageError  # noqa: PLC0415
    from edgeutils.pipeline import run_stages  # noqa: PLC0415
    from edgeutils.progress import Progress  # noqa: PLC0415
    from edgeutils.stages import Project  # noqa: PLC0415

    project, progress = Project(profile), Progress()
    try:
        executed = run_stages(project, stages, overrides=parameters, force=force, progress=progress)
    except StageError as error:
        typer.echo(f"{error}\nThe last good book, if any, stays in _build/html.", err=True)
        raise typer.Exit(1) from None
    if not executed:
        progress.say("Every stage is up to date.")
    return project


@app.command()
def linkcheck() -> None:
    """Check the book's links to other sites (needs the network)."""
    from edgeutils.book import check_links  # noqa: PLC0415

    raise typer.Exit(check_links(_run_stages("quick", [], [], False)))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def test(context: typer.Context) -> None:
    """Run the tests; further arguments go to pytest."""
    arguments = context.args or ["-n", "2", "--dist", "loadfile"]
    _tool("pytest", *arguments)


@app.command()
def lint() -> None:
    """Check style, types, spelling and that notebooks are stored without outputs."""
    notebooks = sorted(map(str, (ROOT / "notebooks").glob("*.ipynb")))
    commands = [
        ("ruff", "check", "."),
        ("ruff", "format", "--check", "."),
        ("mypy",),
        ("codespell_lib", "."),
        ("nbstripout", "--verify", "--keep-id", *notebooks),
    ]
    codes = [_call(*command) for command in commands]
    raise typer.Exit(max(map(bool, codes)))


@app.command()
def lab() -> None:
    """Open the notebooks in JupyterLab."""
    _tool("jupyterlab", "--notebook-dir", str(ROOT / "notebooks"))


@app.command()
def serve(port: Annotated[int, typer.Option(help="Port on this machine.")] = 8000) -> None:
    """Show the built book at http://localhost:PORT."""
    site = ROOT / "_build" / "html"
    if not site.is_dir():
        raise EdgeError("there is no book yet: run make book first")
    _tool("http.server", str(port), "--bind", "127.0.0.1", "--directory", str(site))


def _call(module: str, *arguments: str) -> int:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, check=False
    ).returncode


def _tool(module: str, *arguments: str) -> None:
    raise typer.Exit(_call(module, *arguments))


def main(command: Callable[[], object] = app) -> None:
    """Run the command line; a mistake of the user ends with one sentence and exit code 2."""
    try:
        command()
    except EdgeError as error:
        sys.stderr.write(f"edgeutils: {error}\n")
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        sys.stderr.write("edgeutils: stopped; what was finished stays\n")
        os._exit(130)
