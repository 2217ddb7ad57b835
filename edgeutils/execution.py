"""Execute one stage with papermill: drop, run, show a failing cell, hide the bookkeeping."""

import json
import re
import time
from pathlib import Path

import nbformat
import papermill
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError

from edgeutils.progress import Progress
from edgeutils.stages import PROFILES, Project, Stage


class StageError(Exception):
    """A cell of a stage failed; the message shows stage, cell and traceback."""


class _ProgressEngine(NBClientEngine):
    """papermill's own engine, telling at each cell how far it is."""

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, on_cell=None, **kwargs):
        start_cell = nb_man.cell_start

        def cell_start(cell, cell_index=None, **options):
            on_cell(cell_index or 0, len(nb_man.nb.cells))
            return start_cell(cell, cell_index, **options)

        nb_man.cell_start = cell_start
        return super().execute_managed_notebook(nb_man, kernel_name, **kwargs)


papermill_engines.register("edgeutils", _ProgressEngine)


def execute_stage(project: Project, stage: Stage, progress: Progress) -> None:
    """Execute one notebook; its executed copy replaces the old one only when every cell passed.

    Raises
    ------
    StageError
        A cell raised; the half-executed notebook lies in `_build/failed/`.
    """
    start = time.monotonic()
    failed = project.root / "_build" / "failed" / f"{stage.name}.ipynb"
    failed.parent.mkdir(parents=True, exist_ok=True)
    project.executed.mkdir(parents=True, exist_ok=True)
    source = nbformat.read(stage.notebook, as_version=4)
    other = {f"only-{profile}" for profile in PROFILES if profile != project.profile}
    source.cells = [c for c in source.cells if not other & set(c.metadata.get("tags", []))]
    prepared = failed.with_name(f"{stage.name}.prepared.ipynb")
    nbformat.write(source, prepared)
    try:
        papermill.execute_notebook(
            str(prepared),
            str(failed),
            parameters=dict(stage.parameters),
            engine_name="edgeutils",
            kernel_name="python3",
            cwd=str(project.notebooks),
            progress_bar=False,
            # A failing cell reports itself; the rest of what a kernel logs is about its own ports.
            extra_arguments=["--IPKernelApp.log_level=CRITICAL"],
            on_cell=progress.step,
        )
    except PapermillExecutionError as error:
        raise StageError(_describe(stage, error, failed)) from None
    finally:
        prepared.unlink()
    executed = nbformat.read(failed, as_version=4)
    _retag(executed)
    done = project.executed / f"{stage.name}.ipynb"
    nbformat.write(executed, failed)
    failed.replace(done)
    record = {
        "seconds": round(time.monotonic() - start, 1),
        "parameters": {k: v for k, v in stage.parameters.items() if k != "results_dir"},
        "results": sorted(p.name for p in (project.results / stage.name).glob("*")),
    }
    done.with_suffix(".json").write_text(json.dumps(record, indent=1))


def _describe(stage: Stage, error: PapermillExecutionError, notebook: Path) -> str:
    cells = nbformat.read(notebook, as_version=4).cells
    broken = next((c for c in cells if _raised(c)), None)
    name = f" ({broken.id})" if broken is not None else ""
    source = "\n".join("    " + line for line in error.source.splitlines())
    trace = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))
    return (
        f"{stage.name} failed in cell {error.exec_count}{name}:\n{source}\n{trace}\n"
        f"The notebook up to there: {notebook}"
    )


def _raised(cell: nbformat.NotebookNode) -> bool:
    return any(output.output_type == "error" for output in cell.get("outputs", []))


def _retag(notebook: nbformat.NotebookNode) -> None:
    """Hide papermill's bookkeeping from the page, and drop what differs from run to run."""
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if "parameters" in tags:
            tags.append("remove-cell")
        if "injected-parameters" in tags:
            tags.append("hide-input")
        for noise in ("papermill", "execution"):
            cell.metadata.pop(noise, None)
    notebook.metadata.pop("papermill", None)
