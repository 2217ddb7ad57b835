"""`edgeutils fit` and `predict`: predictors from tables, and what they say of models."""

import json
import platform
import sys
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from edgeutils import EdgeError, __version__

if TYPE_CHECKING:
    import pandas as pd

    from edgeutils.regression.kernel_predictor import KernelPredictor

# Rows that may not differ in one of these: their values are different quantities.
_ALIKE = {"device": "--device", "processor": "--processor", "runtime": "", "threads": ""}
_WHERE = {"boundary": "", "idle_policy": ""}
# What a table of kernels need not say. Values are energies of some boundary: it is not stated.
_ASSUMED = {"level": "kernel", "boundary": "none", "idle_policy": "none", "source": "measured"}

Device = Annotated[str | None, typer.Option(metavar="NAME", help="Of several, this one.")]


def fit(  # noqa: PLR0913, PLR0917 - each argument is an option of the command
    table: Annotated[Path, typer.Argument(help="CSV or Parquet: kernels and what they cost.")],
    out: Annotated[Path, typer.Option(help="Folder for the predictors, a file each.")],
    target: Annotated[
        str | None, typer.Option(help="energy, latency, power or all; default: what TABLE has.")
    ] = None,
    base: Annotated[
        Path | None, typer.Option(help="Predictors to adapt, where TABLE has few rows.")
    ] = None,
    device: Device = None,
    processor: Device = None,
    small: Annotated[bool, typer.Option("--small", help="Without trees: a file to ship.")] = False,
    seed: Annotated[int, typer.Option(help="Of the folds that validate.")] = 0,
) -> None:
    """Fit predictors to measured kernels, one for each target and number type."""
    from edgeutils.progress import Progress  # noqa: PLC0415
    from edgeutils.regression import portable  # noqa: PLC0415

    rows = _read(table, device, processor)
    rows = rows[~rows["flags"].str.split().map(lambda flags: "unfit" in flags)]
    tasks = [
        (name, dtype, part)
        for name in _targets(rows, target)
        for dtype, part in rows.dropna(subset=portable.TARGETS[name][0]).groupby("dtype")
    ]
    progress, made = Progress(), []
    for number, (name, dtype, part) in enumerate(tasks, 1):
        _check_alike(part, _ALIKE if name == "latency" else _ALIKE | _WHERE)
        progress.start(f"{name}, {dtype}, {len(part)} kernels", number, len(tasks))
        try:
            made.append((f"{name}-{dtype}.json", *_fitted(part, name, base, small, seed, progress)))
        except EdgeError as error:
            progress.stop("failed")
            raise EdgeError(f"{name} of {dtype} kernels: {error}") from None
        progress.stop("fitted")
    # Nothing is written before everything is known.
    texts = [portable.encode(predictor, about) for _, predictor, about in made]
    for (file, predictor, _), text in zip(made, texts, strict=True):
        portable.write(text, out / file)
        _show_fit(out / file, predictor)


def predict(  # noqa: PLR0913, PLR0917
    what: Annotated[Path, typer.Argument(metavar="MODEL|TABLE", help="A .tflite, or kernels.")],
    predictor: Annotated[Path, typer.Option(help="Folder (or file) that fit wrote.")],
    target: Annotated[str, typer.Option(help="energy, latency or power.")] = "energy",
    device: Device = None,
    processor: Device = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON value on stdout.")] = False,
) -> None:
    """Predict the kernels of a table, or a model as the sum of its kernels.

    The interval of a sum adds up the ends of its kernels' intervals, as if all errors went the
    same way: they share a device and a fit, so nothing narrower is safe. It is too wide where they
    cancel. `std` is a 90 % interval's half width over 1.645.
    """
    known = _load_all(predictor, target, device, processor)
    if what.suffix == ".tflite":
        result: Any = _model(what, known, target)
        shown, total = result["kernels"], result
    else:
        found = _predicted(_read(what, None, None), known)
        if lacking := sorted({f"{r['dtype']} {r['kernel_type']}" for r in found if not r["known"]}):
            raise EdgeError(f"this predictor was not trained on {', '.join(lacking)}")
        keys = ("name", "value", "std", "low90", "high90", "extrapolated")
        shown, total = [{key: row[key] for key in keys} for row in found], None
        result = shown
    if as_json:
        sys.stdout.write(json.dumps(result, indent=1, allow_nan=False) + "\n")
    else:
        _show(shown, total, next(iter(known.values()))[1]["unit"])


