"""Rows of architectures: the state of a growing graph, and the rows that add one operator to it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from edgeutils.networks.graph import ACTIVATIONS, Builder


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


@dataclass
class Resampling:
    """Draws the channels and windows of a variant; the draws depend on `seed` alone.

    `channels_tenths` are the least and largest channels written, in tenths of the published ones,
    `mid_tenths` those inside a ShuffleNet unit; `kernel_sizes` (pixels) replace windows
    larger than 1 x 1 and `expansions` the expansion of inverted bottlenecks. () keeps what was
    published, so that `Resampling()` is the published network.
    """

    seed: str = ""
    channels_tenths: Sequence[int] = ()
    kernel_sizes: Sequence[int] = ()
    expansions: Sequence[int] = ()
    mid_tenths: Sequence[int] = ()
    draws: int = 0

    def choice(self, options: Sequence[int], otherwise: Any) -> Any:
        """Return one of the options, at random (SHA-256 of seed and number of the draw)."""
        if not options:
            return otherwise
        self.draws += 1
        digest = sha256(f"{self.seed} {self.draws}".encode()).digest()
        return options[int.from_bytes(digest[:8]) % len(options)]

    def scaled(self, channels: int, tenths: Sequence[int]) -> int:
        """Return the channels times a random number of tenths, rounded down."""
        low, high = tenths or (10, 10)
        return max(1, channels * self.choice(range(low, high + 1), 10) // 10)


@dataclass
class Rows:
    """Grows a graph on `value`, the map that the next block reads.

    `published` is the number of channels that the value has in the published network; a variant
    may have others, but keeps what flows along a residual connection. `width` and `depth` multiply
    channels and repeats; channels are then rounded by `make_divisible`, unless `exact_width`.
    `minimalistic` is MobileNetV3's variant without its costly operators. `edges` are the six
    operators of a cell of NAS-Bench-201. `named` holds values (and their published channels) that
    rows save and read; "image" is the network's input.
    """

    net: Builder
    value: int
    width: float = 1.0
    depth: float = 1.0
    activation: str = "relu"
    minimalistic: bool = False
    exact_width: bool = False
    resampling: Resampling = field(default_factory=Resampling)
    edges: Sequence[str] = ()
    published: int = 0
    named: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.published = self.channels
        self.named["image"] = (self.value, self.published)

    @property
    def channels(self) -> int:
        """Channels of the current map."""
        return self.net.shapes[self.value][2]

    def add(
        self,
        op: str,
        *,
        repeat: int = 1,
        deepen: bool = False,
        after: str = "",
        save: str = "",
        **row,
    ) -> None:
        """Add a row of a table as often as it says; only the first copy has the stride.

        `after` is the name of the map that it reads if not the last one, `save` names its output.
        """
        if after:
            self.value, self.published = self.named[after]
        for _ in range(math.ceil(repeat * (self.depth if deepen else 1.0))):
            getattr(self, op.replace("-", "_"))(**row)
            row |= {"stride": 1} if "stride" in row else {}
        if save:
            self.named[save] = (self.value, self.published)

    def conv(
        self, out: int, kernel: int = 1, stride: int = 1, width: str = "scale", **how: Any
    ) -> None:
        """Add a convolution; `width` tells how `out` follows multiplier and re-sampling.

        It does (scale), it never shrinks (grow), it is re-sampled only (fixed) or it stays
        (final).
        """
        scaled = self._scaled(out)
        widths = {"scale": scaled, "grow": max(out, scaled), "fixed": out, "final": out}
        self.published = widths[width]
        if width == "final":
            self._conv(out, kernel, stride, **how)
        else:
            self._conv(self._out(self.published), self._size(kernel), stride, **how)

    def depthwise(self, kernel: int = 3, stride: int = 1, **how: Any) -> None:
        """Add a depthwise convolution."""
        self._dwconv(self._size(kernel), stride, **how)

    def maxpool(self, kernel: int, stride: int, **how: Any) -> None:
        """Add maxima over windows."""
        self.value = self.net.maxpool(self.value, kernel, stride=stride, **how)

    def avgpool(self, kernel: int, stride: int, **how: Any) -> None:
        """Add means over windows."""
        self.value = self.net.avgpool(self.value, kernel, stride=stride, **how)

    def global_avgpool(self) -> None:
        """Add the mean over the whole map."""
        self.value = self.net.global_avgpool(self.value)

    def same(self, kind: str) -> None:
        """Add an operator that keeps the shape: relu, bnrelu, softmax ..."""
        self.value = self.net.same(kind, self.value)

    def hidden(self, out: int, flatten: bool = False) -> None:
        """Add a fully connected layer with ReLU inside the network."""
        self.published = out
        self.value = self.net.fc(self.value, self._out(out), activation="relu", flatten=flatten)

    def fc(self, out: int, flatten: bool = False) -> None:
        """Add the fully connected layer at the end of a network."""
        self.value = self.net.fc(self.value, out, flatten=flatten)

    def concat(self, of: Sequence[str]) -> None:
        """Join named maps along their channels."""
        self.value = self.net.concat([self.named[name][0] for name in of])

    def plus(self, of: str) -> None:
        """Add a named map."""
        self.value = self.net.add(self.value, self.named[of][0])

    def resize(self, like: str) -> None:
        """Stretch the map (bilinear) to the sides of a named one."""
        height, width, channels = self.net.shapes[self.value]
        rows, columns, _ = self.net.shapes[self.named[like][0]]
        factors = (rows // height, columns // width)
        shape = (rows, columns, channels)
        self.value = self.net.layer("resize", [self.value], shape, stride=factors)

    def upsample(self, out: int, kernel: int) -> None:
        """Double the sides by a transposed convolution, and activate."""
        self.value = self.net.transpose_conv(self.value, out, kernel)
        self.same(self.activation)

    # What the blocks share.

    def _conv(
        self, cout: int, kernel: int = 1, stride: int = 1, act: str | None = None, **how: Any
    ) -> None:
        fused, follows = self._activated(act)
        sizes = {"stride": stride, "activation": fused, **how}
        self.value = self.net.conv(self.value, cout, kernel, **sizes)
        if follows:
            self.same(follows)

    def _dwconv(self, kernel: int, stride: int = 1, act: str | None = None, **how: Any) -> None:
        fused, follows = self._activated(act)
        sizes = {"stride": stride, "activation": fused, **how}
        self.value = self.net.dwconv(self.value, kernel, **sizes)
        if follows:
            self.same(follows)

    def _activated(self, act: str | None) -> tuple[str, str]:
        """Return what runtimes fuse of an activation, and what follows as an operator.

        None stands for the network's usual one.
        """
        act = self.activation if act is None or (act == "hswish" and self.minimalistic) else act
        return (act, "") if act in ACTIVATIONS else ("", act)

    def _scaled(self, channels: int) -> int:
        wide = channels * self.width
        return int(wide) if self.exact_width or self.width == 1 else make_divisible(wide)

    def _out(self, channels: int) -> int:
        return self.resampling.scaled(channels, self.resampling.channels_tenths)

    def _size(self, kernel: Any) -> Any:
        return (
            kernel if kernel == 1 else self.resampling.choice(self.resampling.kernel_sizes, kernel)
        )
