"""The two studies of the book: networks on MLPerf's boards, kernels on a phone.

Chapters and later stages call the same functions, so that a chapter that runs alone builds the
very table that the one before it would have written.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import pandas as pd
from sklearn.base import BaseEstimator

from edgeutils.regression import predictors
from edgeutils.regression.validation import Split, cross_validate

#: The method that is ours, in each study.
OURS = "physical model"
OURS_KERNELS = "Gaussian process"

# A system with fewer networks has nothing to cross-validate.
_FEWEST_NETWORKS = 50

_CONVS = {"platformx-conv-cpu": "convolutions, CPU", "platformx-conv-gpu": "convolutions, GPU"}

#: Energies of DeepEn2023 are printed with three decimals of a millijoule.
DEEPEN_STEP_J = 1e-6

#: What the physical model of a network may look at, by what it stands for.
FEATURE_GROUPS: dict[str, list[str]] = predictors.SETTINGS["network_groups"]


def network_systems(table: pd.DataFrame) -> pd.DataFrame:
    """Prepare the rows of `edgeutils.datasets.network_table` for cross-validation.

    Rows of systems with many networks stay and get `system` (board and runtime); `group` becomes
    the architecture, as the float and the quantised version of a network belong together. Columns
    that are missing throughout are dropped.
    """
    system = table["device"] + ", " + table["runtime"]
    many = system.groupby(system).transform("size") >= _FEWEST_NETWORKS
    rows = table.assign(system=system)[many].reset_index(drop=True)
    twin = rows["name"].str.replace(r"(-non-quantized|-quantized|_float|_uint8)$", "", regex=True)
    return rows.assign(group=twin).dropna(axis="columns", how="all")


def network_errors(
    table: pd.DataFrame, *, folds: int = 5, seeds: Sequence[int] = (0,), trees: int | None = None
) -> pd.DataFrame:
    """Predict every network of `edgeutils.datasets.network_table` out of fold, by every method.

    Each system is fitted by itself, under random folds (`seeds`: repetitions) and with a family
    left out. `trees` is the size of the forest; None: the paper's, which takes minutes. Returns
    the table of `edgeutils.regression.validation.cross_validate`, in J.
    """
    models = {
        "FLOPs line": predictors.FlopsLine(),
        "MACs + layers": predictors.PhysicalModel(("macs", "layers"), group="family"),
        "latency x power": predictors.LatencyTimesPower(),
        "paper's forest": predictors.PaperForest(trees=trees, seed=seeds[0]),
        OURS: predictors.PhysicalModel(group="family"),
    }
    splits = {"random": Split("random", folds=folds), "family": Split("leave_out", "family")}
    return cross_validate(models, network_systems(table), splits, by="system", seeds=seeds)


def kernel_study(sets: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Join the phones' kernels into studies that are fitted apart.

    `sets` maps the data sets at hand to their tables: `platformx-conv-cpu`, `platformx-conv-gpu`
    (convolutions) and `deepen2023` (whose other types are used). Rows with an energy and a full
    configuration stay; `study` is "convolutions, CPU", "convolutions, GPU" or the kernel type.
    """
    parts = []
    for name, table in sets.items():
        rows = table[table["input_bytes"].notna() & table["energy_j"].gt(0)]
        if name not in _CONVS:
            rows = rows[rows["kernel_type"] != "conv-bn-relu"]
        parts.append(rows.assign(study=_CONVS.get(name, rows["kernel_type"])))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"study": []})


def kernel_models(*, seed: int = 0) -> dict[str, BaseEstimator]:
    """Name the methods for kernels."""
    return {
        "FLOPs line": predictors.FlopsLine(),
        "paper's forest": predictors.PaperForest(seed=seed),
        "physical model": predictors.PhysicalModel(predictors.KERNEL_TERMS, by_dtype=False),
        OURS_KERNELS: predictors.GaussianProcess(rounding_j=DEEPEN_STEP_J),
    }


def kernel_errors(
    table: pd.DataFrame, *, folds: int = 5, seeds: Sequence[int] = (0,)
) -> pd.DataFrame:
    """Predict the rows of `kernel_study` out of fold, each study by itself; as `network_errors`.

    The folds are grouped: equal configurations never lie on both sides.
    """
    splits = {"grouped": Split("grouped", "group", folds=folds)}
    return cross_validate(kernel_models(seed=seeds[0]), table, splits, by="study", seeds=seeds)


def ablation_models(*, kernels: bool = False) -> dict[str, BaseEstimator]:
    """Physical models of networks (or Gaussian processes of kernels) by what they may look at.

    Without one group of features, with one group only, and without a price list per number type.
    """
    models: dict[str, BaseEstimator] = {}
    model: Callable[..., BaseEstimator] = predictors.PhysicalModel
    if kernels:
        model = partial(predictors.GaussianProcess, rounding_j=DEEPEN_STEP_J)
    else:
        models["without number type"] = model(by_dtype=False)
    level = "kernel" if kernels else "network"
    for name, columns in predictors.SETTINGS[f"{level}_groups"].items():
        rest = tuple(c for c in predictors.SETTINGS[f"{level}_features"] if c not in columns)
        models |= {f"without {name}": model(rest), f"only {name}": model(tuple(columns))}
    return models
