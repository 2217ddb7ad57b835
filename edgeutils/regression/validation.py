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
from scipy.spatial import cKDTree
from scipy.stats import binomtest, norm
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import PredefinedSplit

from edgeutils import EdgeError

_KINDS = ("random", "grouped", "leave_out")

#: Columns that are carried from the measurements into the table of errors.
_CARRIED = ("system", "device", "kernel_type", "hw", "name", "family", "group", "dtype")
_LABELS = ("split", "method", "seed", "fold")
_RESULTS = ("measured", "predicted", "low90", "high90", "error", "ape")
_WITHIN = {"within5": 0.05, "within10": 0.1, "within15": 0.15}
_METRICS = ("mape", "median_ape", "rmspe", *_WITHIN, "rank", "coverage", "width", "n")

#: Rows that differ in one of these were not measured alike, so they tell nothing about noise.
_SETTING = ("dataset", "system", "device", "processor", "runtime", "threads", "level", "dtype")
_SIZES = ("hw", "cin", "cout", "kernel_size", "stride", "dilation", "groups")
_INPUTS = ("cin1", "cin2", "cin3", "cin4")

#: Share of the rows, those with the closest neighbours, that the noise is estimated from: over
#: longer distances the curvature of the energy is taken for noise.
_CLOSEST = 0.25


@dataclass(frozen=True)
class Split:
    """How rows are divided into training and test.

    `random`: into `folds` at random. `grouped`: the same, but groups (values of `column`) are
    never torn apart, and every kernel type is spread over all folds. `leave_out`: each group
    once, whole.
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
    if split.kind == "grouped" and "kernel_type" in table:  # spread the rows of each type evenly
        kinds = pd.Series(pd.factorize(table["kernel_type"])[0]).groupby(codes).first()
        order = np.argsort(np.lexsort((order, kinds)))
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

    `mape` and `median_ape` are the mean and median absolute error, `rmspe` the root mean squared
    error (fractions of the measured value), `within5`, `within10` and `within15` the shares of
    rows with an error of at most so many per cent, `rank` Spearman's correlation, `coverage` the
    share inside the 90 % interval, `width` the median factor from its low to its high end
    (infinite where the low end is not positive; both NaN without intervals), `n` the rows.
    """
    inside = _inside(errors)
    factor = (errors["high90"] / errors["low90"]).where(errors["low90"] > 0, np.inf)
    shares = {name: _column(errors, name).mean() for name in _WITHIN}
    return {
        "mape": errors["ape"].mean(),
        "median_ape": errors["ape"].median(),
        "rmspe": float(np.sqrt((errors["ape"] ** 2).mean())),
        **shares,
        "rank": errors["predicted"].corr(errors["measured"], method="spearman"),
        "coverage": np.nan if inside is None else inside.mean(),
        "width": np.nan if inside is None else factor.median(),
        "n": len(errors),
    }


def _column(errors: pd.DataFrame, name: str) -> pd.Series:
    """Pick a column, or whether the row's error is within so many per cent (1 or 0)."""
    return (errors["ape"] <= _WITHIN[name]).astype(float) if name in _WITHIN else errors[name]


def _inside(errors: pd.DataFrame) -> pd.Series | None:
    """Whether the measured value lies inside the 90 % interval; None if a row has none."""
    if not errors["low90"].notna().all():
        return None
    return errors["measured"].between(errors["low90"], errors["high90"])


