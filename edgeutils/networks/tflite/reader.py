"""Read any `.tflite` file as kernels, and say what in it is none."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from edgeutils.networks.kernels import WORK, Kernel, kernel_frame
from edgeutils.networks.tflite.fusion import fuse
from edgeutils.networks.tflite.unpack import FACTS, Model, open_model

_BYTES = ["input_bytes", "output_bytes", "weight_bytes"]
_TEXT = ("kernel_type", "dtype", "name")


@dataclass(frozen=True)
class ModelKernels:
    """Kernels of a model in order of execution, each named as the tensor that it writes."""

    model: str  # name of the file
    dtype: str | None  # of most kernels; without any, of the first input (None: no input)
    kernels: tuple[Kernel, ...]
    ops: tuple[tuple[str, ...], ...]  # operators that each kernel is made of
    uncovered: dict[str, int]  # operators that are in no kernel, and how many
    notes: tuple[str, ...]  # sentences on what is not counted

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference (as `kernels` counts them)."""
        return sum(self.frame()["macs"].tolist())

    @property
    def params(self) -> int:
        """Weights and biases of the kernels."""
        return sum(self.frame()["params"].tolist())

    def frame(self) -> pd.DataFrame:
        """Kernels as rows: what `edgeutils kernels` prints, ready for predictors.

        Columns: the fields of `Kernel`, those of `WORK`, `bytes` read and written in all,
        `macs_share` (of the whole model; missing where nothing is multiplied) and `ops`.
        """
        rows = kernel_frame(self.kernels) if self.kernels else pd.DataFrame()
        rows = rows.reindex(columns=[*dict.fromkeys(["name", *Kernel.__dataclass_fields__, *WORK])])
        sizes = {name: rows[name].astype("Int64") for name in rows if name not in _TEXT}
        rows = rows.assign(**sizes, bytes=sum(sizes[name] for name in _BYTES))
        total = sum(rows["macs"].tolist())  # Python's integers do not overflow
        share = rows["macs"].astype(float) / (total or float("nan"))
        return rows.assign(macs_share=share, ops=list(map(list, self.ops)))


def read(path: str | Path) -> ModelKernels:
    """Read a `.tflite` file as kernels, fused as LiteRT runs them (`fusion.yml`).

    Every operator is in one kernel or counted in `uncovered`: by its name in the schema, by its own
    if it is a custom one. Only the first subgraph is counted; notes name the others. An open
    batch counts as one. Weights are never read.

    Raises
    ------
    EdgeError
        No file, no .tflite, 2 GB or more, a graph with inputs of open size, or a damaged file.

    Examples
    --------
    >>> read("mobilenet.tflite").frame()[["name", "kernel_type", "macs"]]  # doctest: +SKIP
    """
    model = open_model(path)
    found = fuse(model)
    taken = {number for kernel in found for number in kernel.ops}
    left = [op.name for number, op in enumerate(model.operators) if number not in taken]
    kernels = tuple(each.kernel for each in found)
    names = tuple(tuple(model.operators[n].name for n in each.ops) for each in found)
    uncovered, notes = dict(Counter(left)), (*model.notes, *_notes(left))
    return ModelKernels(model.name, _dtype(model, kernels), kernels, names, uncovered, notes)


def _dtype(model: Model, kernels: Iterable[Kernel]) -> str | None:
    types = [kernel.dtype for kernel in kernels]
    types = types or [model.tensors[value].dtype for value in model.inputs[:1]]
    return Counter(types).most_common(1)[0][0] if types else None


def _notes(left: list[str]) -> Iterable[str]:
    for name, count in Counter(left).items():
        if name in FACTS["counted"]:
            yield (
                f"{count} {name} not counted: sizes that are open or contradict each other, or "
                "numbers of a type that kernels have not"
            )
        if name in FACTS["uncounted"]:
            yield f"{count} {name} multiply too, but are no kernel: the MACs leave them out"
