"""Every chapter keeps the contract of a chapter, and each rule catches its planted fault."""

import re
from collections import Counter

import nbformat
import notebook_rules as rules
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from edgeutils import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LOADED = {path: rules.load(path) for path in NOTEBOOKS}
PAGES = sorted((ROOT / "book").glob("*.md"))


def keys_of(text):
    """Citation keys in a text."""
    cited = re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", text)
    return {key.strip() for group in cited for key in group.split(",")}


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_chapter_keeps_the_contract(path, rule):
    assert list(rule(LOADED[path])) == []


def test_there_are_chapters():
    assert len(NOTEBOOKS) >= 6
    assert all(re.fullmatch(r"\d\d_[a-z_]+", path.stem) for path in NOTEBOOKS)


def test_glue_keys_and_figure_names_are_unique_across_the_book():
    notebooks = LOADED.values()
    for profile in rules.PROFILES:
        keys = Counter(key for notebook in notebooks for key in set(rules.glued(notebook, profile)))
        names = Counter(
            rules.figure(cell)["name"]
            for notebook in notebooks
            for cell in rules.code_cells(notebook)
            if rules.figure(cell) and rules.PROFILES[profile] not in rules.tags(cell)
        )
        assert [name for name, count in (keys + names).items() if count > 1] == []


@pytest.mark.parametrize("path", NOTEBOOKS + PAGES, ids=lambda path: path.name)
def test_references_lead_somewhere(path):
    """Keys of other pages, figures and citations exist; Sphinx would only say so much later."""
    text = path.read_text(encoding="utf-8")
    # myst-nb cuts at the last colon: without a format the key itself would be cut off.
    assert re.findall(r"\{glue:\w+\}`[^`:]+::[^`:]+`", text) == []
    for target, key in re.findall(r"\{glue:\w+\}`([^`:]+)::([^`:]+)", text):
        notebook = (path.parent / target).resolve()
        assert notebook in LOADED, f"{path.name} glues from {target}, which does not exist"
        for profile in rules.PROFILES:
            assert key in rules.glued(LOADED[notebook], profile), f"{target} has no {key}"
    names = {
        rules.figure(cell).get("name")
        for other in LOADED.values()
        for cell in rules.code_cells(other)
    }
    assert set(re.findall(r"\{numref\}`(fig-[^`]+)`", text)) <= names
    entries = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    assert keys_of(text) <= set(re.findall(r"^@\w+\{([^,]+),", entries, re.M))


# ---- the rules themselves ------------------------------------------------------------------


def planted():
    """Smallest chapter that keeps every rule."""
    hidden = {"tags": ["hide-cell", "solution"], "jupyter": {"source_hidden": True}}
    drawing = {
        "tags": ["hide-input"],
        "mystnb": {
            "image": {"alt": "Scatter of energy over latency, one marker per network."},
            "figure": {
                "caption": "Energy follows latency ({glue:text}`ch07-n` networks, 90 % intervals).",
                "name": "fig-ch07-energy",
            },
        },
    }
    sections = {
        "title": "# Planted\n\n**Does every rule bite?**",
        "learn": "## What you will learn\n\n- See.\n- Try.\n- Judge.",
        "before": "## Before you start\n\nA minute.",
    }
    cells = [new_markdown_cell(text, id=name) for name, text in sections.items()]
    cells += [
        new_code_cell("from myst_nb import glue\n\nfrom edgeutils import plots", id="imports"),
        new_code_cell(
            'profile = "quick"  # str: quick or full\n'
            'results_dir = "../results/quick"  # str: where tables go\n'
            "folds = 5  # int: number of folds",
            id="params",
            metadata={"tags": ["parameters"]},
        ),
        new_markdown_cell("## Body\n\nDNN7 takes {glue:text}`ch07-e:.1f` J on CPU4.", id="body"),
        new_code_cell(
            'glue("ch07-n", 3, display=False)\nglue("ch07-e", 0.2, display=False)',
            id="glue",
            metadata={"tags": ["remove-cell"]},
        ),
        new_code_cell("ax = plots.scatter(table)", id="fig-energy", metadata=drawing),
        new_markdown_cell("## What we saw\n\nSee {numref}`fig-ch07-energy`.", id="saw"),
        new_markdown_cell("## Limits\n\nNone.", id="limits"),
    ]
    for i in (1, 2, 3):
        heading = "## Exercises\n\n" if i == 1 else ""
        cells.append(new_markdown_cell(f"{heading}**{i}.** Set it to 100 ms.", id=f"exercise-{i}"))
        cells.append(new_code_cell(f"{i} + {i}", id=f"solution-{i}", metadata=dict(hidden)))
    cells.append(new_markdown_cell("## References\n\nNone.", id="references"))
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    return new_notebook(cells=cells, metadata=kernel)