def coverage_test(errors: pd.DataFrame, level: float = 0.9) -> float:
    """Test whether the intervals cover as often as they say: a two-sided binomial p-value.

    `level` is the share of rows that `low90` to `high90` should hold. NaN without rows or
    intervals. The test takes rows as independent. Rows of one group and the same row under several
    seeds are not, which makes p too small: pass one seed and one row per group, or compare the
    level with the `bootstrap_interval` of the coverage by cluster.

    Examples
    --------
    >>> inside = pd.DataFrame({"measured": [1.0] * 9 + [3.0], "low90": 0.5, "high90": 2.0})
    >>> round(coverage_test(inside), 3), round(coverage_test(inside, level=0.3), 4)
    (1.0, 0.0001)
    """
    inside = _inside(errors)
    if inside is None or inside.empty:
        return float("nan")
    return float(binomtest(int(inside.sum()), len(inside), level).pvalue)


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
        (or for `within5`, `within10`, `within15`) its mean and its interval, by its own name.
    """
    rows = []
    name = "mape" if column == "ape" else column
    for key, part in errors.groupby(list(keys), observed=True, sort=False):
        units = [part] if unit is None else [p for _, p in part.groupby(unit, observed=True)]
        found = [metrics(p) | {name: _column(p, column).mean()} for p in units]
        summary = pd.DataFrame(found).median()
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
    units of their means, and a group is drawn for all units at once. The columns `within5`,
    `within10` and `within15` are made from `ape`.
    """
    units = "" if unit is None else errors[unit]
    values = errors.assign(_unit=units, _value=_column(errors, column))
    cells = values.groupby(["_unit", "group"], observed=True)["_value"]
    sums, counts = (cells.agg(f).unstack(fill_value=0).to_numpy(float) for f in ("sum", "count"))
    groups = sums.shape[1]
    drawn = np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), draws).T
    with np.errstate(invalid="ignore"):
        means = (sums @ drawn) / (counts @ drawn)
    low, high = np.quantile(np.nanmedian(means, axis=0), [0.025, 0.975])
    return float(low), float(high)


def noise_floor(
    table: pd.DataFrame, target: str = "energy_j", by: str | None = None
) -> pd.DataFrame:
    r"""Estimate what no model can undercut: the noise of the measurements themselves.

    Two estimates of the standard deviation s of log `target`, from rows measured alike (device,
    processor, number type, ...). *Repeats*: rows of equal `group`, configuration, task and model;
    what drifts between sessions is missed if repeats were measured in one. *Neighbours* (kernels
    with a full configuration): a row minus the plane through its d + 1 nearest configurations
    (standardised logs of the d sizes that vary), over the root of 1 + the sum of squared weights:
    the second difference of Gasser, Sroka and Jennen-Steinmetz (1986, Biometrika 73) in d
    dimensions, free of linear trends, for the quarter of the rows with the closest neighbours.
    Steps and curvature that remain count as noise: expect it to exceed s where configurations lie
    apart (conv kernels: s = 0.02 appears as 0.03 from 100 rows). If Y is log-normal, the best
    points reach

    .. math:: \min_c E|c / Y - 1| = 2 \Phi(s) - 1, \quad
              \max_c P(|c / Y - 1| \le 0.1) = 2 \Phi\left(\frac{\log(1.1 / 0.9)}{2 s}\right) - 1

    Rows whose target is missing or not positive, or flagged as a `copy`, are left out. A table
    that lacks `target`, `group` or `by` raises `EdgeError`.

    Returns
    -------
    pandas.DataFrame
        Two rows (`method` repeats and neighbours) per value of `by`: `sd`, of the log, root mean
        square; `typical_sd`, of a normal distribution with the same mean absolute deviation
        (equal to `sd` if noise is normal, below it if outliers or few noisy rows dominate);
        `mape_floor` and `within10_ceiling`, as fractions, at s = `typical_sd`; `n`, the
        independent pairs (rows less workloads), or the differences (which overlap). NaN where
        `n` is 0. The relative standard error of `sd` is about 1 / sqrt(2 n), if noise is normal.
    """
    lacking = [c for c in (target, "group", by) if c is not None and c not in table]
    if lacking:
        raise EdgeError(f"noise_floor needs the columns {', '.join(lacking)}; the table has none")
    copied = table.reindex(columns=["flags"])["flags"].fillna("").astype(str).str.split()
    kept = table[target].gt(0).fillna(False) & ~copied.map(lambda words: "copy" in words)
    rows = (
        table[kept].reset_index(drop=True).assign(_log=lambda t: np.log(t[target].to_numpy(float)))
    )
    found = []
    for key, part in rows.groupby(by or np.zeros(len(rows)), dropna=False, observed=True):
        for method, errors_of in (("repeats", _repeat_errors), ("neighbours", _neighbour_errors)):
            error, weight = errors_of(part)
            label = {"method": method} if by is None else {by: key, "method": method}
            found.append(label | _floor(error, weight))
    columns = ["method", "sd", "typical_sd", "mape_floor", "within10_ceiling", "n"]
    return pd.DataFrame(found, columns=columns if by is None else [by, *columns])


