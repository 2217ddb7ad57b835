"""Graphs as PyTorch modules: batch one, channels last, random weights.

Import this where it is used and not before: torch is large, and an optional package.

A layer is the module that a PyTorch user writes for it. Convolution, bias and activation are
PyTorch's own calls, one after the other: nothing is compiled or fused beyond what its libraries
do. "Same" with a stride pads both ends alike, as PyTorch users do; TensorFlow puts an odd pixel
after the map. A split copies both halves, as in a `.tflite`, where PyTorch would lend views; a
reshape moves nothing.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from edgeutils import EdgeError
from edgeutils.networks.graph import Graph, Layer, Shape
from edgeutils.networks.kernels import SE_REDUCTION

DTYPES = ("float32", "float16")
_ACTIVATIONS: dict[str, list] = {"": [], "relu": [nn.ReLU(True)], "relu6": [nn.ReLU6(True)]}


class Network(nn.Module):
    """A graph with random weights from `seed`; `forward` takes its inputs and gives its outputs.

    Maps have the shape (1, channels, height, width) and lie in memory channels last; `inputs` are
    random, in [0, 1). `parameters` are those that the graph counts. EdgeError: a number type other
    than those of `DTYPES`, or operators that are not in `OPERATORS`; all are named.
    """

    def __init__(self, graph: Graph, *, device: str = "cpu", seed: int = 0):
        super().__init__()
        ops = {layer.op for layer in graph.layers}
        for what, asked, runs in (("type", {graph.dtype}, DTYPES), ("operator", ops, OPERATORS)):
            if wrong := ", ".join(sorted(asked - set(runs))):
                text = f"{what} {wrong} of {graph.name}; it runs: {', '.join(runs)}"
                raise EdgeError(f"the runtime torch does not run the {text}")
        torch.manual_seed(seed)
        self.graph, self.works = graph, []
        with torch.device(device):
            for i, layer in enumerate(graph.layers):
                shapes = [graph.shapes[value] for value in (*layer.inputs, layer.outputs[0])]
                self.works.append(OPERATORS[layer.op](layer, *shapes))
                if isinstance(self.works[-1], nn.Module):
                    self.add_module(f"{layer.op}_{i}", self.works[-1])
            images = [torch.rand(1, *graph.shapes[value]) for value in graph.inputs]
        how: Any = {"dtype": getattr(torch, graph.dtype), "memory_format": torch.channels_last}
        self.eval().requires_grad_(False).to(**how)
        self.inputs = [_first(image).to(**how) for image in images]

    @torch.no_grad()
    def forward(self, *inputs: Tensor) -> list[Tensor]:
        """Return the outputs of the graph, in its order."""
        values = dict(zip(self.graph.inputs, inputs, strict=True))
        for layer, work in zip(self.graph.layers, self.works, strict=True):
            made = work(*(values[value] for value in layer.inputs))
            values |= zip(layer.outputs, made if len(layer.outputs) > 1 else [made], strict=True)
        return [values[value] for value in self.graph.outputs]


class _OfPixels(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return _first(super().forward(_last(x)))


class _Weighed(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return x * super().forward(x)


def _last(x: Tensor) -> Tensor:
    """Read a map as (1, height, width, channels), as it lies in memory."""
    return x.permute(0, 2, 3, 1)


def _first(x: Tensor) -> Tensor:
    """Turn `_last` back."""
    return x.permute(0, 3, 1, 2)


def _pads(layer: Layer, side: Shape, out: Shape) -> Any:
    """Pixels to pad at both ends, of rows and columns."""
    spans = zip(side, out, layer.window, layer.stride, layer.dilation, strict=False)
    total = [max((o - 1) * s + (k - 1) * d + 1 - i, 0) for i, o, k, s, d in spans]
    return [(pixels + 1) // 2 * (layer.padding == "same") for pixels in total]


def _conv(layer: Layer, side: Shape, out: Shape) -> Callable:
    even = layer.padding == "same" and max(layer.stride) == 1
    pads = "same" if even else _pads(layer, side, out)
    groups = side[2] if layer.op == "dwconv-bn-relu" else layer.groups
    how: Any = layer.window, layer.stride, pads, layer.dilation, groups
    return nn.Sequential(nn.Conv2d(side[2], out[2], *how), *_ACTIVATIONS[layer.activation])


def _transpose_conv(layer: Layer, side: Shape, out: Shape) -> Callable:
    sizes = list(zip(layer.window, layer.stride, strict=True))
    pads: Any = [max((taps - step + 1) // 2, 0) for taps, step in sizes]
    ends: Any = [2 * pad + step - taps for pad, (taps, step) in zip(pads, sizes, strict=True)]
    return nn.ConvTranspose2d(side[2], out[2], layer.window, layer.stride, pads, ends)


def _se(layer: Layer, side: Shape, _out: Shape) -> Callable:
    inner = layer.cout or max(1, side[2] // SE_REDUCTION)
    ends = nn.Conv2d(side[2], inner, 1), nn.Conv2d(inner, side[2], 1)
    return _Weighed(nn.AdaptiveAvgPool2d(1), ends[0], nn.ReLU(inplace=True), ends[1], nn.Sigmoid())


def _pool(layer: Layer, side: Shape, out: Shape) -> Callable:
    how: tuple[Any, Any, Any] = layer.window, layer.stride, _pads(layer, side, out)
    mean = layer.op == "avgpool"
    pool = nn.AvgPool2d(*how, count_include_pad=False) if mean else nn.MaxPool2d(*how)
    # An even window with a stride of one gives a pixel too many.
    return lambda x: pool(x)[..., : out[0], : out[1]]


def _matmul(_layer: Layer, first: Shape, second: Shape, _out: Shape) -> Callable:
    # (a x b) times (b x c), or times (c x b) transposed.
    turned = second[1] != first[2]
    return lambda x, y: _first(_last(x) @ (_last(y).mT if turned else _last(y)))


def _halves(x: Tensor) -> list[Tensor]:
    return [half.clone(memory_format=torch.channels_last) for half in x.chunk(2, 1)]


def _norm(layer: Layer, side: Shape, _out: Shape) -> Callable:
    return nn.Sequential(nn.BatchNorm2d(side[2]), *_ACTIVATIONS[layer.op.removeprefix("bn")])


#: What the runtime torch runs: every kernel type, and the extras of the graphs.
OPERATORS: dict[str, Callable[..., Callable]] = {
    "conv-bn-relu": _conv, "dwconv-bn-relu": _conv, "transpose-conv": _transpose_conv,
    "fc": lambda layer, side, out: _OfPixels(
        nn.Linear(side[2], out[2]), *_ACTIVATIONS[layer.activation]
    ),
    "bn": _norm, "bnrelu": _norm, "relu": lambda *_: nn.ReLU(), "hswish": lambda *_: nn.Hardswish(),
    "add": lambda *_: torch.add, "addrelu": lambda *_: lambda x, y: (x + y).relu_(),
    "concat": lambda *_: lambda *maps: torch.cat(maps, 1), "split": lambda *_: _halves,
    "channelshuffle": lambda layer, *_: lambda x: _first(
        _last(x).unflatten(3, (max(2, layer.groups), -1)).mT.flatten(3)), "se": _se,
    "maxpool": _pool, "avgpool": _pool, "global-avgpool": lambda *_: nn.AdaptiveAvgPool2d(1),
    "softmax": lambda *_: nn.Softmax(1), "logistic": lambda *_: nn.Sigmoid(),
    "leakyrelu": lambda *_: nn.LeakyReLU(0.2), "gelu": lambda *_: nn.GELU(), "matmul": _matmul,
    "resize": lambda *told: nn.Upsample(told[-1][:2], mode="bilinear"),
    "reshape": lambda *told: lambda x: _first(_last(x).reshape(1, *told[-1])),
}  # fmt: skip
