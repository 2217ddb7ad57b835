r"""A fitted predictor as one JSON file that holds numbers and names, and nothing to execute.

A Gaussian process is stored as what it was conditioned on, its points: the configuration, the
target and the noise variance of each. The covariance of the points, and from it weights and
factor, follow again when the file is read (Rasmussen and Williams 2006, equations 2.25, 2.26):

.. math:: C = K + \operatorname{diag}(s) = L L^T, \quad w = C^{-1} y, \quad R = L^{-1}

This takes a fraction of the room of R, and loses no digits where rows are nearly alike. Types that
share a process store it once. Trees are stored as they are (`edgeutils.regression.trees`).
"""

import json
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.linalg import cho_solve, cholesky, solve_triangular

from edgeutils import EdgeError, whole_file
from edgeutils.networks.kernels import DTYPE_BYTES, KERNEL_TYPES, WORK, Kernel, add_work
from edgeutils.regression.features import COST_NAMES, FEATURE_NAMES
from edgeutils.regression.gaussian import Covariance, Process
from edgeutils.regression.kernel_predictor import KernelPredictor, TypeModel
from edgeutils.regression.members import (
    NOISE_TERMS,
    Member,
    Physical,
    ProcessMember,
    Scale,
    TreesMember,
)
from edgeutils.regression.trees import Trees

# Version 1 also named the right side and the first node of trees; they follow from the others.
FORMAT, VERSION = "edgeutils predictor", 2
#: Target -> column of the measurement table, and its unit.
TARGETS = {"energy": ("energy_j", "J"), "latency": ("latency_s", "s"), "power": ("power_w", "W")}
#: Columns that say what a kernel is.
CONFIGURATION = [field.name for field in fields(Kernel) if field.name != "name"]

_TEXT: dict[str, Iterable[str]] = {"kernel_type": KERNEL_TYPES, "dtype": DTYPE_BYTES}
_LISTS = ("dtypes", "boundaries", "idle_policies", "sources")
_DIGITS = 12
_HUGE = 1e30
# What a file may ask of its reader: bytes, points of a process (their cube is time), and of all.
_MOST_BYTES, _MOST_POINTS, _MOST_IN_ALL = 64_000_000, 5_000, 20_000
_BROKEN = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError)


def save(predictor: KernelPredictor, path: str | Path, about: dict[str, Any]) -> Path:
    """Write a fitted predictor; a file that was there stays whole until the new one is.

    Parameters
    ----------
    predictor
        Fitted.
    path
        The JSON file to write; its folder is made.
    about
        What was learned from what, as JSON values: `target` (a key of `TARGETS`), `unit`,
        `device`, `processor` (text or None), `dtypes`, `boundaries`, `idle_policies` and
        `sources` (lists of text), and anything else.

    Raises
    ------
    EdgeError
        The predictor is not one that `load` would read, say for lack of a key in `about`.
    """
    return write(encode(predictor, about), path)


def write(text: str, path: str | Path) -> Path:
    """Write what `encode` gave."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise EdgeError(f"cannot write {path}: {error.strerror or error}") from None
    return path


def encode(predictor: KernelPredictor, about: dict[str, Any]) -> str:
    """Text of the file that `save` writes."""
    document = _document(predictor, about)
    _predictor(document)  # nothing is written that could not be read
    parts = [f"{json.dumps(key)}: {_json(value)}" for key, value in document.items()]
    return "{" + ",\n".join(parts) + "}\n"


def load(path: str | Path) -> tuple[KernelPredictor, dict[str, Any]]:
    """Read a predictor and what is said about it.

    Raises
    ------
    EdgeError
        No such file, or one that is newer, broken or none: one sentence says what is wrong.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise EdgeError(f"it is larger than {_MOST_BYTES} bytes")
        document = json.loads(path.read_text("utf-8"), parse_constant=_refuse)
        return _predictor(document), document["about"]
    except OSError as error:
        raise EdgeError(f"cannot read the predictor {path}: {error.strerror or error}") from None
    except (*_BROKEN, np.linalg.LinAlgError, RecursionError) as error:
        why = str(error) if isinstance(error, EdgeError) else f"{type(error).__name__}, {error}"
        why = " ".join(why.split())[:200]
        raise EdgeError(f"{path} is no predictor that can be used: {why}; fit it again") from None


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def _plain(values: ArrayLike, digits: int = _DIGITS) -> Any:
    """Numbers as lists of the shortest form of so many digits."""
    values = np.asarray(values)
    if values.dtype.kind in "iub":
        return values.tolist()
    flat = [float(f"{value:.{digits}g}") for value in values.ravel().tolist()]
    return np.array(flat).reshape(values.shape).tolist()


