"""The studies of the book: networks on MLPerf's boards, kernels on a phone, both on a computer.

Chapters and later stages call the same functions, so that a chapter that runs alone builds the
very table that the one before it would have written.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, clone
from sklearn.compose import TransformedTargetRegressor

from edgeutils.networks import zoo
from edgeutils.networks.kernels import kernel_frame
from edgeutils.regression import predictors
from edgeutils.regression.features import SETTINGS
from edgeutils.regression.kernel_predictor import FEWEST_CONFIGURATIONS, MEMBERS, KernelPredictor
from edgeutils.regression.validation import Split, cross_validate

#: The method that is ours, in each study.
OURS = "physical model"
OURS_KERNELS = "kernel predictor"

# Keeps logs of any energy or time positive, as a predictor's target has to be.
_LIFT = 100.0

# A system with fewer networks has nothing to cross-validate.
_FEWEST_NETWORKS = 50

#: What a set of kernels is called where several are studied side by side.
STUDIES = {
    "platformx-conv-cpu": "convolutions, phone CPU",
    "platformx-conv-gpu": "convolutions, phone GPU",
    "deepen2023": "other kernels, phone CPU",
    "neurstruc-kernels": "convolutions, board",
    "litert-x86": "own kernels",
}

#: What the physical model of a network may look at, by what it stands for.
FEATURE_GROUPS: dict[str, list[str]] = SETTINGS["network_groups"]


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


def kernel_study(sets: Mapping[str, pd.DataFrame], *, target: str = "energy_j") -> pd.DataFrame:
    """Join kernels into studies that are fitted apart.

    `sets` maps the data sets at hand (those of `STUDIES`) to their tables. Rows of kernels with a
    `target` and a full configuration stay; of `deepen2023` all but the convolutions, which
    `platformx-conv-cpu` has. `study` is the name of the set, for own kernels with number type and
    processor. The board's depthwise convolutions, eleven, are too few to judge a method by.
    """
    parts = []
    for name, table in sets.items():
        rows = table[table["input_bytes"].notna() & table[target].gt(0)]
        rows = rows[rows["level"] == "kernel"]
        study = pd.Series(STUDIES[name], rows.index)
        if name == "deepen2023":
            rows = rows[rows["kernel_type"] != "conv-bn-relu"]
        if name == "neurstruc-kernels":
            rows = rows[rows["kernel_type"] == "conv-bn-relu"]
        if name == "litert-x86":
            study = study + ", " + rows["dtype"] + ", " + rows["processor"]
        parts.append(rows.assign(study=study))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"study": []})


def kernel_models(
    *, seed: int = 0, trees: int | None = None, latency: bool = False
) -> dict[str, BaseEstimator]:
    """Name the methods for kernels; `latency`: also those that need the measured latency."""
    alone = {
        "FLOPs line": predictors.FlopsLine(),
        "FLOPs + bytes": predictors.FlopsAndBytes(),
        "latency x power": predictors.LatencyTimesPower(),
        "paper's forest": predictors.PaperForest(trees=trees, seed=seed),
        "physical model": predictors.PhysicalModel(predictors.KERNEL_TERMS, by_dtype=False),
    }
    if not latency:
        del alone["latency x power"]
    models = {name: predictors.PerType(model) for name, model in alone.items()}
    return models | {OURS_KERNELS: KernelPredictor(seed=seed)}


def kernel_errors(
    table: pd.DataFrame,
    *,
    folds: int = 5,
    seeds: Sequence[int] = (0,),
    trees: int | None = None,
    target: str = "energy_j",
) -> pd.DataFrame:
    """Predict the rows of `kernel_study` out of fold, each study by itself; as `network_errors`.

    The folds are grouped: equal configurations never lie on both sides. `study` is a column.
    """
    splits = {"grouped": Split("grouped", "group", folds=folds)}
    parts = []
    for _, rows in table.groupby("study", sort=False):
        latency = target == "energy_j" and bool(rows["latency_s"].notna().all())
        models = kernel_models(seed=seeds[0], trees=trees, latency=latency)
        parts.append(cross_validate(models, rows, splits, by="study", seeds=seeds, target=target))
    if not parts:
        return cross_validate({}, table, splits, by="study")
    return pd.concat(parts, ignore_index=True)


def networks_from_kernels(
    table: pd.DataFrame, *, seed: int = 0, trees: int | None = None, target: str = "latency_s"
) -> pd.DataFrame:
    """Predict networks of the zoo as sums over their kernels, by models that saw kernels only.

    `table` holds kernels and networks of one device, processor and number type. One model of each
    method is fitted; networks with a kernel of a type that was not measured are
    left out. Columns as in `edgeutils.regression.validation.cross_validate`, without intervals.
    """
    kernels, networks = (table[table["level"] == level] for level in ("kernel", "network"))
    configurations = kernels.groupby("kernel_type")["group"].transform("nunique")
    kernels = kernels[configurations >= FEWEST_CONFIGURATIONS]
    graphs = {name: zoo.network(name) for name in networks["group"]}
    parts = kernel_frame(kernel for graph in graphs.values() for kernel in graph.kernels)
    parts["network"] = np.repeat(list(graphs), [len(g.kernels) for g in graphs.values()])
    parts["dtype"] = networks["dtype"].iloc[0]
    found = []
    for method, model in kernel_models(seed=seed, trees=trees).items():
        known = parts[parts["kernel_type"].isin(kernels["kernel_type"])]
        fitted = clone(model).fit(kernels, kernels[target].to_numpy(float))
        cost = pd.Series(fitted.predict(known), known.index).reindex(parts.index)
        total = cost.groupby(parts["network"]).agg(lambda part: part.sum(skipna=False))
        found.append(networks.assign(method=method, predicted=networks["group"].map(total)))
    errors = pd.concat(found, ignore_index=True).dropna(subset="predicted")
    errors = errors.assign(measured=errors[target], split="kernels only", seed=seed)
    errors["error"] = errors["predicted"] / errors["measured"] - 1
    return errors.assign(ape=errors["error"].abs(), low90=np.nan, high90=np.nan)


def ablation_models() -> dict[str, BaseEstimator]:
    """Physical models of networks by what they may look at.

    Without one group of features, with one group only, and without a price list per number type.
    """
    model = predictors.PhysicalModel
    models: dict[str, BaseEstimator] = {"without number type": model(by_dtype=False)}
    for name, columns in FEATURE_GROUPS.items():
        rest = tuple(c for c in predictors.NETWORK_FEATURES if c not in columns)
        models |= {f"without {name}": model(rest), f"only {name}": model(tuple(columns))}
    return models


def _log(value: np.ndarray) -> np.ndarray:
    return np.log(value) + _LIFT


def _exp(log: np.ndarray) -> np.ndarray:
    return np.exp(log - _LIFT)


def kernel_ablation_models(*, seed: int = 0, trees: int | None = None) -> dict[str, BaseEstimator]:
    """Kernel predictors that lack something, and the paper's forest on logs of the target."""
    lacking = {
        "tiles and caches": ("tiles",),
        "sharing between types": ("shared", "shared, stepped"),
        "trees": ("boosting", "forest"),
        "all but one process": ("tiles", "shared", "shared, stepped", "boosting", "forest"),
    }
    models: dict[str, BaseEstimator] = {OURS_KERNELS: KernelPredictor(seed=seed)}
    for name, members in lacking.items():
        kept = tuple(member for member in MEMBERS if member not in members)
        models[f"without {name}"] = KernelPredictor(members=kept, seed=seed)
    models["without allowance for noise"] = KernelPredictor(even_noise=True, seed=seed)
    forest = predictors.PaperForest(trees=trees, seed=seed)
    logs = TransformedTargetRegressor(forest, func=_log, inverse_func=_exp, check_inverse=False)
    return models | {
        "paper's forest": predictors.PerType(forest),
        "paper's forest on logs": predictors.PerType(logs),
    }
