"""How well kernels are predicted, by every method, on every set of kernels at hand.

Grouped folds, five seeds (the committed table: 15 for the energies of the phone's other kernels,
whose types have few rows); `results/accuracy.csv` holds one row per study, target, subset, kernel
type and method: medians over the seeds of `edgeutils.regression.validation.metrics`. Where energy
and latency were measured, latency and power are predicted, too. A study that was not run keeps its
rows. Takes about two hours on two cores:

    python benchmarks/accuracy.py [--seeds N] [STUDY ...]
"""

import argparse
import os

os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # one per worker

from pathlib import Path

import pandas as pd
from at_hand import kernel_studies
from joblib import Parallel, delayed

from edgeutils.regression import studies, validation
from edgeutils.table import write_table

RESULT = Path(__file__).parent / "results" / "accuracy.csv"
_KEYS = ["study", "target", "subset", "kernel_type", "method"]


def summary(found: pd.DataFrame, target: str) -> pd.DataFrame:
    """Medians over seeds, for all rows and for the subsets that can be predicted at all."""
    subsets = {"all": found, "hw > 1": found[found["hw"].gt(1)]}
    if target == "energy_j":
        subsets["0.01 mJ or more"] = found[found["measured"] >= 1e-5]
    parts = []
    for name, rows in subsets.items():
        for keys, seeds in rows.groupby(["study", "kernel_type", "method"], sort=False):
            each = [validation.metrics(part) for _, part in seeds.groupby("seed")]
            labels = dict(zip(["study", "kernel_type", "method"], keys, strict=True))
            facts = labels | {"target": target, "subset": name, "seeds": len(each)}
            parts.append(facts | pd.DataFrame(each).median().to_dict())
    columns = [*_KEYS, "seeds", *(c for c in parts[0] if c not in (*_KEYS, "seeds"))]
    return pd.DataFrame(parts)[columns]


def targets(rows: pd.DataFrame, target: str) -> dict[str, pd.DataFrame]:
    """Rows by what can be predicted: the study's own target first, then latency and power."""
    both = rows[rows[["energy_j", "latency_s"]].gt(0).all(axis=1)]
    if both.empty:
        return {target: rows}
    power = both.assign(power_w=both["energy_j"] / both["latency_s"])
    return {target: rows, "latency_s": both, "power_w": power}


def main(names: list[str], seeds: int) -> None:
    """Run the studies whose name contains one of `names` (none: all)."""
    for study, own, table in kernel_studies():
        if names and not any(name in study for name in names):
            continue
        for target, rows in targets(table, own).items():
            run = delayed(studies.kernel_errors)
            jobs = (run(rows, seeds=[seed], target=target) for seed in range(seeds))
            found = summary(pd.concat(Parallel(n_jobs=2)(jobs)), target)
            old = pd.read_csv(RESULT) if RESULT.exists() else found.head(0)
            done = (old["study"] == study) & (old["target"] == target)
            merged = pd.concat([old[~done], found]).sort_values("study", kind="stable")
            write_table(merged.reset_index(drop=True).round(4), RESULT)
            print(found[found["subset"] == "all"].round(3).to_string(), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("study", nargs="*")
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    main(given.study, given.seeds)
