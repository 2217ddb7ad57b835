"""DeepEn2023: energy (mJ), power (mW) and latency (ms) of a phone's kernels, as nested JSON.

Energy = power x latency holds in it, which is what finds the rows that are wrong.
"""

import json
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from edgeutils import EdgeError

_SAME = ("HW", "CIN", "COUT", "KERNEL_SIZE", "CIN1", "CIN2", "CIN3", "CIN4")
_CONFIG = {name: name.lower() for name in _SAME} | {"STRIDES": "stride"}
#: Uncertainty of a uniform rounding step: step / sqrt(12). Values have three decimals.
_ROUNDING = 1e-3 / np.sqrt(12)
#: A latency printed in seconds makes energy / (power x latency) about 1000; the rounding to
#: whole milliseconds moves the ratio by up to a half.
_SECONDS = (500.0, 1500.0)
#: No processor of a phone draws this much, mW.
_IMPOSSIBLE_MW = 20_000.0
#: Below this latency (10 us) three decimals of a mJ leave one or two digits, ms.
_COARSE_MS = 0.010


def load_deepen(files: dict[str, Path]) -> tuple[pd.DataFrame, dict[str, int]]:
    """Load the CPU kernels of DeepEn2023 (J, W, s), mended where they can be.

    Every kernel stays a row: a corrupt one has no result, one without a configuration no work.
    """
    columns = {}
    for quantity in ("energy", "power", "latency"):
        found = [local for path, local in files.items() if path.startswith(f"Kernel_{quantity}/")]
        columns[quantity] = pd.Series(_read(found, quantity))
    results, defects = _repair(pd.DataFrame(columns))
    with zipfile.ZipFile(files["kernel_config.zip"]) as archive:
        # The archive was packed on a Mac: resource forks lie beside the files.
        names = [name for name in archive.namelist() if not name.startswith("__MACOSX")]
        members = [zipfile.Path(archive, name) for name in names if name.endswith(".json")]
        table = _describe(results, _read(members, "config", dict))
    lacking = int((table["group"] == table["name"]).sum())
    return table, defects | {"kernel without a configuration, kept": lacking}


def load_conv(files: dict[str, Path]) -> tuple[pd.DataFrame, dict[str, int]]:
    """Load the convolutions of DeepEn2023 that PlatformX publishes, with energy only (J)."""
    # Two files: the name of one says energy, the other holds the configurations.
    config, energies = sorted(files, key=lambda path: "energy" in Path(path).name)
    results = pd.DataFrame({"energy_j": pd.Series(_read([files[energies]], "energy")) / 1e3})
    table = _describe(results, _read([files[config]], "config", dict))
    table = table.assign(energy_u=_ROUNDING / 1e3, processor="GPU" if "GPU" in config else "CPU")
    repeated = int(table["group"].duplicated(keep=False).sum())
    return table, {"configuration measured more than once (kept, one group)": repeated}


def _read(paths: Iterable[Any], key: str, as_type: Callable = float) -> dict[tuple[str, str], Any]:
    """Kernel type and id -> what the files say of it under `key`."""
    found: dict[tuple[str, str], Any] = {}
    for path in paths:
        try:
            for kind, kernels in json.loads(path.read_text(encoding="utf-8")).items():
                found |= {(kind, name): as_type(facts[key]) for name, facts in kernels.items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise EdgeError(
                f"{path}: expected JSON like {{type: {{id: {{{key!r}: value}}}}}}: {error!r}"
            ) from None
    return found


def _repair(raw: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """Results in SI units, mended where they can be, with flags; and how many have which fault."""
    with np.errstate(divide="ignore"):
        ratio = raw["energy"] / (raw["power"] * raw["latency"] / 1e3)
    seconds = ratio.between(*_SECONDS) | np.isinf(ratio)
    corrupt = (raw["power"] > _IMPOSSIBLE_MW) | (ratio > _SECONDS[1]) & ~seconds
    coarse = (raw["latency"] < _COARSE_MS) & ~seconds & ~corrupt
    unusable = seconds & (raw["latency"] == 0)
    scale = pd.Series(np.where(seconds, 1.0, 1e-3), raw.index).where(raw["latency"] > 0)
    results = (raw[["energy", "power"]] / 1e3).set_axis(["energy_j", "power_w"], axis=1)
    results["latency_s"], results["latency_u"] = raw["latency"] * scale, _ROUNDING * scale
    results["energy_u"] = _ROUNDING / 1e3
    results[corrupt] = np.nan
    names = ["corrupt", "latency-in-seconds", "coarse-rounding"]
    return results.assign(flags=np.select([corrupt, seconds, coarse], names, "")), {
        "latency in seconds, converted": int(seconds.sum() - unusable.sum()),
        "latency in seconds and rounded to zero, set to missing": int(unusable.sum()),
        "corrupt row, results set to missing": int(corrupt.sum()),
        "kernel below 10 us, energy has one or two digits (kept)": int(coarse.sum()),
    }


def _describe(results: pd.DataFrame, configs: dict[tuple[str, str], Any]) -> pd.DataFrame:
    """Join the configurations; equal ones are one group, a kernel without one is its own."""
    config = pd.DataFrame(configs).T.reindex(columns=[*_CONFIG, "POOL_STRIDES"]).astype(float)
    config = config.rename(columns=_CONFIG)
    # A pool has two strides; POOL_STRIDES is the one of the pooling window.
    config["stride"] = config.pop("POOL_STRIDES").fillna(config["stride"])
    # Concat of two tensors is written with CIN3 = CIN4 = 0: they do not apply.
    table = results.join(config.where(config > 0))
    table = table.rename_axis(["kernel_type", "name"]).reset_index()
    configured = table["cin"].notna() | table["cin1"].notna()
    same = table["kernel_type"] + "/" + same_configuration(table[list(_CONFIG.values())])
    return table.assign(group=same.where(configured, table["name"]))


def same_configuration(config: pd.DataFrame) -> pd.Series:
    """One text per row, equal for rows whose configuration is equal; missing reads as 0."""
    return config.fillna(0).astype(int).astype(str).agg("/".join, axis=1)
