"""The contract of a chapter, one function per rule; each yields a sentence per breach.

`RULES` holds them all. `tests/test_notebooks.py` applies them to every chapter, and to planted
notebooks that break each of them.
"""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat

from edgeutils import plots

FIRST = ["What you will learn", "Before you start"]
LAST = ["What we saw", "Limits", "Exercises", "References"]
PROFILES = {"quick": "only-full", "full": "only-quick"}
MAX_LINES = 20
GLUE_KEY = re.compile(r"ch\d\d-[a-z0-9-]+")
GLUE_ROLE = re.compile(r"\{glue:\w+\}`([^`:]+(?:::[^`:]+)?)(?::[^`]*)?`")
FORM_NAMES = ("use_book_style", "palette", "markers", "new_axes")
DRAWS = re.compile(
    r"\bplots\.(?!(?:" + "|".join(FORM_NAMES) + r")\b)[a-z]\w*\(|\bsns\.\w*(?:plot|map|grid)\("
    r"|\bplt\.\w+\(|\.plot\(|\bpx\.\w+\("
)
# Calls that return nothing, so that nothing is displayed where they end a cell.
SILENT = {"set_size_inches", "tick_params", "grid", "margins", "invert_yaxis", "invert_xaxis"} | {
    name
    for name, function in inspect.getmembers(plots, inspect.isfunction)
    if inspect.signature(function).return_annotation is None
}
UNITS = (
    r"%|percent|per cent|[numkM]?[JWVA]|µ[JWVAs]|[munp]?s|k?m?Wh|[kMG]?Hz|[kMG]i?B|°C"
    r"|joules?|watts?|seconds?|milliseconds?|minutes?|times"
)
# A number that names an interval is a definition, no result: "90 % bootstrap interval", "95 % PI".
INTERVAL = re.compile(
    r"\b\d+(?:\.\d+)?\s?%[-\s](?:[a-z]+[-\s]){0,3}(?:intervals?|bands?|range|limits?|bars?)"
    r"|intervals?\s(?:of|at|promise)\s\d+(?:\.\d+)?\s?%"
)
TYPED = re.compile(r"(?<![\w.{-])\d[\d,.]*\s?(?:" + UNITS + r")(?![\w%])")
NUMBER = re.compile(r"(?<![\w.-])\d[\d,.]*(?![\w-])")
ALLOW = re.compile(r"<!--\s*typed:(.*?)-->", re.S)


