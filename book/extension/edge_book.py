"""Sphinx extension of this book: serve every asset from the book itself.

The stock Jupyter Book page asks other hosts for MathJax, require.js, the widget manager and thebe.
MathJax comes from an installed package, saved widgets are drawn by `widget-host.js`, and the rest
is not needed. The directive `saved-widget` shows the widget of a chapter on another page.
"""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import nbformat
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

HERE = Path(__file__).parent
MATHJAX = Path("static") / "mathjax"
USED = ("tex-chtml.js", "output/chtml/fonts", "input/tex/extensions", "ui", "a11y", "sre")
STATE = "application/vnd.jupyter.widget-state+json"
VIEW = "application/vnd.jupyter.widget-view+json"


class SavedWidget(SphinxDirective):
    """`{saved-widget} notebook.ipynb`: the first widget that an executed notebook displays."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Copy the saved state and view of the widget into this page."""
        relative, absolute = self.env.relfn2path(self.arguments[0])
        self.env.note_dependency(relative)
        notebook = nbformat.read(absolute, as_version=4)
        outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
        views = [out.data[VIEW] for out in outputs if VIEW in out.get("data", {})]
        if not views:
            raise self.error(f"{relative} displays no widget")
        state = notebook.metadata["widgets"][STATE]
        self.env.metadata[self.env.docname]["saved_widget"] = True
        scripts = [
            f'<script type="{mime}">{json.dumps(value).replace("</", "<" + chr(92) + "/")}</script>'
            for mime, value in ((STATE, state), (VIEW, views[0]))
        ]
        return [nodes.raw("", "\n".join(scripts), format="html")]


def _mathjax() -> Path:
    spec = find_spec("sphinx-mathjax-offline")
    if spec is None or spec.origin is None:
        raise RuntimeError("the package sphinx-mathjax-offline is not installed: run make book")
    return Path(spec.origin).parent / MATHJAX


def _configure(app, config):
    # A folder of its own: Jupyter Book loads every script below _static on every page.
    config.html_static_path.append(str(HERE / "assets"))
    config.mathjax_path = "mathjax/tex-chtml.js"
    # The sidebar has a search field already.
    config.html_theme_options["navbar_persistent"] = []


def _copy_mathjax(app, exception):
    if exception is None and app.builder.format == "html":
        target = Path(app.outdir) / "_static" / "mathjax"
        source = _mathjax()
        for name in USED:
            path = source / name
            if path.is_dir():
                shutil.copytree(path, target / name, dirs_exist_ok=True)
            elif path.is_file():
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target / name)


def _choose_scripts(app, pagename, templatename, context, doctree):
    if app.env.metadata.get(pagename, {}).get("saved_widget"):
        app.add_js_file("widget-host.js")

    def keep(script) -> bool:
        body = getattr(script, "attributes", {}).get("body") or ""
        return "thebe" not in str(getattr(script, "filename", script)) and "THEBE" not in body

    context["script_files"] = [s for s in context.get("script_files", []) if keep(s)]


def setup(app):
    """Register the hooks."""
    app.add_directive("saved-widget", SavedWidget)
    app.add_css_file("edge.css")
    app.add_js_file("accessibility.js")
    app.connect("config-inited", _configure)
    app.connect("html-page-context", _choose_scripts, priority=900)
    app.connect("build-finished", _copy_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