def replaced(cell, old, new):
    """Fault: `old` in the source of a cell becomes `new`."""

    def fault(notebook):
        found = next(c for c in notebook.cells if c.id == cell)
        assert old in found.source
        found.source = found.source.replace(old, new)

    return fault


def metadata(cell, **values):
    """Fault: metadata of a cell are replaced."""
    return lambda notebook: next(c for c in notebook.cells if c.id == cell).metadata.update(values)


def drawn(part, **values):
    """Fault: parts of the figure's metadata are replaced."""

    def fault(notebook):
        cell = next(c for c in notebook.cells if c.id == "fig-energy")
        cell.metadata["mystnb"][part].update(values)

    return fault


def without(cell):
    """Fault: a cell is missing."""
    return lambda notebook: notebook.cells.remove(next(c for c in notebook.cells if c.id == cell))


def ran(notebook):
    """Fault: a cell was stored after it ran."""
    notebook.cells[3].execution_count = 1


FAULTS = [
    (rules.order, replaced("body", "## Body", "# Body"), "only H1"),
    (rules.order, replaced("title", "?", "."), "bold and with a question mark"),
    (rules.order, without("limits"), "sections run"),
    (rules.order, replaced("learn", "- Judge.", ""), "sections run|3 to 5 bullets"),
    (rules.order, without("imports"), "first code cell imports"),
    (rules.order, metadata("params", tags=[]), "second code cell"),
    (rules.stripped, ran, "execution count"),
    (rules.stripped, lambda notebook: notebook.metadata.pop("kernelspec"), "kernel is python3"),
    (rules.stripped, lambda nb: setattr(nb.cells[0], "id", "1234abcd"), "readable name"),
    (rules.stripped, lambda nb: nb.metadata.update(widgets={}), "widget state"),
    (rules.parameters, metadata("params", tags=[]), "one cell is tagged parameters, here 0"),
    (rules.parameters, replaced("params", "= 5", "= len('five')"), "no literal"),
    (rules.parameters, replaced("params", "  # int: number of folds", ""), "needs a comment"),
    (rules.parameters, replaced("params", '"quick"', '"full"'), "profile should default"),
    (rules.figures, metadata("fig-energy", mystnb={}), "draws, so it needs"),
    (rules.figures, drawn("figure", name="energy"), "starts with fig-ch07-"),
    (rules.figures, drawn("image", alt=""), "describes the figure's form"),
    (rules.figures, drawn("image", alt="Scatter of 95 networks, one marker each."), "value in"),
    (rules.figures, drawn("figure", caption=""), "tells the finding"),
    (rules.figures, drawn("figure", caption="Energy doubles on 95 networks."), "95 .* be glued"),
    (rules.figures, metadata("fig-energy", tags=[]), "tagged hide-input"),
    (rules.figures, replaced("fig-energy", "ax = plots", "print(1)\nax = plots"), "prints nothing"),
    (rules.figures, replaced("fig-energy", "ax = ", ""), "one output per figure"),
    (rules.short_cells, replaced("solution-1", "1 + 1", "x = 1\n" * 21), "21 lines; at most 20"),
    (rules.short_cells, replaced("solution-1", "1 + 1", "%matplotlib inline"), "without magics"),
    (rules.short_cells, replaced("solution-1", "1 + 1", "class A:\n    x = 1"), "no class"),
    (
        rules.short_cells,
        replaced("solution-1", "1 + 1", "try:\n    x = 1\nexcept ValueError:\n    x = 2"),
        "no try",
    ),
    (
        rules.short_cells,
        replaced("solution-1", "1 + 1", "def f(x):\n" + "    x += 1\n" * 8),
        "more than 6 lines",
    ),
    (
        rules.short_cells,
        replaced("solution-1", "1 + 1", "".join(f"def f{i}():\n    return 1\n" for i in range(3))),
        "3 functions",
    ),
    (rules.exercises, without("solution-2"), "at least 3 exercises with solutions, here 2"),
    (rules.exercises, without("exercise-2"), "follows its exercise"),
    (rules.exercises, metadata("solution-1", jupyter={}), "hidden in JupyterLab"),
    (rules.exercises, metadata("solution-1", tags=["solution"]), "tagged hide-cell"),
    (rules.exercises, replaced("solution-1", "1 + 1", "x = 1"), "checkable value"),
    (rules.typed_results, replaced("body", "{glue:text}`ch07-e:.1f`", "0.2"), "'0.2 J' is typed"),
    (rules.typed_results, replaced("saw", "See", "It saves 12.5 %. See"), "'12.5 %' is typed"),
    (rules.typed_results, replaced("saw", "See", "In 1,250 ms. See"), "'1,250 ms' is typed"),
    (
        rules.typed_results,
        replaced("saw", "See {numref}`fig-ch07-energy`", "See Figure 3"),
        "numref",
    ),
    (rules.glue_keys, replaced("glue", "ch07-e", "ch07-n"), "ch07-n is glued twice"),
    (rules.glue_keys, replaced("body", "ch07-e", "ch07-x"), "nothing glues ch07-x"),
    (rules.glue_keys, replaced("glue", "ch07-n", "ch06-n"), "ch06-n should start with ch07-"),
    (
        rules.glue_keys,
        metadata("glue", tags=["remove-cell", "only-full"]),
        "ch07-e in profile quick",
    ),
    (rules.glue_keys, metadata("glue", tags=[]), "tagged remove-cell"),
]


