"""What predictors look at: physical quantities of a row, made from its configuration and work.

`design` gives columns as they are, for any rows; `features` and `cost_terms` give what kernels are
predicted from, by the names of `settings.yml`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd
import yaml

from edgeutils import EdgeError
from edgeutils.networks.kernels import DTYPE_BYTES

#: Columns and features of every method, and the settings of the paper's forests.
SETTINGS = yaml.safe_load(Path(__file__).with_name("settings.yml").read_text("utf-8"))

_INPUTS = ["cin1", "cin2", "cin3", "cin4"]
# Types whose `cout` are the channels that they write (of an `se` block they are the squeezed ones).
_WITH_COUT = ("conv-bn-relu", "transpose-conv", "fc")
# Types with two inputs, named or (if both have `cin` channels) not.
_ADDS = ("add", "addrelu")
# What a size is where a type has none: no window, no stride, one pixel, one group.
_ABSENT = {"hw": 1, "kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}


def design(table: pd.DataFrame, columns: Sequence[str]) -> np.ndarray:
    """Pick feature columns as floats, making the derived ones.

    `dense_macs` is the sum of `conv_macs` and `pointwise_macs` (one price for both: large
    kernels occur in first layers only, too seldom to price apart); `elements` are the numbers
    read and written by a kernel. A column that is absent raises `EdgeError`.
    """
    derived: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
        "dense_macs": lambda t: t["conv_macs"] + t["pointwise_macs"],
        "elements": lambda t: (t["input_bytes"] + t["output_bytes"]) / t["dtype"].map(DTYPE_BYTES),
    }
    picked = []
    for name in columns:
        try:
            picked.append(table[name] if name in table else derived[name](table))
        except KeyError as error:
            raise EdgeError(
                f"a predictor needs the column {name} (lacking: {error}); kernels get theirs from "
                "networks.kernels.add_work, networks from networks.zoo.features"
            ) from None
    return np.column_stack([c.to_numpy(float, na_value=np.nan) for c in picked])


@dataclass(frozen=True)
class Sizes:
    """Sizes of kernels as arrays (rows,) without gaps, by name: what all quantities follow from."""

    arrays: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, table: pd.DataFrame) -> "Sizes":
        """Take them from a table; columns that are absent or incomplete raise `EdgeError`."""
        design(table, ("macs", "params", "input_bytes", "output_bytes"))  # says which is absent
        arrays = _sizes(table)
        complete = np.isfinite([*arrays.values()]).all(axis=0)
        if not complete.all():
            row = int(np.argmin(complete))
            raise EdgeError(
                f"row {table.index[row]}: the configuration of this "
                f"{table['kernel_type'].iloc[row]} kernel is not complete; give every column that "
                "its type needs, and dtype"
            )
        return cls(arrays)

    def __len__(self) -> int:
        return len(self.arrays["work"])

    def __getitem__(self, rows: np.ndarray) -> "Sizes":
        return Sizes({name: values[rows] for name, values in self.arrays.items()})


def _sizes(table: pd.DataFrame) -> dict[str, np.ndarray]:
    table = table.copy(deep=False)
    table.attrs = {}  # each step would copy them
    found = table.reindex(columns=[*_ABSENT, "cin", "cout", *_INPUTS, "pixels", "taps"])
    found = found.astype(float).fillna(_ABSENT)
    number = table.reindex(columns=["dtype"])["dtype"].map(DTYPE_BYTES)
    read, written = table["input_bytes"] / number, table["output_bytes"] / number
    add, inputs = table["kernel_type"].isin(_ADDS), found[_INPUTS]
    named = inputs.sum(axis=1, min_count=1)  # channels of inputs that have names, as one map
    cin = found["cin"].fillna(named.mask(add, inputs.max(axis=1)))
    channels = found["cout"].where(table["kernel_type"].isin(_WITH_COUT)).fillna(cin)
    window = found["taps"].fillna(found["kernel_size"] ** 2)
    sizes = {name: found[name] for name in _ABSENT} | {"cin": cin, "channels": channels}
    sizes |= {"window": window, "depth": window * cin / found["groups"], "read": read}
    sizes |= {"written": written, "elements": read + written, "area": written / channels}
    sizes |= {"macs": table["macs"], "params": table["params"]}
    sizes["inputs"] = inputs.notna().sum(axis=1).clip(lower=1).mask(add, 2)
    arrays = {name: value.to_numpy(float, na_value=np.nan) for name, value in sizes.items()}
    arrays["area"] = np.maximum(arrays["area"], 1)
    arrays["side"] = np.round(np.sqrt(arrays["area"]))
    arrays["traffic"] = arrays["elements"] + arrays["params"]
    arrays["work"] = arrays["macs"] + arrays["traffic"]
    return arrays


#: A table of kernels, or what was taken from it.
Kernels: TypeAlias = pd.DataFrame | Sizes


def _up(size: np.ndarray, step: int) -> np.ndarray:
    return np.ceil(size / step) * step


def _fill(size: np.ndarray, step: int) -> np.ndarray:
    return np.log(_up(size, step) / size)


def _alias(size: np.ndarray) -> np.ndarray:
    """Powers of two in a row length beyond 128, which fall onto the same lines of a cache."""
    return np.maximum(np.log2(np.gcd(size.astype(int), 4096)) - 7, 0)


def _log(name: str) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
    return lambda s: np.log(s[name])


#: Quantity -> how it follows from the sizes of a kernel. Features: sizes and ratios come as logs,
#: remainders (how well a size fits registers and work groups) as they are.
_FEATURES: dict[str, Callable[[Mapping[str, np.ndarray]], np.ndarray]] = {
    **{name: _log(name) for name in ("hw", "cin", "channels", "kernel_size", "stride", "inputs")},
    **{name: _log(name) for name in ("read", "written", "traffic", "work", "side", "depth")},
    **{name: _log(name) for name in ("groups", "dilation")},
    "padding": lambda s: s["padding"],
    "macs": lambda s: np.log(s["macs"] + 1),
    "params": lambda s: np.log(s["params"] + 1),
    "intensity": lambda s: np.log((s["macs"] + 1) / s["traffic"]),
    "narrow": lambda s: np.log(np.minimum(s["cin"], s["channels"])),
    "wide": lambda s: np.log(np.maximum(s["cin"], s["channels"])),
    "ratio": lambda s: np.log(s["cin"] / s["channels"]),
    "flatness": lambda s: np.log(s["area"] / s["channels"]),
    # Matrix multiplication in tiles: rows are output pixels, columns output channels.
    "patches": lambda s: np.log(s["area"] * s["depth"]),
    "tiles_4x8": lambda s: np.log(_up(s["area"], 4) * s["depth"] * _up(s["channels"], 8)),
    "tiles_6x8": lambda s: np.log(_up(s["area"], 6) * s["depth"] * _up(s["channels"], 8)),
    "slices": lambda s: np.log(s["area"] * s["window"] * _up(s["cin"], 4) * _up(s["channels"], 4)),
    "fill_8": lambda s: _fill(s["channels"], 8),
    "fill_16": lambda s: _fill(s["channels"], 16),
    "fill_32": lambda s: _fill(s["channels"], 32),
    "cin_fill_8": lambda s: _fill(s["cin"], 8),
    "cin_fill_16": lambda s: _fill(s["cin"], 16),
    "cin_alias": lambda s: _alias(s["cin"]),
    "cin_mod_4": lambda s: s["cin"] % 4,
    "channels_mod_4": lambda s: s["channels"] % 4,
    "odd_side": lambda s: s["side"] % 2,
    "side_fill_2": lambda s: 2 * _fill(s["side"], 2),
    "side_fill_4": lambda s: 2 * _fill(s["side"], 4),
    "side_fill_8": lambda s: 2 * _fill(s["side"], 8),
    "pointwise": lambda s: np.where(s["window"] == 1, 1.0, 0.0),
}

#: Cost terms of a physical model: counts, in the unit in which they are counted.
_TERMS: dict[str, Callable[[Mapping[str, np.ndarray]], np.ndarray]] = {
    **{n: itemgetter(n) for n in ("macs", "params", "elements", "read", "written", "work")},
    "elements_beyond_30_thousand": lambda s: np.maximum(s["elements"] - 3e4, 0),
    "elements_beyond_300_thousand": lambda s: np.maximum(s["elements"] - 3e5, 0),
    "elements_beyond_3_million": lambda s: np.maximum(s["elements"] - 3e6, 0),
    "pixels": lambda s: s["area"] * s["inputs"],
    "padded_window": lambda s: s["area"] * s["window"] * _up(s["cin"], 8),
    "padded_macs": lambda s: s["macs"] * _up(s["channels"], 16) / s["channels"],
}

FEATURE_NAMES, COST_NAMES = tuple(_FEATURES), tuple(_TERMS)


def features(kernels: Kernels, names: Sequence[str]) -> np.ndarray:
    """Features of kernels for processes and trees, shape (rows, names).

    A table needs the columns that `edgeutils.networks.kernels.add_work` leaves behind; one that is
    absent or incomplete raises `EdgeError`.
    """
    return _quantities(kernels, names, _FEATURES)


def cost_terms(kernels: Kernels, names: Sequence[str]) -> np.ndarray:
    """Count what a kernel may have to pay for, shape (rows, names); as `features`."""
    return _quantities(kernels, names, _TERMS)


def _quantities(
    kernels: Kernels,
    names: Sequence[str],
    known: Mapping[str, Callable[[Mapping[str, np.ndarray]], np.ndarray]],
) -> np.ndarray:
    sizes = kernels if isinstance(kernels, Sizes) else Sizes.of(kernels)
    columns = [known[name](sizes.arrays) for name in names]
    # Without any name (kernels that are all alike) there are no columns, but rows.
    return np.column_stack([np.empty((len(sizes), 0)), *columns])