def _read(path: Path, device: str | None, processor: str | None) -> "pd.DataFrame":
    """Kernels of a table that people wrote: what it need not say is filled in or derived."""
    import pandas as pd  # noqa: PLC0415

    from edgeutils.networks.kernels import Kernel, add_work  # noqa: PLC0415
    from edgeutils.regression.portable import CONFIGURATION  # noqa: PLC0415
    from edgeutils.table import COLUMNS, measurement_table  # noqa: PLC0415

    readers: Any = {".csv": pd.read_csv, ".parquet": pd.read_parquet}
    if path.suffix not in readers:
        raise EdgeError(f"{path.name}: expected a table (.csv or .parquet) or a .tflite model")
    try:
        raw = readers[path.suffix](path)
    except (OSError, ValueError) as error:
        raise EdgeError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if "kernel_type" not in raw:
        raise EdgeError(f"{path.name} needs the column kernel_type and those of a configuration")
    exact = [name for name in CONFIGURATION if name not in COLUMNS and name in raw]
    for name, value in ({"dataset": path.stem, "dtype": "float32", "flags": ""} | _ASSUMED).items():
        raw[name] = raw[name].fillna(value) if name in raw else value
    rows = measurement_table(raw.drop(columns=exact))
    for name in exact:
        rows[name] = pd.to_numeric(raw[name].to_numpy(), errors="coerce")
    for column, asked in (("device", device), ("processor", processor)):
        if asked is not None:
            valid = ", ".join(sorted(rows[column].dropna().unique()))
            rows = rows[rows[column] == asked]
            if rows.empty:
                raise EdgeError(f"no {column} {asked!r} in {path.name}; it has: {valid or 'none'}")
    rows = rows[rows["kernel_type"].notna()].reset_index(drop=True)
    if rows.empty:
        raise EdgeError(f"{path.name} has no kernels: no row has a kernel_type")
    labels = []
    for place, row in enumerate(rows.reindex(columns=CONFIGURATION).to_dict("records")):
        given = {name: value for name, value in row.items() if pd.notna(value)}
        try:
            labels.append(Kernel(**given).label)
        except EdgeError as error:
            raise EdgeError(f"{path.name}, kernel {place + 1}: {error}") from None
    rows["group"], rows["name"] = (
        rows["group"].fillna(pd.Series(labels)),
        rows["name"].fillna(pd.Series(labels)),
    )
    return add_work(rows)


def _targets(rows: "pd.DataFrame", asked: str | None) -> list[str]:
    from edgeutils.regression.portable import TARGETS  # noqa: PLC0415

    if asked not in (None, "all", *TARGETS):
        raise EdgeError(f"unknown target {asked!r}; use one of: {', '.join(TARGETS)}, all")
    found = [name for name, (column, _) in TARGETS.items() if rows[column].notna().any()]
    lacking = [asked] if asked in TARGETS and asked not in found else []
    if lacking or not found:
        columns = ", ".join(column for column, _ in TARGETS.values())
        raise EdgeError(f"no kernel has a value of {asked or 'a target'} (columns: {columns})")
    return [asked] if asked in TARGETS else found


def _check_alike(rows: "pd.DataFrame", columns: dict[str, str]) -> None:
    for column, option in columns.items():
        values = sorted(map(str, rows[column].dropna().unique()))
        if len(values) > 1:
            how = f"choose one with {option}" if option else "keep the rows of one"
            raise EdgeError(f"the rows mix {column} {', '.join(values)}: {how}")


