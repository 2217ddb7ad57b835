"""The checkout itself: what it holds, what it must not hold, and which module may know which."""

import ast
import doctest
import importlib
import io
import re
import subprocess
import tokenize
from pathlib import Path

import pytest
import yaml

from edgeutils import ROOT

LAYER = {"networks": 0, "table": 0, "progress": 0}
LAYER |= dict.fromkeys(("hardware", "regression", "scores", "datasets", "plots"), 1)
APART = {"hardware", "regression"}
FORBIDDEN = {
    "a package host": r"pypi\.(?:org|python)|files\.pythonhosted|registry\.npmjs|deb\.debian\.org",
    "a path of one machine": r"(?<![\w.])/(?:home/\w+|root|Users/\w+|work|farm|opt)/\w",
}
MODULES = sorted((ROOT / "edgeutils").rglob("*.py"))
NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
WITH_EXAMPLES = [path for path in MODULES if ">>>" in path.read_text(encoding="utf-8")]


def tracked(root=ROOT):
    """Files that git tracks or would add."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    paths = (root / name for name in done.stdout.split("\0") if name)
    return [path for path in paths if path.is_file()]


def breaches(path, text):
    """What a file says that it must not say."""
    if path.name == Path(__file__).name:
        return []
    return [what for what, pattern in FORBIDDEN.items() if re.search(pattern, text)]


def imported(path):
    """Parts of edgeutils that a module imports, as first names below the package."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("edgeutils.")}


def wrong_way(part, known):
    """Parts that a part of edgeutils must not know."""
    if part not in LAYER:
        return set()
    modules = {part_of(path) for path in MODULES}
    upper = {name for name in known & modules if LAYER.get(name, 2) > LAYER[part]}
    return upper | (known & APART - {part} if part in APART else set())


def part_of(path):
    """First name below the package: `hardware` for edgeutils/hardware/trace.py."""
    return path.relative_to(ROOT / "edgeutils").parts[0].removesuffix(".py")


def test_files_name_no_package_host_and_no_path_of_one_machine():
    found = {}
    for path in tracked():
        if path.suffix not in (".png", ".parquet", ".tflite", ".csv", ".gz", ".bin"):
            text = path.read_text(encoding="utf-8", errors="ignore")
            found |= (
                {str(path.relative_to(ROOT)): breaches(path, text)} if breaches(path, text) else {}
            )
    assert found == {}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("pip install -i https://pypi.org/simple", "a package host"),
        ("open('/home/ann/trace.csv')", "a path of one machine"),
        ("cd /work/main", "a path of one machine"),
    ],
)
def test_a_planted_host_or_path_is_found(text, what):
    assert breaches(Path("README.md"), text) == [what]


def test_relative_paths_and_links_are_no_machine_paths():
    text = "../shared/datasets, https://host.example/home/ann/x, notebooks/work/x, ~/.cache/pip"
    assert breaches(Path("README.md"), text) == []


def test_no_large_and_no_foreign_files():
    sizes = {str(p.relative_to(ROOT)): p.stat().st_size for p in tracked()}
    most = {name: 3_000_000 if name.startswith("data/measured/") else 1_000_000 for name in sizes}
    assert {name: size for name, size in sizes.items() if size > most[name]} == {}
    assert [name for name in sizes if name.endswith((".pkl", ".pickle", ".joblib"))] == []
    assert [name for name in sizes if name.startswith(("_build/", "results/", "data/cache/"))] == []


def test_every_entry_of_the_readme_layout_exists():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    layout = re.search(r"## Layout\n+```text\n(.*?)```", readme, re.S)[1]
    names = re.findall(r"^(\S+)  ", layout, re.M)
    assert len(names) >= 6
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_files_that_the_readme_names_exist():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    names = re.findall(r"`([\w./-]+\.(?:md|cff|yml)|LICENSE[\w-]*)`", readme)
    assert len(names) >= 5
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_quick_start_is_two_commands():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"## Quick start\n.*?```bash\n(.*?)```", readme, re.S)[1]
    assert block.split("\n")[:-1] == ["make book", "make test"]


def test_make_targets_that_are_named_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.M))
    for name in ("README.md", "CONTRIBUTING.md", ".github/workflows/ci.yml"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert set(re.findall(r"(?:`|run: )make ([a-z]+)", text)) <= targets


def test_licences_cover_code_and_text():
    assert "BSD 3-Clause" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "SPDX-License-Identifier: CC-BY-4.0" in (ROOT / "LICENSE-text").read_text("utf-8")


def test_citation_file_names_project_and_study():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    required = {"cff-version", "message", "title", "authors", "version", "license", "references"}
    assert required <= set(citation)
    assert citation["references"][0]["authors"][0]["family-names"] == "Tu"
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text("utf-8"), re.M)[1]
    assert citation["version"] == version


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda p: p.name)
def test_workflows_and_templates_are_valid_yaml(path):
    assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)


def lines_of_code(text):
    """Number of lines that hold code: no docstring, no comment, not blank."""
    documents = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            documents |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NO_CODE:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - documents)


def test_the_module_stays_small():
    texts = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in MODULES}
    assert sum(map(lines_of_code, texts.values())) <= 10_200
    long = {name: text.count("\n") for name, text in texts.items() if text.count("\n") > 400}
    assert long == {}


def test_only_code_is_counted():
    page = '"""A page.\n\nIts text.\n"""\n\n# Why.\n'
    text = page + 'x = [\n    1,\n]\n\n\ndef f():\n    """Say."""\n    return x\n'
    assert lines_of_code(text) == 5


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    assert wrong_way(part_of(path), imported(path)) == set()


def test_an_import_against_the_grain_is_found(tmp_path):
    path = tmp_path / "trace.py"
    path.write_text(
        "from edgeutils import EdgeError, cli\nimport edgeutils.regression.validation\n"
    )
    assert wrong_way("hardware", imported(path)) == {"cli", "regression"}
    assert wrong_way("networks", {"table", "scores"}) == {"scores"}
    assert wrong_way("scores", {"table", "networks", "EdgeError"}) == set()
    assert wrong_way("cli", {"pipeline", "regression"}) == set()


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_doctests(path):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    assert doctest.testmod(importlib.import_module(name)).failed == 0