# Writing.


def _document(predictor: KernelPredictor, about: dict[str, Any]) -> dict[str, Any]:
    shared: dict[int, list[tuple[str, ProcessMember]]] = {}
    for kind, model in predictor.types_.items():
        for member in model.members.values():
            if isinstance(member, ProcessMember):
                shared.setdefault(id(member.process), []).append((kind, member))
    order = {process: number for number, process in enumerate(shared)}
    rows = pd.concat([users[0][1].rows for users in shared.values()], ignore_index=True)
    points = _points(rows)
    place = points.fillna(-1).groupby(list(points), sort=False).ngroup().to_numpy()
    points = points[~pd.Series(place).duplicated().to_numpy()].astype(object)
    ends = np.cumsum([len(users[0][1].rows) for users in shared.values()])
    parts = np.split(place, ends[:-1])
    return {
        "format": FORMAT,
        "version": VERSION,
        "about": about,
        "points": points.where(points.notna(), None).to_dict("list"),
        "processes": [_stored(users, at) for users, at in zip(shared.values(), parts, strict=True)],
        "types": {
            kind: {
                "members": {
                    name: _member(member, order) | {"weight": model.weights[name]}
                    for name, member in model.members.items()
                },
                **{name: _plain(getattr(model, name)) for name in _SCALARS},
                "range": {
                    name: _plain(ends)
                    for name, *ends in zip(model.sizes, model.low, model.high, strict=True)
                },
                "validation": {name: _plain(v) for name, v in model.validation.items()},
            }
            for kind, model in predictor.types_.items()
        },
    }


#: Numbers of a type: name -> least and largest value.
_SCALARS = {
    "widening": (1e-9, 1e6),
    "rounding": (0.0, _HUGE),
    "shift": (-100.0, 100.0),
    "shift_sd": (0.0, 100.0),
}


def _points(rows: pd.DataFrame) -> pd.DataFrame:
    """Columns that say what the points are: the work only if it does not follow."""
    rows = rows.reindex(columns=[*CONFIGURATION, *WORK]).dropna(axis=1, how="all")
    given = [name for name in WORK if name in rows]
    bare = rows.drop(columns=given)
    follows = add_work(bare)[given].to_numpy(float)
    exact = np.array_equal(follows, rows[given].to_numpy(float), equal_nan=True)
    return bare if exact else rows


def _stored(users: list[tuple[str, ProcessMember]], place: np.ndarray) -> dict[str, Any]:
    member = users[0][1]
    process, scale = member.process, member.scale
    # The factor is the inverse of the Cholesky factor of what the weights were solved with.
    lower = solve_triangular(process.factor, np.eye(len(process.weights)), lower=True)
    prior = process.covariance(process.points, process.kinds)[1]
    return {
        "kinds": sorted({*member.rows["kernel_type"], *(kind for kind, _ in users)}),
        "features": {
            name: [_plain(centre), _plain(spread)]
            for name, centre, spread in zip(*vars(scale).values(), strict=True)
        },
        "terms": [
            {"columns": list(t.columns), "linear": t.linear, "within": t.within}
            for t in process.terms
        ],
        "parameters": _plain(process.parameters),
        "noise": _plain(process.noise),
        "points": _plain(place),
        "target": _plain(lower @ (lower.T @ process.weights), 10),
        "variance": _plain(np.square(lower).sum(axis=1) - prior, 10),
    }


