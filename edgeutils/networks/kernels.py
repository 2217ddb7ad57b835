"""Kernels: what a runtime executes one after the other, and the work that each one is.

A kernel is an operator, or several that a runtime fuses, with its configuration. The types are
the sixteen of Tu et al. (SEC 2023), and transposed convolution. Feature maps are square with
`hw` pixels a side; one inference has batch size one. MACs (multiply-accumulates) count
convolutions, depthwise and transposed convolutions and fully connected layers, the two inside a
squeeze-and-excitation block included; all other kernels have none and are described by the
bytes they move.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import pandas as pd

from edgeutils import EdgeError

#: Kernel type -> configuration columns that it cannot do without.
KERNEL_TYPES: dict[str, tuple[str, ...]] = {
    "conv-bn-relu": ("hw", "cin", "cout", "kernel_size", "stride"),
    "dwconv-bn-relu": ("hw", "cin", "kernel_size", "stride"),
    "transpose-conv": ("hw", "cin", "cout", "kernel_size", "stride"),
    "fc": ("cin", "cout"),
    "bnrelu": ("hw", "cin"),
    "bn": ("hw", "cin"),
    "relu": ("hw", "cin"),
    "hswish": ("hw", "cin"),
    "add": ("hw", "cin"),
    "addrelu": ("hw", "cin"),
    "concat": ("hw", "cin1", "cin2"),
    "split": ("hw", "cin"),
    "channelshuffle": ("hw", "cin"),
    "se": ("hw", "cin"),
    "maxpool": ("hw", "cin", "kernel_size", "stride"),
    "avgpool": ("hw", "cin", "kernel_size", "stride"),
    "global-avgpool": ("hw", "cin"),
}

#: Bytes of one number of each type.
DTYPE_BYTES = {"float32": 4, "float16": 2, "int8": 1, "uint8": 1}

#: Bias of a quantised layer: accumulated and stored as int32 (TensorFlow Lite's quantisation
#: specification).
_INT8_BIAS_BYTES = 4

#: Squeezed channels of a squeeze-and-excitation block where `cout` does not say (Hu et al. 2018
#: use 16; MobileNetV3 and the kernels of nn-Meter and DeepEn2023 use 4).
_SE_REDUCTION = 4

_CONV = ("hw", "cin", "cout", "kernel_size", "stride", "padding", "dilation", "groups")
_CONFIGURATION = (*_CONV, "cin1", "cin2", "cin3", "cin4")
WORK = ("macs", "params", "input_bytes", "output_bytes", "weight_bytes")


def _output_hw(c: Mapping[str, np.ndarray]) -> np.ndarray:
    """Side of the output: ceil(hw / stride) where padding is missing ("same"), in pixels."""
    reach = np.nan_to_num(c["dilation"], nan=1.0) * (c["kernel_size"] - 1) + 1
    padded = np.floor((c["hw"] + 2 * c["padding"] - reach) / c["stride"]) + 1
    return np.where(np.isnan(c["padding"]), np.ceil(c["hw"] / c["stride"]), padded)


def _counts(  # noqa: PLR0911  one return per kind of kernel reads as the table it is
    kind: str, c: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, ...]:
    """MACs, weights, biases, input elements and output elements of kernels of one type."""
    hw2, cin, cout, area = c["hw"] ** 2, c["cin"], c["cout"], c["kernel_size"] ** 2
    none = np.zeros_like(c["hw"])
    parts = np.stack([c[f"cin{i}"] for i in (1, 2, 3, 4)])
    if kind in ("conv-bn-relu", "transpose-conv"):
        weights = area * cin * cout / np.nan_to_num(c["groups"], nan=1.0)
        # A transposed convolution visits every weight once per *input* pixel.
        transposed = kind == "transpose-conv"
        out2 = hw2 * c["stride"] ** 2 if transposed else _output_hw(c) ** 2
        return weights * (hw2 if transposed else out2), weights, cout, hw2 * cin, out2 * cout
    if kind == "dwconv-bn-relu":
        cout, out2 = np.where(np.isnan(cout), cin, cout), _output_hw(c) ** 2
        return out2 * area * cout, area * cout, cout, hw2 * cin, out2 * cout
    if kind == "fc":
        return cin * cout, cin * cout, cout, cin, cout
    if kind == "se":
        squeezed = np.where(np.isnan(cout), np.maximum(cin // _SE_REDUCTION, 1), cout)
        weights = 2 * cin * squeezed
        return weights, weights, cin + squeezed, hw2 * cin, hw2 * cin
    if kind in ("maxpool", "avgpool"):
        return none, none, none, hw2 * cin, _output_hw(c) ** 2 * cin
    if kind == "global-avgpool":
        return none, none, none, hw2 * cin, cin
    if kind in ("add", "addrelu"):
        cin = np.where(np.isnan(cin), parts[0], cin)
        second = np.where(np.isnan(parts[1]), cin, parts[1])
        return none, none, none, hw2 * (cin + second), hw2 * np.maximum(cin, second)
    if kind == "concat":
        total = np.where(np.isnan(parts).all(axis=0), np.nan, np.nansum(parts, axis=0))
        return none, none, none, hw2 * total, hw2 * total
    scale = 1.0 if kind in ("bn", "bnrelu") else 0.0
    return none, scale * cin, scale * cin, hw2 * cin, hw2 * cin


def _work(kind: str, c: Mapping[str, np.ndarray], size: np.ndarray) -> dict[str, np.ndarray]:
    """All of `WORK` for kernels of one type; `size`: bytes per number, NaN where unknown."""
    macs, weights, biases, read, written = _counts(kind, c)
    bias_size = np.where(size == 1, _INT8_BIAS_BYTES, size)
    # A row of unknown size has unknown work, even where its type has no MACs at all.
    gap = 0 * read
    values = (
        macs + gap,
        weights + biases + gap,
        read * size,
        written * size,
        weights * size + biases * bias_size,
    )
    return dict(zip(WORK, values, strict=True))


def _check_types(names: set[str]) -> None:
    unknown = sorted(names - set(KERNEL_TYPES))
    if unknown:
        raise EdgeError(
            f"unknown kernel type {', '.join(unknown)}; use one of: {', '.join(KERNEL_TYPES)}"
        )


@dataclass(frozen=True)
class Kernel:
    """One kernel and its configuration; None where a field does not apply.

    Sides, strides and paddings are in pixels; `padding` None means "same": the output has
    ceil(hw / stride) pixels a side. For `se`, `cout` holds the squeezed channels.

    Raises
    ------
    EdgeError
        Unknown kernel type or dtype, or a configuration field that the type needs is missing.

    Examples
    --------
    >>> first = Kernel("conv-bn-relu", hw=224, cin=3, cout=32, kernel_size=3, stride=2)
    >>> first.macs, first.params, first.input_bytes
    (10838016, 896, 602112)
    """

    kernel_type: str
    hw: int | None = None
    cin: int | None = None
    cout: int | None = None
    kernel_size: int | None = None
    stride: int | None = None
    padding: int | None = None
    dilation: int | None = None
    groups: int | None = None
    cin1: int | None = None
    cin2: int | None = None
    cin3: int | None = None
    cin4: int | None = None
    dtype: str = "float32"
    name: str = ""

    def __post_init__(self) -> None:
        _check_types({self.kernel_type})
        if self.dtype not in DTYPE_BYTES:
            raise EdgeError(f"unknown dtype {self.dtype!r}; use one of: {', '.join(DTYPE_BYTES)}")
        lacking = [f for f in KERNEL_TYPES[self.kernel_type] if getattr(self, f) is None]
        if self.kernel_type in ("add", "addrelu") and self.cin1 is not None:
            lacking = [f for f in lacking if f != "cin"]
        if lacking:
            raise EdgeError(f"a {self.kernel_type} kernel needs {', '.join(lacking)}; give them")

    @cached_property
    def _counted(self) -> dict[str, int]:
        config = {f: np.array(getattr(self, f), dtype=float) for f in _CONFIGURATION}
        size = np.array(float(DTYPE_BYTES[self.dtype]))
        return {name: int(v) for name, v in _work(self.kernel_type, config, size).items()}

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return self._counted["macs"]

    @property
    def params(self) -> int:
        """Trained parameters once batch normalisation is folded: weights and biases."""
        return self._counted["params"]

    @property
    def input_bytes(self) -> int:
        """Bytes of activations read."""
        return self._counted["input_bytes"]

    @property
    def output_bytes(self) -> int:
        """Bytes of activations written."""
        return self._counted["output_bytes"]

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights and biases read."""
        return self._counted["weight_bytes"]


