"""The studies of kernels whose data are at hand, for the benchmarks of predictors.

The public sets are found as the book finds them (`EDGE_DATA_MIRROR` or the cache).
"""

import sys
from collections.abc import Iterator

import pandas as pd

from edgeutils import datasets
from edgeutils.regression import studies


def kernel_studies() -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yield name, target (energy if it was measured) and rows of each of `studies.STUDIES`."""
    for dataset in studies.STUDIES:
        table = datasets.load_at_hand(dataset)
        if table.empty:
            print(table.attrs["missing"], file=sys.stderr)
            continue
        target = "energy_j" if table["energy_j"].notna().any() else "latency_s"
        rows = studies.kernel_study({dataset: table}, target=target)
        for study, part in rows.groupby("study", sort=False):
            yield study, target, part