def _floor(error: np.ndarray, weight: np.ndarray) -> dict[str, float]:
    n = round(weight.sum())
    if not n:
        return {"n": 0}
    sd = np.sqrt(np.average(error**2, weights=weight))
    typical = np.sqrt(np.pi / 2) * np.average(np.abs(error), weights=weight)
    with np.errstate(divide="ignore"):  # without any noise every row can be hit
        within10 = 2 * norm.cdf(np.log(1.1 / 0.9) / 2 / typical) - 1
    floor = {"mape_floor": 2 * norm.cdf(typical) - 1, "within10_ceiling": within10}
    return {"sd": sd, "typical_sd": typical, **floor, "n": n}


def _repeat_errors(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Deviations from the workload's mean, scaled to the noise's variance, and their weights."""
    same = (*_SETTING, "group", "kernel_type", "family", "task", "model", *_SIZES, *_INPUTS, "macs")
    rows = rows.dropna(subset="group")
    logs = rows["_log"].groupby([rows[c] for c in same if c in rows], dropna=False, observed=True)
    size = logs.transform("size")
    free = (1 - 1 / size)[size > 1].to_numpy()  # degrees of freedom per row
    error = (rows["_log"] - logs.transform("mean"))[size > 1].to_numpy()
    return error / np.sqrt(free), free


def _neighbour_errors(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Differences from the plane through the nearest configurations, scaled, and weights of 1."""
    rows = rows.reindex(columns=list(dict.fromkeys(("kernel_type", *rows))))
    full = rows.dropna(subset=["kernel_type", *({"macs"} & set(rows))])
    keys = [full[c] for c in (*_SETTING, "kernel_type") if c in full]
    groups = full.groupby(keys, dropna=False, observed=True)
    error = np.concatenate([[], *(_second_differences(part) for _, part in groups)])
    return error, np.ones(len(error))


def _second_differences(rows: pd.DataFrame) -> np.ndarray:
    sizes = rows.reindex(columns=[*_SIZES, *_INPUTS]).astype(float).fillna(1)  # an input it lacks
    first = ~sizes.duplicated().to_numpy()  # of repeats one
    x, y = np.log(sizes.to_numpy()[first]), rows["_log"].to_numpy()[first]
    x = x[:, np.ptp(x, axis=0) > 0]
    n, d = x.shape
    if d == 0 or n * _CLOSEST < d + 2:
        return np.empty(0)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    distance, near = (found[:, 1:] for found in cKDTree(x).query(x, d + 2))  # [:, 0] is itself
    z = np.dstack([np.ones(near.shape), x[near] - x[:, None]])
    weights = np.linalg.pinv(z, rcond=1e-6)[:, 0]  # of the neighbours, in the plane's value
    # Neighbours that lie in a plane which misses the row do not take the trend away.
    missed = np.abs(np.einsum("ij,ijk->ik", weights, z) - np.eye(d + 1)[0]).max(axis=1) > 1e-6
    error = (y - (weights * y[near]).sum(axis=1)) / np.sqrt(1 + (weights**2).sum(axis=1))
    order = np.argsort(np.where(missed, np.inf, distance[:, -1]), kind="stable")
    return error[order[: min(int(n * _CLOSEST), int((~missed).sum()))]]


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
