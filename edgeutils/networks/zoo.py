"""The zoo: published network families as tuples of kernels, built from tables in `architectures/`.

An architecture is a YAML file: a pattern of names, and the rows of the table in its paper. This
module expands the rows for a width multiplier, a resolution and a number type. It understands
the names that MLPerf's submitters use (`mobilenet-v2-0.35-128-quantized`).
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from edgeutils import EdgeError
from edgeutils.networks.kernels import DTYPE_BYTES, Kernel, kernel_frame

_FOLDER = Path(__file__).with_name("architectures")
_DTYPES = {"quantized": "uint8", "uint8": "uint8", "non-quantized": "float32", "float": "float32"}


def make_divisible(channels: float, divisor: int = 8) -> int:
    """Round channels to a multiple of `divisor`, never losing more than a tenth.

    The rule of the reference implementations of MobileNetV2, V3 and EfficientNet.

    Examples
    --------
    >>> make_divisible(32 * 0.35), make_divisible(24 * 0.75), make_divisible(960 * 0.75)
    (16, 24, 720)
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


@dataclass(frozen=True)
class Network:
    """A network as the kernels that run one after the other.

    Attributes
    ----------
    name, family
        Name as asked for, and architecture family (what an honest split leaves out).
    resolution
        Height = width of the input image, pixels.
    dtype
        Type of weights and activations.
    kernels
        In order of execution.
    """

    name: str
    family: str
    resolution: int
    dtype: str
    kernels: tuple[Kernel, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return sum(k.macs for k in self.kernels)

    @property
    def params(self) -> int:
        """Trained parameters with batch normalisation folded: weights and biases."""
        return sum(k.params for k in self.kernels)


@dataclass
class _Builder:
    """Collects kernels while it keeps track of the side and channels of the feature map."""

    hw: int
    width: float
    depth: float
    minimalistic: bool
    dtype: str
    channels: int = 3
    kernels: list[Kernel] = field(default_factory=list)

    def emit(self, kernel_type: str, **config: Any) -> None:
        """Append a kernel on the current feature map and move on to its output."""
        here: dict[str, Any] = {"hw": self.hw, "cin": self.channels, "dtype": self.dtype}
        config = here | config
        self.kernels.append(Kernel(kernel_type, **config))
        self.hw = math.ceil(self.hw / config.get("stride", 1))
        self.channels = config.get("cout", self.channels)

    def scaled(self, row: dict[str, Any]) -> int:
        """Output channels of a row after the width multiplier."""
        out, rule = row["out"], row.get("width", "scale")
        scaled = make_divisible(out * self.width)
        return {"scale": scaled, "fixed": out, "grow": max(out, scaled)}[rule]

    def activate(self, row: dict[str, Any]) -> None:
        """Add the activation where the runtime does not fuse it into the convolution."""
        if row.get("act") == "hswish" and not self.minimalistic:
            self.emit("hswish")

    def conv(self, row: dict[str, Any]) -> None:
        """Add a convolution with its activation."""
        stride = row.get("stride", 1)
        self.emit("conv-bn-relu", cout=self.scaled(row), kernel_size=row["kernel"], stride=stride)
        self.activate(row)

    def separable(self, row: dict[str, Any]) -> None:
        """Add MobileNetV1's block: depthwise, then pointwise."""
        self.emit("dwconv-bn-relu", kernel_size=3, stride=row.get("stride", 1))
        self.emit("conv-bn-relu", cout=self.scaled(row), kernel_size=1, stride=1)

    def inverted(self, row: dict[str, Any]) -> None:
        """Add MobileNetV2's and V3's block: expand, depthwise, squeeze, project, add."""
        before, stride = self.channels, row.get("stride", 1)
        if row["expand"] != 1:
            hidden = make_divisible(before * row["expand"])
            self.emit("conv-bn-relu", cout=hidden, kernel_size=1, stride=1)
            self.activate(row)
        size = 3 if self.minimalistic else row.get("kernel", 3)
        self.emit("dwconv-bn-relu", kernel_size=size, stride=stride)
        self.activate(row)
        if row.get("se") and not self.minimalistic:
            squeezed = make_divisible(self.channels / 4)
            self.kernels.append(
                Kernel("se", hw=self.hw, cin=self.channels, cout=squeezed, dtype=self.dtype)
            )
        self.emit("conv-bn-relu", cout=self.scaled(row), kernel_size=1, stride=1)
        if stride == 1 and before == self.channels:
            self.emit("add")

    def bottleneck(self, row: dict[str, Any]) -> None:
        """Add ResNet's block of three convolutions, with a projection where shapes change."""
        before, side, stride = self.channels, self.hw, row.get("stride", 1)
        self.emit("conv-bn-relu", cout=row["mid"], kernel_size=1, stride=1)
        self.emit("conv-bn-relu", cout=row["mid"], kernel_size=3, stride=stride)
        self.emit("conv-bn-relu", cout=row["out"], kernel_size=1, stride=1)
        if stride != 1 or before != self.channels:
            shape: dict[str, Any] = {
                "hw": side,
                "cin": before,
                "cout": row["out"],
                "kernel_size": 1,
            }
            shortcut = Kernel("conv-bn-relu", **shape, stride=stride, dtype=self.dtype)
            self.kernels.append(shortcut)
        self.emit("addrelu")

    def add(self, row: dict[str, Any]) -> None:
        """Add one row of the table, as often as it says; only the first copy has the stride."""
        deepen = self.depth if row.get("deepen") else 1.0
        for i in range(math.ceil(row.get("repeat", 1) * deepen)):
            step = row if i == 0 else row | {"stride": 1}
            match row["op"]:
                case "conv" | "separable" | "inverted" | "bottleneck" as block:
                    getattr(self, block)(step)
                case "maxpool":
                    self.emit("maxpool", kernel_size=row["kernel"], stride=row["stride"])
                case "global-avgpool":
                    self.emit("global-avgpool")
                    self.hw = 1
                case "fc":
                    self.emit("fc", hw=1, cout=row["out"])


@cache
def _architectures() -> tuple[dict[str, Any], ...]:
    return tuple(yaml.safe_load(p.read_text()) for p in sorted(_FOLDER.glob("*.yml")))


def network(name: str, *, dtype: str | None = None) -> Network:
    """Build a network of the zoo from its name.

    Parameters
    ----------
    name
        For instance `mobilenet-v1-0.25-128-quantized`, `mobilenet-v3-large_224_1.0_float`,
        `efficientnet-lite0` or `resnet50`; any width and resolution may be given. Without a
        number type in the name it is float32.
    dtype
        Number type, where it should not follow the name.

    Raises
    ------
    EdgeError
        No architecture has such a name.

    Examples
    --------
    >>> network("mobilenet-v2-1.0-224").macs
    300775552
    """
    for table in _architectures():
        match = re.match(table["names"], name)
        if match:
            break
    else:
        examples = ", ".join(table["example"] for table in _architectures())
        raise EdgeError(f"no network of the zoo is called {name!r}; names look like {examples}")
    said = match.groupdict()
    said |= table.get("variants", {}).get(said.get("variant"), {})
    dtype = dtype or _DTYPES.get(said.get("dtype") or "float", "float32")
    if dtype not in DTYPE_BYTES:
        raise EdgeError(f"unknown dtype {dtype!r}; use one of: {', '.join(DTYPE_BYTES)}")
    resolution = int(said.get("resolution") or 224)
    builder = _Builder(
        hw=resolution,
        width=float(said.get("width") or 1.0),
        depth=float(said.get("depth") or 1.0),
        minimalistic=bool(said.get("minimalistic")),
        dtype=dtype,
    )
    for row in table["layers"]:
        builder.add(row)
    return Network(name, table["family"], resolution, dtype, tuple(builder.kernels))


def network_features(net: Network) -> dict[str, Any]:
    """Summarise a network in the counts that its energy may follow; see `features`."""
    rows = kernel_frame(net.kernels)
    kind, macs = rows["kernel_type"], rows["macs"]
    elements = rows["output_bytes"] / DTYPE_BYTES[net.dtype]
    dense = kind.eq("conv-bn-relu")
    return {
        "family": net.family,
        "dtype": net.dtype,
        "resolution": net.resolution,
        "pixels": net.resolution**2,
        "macs": macs.sum(),
        "conv_macs": macs[dense & rows["kernel_size"].gt(1)].sum(),
        "pointwise_macs": macs[dense & rows["kernel_size"].eq(1)].sum(),
        "depthwise_macs": macs[kind.eq("dwconv-bn-relu")].sum(),
        "fc_macs": macs[kind.isin(["fc", "se"])].sum(),
        "params": rows["params"].sum(),
        "layers": len(rows),
        "activations": elements[~kind.isin(["hswish", "se"])].sum(),
        "hswish_elements": elements[kind.eq("hswish")].sum(),
        "se_elements": elements[kind.eq("se")].sum(),
        "weight_bytes": rows["weight_bytes"].sum(),
        "input_bytes": rows["input_bytes"].iloc[0],
        "output_bytes": rows["output_bytes"].iloc[-1],
    }


def features(names: Iterable[str]) -> pd.DataFrame:
    """Features of networks, one row per distinct name, indexed by name.

    Returns
    -------
    pandas.DataFrame
        `family`, `dtype`, `resolution` (pixels a side), `pixels` of the input; `macs` in all
        and by kind: `conv_macs` (dense, larger than 1 x 1), `pointwise_macs` (dense 1 x 1),
        `depthwise_macs`, `fc_macs` (with those of squeeze-and-excitation); `params`, `layers`
        (kernels); elements written:
        `activations` (all but the next two), `hswish_elements`, `se_elements`;
        `weight_bytes`, and the bytes of the network's input and output.

    Raises
    ------
    EdgeError
        A name that the zoo does not know.
    """
    distinct = list(dict.fromkeys(names))
    rows = [network_features(network(name)) for name in distinct]
    return pd.DataFrame(rows, index=pd.Index(distinct, name="name"))
