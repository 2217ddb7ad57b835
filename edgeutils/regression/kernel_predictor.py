r"""The predictor of kernels: for every type, an average of models that err in different ways.

.. math:: \log \hat y = \sum_m w_m \left(\log \hat y_{\mathrm{physical},m}(x) + f_m(x)\right)

Each member corrects a physical model, whose costs cannot be negative: Gaussian processes (of the
type alone, and of all types with few rows together) and, where rows are many, boosted trees and a
forest of random splits, which catch the steps of a library that changes its algorithm. Inner
folds, grouped by configuration, say how much each member weighs and how wide the 90 % interval
must be.
"""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass, field
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import norm
from sklearn.base import BaseEstimator, RegressorMixin
from threadpoolctl import threadpool_limits

from edgeutils import EdgeError
from edgeutils.regression import gaussian, trees
from edgeutils.regression.features import SETTINGS, Kernels, Sizes, cost_terms, features
from edgeutils.regression.members import (
    Member,
    Physical,
    ProcessMember,
    Scale,
    TreesMember,
    noise_basis,
    single,
)
from edgeutils.regression.physical import costs, positive, rounding_sd, rounding_step

FEATURES: dict[str, list[str]] = SETTINGS["kernel_members"]
COSTS: dict[str, list[str]] = SETTINGS["kernel_costs"]

#: Members by name: processes on plain sizes and on tiles, two that share, two kinds of trees.
MEMBERS = ("sizes", "tiles", "shared", "shared, stepped", "boosting", "forest")

Z90 = float(norm.ppf(0.95))
#: Fewer configurations of a type teach nothing.
FEWEST_CONFIGURATIONS = 5
_INNER_FOLDS = 4
# Types with fewer rows also learn from each other, and boosted trees do not help them.
_MANY_ROWS = 60
# From here on a process may look at how sizes fit the processor, and there is a forest.
_SOME_ROWS = 30
# From here on a process has a term for what changes slowly beside one for what changes fast. With
# fewer rows it hardly errs less and takes half as long again.
_TWO_SCALES = 800
# Outside the training's range: as measured where the largest or smallest sixth was held out.
_OUTSIDE = 1.5
# A member that counts less than this, beside the best one, is not worth its time.
_LEAST_WEIGHT = 0.1
# A member whose error is larger than the best one's by a share x weighs exp(-20 x), more with fewer
# rows than these. Other factors did not do better on the phone's convolutions.
_SHARPEST, _CERTAIN_ROWS = 20.0, 400
# Predictions of a type that one thread makes at once.
_ROWS_AT_ONCE = 50_000


