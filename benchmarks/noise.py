"""How much of a kernel's error is noise of the measurement, on every set of kernels at hand.

`results/noise.csv` holds one row per study, subset and method of
`edgeutils.regression.validation.noise_floor`. A study that is not at hand keeps its rows. The
public sets are found as the book finds them (`EDGE_DATA_MIRROR` or the cache). Takes a minute:

    python benchmarks/noise.py
"""

import sys
from pathlib import Path

import pandas as pd

from edgeutils import datasets
from edgeutils.regression import studies, validation
from edgeutils.table import write_table

RESULT = Path(__file__).parent / "results" / "noise.csv"


def main() -> None:
    """Estimate the noise of all rows, and of those larger than a single pixel."""
    parts = [pd.read_csv(RESULT)] if RESULT.exists() else []
    for dataset in studies.STUDIES:
        table = datasets.load_at_hand(dataset)
        if table.empty:
            print(table.attrs["missing"], file=sys.stderr)
            continue
        target = "latency_s" if dataset == "litert-x86" else "energy_j"
        rows = studies.kernel_study({dataset: table}, target=target)
        for subset, part in {"all": rows, "hw > 1": rows[rows["hw"].gt(1)]}.items():
            found = validation.noise_floor(part, target, by="study")
            parts.append(found.assign(subset=subset))
    columns = ["study", "subset", "method", "sd", "typical_sd", "mape_floor", "within10_ceiling"]
    found = pd.concat(parts).drop_duplicates(["study", "subset", "method"], keep="last")
    write_table(found[[*columns, "n"]].round(4), RESULT)
    print(found.to_string())


if __name__ == "__main__":
    main()
