"""The built book: every page, figure, caption and link, in a real browser too."""

import functools
import http.server
import re
import subprocess
import threading
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlparse

import nbformat
import papermill
import pytest
import yaml
from bs4 import BeautifulSoup

from edgeutils import ROOT, datasets
from edgeutils.book import BuildError, build_book
from edgeutils.pipeline import run_stages
from edgeutils.progress import Progress
from edgeutils.stages import Project

# `make test` gives each file to one worker, so that one process builds the book.
pytestmark = pytest.mark.book

CHROMIUM = Path("/usr/bin/chromium")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
PAGES = [TOC["root"], *(c["file"] for part in TOC["parts"] for c in part["chapters"])]


@pytest.fixture(scope="session")
def site() -> Path:
    """The quick book; only what changed since the last build is made again."""
    project = Project("quick")
    run_stages(project)
    return build_book(project, Progress()).parent


@pytest.mark.parametrize(
    "path",
    [path for path in NOTEBOOKS if path.stem[:2] in ("03", "04", "05", "09")],
    ids=lambda p: p.stem,
)
def test_a_chapter_runs_alone_without_the_tables_of_the_others(tmp_path, monkeypatch, path):
    monkeypatch.setenv("EDGE_DATA_MIRROR", str(tmp_path))  # what needs public sets is left out
    papermill.execute_notebook(
        str(path),
        str(tmp_path / path.name),
        parameters={"results_dir": str(tmp_path / "results")},
        cwd=str(path.parent),
        progress_bar=False,
    )
    assert [folder.name for folder in (tmp_path / "results").iterdir()] == [path.stem]


def page(site: Path, name: str) -> BeautifulSoup:
    return BeautifulSoup((site / f"{name}.html").read_text(), "html.parser")


@pytest.mark.parametrize("name", PAGES)
def test_page_has_one_title_and_no_leftovers(site, name):
    article = page(site, name).find("article")
    assert len(article.find_all("h1")) == 1
    text = article.get_text()
    for leftover in ("{glue", "{numref", "{cite", "{term", "Traceback", "nan %", "nan%"):
        assert leftover not in text, f"{leftover} is left in {name}"
    assert not article.select(".system-message, .problematic")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_figure_is_there_with_caption_and_alt_text(site, path):
    article = page(site, f"notebooks/{path.stem}").find("article")
    expected = [
        cell.metadata["mystnb"]
        for cell in nbformat.read(path, as_version=4).cells
        if "figure" in cell.metadata.get("mystnb", {})
        and "only-full" not in cell.metadata.get("tags", [])
    ]
    assert expected, "a chapter without a figure"
    for wanted in expected:
        figure = article.find("figure", id=wanted["figure"]["name"])
        assert figure, f"no figure {wanted['figure']['name']}"
        image = figure.find("img")
        assert image["alt"] == wanted["image"]["alt"]
        file = (site / "notebooks" / image["src"]).resolve()
        assert file.stat().st_size > 5000
        caption = figure.find("figcaption").get_text()
        assert len(caption.split()) > 8
        assert caption.count("(") == caption.count(")")


def test_the_front_page_quotes_numbers_of_the_run(site):
    article = page(site, "book/index").find("article")
    findings = article.select_one(".edge-findings")
    assert findings
    assert len(re.findall(r"\d", findings.get_text())) > 8


def test_the_entry_page_leads_to_the_front_page(site):
    assert "book/index.html" in (site / "index.html").read_text()


def test_the_status_page_names_stages_and_data_sets(site):
    text = page(site, "book/status").find("article").get_text()
    assert all(path.stem in text for path in NOTEBOOKS)
    assert all(entry.name in text for entry in datasets.status())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_launch_links_name_tracked_files(site, path):
    tracked = subprocess.run(
        ["git", "ls-files", "notebooks"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    links = [
        link["href"]
        for link in page(site, f"notebooks/{path.stem}").select("a[href*='mybinder.org']")
    ]
    assert links, "no launch button"
    for link in links:
        opened = unquote(parse_qs(urlparse(link).query)["urlpath"][0])
        assert opened.split("/tree/")[-1] in tracked


def test_a_fault_in_a_page_keeps_the_last_good_book(tmp_path):
    project = Project("quick", tmp_path)
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "index.md").write_text("# Title\n\nSee {ref}`nowhere`.\n")
    (tmp_path / "params.yml").write_text("{}")
    (tmp_path / "_config.yml").write_text("title: T\nexecute: {execute_notebooks: 'off'}\n")
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: book/index\n")
    good = tmp_path / "_build" / "html" / "index.html"
    good.parent.mkdir(parents=True)
    good.write_text("the last good book")
    with pytest.raises(BuildError, match=r"(?s)nowhere.*last good book stays"):
        build_book(project, Progress())
    assert good.read_text() == "the last good book"


@pytest.fixture(scope="session")
def browser():
    if not CHROMIUM.exists():
        pytest.skip("needs Debian's chromium: apt-get install chromium")
    playwright_api = pytest.importorskip("playwright.sync_api")
    with playwright_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"]
        )
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def address(site):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def visit(browser, address: str, name: str, width: int):
    """Open a page with every other host blocked; return it with what it complained about."""
    complaints: list[str] = []
    tab = browser.new_page(viewport={"width": width, "height": 900})

    def only_here(route):
        if route.request.url.startswith((address, "data:", "blob:")):
            route.continue_()
        else:
            complaints.append(f"asks {route.request.url}")
            route.abort()

    tab.route("**/*", only_here)
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    tab.goto(f"{address}/{name}.html")
    tab.wait_for_load_state("networkidle")
    return tab, complaints


@pytest.mark.browser
@pytest.mark.parametrize("width", [1300, 390])
@pytest.mark.parametrize("name", PAGES)
def test_page_works_offline_at_desktop_and_phone_width(browser, address, name, width):
    tab, complaints = visit(browser, address, name, width)
    assert complaints == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= width + 2
    tab.close()


@pytest.mark.browser
@pytest.mark.parametrize("name", ["book/index", "notebooks/02_exploration"])
def test_the_explorer_answers_without_a_kernel(browser, address, name):
    tab, complaints = visit(browser, address, name, 1300)
    widget = tab.locator(".edge-widget")
    before = widget.locator("table").inner_text()
    widget.get_by_label("Network").select_option("DNN1")
    widget.get_by_label("Phone").select_option("Motorola One Macro")
    after = widget.locator("table").inner_text()
    row = datasets.load("paper-applications").query(
        "device == 'Motorola One Macro' and name == 'DNN1' and processor == 'CPU4'"
    )
    assert after != before
    assert f"{row.power_w.item():.2f} W" in after
    assert complaints == []
    tab.close()
