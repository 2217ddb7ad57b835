"""One look for every figure: colours that mean the same device everywhere, units on every axis.

Plots take a tidy frame and `ax=None`, and return the Axes. Colours are those of Okabe and Ito
(2008), which colour-blind readers can tell apart; a marker repeats what the colour says.
"""

from collections.abc import Iterable
from typing import Any

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

#: Okabe and Ito's colours, without the yellow that is too light on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F3C8D", "#444444")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

#: The same device has the same colour and marker in every chapter.
_FIXED_ORDER = {
    "phones": (
        "OnePlus 8 Pro",
        "Xiaomi Redmi Note8",
        "Huawei Mate40 Pro",
        "Huawei P40 Pro",
        "Huawei P40 Lite",
        "Huawei P40 Lite E",
        "Xiaomi Redmi K30 Ultra",
        "Motorola One Macro",
    ),
    "boards": ("Raspberry Pi 4", "Firefly", "VIM4", "Xavier", "Orin", "Odroid"),
    "sources": ("measured", "published", "simulated", "estimated"),
}

#: How a source is drawn where colour is taken: filled, ring, hatched, cross.
SOURCE_MARKERS = {"measured": "o", "published": "s", "simulated": "^", "estimated": "x"}


def palette(names: Iterable[str]) -> dict[str, str]:
    """Colour of each name: fixed for known devices and sources, in order for others."""
    return _assign(names, COLOURS)


def markers(names: Iterable[str]) -> dict[str, str]:
    """Marker of each name, as `palette` for those who cannot rely on colour."""
    return _assign(names, MARKERS)


def _assign(names: Iterable[str], values: tuple[str, ...]) -> dict[str, str]:
    names = list(dict.fromkeys(names))
    for known in _FIXED_ORDER.values():
        if set(names) <= set(known):
            return {name: values[known.index(name) % len(values)] for name in names}
    return {name: values[i % len(values)] for i, name in enumerate(names)}


def use_book_style() -> None:
    """Set matplotlib's defaults for the book; call it once at the top of a notebook."""
    sns.set_theme(style="whitegrid", context="notebook", palette=list(COLOURS))
    mpl.rcParams.update(
        {
            "figure.figsize": (7.2, 4.2),
            "figure.dpi": 110,
            "savefig.dpi": 200,
            "figure.constrained_layout.use": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": "medium",
            "legend.frameon": False,
            "axes.prop_cycle": mpl.cycler(color=list(COLOURS)),
        }
    )


def new_axes(ax: Axes | None = None) -> Axes:
    """Return `ax`, or the Axes of a new figure."""
    return plt.subplots()[1] if ax is None else ax


def rank_chart(ranks: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw how each device's rank (1 on top) moves from one column of `ranks` to the next.

    `ranks` is devices x choices; the device is named beside its first rank and its marker.
    """
    ax = new_axes(ax)
    colours, shapes = palette(ranks.index), markers(ranks.index)
    for device, row in ranks.iterrows():
        style: dict[str, Any] = {"color": colours[device], "marker": shapes[device]}
        ax.plot(range(len(row)), row.astype(float), markersize=9, clip_on=False, **style)
    first = ranks.iloc[:, 0].sort_values()
    ax.set_yticks(first.astype(float), [f"{name}  {rank}" for name, rank in first.items()])
    ax.set_xticks(range(ranks.shape[1]), ranks.columns)
    ax.set(ylim=(len(ranks) + 0.3, 0.7), xlim=(-0.1, ranks.shape[1] - 0.9), ylabel="Rank")
    ax.grid(axis="y", visible=False)
    return ax


def device_scatter(frame: pd.DataFrame, x: str, y: str, ax: Axes | None = None) -> Axes:
    """One marker per device (the index of `frame`) with a legend below.

    Columns named `x` or `y` + "_low90" and "_high90" become interval bars.
    """
    ax = new_axes(ax)
    colours, shapes = palette(frame.index), markers(frame.index)
    for device, row in frame.iterrows():
        bars: dict[str, Any] = {
            f"{axis}err": [[row[name] - row[f"{name}_low90"]], [row[f"{name}_high90"] - row[name]]]
            for axis, name in (("x", x), ("y", y))
            if f"{name}_low90" in frame
        }
        bars |= {"color": colours[device], "marker": shapes[device], "markersize": 9}
        ax.errorbar(row[x], row[y], **bars, linestyle="none", alpha=0.9, label=str(device))
    ax.legend(loc="upper center", bbox_to_anchor=(0.45, -0.16), ncols=2, handletextpad=0.2)
    return ax
