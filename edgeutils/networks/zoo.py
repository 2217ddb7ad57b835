"""The zoo: published network families as graphs, built from the tables in `architectures/`.

An architecture is a YAML file: a pattern of names, the rows of the table in its paper, and how
Tu et al. (SEC 2023) re-sample it, if they do. This module expands the rows for a width multiplier,
a resolution and a number type; `blocks` and `rows` know what they add. It understands the names
that MLPerf's submitters use (`mobilenet-v2-0.35-128-quantized`).
"""

import math
import random
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from edgeutils import EdgeError
from edgeutils.networks.blocks import CELL_EDGES, Blocks
from edgeutils.networks.graph import Builder, Graph, Layer
from edgeutils.networks.kernels import DTYPE_BYTES, kernel_frame
from edgeutils.networks.rows import Resampling, make_divisible

__all__ = ["FAMILIES", "features", "make_divisible", "network", "variant"]

_FOLDER = Path(__file__).with_name("architectures")
_ARCHITECTURES = [yaml.safe_load(p.read_text("utf-8")) for p in sorted(_FOLDER.glob("*.yml"))]
_DTYPES = {"quantized": "uint8", "uint8": "uint8", "non-quantized": "float32", "float": "float32"}
_BYTES = ["input_bytes", "output_bytes"]
# Operators that take a ReLU in (XNNPACK's src/subgraph.c, TensorFlow Lite's converter).
_FUSING = ("conv-bn-relu", "dwconv-bn-relu", "fc", "add", "maxpool", "avgpool")
#: Columns of a table that `Blocks` keeps for the whole network.
_OPTIONS = ("width", "depth", "activation", "minimalistic", "exact_width", "edges")

#: The nine families of Tu et al. (SEC 2023), whose variants `variant` makes. Their mean MFLOPs
#: are multiply-accumulates: 201 of their MobileNetV1 variants, whose layers were published, hold
#: 550 million on average, where the paper prints 519 MFLOPs.
FAMILIES = tuple(sorted(table["family"] for table in _ARCHITECTURES if "resample" in table))


def network(name: str, *, dtype: str | None = None) -> Graph:
    """Build a network of the zoo from its name, for instance `mobilenet-v1-0.25-128-quantized`.

    Any width and resolution may be given; a name like `resnet18-v07` is a `variant`. `dtype`
    overrides the number type in the name; without either it is float32.

    Raises
    ------
    EdgeError
        No architecture has such a name, or the number type is unknown.

    Examples
    --------
    >>> network("mobilenet-v2-1.0-224").macs
    300775552
    """
    if (numbered := re.fullmatch(r"(.+)-v(\d\d|[1-9]\d{2,5})", name)) and numbered[1] in FAMILIES:
        return variant(numbered[1], int(numbered[2]), dtype=dtype or "float32")
    for table in _ARCHITECTURES:
        if match := re.fullmatch(table["names"], name):
            break
    else:
        examples = ", ".join(table["example"] for table in _ARCHITECTURES)
        raise EdgeError(f"no network of the zoo is called {name!r}; names look like {examples}")
    said = {key: value for key, value in match.groupdict().items() if value}
    number_type = dtype or _DTYPES[said.pop("dtype", "float")]
    chosen = table.get("variants", {}).get(said.pop("variant", ""), {})
    numbers = {key: _number(value) for key, value in said.items()}
    said = table.get("defaults", {}) | numbers | chosen
    return _build(name, table, number_type, said, Resampling())


def variant(family: str, index: int, *, dtype: str = "float32") -> Graph:
    """Build a network of one of `FAMILIES` with channels and windows of each layer drawn anew.

    The draws depend on family and index alone. Their ranges stand in the architecture's file
    (`resample`): those of nn-Meter's generator (Zhang et al., MobiSys 2021), changed for AlexNet,
    GoogLeNet, MobileNetV2, ResNet-18 and ShuffleNetV2 so that windows and channels, and no more,
    vary and 50 variants have the paper's mean work within 20 %. What flows along a residual
    connection keeps its channels.

    Parameters
    ----------
    family : str
        One of `FAMILIES`.
    index : int
        Number of the variant, from 0; the paper has 50 of each family.

    Raises
    ------
    EdgeError
        Unknown family or number type, or an index that is no number from 0 on.

    Examples
    --------
    >>> variant("resnet18", 7).name
    'resnet18-v07'
    """
    if family not in FAMILIES:
        raise EdgeError(f"no family is called {family!r}; use one of: {', '.join(FAMILIES)}")
    if not isinstance(index, int | np.integer) or index < 0:
        raise EdgeError(f"variants are numbered from 0, but the index is {index}; give 0, 1, 2 ...")
    table = next(t for t in _ARCHITECTURES if t["family"] == family and "resample" in t)
    name = f"{family}-v{index:02d}"
    drawn = Resampling(seed=f"{family} {index}", **table["resample"])
    return _build(name, table, dtype, table.get("defaults", {}), drawn)