def _fitted(  # noqa: PLR0913, PLR0917
    rows: "pd.DataFrame", target: str, base: Path | None, small: bool, seed: int, progress: Any
) -> "tuple[KernelPredictor, dict[str, Any]]":
    from edgeutils.regression.kernel_predictor import MEMBERS, KernelPredictor  # noqa: PLC0415
    from edgeutils.regression.portable import TARGETS  # noqa: PLC0415
    from edgeutils.regression.refit import adapt  # noqa: PLC0415

    values = rows[TARGETS[target][0]].to_numpy(float)
    about = _about(rows, target)
    if base is None:
        members = tuple(name for name in MEMBERS if not small or name not in ("boosting", "forest"))
        predictor = KernelPredictor(members=members, seed=seed, tell=progress.tell)
        predictor.fit(rows, values)
    else:
        dtype = rows["dtype"].iloc[0]
        known = _load_all(base, target, None, None)
        if dtype not in known:
            raise EdgeError(f"{base} holds no predictor of {dtype}; it has: {', '.join(known)}")
        start, said = known[dtype]
        predictor = adapt(start, rows, values)
        about["base"] = {key: said.get(key) for key in ("device", "processor", "training_sha256")}
    return predictor, about | {"left_out": predictor.left_out_}


def _about(rows: "pd.DataFrame", target: str) -> dict[str, Any]:
    import numpy as np  # noqa: PLC0415
    import sklearn  # noqa: PLC0415

    from edgeutils.regression.portable import CONFIGURATION, TARGETS  # noqa: PLC0415

    column, unit = TARGETS[target]
    used = rows.reindex(columns=[*CONFIGURATION, "group", column])
    listed = {"dtypes": "dtype", "boundaries": "boundary", "idle_policies": "idle_policy"}
    listed |= {"sources": "source", "datasets": "dataset", "runtimes": "runtime"}
    versions = {"edgeutils": __version__, "python": platform.python_version()}
    return {
        "target": target,
        "unit": unit,
        **{n: next(iter(rows[n].dropna()), None) for n in ("device", "processor")},
        **{name: sorted(rows[each].dropna().unique()) for name, each in listed.items()},
        "threads": sorted(map(int, rows["threads"].dropna().unique())),
        "rows": rows["kernel_type"].value_counts().to_dict(),
        "training_sha256": sha256(used.to_csv(index=False).encode()).hexdigest(),
        "versions": versions | {"numpy": np.__version__, "scikit-learn": sklearn.__version__},
    }


_Known = dict[str, "tuple[KernelPredictor, dict[str, Any]]"]


def _load_all(folder: Path, target: str, device: str | None, processor: str | None) -> _Known:
    """Predictors of a target, device and processor, by number type."""
    from edgeutils.regression.portable import TARGETS, load  # noqa: PLC0415

    if target not in TARGETS:
        raise EdgeError(f"unknown target {target!r}; use one of: {', '.join(TARGETS)}")
    paths = sorted(folder.rglob("*.json")) if folder.is_dir() else [folder]
    if not paths:
        raise EdgeError(f"{folder} holds no predictor (*.json): run edgeutils fit first")
    found, seen = {}, set()
    for predictor, about in map(load, paths):
        label = f"{about['target']} on {about['device']}, {about['processor']}"
        seen.add(label)
        asked = {"target": target, "device": device, "processor": processor}
        if any(value is not None and about[key] != value for key, value in asked.items()):
            continue
        for dtype in about["dtypes"]:
            if dtype in found:
                raise EdgeError(
                    f"{folder} holds several predictors of {target} and {dtype}: choose with "
                    f"--device and --processor one of: {'; '.join(sorted(seen | {label}))}"
                )
            found[dtype] = predictor, about
    if not found:
        raise EdgeError(f"{folder} holds no such predictor, but of: {'; '.join(sorted(seen))}")
    return found


