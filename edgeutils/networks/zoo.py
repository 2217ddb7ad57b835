"""The zoo: published network families as tuples of kernels, built from tables in `architectures/`.

An architecture is a YAML file: a pattern of names, and the rows of the table in its paper. This
module expands the rows for a width multiplier, a resolution and a number type. It understands
the names that MLPerf's submitters use (`mobilenet-v2-0.35-128-quantized`).
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from edgeutils import EdgeError
from edgeutils.networks.kernels import DTYPE_BYTES, KERNEL_TYPES, Kernel, kernel_frame

_FOLDER = Path(__file__).with_name("architectures")
_ARCHITECTURES = [yaml.safe_load(p.read_text("utf-8")) for p in sorted(_FOLDER.glob("*.yml"))]
_DTYPES = {"quantized": "uint8", "uint8": "uint8", "non-quantized": "float32", "float": "float32"}


def make_divisible(channels: float) -> int:
    """Round channels to a multiple of 8, never losing more than a tenth.

    The rule of the reference implementations of MobileNetV2, V3 and EfficientNet.

    Examples
    --------
    >>> make_divisible(32 * 0.35), make_divisible(24 * 0.75), make_divisible(960 * 0.75)
    (16, 24, 720)
    """
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


@dataclass(frozen=True)
class Network:
    """A network as the kernels that run one after the other.

    `name` is the one asked for, `family` the architecture family (what an honest split leaves
    out), `resolution` the height = width of the input image in pixels, `dtype` the type of
    weights and activations; `kernels` are in order of execution.
    """

    name: str
    family: str
    resolution: int
    dtype: str
    kernels: tuple[Kernel, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return int(kernel_frame(self.kernels)["macs"].sum())

    @property
    def params(self) -> int:
        """Trained parameters with batch normalisation folded: weights and biases."""
        return int(kernel_frame(self.kernels)["params"].sum())


@dataclass
class _Builder:
    """Collects kernels while it keeps track of the side and channels of the feature map.

    The public methods are the blocks of the tables; their arguments are the columns.
    """

    hw: int
    width: float
    depth: float
    minimalistic: bool
    dtype: str
    channels: int = 3
    kernels: list[Kernel] = field(default_factory=list)

    def add(self, op: str, *, repeat: int = 1, deepen: bool = False, **row: Any) -> None:
        """Add a row of a table as often as it says; only the first copy has the stride."""
        block = partial(self._emit, op) if op in KERNEL_TYPES else getattr(self, op)
        for _ in range(math.ceil(repeat * (self.depth if deepen else 1.0))):
            block(**row)
            row["stride"] = 1

    def _emit(self, kernel_type: str, *, act: str = "", **config: Any) -> None:
        """Append a kernel on the current feature map, if not told otherwise; go to its output."""
        config = {"hw": self.hw, "cin": self.channels, **config}
        self.kernels.append(Kernel(kernel_type, dtype=self.dtype, **config))
        self.hw = math.ceil(config["hw"] / config.get("stride", 1))
        if kernel_type == "global-avgpool":
            self.hw = 1
        if kernel_type != "se":  # whose cout are the squeezed channels
            self.channels = config.get("cout", config["cin"])
        if act == "hswish" and not self.minimalistic:  # runtimes do not fuse it, unlike ReLU
            self._emit("hswish")

    def conv(
        self, out: int, kernel: int = 1, stride: int = 1, act: str = "", width: str = "scale"
    ) -> None:
        """Add a convolution; `width` tells how `out` follows the width multiplier."""
        scaled = make_divisible(out * self.width)
        cout = {"scale": scaled, "fixed": out, "grow": max(out, scaled)}[width]
        self._emit("conv-bn-relu", act=act, cout=cout, kernel_size=kernel, stride=stride)

    def separable(self, out: int, stride: int = 1) -> None:
        """Add MobileNetV1's block: depthwise, then pointwise."""
        self._emit("dwconv-bn-relu", kernel_size=3, stride=stride)
        self.conv(out)

    def inverted(self, out: int, expand: float, stride: int = 1, **how: Any) -> None:
        """Add MobileNetV2's and V3's block: expand, depthwise, squeeze, project, add."""
        before, act = self.channels, how.get("act", "")
        if expand != 1:
            self.conv(make_divisible(before * expand), act=act, width="fixed")
        size = 3 if self.minimalistic else how.get("kernel", 3)
        self._emit("dwconv-bn-relu", act=act, kernel_size=size, stride=stride)
        if how.get("se") and not self.minimalistic:
            self._emit("se", cout=make_divisible(self.channels / 4))
        self.conv(out)
        if stride == 1 and before == self.channels:
            self._emit("add")

    def bottleneck(self, mid: int, out: int, stride: int = 1) -> None:
        """Add ResNet's block of three convolutions, with a projection where shapes change."""
        side, before = self.hw, self.channels
        self.conv(mid)
        self.conv(mid, 3, stride)
        self.conv(out)
        if stride != 1 or before != self.channels:
            self._emit("conv-bn-relu", cout=out, kernel_size=1, stride=stride, hw=side, cin=before)
        self._emit("addrelu")


