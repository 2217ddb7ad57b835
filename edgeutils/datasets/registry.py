"""Where the files of each set are: in a mirror, in the cache, or still to be fetched.

`data/registry.csv` pins every file to a commit and a sha256. Only `fetch` touches the network.
"""

import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pooch
import requests
from rich.console import Console
from rich.progress import track

from edgeutils import ROOT, EdgeError

RAW_URL = "https://raw.githubusercontent.com/{repo}/{commit}/{path}"
GIT_URL = "https://github.com/{repo}"
#: Above this many files one clone is faster, and kinder to the host, than single requests.
MANY_FILES = 20
_STDERR = Console(stderr=True)


@cache
def registry() -> pd.DataFrame:
    """Read the pinned files: file, repo, commit, path, bytes, sha256, licence, dataset."""
    return pd.read_csv(ROOT / "data" / "registry.csv", keep_default_na=False)


def _entries(name: str) -> pd.DataFrame:
    return registry()[registry()["dataset"] == name]


def mirror() -> Path | None:
    """Return the folder with copies of the sets: `EDGE_DATA_MIRROR`, or `../shared/datasets`."""
    named = os.environ.get("EDGE_DATA_MIRROR")
    folder = Path(named) if named else ROOT.parent / "shared" / "datasets"
    if named and not folder.is_dir():
        raise EdgeError(
            f"EDGE_DATA_MIRROR should name a folder with the data sets, not {named!r}; "
            "correct or unset it"
        )
    return folder if folder.is_dir() else None


def cache_folder() -> Path:
    """Folder of what was fetched: pooch's cache for this user."""
    return Path(pooch.os_cache("edgeutils"))


def locate(name: str) -> tuple[str, dict[str, Path]]:
    """Find a set: ``mirror``, ``cache`` or ``missing``, and upstream path -> local path.

    The checkout's own `data/` counts as cache: git ignores the sets that a user was given.
    """
    folders = {mirror(): "mirror", ROOT / "data": "cache", cache_folder(): "cache"}
    for folder, where in folders.items():
        files = {row.path: folder / row.file for row in _entries(name).itertuples() if folder}
        if files and all(file.is_file() for file in files.values()):
            return where, files
    return "missing", {}


def corrupt(name: str) -> list[str]:
    """Upstream paths of the files at hand whose sha256 is not the registered one."""
    wanted = _entries(name).set_index("path")["sha256"]
    found = locate(name)[1]
    return [path for path, local in found.items() if pooch.file_hash(local) != wanted[path]]


def fetch(name: str) -> None:
    """Download a set into the cache: single files by pooch, a set of many by one partial clone.

    EdgeError: a failed download, or a wrong sha256; then no half-written file and no clone stays.
    """
    rows = _entries(name)
    if len(rows) > MANY_FILES:
        _fetch_by_git(name, rows)
        return
    pooch.get_logger().setLevel("WARNING")
    for row in track(list(rows.itertuples()), description=f"fetching {name}", console=_STDERR):
        _fetch_by_url(name, row)


def _fetch_by_url(name: str, row: Any) -> None:
    url = RAW_URL.format(repo=row.repo, commit=row.commit, path=row.path.replace(" ", "%20"))
    target = cache_folder() / row.file
    try:
        pooch.retrieve(url, f"sha256:{row.sha256}", fname=target.name, path=target.parent)
    except (OSError, requests.RequestException) as error:
        lost = isinstance(error, requests.ConnectionError)
        reason = "no connection to the server" if lost else error
        raise EdgeError(f"{name}: could not fetch {url}: {reason}") from None
    except ValueError:  # pooch's way to say that the hash differs
        raise EdgeError(f"{name}: {url}: its sha256 is not the registered one") from None


def _fetch_by_git(name: str, rows: pd.DataFrame) -> None:
    """Clone the listed files of the one commit that the set is pinned to, and no other file."""
    if shutil.which("git") is None:
        raise EdgeError(f"{name} is fetched with git, which was not found; install git")
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_folder(), prefix=".fetch-") as scratch:
        with _STDERR.status(f"{name}: cloning {len(rows)} files of {rows['repo'].iloc[0]}"):
            _partial_clone(name, scratch, rows)
        clones = [(row, Path(scratch) / row.path) for row in rows.itertuples()]
        for row, got in track(clones, description=f"checking {name}", console=_STDERR):
            if not got.is_file() or pooch.file_hash(got) != row.sha256:
                raise EdgeError(
                    f"{name}: {row.path} of {row.repo} is missing or its sha256 is not the "
                    "registered one; nothing was kept, try again"
                )
        # Everything is verified: only now does anything appear in the cache.
        for row, got in clones:
            os.renames(got, cache_folder() / row.file)


def _partial_clone(name: str, folder: str, rows: pd.DataFrame) -> None:
    url = GIT_URL.format(repo=rows["repo"].iloc[0])
    listed = "".join(f"/{path}\n" for path in rows["path"])
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    for step in (
        "init -q",
        f"remote add origin {url}",
        "sparse-checkout set --no-cone --stdin",
        f"fetch -q --depth 1 --filter=blob:none origin {rows['commit'].iloc[0]}",
        "checkout -q FETCH_HEAD",
    ):
        command = ["git", "-C", folder, "-c", "core.autocrlf=false", *step.split(" ")]
        options: dict[str, Any] = {"text": True, "capture_output": True, "env": environment}
        done = subprocess.run(command, input=listed, check=False, **options)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise EdgeError(f"{name}: git {step.split(' ')[0]} of {url} failed: {reason}")