def _member(member: Member, order: dict[int, int]) -> dict[str, Any]:
    physical = member.physical
    stored: dict[str, Any] = {
        "prices": dict(zip(("", *physical.terms), _plain(physical.prices), strict=True)),
        "floor": _plain(max(physical.floor, 1 / _HUGE)),
    }
    if isinstance(member, ProcessMember):
        return stored | {"process": order[id(member.process)], "typical": _plain(member.typical)}
    names = [field.name for field in fields(member.trees)]
    trees = {name: _plain(getattr(member.trees, name), 17) for name in names}
    return stored | {"trees": {"features": list(member.names), **trees}}


# Reading: everything is checked, as the file may come from anywhere.


def _need(holds: Any, what: str) -> None:
    if not holds:
        raise EdgeError(what)


def _refuse(name: str) -> float:
    raise EdgeError(f"{name} is no number of JSON")


def _numbers(
    value: Any, length: int | None, low: float, high: float, *, whole: bool = False
) -> np.ndarray:
    """Return numbers between `low` and `high` as an array of that length (None: a single one)."""
    array = np.array(value)
    _need(array.dtype.kind in ("i" if whole and array.size else "if"), "expected numbers")
    _need(array.shape == (() if length is None else (length,)), f"expected {length or 1} numbers")
    _need(((array >= low) & (array <= high)).all(), f"a number is not in {low:g} to {high:g}")
    return array.astype(int if whole else float)


def _names(value: Iterable[str], known: Iterable[str]) -> tuple[str, ...]:
    names = tuple(value)
    unknown = [str(name) for name in names if name not in known]
    _need(not unknown, f"unknown name {', '.join(unknown)[:60]}")
    return names


def _predictor(document: Any) -> KernelPredictor:
    _need(isinstance(document, dict) and document.get("format") == FORMAT, f"it is no {FORMAT}")
    version = document["version"]
    _need(type(version) is int and version >= 1, "its version is no number")
    _need(version <= VERSION, f"its version {version} is newer than {VERSION}: update edgeutils")
    _check_about(document["about"])
    with np.errstate(all="ignore"):
        points, stored = _table(document["points"]), document["processes"]
        _need(sum(len(each["points"]) for each in stored) <= _MOST_IN_ALL, "it has too many points")
        processes = [_process(each, points) for each in stored]
        predictor = KernelPredictor()
        types = document["types"].items()
        predictor.types_ = {kind: _type(kind, each, processes) for kind, each in types}
    _need(_names(predictor.types_, KERNEL_TYPES), "it holds no kernel type")
    predictor.left_out_ = {}
    return predictor


def _check_about(about: Any) -> None:
    _need(about.get("target") in TARGETS, "its target is none of energy, latency and power")
    _need(about.get("unit") == TARGETS[about["target"]][1], "its unit is not that of the target")
    for name in ("device", "processor"):
        _need(isinstance(about.get(name, 0), str | None), f"its {name} is no text")
    for name in _LISTS:
        given = about.get(name)
        texts = isinstance(given, list) and all(isinstance(each, str) for each in given)
        _need(texts, f"its {name} are no list of text")


def _table(columns: dict[str, list[Any]]) -> pd.DataFrame:
    length, found = len(columns["kernel_type"]), {}
    for name in _names(columns, [*CONFIGURATION, *WORK]):
        values = columns[name]
        _need(isinstance(values, list) and len(values) == length, f"{name} has not {length} values")
        if name in _TEXT:
            found[name] = np.array(_names(values, _TEXT[name]), object)
        else:
            filled = [-1 if value is None else value for value in values]
            numbers = _numbers(filled, length, -1, 1e15)
            found[name] = np.where(numbers < 0, np.nan, numbers)
    return add_work(pd.DataFrame(found))


