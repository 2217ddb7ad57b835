"""Build the book from executed notebooks: status page, staging copy, Sphinx, swap.

The pages are built in a staging copy in which executed chapters keep the path of their source, so
that launch links name files of the repository. The finished site replaces the old one only when
the build had no warning; otherwise the last good book stays.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from edgeutils import datasets
from edgeutils.progress import Progress
from edgeutils.stages import Project, read_stages

_JUPYTER_BOOK = (str(Path(sys.executable).with_name("jupyter-book")), "build")
_SHOWN_VERSIONS = (
    "ai-edge-litert",
    "jupyter-book",
    "numpy",
    "pandas",
    "papermill",
    "scikit-learn",
    "seaborn",
    "statsmodels",
)


class BuildError(Exception):
    """Sphinx reported warnings or errors; the message holds them."""


def build_book(project: Project, progress: Progress) -> Path:
    """Build the site of a profile whose stages were run, and return its front page.

    Raises
    ------
    BuildError
        Sphinx found something; `_build/html` still holds the last good book.
    """
    start = time.monotonic()
    write_status(project)
    build = project.root / "_build"
    source, out, site = build / "stage", build / "site", build / "html"
    _stage(project, source)
    progress.say("Building the pages ...")
    command = [*_JUPYTER_BOOK, str(source), "--path-output", str(out), "-W", "-n"]
    command += ["--keep-going", "--quiet", "--all"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    (build / "sphinx.log").write_text(done.stdout + done.stderr)
    if done.returncode:
        found = [line for line in done.stderr.splitlines() if "WARNING" in line or "ERROR" in line]
        shown = "\n".join(dict.fromkeys(found)) or done.stderr[-3000:]
        raise BuildError(
            f"the pages have faults (all of it in {build / 'sphinx.log'}):\n{shown}\n"
            "The last good book stays in _build/html."
        )
    if site.exists():
        shutil.rmtree(site)
    shutil.move(out / "_build" / "html", site)
    progress.say(f"Building the pages: done in {time.monotonic() - start:.0f} s")
    return site / "index.html"


def check_links(project: Project) -> int:
    """Follow every link to another site; return the exit code of Sphinx's link checker."""
    source = project.root / "_build" / "stage"
    write_status(project)
    _stage(project, source)
    out = project.root / "_build" / "links"
    command = [*_JUPYTER_BOOK, str(source), "--path-output", str(out), "--builder", "linkcheck"]
    return subprocess.run(command, check=False).returncode


def _stage(project: Project, source: Path) -> None:
    shutil.rmtree(source, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    shutil.copytree(project.root / "book", source / "book", ignore=ignored)
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(project.root / name, source / name)
    (source / "notebooks").mkdir()
    for notebook in project.executed.glob("*.ipynb"):
        shutil.copy(notebook, source / "notebooks" / notebook.name)


def write_status(project: Project) -> Path:
    """Write `book/status.md`: what this build ran, with which data, on which machine."""
    data_rows, defects = _data_lines(project)
    lines = [
        "# Status of this build",
        "",
        f"Made by the pipeline on {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())} with the "
        f"profile **{project.profile}**. Nothing on this page is written by hand.",
        "",
        "## Stages",
        "",
        "| stage | time, s | parameters of this profile | tables written |",
        "|---|---:|---|---|",
        *_stage_rows(project),
        "",
        "## Data sets",
        "",
        "Where: *embedded* in the repository, in a *mirror* folder, in the download *cache*, or "
        "*missing*. Used: read by a stage of this profile. Rows are counted after known defects "
        "were handled.",
        "",
        "| data set | rows | boundary | source | where | used |",
        "|---|---:|---|---|---|---|",
        *data_rows,
        "",
        *_missing(),
        "### Defects handled",
        "",
        *defects,
        "",
        "## Machine and software",
        "",
        "| what | value |",
        "|---|---|",
        *_machine_rows(),
        "",
    ]
    path = project.root / "book" / "status.md"
    path.write_text("\n".join(lines))
    return path


def _stage_rows(project: Project) -> list[str]:
    rows = []
    for stage in read_stages(project):
        record = json.loads((project.executed / f"{stage.name}.json").read_text())
        shown = {k: v for k, v in record["parameters"].items() if k != "profile"}
        parameters = ", ".join(f"`{k} = {v!r}`" for k, v in shown.items()) or "defaults"
        tables = ", ".join(f"`{name}`" for name in record["results"]) or "none"
        rows.append(f"| {stage.name} | {record['seconds']:.0f} | {parameters} | {tables} |")
    return rows


def _data_lines(project: Project) -> tuple[list[str], list[str]]:
    """Rows of the table of data sets, and a list of the defects that their loaders counted."""
    used = {name for stage in read_stages(project) for name in stage.data}
    rows, defects = [], []
    for entry in datasets.status():
        count, counted = "", entry.defects
        if entry.kind == "models":
            count = f"{len(datasets.files(entry.name))} files" if entry.where != "missing" else ""
        elif entry.where != "missing":
            table = datasets.load(entry.name)
            count, counted = f"{len(table):,}", table.attrs["defects"]
        rows.append(
            f"| {entry.name} | {count} | {entry.boundary} | {entry.source} | {entry.where} "
            f"| {'yes' if entry.name in used else 'no'} |"
        )
        found = [f"{what}: {n:,}" for what, n in counted.items() if n]
        defects += [f"- **{entry.name}**: {'; '.join(found)}"] if found else []
    return rows, defects


def _missing() -> list[str]:
    missing = [entry for entry in datasets.status() if entry.where == "missing"]
    if not missing:
        return []
    return [
        "These are missing here; the full profile needs them:",
        "",
        *(f"- **{entry.name}**: {entry.how_to_get}" for entry in missing),
        "",
    ]


def _machine_rows() -> list[str]:
    rows = [
        f"| Python | {platform.python_version()} |",
        f"| system | {platform.system()} {platform.machine()} |",
        f"| processor | {_processor()} |",
    ]
    return rows + [f"| {name} | {version(name)} |" for name in _SHOWN_VERSIONS]


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.is_file() else []
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} logical cores"