def _number(text: str) -> Any:
    """Read a part of a name: a number, or a word as it is."""
    return text if not text[0].isdigit() else float(text) if "." in text else int(text)


def _build(
    name: str, table: dict[str, Any], dtype: str, said: dict[str, Any], drawn: Resampling
) -> Graph:
    """Expand the rows of a table; words of a row that `said` knows stand for its values."""
    if dtype not in DTYPE_BYTES:
        raise EdgeError(f"unknown dtype {dtype!r}; use one of: {', '.join(DTYPE_BYTES)}")
    said = {"resolution": 224, "activation": table.get("activation", "relu")} | said
    if "number" in said:
        said["edges"] = _cell(said["number"])

    def meant(value: Any) -> Any:
        return said.get(value, value) if isinstance(value, str) else value

    net = Builder()
    shape = [meant(side) for side in table.get("input", ["resolution", "resolution", 3])]
    if min(shape) < 1:
        raise EdgeError(f"{name} would have an input of {shape} numbers; ask for at least 1 a side")
    options = {key: said[key] for key in _OPTIONS if key in said}
    blocks = Blocks(net, net.input(*shape), resampling=drawn, **options)
    for row in table["layers"]:
        blocks.add(**{key: meant(value) for key, value in row.items()})
    ends = [blocks.named[end][0] for end in table.get("outputs", [])] or [blocks.value]
    net.layers = _fused(net.layers, ends)
    return net.graph(name, outputs=ends, family=table["family"], dtype=dtype)


def _fused(layers: list[Layer], ends: list[int]) -> list[Layer]:
    """Merge a ReLU with what it alone reads, where runtimes do; the value between becomes idle."""
    readers = Counter([*ends, *(value for layer in layers for value in layer.inputs)])
    merged: list[Layer] = []
    writer: dict[int, int] = {}  # value -> position in `merged` of what writes it
    for layer in layers:
        position = writer.get(layer.inputs[0], -1)
        before = merged[position] if position >= 0 else layer
        fuses = layer.op == "relu" and before.op in _FUSING and not before.activation
        if fuses and readers[layer.inputs[0]] == 1:
            op, act = ("addrelu", "") if before.op == "add" else (before.op, "relu")
            merged[position] = replace(before, op=op, outputs=layer.outputs, activation=act)
        else:
            position = len(merged)
            merged.append(layer)
        writer |= dict.fromkeys(layer.outputs, position)
    return merged


@cache
def _cells() -> list[tuple[str, ...]]:
    """All cells of NAS-Bench-201 in the order of its numbers: every choice, shuffled by 88."""
    operators = ("none", "skip", "conv1x1", "conv3x3", "avgpool")
    cells = list(product(operators, repeat=len(CELL_EDGES)))
    random.Random(88).shuffle(cells)  # noqa: S311  nothing secret; this is the published order
    return cells


def _cell(number: int) -> tuple[str, ...]:
    if number >= len(_cells()):
        raise EdgeError(
            f"NAS-Bench-201 numbers its cells from 0 to {len(_cells()) - 1}, but {number} is asked"
            " for; give a number in that range"
        )
    return _cells()[number]


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
    table = pd.DataFrame([_ends(net) for net in nets.values()], index=pd.Index(nets, name="name"))
    sums = pd.DataFrame(counts).groupby(of).sum()
    return table[["family", "dtype", "resolution", "pixels"]].join(sums).join(table[_BYTES])


def _ends(net: Graph) -> dict[str, Any]:
    """Return what a network is called, and how large its inputs and outputs are."""
    size = DTYPE_BYTES[net.dtype]
    ends = (sum(math.prod(net.shapes[i]) for i in values) for values in (net.inputs, net.outputs))
    named = {"family": net.family, "dtype": net.dtype, "resolution": net.resolution}
    pixels = math.prod(net.shapes[net.inputs[0]][:2])
    return named | {"pixels": pixels} | dict(zip(_BYTES, (size * end for end in ends), strict=True))
