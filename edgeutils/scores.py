"""Scores that end users can read: PCS for power, IECS for energy, and how stable their ranks are.

Both scores are of Tu et al., "Unveiling Energy Efficiency in Deep Learning", SEC 2023
(arXiv 2310.18329). A **workload** is a network on a processor, and a device gets one number from
all of its workloads. The paper prints PCS without its formula and describes IECS in words only:
`pcs` was found by solving the printed table, `iecs` is this book's own reading.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from edgeutils import EdgeError
from edgeutils.table import require_comparable

WORKLOAD = ("name", "processor")


def pcs(
    table: pd.DataFrame,
    tdp: Mapping[str, float] | pd.Series,
    *,
    weights: pd.Series | None = None,
    across_boundaries: bool = False,
) -> pd.DataFrame:
    r"""Power consumption score of each device; higher is better, 100 would be no power at all.

    .. math:: \mathrm{PCS} = 100\,\frac{1}{n}\sum_{i=1}^{n}\left(1-\frac{P_i}{P_\mathrm{TDP}}\right)

    Parameters
    ----------
    table
        Measurement table with `device`, `name`, `processor`, `power_w` (W, mean power of a
        workload, the paper's APC), `boundary` and `idle_policy`.
    tdp
        Thermal design power of each device, W.
    weights
        Weight of each workload, indexed by (name, processor); None gives all the same.
    across_boundaries
        Score rows of different boundaries or idle policies together all the same.

    Returns
    -------
    pandas.DataFrame
        One row per device in the order of the table: `device`, `pcs` (not rounded; below 0 where
        the mean power exceeds the TDP; NaN without a single workload), `rank` (1 is best),
        `workloads` (how many were scored) and `missing` (how many others in the table have).

    Raises
    ------
    EdgeError
        A device without TDP, rows that are not comparable, a workload given twice or unweighted.

    Examples
    --------
    >>> table = pd.DataFrame({"device": "A", "name": ["n1", "n2"], "processor": "CPU1",
    ...                       "power_w": [2.0, 4.0], "boundary": "battery", "idle_policy": "none"})
    >>> float(pcs(table, {"A": 10.0}).loc[0, "pcs"])
    70.0
    """
    values = workload_matrix(table, "power_w", across_boundaries=across_boundaries)
    scores = _pcs(values, _tdp_row(values, tdp), _weight_rows(values, weights))[0]
    return _result(values, scores, "pcs")


def iecs(
    table: pd.DataFrame, *, weights: pd.Series | None = None, across_boundaries: bool = False
) -> pd.DataFrame:
    r"""Inference energy consumption score of each device; higher is better.

    .. math:: \mathrm{IECS} = \sum_{i=1}^{n}\frac{1}{E_i}

    in inferences per joule, with :math:`E_i` the energy of one inference of workload i (the
    paper's ECI). The formula is ours: the paper says that the score sums the inference energy
    of its six applications on CPU, GPU and NNAPI, and its published scores follow this sum
    without being equal to it. A missing workload adds nothing, so look at `missing`.

    Parameters, result (`iecs` in 1/J instead of `pcs`) and errors are those of `pcs`, with
    `energy_j` (J per inference) instead of `power_w`; weights are scaled to a mean of one.

    Examples
    --------
    >>> table = pd.DataFrame({"device": "A", "name": ["n1", "n2"], "processor": "CPU1",
    ...                       "energy_j": [0.5, 0.1], "boundary": "battery", "idle_policy": "none"})
    >>> float(iecs(table).loc[0, "iecs"])
    12.0
    """
    values = workload_matrix(table, "energy_j", across_boundaries=across_boundaries)
    return _result(values, _iecs(values, _weight_rows(values, weights))[0], "iecs")


def implied_tdp(
    mean_power_w: pd.Series, published_pcs: pd.Series, printed_tdp_w: pd.Series
) -> pd.DataFrame:
    """Orders of the printed TDPs for which PCS rounds to every published score.

    Parameters
    ----------
    mean_power_w
        Mean over the workloads of each device's power, W; the index names the devices.
    published_pcs
        Published score of each device, a whole number.
    printed_tdp_w
        Printed TDP of each device, W: the values that are dealt out anew.

    Returns
    -------
    pandas.DataFrame
        One row per order that reproduces all scores, one column per device, W.

    Raises
    ------
    EdgeError
        A device without score or TDP, or no order that gives the published scores.

    Examples
    --------
    >>> devices = ["A", "B"]
    >>> implied_tdp(pd.Series([2.0, 2.0], devices), pd.Series([80, 50], devices),
    ...             pd.Series([4.0, 10.0], devices)).to_dict("records")
    [{'A': 10.0, 'B': 4.0}]
    """
    devices = list(mean_power_w.index)
    for what, given in (("published PCS", published_pcs), ("printed TDP", printed_tdp_w)):
        _require_devices(devices, given.dropna().index, what)
    orders: list[list[float]] = [[]]
    for device in devices:
        orders = [
            [*order, value]
            for order in orders
            for value in sorted(_left_over(printed_tdp_w.loc[devices], order))
            if round(100 * (1 - mean_power_w[device] / value)) == published_pcs[device]
        ]
        if not orders:
            raise EdgeError(
                f"no order of the TDPs {', '.join(f'{w:g}' for w in printed_tdp_w)} W gives the "
                f"published PCS (at the latest for {device}); check the scores, or pass other TDPs"
            )
    return pd.DataFrame(orders, columns=devices)


def _left_over(values: pd.Series, taken: Sequence[float]) -> set[float]:
    """Distinct values that are still to be dealt out."""
    counts = values.value_counts().sub(pd.Series(taken, dtype=float).value_counts(), fill_value=0)
    return set(counts[counts > 0].index)


def bootstrap_scores(
    table: pd.DataFrame,
    tdp: Mapping[str, float] | pd.Series,
    *,
    resamples: int,
    seed: int,
    unit: Sequence[str] = WORKLOAD,
) -> pd.DataFrame:
    """Both scores of every device under resampled workloads (Efron's bootstrap).

    Each resample draws as many units as there are, with replacement, the same for all devices.

    Parameters
    ----------
    table, tdp
        As for `pcs`; the table needs `power_w` and `energy_j`.
    resamples
        Number of resamples.
    seed
        Seed of the draws; the same seed gives the same scores.
    unit
        What is drawn: ("name", "processor") single workloads, ("name",) a network with all of
        its processors.

    Returns
    -------
    pandas.DataFrame
        `resample`, `device`, `pcs`, `iecs`, `rank_pcs`, `rank_iecs`: resamples x devices rows.

    Raises
    ------
    EdgeError
        As for `pcs`, or a number of resamples below one.
    """
    if resamples < 1:
        raise EdgeError(f"resamples should be at least 1, not {resamples}; 1000 is usual")
    energy = workload_matrix(table, "energy_j")
    power = workload_matrix(table, "power_w")
    codes = energy.index.to_frame(index=False).groupby(list(unit), sort=False).ngroup().to_numpy()
    n = codes.max() + 1
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    drawn = draws[:, codes].astype(float)
    devices = energy.columns
    frames = {"pcs": _pcs(power, _tdp_row(power, tdp), drawn), "iecs": _iecs(energy, drawn)}
    long = pd.MultiIndex.from_product([range(resamples), devices], names=["resample", "device"])
    result = pd.DataFrame({name: scores.ravel() for name, scores in frames.items()}, index=long)
    for name, scores in frames.items():
        result[f"rank_{name}"] = pd.DataFrame(scores).rank(axis=1, **_RANK).to_numpy().ravel()
    return result.reset_index()


def rank_shares(resampled: pd.DataFrame, score: str) -> pd.DataFrame:
    """Share of resamples in which each device holds each rank.

    `resampled` is what `bootstrap_scores` returns, `score` is "pcs" or "iecs" (others raise
    EdgeError); the result is devices x ranks (1 is best), and each row sums to one.
    """
    if score not in ("pcs", "iecs"):
        raise EdgeError(f"unknown score {score!r}; known: pcs, iecs")
    devices = list(dict.fromkeys(resampled["device"]))
    shares = pd.crosstab(resampled["device"], resampled[f"rank_{score}"], normalize="index")
    ranks = pd.Index(range(1, len(devices) + 1), name="rank")
    return shares.reindex(index=devices, columns=ranks, fill_value=0.0)


def score_card(
    table: pd.DataFrame, tdp: Mapping[str, float] | pd.Series, *, resamples: int, seed: int
) -> pd.DataFrame:
    """Both scores with ranks and 90 % bootstrap intervals over workloads, one row per device.

    Arguments and errors are those of `bootstrap_scores`. The columns are `device`, `pcs`,
    `pcs_low90`, `pcs_high90`, `rank_pcs`, then the same for `iecs` (1/J), and IECS's `workloads`
    and `missing`.
    """
    resampled = bootstrap_scores(table, tdp, resamples=resamples, seed=seed).groupby("device")
    parts = []
    for name, result in (("pcs", pcs(table, tdp)), ("iecs", iecs(table))):
        scores = result.set_index("device").rename(columns={"rank": f"rank_{name}"})
        scores.insert(1, f"{name}_low90", resampled[name].quantile(0.05))
        scores.insert(2, f"{name}_high90", resampled[name].quantile(0.95))
        parts.append(scores if name == "iecs" else scores.drop(columns=["workloads", "missing"]))
    return pd.concat(parts, axis=1).reset_index()


def rank_correlation(one: pd.Series, other: pd.Series) -> float:
    """Spearman's rank correlation (-1 to 1) over the devices, at least three, that have both.

    Examples
    --------
    >>> rank_correlation(pd.Series([1, 2, 3], list("ABC")), pd.Series([9, 8, 7], list("ABC")))
    -1.0
    """
    both = pd.concat([one, other], axis=1, join="inner").dropna()
    if len(both) < 3:
        raise EdgeError(
            f"a rank correlation needs at least 3 devices with both scores, here are {len(both)}"
        )
    return float(both.iloc[:, 0].corr(both.iloc[:, 1], method="spearman"))


def workload_matrix(
    table: pd.DataFrame, value: str, *, across_boundaries: bool = False
) -> pd.DataFrame:
    """Arrange one value as workloads x devices, with NaN where a device has no such workload.

    `value` is the column to arrange, e.g. "power_w". EdgeError if the table is empty, its rows are
    not comparable, or one device has a workload twice.
    """
    rows = require_comparable(table, across_boundaries=across_boundaries)
    if rows.empty or rows[value].notna().sum() == 0:
        raise EdgeError(f"there is no row with {value} to score; pass a table that has some")
    twice = rows.duplicated(["device", *WORKLOAD])
    if twice.any():
        first = rows.loc[twice].iloc[0]
        raise EdgeError(
            f"{first['device']} has {first['name']} on {first['processor']} more than once "
            f"({int(twice.sum())} such rows); a workload counts once: keep one row or the mean"
        )
    matrix = rows.set_index(["device", *WORKLOAD])[value].unstack("device")
    return matrix.reindex(columns=list(dict.fromkeys(rows["device"]))).astype(float)


_RANK = {"method": "min", "ascending": False}


def _pcs(power: pd.DataFrame, tdp_w: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Scores, (rows of weights) x devices."""
    with np.errstate(invalid="ignore"):
        mean_w = (weights @ power.fillna(0).to_numpy()) / (weights @ power.notna().to_numpy())
    return 100 * (1 - mean_w / tdp_w)


def _iecs(energy: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
    scaled = weights / weights.mean(axis=1, keepdims=True)
    scores = scaled @ (1 / energy).fillna(0).to_numpy()
    return np.where(scaled @ energy.notna().to_numpy() > 0, scores, np.nan)


def _tdp_row(values: pd.DataFrame, tdp: Mapping[str, float] | pd.Series) -> np.ndarray:
    given = pd.Series(dict(tdp), dtype=float).dropna()
    _require_devices(list(values.columns), given.index, "TDP (W)")
    row = given.loc[list(values.columns)]
    if (row <= 0).any():
        raise EdgeError(f"the TDP of {row.idxmin()} should be above 0 W, not {row.min():g}")
    return row.to_numpy()


def _require_devices(devices: Sequence[str], given: pd.Index, what: str) -> None:
    without = [device for device in devices if device not in given]
    if without:
        raise EdgeError(
            f"no {what} for {', '.join(without)}; given for: {', '.join(map(str, given)) or 'none'}"
        )


def _weight_rows(values: pd.DataFrame, weights: pd.Series | None) -> np.ndarray:
    if weights is None:
        return np.ones((1, len(values)))
    row = weights.reindex(values.index)
    if row.isna().any() or (row < 0).any() or row.sum() == 0:
        bad = row[row.isna() | (row < 0)].index
        names = ", ".join(" on ".join(workload) for workload in bad) or "all (they sum to zero)"
        raise EdgeError(f"weights should be given and not negative for every workload: {names}")
    return row.to_numpy(dtype=float)[None, :]


def _result(values: pd.DataFrame, scores: np.ndarray, name: str) -> pd.DataFrame:
    has = values.notna().sum().to_numpy()
    result = pd.DataFrame({"device": list(values.columns), name: scores})
    result["rank"] = result[name].rank(**_RANK).astype("Int64")
    return result.assign(workloads=has, missing=len(values) - has)
