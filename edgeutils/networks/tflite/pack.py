"""A `.tflite` file that grows: tensors, constants and operators, packed by the published schema.

Constants are tiles of one seeded pool of random numbers, laid down in the file itself, so that a
network of hundreds of megabytes takes a fraction of a second.
"""

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import flatbuffers
import numpy as np
import yaml
from ai_edge_litert import schema_py_generated as schema

from edgeutils import EdgeError
from edgeutils.networks.model_file import IDENTIFIER

#: What is to be known about LiteRT's operators.
FACTS = yaml.safe_load(Path(__file__).with_name("operators.yml").read_text(encoding="utf-8"))

# Numbers in the pool: a prime, so that no layer's channels repeat with the same period.
_POOL = 65_537
_INT8_MAX = 127
# Largest bias.
_BIAS = 0.1
# Offsets in a flatbuffer are signed 32-bit integers; some room for what is not weights.
_LARGEST_BYTES = 2**31 - 2**24
# What a tensor and its operator take without their numbers, bytes: at most, by far.
_TENSOR_BYTES = 2048
# Alignment of a buffer that the schema asks for, bytes.
_ALIGNMENT = 16
_TYPES = {"float32": schema.TensorType.FLOAT32, "int8": schema.TensorType.INT8}


class Grid(NamedTuple):
    """Quantisation of a tensor: number = scale * (integer - zero)."""

    scale: Any  # one number, or one per channel
    zero: int = 0
    axis: int = 0  # of the channels


#: Grid of activations; what a logistic function or softmax gives is always on UNIT.
COMMON, UNIT = Grid(1 / 16), Grid(1 / 256, -128)


class _Tiles(schema.BufferT):
    """Buffer of `count` numbers, laid down in the file from a tile that starts anywhere."""

    def __init__(self, tile: np.ndarray, count: int, start: int = 0) -> None:
        super().__init__()
        self.tile, self.count, self.start = tile, count, start
        self.nbytes = count * tile.itemsize

    def Pack(self, builder: Any) -> int:  # noqa: N802  the schema's name
        builder.StartVector(1, self.nbytes, _ALIGNMENT)
        builder.head -= self.nbytes
        room = np.frombuffer(builder.Bytes, self.tile.dtype, self.count, builder.head)
        done = min(self.count, len(self.tile) - self.start)
        room[:done] = self.tile[self.start : self.start + done]
        for at in range(done, self.count, len(self.tile)):
            part = room[at : at + len(self.tile)]
            part[:] = self.tile[: len(part)]
        data = builder.EndVector()
        schema.BufferStart(builder)
        schema.BufferAddData(builder, data)
        return schema.BufferEnd(builder)


