"""Scores that end users can read: PCS for power, IECS for energy, and how stable their ranks are.

Both scores are of Tu et al., "Unveiling Energy Efficiency in Deep Learning", SEC 2023
(arXiv 2310.18329). A **workload** is a network on a processor, and a device gets one number from
all of its workloads. The paper prints PCS without its formula and describes IECS in words only:
`pcs` was found by solving the printed table, `iecs` is this book's own reading.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import pandas as pd

from edgeutils import EdgeError
from edgeutils.table import require_comparable

WORKLOAD = ("name", "processor")
#: Thermal design power of each device, W; weight of each workload, indexed by (name, processor).
Tdp: TypeAlias = Mapping[str, float] | pd.Series
Weights: TypeAlias = pd.Series | None
_RANK = {"method": "min", "ascending": False}


def pcs(
    table: pd.DataFrame, tdp: Tdp, *, weights: Weights = None, across_boundaries: bool = False
) -> pd.DataFrame:
    r"""Power consumption score of each device; higher is better, 100 would be no power at all.

    .. math:: \mathrm{PCS} = 100\,\frac{1}{n}\sum_{i=1}^{n}\left(1-\frac{P_i}{P_\mathrm{TDP}}\right)

    `table` is a measurement table whose `power_w` is the mean power of a workload, W (the paper's
    APC). Without `weights` all workloads count the same; `across_boundaries` scores rows of
    different boundaries or idle policies together all the same.

    The result has a row per device in the order of the table: `device`, `pcs` (not rounded; below
    0 where the mean power exceeds the TDP; NaN without a single workload), `rank` (1 is best),
    `workloads` (how many were scored) and `missing` (how many others in the table have).
    EdgeError: a device without TDP, rows not comparable, a workload given twice or unweighted.
    """
    values = workload_matrix(table, "power_w", across_boundaries=across_boundaries)
    return _result(values, "pcs", _pcs(values, tdp, _weight_row(values, weights)))


def iecs(
    table: pd.DataFrame, *, weights: Weights = None, across_boundaries: bool = False
) -> pd.DataFrame:
    r"""Inference energy consumption score of each device; higher is better.

    .. math:: \mathrm{IECS} = \sum_{i=1}^{n}\frac{1}{E_i}

    in inferences per joule, with :math:`E_i` the energy of one inference of workload i (the
    paper's ECI). The formula is ours: the paper says that the score sums the inference energy
    of its six applications on CPU, GPU and NNAPI, and its published scores follow this sum
    without being equal to it. A missing workload adds nothing, so look at `missing`.

    Parameters, result (`iecs` in 1/J instead of `pcs`) and errors are those of `pcs`, with
    `energy_j` (J per inference) instead of `power_w`; weights are scaled to a mean of one.
    """
    values = workload_matrix(table, "energy_j", across_boundaries=across_boundaries)
    return _result(values, "iecs", _iecs(values, _weight_row(values, weights)))


def implied_tdp(
    mean_power_w: pd.Series, published_pcs: pd.Series, printed_tdp_w: pd.Series
) -> pd.DataFrame:
    """Orders of the printed TDPs for which PCS rounds to every published score.

    All three are indexed by device: mean power over the workloads (W), score (a whole number)
    and printed TDP (W), the values that are dealt out anew. The result has one row per order
    that reproduces all scores and one column per device (W). EdgeError for a device without
    score or TDP, or if no order gives the published scores.
    """
    devices = list(mean_power_w.index)
    for what, given in (("published PCS", published_pcs), ("printed TDP", printed_tdp_w)):
        _require_devices(devices, given.dropna().index, what)
    printed = Counter(printed_tdp_w.loc[devices].astype(float))
    orders: list[list[float]] = [[]]
    for device in devices:
        orders = [
            [*order, value]
            for order in orders
            for value in sorted(printed - Counter(order))
            if round(100 * (1 - mean_power_w[device] / value)) == published_pcs[device]
        ]
        if not orders:
            raise EdgeError(
                f"no order of the TDPs {', '.join(f'{w:g}' for w in printed_tdp_w)} W gives the "
                f"published PCS (at the latest for {device}); check the scores, or pass other TDPs"
            )
    return pd.DataFrame(orders, columns=devices)


def bootstrap_scores(
    table: pd.DataFrame, tdp: Tdp, *, resamples: int, seed: int, unit: Sequence[str] = WORKLOAD
) -> pd.DataFrame:
    """Both scores of every device under resampled workloads (Efron's bootstrap).

    Each resample draws as many units as there are, with replacement, the same for all devices: a
    `unit` of ("name", "processor") is a single workload, ("name",) a network with all of its
    processors. `table` (with `power_w` and `energy_j`), `tdp` and errors are those of `pcs`. One
    row per resample and device: `resample`, `device`, `pcs`, `iecs`, `rank_pcs`, `rank_iecs`.
    """
    if resamples < 1:
        raise EdgeError(f"resamples should be at least 1, not {resamples}; 1000 is usual")
    energy, power = workload_matrix(table, "energy_j"), workload_matrix(table, "power_w")
    codes = energy.index.to_frame(index=False).groupby(list(unit), sort=False).ngroup().to_numpy()
    n = codes.max() + 1
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    drawn = draws[:, codes].astype(float)
    levels = {"resample": range(resamples), "device": energy.columns}
    result = pd.DataFrame(index=pd.MultiIndex.from_product(levels.values(), names=levels))
    result["pcs"], result["iecs"] = _pcs(power, tdp, drawn).ravel(), _iecs(energy, drawn).ravel()
    ranks = result.groupby("resample").rank(**_RANK)
    return result.join(ranks.add_prefix("rank_")).reset_index()


def rank_shares(resampled: pd.DataFrame, score: str) -> pd.DataFrame:
    """Share of resamples in which each device holds each rank.

    `resampled` is what `bootstrap_scores` returns, `score` is "pcs" or "iecs" (others raise
    EdgeError); the result is devices x ranks (1 is best), and each row sums to one.
    """
    if score not in ("pcs", "iecs"):
        raise EdgeError(f"unknown score {score!r}; known: pcs, iecs")
    shares = pd.crosstab(resampled["device"], resampled[f"rank_{score}"], normalize="index")
    ranks = pd.RangeIndex(1, len(shares) + 1, name="rank")
    return shares.reindex(index=resampled["device"].unique(), columns=ranks, fill_value=0.0)


def score_card(table: pd.DataFrame, tdp: Tdp, *, resamples: int, seed: int) -> pd.DataFrame:
    """Both scores with ranks and 90 % bootstrap intervals over workloads, one row per device.

    Arguments and errors are those of `bootstrap_scores`. Columns: `device`, `pcs`, `pcs_low90`,
    `pcs_high90`, `rank_pcs`, the same for `iecs` (1/J), and IECS's `workloads` and `missing`.
    """
    resampled = bootstrap_scores(table, tdp, resamples=resamples, seed=seed).groupby("device")
    parts = [pcs(table, tdp).drop(columns=["workloads", "missing"]), iecs(table)]
    for name, part in zip(("pcs", "iecs"), parts, strict=True):
        part.insert(2, f"{name}_low90", part["device"].map(resampled[name].quantile(0.05)))
        part.insert(3, f"{name}_high90", part["device"].map(resampled[name].quantile(0.95)))
        part.rename(columns={"rank": f"rank_{name}"}, inplace=True)
    return parts[0].merge(parts[1], on="device")


def rank_correlation(one: pd.Series, other: pd.Series) -> float:
    """Spearman's rank correlation (-1 to 1) over the devices, at least three, that have both."""
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
    if not rows[value].notna().any():
        raise EdgeError(f"there is no row with {value} to score; pass a table that has some")
    twice = rows.duplicated(["device", *WORKLOAD])
    if twice.any():
        first = rows.loc[twice].iloc[0]
        raise EdgeError(
            f"{first['device']} has {first['name']} on {first['processor']} more than once "
            f"({int(twice.sum())} such rows); a workload counts once: keep one row or the mean"
        )
    matrix = rows.set_index(["device", *WORKLOAD])[value].unstack("device")
    return matrix[rows["device"].unique()].astype(float)


def _pcs(power: pd.DataFrame, tdp: Tdp, weights: np.ndarray) -> np.ndarray:
    """Scores, (rows of weights) x devices."""
    given = pd.Series(dict(tdp), dtype=float).dropna()
    _require_devices(power.columns, given.index, "TDP (W)")
    tdp_w = given.loc[list(power.columns)]
    if (tdp_w <= 0).any():
        raise EdgeError(f"the TDP of {tdp_w.idxmin()} should be above 0 W, not {tdp_w.min():g}")
    with np.errstate(invalid="ignore"):
        mean_w = (weights @ power.fillna(0).to_numpy()) / (weights @ power.notna().to_numpy())
    return 100 * (1 - mean_w / tdp_w.to_numpy())


def _iecs(energy: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
    scaled = weights / weights.mean(axis=1, keepdims=True)
    scores = scaled @ (1 / energy).fillna(0).to_numpy()
    return np.where(scaled @ energy.notna().to_numpy() > 0, scores, np.nan)


def _require_devices(devices: Iterable[str], given: pd.Index, what: str) -> None:
    without = [device for device in devices if device not in given]
    if without:
        raise EdgeError(
            f"no {what} for {', '.join(without)}; given for: {', '.join(map(str, given)) or 'none'}"
        )


def _weight_row(values: pd.DataFrame, weights: Weights) -> np.ndarray:
    row = pd.Series(1.0, values.index) if weights is None else weights.reindex(values.index)
    bad = row.index[~(row >= 0)]
    if len(bad) or row.sum() == 0:
        names = ", ".join(" on ".join(workload) for workload in bad) or "all (they sum to zero)"
        raise EdgeError(f"weights should be given and not negative for every workload: {names}")
    return row.to_numpy(dtype=float)[None, :]


def _result(values: pd.DataFrame, name: str, scores: np.ndarray) -> pd.DataFrame:
    result = pd.DataFrame({name: scores[0]}, index=values.columns)
    result["rank"] = result[name].rank(**_RANK).astype("Int64")
    workloads = values.notna().sum()
    return result.assign(workloads=workloads, missing=len(values) - workloads).reset_index()
