"""The measurement table: one tidy schema for every source of this book.

A row is one workload on one processor of one device. Columns that do not apply are missing,
never zero. Every loader returns this table and every reader checks it at the door, so that a
boundary, an idle policy or a source can never get lost on the way.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd
import pandera.pandas as pa
import yaml

from edgeutils import EdgeError, whole_file

LEVELS = ("kernel", "network", "application")
SOURCES = ("measured", "published", "simulated", "estimated")
BOUNDARIES = ("battery", "wall", "board_supply", "package", "core_rail", "accelerator", "none")
IDLE_POLICIES = ("none", "constant", "recorded", "surrounding")

#: Name -> (dtype, meaning with unit), in the order of the table.
COLUMNS: dict[str, tuple[str, str]] = yaml.safe_load(
    Path(__file__).with_name("columns.yml").read_text(encoding="utf-8")
)

_REQUIRED = {
    "level": LEVELS,
    "idle_policy": IDLE_POLICIES,
    "boundary": BOUNDARIES,
    "source": SOURCES,
}
_POSITIVE = ("latency_s", "power_w", "energy_j", "macs", "params")


def _column(name: str, dtype: str) -> pa.Column:
    if name in _REQUIRED:
        return pa.Column(dtype, pa.Check.isin(_REQUIRED[name]), nullable=False)
    if name == "dataset":
        return pa.Column(dtype, nullable=False)
    # Zero work is possible (a ReLU has no MACs); a time, power or energy of zero is a fault.
    check = None
    if name in _POSITIVE:
        check = pa.Check.ge(0) if name in ("macs", "params") else pa.Check.gt(0)
    return pa.Column(dtype, check, nullable=True)


SCHEMA = pa.DataFrameSchema(
    {name: _column(name, dtype) for name, (dtype, _) in COLUMNS.items()}, strict=True, ordered=True
)


def measurement_table(frame: pd.DataFrame, **constant: object) -> pd.DataFrame:
    """Complete, order, cast and check a frame so that it is a measurement table.

    Parameters
    ----------
    frame
        Any subset of the columns of `COLUMNS`, in SI units; further columns are refused.
    **constant
        Columns with the same value in every row, e.g. ``boundary="wall"``.

    Returns
    -------
    pandas.DataFrame
        All columns of `COLUMNS`; what was not given is missing (`flags`: the empty string).

    Raises
    ------
    EdgeError
        An unknown column, a value that cannot be cast, or a value outside the schema.

    Examples
    --------
    >>> rows = pd.DataFrame({"name": ["DNN1"], "energy_j": [0.32]})
    >>> table = measurement_table(rows, dataset="mine", level="network", idle_policy="none",
    ...                           boundary="battery", source="measured")
    >>> table[["name", "energy_j", "boundary"]].to_dict("records")
    [{'name': 'DNN1', 'energy_j': 0.32, 'boundary': 'battery'}]
    """
    table = frame.assign(**constant)
    unknown = sorted(set(table.columns) - set(COLUMNS))
    if unknown:
        raise EdgeError(
            f"unknown column(s) {', '.join(unknown)}; the measurement table knows: "
            f"{', '.join(COLUMNS)}"
        )
    table = table.reindex(columns=list(COLUMNS)).reset_index(drop=True)
    for name, (dtype, _) in COLUMNS.items():
        try:
            if dtype != "str":
                table[name] = pd.to_numeric(table[name])
            table[name] = table[name].astype(dtype)
        except (TypeError, ValueError) as error:
            raise EdgeError(f"column {name} should be {dtype}: {error}") from None
    table["flags"] = table["flags"].fillna("")
    return validate(table)


def validate(table: pd.DataFrame) -> pd.DataFrame:
    """Check a measurement table against the schema and return it unchanged.

    Raises
    ------
    EdgeError
        One sentence per kind of failure: column, check, number of rows and the first value.
    """
    try:
        SCHEMA.validate(table, lazy=True)
    except pa.errors.SchemaErrors as error:
        cases = error.failure_cases
        lines = [
            f"{column}: {check} fails in {len(rows)} row(s), first value "
            f"{rows['failure_case'].tolist()[0]!r}"
            for (column, check), rows in cases.groupby(["column", "check"], dropna=False)
        ]
        raise EdgeError("not a measurement table: " + "; ".join(lines)) from None
    return table


def read_table(path: str | Path) -> pd.DataFrame:
    """Read a measurement table from CSV or Parquet and check it."""
    path = Path(path)
    readers: dict[str, Callable[..., pd.DataFrame]] = {
        ".csv": pd.read_csv,
        ".parquet": pd.read_parquet,
    }
    if path.suffix not in readers:
        raise EdgeError(f"{path.name}: expected a file ending in .csv or .parquet")
    if not path.is_file():
        raise EdgeError(f"{path} does not exist")
    return measurement_table(readers[path.suffix](path))


def write_table(table: pd.DataFrame, path: str | Path) -> Path:
    """Write any table to Parquet (or CSV, by the ending) without leaving half a file behind."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # attrs hold notes for the reader of this session; Parquet can only store JSON there.
    plain = table.copy(deep=False)
    plain.attrs = {}
    with whole_file(path) as partial:
        plain.to_csv(partial, index=False) if path.suffix == ".csv" else plain.to_parquet(partial)
    return path


def read_or_build(path: str | Path, build: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """Read the Parquet table that an earlier stage wrote, or build it where it is missing.

    `build` is the function that the earlier stage itself used, so both ways give the same
    rows and each notebook runs alone.
    """
    path = Path(path)
    return pd.read_parquet(path) if path.is_file() else build()


def require_comparable(table: pd.DataFrame, *, across_boundaries: bool = False) -> pd.DataFrame:
    """Return the table if its rows may be ranked together.

    Raises
    ------
    EdgeError
        The rows mix boundaries or idle policies and `across_boundaries` is false: joules at a
        wall plug and joules on a core rail are different quantities.
    """
    for column in ("boundary", "idle_policy"):
        found: Iterable[str] = sorted(table[column].unique())
        if len(list(found)) > 1 and not across_boundaries:
            raise EdgeError(
                f"these rows mix {column} {', '.join(found)}: they are not comparable; keep one, "
                "or pass across_boundaries=True and say so beside the result"
            )
    return table
