"""Seconds to predict 600,000 convolutions with intervals, beside scikit-learn's forest.

Both are fitted to the same rows: the phone's convolutions and our own. The forest (320 trees,
the paper's settings) gives no interval. Writes `results/predict_speed.json`:

    python benchmarks/predict_speed.py
"""

import json
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
from at_hand import kernel_studies

from edgeutils.networks.kernels import add_work
from edgeutils.regression.kernel_predictor import KernelPredictor
from edgeutils.regression.predictors import PaperForest

RESULT = Path(__file__).parent / "results" / "predict_speed.json"
COUNT = 600_000
STUDIES = ("convolutions, phone", "own kernels, float32, CPU1")


def space(seed: int = 0) -> pd.DataFrame:
    """Draw configurations as an architecture search would ask for, hardly any twice."""
    draw = np.random.default_rng(seed)
    columns = {
        "kernel_type": "conv-bn-relu",
        "dtype": "float32",
        "hw": draw.choice([7, 14, 28, 56, 112], COUNT),
        "cin": draw.integers(8, 1024, COUNT),
        "cout": draw.integers(8, 1024, COUNT),
        "kernel_size": draw.choice([1, 3, 5, 7], COUNT),
        "stride": draw.choice([1, 2], COUNT),
    }
    return add_work(pd.DataFrame(columns))


def seconds(call, *arguments) -> float:
    """Time one call."""
    start = time.perf_counter()
    call(*arguments)
    return round(time.perf_counter() - start, 2)


def main() -> None:
    """Fit, predict and write what it took."""
    asked, found = space(), {}
    for study, target, rows in kernel_studies():
        part = rows[rows["kernel_type"] == "conv-bn-relu"]
        if not study.startswith(STUDIES):
            continue
        ours, forest = KernelPredictor(), PaperForest()
        fit_s = seconds(ours.fit, part, part[target])
        forest.fit(part, part[target])
        forest.forest_.n_jobs = -1
        model = ours.types_["conv-bn-relu"]
        found[study] = {
            "rows": len(part),
            "fit_s": fit_s,
            "weights": {member: round(weight, 2) for member, weight in model.weights.items()},
            "predict_with_intervals_s": seconds(ours.interval, asked),
            "forest_predict_s": seconds(forest.predict, asked),
        }
        print(study, found[study], flush=True)
    facts = {"kernels": COUNT, "cores": os.cpu_count(), "studies": found}
    RESULT.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
