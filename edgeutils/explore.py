"""What the tables say before anything is predicted: ratios, fronts, elasticities, agreement.

Functions of DataFrames: measurement tables go in, small tidy tables come out.
"""

import numpy as np
import pandas as pd
import statsmodels.formula.api as smf

from edgeutils import EdgeError


def processor_ratios(table: pd.DataFrame, base: str = "CPU1") -> pd.DataFrame:
    """Energy and power of each processor over those of `base`, same phone and network.

    Returns
    -------
    pandas.DataFrame
        `device`, `name`, `dtype`, `processor`, `energy` and `power` (ratios; 1 = as `base`);
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
    """Energy of a quantised network over that of its float32 twin, same device and processor.

    Returns
    -------
    pandas.DataFrame
        `device`, `processor`, `model` and `energy` (ratio; below 1 = int8 saves energy).
    """
    key = ["device", "processor", "model"]
    twins = table.pivot_table(index=key, columns="dtype", values="energy_j", observed=True)
    return (twins["int8"] / twins["float32"]).dropna().rename("energy").reset_index()


def pareto_front(
    table: pd.DataFrame, cost: str = "energy_j", gain: str = "accuracy"
) -> pd.DataFrame:
    """Rows that no other row beats in both: nothing cheaper gains as much.

    Examples
    --------
    >>> rows = pd.DataFrame({"energy_j": [1.0, 2.0, 3.0], "accuracy": [0.5, 0.4, 0.7]})
    >>> pareto_front(rows)["energy_j"].tolist()
    [1.0, 3.0]
    """
    ordered = table.sort_values([cost, gain], ascending=[True, False])
    best_so_far = ordered[gain].cummax().shift(fill_value=-np.inf)
    return ordered[ordered[gain] > best_so_far]


def within_systems(table: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Rank correlation of energy with each column, system by system (device x runtime).

    Returns
    -------
    pandas.DataFrame
        One row per system with at least three rows: `device`, `runtime`, one column per name,
        -1 to 1 (Spearman).
    """
    rows = []
    for (device, runtime), part in table.groupby(["device", "runtime"]):
        if len(part) > 2:
            ranks = part[columns].corrwith(part["energy_j"], method="spearman")
            rows.append({"device": device, "runtime": runtime, **ranks})
    return pd.DataFrame(rows, columns=["device", "runtime", *columns])


def elasticities(
    table: pd.DataFrame, models: dict[str, list[str]], *, cluster: str = "family"
) -> pd.DataFrame:
    r"""Regress log energy on logs of other columns, every system with its own level.

    For each model, least squares of
    :math:`\ln E_i = \alpha_{s(i)} + \sum_k \beta_k \ln x_{ik} + \epsilon_i`, with one
    :math:`\alpha` per system (device and runtime). Intervals are 95 %, from a covariance robust
    to any correlation within a cluster, with Student's t on (clusters - 1) degrees of freedom.

    Parameters
    ----------
    table
        Rows with positive `energy_j` (J) and positive columns.
    models
        Label -> columns on the right.
    cluster
        Column whose values mark rows that may err together.

    Returns
    -------
    pandas.DataFrame
        `model`, `term`, `elasticity` (per cent of energy per per cent of the term), `low95`,
        `high95`, `typical_error` (median of \|residual\| as a factor minus one), `n`, `clusters`.

    Raises
    ------
    EdgeError
        Fewer than two clusters.
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
        right = " + ".join(f"np.log({term})" for term in terms)
        fit = smf.ols(f"np.log(energy_j) ~ {right} + C(system)", data).fit(**robust, use_t=True)
        slopes = fit.conf_int().set_axis(["low95", "high95"], axis=1)
        slopes.insert(0, "elasticity", fit.params)
        slopes = slopes.loc[[f"np.log({term})" for term in terms]].reset_index(drop=True)
        error = np.expm1(np.median(np.abs(fit.resid)))
        facts = {"typical_error": error, "n": int(fit.nobs), "clusters": clusters}
        found.append(slopes.assign(model=label, term=terms, **facts))
    return pd.concat(found, ignore_index=True)


def concentration(energy_j: pd.Series, share: float = 0.1) -> float:
    """Part of the summed energy (0 to 1) that the hungriest `share` of the rows holds."""
    values = np.sort(energy_j.dropna().to_numpy())[::-1]
    return (
        float(values[: max(1, round(share * values.size))].sum() / values.sum())
        if values.size
        else np.nan
    )


def energy_per_mac(kernels: pd.DataFrame) -> pd.DataFrame:
    """Median energy per multiply-accumulate of each kernel type that does any.

    Returns
    -------
    pandas.DataFrame
        `kernel_type`, `kernels` (count), `median_pj`, `low5_pj`, `high95_pj` (percentiles, pJ).
    """
    working = kernels[(kernels["macs"] > 0) & kernels["energy_j"].notna()]
    cost = (1e12 * working["energy_j"] / working["macs"]).groupby(working["kernel_type"])
    table = pd.DataFrame(
        {
            "kernels": cost.size(),
            "low5_pj": cost.quantile(0.05),
            "median_pj": cost.median(),
            "high95_pj": cost.quantile(0.95),
        }
    )
    return table.sort_values("median_pj").reset_index()