def load(path: Path) -> nbformat.NotebookNode:
    """Read a notebook; its `stem` in the metadata tells the rules which chapter it is."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata["stem"] = path.stem
    return notebook


def chapter(notebook: nbformat.NotebookNode) -> str:
    return "ch" + notebook.metadata["stem"][:2]


def tags(cell: nbformat.NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def figure(cell: nbformat.NotebookNode) -> dict:
    return cell.metadata.get("mystnb", {}).get("figure", {})


def prose(text: str) -> str:
    """Text of a markdown cell without code, roles, mathematics, links and allowed numbers."""
    for allowed in ALLOW.findall(text):
        for phrase in allowed.split(";"):
            text = text.replace(phrase.strip(), " ") if phrase.strip() else text
    text = re.sub(r"```.*?```|\$\$.*?\$\$|<!--.*?-->", " ", text, flags=re.S)
    text = re.sub(r"\{[\w:]+\}`[^`]*`|`[^`]*`|\$[^$]*\$|\]\([^)]*\)", " glued ", text)
    return INTERVAL.sub(" ", text)


def headings(cell: nbformat.NotebookNode) -> list[tuple[int, str]]:
    if cell.cell_type != "markdown":
        return []
    text = re.sub(r"```.*?```", "", cell.source, flags=re.S)
    return [(len(m[1]), m[2].strip()) for m in re.finditer(r"^(#+) (.+)$", text, re.M)]


def statements(cell: nbformat.NotebookNode) -> list[ast.stmt]:
    return ast.parse(cell.source).body


def glued(notebook: nbformat.NotebookNode, profile: str | None = None) -> list[str]:
    """Keys that the code cells of a profile (or of both) glue, as often as they do."""
    keys: list[str] = []
    for cell in code_cells(notebook):
        if "glue(" not in cell.source or (profile and PROFILES[profile] in tags(cell)):
            continue
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                keys += [node.value] if GLUE_KEY.fullmatch(node.value) else []
    return keys


def glue_uses(notebook: nbformat.NotebookNode, profile: str) -> Iterator[tuple[str, str]]:
    for cell in notebook.cells:
        if PROFILES[profile] not in tags(cell):
            text = cell.source if cell.cell_type == "markdown" else figure(cell).get("caption", "")
            yield from ((cell.id, key) for key in GLUE_ROLE.findall(text))


def order(notebook: nbformat.NotebookNode) -> Iterator[str]:
    titles = [(i, *heading) for i, cell in enumerate(notebook.cells) for heading in headings(cell)]
    ones, twos = ([title for title in titles if title[1] == level] for level in (1, 2))
    if [i for i, *_ in ones] != [0]:
        yield f"the first cell holds the only H1, here H1 stand in cells {[i for i, *_ in ones]}"
    if not re.search(r"\*\*[^*]+\?\*\*", notebook.cells[0].source):
        yield "the first cell asks the chapter's question, bold and with a question mark"
    names = [name for *_, name in twos]
    if names[:2] != FIRST or names[-4:] != LAST or len(names) < 7:
        yield f"sections run {FIRST}, the body, {LAST}; here: {names}"
        return
    learn = next(cell.source for cell in notebook.cells if (2, FIRST[0]) in headings(cell))
    if not 3 <= len(re.findall(r"^[-*] ", learn, re.M)) <= 5:
        yield "What you will learn has 3 to 5 bullets"
    code = [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    if len(code) < 2 or "import " not in notebook.cells[code[0]].source:
        yield "the first code cell imports"
    elif "parameters" not in tags(notebook.cells[code[1]]):
        yield "the second code cell is tagged parameters"
    if code and not twos[1][0] < code[0] < twos[2][0]:
        yield "imports and parameters stand between Before you start and the body"


def stripped(notebook: nbformat.NotebookNode) -> Iterator[str]:
    for cell in code_cells(notebook):
        if cell.outputs or cell.execution_count is not None:
            yield f"{cell.id}: stored output or execution count; run nbstripout"
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        yield "the kernel is python3"
    if "widgets" in notebook.metadata:
        yield "stored widget state; run nbstripout"
    for cell in notebook.cells:
        if not re.fullmatch(r"[a-z][a-z0-9-]*", cell.id) or re.fullmatch(r"[0-9a-f]{8}", cell.id):
            yield f"{cell.id}: a cell's id is a readable name like fig-energy"


def parameters(notebook: nbformat.NotebookNode) -> Iterator[str]:
    cells = [cell for cell in code_cells(notebook) if "parameters" in tags(cell)]
    if len(cells) != 1:
        yield f"one cell is tagged parameters, here {len(cells)}"
        return
    found = {}
    lines = cells[0].source.splitlines()
    for statement in statements(cells[0]):
        try:
            assert isinstance(statement, ast.Assign | ast.AnnAssign)
            found[ast.unparse(getattr(statement, "target", None) or statement.targets[0])] = (
                ast.literal_eval(statement.value)
            )
        except (AssertionError, ValueError):
            yield f"parameters: {ast.unparse(statement)} is no literal assignment"
        if not re.search(r"  # \w[\w\[\], |]*: \w", lines[statement.end_lineno - 1]):
            yield f"parameters: {ast.unparse(statement)} needs a comment '# type: meaning, unit'"
    for name, value in (("profile", "quick"), ("results_dir", "../results/quick")):
        if found.get(name) != value:
            yield f"parameters: {name} should default to {value!r}"


def figures(notebook: nbformat.NotebookNode) -> Iterator[str]:
    for cell in code_cells(notebook):
        if not figure(cell):
            if DRAWS.search(cell.source) and "solution" not in tags(cell):
                yield f"{cell.id}: draws, so it needs a caption, an alt text and a name"
            continue
        alt = cell.metadata["mystnb"].get("image", {}).get("alt", "")
        caption = figure(cell).get("caption", "")
        if not figure(cell).get("name", "").startswith(f"fig-{chapter(notebook)}-"):
            yield f"{cell.id}: a figure's name starts with fig-{chapter(notebook)}-"
        if len(alt) < 20 or "glue:" in alt:
            yield f"{cell.id}: the alt text describes the figure's form, without glue"
        if NUMBER.search(INTERVAL.sub("", alt)):
            yield f"{cell.id}: a value in the alt text: {NUMBER.search(INTERVAL.sub('', alt))[0]}"
        if len(caption) < 20:
            yield f"{cell.id}: a caption tells the finding"
        if number := NUMBER.search(prose(caption)):
            yield f"{cell.id}: the number {number[0]} in the caption should be glued"
        if "hide-input" not in tags(cell):
            yield f"{cell.id}: a figure's cell is tagged hide-input"
        if re.search(r"\bprint\(|plt\.title\(|suptitle\(", cell.source):
            yield f"{cell.id}: a figure has no title and prints nothing"
        last = statements(cell)[-1]
        if (
            isinstance(last, ast.Expr)
            and isinstance(last.value, ast.Call)
            and re.match(r"(ax\w*|plots|sns|plt)\b", ast.unparse(last))
            and ast.unparse(last.value.func).split(".")[-1] not in SILENT
            and not cell.source.rstrip().endswith(";")
        ):
            yield f"{cell.id}: one output per figure: assign the last expression or end it with ;"


def short_cells(notebook: nbformat.NotebookNode) -> Iterator[str]:
    functions = 0
    for cell in code_cells(notebook):
        if len(cell.source.splitlines()) > MAX_LINES:
            yield f"{cell.id}: {len(cell.source.splitlines())} lines; at most {MAX_LINES}"
        try:
            nodes = list(ast.walk(ast.parse(cell.source)))
        except SyntaxError:
            yield f"{cell.id}: plain Python only, without magics"
            continue
        if any(isinstance(node, ast.ClassDef | ast.Try) for node in nodes):
            yield f"{cell.id}: no class and no try in a notebook; move it into edgeutils"
        found = [node for node in nodes if isinstance(node, ast.FunctionDef)]
        functions += len(found)
        if any(node.end_lineno - node.lineno > 6 for node in found):
            yield f"{cell.id}: a function of more than 6 lines belongs into edgeutils"
    if functions > 2:
        yield f"{functions} functions are defined; more than two belong into edgeutils"


def exercises(notebook: nbformat.NotebookNode) -> Iterator[str]:
    start = [i for i, cell in enumerate(notebook.cells) if (2, "Exercises") in headings(cell)]
    solutions = [i for i, cell in enumerate(notebook.cells) if "solution" in tags(cell)]
    if len(solutions) < 3:
        yield f"at least 3 exercises with solutions, here {len(solutions)}"
    for i in solutions:
        cell = notebook.cells[i]
        if not start or i < start[0] or notebook.cells[i - 1].cell_type != "markdown":
            yield f"{cell.id}: a solution follows its exercise below Exercises"
        if "hide-cell" not in tags(cell) or not cell.metadata.get("jupyter", {}).get(
            "source_hidden"
        ):
            yield f"{cell.id}: a solution is tagged hide-cell and hidden in JupyterLab too"
        last = statements(cell)[-1]
        if not isinstance(last, ast.Expr | ast.Assert) or cell.source.rstrip().endswith(";"):
            yield f"{cell.id}: a solution ends in a checkable value"


def typed_results(notebook: nbformat.NotebookNode) -> Iterator[str]:
    body = False
    for cell in notebook.cells:
        body = (body or "parameters" in tags(cell)) and (2, "Exercises") not in headings(cell)
        if not body or cell.cell_type != "markdown":
            continue
        for number in TYPED.findall(prose(cell.source)):
            yield f"{cell.id}: {number!r} is typed; glue it, or list it in <!-- typed: ... -->"
        if re.search(r"\b(Figure|Fig\.) \d", cell.source):
            yield f"{cell.id}: figures are referred to by {{numref}}, not by a typed number"


def glue_keys(notebook: nbformat.NotebookNode) -> Iterator[str]:
    for profile in PROFILES:
        keys = glued(notebook, profile)
        for key in sorted({key for key in keys if keys.count(key) > 1}):
            yield f"{key} is glued twice in profile {profile}"
        for cell_id, key in glue_uses(notebook, profile):
            if "::" not in key and key not in keys:
                yield f"{cell_id}: nothing glues {key} in profile {profile}"
    for key in set(glued(notebook)):
        if not key.startswith(chapter(notebook) + "-"):
            yield f"{key} should start with {chapter(notebook)}-"
    for cell in code_cells(notebook):
        if re.search(r"(?<!import )\bglue\(", cell.source) and (
            "remove-cell" not in tags(cell) or "display=False" not in cell.source
        ):
            yield f"{cell.id}: glue with display=False, in a cell tagged remove-cell"


RULES = (
    order,
    stripped,
    parameters,
    figures,
    short_cells,
    exercises,
    typed_results,
    glue_keys,
)
