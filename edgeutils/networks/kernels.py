"""Kernels: what a runtime executes one after the other, and the work that each one is.

A kernel is an operator, or several that a runtime fuses, with its configuration. The types are
the sixteen of Tu et al. (SEC 2023), and transposed convolution. Feature maps are square with
`hw` pixels a side; one inference has batch size one. MACs (multiply-accumulates) count
convolutions, depthwise and transposed convolutions and fully connected layers, the two inside a
squeeze-and-excitation block included; all other kernels have none and are described by the
bytes they move.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from edgeutils import EdgeError

#: Kernel type -> configuration columns that it cannot do without.
KERNEL_TYPES: dict[str, list[str]] = yaml.safe_load(
    Path(__file__).with_name("kernel_types.yml").read_text(encoding="utf-8")
)

#: Bytes of one number of each type.
DTYPE_BYTES = {"float32": 4, "float16": 2, "int8": 1, "uint8": 1}

# A quantised layer's bias is stored as int32 (TensorFlow Lite's quantisation specification).
_INT8_BIAS_BYTES = 4

# Input per squeezed channel of a squeeze-and-excitation block whose `cout` does not say (Hu et al.
# 2018 use 16; MobileNetV3 and the kernels of nn-Meter and DeepEn2023 use 4).
SE_REDUCTION = 4

_INPUTS = ["cin1", "cin2", "cin3", "cin4"]
_CONV = ["hw", "cin", "cout", "kernel_size", "stride", "padding", "dilation", "groups"]
# Exact sizes of what is not square; they win over those that follow from `hw` and `kernel_size`.
_EXACT = ["pixels", "out_pixels", "taps"]
_SHORT = {"kernel_size": "k", "stride": "s", "padding": "p", "dilation": "d", "groups": "g"}
_COUNTS = ["macs", "weights", "biases", "read", "written"]
WORK = ("macs", "params", "input_bytes", "output_bytes", "weight_bytes")


def _output_area(c: pd.DataFrame) -> pd.Series:
    """Pixels of the output; its side is ceil(hw / stride) where padding is missing ("same")."""
    reach = c["dilation"].fillna(1) * (c["kernel_size"] - 1) + 1
    padded = (c["hw"] + 2 * c["padding"] - reach) // c["stride"] + 1
    side = padded.where(c["padding"].notna(), np.ceil(c["hw"] / c["stride"]))
    return c["out_pixels"].fillna(side**2)


def _counts(kind: str, c: pd.DataFrame) -> tuple[pd.Series | float, ...]:  # noqa: PLR0911  a table
    """MACs, weights, biases, input elements and output elements of kernels of one type."""
    area, window = c["pixels"].fillna(c["hw"] ** 2), c["taps"].fillna(c["kernel_size"] ** 2)
    cin, cout = c["cin"], c["cout"]
    if kind in ("conv-bn-relu", "transpose-conv"):
        weights = window * cin * cout / c["groups"].fillna(1)
        # A transposed convolution visits every weight once per *input* pixel.
        transposed = kind == "transpose-conv"
        scaled = c["out_pixels"].fillna(area * c["stride"] ** 2)
        out = scaled if transposed else _output_area(c)
        return weights * (area if transposed else out), weights, cout, area * cin, out * cout
    if kind == "dwconv-bn-relu":
        cout, out = cout.fillna(cin), _output_area(c)
        return out * window * cout, window * cout, cout, area * cin, out * cout
    if kind == "fc":
        rows = c["pixels"].fillna(1)
        return rows * cin * cout, cin * cout, cout, rows * cin, rows * cout
    if kind == "se":
        squeezed = cout.fillna((cin // SE_REDUCTION).clip(lower=1))
        weights = 2 * cin * squeezed
        return weights, weights, cin + squeezed, area * cin, area * cin
    if kind in ("maxpool", "avgpool", "global-avgpool"):
        out = 1.0 if kind == "global-avgpool" else _output_area(c)
        return 0.0, 0.0, 0.0, area * cin, out * cin
    if kind in ("add", "addrelu"):
        cin = cin.fillna(c["cin1"])
        second = c["cin2"].fillna(cin)
        return 0.0, 0.0, 0.0, area * (cin + second), area * cin.clip(lower=second)
    if kind == "concat":
        total = area * c[_INPUTS].sum(axis=1, min_count=1)
        return 0.0, 0.0, 0.0, total, total
    scale = cin if kind in ("bn", "bnrelu") else 0 * cin
    return 0.0, scale, scale, area * cin, area * cin


def _check_types(names: set[str]) -> None:
    if unknown := sorted(names - set(KERNEL_TYPES)):
        raise EdgeError(
            f"unknown kernel type {', '.join(unknown)}; use one of: {', '.join(KERNEL_TYPES)}"
        )


@dataclass(frozen=True)
class Kernel:
    """One kernel and its configuration; None where a field does not apply.

    Sides, strides and paddings are in pixels; `padding` None means "same": the output has
    ceil(hw / stride) pixels a side. For `se`, `cout` holds the squeezed channels.

    A map or window that is not square has its exact size in `pixels`, `out_pixels` (of a map) and
    `taps` (of a window); `hw`, `kernel_size` and `stride` are then rounded geometric means.
    `pixels` of an `fc` is the number of vectors (tokens) that it is applied to.

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
    pixels: int | None = None
    out_pixels: int | None = None
    taps: int | None = None
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

    @property
    def label(self) -> str:
        """Short name of the configuration, whatever the number type.

        >>> Kernel("maxpool", hw=56, cin=64, kernel_size=3, stride=2, dtype="int8").label
        'maxpool-hw56-cin64-k3-s2'
        """
        sizes = {f: getattr(self, f) for f in [*_CONV, *_INPUTS, *_EXACT]}
        given = {_SHORT.get(f, f): size for f, size in sizes.items() if size is not None}
        return "-".join([self.kernel_type, *(f"{f}{size}" for f, size in given.items())])

    @cached_property
    def _work(self) -> dict[str, int]:
        return kernel_frame([self])[list(WORK)].astype(int).iloc[0].to_dict()

    macs = property(lambda k: k._work["macs"], doc="Multiply-accumulates of one inference.")
    params = property(lambda k: k._work["params"], doc="Weights and biases, batch norm folded.")
    input_bytes = property(lambda k: k._work["input_bytes"], doc="Activations read.")
    output_bytes = property(lambda k: k._work["output_bytes"], doc="Activations written.")
    weight_bytes = property(lambda k: k._work["weight_bytes"], doc="Weights and biases read.")