def kernel_frame(kernels: tuple[Kernel, ...]) -> pd.DataFrame:
    """Turn kernels into rows: one column per field of `Kernel`, and the columns of `WORK`."""
    names = [f.name for f in fields(Kernel)]
    frame = pd.DataFrame([[getattr(k, n) for n in names] for k in kernels], columns=names)
    return add_work(frame)


def add_work(table: pd.DataFrame) -> pd.DataFrame:
    """Fill the work columns of every row that has a kernel type.

    Parameters
    ----------
    table
        Rows with `kernel_type`, `dtype` and the configuration columns of the measurement
        table, as far as they apply; rows without a kernel type are left alone.

    Returns
    -------
    pandas.DataFrame
        A copy with `macs`, `params` (counts) and `input_bytes`, `output_bytes`,
        `weight_bytes`. Values that were there stay. Missing where the configuration is
        incomplete; bytes are also missing where `dtype` is.

    Raises
    ------
    EdgeError
        Unknown kernel type, or no `kernel_type` column.

    Examples
    --------
    >>> rows = pd.DataFrame({"kernel_type": ["fc"], "cin": [1024], "cout": [1000]})
    >>> float(add_work(rows).loc[0, "macs"])
    1024000.0
    """
    if "kernel_type" not in table:
        raise EdgeError("add_work expected a column kernel_type and found none; name the types")
    table = table.copy()
    kinds = table["kernel_type"]
    _check_types(set(kinds.dropna()))
    config = {
        f: (table[f] if f in table else pd.Series(np.nan, table.index)).to_numpy(
            float, na_value=np.nan
        )
        for f in _CONFIGURATION
    }
    dtypes = table["dtype"] if "dtype" in table else pd.Series(None, table.index, dtype=object)
    sizes = dtypes.map(DTYPE_BYTES).to_numpy(float)
    filled = np.full((len(table), len(WORK)), np.nan)
    for kind in kinds.dropna().unique():
        at = (kinds == kind).to_numpy(bool, na_value=False)
        work = _work(kind, {f: v[at] for f, v in config.items()}, sizes[at])
        filled[at] = np.stack([work[name] for name in WORK], axis=1)
    for i, name in enumerate(WORK):
        new = pd.Series(filled[:, i], table.index)
        table[name] = table[name].astype(float).fillna(new) if name in table else new
    return table
