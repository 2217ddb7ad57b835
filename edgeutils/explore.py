"""What the tables say before anything is predicted: ratios, fronts, elasticities, agreement."""

import numpy as np
import pandas as pd
import statsmodels.formula.api as smf
from numpy.typing import ArrayLike

from edgeutils import EdgeError
from edgeutils.networks import zoo
from edgeutils.networks.kernels import WORK, add_work


def processor_ratios(table: pd.DataFrame, base: str = "CPU1") -> pd.DataFrame:
    """Energy and power of each processor over those of `base`, same phone and network.

    Columns `device`, `name`, `dtype`, `processor`, `energy` and `power` (ratios; 1 = as `base`);
    cells that have no partner, or are empty, are left out.
    """
    key = ["device", "name"]
    reference = table[table["processor"] == base].set_index(key)[["energy_j", "power_w"]]
    others = table[table["processor"] != base].join(reference, on=key, rsuffix="_base")
    ratios = others[[*key, "dtype", "processor"]].assign(
        energy=others["energy_j"] / others["energy_j_base"],
        power=others["power_w"] / others["power_w_base"],
    )
    return ratios.dropna(subset=["energy", "power"]).reset_index(drop=True)


def quantisation_ratios(table: pd.DataFrame) -> pd.DataFrame:
    """Energy of each int8 network over that of its float32 twin, same device and processor.

    Columns `device`, `processor`, `model` and `energy` (ratio; below 1 = int8 saves energy).
    """
    key = ["device", "processor", "model"]
    twins = table.pivot_table(index=key, columns="dtype", values="energy_j", observed=True)
    return (twins["int8"] / twins["float32"]).dropna().rename("energy").reset_index()


def kernel_sums(table: pd.DataFrame) -> pd.DataFrame:
    """Latency of each network of the zoo beside the sum over its kernels, measured alone.

    `table` holds measurements of both levels (networks without a `family` are files, and left
    out); kernels are matched by configuration, `dtype` and `processor`, and several measurements
    of one are averaged (median). One row per network, dtype and processor of which every kernel
    was measured: `name` (of the zoo), `family`, `dtype`, `processor`, `kernels` (their number),
    `network_s`, `sum_s`, `no_macs_s` (part of the sum of kernels without MACs) and
    `ratio` = sum_s / network_s. What is none of the kernel types (a softmax) is not in the sum.
    """
    setting = ["dtype", "processor"]
    kernels = table[table["level"] == "kernel"]
    networks = table[(table["level"] == "network") & table["family"].notna()]
    alone, whole = (
        part.groupby(["group", *setting])["latency_s"].median().unstack(setting)
        for part in (kernels, networks)
    )
    idle = kernels.groupby("group")["macs"].max() == 0
    columns = ["name", "family", *setting, "kernels", "network_s", "sum_s", "no_macs_s"]
    found = []
    for name, network_s in whole.iterrows():
        graph = zoo.network(str(name))
        labels = [kernel.label for kernel in graph.kernels]
        if set(labels) <= set(alone.index):
            each = alone.loc[labels]
            sums = {"network_s": network_s, "sum_s": each.sum(skipna=False)}
            sums["no_macs_s"] = each[idle[labels].to_numpy()].sum()
            facts = {"name": name, "family": graph.family, "kernels": len(labels)}
            found.append(pd.DataFrame(sums).dropna().reset_index().assign(**facts))
    rows = pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=columns)
    rows = rows[columns].astype(dict.fromkeys(columns[5:], float))
    return rows.assign(ratio=rows["sum_s"] / rows["network_s"])


def pareto_front(table: pd.DataFrame) -> pd.DataFrame:
    """Rows that no other row beats: nothing of less energy is as accurate.

    >>> rows = pd.DataFrame({"energy_j": [1.0, 2.0, 3.0], "accuracy": [0.5, 0.4, 0.7]})
    >>> pareto_front(rows)["energy_j"].tolist()
    [1.0, 3.0]
    """
    ordered = table.sort_values(["energy_j", "accuracy"], ascending=[True, False])
    best_so_far = ordered["accuracy"].cummax().shift(fill_value=-np.inf)
    return ordered[ordered["accuracy"] > best_so_far]