def _predicted(rows: "pd.DataFrame", known: _Known) -> list[dict[str, Any]]:
    """Value and interval of every kernel; `known` False where its type or dtype is not."""
    import numpy as np  # noqa: PLC0415

    from edgeutils.regression.kernel_predictor import Z90  # noqa: PLC0415

    labels = rows[["name", "kernel_type", "dtype"]].to_dict("records")
    found = [label | {"known": False} for label in labels]
    for dtype, (predictor, _) in known.items():
        mine = (rows["dtype"] == dtype) & rows["kernel_type"].isin(list(predictor.types_))
        part = rows[mine]
        if part.empty:
            continue
        low, high = predictor.interval(part)
        value = np.sqrt(low * high)  # the median: in logs the interval is symmetric
        if not np.isfinite([value, low, high]).all():
            raise EdgeError("a prediction is not finite; fit the predictor to more rows")
        numbers = {"value": value, "std": (high - low) / 2 / Z90, "low90": low, "high90": high}
        numbers["extrapolated"] = predictor.extrapolated(part)
        for place, *row in zip(
            np.flatnonzero(mine), *(n.tolist() for n in numbers.values()), strict=True
        ):
            found[place] |= dict(zip(numbers, row, strict=True)) | {"known": True}
    return found


def _model(path: Path, known: _Known, target: str) -> dict[str, Any]:
    from collections import Counter  # noqa: PLC0415

    from edgeutils.networks.tflite import read  # noqa: PLC0415
    from edgeutils.regression.kernel_predictor import Z90  # noqa: PLC0415

    model = read(path)
    found = _predicted(model.frame().reset_index(drop=True), known)
    kernels = [row for row in found if row["known"]]
    if not kernels:
        raise EdgeError(f"{path.name} has no kernel that this predictor knows")
    left = Counter(f"{row['dtype']} {row['kernel_type']}" for row in found if not row["known"])
    value, low, high = (sum(row[key] for row in kernels) for key in ("value", "low90", "high90"))
    about = known.get(str(model.dtype), next(iter(known.values())))[1]
    keys = ("name", "kernel_type", "value", "low90", "high90", "extrapolated")
    return {
        "target": target,
        "unit": about["unit"],
        "total": value,
        "std": (high - low) / 2 / Z90,
        "low90": low,
        "high90": high,
        "kernels": [{key: row[key] for key in keys} for row in kernels],
        # Nothing says yet what a network costs beyond its kernels.
        "overhead": {"value": 0.0, "low90": 0.0, "high90": 0.0},
        "uncovered": [
            {"op": op, "count": n} for op, n in [*model.uncovered.items(), *left.items()]
        ],
        "predictor": about,
    }


def _show_fit(path: Path, predictor: "KernelPredictor") -> None:
    shown, console = Table(box=None, pad_edge=False), Console(highlight=False, markup=False)
    for name in ("kernel type", "rows", "mean error", "within 10 %", "in the 90 % interval"):
        shown.add_column(name, justify="left" if name == "kernel type" else "right")
    for kind, model in predictor.types_.items():
        if said := model.validation:
            shares = [f"{said[key]:.1%}" for key in ("mape", "within10", "coverage")]
            shown.add_row(kind, f"{said['rows']:.0f}", *shares)
    if shown.row_count:
        console.print(shown)
    for kind, count in predictor.left_out_.items():
        console.print(f"left out: {count} rows of {kind}, too few to learn from or unknown to it")
    console.print(f"{path}: {len(predictor.types_)} kernel types", soft_wrap=True)


def _show(rows: list[dict[str, Any]], total: dict[str, Any] | None, unit: str) -> None:
    shown, console = Table(box=None, pad_edge=False), Console(highlight=False, markup=False)
    for name in ("kernel", f"value, {unit}", "90 % interval", ""):
        shown.add_column(name, overflow="fold")
    for row in rows:
        note = "extrapolated" if row["extrapolated"] else ""
        shown.add_row(row["name"], f"{row['value']:.4g}", _interval(row), note)
    console.print(shown)
    if total:
        console.print(f"total: {total['total']:.4g} {unit}, 90 % interval {_interval(total)}")
        for each in total["uncovered"]:
            console.print(f"not covered: {each['count']} {each['op']}")


def _interval(row: dict[str, Any]) -> str:
    return f"{row['low90']:.4g} to {row['high90']:.4g}"
