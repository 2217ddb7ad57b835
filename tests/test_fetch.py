"""Fetching: from a web server and from a git repository on this machine, sound and corrupt."""

import functools
import hashlib
import http.server
import subprocess
import threading

import pandas as pd
import pytest

from edgeutils import EdgeError, datasets
from edgeutils.datasets import registry

CONTENTS = {"data/a.txt": b"one\n", "data/b c.txt": b"two\r\n", "other.txt": b"three\n"}
NAME = "neurstruc-kernels"


@pytest.fixture
def upstream(tmp_path):
    """Make a git repository with three files that are wanted and one that is not."""
    root = tmp_path / "upstream"
    for path, content in (CONTENTS | {"huge.bin": b"x" * 50_000}).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)

    def git(*arguments):
        command = ["git", "-C", str(root), "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    git("config", "uploadpack.allowFilter", "true")
    git("config", "uploadpack.allowAnySHA1InWant", "true")
    git("-c", "core.autocrlf=false", "add", ".")
    git("commit", "-qm", "data")
    return root, git("rev-parse", "HEAD")


@pytest.fixture
def pinned(tmp_path, monkeypatch, upstream):
    """Point the registry to that repository; no mirror, an empty cache."""
    rows = pd.DataFrame(
        {
            "file": [f"set/{path}" for path in CONTENTS],
            "repo": "upstream",
            "commit": upstream[1],
            "path": list(CONTENTS),
            "sha256": [hashlib.sha256(content).hexdigest() for content in CONTENTS.values()],
            "dataset": NAME,
        }
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    cache = tmp_path / "cache"
    monkeypatch.setenv("EDGE_DATA_MIRROR", str(empty))
    monkeypatch.setattr(registry, "registry", lambda: rows)
    monkeypatch.setattr(registry, "cache_folder", lambda: cache)
    monkeypatch.setattr(registry, "GIT_URL", f"file://{tmp_path}/{{repo}}")
    return rows, cache


@pytest.fixture
def server(tmp_path, monkeypatch, upstream):
    """Serve the repository's files over HTTP on this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        host = f"http://127.0.0.1:{running.server_port}"
        monkeypatch.setattr(registry, "RAW_URL", host + "/{repo}/{path}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield host
        running.shutdown()


def kept(cache):
    return sorted(p.name for p in cache.rglob("*") if p.is_file()) if cache.exists() else []


def same(files):
    return {path: local.read_bytes() for path, local in files.items()} == CONTENTS


def test_small_set_comes_over_http(pinned, server):
    assert datasets.status(NAME)[0].where == "missing"
    assert same(datasets.fetch(NAME))
    assert datasets.status(NAME)[0].where == "cache"
    assert registry.corrupt(NAME) == []


def test_corrupt_download_is_refused_and_not_kept(pinned, server):
    rows, cache = pinned
    rows.loc[0, "sha256"] = "0" * 64
    with pytest.raises(EdgeError, match=r"a\.txt: its sha256 is not the registered one"):
        datasets.fetch(NAME)
    assert kept(cache) == []


def test_missing_page_and_missing_server_are_one_sentence(pinned, server, monkeypatch):
    rows, cache = pinned
    rows.loc[0, "path"] = "data/gone.txt"
    with pytest.raises(EdgeError, match=r"could not fetch .*gone\.txt: 404"):
        datasets.fetch(NAME)
    monkeypatch.setattr(registry, "RAW_URL", "http://127.0.0.1:1/{repo}/{path}")
    with pytest.raises(EdgeError, match="could not fetch") as error:
        datasets.fetch(NAME)
    assert "\n" not in str(error.value)
    assert kept(cache) == []


def test_large_set_comes_as_one_partial_clone(pinned, monkeypatch):
    monkeypatch.setattr(registry, "MANY_FILES", 2)
    assert same(datasets.fetch(NAME))
    assert kept(pinned[1]) == ["a.txt", "b c.txt", "other.txt"]


def test_corrupt_file_in_a_clone_leaves_the_cache_as_it_was(pinned, monkeypatch):
    rows, cache = pinned
    monkeypatch.setattr(registry, "MANY_FILES", 2)
    rows.loc[2, "sha256"] = "0" * 64
    with pytest.raises(EdgeError, match=r"other\.txt of upstream is missing or its sha256"):
        datasets.fetch(NAME)
    assert kept(cache) == []


def test_unknown_commit_or_repository_is_one_sentence(pinned, monkeypatch):
    rows, cache = pinned
    monkeypatch.setattr(registry, "MANY_FILES", 2)
    rows["commit"] = "1" * 40
    with pytest.raises(EdgeError, match=r"git fetch of file://.* failed") as error:
        datasets.fetch(NAME)
    assert "\n" not in str(error.value)
    rows["repo"] = "nowhere"
    with pytest.raises(EdgeError, match="git fetch of"):
        datasets.fetch(NAME)
    assert kept(cache) == []


def test_corrupt_file_at_hand_is_found_by_check(pinned, server):
    files = datasets.fetch(NAME)
    files["other.txt"].write_bytes(b"changed")
    assert datasets.check(NAME) == ["other.txt: sha256 differs"]


def test_what_is_not_at_hand_says_how_to_get_it(pinned):
    with pytest.raises(
        EdgeError, match=r"not at hand: run `edgeutils data fetch neurstruc-kernels`"
    ):
        datasets.load(NAME)
    with pytest.raises(EdgeError, match=r"deepen2023 is not at hand: ask its authors"):
        datasets.load("deepen2023")
    with pytest.raises(EdgeError, match=r"deepen2023 cannot be downloaded: ask its authors"):
        datasets.fetch("deepen2023")


def test_names_and_folders_that_do_not_exist_are_named(monkeypatch):
    with pytest.raises(EdgeError, match=r"unknown data set 'nope'; use one of: paper-applications"):
        datasets.load("nope")
    monkeypatch.setenv("EDGE_DATA_MIRROR", "/no/such/folder")
    with pytest.raises(EdgeError, match="EDGE_DATA_MIRROR should name a folder"):
        datasets.status()


def test_a_set_of_files_is_not_loaded_as_a_table(at_hand):
    paths = at_hand("models-coral")
    with pytest.raises(EdgeError, match=r"models-coral holds files.*edgeutils\.datasets\.files"):
        datasets.load("models-coral")
    assert all(path.suffix == ".tflite" for path in paths.values())
