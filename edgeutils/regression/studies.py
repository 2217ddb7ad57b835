"""The two studies of the book: networks on MLPerf's boards, kernels on a phone.

Chapters and later stages call the same functions, so that a chapter that runs alone builds the
very table that the one before it would have written.
"""

from collections.abc import Mapping, Sequence

import pandas as pd
from sklearn.base import BaseEstimator

from edgeutils.regression.predictors import (
    KERNEL_FEATURES,
    KERNEL_TERMS,
    NETWORK_FEATURES,
    FlopsLine,
    GaussianProcess,
    LatencyTimesPower,
    PaperForest,
    PhysicalModel,
)
from edgeutils.regression.validation import Split, cross_validate

#: The method that is ours, in each study.
OURS = "physical model"
OURS_KERNELS = "Gaussian process"

#: A system with fewer networks has nothing to cross-validate.
_FEWEST_NETWORKS = 50

_CONVOLUTIONS = {
    "platformx-conv-cpu": "convolutions, CPU",
    "platformx-conv-gpu": "convolutions, GPU",
}

#: Energies of DeepEn2023 are printed with three decimals of a millijoule.
DEEPEN_STEP_J = 1e-6


def network_systems(table: pd.DataFrame) -> pd.DataFrame:
    """Prepare the networks' measurements for cross-validation.

    Parameters
    ----------
    table
        Rows of `edgeutils.datasets.network_table`.

    Returns
    -------
    pandas.DataFrame
        Rows of systems with many networks, plus `system` (board and runtime); `group` becomes
        the architecture: the float and the quantised version of a network belong together.
        Columns that are missing throughout are dropped.
    """
    system = table["device"] + ", " + table["runtime"]
    many = system.groupby(system).transform("size") >= _FEWEST_NETWORKS
    rows = table.assign(system=system)[many].reset_index(drop=True)
    twin = rows["name"].str.replace(r"(-non-quantized|-quantized|_float|_uint8)$", "", regex=True)
    return rows.assign(group=twin).dropna(axis="columns", how="all")


def network_models(*, trees: int | None = None, seed: int = 0) -> dict[str, BaseEstimator]:
    """Name the methods for networks; `trees` overrides the size of the paper's forest."""
    return {
        "FLOPs line": FlopsLine(),
        "MACs + layers": PhysicalModel(("macs", "layers"), group="family"),
        "latency x power": LatencyTimesPower(),
        "paper's forest": PaperForest(trees=trees, seed=seed),
        OURS: PhysicalModel(NETWORK_FEATURES, group="family"),
    }


def network_errors(
    table: pd.DataFrame, *, folds: int = 5, seeds: Sequence[int] = (0,), trees: int | None = None
) -> pd.DataFrame:
    """Out-of-fold predictions of every method for every system, at random and by family.

    Parameters
    ----------
    table
        Rows of `edgeutils.datasets.network_table`.
    folds, seeds
        Folds, and repetitions, of the random split.
    trees
        Size of the forest; None: the paper's, which takes minutes.

    Returns
    -------
    pandas.DataFrame
        See `edgeutils.regression.validation.cross_validate`; J.
    """
    splits = {
        "random": Split("random", folds=folds),
        "family": Split("leave_out", "family"),
    }
    models = network_models(trees=trees, seed=seeds[0])
    return cross_validate(models, network_systems(table), splits, by="system", seeds=seeds)


def kernel_models(*, seed: int = 0) -> dict[str, BaseEstimator]:
    """Name the methods for kernels."""
    return {
        "FLOPs line": FlopsLine(),
        "paper's forest": PaperForest(seed=seed),
        "physical model": PhysicalModel(KERNEL_TERMS, by_dtype=False),
        OURS_KERNELS: GaussianProcess(rounding_j=DEEPEN_STEP_J),
    }


def kernel_study(sets: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Join the phones' kernels into studies that are fitted apart.

    Parameters
    ----------
    sets
        Data set name -> measurement table, of those at hand: `platformx-conv-cpu` and
        `platformx-conv-gpu` (convolutions), `deepen2023` (its other types).

    Returns
    -------
    pandas.DataFrame
        Rows with an energy and a full configuration, and `study`: "convolutions, CPU",
        "convolutions, GPU" or the kernel type. Empty where no set is at hand.
    """
    parts = []
    for name, table in sets.items():
        rows = table[table["input_bytes"].notna() & table["energy_j"].gt(0)]
        if name in _CONVOLUTIONS:
            parts.append(rows.assign(study=_CONVOLUTIONS[name]))
        else:
            others = rows[rows["kernel_type"] != "conv-bn-relu"]
            parts.append(others.assign(study=others["kernel_type"]))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"study": []})


def kernel_errors(
    table: pd.DataFrame, *, folds: int = 5, seeds: Sequence[int] = (0,)
) -> pd.DataFrame:
    """Out-of-fold predictions of kernels by the same methods, each study by itself.

    Parameters
    ----------
    table
        Rows of `kernel_study`; folds are grouped: equal configurations never lie on both sides.

    Returns
    -------
    pandas.DataFrame
        See `edgeutils.regression.validation.cross_validate`; J.
    """
    models = kernel_models(seed=seeds[0])
    splits = {"grouped": Split("grouped", "group", folds=folds)}
    return cross_validate(models, table, splits, by="study", seeds=seeds)


#: What a physical model of a network may look at, by what it stands for.
FEATURE_GROUPS = {
    "arithmetic": ("dense_macs", "depthwise_macs"),
    "data moved": ("activations", "pixels"),
    "parameters": ("params",),
    "layers": ("layers",),
    "special operators": ("hswish_elements", "se_elements"),
}


def ablation_models() -> dict[str, BaseEstimator]:
    """Physical models of networks without one group of features, and with one group only."""
    models = {}
    for name, columns in FEATURE_GROUPS.items():
        rest = tuple(c for c in NETWORK_FEATURES if c not in columns)
        models[f"without {name}"] = PhysicalModel(rest)
        models[f"only {name}"] = PhysicalModel(columns)
    return models | {"without number type": PhysicalModel(NETWORK_FEATURES, by_dtype=False)}


#: The same for the Gaussian process of a kernel.
KERNEL_GROUPS = {
    "shape": ("hw", "cin", "cout", "kernel_size", "stride"),
    "arithmetic": ("macs",),
    "parameters": ("params",),
    "data moved": ("elements",),
}


def kernel_ablation_models() -> dict[str, BaseEstimator]:
    """Gaussian processes of kernels without one group of features, and with one group only."""
    models = {}
    for name, columns in KERNEL_GROUPS.items():
        rest = tuple(c for c in KERNEL_FEATURES if c not in columns)
        models[f"without {name}"] = GaussianProcess(rest, rounding_j=DEEPEN_STEP_J)
        models[f"only {name}"] = GaussianProcess(columns, rounding_j=DEEPEN_STEP_J)
    return models