def within_systems(table: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Spearman correlation of energy and each column, per device and runtime of 3 rows or more."""
    rows = []
    for (device, runtime), part in table.groupby(["device", "runtime"]):
        if len(part) > 2:
            ranks = part[columns].corrwith(part["energy_j"], method="spearman")
            rows.append({"device": device, "runtime": runtime, **ranks})
    return pd.DataFrame(rows, columns=["device", "runtime", *columns])


def elasticities(
    table: pd.DataFrame,
    models: dict[str, list[str]],
    *,
    cluster: str = "family",
    target: str = "energy_j",
) -> pd.DataFrame:
    r"""Regress the log of energy (or another `target`) on logs, every system with its own level.

    For each of `models` (label -> columns), least squares of
    :math:`\ln E_i = \alpha_{s(i)} + \sum_k \beta_k \ln x_{ik} + \epsilon_i`, with one
    :math:`\alpha` per system (device and runtime). Intervals are 95 %, from a covariance robust
    to any correlation within a `cluster`, with Student's t on (clusters - 1) degrees of freedom.

    Columns `model`, `term`, `elasticity` (per cent of energy per per cent of the term), `low95`,
    `high95`, `typical_error` (median of \|residual\| as a factor minus one), `n`, `clusters`.
    EdgeError: fewer than two clusters.
    """
    clusters = table[cluster].nunique()
    if clusters < 2:
        raise EdgeError(
            f"cluster-robust intervals need two values of {cluster} or more, not {clusters}"
        )
    data = table.assign(system=table["device"] + table["runtime"])
    robust = {"cov_type": "cluster", "cov_kwds": {"groups": pd.factorize(data[cluster])[0]}}
    found = []
    for label, terms in models.items():
        logs = [f"np.log({term})" for term in terms]
        formula = " + ".join([f"np.log({target}) ~ C(system)", *logs])
        fit = smf.ols(formula, data).fit(**robust, use_t=True)
        slopes = fit.conf_int().set_axis(["low95", "high95"], axis=1).loc[logs]
        slopes.insert(0, "elasticity", fit.params)
        facts = {"model": label, "n": int(fit.nobs), "clusters": clusters}
        typical_error = np.expm1(fit.resid.abs().median())
        found.append(slopes.assign(term=terms, typical_error=typical_error, **facts))
    return pd.concat(found, ignore_index=True)


def concentration(energy_j: pd.Series, share: float = 0.1) -> float:
    """Part of the summed energy (0 to 1) that the hungriest `share` of the rows holds."""
    values = energy_j.dropna().sort_values(ascending=False)
    hungriest = values.head(max(1, round(share * len(values))))
    return float(hungriest.sum() / values.sum()) if len(values) else np.nan


def energy_per_mac(kernels: pd.DataFrame) -> pd.DataFrame:
    """Median energy per multiply-accumulate of each kernel type that does any.

    Columns `kernel_type`, `kernels` (count), `low5_pj`, `median_pj`, `high95_pj` (percentiles, pJ).
    """
    working = kernels[(kernels["macs"] > 0) & kernels["energy_j"].notna()]
    cost = (1e12 * working["energy_j"] / working["macs"]).groupby(working["kernel_type"])
    percentiles = {"low5_pj": 0.05, "median_pj": 0.5, "high95_pj": 0.95}
    table = pd.DataFrame({name: cost.quantile(part) for name, part in percentiles.items()})
    return table.assign(kernels=cost.size()).sort_values("median_pj").reset_index()


#: Sizes of a kernel that one may turn while the others stand still.
_SIZES = ("hw", "cin", "cout", "kernel_size", "stride")


def near_kernels(
    rows: pd.DataFrame, kernel: pd.DataFrame, free: str, factor: float = 1.3
) -> pd.DataFrame:
    """Rows that differ from a `kernel` (one row) in the size `free`, and hardly in the others.

    Of the same type and number type; channels within `factor`, all else equal.

    >>> rows = pd.DataFrame({"kernel_type": "fc", "cin": [8, 9, 99], "cout": [1, 5, 1]})
    >>> near_kernels(rows, rows[:1], "cout")["cout"].tolist()
    [1, 5]
    """
    held = kernel.iloc[0]
    same = [c for c in ("kernel_type", "dtype") if c in rows]
    keep = (rows[same] == held[same]).all(axis=1)
    for size in [c for c in _SIZES if c in rows and c != free and pd.notna(held[c])]:
        ratio = rows[size].astype(float) / float(held[size])
        slack = factor if size in ("cin", "cout") else 1.0
        keep &= ratio.between(1 / slack, slack)
    return rows[keep]


def kernel_slice(kernel: pd.DataFrame, size: str, values: ArrayLike) -> pd.DataFrame:
    """Copy a `kernel` (one row) with a size turned to each of `values`, and the work that follows.

    >>> layer = pd.DataFrame({"kernel_type": ["fc"], "cin": [8], "cout": [4], "dtype": ["int8"]})
    >>> kernel_slice(layer, "cin", [8, 16])["macs"].tolist()
    [32.0, 64.0]
    """
    turned = np.asarray(values)
    rows = kernel.loc[kernel.index.repeat(len(turned))].reset_index(drop=True)
    # Exact sizes go with the work: they belong to the kernel as it was.
    rows = rows.drop(columns=[*WORK, "pixels", "taps"], errors="ignore")
    return add_work(rows.assign(**{size: turned}))
