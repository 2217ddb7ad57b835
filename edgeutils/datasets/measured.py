"""Measurements that this project made itself, as `edgeutils measure` left them."""

from pathlib import Path

import pandas as pd

from edgeutils.hardware.store import DOUBTS


def load_campaign(files: dict[str, Path]) -> tuple[pd.DataFrame, dict[str, int]]:
    """Measurement table of a campaign; rows that failed are set aside, doubtful ones stay."""
    table = pd.read_parquet(files["measurements.parquet"])
    count = table["flags"].str.split().explode().value_counts()
    said = {doubt: f"flagged {doubt}, kept" for doubt in sorted(DOUBTS)}
    said["failed"] = "could not be run, left out"
    defects = {said[doubt]: int(n) for doubt, n in count.items() if doubt in said}
    return table[table["latency_s"].notna()].reset_index(drop=True), defects


def conditions(files: dict[str, Path]) -> pd.DataFrame:
    """How the rows of `measurements.parquet` came about, in the same order."""
    return pd.read_parquet(files["conditions.parquet"])