@lru_cache(maxsize=4)
def _pool(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Uniform numbers in [-1, 1), and the same in units of 1/127 as int8."""
    numbers = np.random.default_rng(seed).uniform(-1, 1, _POOL).astype("<f4")
    return numbers, np.round(numbers * _INT8_MAX).astype(np.int8)


class FileModel:
    """Tensors, buffers and operators of one file.

    `what` names the model in messages; EdgeError for a `dtype` that is neither float32 nor int8.
    """

    def __init__(self, what: str, dtype: str, seed: int) -> None:
        if dtype not in _TYPES:
            raise EdgeError(
                f"{what} is of the number type {dtype}, which cannot be written; "
                f"use one of: {', '.join(_TYPES)}"
            )
        self.what, self.dtype, self.int8 = what, dtype, dtype == "int8"
        self.grids: list[Grid] = []
        self.squares: dict[int, float] = {}  # expected mean square of what is not constant
        self._pool, self._drawn = _pool(seed), 0
        self._buffers: list[Any] = [schema.BufferT()]
        self._tensors: list[Any] = []
        self._operators: list[Any] = []
        self._codes: dict[str, int] = {}
        self._integers: dict[tuple[int, ...], int] = {}

    def tensor(
        self, name: str, shape: Iterable[int], grid: Grid = COMMON, square: float = 1.0
    ) -> int:
        """Add a tensor that an operator writes, whose mean square should be `square`."""
        number = self._add(name, shape, grid, None, _TYPES[self.dtype])
        self.squares[number] = square
        return number

    def integers(self, *values: int) -> int:
        """Add constant integers (axes, a shape) unless they are there; a single one is a scalar."""
        if values not in self._integers:
            data = _Tiles(np.asarray(values, "<i4"), len(values))
            name, kind = "integers_" + "_".join(map(str, values)), schema.TensorType.INT32
            shape = [len(values)] if len(values) > 1 else []
            self._integers[values] = self._add(name, shape, None, data, kind)
        return self._integers[values]

    def weights(self, name: str, shape: Sequence[int], gain: float, axis: int | None = None) -> int:
        """Add weights whose output has `gain` times the mean square of their input.

        `axis` is that of the output channels, each of which gets a scale; None: one scale in all,
        and the outputs come first.
        """
        count, cout = math.prod(shape), shape[axis or 0]
        # A uniform number in [-a, a) has the variance a^2 / 3.
        limit, start = math.sqrt(3 * gain * cout / count), self._draw(count)
        tile = self._pool[1] if self.int8 else self._pool[0] * np.float32(limit)
        spread = 1.0 if axis is None or not self.int8 else 0.75 + 0.25 * self._numbers(cout)
        grid = Grid(limit / _INT8_MAX * spread, axis=axis or 0)
        return self._add(name, shape, grid, _Tiles(tile, count, start), _TYPES[self.dtype])

    def bias(self, name: str, source: int, weights: int, cout: int) -> int:
        """Add the bias of weights that are applied to the tensor `source`."""
        values, kind = self._numbers(cout) * np.float32(_BIAS), schema.TensorType.FLOAT32
        grid = Grid(self.grids[source].scale * np.asarray(self.grids[weights].scale))
        if self.int8:
            values, kind = np.round(values / grid.scale).astype("<i4"), schema.TensorType.INT32
        return self._add(name, [cout], grid, _Tiles(values, cout), kind)

    def vector(self, name: str, count: int, centre: float, spread: float) -> int:
        """Add a constant vector of numbers in centre +- spread."""
        values = self._numbers(count) * np.float32(spread) + np.float32(centre)
        grid = Grid((abs(centre) + spread) / _INT8_MAX)
        if self.int8:
            values = np.round(values / grid.scale).astype(np.int8)
        return self._add(name, [count], grid, _Tiles(values, count), _TYPES[self.dtype])

    def operator(self, op: str, inputs: Iterable[int], outputs: Iterable[int], **fields) -> None:
        """Add an operator; `fields` are those of its table of options that are not fixed."""
        facts = FACTS["operators"][op]
        made = schema.OperatorT()
        made.opcodeIndex = self._codes.setdefault(op, len(self._codes))
        made.inputs, made.outputs = list(inputs), list(outputs)
        if table := facts.get("options"):
            made.builtinOptionsType = getattr(schema.BuiltinOptions, table)
            made.builtinOptions = getattr(schema, f"{table}T")()
            for field, value in (facts.get("fields", {}) | fields).items():
                setattr(made.builtinOptions, field, value)
        self._operators.append(made)

    def packed(self, inputs: list[int], outputs: list[int]) -> memoryview:
        """Return the bytes of the file; EdgeError if they are more than a file can hold."""
        size = sum(buffer.nbytes for buffer in self._buffers[1:])
        if size > _LARGEST_BYTES:
            raise EdgeError(
                f"{self.what} has {size / 1e9:.2f} GB of weights, but a .tflite file holds "
                f"{_LARGEST_BYTES / 1e9:.2f} GB; make it narrower"
            )
        model, main = schema.ModelT(), schema.SubGraphT()
        main.name, main.tensors, main.operators = "main", self._tensors, self._operators
        main.inputs, main.outputs = inputs, outputs
        model.version, model.description = 3, "edgeutils"
        model.subgraphs, model.buffers = [main], self._buffers
        model.operatorCodes = [self._code(op) for op in self._codes]
        # Room for all, so that the builder never copies what it has.
        builder = flatbuffers.Builder(size + _TENSOR_BYTES * len(self._tensors))
        builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
        return memoryview(builder.Bytes)[builder.Head() :]

    def _code(self, op: str) -> Any:
        code, facts = schema.OperatorCodeT(), FACTS["operators"][op]
        code.builtinCode = getattr(schema.BuiltinOperator, facts.get("code", op))
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        code.version = facts[self.dtype]
        return code

    def _add(
        self, name: str, shape: Iterable[int], grid: Grid | None, data: _Tiles | None, kind: int
    ) -> int:
        made = schema.TensorT()
        made.name, made.shape, made.type = name, list(shape), kind
        made.buffer = 0 if data is None else len(self._buffers)
        self._buffers += [] if data is None else [data]
        if self.int8 and grid is not None:
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale = np.atleast_1d(np.asarray(grid.scale, "<f4"))
            made.quantization.zeroPoint = np.full(np.size(grid.scale), grid.zero, "<i8")
            made.quantization.quantizedDimension = grid.axis
        self._tensors.append(made)
        self.grids.append(grid or COMMON)
        return len(self._tensors) - 1

    def _draw(self, count: int) -> int:
        """Start in the pool of the next `count` numbers."""
        start = self._drawn % _POOL
        self._drawn += count
        return start

    def _numbers(self, count: int) -> np.ndarray:
        """Draw `count` numbers in [-1, 1)."""
        return np.resize(np.roll(self._pool[0], -self._draw(count)), count)
