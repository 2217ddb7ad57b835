"""The studies of the book: networks on MLPerf's boards, kernels on a phone, both on a computer.

Chapters and later stages call the same functions, so that a chapter that runs alone builds the
very table that the one before it would have written.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, clone

from edgeutils.networks import zoo
from edgeutils.networks.kernels import kernel_frame
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


def kernel_study(sets: Mapping[str, pd.DataFrame], *, target: str = "energy_j") -> pd.DataFrame:
    """Join kernels into studies that are fitted apart.

    `sets` maps the data sets at hand to their tables: `platformx-conv-cpu`, `platformx-conv-gpu`
    (convolutions), `deepen2023` (whose other types are used) or others. Rows with a `target` and a
    full configuration stay; `study` is "convolutions, CPU", "convolutions, GPU" or the kernel type.
    """
    parts = []
    for name, table in sets.items():
        rows = table[table["input_bytes"].notna() & table[target].gt(0)]
        if name == "deepen2023":
            rows = rows[rows["kernel_type"] != "conv-bn-relu"]
        parts.append(rows.assign(study=_CONVS.get(name, rows["kernel_type"])))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"study": []})


def kernel_models(
    *, seed: int = 0, trees: int | None = None, target: str = "energy_j"
) -> dict[str, BaseEstimator]:
    """Name the methods for kernels; of the targets only the phones' energies were rounded."""
    rounding = DEEPEN_STEP_J if target == "energy_j" else 0.0
    return {
        "FLOPs line": predictors.FlopsLine(),
        "paper's forest": predictors.PaperForest(trees=trees, seed=seed),
        "physical model": predictors.PhysicalModel(predictors.KERNEL_TERMS, by_dtype=False),
        OURS_KERNELS: predictors.GaussianProcess(rounding=rounding),
    }


def kernel_errors(
    table: pd.DataFrame,
    *,
    folds: int = 5,
    seeds: Sequence[int] = (0,),
    trees: int | None = None,
    target: str = "energy_j",
) -> pd.DataFrame:
    """Predict the rows of `kernel_study` out of fold, each study by itself; as `network_errors`.

    The folds are grouped: equal configurations never lie on both sides.
    """
    splits = {"grouped": Split("grouped", "group", folds=folds)}
    models = kernel_models(seed=seeds[0], trees=trees, target=target)
    return cross_validate(models, table, splits, by="study", seeds=seeds, target=target)


def networks_from_kernels(
    table: pd.DataFrame, *, seed: int = 0, trees: int | None = None, target: str = "latency_s"
) -> pd.DataFrame:
    """Predict networks of the zoo as sums over their kernels, by models that saw kernels only.

    `table` holds kernels and networks of one device, processor and number type. One model of each
    method is fitted per kernel type; networks with a kernel of a type that was not measured are
    left out. Columns as in `edgeutils.regression.validation.cross_validate`, without intervals.
    """
    kernels, networks = (table[table["level"] == level] for level in ("kernel", "network"))
    graphs = {name: zoo.network(name) for name in networks["group"]}
    parts = kernel_frame(kernel for graph in graphs.values() for kernel in graph.kernels)
    parts["network"] = np.repeat(list(graphs), [len(g.kernels) for g in graphs.values()])
    parts["dtype"] = networks["dtype"].iloc[0]
    found = []
    for method, model in kernel_models(seed=seed, trees=trees, target=target).items():
        cost = pd.Series(np.nan, parts.index)
        for kind, rows in kernels.groupby("kernel_type"):
            asked = parts[parts["kernel_type"] == kind]
            if len(asked):
                fitted = clone(model).fit(rows, rows[target].to_numpy(float))
                cost[asked.index] = fitted.predict(asked)
        total = cost.groupby(parts["network"]).agg(lambda part: part.sum(skipna=False))
        found.append(networks.assign(method=method, predicted=networks["group"].map(total)))
    errors = pd.concat(found, ignore_index=True).dropna(subset="predicted")
    errors = errors.assign(measured=errors[target], split="kernels only", seed=seed)
    errors["error"] = errors["predicted"] / errors["measured"] - 1
    return errors.assign(ape=errors["error"].abs(), low90=np.nan, high90=np.nan)


def ablation_models(*, kernels: bool = False) -> dict[str, BaseEstimator]:
    """Physical models of networks (or Gaussian processes of kernels) by what they may look at.

    Without one group of features, with one group only, and without a price list per number type.
    """
    models: dict[str, BaseEstimator] = {}
    model: Callable[..., BaseEstimator] = predictors.PhysicalModel
    if kernels:
        model = partial(predictors.GaussianProcess, rounding=DEEPEN_STEP_J)
    else:
        models["without number type"] = model(by_dtype=False)
    level = "kernel" if kernels else "network"
    for name, columns in predictors.SETTINGS[f"{level}_groups"].items():
        rest = tuple(c for c in predictors.SETTINGS[f"{level}_features"] if c not in columns)
        models |= {f"without {name}": model(rest), f"only {name}": model(tuple(columns))}
    return models
