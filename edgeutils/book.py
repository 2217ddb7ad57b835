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

from jinja2 import Template

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
    stages = read_stages(project)
    template = Template(Path(__file__).with_name("status.md.j2").read_text(encoding="utf-8"))
    text = template.render(
        made=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        profile=project.profile,
        stages={
            s.name: json.loads((project.executed / f"{s.name}.json").read_text()) for s in stages
        },
        sets=[(entry, *_size_and_defects(entry)) for entry in datasets.status()],
        used={name for stage in stages for name in stage.data},
        machine=_machine(),
    )
    path = project.root / "book" / "status.md"
    path.write_text(text, encoding="utf-8")
    return path


def _record(project: Project, stage: str) -> dict:
    return json.loads((project.executed / f"{stage}.json").read_text())


def _size_and_defects(entry: datasets.DatasetStatus) -> tuple[str, dict[str, int]]:
    if entry.where == "missing":
        return "", entry.defects
    if entry.kind == "models":
        return f"files: {len(datasets.files(entry.name))}", entry.defects
    table = datasets.load(entry.name)
    return f"{len(table):,}", table.attrs["defects"]


def _machine() -> dict[str, str]:
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.is_file() else []
    return {
        "processor": f"{(names or [platform.machine()])[0]}, {os.cpu_count()} logical cores",
        "system": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
        **{name: version(name) for name in _SHOWN_VERSIONS},
    }
