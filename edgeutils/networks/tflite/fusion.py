"""Fuse operators of a file into kernels, by the rules of the runtime (`fusion.yml`)."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgeutils.networks.graph import Graph, Layer, Shape, output_side
from edgeutils.networks.kernels import DTYPE_BYTES, Kernel
from edgeutils.networks.tflite.unpack import FACTS, Model, Operator

# Operators between the means and the product of a squeeze-and-excitation block, at most.
_LONGEST_GATE = 16
# A kernel names the channels of four inputs; what a concat has more is added to the last.
_MOST_INPUTS = 4
_SAME = 0  # padding in the schema
_RELU6 = 3  # activation in the schema
# Axes of maps and of weights that are height and width.
_AREA = slice(1, 3)
_FUSED = "FusedActivationFunction"
_SCALES = ("MUL", "DIV")


@dataclass(frozen=True)
class Found:
    """A kernel and the operators that it is made of, by number, in order of execution."""

    kernel: Kernel
    ops: tuple[int, ...]


def fuse(model: Model) -> tuple[Found, ...]:
    """Kernels of a model in order of execution; what is in none of them is not covered."""
    fuser = _Fuser(model)
    for rules in (_SEVERAL, _ALONE):
        for number, op in enumerate(model.operators):
            for rule in rules.get(op.name, ()) if op.inputs and op.outputs else ():
                if number not in fuser.taken:
                    rule(fuser, number, op)
    kernels = {found.ops: found for found in fuser.taken.values()}
    return tuple(sorted(kernels.values(), key=lambda found: found.ops[-1]))


class _Fuser:
    """Knows who reads and writes each value of a model, and which operators are taken."""

    def __init__(self, model: Model) -> None:
        self.ops, self.tensors, self.ends = model.operators, model.tensors, {*model.outputs}
        self.readers: dict[int, list[int]] = defaultdict(list)
        self.writer: dict[int, int] = {}
        self.taken: dict[int, Found] = {}
        self.constants = {value for value, tensor in self.tensors.items() if tensor.constant}
        for number, op in enumerate(self.ops):
            for value in dict.fromkeys(op.inputs):
                self.readers[value].append(number)
            self.writer |= dict.fromkeys(op.outputs, number)
            if op.name in FACTS["unpacked"] and self.constants.issuperset(op.inputs):
                self.constants.update(op.outputs)

    # What the rules ask.

    def shape(self, value: int) -> tuple[int, ...]:
        """Shape of a value; () if it is open, left out, or that of a single number."""
        return (self.tensors[value].shape or ()) if value in self.tensors else ()

    def values(self, value: int) -> tuple[int, ...]:
        """Integers of a small constant; () of anything else."""
        return self.tensors[value].values if value in self.tensors else ()

    def computed(self, op: Operator) -> list[int]:
        """Return the inputs that are there and no constants."""
        return [value for value in op.inputs if value >= 0 and value not in self.constants]

    def constant(self, op: Operator) -> int:
        """Count the numbers of the constant beside the only computed input; 0 without them."""
        fixed = [value for value in op.inputs if value in self.constants]
        one_each = len(fixed) == len(self.computed(op)) == 1
        return math.prod(self.shape(fixed[0])) if one_each else 0

    def only_reader(self, value: int, *names: str) -> int | None:
        """Operator of one of these names that reads a value which nobody else reads."""
        if len(readers := self.readers[value]) != 1 or value in self.ends:
            return None
        op = self.ops[readers[0]]
        fits = op.name in names and len(op.outputs) == 1 and readers[0] not in self.taken
        return readers[0] if fits else None

    def clamped(self, op: Operator) -> tuple[list[int], list[int], str]:
        """Clamp after an operator (if any), the value that is then written, and its name."""
        fused, out = op.options.get(_FUSED, 0), op.outputs[0]
        number = None if fused else self.only_reader(out, *FACTS["clamps"])
        if number is None:
            return [], [out], FACTS["activations"].get(fused, "")
        op = self.ops[number]
        return [number], [*op.outputs], "relu6" if op.name == "RELU6" else "relu"

    def is_global(self, op: Operator) -> bool:
        """Whether an operator takes the mean over all of height and width, and nothing else."""
        shape = self.shape(op.inputs[0]) if op.inputs else ()
        if op.name == "AVERAGE_POOL_2D":
            sides = (op.options.get("FilterHeight"), op.options.get("FilterWidth"))
            return shape[_AREA] == sides and self.shape(op.outputs[0])[_AREA] == (1, 1)
        if op.name != "MEAN" or len(op.inputs) != 2 or len(shape) < 3:
            return False
        axes = sorted(axis % len(shape) for axis in self.values(op.inputs[1]))
        return axes == [*range(1, len(shape) - 1)]

    def window(self, op: Operator, x: int, sides: tuple[int, ...]) -> dict[str, Any]:
        """Window, stride, dilation and padding; nothing where one of them cannot be."""
        get, maps = op.options.get, (self.shape(x), self.shape(op.outputs[0]))
        stride = (get("StrideH", 0), get("StrideW", 0))
        dilation = (get("DilationHFactor", 1), get("DilationWFactor", 1))
        if [*map(len, (*maps, sides))] != [4, 4, 2] or min(*sides, *stride, *dilation) < 1:
            return {}
        padding = "same" if get("Padding") == _SAME else "valid"
        return {"window": sides, "stride": stride, "dilation": dilation, "padding": padding}

    # Rules: each takes operators as a kernel, or leaves them.

    def take(
        self,
        kind: str,
        ops: Iterable[int],
        ins: Sequence[int],
        outs: Sequence[int],
        shapes: Sequence[Shape] = (),
        **how: Any,
    ) -> None:
        """Make a kernel of operators that read and write these values, or maps of `shapes`."""
        known = shapes or all(self.tensors[value].shape is not None for value in (*ins, *outs))
        dtype = self.tensors[ins[0]].dtype
        if dtype not in DTYPE_BYTES or not known:
            return
        shapes = tuple(shapes or (_map(self.shape(value)) for value in (*ins, *outs)))
        ends = range(len(shapes))
        layer = Layer(kind, tuple(ends[: -len(outs)]), tuple(ends[-len(outs) :]), **how)
        kernel = _exact(Graph("", "", dtype, shapes, (layer,), (), ()), layer)
        read = {value for number in ops for value in self.ops[number].inputs} & self.constants
        unpacked = {self.writer[value] for value in read if value in self.writer}
        numbers = {*ops, *(number for number in unpacked if number not in self.taken)}
        found = Found(replace(kernel, name=self.tensors[outs[-1]].name), tuple(sorted(numbers)))
        self.taken |= dict.fromkeys(numbers, found)

    def gate(self, number: int, op: Operator) -> None:
        """Squeeze-and-excitation, or a hard swish that was written out, from its product."""
        ins = self.computed(op)
        for x, value in (ins, ins[::-1]) if len(ins) == 2 else ():
            chain = self.chain(x, value)
            if not chain or not self.enclosed({*chain, number}, op.outputs[0]):
                continue
            weighted = [self.ops[n] for n in chain if self.ops[n].name in FACTS["weighted"]]
            couts = [self.shape(each.outputs[0])[-1:] for each in weighted]
            if self.is_global(self.ops[chain[-1]]) and couts[:1] == [self.shape(x)[-1:]]:
                if len(couts) == 2 and couts[1]:
                    return self.take("se", [*chain, number], [x], op.outputs, cout=couts[1][0])
            elif {self.ops[n].name for n in chain} <= {*FACTS["hard_sigmoid"]}:
                return self.hard_swish(x, chain, number)
        return None

    def chain(self, x: int, value: int) -> list[int]:
        """Operators from a gate back to x, through weights and operators that are light."""
        chain, before = list[int](), len(self.ops)
        while value != x and len(chain) <= _LONGEST_GATE:
            number = self.writer.get(value, before)
            if number >= before or number in self.taken:
                return []
            op, before = self.ops[number], number
            ins = self.computed(op)
            chain.append(number)
            if self.is_global(op):
                return chain if ins == [x] else []
            if op.name == "MUL" and len(ins) == 2:  # a swish: a value times its own sigmoid
                sigmoid = self.writer.get(ins[1], before)
                if sigmoid >= before or [*self.ops[sigmoid].inputs] != ins[:1]:
                    return []
                chain.append(sigmoid)
                ins = ins[:1]
            if op.name not in FACTS["gate"] or len(ins) != 1:
                return []
            value = ins[0]
        return chain if value == x else []

    def enclosed(self, numbers: set[int], last: int) -> bool:
        """Whether nobody else reads what these operators write, but for the last value."""
        inner = {value for number in numbers for value in self.ops[number].outputs} - {last}
        readers = [self.readers[value] for value in inner if len(self.readers[value]) < 3]
        alone = len(readers) == len(inner) and not inner & self.ends
        return alone and all(numbers.issuperset(each) for each in readers)

    def hard_swish(self, x: int, chain: list[int], number: int) -> None:
        ops, names = [*chain, number], [self.ops[n].name for n in chain]
        clamps = [self.ops[n].options.get(_FUSED) == _RELU6 for n in chain]
        if "ADD" not in names or not ("RELU6" in names or any(clamps)):
            return
        if not {*names} & {*_SCALES}:  # then the sixth comes last
            scale = self.only_reader(self.ops[number].outputs[0], *_SCALES)
            if scale is None or self.constant(self.ops[scale]) != 1:
                return
            ops.append(scale)
        self.take("hswish", ops, [x], self.ops[ops[-1]].outputs)

    def norm(self, number: int, op: Operator) -> None:
        """Batch normalisation: a factor and a summand per channel."""
        channels, ins = self.shape(op.outputs[0])[-1:], self.computed(op)
        second = self.only_reader(op.outputs[0], "ADD", "SUB")
        if second is None or op.options.get(_FUSED):
            return
        shift = self.ops[second]
        if (self.constant(op),) == (self.constant(shift),) == channels:
            clamp, out, act = self.clamped(shift)
            self.take("bnrelu" if act else "bn", [number, second, *clamp], ins, out)

    def shuffle(self, number: int, op: Operator) -> None:
        """Channel shuffle: channels as groups, the last two axes swapped, and back."""
        turn = self.only_reader(op.outputs[0], "TRANSPOSE")
        back = turn and self.only_reader(self.ops[turn].outputs[0], "RESHAPE")
        if not turn or not back:
            return
        out, (x, *_) = self.ops[back].outputs, op.inputs
        before, apart = self.shape(x), self.shape(op.outputs[0])
        axes = [*range(len(apart))]
        swapped = self.values(self.ops[turn].inputs[-1]) == (*axes[:-2], *axes[:-3:-1])
        alike = self.shape(out[0]) == before and before[-1:] == (math.prod(apart[-2:]),)
        if swapped and alike and len(apart) > 2:
            self.take("channelshuffle", [number, turn, back], [x], out, groups=apart[-2])

    def conv(self, number: int, op: Operator) -> None:
        """Dense or depthwise convolution, a constant pad before it, and a clamp after it."""
        x, weights = op.inputs[0], self.shape(op.inputs[1]) if len(op.inputs) > 1 else ()
        how = self.window(op, x, weights[_AREA])
        if not how or len(weights) != 4:
            return
        kind, groups = "dwconv-bn-relu", 1
        cin, cout, written = self.shape(x)[3], self.shape(op.outputs[0])[3], weights[3]
        fits = not cout % cin
        if op.name == "CONV_2D":
            kind, written, groups = "conv-bn-relu", weights[0], max(1, cin // weights[3])
            fits = cin == groups * weights[3] and not cout % groups
        if not fits or cout != written:
            return
        ops, pad = [number], self.pad_before(x, number)
        if pad is not None:
            ops, x, how = [pad, number], self.ops[pad].inputs[0], how | {"padding": "same"}
        clamp, out, act = self.clamped(op)
        self.take(kind, ops + clamp, [x], out, cout=cout, groups=groups, activation=act, **how)

    def pad_before(self, value: int, reader: int) -> int | None:
        """Pad of height and width, of which nobody else reads the result."""
        number = self.writer.get(value, reader)
        op = self.ops[number]
        alone = self.only_reader(value, self.ops[reader].name) == reader
        if op.name != "PAD" or not self.constant(op) or not alone:
            return None
        small, large = self.shape(op.inputs[0]), self.shape(value)
        inside = len(small) == len(large) == 4 and small[::3] == large[::3]
        return number if inside else None

    def transpose(self, number: int, op: Operator) -> None:
        """Transposed convolution: its inputs are the size, the weights and the map."""
        _, second, x, *_ = (*op.inputs, -1, -1, -1)
        how, weights = self.window(op, x, self.shape(second)[_AREA]), self.shape(second)
        if how and weights[::3] == (self.shape(op.outputs[0])[3], self.shape(x)[3]):
            clamp, out, act = self.clamped(op)
            how |= {"padding": "same", "cout": weights[0], "activation": act}
            self.take("transpose-conv", [number, *clamp], [x], out, **how)

    def fc(self, number: int, op: Operator) -> None:
        """Fully connected layer; what it writes says how many vectors it is applied to."""
        x, weights = op.inputs[0], self.shape(op.inputs[1]) if len(op.inputs) > 1 else ()
        read, written = self.shape(x), self.shape(op.outputs[0])
        if len(weights) != 2 or not written or x < 0:
            return
        rows, cout, cin = math.prod(written) // weights[0], *weights
        if math.prod(written) == rows * cout and math.prod(read or (rows, cin)) == rows * cin:
            clamp, out, act = self.clamped(op)
            shapes, how = [(1, rows, cin), (1, rows, cout)], {"cout": cout, "activation": act}
            self.take("fc", [number, *clamp], [x], out, shapes, **how)

    def pool(self, number: int, op: Operator) -> None:
        """Maximum or mean over windows, or over the whole map."""
        sides = (op.options.get("FilterHeight", 0), op.options.get("FilterWidth", 0))
        x, how = op.inputs[0], self.window(op, op.inputs[0], sides)
        if how and self.shape(x)[3] == self.shape(op.outputs[0])[3]:
            kind = "maxpool" if op.name == "MAX_POOL_2D" else "avgpool"
            kind, how = ("global-avgpool", {}) if self.is_global(op) else (kind, how)
            clamp, out, _ = self.clamped(op)
            self.take(kind, [number, *clamp], [x], out, **how)

    def mean(self, number: int, op: Operator) -> None:
        if self.is_global(op):
            self.take("global-avgpool", [number], op.inputs[:1], op.outputs)

    def add(self, number: int, op: Operator) -> None:
        """Sum of two computed values, the larger one first; with a constant it is no kernel."""
        ins = sorted(self.computed(op), key=lambda value: -math.prod(self.shape(value)))
        if len(ins) == 2:
            clamp, out, act = self.clamped(op)
            self.take("addrelu" if act else "add", [number, *clamp], ins, out)

    def concat(self, number: int, op: Operator) -> None:
        """Join maps along their channels."""
        maps = [_map(self.shape(value)) for value in (*op.inputs, *op.outputs)]
        ranks = {len(self.shape(value)) for value in (*op.inputs, *op.outputs)}
        alike = len({each[:2] for each in maps}) == len(ranks) == 1 < len(op.inputs)
        if alike and 0 not in ranks and op.options.get("Axis") in (-1, max(ranks) - 1):
            rest = sum(channels for *_, channels in maps[_MOST_INPUTS - 1 : -1])
            joined = [*maps[: _MOST_INPUTS - 1], (*maps[0][:2], rest)]
            ins = joined if len(op.inputs) > _MOST_INPUTS else maps[:-1]
            self.take("concat", [number], op.inputs, op.outputs[-1:], [*ins, maps[-1]])

    def split(self, number: int, op: Operator) -> None:
        """Channels cut into equal parts; the axis is the first input."""
        x, last = op.inputs[-1], len(self.shape(op.inputs[-1])) - 1
        if len(op.inputs) == 2 and last >= 0 and self.values(op.inputs[0]) in ((-1,), (last,)):
            self.take("split", [number], [x], op.outputs)

    def plain(self, number: int, op: Operator) -> None:
        if op.inputs[0] >= 0:
            kind = "hswish" if op.name == "HARD_SWISH" else "relu"
            self.take(kind, [number], op.inputs[:1], op.outputs)


_Rules = dict[str, tuple[Callable[[_Fuser, int, Operator], None], ...]]
_SEVERAL: _Rules = {"MUL": (_Fuser.gate, _Fuser.norm), "RESHAPE": (_Fuser.shuffle,)}
_ALONE: _Rules = {
    "ADD": (_Fuser.add,), "AVERAGE_POOL_2D": (_Fuser.pool,), "CONCATENATION": (_Fuser.concat,),
    "CONV_2D": (_Fuser.conv,), "DEPTHWISE_CONV_2D": (_Fuser.conv,), "MEAN": (_Fuser.mean,),
    "FULLY_CONNECTED": (_Fuser.fc,), "MAX_POOL_2D": (_Fuser.pool,), "SPLIT": (_Fuser.split,),
    "TRANSPOSE_CONV": (_Fuser.transpose,),
} | dict.fromkeys(["HARD_SWISH", *FACTS["clamps"]], (_Fuser.plain,))  # fmt: skip


def _map(shape: tuple[int, ...]) -> Shape:
    """Height, width and channels of any shape; what lies before the width counts as height."""
    padded = (1, 1, 1, *shape)
    return math.prod(padded[:-2]), padded[-2], padded[-1]


def _exact(graph: Graph, layer: Layer) -> Kernel:
    """Kernel whose output is as large as the file says, whatever its configuration gives."""
    kernel, (height, width, _) = graph.kernel(layer), graph.shapes[layer.outputs[0]]
    if kernel.stride is None or kernel.out_pixels is not None:
        return kernel
    sides = (kernel.hw or 1, layer.window[0], layer.stride[0], layer.dilation[0])
    side = output_side(*sides, layer.padding)
    if layer.op == "transpose-conv":
        side = sides[0] * layer.stride[0]
    if side**2 == height * width:
        return kernel
    rows, columns, _ = graph.shapes[layer.inputs[0]]
    taps = math.prod(layer.window)
    return replace(kernel, pixels=rows * columns, out_pixels=height * width, taps=taps)
