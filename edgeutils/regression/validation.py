"""Judging predictors: splits that are honest, errors row by row, intervals by cluster.

Neighbours of a row (the same network quantised, the next width, a repeat) in the training set
make any method look good. So every result names its split, and rows that belong together stay in
one fold and are resampled together.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import PredefinedSplit

from edgeutils import EdgeError

_KINDS = ("random", "grouped", "leave_out")

#: Columns that are carried from the measurements into the table of errors.
_CARRIED = ("system", "device", "kernel_type", "hw", "name", "family", "group", "dtype")
_LABELS = ("split", "method", "seed", "fold")
_RESULTS = ("measured", "predicted", "low90", "high90", "error", "ape")
_METRICS = ("mape", "median_ape", "within10", "rank", "coverage", "n")


@dataclass(frozen=True)
class Split:
    """How rows are divided into training and test.

    `random`: into `folds` at random. `grouped`: the same, but groups (values of `column`) are
    never torn apart. `leave_out`: each group once, whole.
    """

    kind: str
    column: str = "group"
    folds: int = 5

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise EdgeError(f"unknown split {self.kind!r}; use one of: {', '.join(_KINDS)}")


def split_rows(
    table: pd.DataFrame, split: Split, seed: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield positions of training and test rows, fold by fold; every row is tested once.

    A table that lacks the column, or has fewer rows or groups than folds, raises `EdgeError`.

    Examples
    --------
    >>> rows = pd.DataFrame({"family": ["a", "a", "b"]})
    >>> [test.tolist() for _, test in split_rows(rows, Split("leave_out", "family"))]
    [[0, 1], [2]]
    """
    if split.kind != "random" and split.column not in table:
        raise EdgeError(f"a {split.kind} split needs the column {split.column}; the table has none")
    label = np.arange(len(table)) if split.kind == "random" else table[split.column]
    codes, names = pd.factorize(label, use_na_sentinel=False)
    count = len(names)
    folds = count if split.kind == "leave_out" else split.folds
    if folds < 2 or count < folds:
        raise EdgeError(
            f"a {split.kind} split into {max(folds, 2)} folds needs as many groups, and the "
            f"table has {count}; use fewer folds or more rows"
        )
    shuffled = np.random.default_rng(seed).permutation(count)
    order = np.arange(count) if split.kind == "leave_out" else shuffled
    yield from PredefinedSplit(order[codes] % folds).split()


def cross_validate(  # noqa: PLR0913  every option changes the question that is asked
    models: Mapping[str, BaseEstimator],
    table: pd.DataFrame,
    splits: Mapping[str, Split],
    *,
    by: str | None = None,
    seeds: Sequence[int] = (0,),
    points: int | None = None,
    target: str = "energy_j",
) -> pd.DataFrame:
    """Predict the `target` of every row by fresh models, fitted to folds that do not hold it.

    Models and splits go by the names that they get in the result. Rows that differ in the column
    `by` (a system, a kernel type) are fitted apart. `seeds` repeat the random and grouped splits; a
    leave-out split has only one way. A fit is shown at most `points` rows, drawn at random.

    Returns
    -------
    pandas.DataFrame
        One row per row of the table, split, method and seed: `split`, `method`, `seed`, `fold`,
        the identifying columns, `measured`, `predicted`, `low90`, `high90` (unit of the target;
        NaN for methods without an interval), and as fractions `error` (predicted / measured - 1)
        and `ape` (its absolute value).
    """
    if table.empty:  # no rows, no errors: a chapter whose data set is missing goes on
        return pd.DataFrame(columns=list(dict.fromkeys((*_LABELS, *_CARRIED, by, *_RESULTS))))
    carried = [c for c in dict.fromkeys((*_CARRIED, by)) if c in table]
    parts = []
    for _, rows in table.groupby(by or np.zeros(len(table)), observed=True, sort=False):
        for label, split in splits.items():
            for seed in seeds[:1] if split.kind == "leave_out" else seeds:
                for fold, (train, test) in enumerate(split_rows(rows, split, seed)):
                    drawn = np.random.default_rng(seed).permutation(train)[:points]
                    seen, unseen = rows.iloc[drawn if points else train], rows.iloc[test]
                    labels = dict(unseen[carried]) | {"split": label, "seed": seed, "fold": fold}
                    for method, model in models.items():
                        found = _predict(clone(model), seen, unseen, target)
                        found = labels | {"method": method} | found
                        parts.append(pd.DataFrame(found))
    errors = pd.concat(parts, ignore_index=True)
    errors["error"] = errors["predicted"] / errors["measured"] - 1
    errors["ape"] = errors["error"].abs()
    return errors[[*_LABELS, *carried, *_RESULTS]]


def _predict(
    model: BaseEstimator, seen: pd.DataFrame, unseen: pd.DataFrame, target: str
) -> dict[str, Any]:
    predicted = model.fit(seen, seen[target].to_numpy(float)).predict(unseen)
    low, high = model.interval(unseen) if hasattr(model, "interval") else (np.nan, np.nan)
    measured = unseen[target].to_numpy(float)
    return {"measured": measured, "predicted": predicted, "low90": low, "high90": high}


