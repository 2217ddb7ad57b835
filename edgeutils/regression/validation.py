"""Judging predictors: splits that are honest, errors row by row, intervals by cluster.

Neighbours of a row (the same network quantised, the next width, a repeat) in the training set
make any method look good. So every result names its split, and rows that belong together stay in
one fold and are resampled together.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, RegressorMixin, clone

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

    Attributes
    ----------
    kind
        `random`: rows at random. `grouped`: groups at random, never torn apart. `leave_out`:
        each value of `column` once, whole.
    column
        What a group is; not used by `random`.
    folds
        Number of folds; not used by `leave_out`.
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

    Raises
    ------
    EdgeError
        The table has fewer rows or groups than folds, or lacks the column.

    Examples
    --------
    >>> rows = pd.DataFrame({"family": ["a", "a", "b"]})
    >>> [test.tolist() for _, test in split_rows(rows, Split("leave_out", "family"))]
    [[0, 1], [2]]
    """
    if split.kind == "random":
        codes, count = np.arange(len(table)), len(table)
    elif split.column not in table:
        raise EdgeError(f"a {split.kind} split needs the column {split.column}; the table has none")
    else:
        codes, names = pd.factorize(table[split.column], use_na_sentinel=False)
        count = len(names)
    folds = count if split.kind == "leave_out" else split.folds
    if folds < 2 or count < folds:
        raise EdgeError(
            f"a {split.kind} split into {max(folds, 2)} folds needs as many groups, and the "
            f"table has {count}; use fewer folds or more rows"
        )
    order = np.arange(count)
    if split.kind != "leave_out":
        order = np.random.default_rng(seed).permutation(count)
    fold_of = order[codes] % folds
    for fold in range(folds):
        yield np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)


def cross_validate(  # noqa: PLR0913  every option changes the question that is asked
    models: Mapping[str, BaseEstimator],
    table: pd.DataFrame,
    splits: Mapping[str, Split],
    *,
    target: str = "energy_j",
    by: str | None = None,
    seeds: Sequence[int] = (0,),
) -> pd.DataFrame:
    """Predict every row from folds that do not hold it.

    Parameters
    ----------
    models
        Name -> predictor; a fresh clone is fitted for every fold.
    table
        Rows with the target (positive, SI unit) and the columns that the predictors need.
    splits
        Name -> split.
    target
        Column to predict.
    by
        Column whose values are fitted apart (a system, a kernel type); None: one fit for all.
    seeds
        Repetitions of the random and grouped splits; a leave-out split has only one way.

    Returns
    -------
    pandas.DataFrame
        One row per row of the table, split, method and seed: `split`, `method`, `seed`, `fold`,
        the identifying columns, `measured`, `predicted`, `low90`, `high90` (in the target's
        unit; NaN for methods without an interval), `error` (predicted / measured - 1) and `ape`
        (its absolute value), both as fractions.
    """
    parts = []
    whole = [(None, table)] if by is None else table.groupby(by, observed=True, sort=False)
    for _, rows in whole:
        rows = rows.reset_index(drop=True)  # noqa: PLW2901
        carried = rows[[c for c in dict.fromkeys((*_CARRIED, by)) if c in rows]]
        for split_name, split in splits.items():
            for seed in seeds[:1] if split.kind == "leave_out" else seeds:
                for fold, (train, test) in enumerate(split_rows(rows, split, seed)):
                    train_rows, test_rows = rows.iloc[train], rows.iloc[test]
                    for name, model in models.items():
                        part = _predict_fold(model, train_rows, test_rows, target)
                        labels = pd.DataFrame(
                            {"split": split_name, "method": name, "seed": seed, "fold": fold},
                            index=part.index,
                        )
                        parts.append(pd.concat([labels, carried.iloc[test], part], axis=1))
    if not parts:  # no rows, no errors: a chapter whose data set is missing goes on
        return pd.DataFrame(columns=list(dict.fromkeys((*_LABELS, *_CARRIED, by, *_RESULTS))))
    errors = pd.concat(parts, ignore_index=True)
    errors["error"] = errors["predicted"] / errors["measured"] - 1
    errors["ape"] = errors["error"].abs()
    return errors


def _predict_fold(
    model: BaseEstimator, train: pd.DataFrame, test: pd.DataFrame, target: str
) -> pd.DataFrame:
    fitted = clone(model).fit(train, train[target].to_numpy(float))
    predicted = fitted.predict(test)
    low, high = fitted.interval(test) if hasattr(fitted, "interval") else (np.nan, np.nan)
    columns = {"measured": test[target], "predicted": predicted, "low90": low, "high90": high}
    return pd.DataFrame(columns, index=test.index)


