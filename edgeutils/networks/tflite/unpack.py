"""Open a `.tflite` file as operators and tensors, and trust nothing in it.

The file is mapped, not read: weights are never touched, and a model of gigabytes costs no more
memory than a small one. Everything that is used of it is checked and copied here, so that nothing
behind this door has to be careful.
"""

import math
import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from ai_edge_litert import schema_py_generated as schema

from edgeutils import EdgeError
from edgeutils.networks.model_file import check_identifier, model_path

FACTS: dict[str, Any] = yaml.safe_load(
    Path(__file__).with_name("fusion.yml").read_text(encoding="utf-8")
)

# Offsets in a flatbuffer are 31 bits wide.
_LARGEST_BYTES = 2**31
# More than any network has; a file that claims more is damaged or hostile.
_MOST_OPERATORS = 100_000
_MOST_READ = 500_000  # values that all operators read and write
_MOST_SIDES = 16  # of a tensor, and numbers of a constant that are looked at
_LONGEST_TEXT = 4096
_MOST_ELEMENTS = 2**31
_MOST_NAMED = 5  # of further subgraphs
# Fields of the schema that hold text: offset in their table's directory, 4 + 2 * number.
_TENSOR_NAME, _CUSTOM_CODE, _SUBGRAPH_NAME = 10, 6, 12
# What struct, numpy and flatbuffers raise where an offset or a length leads out of the file.
_DAMAGE = (struct.error, IndexError, OverflowError, TypeError, ValueError)

_CODES = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
_TYPES = {v: k.lower() for k, v in vars(schema.TensorType).items() if isinstance(v, int)}


class Tensor(NamedTuple):
    """A tensor: `shape` is None where the file leaves it open, `values` are small constants."""

    name: str
    shape: tuple[int, ...] | None
    dtype: str  # as in the schema, in lower case
    constant: bool
    values: tuple[int, ...]


class Operator(NamedTuple):
    """An operator; -1 among its inputs stands for one that was left out."""

    name: str  # as in the schema; of a custom one, its own
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict[str, int]


@dataclass(frozen=True)
class Model:
    """The main subgraph of a file. `tensors` holds those that are used, by number."""

    name: str
    operators: tuple[Operator, ...]
    tensors: dict[int, Tensor]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    notes: tuple[str, ...]


def open_model(path: str | Path) -> Model:
    """Read operators and tensors of a `.tflite`; see `reader.read` for what is refused."""
    path = model_path(path)
    data = _mapped(path)
    try:
        model = _Parts(schema.Model.GetRootAs(data)).model(path.name)
    except _DAMAGE as error:
        reason = str(error).partition("\n")[0][:100]
        raise EdgeError(
            f"{path.name} is damaged, a number in it cannot be: {reason}; fetch or convert the "
            "model again"
        ) from None
    for tensor in (model.tensors[value] for value in model.inputs):
        if tensor.shape is None:
            raise EdgeError(
                f"{path.name} leaves sizes of its input {tensor.name!r} open, expected at most the "
                "batch; fix them when you convert the model"
            )
    return model