def metrics(errors: pd.DataFrame) -> dict[str, float]:
    """Summarise out-of-fold predictions.

    `mape` and `median_ape` are the mean and median absolute error (fractions of the measured
    value), `within10` the share of rows with an error of at most 10 %, `rank` Spearman's
    correlation, `coverage` the share inside the 90 % interval (NaN without any), `n` the rows.
    """
    inside = errors["measured"].between(errors["low90"], errors["high90"])
    return {
        "mape": errors["ape"].mean(),
        "median_ape": errors["ape"].median(),
        "within10": (errors["ape"] <= 0.1).mean(),
        "rank": errors["predicted"].corr(errors["measured"], method="spearman"),
        "coverage": inside.mean() if errors["low90"].notna().all() else np.nan,
        "n": len(errors),
    }


def summarise(
    errors: pd.DataFrame,
    keys: Sequence[str] = ("split", "method"),
    *,
    column: str = "ape",
    unit: str | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Summarise the table of `cross_validate`, one row per combination of the columns `keys`.

    Returns
    -------
    pandas.DataFrame
        `keys`, the columns of `metrics` as medians over the values of `unit` (`n`: rows in all),
        and the `bootstrap_interval`: `mape_low95`, `mape_high95`. For another `column` than `ape`
        its mean and its interval, by its own name.
    """
    rows = []
    name = "mape" if column == "ape" else column
    for key, part in errors.groupby(list(keys), observed=True, sort=False):
        units = [part] if unit is None else [p for _, p in part.groupby(unit, observed=True)]
        summary = pd.DataFrame([metrics(p) | {name: p[column].mean()} for p in units]).median()
        low, high = bootstrap_interval(part, column=column, unit=unit, seed=seed)
        interval = {"n": len(part), f"{name}_low95": low, f"{name}_high95": high}
        rows.append(dict(zip(keys, key, strict=True)) | summary.to_dict() | interval)
    names = dict.fromkeys((*keys, *_METRICS, name, f"{name}_low95", f"{name}_high95"))
    return pd.DataFrame(rows, columns=list(names))


def bootstrap_interval(
    errors: pd.DataFrame,
    *,
    column: str = "ape",
    unit: str | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return low and high end of the 95 % interval of a column's mean, in the column's unit.

    A percentile bootstrap (Efron and Tibshirani 1993, chapter 13) that resamples whole values of
    the column `group`. With a `unit` (a column, say the system) the statistic is the median over
    units of their means, and a group is drawn for all units at once.
    """
    units = "" if unit is None else errors[unit]
    cells = errors.assign(_unit=units).groupby(["_unit", "group"], observed=True)[column]
    sums, counts = (cells.agg(f).unstack(fill_value=0).to_numpy(float) for f in ("sum", "count"))
    groups = sums.shape[1]
    drawn = np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), draws).T
    with np.errstate(invalid="ignore"):
        means = (sums @ drawn) / (counts @ drawn)
    low, high = np.quantile(np.nanmedian(means, axis=0), [0.025, 0.975])
    return float(low), float(high)


def against(errors: pd.DataFrame, baseline: pd.DataFrame) -> pd.DataFrame:
    """Pair every prediction with the baseline's (one method, one split) for the same row.

    Adds `excess`: the row's `ape` minus the baseline's, averaged over its seeds. A baseline that
    lacks a row raises `EdgeError`.
    """
    keys = [c for c in ("system", "kernel_type", "name") if c in errors and c in baseline]
    base = baseline.groupby(keys, observed=True)["ape"].mean().rename("base")
    paired = errors.join(base, on=keys)
    if paired["base"].isna().any():
        raise EdgeError(
            f"{int(paired['base'].isna().sum())} rows have no partner in the baseline; both tables "
            "should come from the same measurements: run the earlier stage again"
        )
    return paired.assign(excess=paired["ape"] - paired["base"]).drop(columns="base")


def learning_curve(  # noqa: PLR0913  the same question as `cross_validate`, and the sizes
    models: Mapping[str, BaseEstimator],
    table: pd.DataFrame,
    split: Split,
    sizes: Sequence[int],
    *,
    by: str | None = None,
    seeds: Sequence[int] = (0,),
    target: str = "energy_j",
) -> pd.DataFrame:
    """Cross-validate with training sets thinned to a number of rows, drawn anew for every seed.

    The result is that of `cross_validate`, with a column `points`: the most rows that a fit saw.
    """
    parts = []
    how: dict[str, Any] = {"by": by, "target": target}
    for size, seed in product(sizes, seeds):
        drawn = cross_validate(models, table, {split.kind: split}, seeds=[seed], points=size, **how)
        parts.append(drawn.assign(points=size, seed=seed))
    return pd.concat(parts, ignore_index=True)
