"""`edgeutils kernels`: what a model is made of."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from edgeutils.networks.tflite import ModelKernels


def kernels(
    model: Annotated[Path, typer.Argument(help="A .tflite file.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON value on stdout.")] = False,
) -> None:
    """Kernels of a model, the work that each one is, and what in it is none."""
    # Imported here so that the help does not wait for the schema.
    from edgeutils.networks.tflite import read  # noqa: PLC0415

    found = read(model)
    rows = found.frame().astype(object)
    result = {
        "model": found.model,
        "dtype": found.dtype,
        "total_macs": found.macs,
        "total_params": found.params,
        "kernels": rows.where(rows.notna(), None).to_dict("records"),
        "uncovered": [{"op": op, "count": count} for op, count in found.uncovered.items()],
        "notes": list(found.notes),
    }
    if as_json:
        sys.stdout.write(json.dumps(result, indent=1, allow_nan=False) + "\n")
    else:
        _show(found, result["kernels"])


def _show(found: "ModelKernels", rows: list[dict[str, Any]]) -> None:
    """Print kernels for people."""
    table, console = Table(box=None, pad_edge=False), Console(highlight=False, markup=False)
    for name in ("", "kernel", "map", "channels", "window", "MMACs", "share", "kB", "operators"):
        right = name in ("", "MMACs", "share", "kB")
        fold = name in ("channels", "operators")
        justify: Any = "right" if right else "left"
        table.add_column(name, justify=justify, no_wrap=not fold, overflow="fold")
    for number, row in enumerate(rows, 1):
        table.add_row(str(number), row["kernel_type"], *_sizes(row), " ".join(row["ops"]))
    console.print(table)
    console.print(
        f"{found.model}: {len(rows)} kernels, {found.dtype}, {found.macs / 1e6:,.1f} million MACs, "
        f"{found.params / 1e6:,.2f} million parameters",
        soft_wrap=True,
    )
    uncovered = [f"not covered: {count} {op}" for op, count in found.uncovered.items()]
    for line in (*uncovered, *(f"note: {note}" for note in found.notes)):
        console.print(line, soft_wrap=True)


def _sizes(row: dict[str, Any]) -> tuple[str, ...]:
    """Columns of a kernel that describe its configuration and its work."""
    side = f"{row['pixels']} px" if row["pixels"] else f"{row['hw']}²" if row["hw"] else ""
    channels = "+".join(str(row[f"cin{i}"]) for i in range(1, 5) if row[f"cin{i}"])
    channels = channels or f"{row['cin']}" + (f" → {row['cout']}" if row["cout"] else "")
    window = f"{row['taps']} px" if row["taps"] else f"{row['kernel_size']}²"
    window += f" / {row['stride']}"
    work = (f"{row['macs'] / 1e6:,.3f}", f"{row['macs_share']:.1%}") if row["macs"] else ("", "")
    return side, channels, window if row["stride"] else "", *work, f"{row['bytes'] / 1e3:,.1f}"
