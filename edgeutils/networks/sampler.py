"""Kernel configurations to measure: as they occur in networks, and where a predictor errs.

The sampler draws kernels of the zoo's networks, as often as there are networks with them, and
jitters their channels and sides so that the space between is filled. Given a function that says
how large the error at a configuration is, it draws a share of the points around the worst ones,
which is the adaptive sampling of nn-Meter (Zhang et al., MobiSys 2021).
"""

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from edgeutils import EdgeError
from edgeutils.networks import zoo
from edgeutils.networks.graph import Graph
from edgeutils.networks.kernels import (
    DTYPE_BYTES,
    KERNEL_TYPES,
    SE_REDUCTION,
    Kernel,
    add_work,
    kernel_frame,
)

#: Largest kernel that is drawn, bytes as float32 and multiply-accumulates: phones run out of
#: memory, and campaigns out of time, beyond.
LIMITS = {"input_bytes": 64e6, "output_bytes": 64e6, "weight_bytes": 64e6, "macs": 4e9}

#: Relative error of each row of a `kernel_frame`.
Error = Callable[[pd.DataFrame], np.ndarray]

_CONFIG = [
    *("hw", "cin", "cout", "kernel_size", "stride", "padding", "dilation", "groups"),
    *("cin1", "cin2", "cin3", "cin4", "pixels"),
]
_CHANNELS = ["cin", "cout", "cin1", "cin2", "cin3", "cin4"]
_SIDES = ["hw", "pixels"]
_IMAGE_CHANNELS = 4  # no more than these are an image's, and stay

# Types with fewer distinct kernels in the networks are drawn half of the time on the maps that the
# networks' convolutions write: where one runtime fuses or folds them, another does not.
_RARE = 30
_POOLS = [(2, 2), (3, 1), (3, 2), (5, 1), (5, 2)]
#: There, windows and strides, pixels, of types that have them.
_WINDOWS = {"maxpool": _POOLS, "avgpool": _POOLS, "transpose-conv": [(2, 2), (3, 2), (4, 2)]}

_BATCH = 256
_DRY_BATCHES = 20  # without a new kernel: there are no more
_AS_IT_OCCURS = 0.25  # share that is not jittered
_WIDE, _NARROW = np.log([1.8, 1.25])  # largest factor of the jitter in general, around an error
_CANDIDATE_BATCHES, _WORST = 8, 0.1  # where the error is asked for, and the share that is taken

# What occurs, if nothing else is said: variants after the fifty that are measured as networks, so
# that no kernel of these is in the training set of a predictor just because it was copied, and
# networks of applications.
_DEFAULT = (
    *(f"{family}-v{index}" for family in zoo.FAMILIES for index in range(50, 60)),
    *("mobilenet-v3-large_224_1.0_float", "mobilenet-v3-small_224_1.0_float", "resnet50"),
    *("efficientnet-lite0", "efficientnet-lite4", "ssd-mobilenet-v2-300", "deeplabv3-mobilenet-v2"),
    *("esrgan", "mobilebert-128", "mobilebert-384"),
)


