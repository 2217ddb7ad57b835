"""`edgeutils energy`, `doctor` and `measure`: joules of a trace, what works here, campaigns."""

import json
import sys
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from edgeutils import EdgeError


def energy(  # noqa: PLR0913, PLR0917 - each argument is an option of the command
    trace: Annotated[Path, typer.Argument(help="Power trace, or the folder of an MLPerf run.")],
    marks: Annotated[Path | None, typer.Option(help="CSV of the windows of inferences.")] = None,
    idle: Annotated[
        str, typer.Option(help="none, const:W, recorded:FILE or surrounding.")
    ] = "none",
    boundary: Annotated[str | None, typer.Option(help="Where the power was taken.")] = None,
    meter: Annotated[str | None, typer.Option(help="Instrument, for its accuracy.")] = None,
    voltage: Annotated[
        float | None, typer.Option(metavar="V", help="Supply voltage, for a trace of current only.")
    ] = None,
    offset: Annotated[
        float | None, typer.Option(help="Seconds to add to the marks; default: estimated.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON value on stdout.")] = False,
) -> None:
    """Energy per inference of a trace, with its uncertainty."""
    # Imported here so that the help does not wait for scipy.
    from edgeutils.hardware import report  # noqa: PLC0415
    from edgeutils.hardware.clock import OffsetEstimate  # noqa: PLC0415

    by_hand = None
    if offset is not None:
        if not isfinite(offset):
            raise EdgeError(f"--offset takes seconds such as 0.307, not {offset}")
        by_hand = OffsetEstimate(offset, 0.0, flags=("offset_by_hand",))
    loaded = report.load(trace, marks=marks, boundary=boundary, meter=meter, voltage_v=voltage)
    found = report.analyse(*loaded, idle=idle, offset=by_hand)
    result = report.report(found)
    if as_json:
        sys.stdout.write(json.dumps(result, indent=1, allow_nan=False) + "\n")
    else:
        _show(result, report.explain())


def _show(found: dict[str, Any], sentences: dict[str, str]) -> None:
    """Print a short summary for people."""
    steady, clock, meter = found["steady"], found["clock"], found["meter"]["name"]
    official_j = sum(window.get("official_energy_j") or 0 for window in found["windows"])
    rows = {
        "inferences": f"{found['inferences']} in {len(found['windows'])} windows",
        "energy per inference": f"{_mj(found['mean_energy_j'])} ± {_mj(found['u_j'])} (standard)",
        "95 % interval": f"{_mj(found['low95_j'])} to {_mj(found['high95_j'])}",
        "official value": _mj(official_j / found["inferences"]) if official_j else "",
        "with the pauses": _mj(found["energy_per_period_j"]),
        "steady part": f"{_mj(steady['mean_energy_j'])}, {steady['inferences'] or 'no'} inferences",
        "uncertainty by": ", ".join(f"{name} {_mj(u)}" for name, u in found["budget"].items()),
        "idle": f"{found['idle_policy']}, {found['idle']['power_w']:.4g} W subtracted",
        "boundary, meter": f"{found['boundary']}, {meter}",
        "clock offset": f"{clock['offset_s']:.6f} s ± {clock['offset_u_s']:.2g} s",
    }
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, text in rows.items():
        if text:
            table.add_row(name, text)
    console = Console(highlight=False, markup=False)
    console.print(table)
    for flag in found["flags"]:
        console.print(f"{flag}: {sentences.get(flag, 'no sentence')}")


def _mj(energy_j: float | None) -> str:
    return "unknown" if energy_j is None else f"{energy_j * 1e3:.5g} mJ"


def doctor(
    meter: Annotated[
        str | None, typer.Option(metavar="NAME", help="Look how often this meter updates.")
    ] = None,
    known_load: Annotated[
        float | None,
        typer.Option(metavar="W", help="Check --meter with a resistor or lamp of this power."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON value on stdout.")] = False,
) -> None:
    """Which meters and runtimes work on this machine, and what to do about the others."""
    from edgeutils.hardware.doctor import examine  # noqa: PLC0415

    found = examine(known_load, meter=meter, switch=_ask)
    if as_json:
        sys.stdout.write(json.dumps(found, indent=1, allow_nan=False) + "\n")
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    for kind in ("meter", "runtime"):
        for row in found.pop(f"{kind}s"):
            said = "; ".join(filter(None, (row["reason"], row["cure"])))
            table.add_row(kind, row["name"], "yes" if row["available"] else "no", said)
    for name, value in found.items():
        table.add_row(name, "", "", _words(value))
    Console(highlight=False, markup=False).print(table)


def measure(
    plan: Annotated[Path, typer.Argument(help="YAML file that says what is measured.")],
    store: Annotated[Path, typer.Option(help="Folder of the results; the same one resumes.")],
    runtime: Annotated[
        str | None, typer.Option(help="litert, tflite-runtime, torch or android, not the plan's.")
    ] = None,
    meter: Annotated[
        str | None, typer.Option(metavar="NAME", help="Power meter, not the plan's.")
    ] = None,
) -> None:
    """Measure kernels, networks and models by a plan; started again, it goes on."""
    from edgeutils.hardware import campaign  # noqa: PLC0415
    from edgeutils.hardware.points import read_plan  # noqa: PLC0415

    best = campaign.run(read_plan(plan, runtime=runtime, meter=meter), store)
    failed = sum("failed" in each.result["flags"] for each in best)
    doubts = sum(each.doubtful for each in best) - failed
    typer.echo(
        f"{len(best)} points, of which {doubts} in doubt and {failed} failed: "
        f"{store / 'measurements.parquet'}"
    )


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(each)}" for name, each in value.items())
    if value is None:
        return "unknown"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _ask(load_on: bool) -> None:
    do = f"Switch the load {'on' if load_on else 'off'}, wait until it is steady, press Enter"
    typer.prompt(do, "", show_default=False, err=True)
