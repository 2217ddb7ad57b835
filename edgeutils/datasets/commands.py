"""`edgeutils data`: list, fetch, check and rebuild the data sets."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from edgeutils import EdgeError, datasets
from edgeutils.table import write_table

app = typer.Typer(help="List, fetch, check and rebuild the data sets.", no_args_is_help=True)
build_app = typer.Typer(help="Recompute committed figures from raw logs.", no_args_is_help=True)
app.add_typer(build_app, name="build")

Json = Annotated[bool, typer.Option("--json", help="One JSON value on stdout.")]


def _show(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    table = Table(box=None, pad_edge=False)
    for name in columns:
        prose = name in ("licence", "problems", "defects")
        align: Any = "right" if name == "rows" else "left"
        table.add_column(name.replace("_", " "), justify=align, no_wrap=not prose, overflow="fold")
    for row in rows:
        table.add_row(*("" if row[name] is None else str(row[name]) for name in columns))
    Console().print(table)


def _write_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, indent=1) + "\n")


def _listed(name: str, **more: object) -> dict[str, Any]:
    entry = datasets.status(name)[0]
    keys = ("name", "rows", "licence", "where", "how_to_get", "defects")
    return {key: getattr(entry, key) for key in keys} | more


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List every data set: rows, licence, whether it is at hand and how to get it."""
    entries = datasets.status()
    if as_json:
        return _write_json([_listed(entry.name) for entry in entries])
    _show([vars(entry) for entry in entries], ("name", "rows", "boundary", "where", "licence"))
    for entry in entries:
        if entry.where == "missing":
            Console().print(f"{entry.name}: {entry.how_to_get}", highlight=False)
    return None


@app.command()
def fetch(
    names: Annotated[list[str], typer.Argument(help="Data sets, or all.")], as_json: Json = False
) -> None:
    """Download data sets into the cache, verified by sha256."""
    if names == ["all"]:
        names = [e.name for e in datasets.status() if e.where == "missing" and e.downloadable]
    for name in names:
        found = datasets.fetch(name)
        Console(stderr=True).print(f"{name}: {len(found)} files at hand")
    if as_json:
        _write_json([_listed(name) for name in names])


@app.command()
def check(
    names: Annotated[list[str] | None, typer.Argument(help="Default: all at hand.")] = None,
    as_json: Json = False,
) -> None:
    """Verify hashes, row counts and counts of defects; exit code 1 if something differs."""
    chosen = names or [e.name for e in datasets.status() if e.where != "missing"]
    results = [_listed(name, problems=datasets.check(name)) for name in chosen]
    if as_json:
        _write_json(results)
    else:
        rows = [{**r, "problems": "; ".join(r["problems"]) or "none"} for r in results]
        _show(rows, ("name", "rows", "where", "problems"))
    if any(result["problems"] for result in results):
        raise typer.Exit(1)


@build_app.command("mlperf")
def build_mlperf(
    logs: Annotated[Path, typer.Option(help="Checkout of inference_results_vN.N, or several.")],
    out: Annotated[Path | None, typer.Option(help="CSV to write; default: only compare.")] = None,
    as_json: Json = False,
) -> None:
    """Recompute MLPerf's power figures from the logs and compare them with the committed ones."""
    if out is not None and out.suffix != ".csv":
        raise EdgeError(f"--out should end in .csv, not {out.name!r}")
    figures = datasets.build_mlperf(logs)
    compared, largest = datasets.compare_with_committed(figures)
    summary: dict[str, Any] = {"rows": len(figures), "compared": compared}
    summary |= {"largest_relative_difference": largest, "out": out and str(out), **figures.attrs}
    if out is not None:
        write_table(figures, out)
    _write_json(summary) if as_json else _show([summary], tuple(summary))