def sample(  # noqa: PLR0913  every option has a default
    kernel_type: str,
    n: int,
    *,
    seed: int = 0,
    dtype: str = "float32",
    error: Error | None = None,
    share: float = 0.5,
    exclude: Collection[Kernel] = (),
    networks: Iterable[str | Graph] | None = None,
) -> list[Kernel]:
    """Draw `n` different kernels of a type as they occur in networks.

    The same seed draws the same configurations for every dtype, and fewer of them are the first
    of more (without `error`).

    Parameters
    ----------
    kernel_type, n, seed, dtype
        What is drawn, how many, which draw, and the kernels' number type.
    error
        Takes a `kernel_frame` and returns the relative error expected at each row, 0 or more.
    share
        Of the points, those drawn around configurations where `error` is large, 0 to 1.
    exclude
        Kernels not to be drawn, such as those measured before.
    networks
        Names of the zoo, or graphs, that say what occurs. Default: ten variants of each family
        (beyond the fifty that are measured as networks) and networks of applications.

    Raises
    ------
    EdgeError
        Unknown type, dtype or share; the type does not occur in the networks; there are fewer
        than `n` such kernels; `error` returns something else than one finite number for each row.

    Examples
    --------
    >>> {kernel.kernel_type for kernel in sample("maxpool", 3)}
    {'maxpool'}
    """
    if kernel_type not in KERNEL_TYPES or dtype not in DTYPE_BYTES:
        names = f"{', '.join(KERNEL_TYPES)}; and of: {', '.join(DTYPE_BYTES)}"
        raise EdgeError(f"cannot sample {dtype} kernels of type {kernel_type}; use one of: {names}")
    if not (n >= 0 and 0 <= share <= 1):
        raise EdgeError(f"expected n >= 0 and 0 <= share <= 1, not {n} and {share}; give others")
    rng = np.random.default_rng([seed, *kernel_type.encode()])
    pool = _pool(kernel_type, _frame(_DEFAULT if networks is None else tuple(networks)))
    if pool.empty:
        raise EdgeError(f"no {kernel_type} kernel occurs in these networks; name other networks")
    source = _Source(kernel_type, dtype, pool, rng)
    seen = {replace(kernel, name="") for kernel in exclude}
    adaptive = 0 if error is None else round(n * share)
    drawn = source.draw(n - adaptive, seen)
    if error is not None and adaptive:
        worst = source.worst(error)
        drawn += replace(source, pool=worst, spread=_NARROW).draw(adaptive, seen)
    return drawn


@dataclass(frozen=True)
class _Source:
    """Draws kernels near the configurations of a pool."""

    kind: str
    dtype: str
    pool: pd.DataFrame
    rng: np.random.Generator
    spread: float = _WIDE

    def batch(self) -> list[Kernel]:
        rows = self.pool.iloc[self.rng.integers(len(self.pool), size=_BATCH)]
        rows = _valid(self.kind, _jittered(rows, self.spread, self.rng)).dropna(axis=1, how="all")
        configs: list[dict[Any, Any]] = [
            {name: int(value) for name, value in row.items() if not np.isnan(value)}
            for row in rows.to_dict("records")
        ]
        return [Kernel(self.kind, dtype=self.dtype, **config) for config in configs]

    def draw(self, n: int, seen: set[Kernel]) -> list[Kernel]:
        """Return `n` kernels that are not in `seen`, and add them to it."""
        drawn: list[Kernel] = []
        dry = 0
        while len(drawn) < n:
            new = [kernel for kernel in dict.fromkeys(self.batch()) if kernel not in seen]
            drawn += new[: n - len(drawn)]
            seen.update(drawn)
            dry = 0 if new else dry + 1
            if dry == _DRY_BATCHES:
                raise EdgeError(
                    f"expected {n} new {self.kind} kernels and found no more than {len(drawn)};"
                    " ask for fewer, or name more networks"
                )
        return drawn

    def worst(self, error: Error) -> pd.DataFrame:
        """Draw configurations where the error is largest, as often as it is large."""
        kernels = list(dict.fromkeys(k for _ in range(_CANDIDATE_BATCHES) for k in self.batch()))
        frame = kernel_frame(kernels)
        errors = np.asarray(error(frame), dtype=float)
        if errors.shape != (len(frame),) or not np.all(np.isfinite(errors) & (errors >= 0)):
            raise EdgeError(
                f"expected a finite error of 0 or more for each of {len(frame)} kernels and got"
                f" an array of shape {errors.shape}; mend the error function"
            )
        order = np.argsort(-errors, kind="stable")[: math.ceil(_WORST * len(frame))]
        weights = errors[order] + np.finfo(float).tiny
        taken = self.rng.choice(order, size=_BATCH, p=weights / weights.sum())
        return frame.loc[taken, self.pool.columns].astype(float)


