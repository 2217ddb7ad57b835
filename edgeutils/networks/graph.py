"""Networks as graphs: kernels in order of execution, and the maps that flow between them.

A value is a map of height x width x channels (batch one); a vector is 1 x 1 x n, a sequence of
tokens 1 x length x n. A layer reads values and writes values; values are numbered. `Builder`
makes graphs, `tflite.write` turns them into files, `Graph.kernels` into what predictors see.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import Any

from edgeutils import EdgeError
from edgeutils.networks.kernels import KERNEL_TYPES, SE_REDUCTION, Kernel, kernel_frame

Shape = tuple[int, int, int]
Pair = tuple[int, int]

#: Operators that networks need and that are none of the kernel types; they have no MACs here.
EXTRAS = ("softmax", "logistic", "leakyrelu", "gelu", "resize", "matmul", "reshape")
ACTIVATIONS = ("", "relu", "relu6")
_WINDOWED = ("conv-bn-relu", "dwconv-bn-relu", "transpose-conv", "maxpool", "avgpool")
_WITH_COUT = ("conv-bn-relu", "transpose-conv", "fc", "se")


@dataclass(frozen=True)
class Layer:
    """A kernel (or one of `EXTRAS`) at its place in a graph."""

    op: str  # kernel type, or one of EXTRAS
    inputs: tuple[int, ...]  # values that it reads
    outputs: tuple[int, ...]  # values that it writes: two of a split, else one
    cout: int | None = None  # channels written; of `se` those in between
    window: Pair = (1, 1)  # height and width, pixels
    stride: Pair = (1, 1)  # of `resize` and `transpose-conv`: the factor upwards
    dilation: Pair = (1, 1)
    padding: str = "same"  # or "valid"
    groups: int = 1  # of a convolution or a channel shuffle
    activation: str = ""  # fused: one of ACTIVATIONS


@dataclass(frozen=True)
class Graph:
    """A network: layers in order of execution. `shapes` holds each value's shape, by number."""

    name: str
    family: str  # what an honest split leaves out
    dtype: str  # float32, int8 (or uint8, which is counted but not written)
    shapes: tuple[Shape, ...]
    layers: tuple[Layer, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @cached_property
    def kernels(self) -> tuple[Kernel, ...]:
        """The layers that are kernels, in order."""
        return tuple(self.kernel(layer) for layer in self.layers if layer.op in KERNEL_TYPES)

    @property
    def uncovered(self) -> dict[str, int]:
        """Number of each of `EXTRAS` that the graph holds."""
        extras = [layer.op for layer in self.layers if layer.op not in KERNEL_TYPES]
        return {op: extras.count(op) for op in dict.fromkeys(extras)}

    @property
    def resolution(self) -> int:
        """Height of the input, pixels."""
        return self.shapes[self.inputs[0]][0]

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return int(kernel_frame(self.kernels)["macs"].sum())

    @cached_property
    def params(self) -> int:
        """Trained parameters with batch normalisation folded: weights and biases."""
        return int(kernel_frame(self.kernels)["params"].sum())

    def kernel(self, layer: Layer) -> Kernel:
        """Kernel of a layer of this graph, without a name."""
        (height, width, cin), out = self.shapes[layer.inputs[0]], self.shapes[layer.outputs[0]]
        kind, windowed, spread = layer.op, layer.op in _WINDOWED, max(layer.dilation)
        multiplied = kind == "dwconv-bn-relu" and out[2] != cin
        sizes: dict[str, Any] = {
            "hw": None if kind == "fc" else rounded_root(height * width),
            "cin": None if kind == "concat" else cin,
            "cout": layer.cout if kind in _WITH_COUT or multiplied else None,
            "kernel_size": rounded_root(math.prod(layer.window)) if windowed else None,
            "stride": rounded_root(math.prod(layer.stride)) if windowed else None,
            "padding": 0 if windowed and layer.padding == "valid" else None,
            "dilation": spread if spread > 1 else None,
            "groups": layer.groups if kind == "conv-bn-relu" and layer.groups > 1 else None,
        }
        channels = [self.shapes[value][2] for value in layer.inputs]
        if kind == "concat" or len(set(channels)) > 1:
            sizes |= {f"cin{i}": c for i, c in enumerate(channels, 1)}
        pairs = [(height, width) if kind != "fc" else (height * width, 1)]
        if windowed:
            pairs += [layer.window, layer.stride, layer.dilation, out[:2]]
        if any(rows != columns for rows, columns in pairs):
            windows = {"out_pixels": out[0] * out[1], "taps": math.prod(layer.window)}
            sizes |= {"pixels": height * width} | (windows if windowed else {})
        return Kernel(kind, **sizes, dtype=self.dtype)


def rounded_root(area: int) -> int:
    """Side of the square of that area, rounded, at least 1."""
    return max(1, round(math.sqrt(area)))


def output_side(side: int, window: int, stride: int, dilation: int, padding: str) -> int:
    """Pixels of the output along one side.

    >>> output_side(224, 3, 2, 1, "same"), output_side(224, 3, 2, 1, "valid")
    (112, 111)
    """
    if padding == "same":
        return math.ceil(side / stride)
    return (side - dilation * (window - 1) - 1) // stride + 1


def pair(value: int | Sequence[int]) -> Pair:
    """Height and width of something that may be given as one number."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


@dataclass
class Builder:
    """Grows a graph layer by layer; every method returns the number(s) of what it writes.

    Examples
    --------
    >>> net = Builder()
    >>> image = net.input(224, 224, 3)
    >>> map_ = net.conv(image, 32, 3, stride=2, activation="relu6")
    >>> graph = net.graph("stem", outputs=[net.fc(net.global_avgpool(map_), 10)])
    >>> [kernel.kernel_type for kernel in graph.kernels], graph.macs
    (['conv-bn-relu', 'global-avgpool', 'fc'], 10838336)
    """

    shapes: list[Shape] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)

    def input(self, height: int, width: int, channels: int) -> int:
        """Add an input of the network."""
        self.inputs.append(self._value((height, width, channels)))
        return self.inputs[-1]

    def conv(self, value: int, cout: int, window: int | Pair = 1, *, groups: int = 1, **how) -> int:
        """Convolution with bias; `how`: stride, dilation, padding, activation."""
        return self._windowed("conv-bn-relu", value, window, cout, groups=groups, **how)

    def dwconv(self, value: int, window: int | Pair = 3, *, multiplier: int = 1, **how) -> int:
        """Depthwise convolution with bias; `how` as in `conv`."""
        cout = self.shapes[value][2] * multiplier
        return self._windowed("dwconv-bn-relu", value, window, cout, **how)

    def transpose_conv(self, value: int, cout: int, window: int | Pair, *, stride: int = 2) -> int:
        """Transposed convolution, which makes the map `stride` times as large."""
        height, width, _ = self.shapes[value]
        shape = (height * stride, width * stride, cout)
        sizes = {"window": pair(window), "stride": (stride, stride), "cout": cout}
        return self.layer("transpose-conv", [value], shape, **sizes)

    def maxpool(self, value: int, window: int | Pair, **how) -> int:
        """Maximum over windows; `how`: stride, padding."""
        return self._windowed("maxpool", value, window, self.shapes[value][2], **how)

    def avgpool(self, value: int, window: int | Pair, **how) -> int:
        """Mean over windows; `how`: stride, padding."""
        return self._windowed("avgpool", value, window, self.shapes[value][2], **how)

    def global_avgpool(self, value: int) -> int:
        """Mean over the whole map."""
        return self.layer("global-avgpool", [value], (1, 1, self.shapes[value][2]))

    def fc(self, value: int, cout: int, *, activation: str = "", flatten: bool = False) -> int:
        """Fully connected layer on the channels of every pixel or token, or on the whole map."""
        height, width, channels = self.shapes[value]
        if flatten and height * width > 1:
            value, height, width = self.reshape(value, (1, 1, height * width * channels)), 1, 1
        return self.layer("fc", [value], (height, width, cout), cout=cout, activation=activation)

    def add(self, first: int, second: int, *, relu: bool = False) -> int:
        """Sum of two maps; the second may have one channel."""
        return self.layer("addrelu" if relu else "add", [first, second], self.shapes[first])

    def concat(self, values: Sequence[int]) -> int:
        """Join two to four maps along their channels; more are joined four at a time."""
        while len(values) > 4:
            values = [self.concat(values[:4]), *values[4:]]
        height, width, _ = self.shapes[values[0]]
        channels = sum(self.shapes[value][2] for value in values)
        return self.layer("concat", values, (height, width, channels))

    def split(self, value: int) -> tuple[int, int]:
        """Both halves of the channels."""
        height, width, channels = self.shapes[value]
        if channels % 2:
            raise EdgeError(f"a split halves the channels, but there are {channels}")
        halves = (self._value((height, width, channels // 2)) for _ in range(2))
        first, second = halves
        self.layers.append(Layer("split", (value,), (first, second)))
        return first, second

    def se(self, value: int, squeezed: int) -> int:
        """Squeeze-and-excitation: weigh the channels by what their means say."""
        return self.layer("se", [value], self.shapes[value], cout=squeezed)

    def same(self, op: str, value: int, **how) -> int:
        """Add an operator that keeps the shape: relu, hswish, bn, channelshuffle, softmax ..."""
        return self.layer(op, [value], self.shapes[value], **how)

    def resize(self, value: int, factor: int) -> int:
        """Bilinear upsampling."""
        height, width, channels = self.shapes[value]
        shape = (height * factor, width * factor, channels)
        return self.layer("resize", [value], shape, stride=(factor, factor))

    def matmul(self, first: int, second: int, shape: Shape) -> int:
        """Product of two computed values (attention); not among the kernel types."""
        return self.layer("matmul", [first, second], shape)

    def reshape(self, value: int, shape: Shape) -> int:
        """Read the same numbers as another shape."""
        if math.prod(shape) != math.prod(self.shapes[value]):
            raise EdgeError(f"{self.shapes[value]} cannot be read as {shape}")
        return self.layer("reshape", [value], shape)

    def layer(self, op: str, inputs: Sequence[int], shape: Shape, **how) -> int:
        """Append a layer that writes one value of `shape`."""
        if op not in KERNEL_TYPES and op not in EXTRAS:
            names = ", ".join([*KERNEL_TYPES, *EXTRAS])
            raise EdgeError(f"unknown operator {op!r}; use one of: {names}")
        if (activation := how.get("activation", "")) not in ACTIVATIONS:
            raise EdgeError(f"unknown activation {activation!r}; use one of: relu, relu6, or none")
        self.layers.append(Layer(op, tuple(inputs), (self._value(shape),), **how))
        return self.layers[-1].outputs[0]

    def graph(
        self, name: str, *, outputs: Sequence[int], family: str = "", dtype: str = "float32"
    ) -> Graph:
        """Finish the graph."""
        shapes, layers, inputs = tuple(self.shapes), tuple(self.layers), tuple(self.inputs)
        return Graph(name, family, dtype, shapes, layers, inputs, tuple(outputs))

    def _windowed(
        self, op: str, value: int, window: int | Pair, cout: int, *, groups: int = 1, **how
    ) -> int:
        pairs = {key: pair(how.pop(key, 1)) for key in ("stride", "dilation")}
        padding = how.pop("padding", "same")
        height, width, channels = self.shapes[value]
        if channels % groups or cout % groups:
            raise EdgeError(f"{channels} -> {cout} channels cannot be cut into {groups} groups")
        sides = zip((height, width), pair(window), *pairs.values(), strict=True)
        rows, columns = (
            output_side(side, taps, step, spread, padding) for side, taps, step, spread in sides
        )
        if min(rows, columns) < 1:
            raise EdgeError(f"a window of {pair(window)} does not fit a map of {height} x {width}")
        sizes = {"window": pair(window), "padding": padding, "groups": groups, **pairs}
        return self.layer(op, [value], (rows, columns, cout), cout=cout, **sizes, **how)

    def _value(self, shape: Shape) -> int:
        self.shapes.append(shape)
        return len(self.shapes) - 1


def factors(area: int) -> list[Pair]:
    """Heights and widths with that area, the closest to a square first.

    >>> factors(12)
    [(3, 4), (4, 3), (2, 6), (6, 2), (1, 12), (12, 1)]
    """
    small = [side for side in range(math.isqrt(area), 0, -1) if area % side == 0]
    pairs = [pair for side in small for pair in ((side, area // side), (area // side, side))]
    return list(dict.fromkeys(pairs))


def single_kernel(kernel: Kernel) -> Graph:
    """Graph of one kernel alone, as it is written to a file to be measured.

    Of what is not square, the map and window closest to a square that have the kernel's exact
    sizes are taken.

    Raises
    ------
    EdgeError
        The padding is neither None (same) nor 0 (valid), or no map has the kernel's exact sizes.

    Examples
    --------
    >>> pool = Kernel("maxpool", hw=28, cin=8, kernel_size=3, stride=2)
    >>> single_kernel(pool).kernels[0] == pool
    True
    """
    if kernel.padding:
        raise EdgeError(f"expected padding None (same) or 0 (valid), not {kernel.padding}; give it")
    side, window, step = kernel.hw or 1, kernel.kernel_size or 1, kernel.stride or 1
    if kernel.pixels is None:
        return _single(kernel, (side, side), pair(window), pair(step))
    if kernel.kernel_type == "fc":
        return _single(kernel, (1, kernel.pixels), (1, 1), (1, 1))
    # Every stride whose geometric mean is rounded to that of the kernel.
    steps = [s for area in range(step**2 - step + 1, step**2 + step + 1) for s in factors(area)]
    wanted, windows = replace(kernel, name=""), factors(kernel.taps or 1)
    for sides, taps, strides in product(factors(kernel.pixels), windows, [pair(step), *steps]):
        with suppress(EdgeError):  # the window does not fit that map
            graph = _single(kernel, sides, taps, strides)
            if graph.kernels[0] == wanted:
                return graph
    raise EdgeError(
        f"expected sizes that some {kernel.kernel_type} has, not {kernel.pixels} pixels,"
        f" {kernel.out_pixels} of output and {kernel.taps} taps; check them"
    )


def _single(kernel: Kernel, sides: Pair, window: Pair, stride: Pair) -> Graph:
    net, kind, cin = Builder(), kernel.kernel_type, kernel.cin or kernel.cin1 or 1
    value, cout = net.input(*sides, cin), kernel.cout or cin
    more = [c for c in (kernel.cin2, kernel.cin3, kernel.cin4) if c]
    pool: dict[str, Any] = {"stride": stride, "padding": "valid"}
    if kernel.padding is None:
        pool["padding"] = "same"
    conv = pool | {"dilation": kernel.dilation or 1, "activation": "relu"}
    build: dict[str, Callable[[], int | Pair]] = {
        "conv-bn-relu": lambda: net.conv(value, cout, window, groups=kernel.groups or 1, **conv),
        "dwconv-bn-relu": lambda: net.dwconv(value, window, multiplier=cout // cin, **conv),
        "transpose-conv": lambda: net.transpose_conv(value, cout, window, stride=stride[0]),
        "fc": lambda: net.fc(value, cout),
        "maxpool": lambda: net.maxpool(value, window, **pool),
        "avgpool": lambda: net.avgpool(value, window, **pool),
        "global-avgpool": lambda: net.global_avgpool(value),
        "add": lambda: net.add(value, net.input(*sides, (more or [cin])[0])),
        "addrelu": lambda: net.add(value, net.input(*sides, (more or [cin])[0]), relu=True),
        "concat": lambda: net.concat([value, *(net.input(*sides, c) for c in more)]),
        "split": lambda: net.split(value),
        "se": lambda: net.se(value, kernel.cout or max(1, cin // SE_REDUCTION)),
        "channelshuffle": lambda: net.same(kind, value, groups=2),
    }
    made = build.get(kind, lambda: net.same(kind, value))()
    outputs = made if isinstance(made, tuple) else (made,)
    return net.graph(kernel.name or kind, outputs=outputs, family=kind, dtype=kernel.dtype)