@pytest.fixture
def stored(tmp_path):
    """Write a notebook and read it as the rules do."""

    def store(notebook):
        path = tmp_path / "07_planted.ipynb"
        nbformat.write(notebook, path)
        return rules.load(path)

    return store


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_a_good_chapter_passes(stored, rule):
    assert list(rule(stored(planted()))) == []


@pytest.mark.parametrize(
    ("rule", "fault", "message"), FAULTS, ids=lambda x: getattr(x, "__name__", str(x))
)
def test_each_rule_catches_its_planted_fault(stored, rule, fault, message):
    notebook = planted()
    fault(notebook)
    assert re.search(message, "\n".join(rule(stored(notebook))))


def test_every_rule_has_a_planted_fault():
    assert {rule for rule, *_ in FAULTS} == set(rules.RULES)


def test_a_call_that_returns_nothing_may_end_a_figure(stored):
    notebook = planted()
    replaced("fig-energy", "(table)", "(table)\nax.figure.set_size_inches(6, 3)")(notebook)
    assert list(rules.figures(stored(notebook))) == []


@pytest.mark.parametrize(
    "text",
    [
        "The bars are 90 % intervals.",
        "A 95 % bootstrap\ninterval; the intervals promise 90 %.",
        "The P40 Pro and DNN7 on CPU4.",
        "Take $0.2\\,\\mathrm{J}$ or `5 ms`.",
        "It samples at 5 kHz. <!-- typed: 5 kHz -->",
        "Two phones, three networks, 12 rows.",
    ],
)
def test_what_is_no_typed_result(stored, text):
    notebook = planted()
    replaced("saw", "See", text + " See")(notebook)
    assert list(rules.typed_results(stored(notebook))) == []