def _process(stored: Any, points: pd.DataFrame) -> tuple[Process, Scale, tuple[str, ...], Any]:
    names = _names(stored["features"], FEATURE_NAMES)
    pairs = [_numbers(stored["features"][name], 2, -_HUGE, _HUGE) for name in names]
    centre, spread = np.array(pairs).reshape(-1, 2).T
    _need((spread > 1 / _HUGE).all(), "a spread is not positive")
    scale, terms = Scale(names, centre, spread), []
    for term in stored["terms"]:
        columns = _numbers(term["columns"], len(term["columns"]), 0, len(names), whole=True)
        how = {name: term[name] for name in ("linear", "within")}
        _need(all(isinstance(value, bool) for value in how.values()), "a term is broken")
        terms.append(Covariance(tuple(columns.tolist()), **how))
    parameters = _numbers(stored["parameters"], sum(term.size for term in terms), -70, 70)
    noise = _numbers(stored["noise"], NOISE_TERMS, 0, 1e6)
    count = len(stored["points"])
    _need(0 < count <= _MOST_POINTS, f"a process has {count} points, not 1 to {_MOST_POINTS}")
    rows = points.iloc[_numbers(stored["points"], count, 0, len(points) - 1, whole=True)]
    number = {kind: i for i, kind in enumerate(_names(stored["kinds"], KERNEL_TYPES))}
    kinds, x = rows["kernel_type"].map(number), scale(rows)
    _need(kinds.notna().all() and np.isfinite(x).all(), "a point is outside its process")
    target = _numbers(stored["target"], count, -1e3, 1e3)
    variance = _numbers(stored["variance"], count, 1e-12, 1e12)
    bare = Process(tuple(terms), parameters, noise, x, kinds.to_numpy(int), target, target)
    covariance = bare.covariance(bare.points, bare.kinds)[0]
    lower = cholesky(covariance + np.diag(variance), lower=True)
    weights, factor = (
        cho_solve((lower, True), target),
        solve_triangular(lower, np.eye(count), lower=True),
    )
    _need(np.isfinite(weights).all() and np.isfinite(factor).all(), "a process cannot be solved")
    done = Process(bare.terms, parameters, noise, x, bare.kinds, weights, factor)
    return done, scale, tuple(number), rows


def _type(kind: str, stored: Any, processes: list) -> TypeModel:
    members: dict[str, Member] = {}
    weights = {}
    for name, each in stored["members"].items():
        terms = _names(list(each["prices"])[1:], COST_NAMES)
        prices = _numbers(list(each["prices"].values()), len(terms) + 1, 0, _HUGE)
        physical = Physical(terms, prices, float(_numbers(each["floor"], None, 1 / _HUGE, _HUGE)))
        weights[name] = float(_numbers(each["weight"], None, 1e-6, 1))
        if "trees" in each:
            names = _names(each["trees"]["features"], FEATURE_NAMES)
            members[name] = TreesMember(physical, names, _trees(each["trees"], len(names)))
            continue
        at = int(_numbers(each["process"], None, 0, len(processes) - 1, whole=True))
        process, scale, kinds, rows = processes[at]
        _need(kind in kinds, f"a process does not know {kind}")
        typical = float(_numbers(each["typical"], None, -1e3, 1e3))
        number = kinds.index(kind)
        members[name] = ProcessMember(physical, scale, process, number, typical, rows)
    _need(abs(sum(weights.values()) - 1) < 1e-6, f"the weights of {kind} do not add up to 1")
    _need(any(isinstance(m, ProcessMember) for m in members.values()), f"{kind} has no interval")
    sizes = _names(stored["range"], FEATURE_NAMES)
    ends = [_numbers(stored["range"][name], 2, -_HUGE, _HUGE) for name in sizes]
    low, high = np.array(ends).reshape(-1, 2).T
    numbers = {n: float(_numbers(stored[n], None, *ends)) for n, ends in _SCALARS.items()}
    validation = {n: float(_numbers(v, None, 0, _HUGE)) for n, v in stored["validation"].items()}
    return TypeModel(
        members, weights, sizes=sizes, low=low, high=high, validation=validation, **numbers
    )


def _trees(stored: Any, columns: int) -> Trees:
    count = len(stored["feature"])
    feature = _numbers(stored["feature"], count, -1, columns - 1, whole=True)
    number = _numbers(stored["number"], count, -_HUGE, _HUGE)
    return Trees(feature, number, float(_numbers(stored["base"], None, -_HUGE, _HUGE)))
