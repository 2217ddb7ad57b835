"""Measurements that this project made itself, as `edgeutils measure` left them."""

from pathlib import Path

import pandas as pd

#: Flags of a campaign that make a row doubtful; see `edgeutils.hardware.store.DOUBTS`.
_DOUBTS = ("failed", "unstable", "disturbed", "busy", "hot", "drift")


def load_campaign(files: dict[str, Path]) -> tuple[pd.DataFrame, dict[str, int]]:
    """Measurement table of a campaign; rows that failed are set aside, doubtful ones stay."""
    table = pd.read_parquet(files["measurements.parquet"])
    flags = table["flags"].str.split()
    count = {
        doubt: int(flags.map(lambda words, doubt=doubt: doubt in words).sum()) for doubt in _DOUBTS
    }
    left_out = {"could not be run, left out": count.pop("failed")}
    defects = left_out | {
        f"flagged {name} after all attempts, kept": n for name, n in count.items()
    }
    return table[table["latency_s"].notna()].reset_index(drop=True), {
        k: n for k, n in defects.items() if n
    }


def conditions(files: dict[str, Path]) -> pd.DataFrame:
    """How the rows of `measurements.parquet` came about, in the same order."""
    return pd.read_parquet(files["conditions.parquet"])