def _jittered(rows: pd.DataFrame, spread: float, rng: np.random.Generator) -> pd.DataFrame:
    """Move channels and sides of most rows by a random factor; half the channels go to eights."""
    jittered = rows.reset_index(drop=True)
    moved = rng.random(len(rows)) >= _AS_IT_OCCURS
    eights, other_side = rng.random(len(rows)) < 0.5, rng.random(len(rows)) < 0.5
    for column in jittered.columns.intersection(_CHANNELS + _SIDES):
        value = jittered[column] * np.exp(rng.uniform(-spread, spread, size=len(rows)))
        if column in _CHANNELS:
            value = value.where(~(eights & (value > 8)), 8 * (value / 8).round())
            move = moved & (jittered[column] > _IMAGE_CHANNELS)
        else:
            move = moved & other_side
        jittered[column] = jittered[column].where(~move, value.round().clip(lower=1))
    return jittered


def _valid(kind: str, rows: pd.DataFrame) -> pd.DataFrame:
    """Make the channels divisible and the map hold the window; drop what is beyond `LIMITS`."""
    parts = 2 if kind in ("split", "channelshuffle") else rows["groups"].fillna(1)
    for column in ("cin", "cout"):
        rows[column] = (rows[column] / parts).round().clip(lower=1) * parts
    reach = rows["dilation"].fillna(1) * (rows["kernel_size"] - 1) + 1
    rows["hw"] = rows["hw"].clip(lower=reach.where(rows["padding"].notna(), rows["kernel_size"]))
    work = add_work(rows.assign(kernel_type=kind, dtype="float32"))[list(LIMITS)]
    return rows[(work <= list(LIMITS.values())).all(axis=1)]


@lru_cache(maxsize=8)
def _frame(networks: tuple[str | Graph, ...]) -> pd.DataFrame:
    """Kernels of networks; one that a network repeats counts once in it."""
    graphs = [zoo.network(net) if isinstance(net, str) else net for net in networks]
    return kernel_frame(kernel for graph in graphs for kernel in dict.fromkeys(graph.kernels))


def _pool(kind: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Find the configurations of a type, as often as networks have them; only square ones."""
    found = frame[(frame["kernel_type"] == kind) & (frame["pixels"].isna() | (kind == "fc"))]
    if kind in ("add", "addrelu"):
        found = found[found["cin1"].isna()]  # the second is a full map, not one channel of it
    if kind == "dwconv-bn-relu":
        found = found[found["cout"].isna()]
    found = found[_CONFIG].astype(float)
    if len(found.drop_duplicates()) < _RARE:
        maps = _on_maps(kind, frame).reindex(columns=_CONFIG).astype(float)
        times = max(1, math.ceil(len(maps) / max(1, len(found))))
        found = pd.concat([*[found] * times, maps])  # half of the draws from each
    if kind == "se":
        found["cout"] = found["cout"].fillna((found["cin"] // SE_REDUCTION).clip(lower=1))
    return found.reset_index(drop=True)


def _on_maps(kind: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Kernels of a type on every map that a convolution of the networks writes."""
    convs = frame[frame["kernel_type"].str.contains("conv") & frame["pixels"].isna()]
    elements = convs["output_bytes"] / convs["dtype"].map(DTYPE_BYTES)
    cin = convs["cout"].fillna(convs["cin"]).astype(float)
    maps = pd.DataFrame({"hw": np.sqrt(elements / cin).round(), "cin": cin})
    if kind == "concat":
        by_side = maps.groupby("hw")["cin"]
        for i in range(4):  # a map's neighbours in the list of those of its size
            maps[f"cin{i + 1}"] = by_side.transform(np.roll, i)
        return pd.concat([maps[["hw", "cin1", "cin2"]], maps.drop(columns="cin")])
    if kind in _WINDOWS:
        windows = pd.DataFrame(_WINDOWS[kind], columns=["kernel_size", "stride"])
        maps = maps.merge(windows, how="cross")
        return maps.assign(cout=maps["cin"]) if kind == "transpose-conv" else maps
    needs = set(KERNEL_TYPES[kind])
    return maps if needs == {"hw", "cin"} else maps.iloc[:0]
