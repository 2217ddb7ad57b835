"""Run the stages in dependency order, and only those that something changed for.

doit decides by content: a stage runs again when its notebook, its parameters, the code it imports,
its data, the locked environment or an earlier stage changed.
"""

import json
import tempfile
from collections.abc import Iterable
from modulefinder import ModuleFinder
from pathlib import Path

import nbformat
from doit.cmd_base import ModuleTaskLoader
from doit.doit_cmd import DoitMain
from doit.exceptions import TaskFailed
from doit.tools import config_changed

from edgeutils import ROOT, EdgeError, datasets
from edgeutils.execution import StageError, execute_stage
from edgeutils.progress import Progress
from edgeutils.stages import Project, Stage, read_stages

_KINDS = {".py", ".yml", ".mjs", ".css", ".mplstyle"}


def run_stages(
    project: Project,
    names: Iterable[str] = (),
    *,
    overrides: Iterable[str] = (),
    force: bool = False,
    progress: Progress | None = None,
) -> list[str]:
    """Run the named stages (default: all) and what they depend on, where something changed.

    Returns
    -------
    list of str
        The stages that were executed, in order.

    Raises
    ------
    EdgeError
        Parameters or names that do not exist; nothing was run.
    StageError
        A cell failed; later stages were not run and earlier results stay.
    """
    stages = {stage.name: stage for stage in read_stages(project, overrides)}
    names = list(names) or list(stages)
    for name in names:
        if name not in stages:
            raise EdgeError(f"no stage {name!r}; the stages are {', '.join(stages)}")
    progress = progress or Progress()
    if project.profile == "full":
        _fetch_missing(stages.values(), progress)
    executed: list[str] = []
    failures: list[str] = []

    def act(stage: Stage) -> TaskFailed | None:
        progress.start(stage.name, list(stages).index(stage.name) + 1, len(stages))
        try:
            execute_stage(project, stage, progress)
        except StageError as error:
            progress.stop("failed")
            failures.append(str(error))
            return TaskFailed("see the message of the pipeline", report=False)
        executed.append(stage.name)
        progress.stop("done")
        return None

    def task_stage():
        for stage in stages.values():
            yield _task(project, stage, act)

    dep_file = project.root / "_build" / f"doit-{project.profile}.json"
    dep_file.parent.mkdir(parents=True, exist_ok=True)
    config = {"dep_file": str(dep_file), "backend": "json", "reporter": "zero", "verbosity": 2}
    loader = ModuleTaskLoader({"task_stage": task_stage, "DOIT_CONFIG": config})
    command = ["run", *(["--always-execute"] if force else []), *(f"stage:{n}" for n in names)]
    code = DoitMain(loader, config_filenames=()).run(command)
    if failures:
        raise StageError(failures[0])
    if code:
        raise EdgeError(
            f"doit could not run the stages (exit code {code}); its lines above say why"
        )
    return executed


def _fetch_missing(stages: Iterable[Stage], progress: Progress) -> None:
    """Download what the stages use; a set that cannot be had is named and left out."""
    used = {name for stage in stages for name in stage.data}
    for entry in datasets.status():
        if entry.name in used and entry.where == "missing" and entry.downloadable:
            try:
                datasets.fetch(entry.name)
            except EdgeError as error:
                progress.say(f"{entry.name} is left out: {error}")


def _results_intact(project: Project, stage: Stage) -> bool:
    record = project.executed / f"{stage.name}.json"
    names = json.loads(record.read_text())["results"] if record.is_file() else []
    return record.is_file() and all((project.results / stage.name / n).exists() for n in names)


def _task(project: Project, stage: Stage, act) -> dict:
    known = {entry.name: entry.where for entry in datasets.status()}
    at_hand = {name: datasets.files(name) for name in stage.data if known[name] != "missing"}
    config = {
        "parameters": json.dumps(stage.parameters, sort_keys=True),
        "data": sorted(at_hand),
        "environment": (ROOT / "requirements.txt").read_text(),
    }
    inputs = [stage.notebook, *stage.files, *imported_files(stage.notebook)]
    inputs += [path for files in at_hand.values() for path in files.values()]
    inputs += [project.executed / f"{name}.ipynb" for name in stage.after]
    return {
        "name": stage.name,
        "actions": [(act, [stage])],
        "file_dep": [str(path) for path in inputs],
        "targets": [str(project.executed / f"{stage.name}.ipynb")],
        "uptodate": [config_changed(config), lambda: _results_intact(project, stage)],
    }


def imported_files(notebook: Path) -> list[Path]:
    """Files of `edgeutils` that a notebook imports, directly or not, and what lies beside them."""
    cells = nbformat.read(notebook, as_version=4).cells
    code = "\n".join(c.source for c in cells if c.cell_type == "code")
    package, finder = ROOT / "edgeutils", ModuleFinder(path=[str(ROOT)])
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "notebook.py"
        script.write_text(code)
        finder.run_script(str(script))
    found = (getattr(module, "__file__", None) for module in finder.modules.values())
    files = {Path(name) for name in found if name}
    files = {path for path in files if path.is_relative_to(package)}
    # Modules of a package and data files may be loaded by name: all of them count.
    folders = {path.parent for path in files} - {package}
    files |= {path for folder in folders for path in folder.rglob("*") if path.suffix in _KINDS}
    return sorted(files | {path for path in package.glob("*") if path.suffix in _KINDS - {".py"}})