def _mapped(path: Path) -> memoryview:
    try:
        with path.open("rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            if size_bytes >= _LARGEST_BYTES:
                raise EdgeError(
                    f"{path.name} has {size_bytes / 1e9:.1f} GB, but a .tflite file has at most "
                    f"{_LARGEST_BYTES / 1e9:.1f} GB; give a smaller model"
                )
            check_identifier(file, path.name)
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise EdgeError(f"{path} cannot be read: {error.strerror}; mend that first") from None


class _Parts:
    """Copies what is needed out of the tables of a file; one of `_DAMAGE` if it makes no sense."""

    def __init__(self, root: Any) -> None:
        if root.SubgraphsLength() < 1:
            raise ValueError("no graph")
        self.root, self.graph = root, root.Subgraphs(0)
        self.count, self.read = self.graph.TensorsLength(), 0

    def model(self, name: str) -> Model:
        """Return the main subgraph."""
        if (total := self.graph.OperatorsLength()) > _MOST_OPERATORS:
            raise ValueError(f"{total} operators")
        codes: dict[int, str] = {}
        operators = tuple(self._operator(self.graph.Operators(i), codes) for i in range(total))
        ends = [
            self._values(each()) for each in (self.graph.InputsAsNumpy, self.graph.OutputsAsNumpy)
        ]
        used = {*ends[0], *ends[1]}.union(*(op.inputs + op.outputs for op in operators)) - {-1}
        tensors = {value: self._tensor(self.graph.Tensors(value)) for value in sorted(used)}
        return Model(name, operators, tensors, ends[0], ends[1], self._others())

    def _operator(self, op: Any, codes: dict[int, str]) -> Operator:
        index = op.OpcodeIndex()
        if index not in codes:
            codes[index] = self._code(index)
        name = codes[index]
        inputs, outputs = self._values(op.InputsAsNumpy(), -1), self._values(op.OutputsAsNumpy())
        return Operator(name, inputs, outputs, self._options(op, name))

    def _code(self, index: int) -> str:
        if index >= self.root.OperatorCodesLength():
            raise ValueError(f"operator code {index}")
        code = self.root.OperatorCodes(index)
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        if number == schema.BuiltinOperator.CUSTOM:
            name = _text(code, _CUSTOM_CODE)
            return f"CUSTOM {name}".strip() if name in _CODES.values() or not name else name
        return _CODES.get(number, f"BUILTIN_{number}")

    def _options(self, op: Any, name: str) -> dict[str, int]:
        if name not in FACTS["options"]:
            return {}
        kind, *fields = FACTS["options"][name]
        table, found = op.BuiltinOptions(), op.BuiltinOptionsType()
        if table is None or not found:
            return {}
        if found != getattr(schema.BuiltinOptions, kind):
            raise ValueError(f"{name} with options of type {found}")
        options = getattr(schema, kind)()
        options.Init(table.Bytes, table.Pos)
        return {field: int(getattr(options, field)()) for field in fields}

    def _values(self, found: Any, least: int = 0) -> tuple[int, ...]:
        """Numbers of tensors, each at least `least` and among those of the graph."""
        numbers = _integers(found, _MOST_READ - self.read)
        self.read += len(numbers)
        if numbers and not least <= min(numbers) <= max(numbers) < self.count:
            raise ValueError(f"tensor {max(numbers, key=abs)} of {self.count}")
        return numbers

    def _tensor(self, tensor: Any) -> Tensor:
        sides = _integers(tensor.ShapeAsNumpy(), _MOST_SIDES)
        # An open batch counts as one.
        shape = tuple(1 if i == 0 and n == -1 else n for i, n in enumerate(sides))
        signature = _integers(tensor.ShapeSignatureAsNumpy(), _MOST_SIDES)
        closed = all(side > 0 for side in shape) and all(side >= 0 for side in signature[1:])
        known = closed and math.prod(shape) <= _MOST_ELEMENTS
        dtype = _TYPES.get(tensor.Type(), f"type {tensor.Type()}")
        data = self._data(tensor.Buffer())
        values: tuple[int, ...] = ()
        if data is not None and dtype in ("int32", "int64") and len(data) <= 8 * _MOST_SIDES:
            values = tuple(data.view(f"<i{int(dtype[3:]) // 8}").tolist())
        name = _text(tensor, _TENSOR_NAME)
        return Tensor(name, shape if known else None, dtype, data is not None, values)

    def _data(self, index: int) -> Any:
        """Bytes of a constant, as a view; None if the tensor is computed."""
        # Buffer 0 is empty by convention; one that does not exist is read as empty too.
        if not 0 < index < self.root.BuffersLength():
            return None
        data = self.root.Buffers(index).DataAsNumpy()
        return None if isinstance(data, int) or not len(data) else data

    def _others(self) -> tuple[str, ...]:
        """Note on further subgraphs."""
        count = self.root.SubgraphsLength()
        named = map(self.root.Subgraphs, range(1, min(count, _MOST_NAMED + 1)))
        texts = [f"{_text(g, _SUBGRAPH_NAME)} ({g.OperatorsLength()} operators)" for g in named]
        texts += ["..."] * (count > _MOST_NAMED + 1)
        return (f"not counted: the subgraph {', '.join(texts)}",) if texts else ()


def _integers(found: Any, most: int) -> tuple[int, ...]:
    """Numbers of a vector that is no longer than `most`; the schema gives 0 where it is absent."""
    if isinstance(found, int):
        return ()
    if len(found) > most:
        raise ValueError(f"a list of {len(found)}")
    return tuple(found.tolist())


def _text(table: Any, slot: int) -> str:
    """Text of a field, whose length is looked at before it is copied."""
    at = table._tab.Offset(slot)
    if not at:
        return ""
    length = table._tab.VectorLen(at)
    if length > _LONGEST_TEXT:
        raise ValueError(f"a name of {length} characters")
    text = table._tab.String(at + table._tab.Pos)
    if len(text) < length:
        raise ValueError("a name beyond the end")
    # A name goes to terminals, where control characters do what they like.
    return "".join(
        c if c.isprintable() else "\N{REPLACEMENT CHARACTER}"
        for c in text.decode("utf-8", "replace")
    )
