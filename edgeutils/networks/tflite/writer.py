"""Write graphs as `.tflite` files through the published schema, without TensorFlow.

Weights are random, but sized so that activations keep their order of magnitude from layer to
layer (as in He et al., ICCV 2015): speed and energy of a dense network do not depend on them as
long as no number is denormal or NaN.

int8 follows TensorFlow Lite's quantisation specification: weights symmetric, with one scale per
output channel (one per tensor in fully connected layers, which is all that tflite-runtime knows),
int32 biases, activations on one common grid.

Both runtimes give the same results, but for tflite-runtime 2.14 with XNNPACK where a window of two
pixels or more is smaller than its stride and "same" pads nothing: it then reads other pixels, in
the same time (LiteRT 2.3 has this mended).
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from edgeutils import EdgeError, whole_file
from edgeutils.networks.graph import Graph, Layer
from edgeutils.networks.tflite.pack import COMMON, FACTS, UNIT, FileModel, Grid

_WEIGHTED = ("conv-bn-relu", "dwconv-bn-relu", "transpose-conv", "fc")


def to_bytes(graph: Graph, *, seed: int = 0) -> bytes:
    """Make a `.tflite` model of a graph with random weights; the same bytes for the same seed.

    Raises
    ------
    EdgeError
        A number type other than float32 and int8, or more weights than a file can hold.

    Examples
    --------
    >>> from edgeutils.networks.graph import Kernel, single_kernel
    >>> to_bytes(single_kernel(Kernel("relu", hw=8, cin=4)))[4:8]
    b'TFL3'
    """
    return bytes(_packed(graph, seed))


def write(graph: Graph, path: str | Path, *, seed: int = 0) -> Path:
    """Write a graph as a `.tflite` file, whole or not at all; what `to_bytes` makes.

    Raises
    ------
    EdgeError
        As in `to_bytes`, or the file cannot be written.
    """
    path, data = Path(path), _packed(graph, seed)
    try:
        with whole_file(path) as partial:
            partial.write_bytes(data)
    except OSError as error:
        raise EdgeError(f"{path} cannot be written: {error}; choose another folder") from None
    return path


def _packed(graph: Graph, seed: int) -> memoryview:
    model = FileModel(graph.name or "the graph", graph.dtype, seed)
    tensors = {
        value: model.tensor(f"input_{i}", (1, *graph.shapes[value]))
        for i, value in enumerate(graph.inputs)
    }
    for number, layer in enumerate(graph.layers):
        _Place(graph, model, tensors, layer, f"{layer.op}_{number}").write()
    ends = ([tensors[value] for value in values] for values in (graph.inputs, graph.outputs))
    return model.packed(*ends)


class _Place:
    """A layer at its place in the file: the tensors that it reads and writes."""

    def __init__(
        self, graph: Graph, model: FileModel, tensors: dict[int, int], layer: Layer, name: str
    ) -> None:
        self.layer, self.model, self.name = layer, model, name
        self.ins = [graph.shapes[value] for value in layer.inputs]
        self.out = graph.shapes[layer.outputs[0]]
        self.sources = [tensors[value] for value in layer.inputs]
        self.grid = model.grids[self.sources[0]]
        grid, square = self._grid_written(), self._square_written()
        several = len(layer.outputs) > 1
        for i, value in enumerate(layer.outputs):
            shape = (1, *graph.shapes[value])
            tensors[value] = model.tensor(f"{name}/{i}" if several else name, shape, grid, square)
        self.outputs = [tensors[value] for value in layer.outputs]

    def write(self) -> None:
        """Write the layer's operators."""
        if op := FACTS["plain"].get(self.layer.op):
            self.model.operator(op, self.sources, self.outputs, **self._fields())
        else:
            _WITH_CONSTANTS[self.layer.op](self)

    def _grid_written(self) -> Grid:
        if self.layer.op in FACTS["same_grid"]:
            return self.grid
        return UNIT if self.layer.op in FACTS["unit_grid"] else COMMON

    def _square_written(self) -> float:
        """Mean square to expect of the output."""
        op, squares = self.layer.op, [self.model.squares[source] for source in self.sources]
        if op in _WEIGHTED:
            return 1.0
        if op == "softmax":  # between all alike, 1 / n^2, and one that has it all, 1 / n
            return 1.0 / self.out[2]
        if op == "matmul":
            return self.ins[0][2] * squares[0] * squares[1]
        total = sum(squares) if op in ("add", "addrelu") else max(squares)
        return total * FACTS["mean_square"].get(op, 1.0)

    def _fields(self) -> dict[str, Any]:
        """Options of an operator without constants."""
        layer = self.layer
        if layer.op in ("maxpool", "avgpool"):
            sides = {"filterHeight": layer.window[0], "filterWidth": layer.window[1]}
            return sides | _steps(layer) | _fused(layer)
        if layer.op == "matmul":
            # (a x b) times (b x c), or times (c x b) transposed.
            return {"adjY": self.ins[1][1] != self.ins[0][2]}
        return {"fusedActivationFunction": _activation("relu")} if layer.op == "addrelu" else {}

    def _weighted(
        self,
        op: str,
        shape: tuple[int, ...],
        gain: float,
        *,
        axis: int | None = 0,
        ends: tuple[str, int, int] | None = None,
        **fields,
    ) -> None:
        """Write an operator with weights and a bias from one tensor to another, under a name."""
        name, source, output = ends or (self.name, self.sources[0], self.outputs[0])
        gain /= self.model.squares[source]
        weights = self.model.weights(f"{name}/weights", shape, gain, axis)
        bias = self.model.bias(f"{name}/bias", source, weights, shape[axis or 0])
        inputs = [source, weights, bias]
        if op == "TRANSPOSE_CONV":
            inputs = [self.model.integers(1, *self.out), weights, source, bias]
        self.model.operator(op, inputs, [output], **fields)

    def conv(self) -> None:
        layer, cout = self.layer, self.out[2]
        shape = (cout, *layer.window, self.ins[0][2] // layer.groups)
        how = _steps(layer) | _dilation(layer) | _fused(layer)
        op = "CONV_2D" if layer.groups == 1 else "CONV_2D_GROUPED"
        self._weighted(op, shape, _gain(layer), **how)

    def dwconv(self) -> None:
        layer, cout = self.layer, self.out[2]
        how = _steps(layer) | _dilation(layer) | _fused(layer)
        how |= {"depthMultiplier": cout // self.ins[0][2]}
        self._weighted("DEPTHWISE_CONV_2D", (1, *layer.window, cout), _gain(layer), axis=3, **how)

    def transpose_conv(self) -> None:
        layer = self.layer
        shape = (self.out[2], *layer.window, self.ins[0][2])
        # An output pixel sees one in `stride` of the window's taps, but no less than one.
        gain = min(math.prod(layer.stride), math.prod(layer.window))
        self._weighted("TRANSPOSE_CONV", shape, gain, **_steps(layer))

    def fc(self) -> None:
        shape = (self.out[2], self.ins[0][2])
        how = _fused(self.layer)
        self._weighted("FULLY_CONNECTED", shape, _gain(self.layer), axis=None, **how)

    def norm(self) -> None:
        """Write a batch normalisation on its own: a factor and a summand per channel."""
        model, channels = self.model, self.out[2]
        scaled = model.tensor(f"{self.name}/scaled", (1, *self.out))
        scale = model.vector(f"{self.name}/scale", channels, 1.0, 0.25)
        model.operator("MUL", [*self.sources, scale], [scaled])
        shift = model.vector(f"{self.name}/shift", channels, 0.0, 0.5)
        fused = _activation("relu" if self.layer.op == "bnrelu" else "")
        model.operator("ADD", [scaled, shift], self.outputs, fusedActivationFunction=fused)

    def se(self) -> None:
        """Write squeeze-and-excitation: mean, two 1 x 1 convolutions, logistic, product."""
        model, cin, before = self.model, self.out[2], self.out[2]
        square = model.squares[self.sources[0]] * FACTS["mean_square"]["global-avgpool"]
        value = model.tensor(f"{self.name}/mean", (1, 1, 1, cin), self.grid, square)
        model.operator("MEAN", [*self.sources, model.integers(1, 2)], [value])
        for part, cout, act in (("squeeze", self.layer.cout or 1, "relu"), ("excite", cin, "")):
            out = model.tensor(f"{self.name}/{part}", (1, 1, 1, cout))
            layer, ends = Layer(part, (), (), activation=act), (f"{self.name}/{part}", value, out)
            how = _steps(layer) | _dilation(layer) | _fused(layer)
            self._weighted("CONV_2D", (cout, 1, 1, before), _gain(layer), ends=ends, **how)
            value, before = out, cout
        weigh = model.tensor(f"{self.name}/weigh", (1, 1, 1, cin), UNIT)
        model.operator("LOGISTIC", [value], [weigh])
        model.operator("MUL", [*self.sources, weigh], self.outputs)

    def shuffle(self) -> None:
        (height, width, channels), model = self.ins[0], self.model
        groups = max(2, self.layer.groups)
        apart = (1, height, width, groups, channels // groups)
        first = model.tensor(f"{self.name}/groups", apart, self.grid)
        turned = (*apart[:3], apart[4], groups)
        second = model.tensor(f"{self.name}/turned", turned, self.grid)
        self._reshape(self.sources[0], first, apart)
        model.operator("TRANSPOSE", [first, model.integers(0, 1, 2, 4, 3)], [second])
        self._reshape(second, self.outputs[0], (1, *self.out))

    def reshape(self) -> None:
        self._reshape(self.sources[0], self.outputs[0], (1, *self.out))

    def _reshape(self, source: int, output: int, shape: tuple[int, ...]) -> None:
        inputs = [source, self.model.integers(*shape)]
        self.model.operator("RESHAPE", inputs, [output], newShape=list(shape))

    def mean(self) -> None:
        self.model.operator("MEAN", [*self.sources, self.model.integers(1, 2)], self.outputs)

    def split(self) -> None:
        self.model.operator("SPLIT", [self.model.integers(3), *self.sources], self.outputs)

    def resize(self) -> None:
        inputs = [*self.sources, self.model.integers(*self.out[:2])]
        self.model.operator("RESIZE_BILINEAR", inputs, self.outputs)


_WITH_CONSTANTS: dict[str, Callable[[_Place], None]] = {
    "bn": _Place.norm, "bnrelu": _Place.norm, "channelshuffle": _Place.shuffle,
    "conv-bn-relu": _Place.conv, "dwconv-bn-relu": _Place.dwconv, "fc": _Place.fc,
    "global-avgpool": _Place.mean, "reshape": _Place.reshape, "resize": _Place.resize,
    "se": _Place.se, "split": _Place.split, "transpose-conv": _Place.transpose_conv,
}  # fmt: skip


def _gain(layer: Layer) -> float:
    """Half of the mean square is lost in a ReLU (He et al., ICCV 2015)."""
    return 2.0 if layer.activation else 1.0


def _activation(name: str) -> int:
    return getattr(schema.ActivationFunctionType, name.upper() or "NONE")


def _fused(layer: Layer) -> dict[str, Any]:
    return {"fusedActivationFunction": _activation(layer.activation)}


def _steps(layer: Layer) -> dict[str, Any]:
    padding = getattr(schema.Padding, layer.padding.upper())
    return {"padding": padding, "strideH": layer.stride[0], "strideW": layer.stride[1]}


def _dilation(layer: Layer) -> dict[str, Any]:
    return {"dilationHFactor": layer.dilation[0], "dilationWFactor": layer.dilation[1]}
