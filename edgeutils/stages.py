"""What the stages are: `params.yml` read, and every parameter checked against its notebook."""

import ast
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import papermill
import yaml

from edgeutils import ROOT, EdgeError, datasets

PROFILES = ("quick", "full")


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
        """Folder of the stages."""
        return self.root / "notebooks"

    @property
    def results(self) -> Path:
        """Folder of the tables that the stages write."""
        return self.root / "results" / self.profile

    @property
    def executed(self) -> Path:
        """Folder of the executed notebooks."""
        return self.root / "_build" / "executed" / self.profile


@dataclass(frozen=True)
class Stage:
    """One notebook with all that decides whether it has to run again."""

    name: str
    notebook: Path
    after: tuple[str, ...]
    data: tuple[str, ...]
    files: tuple[Path, ...]
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
    declared = {name: entry or {} for name, entry in declared.items()}
    defaults = {name: notebook_defaults(project.notebooks / f"{name}.ipynb") for name in declared}
    chosen = {name: dict(entry.get(project.profile) or {}) for name, entry in declared.items()}
    for override in overrides:
        stage, name, text = _split_override(override, defaults)
        chosen[stage][name] = _parse(text, defaults[stage][name])
    stages = []
    for name, entry in declared.items():
        files = tuple(project.root / path for path in entry.get("files") or ())
        _check_entry(name, entry, declared, files)
        _check_parameters(name, chosen[name], defaults[name], entry.get("choices") or {})
        results = os.path.relpath(project.results, project.notebooks)
        parameters = {**chosen[name], "profile": project.profile, "results_dir": results}
        data, after = entry.get("data") or {}, tuple(entry.get("after") or ())
        profiles = PROFILES[: PROFILES.index(project.profile) + 1]
        needed = tuple(used for profile in profiles for used in data.get(profile) or ())
        notebook = project.notebooks / f"{name}.ipynb"
        stages.append(Stage(name, notebook, after, needed, files, parameters))
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


def _check_entry(
    stage: str, entry: Mapping, declared: Iterable[str], files: Iterable[Path]
) -> None:
    for path in files:
        if not path.is_file():
            raise EdgeError(f"params.yml, {stage}: the file {path} does not exist")
    used = [name for names in (entry.get("data") or {}).values() for name in names or ()]
    for what, given, valid in (
        ("key", entry, ("after", "data", "files", "choices", *PROFILES)),
        ("stage", entry.get("after") or (), declared),
        ("data set", used, [known.name for known in datasets.status()]),
    ):
        unknown = [name for name in given if name not in valid]
        if unknown:
            listed = ", ".join(valid)
            raise EdgeError(f"params.yml, {stage}: no {what} {unknown[0]!r}; use one of {listed}")


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
    """List the valid values: given as a list, or those in a column of a data set."""
    if isinstance(rule, Mapping):
        return list(datasets.load(rule["dataset"])[rule["column"]].dropna().unique())
    return list(rule)  # type: ignore[call-overload]
