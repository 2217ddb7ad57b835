"""How much of a kernel's error is noise of the measurement, on every set of kernels at hand.

`results/noise.csv` holds one row per study, subset and method of
`edgeutils.regression.validation.noise_floor`. A study that is not at hand keeps its rows. Takes a
minute:

    python benchmarks/noise.py
"""

from pathlib import Path

import pandas as pd
from at_hand import kernel_studies

from edgeutils.regression import validation
from edgeutils.table import write_table

RESULT = Path(__file__).parent / "results" / "noise.csv"


def main() -> None:
    """Estimate the noise of all rows, and of those larger than a single pixel."""
    parts = [pd.read_csv(RESULT)] if RESULT.exists() else []
    for _, target, rows in kernel_studies():
        for subset, part in {"all": rows, "hw > 1": rows[rows["hw"].gt(1)]}.items():
            found = validation.noise_floor(part, target, by="study")
            parts.append(found.assign(subset=subset))
    columns = ["study", "subset", "method", "sd", "typical_sd", "mape_floor", "within10_ceiling"]
    found = pd.concat(parts).drop_duplicates(["study", "subset", "method"], keep="last")
    write_table(found[[*columns, "n"]].round(4), RESULT)
    print(found.to_string())


if __name__ == "__main__":
    main()
