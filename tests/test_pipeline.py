"""The pipeline runs what changed, refuses what it does not know, and keeps what worked."""

import shutil
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from edgeutils import EdgeError, pipeline
from edgeutils.execution import StageError
from edgeutils.pipeline import run_stages
from edgeutils.progress import Progress
from edgeutils.stages import Project, read_stages

PARAMETERS = (
    'profile = "quick"  # str: profile\nresults_dir = "../results/quick"  # str: tables\n'
    'scale = 2.0  # float: factor\ncount = 3  # int: number\nphone = "Huawei P40 Pro"  # str: phone'
)
FIRST = (
    "from pathlib import Path\nimport edgeutils.table\nfolder = Path(results_dir) / 'one'\n"
    "folder.mkdir(parents=True, exist_ok=True)\n(folder / 'value.txt').write_text(str(scale));"
)
SECOND = (
    "from pathlib import Path\nvalue = float((Path(results_dir) / 'one/value.txt').read_text())\n"
    "value * count"
)
PARAMS = """
one: {quick: {scale: 5}, choices: {phone: {dataset: paper-applications, column: device}}}
two: {after: [one], full: {count: 7}}
other: {}
"""
FILES = "other: {files: [speeds.json]}"


def notebook(path: Path, body: str, *extra: nbformat.NotebookNode) -> None:
    cells = [
        new_markdown_cell(f"# {path.stem}"),
        new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        new_code_cell(body, id="body"),
        *extra,
    ]
    kernel = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
    nbformat.write(new_notebook(cells=cells, metadata=kernel), path)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (tmp_path / "params.yml").write_text(PARAMS)
    notebook(folder / "one.ipynb", FIRST)
    notebook(
        folder / "two.ipynb",
        SECOND,
        new_markdown_cell("for the full profile", metadata={"tags": ["only-full"]}),
        new_markdown_cell("for the quick profile", metadata={"tags": ["only-quick"]}),
    )
    notebook(folder / "other.ipynb", "1 + 1")
    return Project("quick", tmp_path)


def outputs(project: Project, stage: str) -> list[str]:
    read = nbformat.read(project.executed / f"{stage}.ipynb", as_version=4)
    return [
        out["data"]["text/plain"]
        for cell in read.cells
        for out in cell.get("outputs", [])
        if "data" in out
    ]


def test_run_again_only_what_changed(project):
    assert run_stages(project) == ["one", "two", "other"]
    assert outputs(project, "two") == ["15.0"]
    assert run_stages(project) == []

    notebook(project.notebooks / "one.ipynb", FIRST + "\n# touched")
    assert run_stages(project) == ["one", "two"]

    (project.root / "speeds.json").write_text("{}")
    (project.root / "params.yml").write_text(PARAMS.replace("other: {}", FILES))
    assert run_stages(project) == ["other"]
    (project.root / "speeds.json").write_text("[]")
    assert run_stages(project) == ["other"]

    (project.results / "one" / "value.txt").unlink()
    assert run_stages(project)[0] == "one"

    assert run_stages(project, overrides=["two.count=4"]) == ["two"]
    assert outputs(project, "two") == ["20.0"]
    assert run_stages(project, ["other"], force=True) == ["other"]


def test_module_code_is_an_input(project, monkeypatch, tmp_path):
    package = tmp_path / "checkout" / "edgeutils"
    source = pipeline.ROOT / "edgeutils"
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(pipeline.ROOT / "requirements.txt", package.parent)
    monkeypatch.setattr(pipeline, "ROOT", package.parent)
    names = {p.name for p in pipeline.imported_files(project.notebooks / "one.ipynb")}
    assert names == {"__init__.py", "table.py", "columns.yml", "book.mplstyle"}
    run_stages(project)
    with (package / "table.py").open("a") as file:
        file.write("# changed\n")
    assert run_stages(project) == ["one", "two"]


def test_cells_of_the_other_profile_are_dropped_and_parameters_retagged(project):
    run_stages(project)
    cells = nbformat.read(project.executed / "two.ipynb", as_version=4).cells
    text = "".join(cell.source for cell in cells)
    assert "for the quick profile" in text
    assert "for the full profile" not in text
    tags = {tag: cell for cell in cells for tag in cell.metadata.get("tags", [])}
    assert "remove-cell" in tags["parameters"].metadata.tags
    assert "hide-input" in tags["injected-parameters"].metadata.tags


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("no_such=1", ["'no_such=1'", "STAGE.NAME=VALUE", "one.scale", "two.count"]),
        ("one.no_such=1", ["one.no_such", "one.scale"]),
        ("one.scale", ["STAGE.NAME=VALUE"]),
        ("one.count=2.5", ["one.count", "int", "2.5"]),
        ("one.count=many", ["one.count", "int", "'many'"]),
        ("one.phone=nonsense", ["'nonsense'", "Huawei P40 Pro", "Motorola One Macro"]),
        ("one.profile=full", ["one has no parameter 'profile'"]),
    ],
)
def test_bad_parameters_are_refused_in_one_sentence(project, override, said):
    with pytest.raises(EdgeError) as error:
        run_stages(project, overrides=[override])
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in said)
    assert not project.executed.exists()


def test_unknown_names_in_params_yml(project):
    (project.root / "params.yml").write_text("one: {quick: {speed: 1}}")
    with pytest.raises(EdgeError, match="one has no parameter 'speed'; it has scale, count"):
        read_stages(project)
    for entry, said in (
        ("{quik: {}}", "no key 'quik'; use one of after, data, files, choices, quick, full"),
        ("{after: [zero]}", "no stage 'zero'; use one of one"),
        ("{files: [notebooks/none.json]}", r"the file .*none\.json does not exist"),
        ("{data: {full: [deepen]}}", "no data set 'deepen'; use one of paper-applications"),
    ):
        (project.root / "params.yml").write_text(f"one: {entry}")
        with pytest.raises(EdgeError, match=f"params.yml, one: {said}"):
            read_stages(project)
    (project.root / "params.yml").write_text("three: {}")
    with pytest.raises(EdgeError, match=r"three.ipynb .*does not exist"):
        read_stages(project)
    with pytest.raises(EdgeError, match="no profile 'fast': choose quick or full"):
        Project("fast")


def test_unknown_stage(project):
    with pytest.raises(EdgeError, match="no stage 'six'; the stages are one, two, other"):
        run_stages(project, ["six"])


def test_an_integer_may_stand_for_a_float(project):
    assert read_stages(project)[0].parameters["scale"] == 5


def test_a_failing_cell_is_shown_and_the_last_good_notebook_stays(project):
    run_stages(project)
    good = (project.executed / "one.ipynb").read_text()
    notebook(project.notebooks / "one.ipynb", "volts = 0\n1 / volts")
    with pytest.raises(StageError) as error:
        run_stages(project)
    message = str(error.value)
    assert "one failed in cell" in message
    assert "(body)" in message
    assert "1 / volts" in message
    assert "ZeroDivisionError" in message
    assert "\x1b" not in message
    assert (project.executed / "one.ipynb").read_text() == good
    notebook(project.notebooks / "one.ipynb", FIRST)
    assert "one" in run_stages(project)


def test_progress_names_stage_and_number(project, capsys):
    progress = Progress(every_s=0)
    run_stages(project, progress=progress)
    shown = capsys.readouterr().err
    assert "[2/3] two" in shown
    assert "cell" in shown
    assert "done after" in shown
