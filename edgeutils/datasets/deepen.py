"""DeepEn2023: kernels of a phone, as energies (mJ), powers (mW) and latencies (ms) per kernel id.

The files are JSON of the form ``{type: {id: {"energy": "0.3"}}}``; configurations lie apart.
Energy = power x latency holds in them, which is what finds the rows that are wrong.
"""

import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd

from edgeutils import EdgeError

_SAME = ("HW", "CIN", "COUT", "KERNEL_SIZE", "CIN1", "CIN2", "CIN3", "CIN4")
_CONFIG = {name: name.lower() for name in _SAME} | {"STRIDES": "stride"}
_PHONE = "phone of DeepEn2023"

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
    """Load the CPU kernels of DeepEn2023 (J, W, s).

    Every kernel stays a row: a corrupt one has no result, one without a configuration has no
    work columns. `flags`: ``latency-in-seconds`` (repaired), ``corrupt``, ``coarse-rounding``.
    """
    columns = {}
    for quantity in ("energy", "power", "latency"):
        values: dict[tuple[str, str], float] = {}
        for path, local in files.items():
            if path.startswith(f"Kernel_{quantity}/"):
                values |= _read_json(local, quantity)
        columns[quantity] = pd.Series(values)
    table = pd.DataFrame(columns).join(_configurations(files["kernel_config.zip"]))
    flags, defects = _faults(table)
    table = _results(table, flags)
    defects["kernel without a configuration, kept"] = int((~_configured(table)).sum())
    return _describe(table.assign(processor="CPU")), defects


def load_conv(files: dict[str, Path]) -> tuple[pd.DataFrame, dict[str, int]]:
    """Load the convolutions of DeepEn2023 that PlatformX publishes, with energy only (J)."""
    gpu = any("GPU" in path for path in files)
    energies = next(local for path, local in files.items() if "energy" in path.rsplit("/", 1)[1])
    configs = next(local for local in files.values() if local != energies)
    table = pd.Series(_read_json(energies, "energy")).to_frame("energy")
    table = table.join(_config_frame(json.loads(configs.read_text(encoding="utf-8"))))
    table = _results(table.assign(power=np.nan, latency=np.nan), pd.Series("", table.index))
    table = _describe(table.assign(processor="GPU" if gpu else "CPU"))
    repeated = int(table["group"].duplicated(keep=False).sum())
    return table, {"configuration measured more than once (kept, one group)": repeated}


def _read_json(path: Path, quantity: str) -> dict[tuple[str, str], float]:
    """Read {(kernel type, id): value}."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {
            (kind, key): float(value[quantity])
            for kind, kernels in content.items()
            for key, value in kernels.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise EdgeError(
            f"{path}: expected JSON like {{type: {{id: {{{quantity!r}: value}}}}}}: {error!r}"
        ) from None


def _config_frame(content: dict[str, dict]) -> pd.DataFrame:
    rows = {}
    for kind, kernels in content.items():
        for key, value in kernels.items():
            config = {new: value["config"].get(old) for old, new in _CONFIG.items()}
            # A pool has two strides; POOL_STRIDES is the one of the pooling window.
            config["stride"] = value["config"].get("POOL_STRIDES", config["stride"])
            rows[kind, key] = config
    frame = pd.DataFrame.from_dict(rows, orient="index").astype(float)
    frame.index = pd.MultiIndex.from_tuples(frame.index)
    # Concat of two tensors is written with CIN3 = CIN4 = 0: they do not apply.
    return frame.where(frame > 0)


def _configurations(path: Path) -> pd.DataFrame:
    content: dict[str, dict] = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            # The archive was packed on a Mac: resource forks lie beside the files.
            if member.endswith(".json") and not member.startswith("__MACOSX"):
                content |= json.loads(archive.read(member))
    return _config_frame(content)


def _configured(table: pd.DataFrame) -> pd.Series:
    return table["cin"].notna() | table["cin1"].notna()


def _faults(table: pd.DataFrame) -> tuple[pd.Series, dict[str, int]]:
    """Flag of every row, and how many have which."""
    with np.errstate(divide="ignore"):
        ratio = table["energy"] / (table["power"] * table["latency"] / 1e3)
    seconds = ratio.between(*_SECONDS) | np.isinf(ratio)
    corrupt = (table["power"] > _IMPOSSIBLE_MW) | (ratio > _SECONDS[1]) & ~seconds
    coarse = (table["latency"] < _COARSE_MS) & ~seconds & ~corrupt
    flags = pd.Series("", table.index)
    flags[seconds] = "latency-in-seconds"
    flags[corrupt] = "corrupt"
    flags[coarse] = "coarse-rounding"
    unusable = seconds & (table["latency"] == 0)
    return flags, {
        "latency in seconds, converted": int(seconds.sum() - unusable.sum()),
        "latency in seconds and rounded to zero, set to missing": int(unusable.sum()),
        "corrupt row, results set to missing": int(corrupt.sum()),
        "kernel below 10 us, energy has one or two digits (kept)": int(coarse.sum()),
    }


def _results(table: pd.DataFrame, flags: pd.Series) -> pd.DataFrame:
    """Convert the results to SI units and repair what the flags say."""
    scale = np.where(flags == "latency-in-seconds", 1.0, 1e-3)
    latency_s = (table["latency"] * scale).where(table["latency"] > 0)
    table = table.assign(
        energy_j=table["energy"] / 1e3,
        energy_u=_ROUNDING / 1e3,
        power_w=table["power"] / 1e3,
        latency_s=latency_s,
        latency_u=pd.Series(_ROUNDING * scale, table.index).where(latency_s.notna()),
        flags=flags,
    ).drop(columns=["energy", "power", "latency"])
    results = ["energy_j", "energy_u", "power_w", "latency_s", "latency_u"]
    table.loc[flags == "corrupt", results] = np.nan
    return table


def same_configuration(config: pd.DataFrame) -> pd.Series:
    """One text per row, equal for rows whose configuration is equal; missing reads as 0."""
    text = config.fillna(0).astype(int).astype(str)
    return text.iloc[:, 0].str.cat(text.iloc[:, 1:], sep="/")


def _describe(table: pd.DataFrame) -> pd.DataFrame:
    """Name the kernels; the same configuration is one group, whatever its id."""
    kinds = table.index.get_level_values(0)
    names = table.index.get_level_values(1)
    same = same_configuration(table[list(_CONFIG.values())])
    group = np.where(_configured(table), kinds + "/" + same, names)
    return table.reset_index(drop=True).assign(
        device=_PHONE,
        runtime="TFLite",
        dtype="float32",
        kernel_type=kinds,
        name=names,
        group=group,
    )