@dataclass(frozen=True)
class TypeModel:
    """All that predicts one kernel type.

    `members` are those that count, a process among them; their `weights` add up to 1. `widening`
    stretches the members' standard deviation so that nine in ten left-out rows of the training
    fell inside; `rounding` is the step of the targets; `low` and `high` the range of the
    training's features `sizes`, outside of which intervals are wider. `shift` moves the log to
    another device, with standard deviation `shift_sd`. `validation` says how left-out rows were
    predicted: `rows`, `mape`, `within10`, `coverage` of the 90 % interval (fractions; the coverage
    is of the very rows that `widening` was set on).
    """

    members: dict[str, Member]
    weights: dict[str, float]
    widening: float
    rounding: float
    sizes: tuple[str, ...]
    low: np.ndarray
    high: np.ndarray
    shift: float = 0.0
    shift_sd: float = 0.0
    validation: Mapping[str, float] = field(default_factory=dict)

    def predict(self, table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Log of the median, and standard deviation of the log, of each row."""
        kernels = Sizes.of(table)
        found = {name: member.predict(kernels) for name, member in self.members.items()}
        mean, sd = _average(found, self.weights)
        mean, sd = mean + self.shift, np.hypot(self.widening * sd, self.shift_sd)
        sd = np.where(self.extrapolated(kernels), _OUTSIDE * sd, sd)
        return mean, np.hypot(sd, rounding_sd(self.rounding, np.exp(mean)))

    def extrapolated(self, kernels: Kernels) -> np.ndarray:
        """Whether a row lies outside the training's range in any feature (1 % of slack)."""
        x = features(kernels, self.sizes)
        slack = 0.01 * (self.high - self.low) + 1e-9
        return ((x < self.low - slack) | (x > self.high + slack)).any(axis=1)


@dataclass(eq=False)
class KernelPredictor(RegressorMixin, BaseEstimator):
    """Predict kernels of one device and processor from configurations; see the module.

    `fit` sees rows of any kernel types. Types with fewer than five configurations are left out:
    `left_out_` counts their rows. `members` are those that may be used, of `MEMBERS`, a process of
    the type itself among them. `even_noise`: one level of noise for all rows, no allowance for
    rounding or gross errors (to see what the allowance is worth).
    """

    _: KW_ONLY
    members: tuple[str, ...] = MEMBERS
    even_noise: bool = False
    seed: int = 0
    tell: Callable[[str], None] | None = None

    # Matrices and trees are small: threads would mostly wait for each other on a busy machine.
    @threadpool_limits.wrap(limits=1)
    def fit(self, table: pd.DataFrame, target: ArrayLike) -> Self:
        """Fit every type of a table of one number type (rows with work) to positive targets."""
        y, table = positive(target), table.reset_index(drop=True)
        table.attrs = {}  # each step would copy them
        if set(self.members) - set(MEMBERS) or not {"sizes", "tiles"} & set(self.members):
            raise EdgeError(
                f"members {self.members} should be of {', '.join(MEMBERS)}, sizes or tiles included"
            )
        _check_kinds(table)
        table["group"] = _groups(table)
        counts = table.groupby("kernel_type")["group"].agg(["size", "nunique"])
        enough = counts["nunique"] >= FEWEST_CONFIGURATIONS
        self.left_out_ = counts.loc[~enough, "size"].to_dict()
        kinds = sorted(counts.index[enough])
        if not kinds:
            raise EdgeError(
                f"a predictor needs {FEWEST_CONFIGURATIONS} configurations or more of a kernel "
                f"type; the table has {counts['nunique'].to_dict()}: measure more"
            )
        rows = {kind: _Rows.of(table, y, kind, self) for kind in kinds}
        full = self._members(rows, {})
        inner = {k: [np.full((2, len(r.y)), np.nan) for _ in full[k]] for k, r in rows.items()}
        for fold in range(_INNER_FOLDS):
            self._say(f"inner fold {fold + 1} of {_INNER_FOLDS}")
            seen = {kind: part.without(fold) for kind, part in rows.items()}
            left = self._members(seen, full)
            for kind, part in rows.items():
                out = part.folds == fold
                for slot, member in zip(inner[kind], left[kind].values(), strict=True):
                    mean, sd = member[0].predict(part.sizes[out])
                    slot[0, out], slot[1, out] = mean, np.nan if sd is None else sd
        self.types_ = {
            kind: _assemble(part, full[kind], dict(zip(full[kind], inner[kind], strict=True)))
            for kind, part in rows.items()
        }
        return self

    def predict(self, table: pd.DataFrame) -> np.ndarray:
        """Median of the predictive distribution, in the unit of the target."""
        return np.exp(self._logs(table)[0])

    def interval(self, table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Return low and high end of the 90 % predictive interval."""
        mean, sd = self._logs(table)
        return np.exp(mean - Z90 * sd), np.exp(mean + Z90 * sd)

    def extrapolated(self, table: pd.DataFrame) -> np.ndarray:
        """Whether a row lies outside the range that its type was trained on."""
        found = np.zeros(len(table), bool)
        for model, place in self._by_type(table):
            found[place] = model.extrapolated(table.iloc[place])
        return found

    def _logs(self, table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        mean, sd = np.empty(len(table)), np.empty(len(table))
        parts = [
            (model, rows)
            for model, place in self._by_type(table)
            for rows in np.array_split(place, -(-len(place) // _ROWS_AT_ONCE))
        ]

        def predict(part: tuple[TypeModel, np.ndarray]) -> None:
            model, rows = part
            mean[rows], sd[rows] = model.predict(table.iloc[rows])

        with threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(predict, parts))
        return mean, sd

    def _by_type(self, table: pd.DataFrame) -> list[tuple[TypeModel, np.ndarray]]:
        _check_kinds(table)
        asked = table["kernel_type"].to_numpy()
        if unknown := sorted(set(asked) - set(self.types_)):
            raise EdgeError(
                f"this predictor was not trained on {', '.join(unknown)}; it knows "
                f"{', '.join(self.types_)}"
            )
        return [(self.types_[kind], np.flatnonzero(asked == kind)) for kind in pd.unique(asked)]

    def _say(self, what: str) -> None:
        if self.tell is not None:
            self.tell(what)

    def _members(
        self, rows: Mapping[str, "_Rows"], known: Mapping[str, Mapping[str, "_Found"]]
    ) -> dict[str, dict[str, "_Found"]]:
        """Fit the members of every type; `known` are those of much the same rows."""
        found: dict[str, dict[str, _Found]] = {kind: {} for kind in rows}
        for kind, part in rows.items():
            if not known:
                self._say(f"{kind}: {len(part.y)} rows")
            many = part.rows >= _SOME_ROWS
            second = ("tiled", "tiles") if many else ("stepped", "sizes")
            for name, price, looks in (("sizes", "plain", "sizes"), ("tiles", *second)):
                if name in self.members:
                    physical = {kind: part.physical(COSTS[price])}
                    start = known.get(kind, {}).get(name)
                    found[kind][name] = self._process({kind: part}, physical, looks, start)[0]
            enough = {"boosting": part.rows >= _MANY_ROWS, "forest": many}
            for name, grow in (("boosting", trees.boost), ("forest", trees.grow_forest)):
                if enough[name] and name in self.members:
                    plain, names = part.physical(COSTS["plain"]), tuple(FEATURES[name])
                    grown = grow(single(part.sizes, names), part.log - plain.log(part.sizes))
                    found[kind][name] = (TreesMember(plain, names, grown), None)
        few = {kind: part for kind, part in rows.items() if part.rows < _MANY_ROWS}
        for name in ("shared", "shared, stepped") if len(few) > 1 else ():
            if name in self.members:
                stepped = {kind: part.physical(COSTS["stepped"]) for kind, part in few.items()}
                physical = stepped if name != "shared" else _same_price(few)
                start = known.get(next(iter(few)), {}).get(name)
                shared = self._process(few, physical, "sizes", start)
                for kind, member in zip(few, shared, strict=True):
                    found[kind][name] = member
        return found

    def _process(
        self,
        rows: "Mapping[str, _Rows]",
        physical: Mapping[str, Physical],
        looks: str,
        known: "_Found | None",
    ) -> "list[_Found]":
        """Fit one process to one type, or to several that share strength."""
        log = np.concatenate([part.log for part in rows.values()])
        mean = np.concatenate([physical[kind].log(part.sizes) for kind, part in rows.items()])
        known_part = np.concatenate([rounding_sd(p.rounding, p.y) ** 2 for p in rows.values()])
        kinds = np.repeat(np.arange(len(rows)), [len(part.y) for part in rows.values()])
        if known is None:
            x = np.vstack([features(part.sizes, FEATURES[looks]) for part in rows.values()])
            varies = np.ptp(x, axis=0) > 1e-9
            varies[0] |= not varies.any()  # repeats of one configuration have a mean, too
            x = x[:, varies]
            kept = tuple(np.array(FEATURES[looks])[varies])
            spread = np.where(np.ptp(x, axis=0) > 1e-9, x.std(axis=0), 1.0)
            scale, start = Scale(kept, x.mean(axis=0), spread), None
        else:
            member, start = known
            scale = member.scale  # type: ignore[union-attr]
        columns, one = tuple(range(len(scale.names))), (len(scale.names),)
        terms: tuple[gaussian.Covariance, ...] = (gaussian.Covariance(columns),)
        if max(part.rows for part in rows.values()) >= _TWO_SCALES:
            terms = tuple(gaussian.Covariance(columns, length=length) for length in (2.0, 10.0))
        if len(rows) > 1:
            terms = (
                gaussian.Covariance(one, linear=True, within=True),
                gaussian.Covariance((0,), variance=0.5, length=2.0),
                gaussian.Covariance(columns, within=True, variance=0.3, length=2.0),
            )
        typical = float(np.median(mean))
        basis = noise_basis(mean, typical)
        if self.even_noise or max(part.rows for part in rows.values()) < _MANY_ROWS:
            basis[:, 1:] = 0  # few rows cannot tell how noise depends on size
        x = np.vstack([scale(part.sizes) for part in rows.values()])
        data = (x, log - mean, basis, known_part, kinds)
        fitted = gaussian.fit(terms, *data, start=start, robust=not self.even_noise)
        process, table = fitted.process, pd.concat([part.table for part in rows.values()])
        return [
            (
                ProcessMember(physical[kind], scale, process, number, typical, table),
                fitted.parameters,
            )
            for number, kind in enumerate(rows)
        ]


#: A member, and what its fit found: parameters to start from, and the scale.
_Found = tuple[Member, np.ndarray | None]


@dataclass(frozen=True)
class _Rows:
    """Training rows of one type; `rows` and `rounding` are those of the whole training."""

    table: pd.DataFrame
    sizes: Sizes
    y: np.ndarray
    folds: np.ndarray
    rounding: float
    rows: int

    @classmethod
    def of(cls, table: pd.DataFrame, y: np.ndarray, kind: str, how: KernelPredictor) -> "_Rows":
        place = np.flatnonzero(table["kernel_type"] == kind)
        part = table.iloc[place]
        codes, names = pd.factorize(part["group"], sort=True)
        folds = np.random.default_rng(how.seed).permutation(len(names))[codes] % _INNER_FOLDS
        step = 0.0 if how.even_noise else rounding_step(y[place])
        return cls(part, Sizes.of(part), y[place], folds, step, len(place))

    @property
    def log(self) -> np.ndarray:
        return np.log(self.y)

    def without(self, fold: int) -> "_Rows":
        keep = self.folds != fold
        left = self.table[keep], self.sizes[keep], self.y[keep], self.folds[keep]
        return _Rows(*left, self.rounding, self.rows)

    def physical(self, terms: list[str]) -> Physical:
        x = np.column_stack([np.ones(len(self.y)), cost_terms(self.sizes, terms)])
        prices = costs(x, self.y, rounding=self.rounding)
        return Physical(tuple(terms), prices, max(self.rounding / 2, 1e-3 * self.y.min()))


def _check_kinds(table: pd.DataFrame) -> None:
    if "kernel_type" not in table or table["kernel_type"].isna().any():
        raise EdgeError("a row has no kernel_type; name it in every row, or drop the row")
    if "dtype" in table and table["dtype"].nunique() > 1:
        mixed = ", ".join(sorted(table["dtype"].dropna().unique()))
        raise EdgeError(f"the rows mix the number types {mixed}: take one at a time")


def _groups(table: pd.DataFrame) -> pd.Series:
    """Name the groups; rows without one are a group each."""
    alone = pd.Series([f"row {place}" for place in range(len(table))])
    return table["group"].astype("string").fillna(alone) if "group" in table else alone


def _same_price(rows: Mapping[str, _Rows]) -> dict[str, Physical]:
    """One price per unit of work for all types; a shared process finds how they differ."""
    logs = [part.log - np.log(cost_terms(part.sizes, ["work"])[:, 0]) for part in rows.values()]
    price = float(np.exp(np.mean(np.concatenate(logs))))
    return dict.fromkeys(rows, Physical(("work",), np.array([0.0, price]), 0.0))


def _average(
    found: Mapping[str, tuple[np.ndarray, np.ndarray | None]], weights: Mapping[str, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean of the members, and of the processes' standard deviations."""
    mean = np.sum([weight * found[name][0] for name, weight in weights.items()], axis=0)
    known = {name: sd for name in weights if (sd := found[name][1]) is not None}
    share = [weights[name] for name in known]
    return mean, np.average([*known.values()], axis=0, weights=share)


def _assemble(
    part: _Rows, members: Mapping[str, _Found], inner: Mapping[str, np.ndarray]
) -> TypeModel:
    """Weigh the members and widen the interval by what inner folds say."""
    errors = {name: np.nanmean(np.abs(np.exp(m[0]) / part.y - 1)) for name, m in inner.items()}
    # Few rows cannot tell members apart: then all weigh nearly the same.
    sharp = _SHARPEST * min(1.0, part.rows / _CERTAIN_ROWS)
    best = min(errors.values())
    raw = {name: float(np.exp(-sharp * (error / best - 1))) for name, error in errors.items()}
    left = {name: (m[0], None if np.isnan(m[1]).all() else m[1]) for name, m in inner.items()}
    # Trees have no idea of their error, so the best process always counts.
    process = min((name for name in left if left[name][1] is not None), key=errors.__getitem__)
    raw[process] = max(raw[process], _LEAST_WEIGHT)
    raw = {name: weight for name, weight in raw.items() if weight >= _LEAST_WEIGHT}
    weights = {name: weight / sum(raw.values()) for name, weight in raw.items()}
    mean, sd = _average(left, weights)
    known = rounding_sd(part.rounding, np.exp(mean))
    z = np.sqrt(np.maximum((part.log - mean) ** 2 - known**2, 0)) / sd
    rank = min(int(np.ceil(0.9 * (len(z) + 1))), len(z))
    widening = float(np.sort(z)[rank - 1]) / Z90
    ape, x = np.abs(np.exp(mean) / part.y - 1), features(part.sizes, FEATURES["sizes"])
    inside = np.abs(part.log - mean) <= Z90 * np.hypot(widening * sd, known)
    said = {"mape": ape.mean(), "within10": (ape <= 0.1).mean(), "coverage": inside.mean()}
    return TypeModel(
        {name: members[name][0] for name in weights},
        weights,
        widening,
        part.rounding,
        tuple(FEATURES["sizes"]),
        x.min(axis=0),
        x.max(axis=0),
        validation={"rows": part.rows} | {name: float(value) for name, value in said.items()},
    )