def metrics(errors: pd.DataFrame) -> dict[str, float]:
    """Summarise out-of-fold predictions.

    Returns
    -------
    dict
        `mape`, `median_ape` (mean and median absolute error as fractions of the measured value),
        `within10` (share of rows with an error of at most 10 %), `rank` (Spearman correlation),
        `coverage` (share inside the 90 % interval; NaN without intervals), `n` (rows).
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


def summarise(  # noqa: PLR0913  what to tell apart, average over and resample are separate choices
    errors: pd.DataFrame,
    keys: Sequence[str] = ("split", "method"),
    *,
    column: str = "ape",
    unit: str | None = None,
    group: str = "group",
    seed: int = 0,
) -> pd.DataFrame:
    """Metrics of each method and split, with a 95 % interval of the mean of one column.

    Parameters
    ----------
    errors
        As `cross_validate` gives them.
    keys
        Columns that tell the rows of the summary apart.
    column
        Column to give an interval for: `ape`, whose mean is called `mape`, or another one.
    unit
        Column (a system) within which metrics are taken; the summary is their median over units.
    group
        Clusters of the bootstrap.

    Returns
    -------
    pandas.DataFrame
        `keys`, the columns of `metrics` (`n`: rows in all), and `mape`, `mape_low95`,
        `mape_high95` (or the name of the other column instead of mape).
    """
    rows = []
    name = "mape" if column == "ape" else column
    for key, part in errors.groupby(list(keys), observed=True, sort=False):
        units = [part] if unit is None else [p for _, p in part.groupby(unit, observed=True)]
        summary = pd.DataFrame([metrics(p) | {name: p[column].mean()} for p in units]).median()
        low, high = bootstrap_interval(part, column=column, unit=unit, group=group, seed=seed)
        rows.append(
            dict(zip(keys, key, strict=True))
            | summary.to_dict()
            | {"n": len(part), f"{name}_low95": low, f"{name}_high95": high}
        )
    names = dict.fromkeys((*keys, *_METRICS, name, f"{name}_low95", f"{name}_high95"))
    return pd.DataFrame(rows, columns=list(names))


def bootstrap_interval(  # noqa: PLR0913  each option is a choice that the caption has to name
    errors: pd.DataFrame,
    *,
    column: str = "ape",
    unit: str | None = None,
    group: str = "group",
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Bootstrap interval of the mean of a column, resampling whole groups.

    Parameters
    ----------
    errors
        Rows with `column`, `group` and, if given, `unit`.
    unit
        Column within which means are taken: the statistic is then their median over units, and
        a group is drawn for all units at once.

    Returns
    -------
    low, high : float
        Percentile interval (Efron and Tibshirani 1993, chapter 13) in the column's unit.
    """
    units = "" if unit is None else errors[unit]
    cells = errors.assign(_unit=units).groupby(["_unit", group], observed=True)[column]
    sums, counts = (cells.agg(f).unstack(fill_value=0).to_numpy(float) for f in ("sum", "count"))
    groups = sums.shape[1]
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(groups, np.full(groups, 1 / groups), size=draws).T
    with np.errstate(invalid="ignore"):
        means = (sums @ drawn) / (counts @ drawn)
    statistic = np.nanmedian(means, axis=0)
    tail = (1 - level) / 2
    low, high = np.quantile(statistic, [tail, 1 - tail])
    return float(low), float(high)


def against(errors: pd.DataFrame, baseline: pd.DataFrame) -> pd.DataFrame:
    """Pair every prediction with the baseline's prediction of the same row.

    Parameters
    ----------
    errors, baseline
        As `cross_validate` gives them; the baseline holds one method and one split.

    Returns
    -------
    pandas.DataFrame
        `errors` with `excess`: their `ape` minus the baseline's, averaged over its seeds.

    Raises
    ------
    EdgeError
        The baseline does not hold every row.
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
) -> pd.DataFrame:
    """Cross-validate with training sets thinned to a number of rows, drawn anew for every seed.

    Returns
    -------
    pandas.DataFrame
        As `cross_validate`, with a column `points`: the most rows that a fit was shown.
    """
    parts = []
    for size in sizes:
        for seed in seeds:
            thinned = {name: Thinned(model, size, seed) for name, model in models.items()}
            errors = cross_validate(thinned, table, {split.kind: split}, by=by, seeds=[seed])
            parts.append(errors.assign(points=size, seed=seed))
    return pd.concat(parts, ignore_index=True)


class Thinned(RegressorMixin, BaseEstimator):
    """A predictor that is shown no more than `points` random rows of its training set."""

    def __init__(self, model: BaseEstimator, points: int, seed: int = 0):
        self.model = model
        self.points = points
        self.seed = seed

    def fit(self, table: pd.DataFrame, target: np.ndarray) -> Self:
        """Draw the rows and fit the model to them."""
        drawn = np.random.default_rng(self.seed).permutation(len(table))[: self.points]
        self.fitted_ = clone(self.model).fit(table.iloc[drawn], np.asarray(target)[drawn])
        return self

    def predict(self, table: pd.DataFrame) -> np.ndarray:
        """Predict with the fitted model."""
        return self.fitted_.predict(table)
