"""HW-NAS-Bench-360: all 15,625 networks of NAS-Bench-201 on small devices."""

from pathlib import Path

import numpy as np
import pandas as pd

#: A Raspberry Pi 5 that computes draws more than this above idle, W.
_LEAST_W = 0.3


def load_nas(files: dict[str, Path]) -> tuple[pd.DataFrame, dict[str, int]]:
    """Load latency (s) and, for the Raspberry Pi 5, energy (J) of every network and task.

    Isomorphic networks carry values copied from their representative, which is their `group`.
    The Pixel rows have no energy, hence no boundary.
    """
    raw = pd.read_parquet(next(iter(files.values())))
    copied = raw["arch_idx"] != raw["rep_arch_idx"]
    implausible = raw["energy_mj"] / raw["lat_ms_median"] < _LEAST_W
    no_energy = raw["energy_mj"].isna()
    darcy = raw["task"] == "darcy"
    flags = {"copy implausible-power": copied & implausible, "copy": copied}
    flags |= {"implausible-power": implausible}
    columns = {
        "device": raw["device"],
        "runtime": raw["framework"],
        "name": "nb201-" + raw["arch_idx"].astype(str) + "-" + raw["task"],
        "group": "nb201-" + raw["rep_arch_idx"].astype(str),
        "task": raw["task"],
        # Darcy's column is a relative error, not an accuracy.
        "accuracy": (raw["accuracy"] / 100).mask(darcy),
        "latency_s": raw["lat_ms_median"] / 1e3,
        "latency_std": np.sqrt(raw["lat_ms_var"]) / 1e3,
        "energy_j": raw["energy_mj"] / 1e3,
        "flags": np.select(list(flags.values()), list(flags), ""),
        "boundary": np.where(no_energy, "none", "core_rail"),
        "idle_policy": np.where(no_energy, "none", "recorded"),
    }
    return pd.DataFrame(columns), {
        "copy of an isomorphic network (flagged, one group)": int(copied.sum()),
        "energy implies less than 0.3 W (flagged)": int(implausible.sum()),
        "row without energy (Pixel 6a)": int(no_energy.sum()),
        "accuracy that is an error (darcy), set to missing": int(darcy.sum()),
    }
