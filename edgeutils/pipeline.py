"""Run the stages: notebooks in dependency order, with checked parameters, only what changed.

`params.yml` says what each stage needs and which parameters a profile sets. papermill executes
the notebooks and doit decides, by content, which of them have to run again: a stage does when its
notebook, its parameters, the code it imports, its data or an earlier stage changed.
"""

import ast
import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import nbformat
import papermill
import yaml
from doit.cmd_base import ModuleTaskLoader
from doit.doit_cmd import DoitMain
from doit.exceptions import TaskFailed
from doit.reporter import ZeroReporter
from doit.tools import config_changed
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError

from edgeutils import ROOT, EdgeError, datasets
from edgeutils.progress import Progress

PROFILES = ("quick", "full")


class StageFailed(Exception):
    """A cell of a stage failed; the message shows stage, cell and traceback."""


@dataclass(frozen=True)
class Project:
    """Where a checkout keeps its notebooks and what is made from them, for one profile."""

    profile: str = "quick"
    root: Path = ROOT

    def __post_init__(self) -> None:
        if self.profile not in PROFILES:
            raise EdgeError(f"no profile {self.profile!r}: choose {' or '.join(PROFILES)}")

    @property
    def notebooks(self) -> Path:
        return self.root / "notebooks"

    @property
    def results(self) -> Path:
        return self.root / "results" / self.profile

    @property
    def executed(self) -> Path:
        return self.root / "_build" / "executed" / self.profile


@dataclass(frozen=True)
class Stage:
    """One notebook with all that decides whether it has to run again."""

    name: str
    notebook: Path
    after: tuple[str, ...]
    data: tuple[str, ...]
    parameters: Mapping[str, object]


def read_stages(project: Project, overrides: Iterable[str] = ()) -> list[Stage]:
    """Read `params.yml` and check every parameter against its notebook.

    Parameters
    ----------
    project
        Checkout and profile.
    overrides
        ``STAGE.NAME=VALUE`` from the command line; they win over the profile.

    Raises
    ------
    EdgeError
        An unknown stage, parameter or data set, a value of the wrong type or outside its choices;
        the sentence lists what is valid.
    """
    declared = yaml.safe_load((project.root / "params.yml").read_text())
    defaults = {name: notebook_defaults(project.notebooks / f"{name}.ipynb") for name in declared}
    chosen = {name: dict(entry.get(project.profile) or {}) for name, entry in declared.items()}
    for override in overrides:
        stage, name, text = _split_override(override, defaults)
        chosen[stage][name] = _parse(text, defaults[stage][name])
    stages = []
    for name, entry in declared.items():
        _check_parameters(name, chosen[name], defaults[name], entry.get("choices") or {})
        chosen[name]["profile"] = project.profile
        chosen[name]["results_dir"] = os.path.relpath(project.results, project.notebooks)
        data = entry.get("data") or {}
        needed = tuple(data.get("quick") or ()) + (
            tuple(data.get("full") or ()) if project.profile == "full" else ()
        )
        stages.append(
            Stage(
                name=name,
                notebook=project.notebooks / f"{name}.ipynb",
                after=tuple(entry.get("after") or ()),
                data=needed,
                parameters=chosen[name],
            )
        )
    return stages


def notebook_defaults(notebook: Path) -> dict[str, object]:
    """Names and default values in the `parameters` cell of a notebook."""
    if not notebook.is_file():
        raise EdgeError(f"{notebook} is named in params.yml but does not exist")
    inferred = papermill.inspect_notebook(str(notebook))
    return {name: ast.literal_eval(found["default"]) for name, found in inferred.items()}


def _split_override(
    override: str, defaults: Mapping[str, Mapping[str, object]]
) -> tuple[str, str, str]:
    key, equals, text = override.partition("=")
    stage, _, name = key.partition(".")
    if not equals or stage not in defaults or name not in defaults[stage]:
        valid = [f"{s}.{n}" for s, names in defaults.items() for n in _settable(names)]
        raise EdgeError(
            f"no parameter {override!r}: give STAGE.NAME=VALUE with one of {', '.join(valid)}"
        )
    return stage, name, text


def _settable(names: Iterable[str]) -> list[str]:
    return [name for name in names if name not in ("profile", "results_dir")]


def _parse(text: str, default: object) -> object:
    if isinstance(default, str):
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _check_parameters(
    stage: str,
    values: Mapping[str, object],
    defaults: Mapping[str, object],
    choices: Mapping[str, object],
) -> None:
    for name, value in values.items():
        if name not in _settable(defaults):
            valid = ", ".join(_settable(defaults))
            raise EdgeError(f"{stage} has no parameter {name!r}; it has {valid}")
        expected = type(defaults[name])
        numeric = expected is float and type(value) is int
        if type(value) is not expected and not numeric:
            raise EdgeError(
                f"{stage}.{name} should be {expected.__name__} like {defaults[name]!r}, "
                f"not {value!r}"
            )
        if name in choices:
            valid_values = _choices(choices[name])
            if value not in valid_values:
                listed = ", ".join(map(str, valid_values))
                raise EdgeError(f"{stage}.{name} cannot be {value!r}; choose one of {listed}")


