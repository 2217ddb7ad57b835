"""Every data set of the book as rows of the measurement table; `catalogue.yml` says what each is.

>>> table = load("paper-applications")
>>> len(table), table["boundary"].unique().tolist()
(280, ['battery'])
"""

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pandas as pd
import yaml

from edgeutils import ROOT, EdgeError
from edgeutils.datasets import registry
from edgeutils.datasets.mlperf import build_mlperf as build_mlperf
from edgeutils.datasets.mlperf import compare_with_committed as compare_with_committed
from edgeutils.datasets.published import paper_devices as paper_devices
from edgeutils.datasets.registry import mirror as mirror
from edgeutils.networks import zoo
from edgeutils.networks.kernels import add_work
from edgeutils.table import measurement_table

_HOW_TO_GET = "run `edgeutils data fetch {name}`, or set EDGE_DATA_MIRROR to a folder that holds it"


@dataclass(frozen=True)
class DatasetStatus:
    """What one data set is and whether it is at hand.

    `where` is embedded, cache, mirror or missing; `fetch` can get what is `downloadable`. `rows`
    (None for a set of files) and `defects` are what a load gives. `level`, `boundary`,
    `idle_policy` and `source` are those of the measurement table ("" for a set of files).
    `trainable` is false where the values are no ground truth.
    """

    name: str
    title: str
    kind: str
    licence: str
    where: str
    how_to_get: str
    downloadable: bool
    rows: int | None = None
    defects: dict[str, int] = field(default_factory=dict)
    source: str = ""
    boundary: str = ""
    idle_policy: str = ""
    level: str = ""
    trainable: bool = True


@cache
def _catalogue() -> dict[str, dict[str, Any]]:
    return yaml.safe_load(Path(__file__).with_name("catalogue.yml").read_text(encoding="utf-8"))


def _find(name: str) -> tuple[str, dict[str, Path]]:
    if name not in _catalogue():
        raise EdgeError(f"unknown data set {name!r}; use one of: {', '.join(_catalogue())}")
    paths = [ROOT / "data" / file for file in _catalogue()[name].get("embedded", [])]
    embedded = {path.name: path for path in paths}
    return ("embedded", embedded) if embedded else registry.locate(name)


def status(name: str | None = None) -> list[DatasetStatus]:
    """List every data set (or one), without loading or fetching anything."""
    found = []
    for key in _catalogue() if name is None else [name]:
        where, entry = _find(key)[0], _catalogue()[key]
        facts = {k: v for k, v in entry.items() if k in DatasetStatus.__annotations__}
        facts = {"how_to_get": _HOW_TO_GET.format(name=key)} | facts
        downloadable = "how_to_get" not in entry
        found.append(DatasetStatus(name=key, where=where, downloadable=downloadable, **facts))
    return found


def files(name: str) -> dict[str, Path]:
    """Files of a set: path in the upstream repository -> local path; EdgeError if not at hand."""
    where, paths = _find(name)
    if where == "missing":
        raise EdgeError(f"data set {name} is not at hand: {status(name)[0].how_to_get}")
    return paths


def fetch(name: str) -> dict[str, Path]:
    """Download a set into the cache unless it is at hand, verify it, and return its files."""
    if _find(name)[0] == "missing":
        entry = status(name)[0]
        if not entry.downloadable:
            raise EdgeError(f"{name} cannot be downloaded: {entry.how_to_get}")
        registry.fetch(name)
    return files(name)


def load(name: str) -> pd.DataFrame:
    """Load a data set as a checked measurement table, in SI units.

    ``attrs["defects"]`` counts what was set aside, repaired or flagged, and why. EdgeError: an
    unknown name, a set that is not at hand or holds files, a file that does not read.
    """
    paths, entry = files(name), _catalogue()[name]
    if "loader" not in entry:
        raise EdgeError(f"{name} holds files, not measurements: use edgeutils.datasets.files")
    frame, defects = resolve_name(f"{__name__}.{entry['loader']}")(paths)
    constant = {"dataset": name} | entry.get("constant", {})
    constant |= {key: entry[key] for key in ("level", "boundary", "idle_policy", "source")}
    frame = frame.replace(entry.get("codes", {}))
    frame = frame.assign(**{new: frame[old] for new, old in entry.get("repeats", {}).items()})
    table = measurement_table(frame, **{k: v for k, v in constant.items() if k not in frame})
    if table["kernel_type"].notna().any():
        table = add_work(table)
    table.attrs = {"defects": defects, "trainable": entry.get("trainable", True), "missing": ""}
    return table


def load_at_hand(name: str) -> pd.DataFrame:
    """Load a set, or an empty table whose ``attrs["missing"]`` is the sentence to show."""
    entry = status(name)[0]
    if entry.where != "missing":
        return load(name)
    table = measurement_table(pd.DataFrame({"dataset": []}))
    table.attrs = {"missing": f"{name} is not at hand: {entry.how_to_get}", "defects": {}}
    return table


def network_table() -> pd.DataFrame:
    """Load `mlperf-inference-power` with all of the zoo's features of each network as columns."""
    table = load("mlperf-inference-power")
    features = zoo.features(table["name"]).loc[table["name"]].reset_index(drop=True)
    return table.assign(**features)


def own_networks() -> pd.DataFrame:
    """Load the networks of `litert-x86`, measured once, with the zoo's counts as columns.

    Of `edgeutils.networks.zoo.features` those that no number type changes: `layers`,
    `activations` and MACs by kind.
    """
    table = load("litert-x86")
    table = table[(table["level"] == "network") & ~table["name"].str.endswith(" again")]
    counts = zoo.features(table["model"].unique())
    kept = [name for name in counts if name not in table and not name.endswith("bytes")]
    return table.join(counts[kept], on="model").reset_index(drop=True)


def check(name: str) -> list[str]:
    """Verify a set at hand (hashes, rows, counts of defects): one sentence per problem."""
    files(name)
    expected = status(name)[0]
    problems = [f"{path}: sha256 differs" for path in registry.corrupt(name)]
    if problems or expected.rows is None:
        return problems
    table = load(name)
    if len(table) != expected.rows:
        problems.append(f"{len(table)} rows, expected {expected.rows}")
    if table.attrs["defects"] != expected.defects:
        problems.append(f"defects {table.attrs['defects']}, expected {expected.defects}")
    return problems


def choose(table: pd.DataFrame, column: str, value: object) -> pd.DataFrame:
    """Rows in which a column has a value; an EdgeError lists the values there are if none has."""
    rows = table[table[column] == value]
    if rows.empty:
        valid = ", ".join(str(v) for v in pd.unique(table[column].dropna()))
        raise EdgeError(f"unknown {column} {value!r}; use one of: {valid}")
    return rows
