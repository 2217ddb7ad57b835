"""How well kernels are predicted, by every method, on every set of kernels at hand.

Grouped folds, five seeds; `results/accuracy.csv` holds one row per study, subset, kernel type and
method: medians over the seeds of `edgeutils.regression.validation.metrics`. A study that was not
run keeps its rows. The public sets are found as the book finds them (`EDGE_DATA_MIRROR` or the
cache). Takes about two hours on two cores:

    python benchmarks/accuracy.py [--seeds N] [STUDY ...]
"""

import argparse
import os

os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # one per worker

import sys
from pathlib import Path

import pandas as pd
from joblib import Parallel, delayed

from edgeutils import datasets
from edgeutils.regression import studies, validation
from edgeutils.table import write_table

RESULT = Path(__file__).parent / "results" / "accuracy.csv"
_KEYS = ["study", "subset", "kernel_type", "method"]


def errors(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Out-of-fold predictions of one study, one seed."""
    target = "latency_s" if rows["study"].iloc[0].startswith("own") else "energy_j"
    return studies.kernel_errors(rows, seeds=[seed], target=target).assign(target=target)


def summary(found: pd.DataFrame) -> pd.DataFrame:
    """Medians over seeds, for all rows and for the subsets that can be predicted at all."""
    subsets = {"all": found, "hw > 1": found[found["hw"].gt(1)]}
    if found["target"].iloc[0] == "energy_j":
        subsets["0.01 mJ or more"] = found[found["measured"] >= 1e-5]
    parts = []
    for name, rows in subsets.items():
        for keys, seeds in rows.groupby(["study", "kernel_type", "method"], sort=False):
            each = [validation.metrics(part) for _, part in seeds.groupby("seed")]
            labels = dict(zip(["study", "kernel_type", "method"], keys, strict=True))
            facts = labels | {"subset": name, "seeds": len(each)}
            parts.append(facts | pd.DataFrame(each).median().to_dict())
    columns = [*_KEYS, "seeds", *(c for c in parts[0] if c not in (*_KEYS, "seeds"))]
    return pd.DataFrame(parts)[columns]


def main(names: list[str], seeds: int) -> None:
    """Run the studies whose name contains one of `names` (none: all)."""
    for dataset in studies.STUDIES:
        table = datasets.load_at_hand(dataset)
        if table.empty:
            print(table.attrs["missing"], file=sys.stderr)
            continue
        target = "latency_s" if dataset == "litert-x86" else "energy_j"
        for study, rows in studies.kernel_study({dataset: table}, target=target).groupby("study"):
            if names and not any(name in study for name in names):
                continue
            jobs = (delayed(errors)(rows, seed) for seed in range(seeds))
            found = summary(pd.concat(Parallel(n_jobs=2)(jobs)))
            old = pd.read_csv(RESULT) if RESULT.exists() else found.head(0)
            table = pd.concat([old[old["study"] != study], found], ignore_index=True)
            write_table(table.round(4), RESULT)
            print(found[found["subset"] == "all"].round(3).to_string(), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("study", nargs="*")
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    main(given.study, given.seeds)