def _choices(rule: object) -> list[object]:
    """Valid values: a list, or the values of a column of a data set."""
    if isinstance(rule, Mapping):
        return list(datasets.load(rule["dataset"])[rule["column"]].dropna().unique())
    return list(rule)  # type: ignore[call-overload]


def imported_files(notebook: Path) -> list[Path]:
    """Files of `edgeutils` that a notebook imports, directly or not, and the data beside them."""
    cells = nbformat.read(notebook, as_version=4).cells
    code = "\n".join(c.source for c in cells if c.cell_type == "code" and "%" not in c.source[:1])
    package, queue, seen = ROOT / "edgeutils", [ast.parse(code)], set()
    while queue:
        for node in ast.walk(queue.pop()):
            for path in _module_files(node, package) - seen:
                seen.add(path)
                queue.append(ast.parse(path.read_text()))
    folders = {path.parent for path in seen} - {package}
    extra = {p for f in folders for p in f.rglob("*") if p.suffix in (".yml", ".mjs", ".css")}
    return sorted(seen | extra)


def _module_files(node: ast.AST, package: Path) -> set[Path]:
    names: list[str] = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module:
        names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    found = set()
    for name in names:
        if name.split(".")[0] != "edgeutils":
            continue
        base = package.joinpath(*name.split(".")[1:])
        candidates = {base.with_suffix(".py"), base / "__init__.py"}
        candidates |= {parent / "__init__.py" for parent in base.parents if package in parent.parents}
        found |= {path for path in candidates if path.is_file()}
    return found


class _ProgressEngine(NBClientEngine):
    """papermill's own engine, telling at each cell how far it is."""

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, on_cell=None, **kwargs):  # noqa: D102
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
    StageFailed
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
            on_cell=lambda cell, cells: progress.step(stage.name, cell, cells),
        )
    except PapermillExecutionError as error:
        raise StageFailed(_describe(stage, error, failed)) from None
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
    trace = "\n".join(error.traceback)
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


def _results_intact(project: Project, stage: Stage) -> bool:
    record = project.executed / f"{stage.name}.json"
    if not record.is_file():
        return False
    names = json.loads(record.read_text())["results"]
    return all((project.results / stage.name / name).is_file() for name in names)


class _Failures(ZeroReporter):
    """Keep doit quiet; remember what went wrong in doit itself."""

    errors: list[str] = []

    def runtime_error(self, msg):
        self.errors.append(msg)


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
    StageFailed
        A cell failed; later stages were not run and earlier results stay.
    """
    stages = {stage.name: stage for stage in read_stages(project, overrides)}
    names = list(names) or list(stages)
    for name in names:
        if name not in stages:
            raise EdgeError(f"no stage {name!r}; the stages are {', '.join(stages)}")
    progress = progress or Progress()
    executed: list[str] = []
    failures: list[str] = []

    def act(stage: Stage) -> TaskFailed | None:
        progress.start(stage.name, list(stages).index(stage.name) + 1, len(stages))
        try:
            execute_stage(project, stage, progress)
        except StageFailed as error:
            failures.append(str(error))
            return TaskFailed("see the message of the pipeline", report=False)
        executed.append(stage.name)
        progress.finish(stage.name)
        return None

    def task_stage():
        for stage in stages.values():
            yield _task(project, stage, act)

    dep_file = project.root / "_build" / f"doit-{project.profile}.json"
    dep_file.parent.mkdir(parents=True, exist_ok=True)
    reporter = _Failures
    reporter.errors = []
    config = {"dep_file": str(dep_file), "backend": "json", "reporter": reporter, "verbosity": 2}
    loader = ModuleTaskLoader({"task_stage": task_stage, "DOIT_CONFIG": config})
    command = ["run", *(["--always-execute"] if force else []), *(f"stage:{n}" for n in names)]
    code = DoitMain(loader, config_filenames=()).run(command)
    if failures:
        raise StageFailed(failures[0])
    if code:
        raise EdgeError("the stages could not be run: " + " ".join(reporter.errors))
    return executed


def _task(project: Project, stage: Stage, act) -> dict:
    known = {entry.name: entry.where for entry in datasets.status()}
    at_hand = {name: datasets.files(name) for name in stage.data if known[name] != "missing"}
    config = {
        "parameters": json.dumps(stage.parameters, sort_keys=True),
        "data": sorted(at_hand),
        "environment": (ROOT / "requirements.txt").read_text(),
    }
    inputs = [stage.notebook, *imported_files(stage.notebook)]
    inputs += [path for files in at_hand.values() for path in files.values()]
    inputs += [project.executed / f"{name}.ipynb" for name in stage.after]
    return {
        "name": stage.name,
        "actions": [(act, [stage])],
        "file_dep": [str(path) for path in inputs],
        "targets": [str(project.executed / f"{stage.name}.ipynb")],
        "uptodate": [config_changed(config), lambda: _results_intact(project, stage)],
    }