def kernel_frame(kernels: Iterable[Kernel]) -> pd.DataFrame:
    """Turn kernels into rows: one column per field of `Kernel`, and the columns of `WORK`."""
    columns = [field.name for field in fields(Kernel)]
    return add_work(pd.DataFrame(list(kernels), columns=columns))


def add_work(table: pd.DataFrame) -> pd.DataFrame:
    """Fill the columns of `WORK` (counts, bytes) of every row that has a kernel type.

    Needs `kernel_type`, and `dtype` and the configuration columns of the measurement table (and
    the exact sizes of `Kernel`) as far as they apply. Values that were there stay. Work is missing
    where the configuration is incomplete; bytes are also missing where `dtype` is.

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
    _check_types(set(table["kernel_type"].dropna()))
    rows = table.reset_index(drop=True)
    config = rows.reindex(columns=[*_CONV, *_INPUTS, *_EXACT]).astype(float)
    size = rows.reindex(columns=["dtype"])["dtype"].map(DTYPE_BYTES).astype(float)
    counts = pd.DataFrame(index=rows.index, columns=_COUNTS, dtype=float)
    for kind, c in config.groupby(rows["kernel_type"]):
        counts.loc[c.index] = pd.DataFrame(dict(zip(_COUNTS, _counts(kind, c), strict=True)))
    weights, biases = counts["weights"], counts["biases"]
    gap = 0 * counts["read"]  # a row of unknown size has unknown work, even without any MACs
    work = {
        "macs": counts["macs"] + gap,
        "params": weights + biases + gap,
        "input_bytes": counts["read"] * size,
        "output_bytes": counts["written"] * size,
        "weight_bytes": weights * size + biases * size.mask(size == 1, _INT8_BIAS_BYTES),
    }
    given = rows.reindex(columns=list(WORK)).astype(float).fillna(pd.DataFrame(work))
    return table.assign(**given.set_axis(table.index))