def network(name: str, *, dtype: str | None = None) -> Network:
    """Build a network of the zoo from its name, for instance `mobilenet-v1-0.25-128-quantized`.

    Any width and resolution may be given. `dtype` overrides the number type in the name; without
    either it is float32.

    Raises
    ------
    EdgeError
        No architecture has such a name, or the number type is unknown.

    Examples
    --------
    >>> network("mobilenet-v2-1.0-224").macs
    300775552
    """
    for table in _ARCHITECTURES:
        if match := re.match(table["names"], name):
            break
    else:
        examples = ", ".join(table["example"] for table in _ARCHITECTURES)
        raise EdgeError(f"no network of the zoo is called {name!r}; names look like {examples}")
    said = {key: value for key, value in match.groupdict().items() if value}
    said |= table.get("variants", {}).get(said.get("variant"), {})
    resolution = int(said.get("resolution", 224))
    builder = _Builder(
        hw=resolution,
        width=float(said.get("width", 1.0)),
        depth=float(said.get("depth", 1.0)),
        minimalistic="minimalistic" in said,
        dtype=dtype or _DTYPES[said.get("dtype", "float")],
    )
    for row in table["layers"]:
        builder.add(**row)
    return Network(name, table["family"], resolution, builder.dtype, tuple(builder.kernels))


def features(names: Iterable[str]) -> pd.DataFrame:
    """Features of networks, one row per distinct name, indexed by name.

    Returns
    -------
    pandas.DataFrame
        `family`, `dtype`, `resolution` (pixels a side), `pixels` of the input; `macs` in all
        and by kind: `conv_macs` (dense, larger than 1 x 1), `pointwise_macs` (dense 1 x 1),
        `depthwise_macs`, `fc_macs` (with those of squeeze-and-excitation); `params`, `layers`
        (kernels); elements written: `activations` (all but the next two), `hswish_elements`,
        `se_elements`; `weight_bytes`, and the bytes of the network's input and output.
    """
    nets = {name: network(name) for name in names}
    rows = kernel_frame(kernel for net in nets.values() for kernel in net.kernels)
    of = np.repeat(list(nets), [len(net.kernels) for net in nets.values()])
    kind, macs, large = rows["kernel_type"], rows["macs"], rows["kernel_size"] > 1
    written = rows["output_bytes"] / rows["dtype"].map(DTYPE_BYTES)
    dense = kind == "conv-bn-relu"
    counts = {
        "macs": macs,
        "conv_macs": macs * (dense & large),
        "pointwise_macs": macs * (dense & ~large),
        "depthwise_macs": macs * (kind == "dwconv-bn-relu"),
        "fc_macs": macs * kind.isin(["fc", "se"]),
        "params": rows["params"],
        "layers": 1,
        "activations": written * ~kind.isin(["hswish", "se"]),
        "hswish_elements": written * (kind == "hswish"),
        "se_elements": written * (kind == "se"),
        "weight_bytes": rows["weight_bytes"],
    }
    table = pd.DataFrame([vars(net) for net in nets.values()]).set_index("name")
    table = table[["family", "dtype", "resolution"]].assign(pixels=table["resolution"] ** 2)
    return table.join(pd.DataFrame(counts).groupby(of).sum()).assign(
        input_bytes=rows.groupby(of)["input_bytes"].first(),
        output_bytes=rows.groupby(of)["output_bytes"].last(),
    )
