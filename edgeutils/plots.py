"""One look for every figure: colours that mean the same device everywhere, units on every axis.

Plots take a tidy frame and `ax=None`, and return the Axes. Colours are those of Okabe and Ito
(2008), which colour-blind readers can tell apart; a marker repeats what the colour says.
"""

from collections.abc import Iterable
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import PercentFormatter

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
    # Numbers that go into the text are glued by their repr: 0.5, not np.float64(0.5).
    if np.lib.NumpyVersion(np.__version__) >= "2.0.0":
        np.set_printoptions(legacy="1.25")  # type: ignore[arg-type,unused-ignore]
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
            "axes.prop_cycle": plt.cycler(color=list(COLOURS)),
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
        bars |= {"color": colours[device], "marker": shapes[device], "markeredgecolor": "white"}
        bars |= {"markersize": 12, "markeredgewidth": 0.6, "linestyle": "none"}
        ax.errorbar(row[x], row[y], **bars, label=str(device))
    ax.legend(loc="upper center", bbox_to_anchor=(0.45, -0.16), ncols=2, handletextpad=0.2)
    return ax


def rank_heatmap(shares: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Grid of the share of resamples (0 to 1) in which each device (rows) holds each rank."""
    text = shares.map(lambda share: f"{share:.0%}" if share >= 0.005 else "")
    style: dict[str, Any] = {"cmap": "Blues", "vmin": 0, "vmax": 1, "cbar": False}
    return sns.heatmap(shares, annot=text, fmt="", linewidths=1, ax=new_axes(ax), **style)


def power_over_time(
    time_s: np.ndarray,
    power_w: np.ndarray,
    windows: pd.DataFrame,
    span_s: tuple[float, float],
    ax: Axes | None = None,
) -> Axes:
    """Draw power (W) as steps and shade the area under it in each window (`start_s`, `end_s`).

    Time runs in ms from the begin of `span_s`; what lies outside is left out.
    """
    ax = new_axes(ax)
    fine_s = np.linspace(*span_s, 4000)
    middle_s = (time_s[1:] + time_s[:-1]) / 2
    held_w = power_w[np.searchsorted(middle_s, fine_s)]
    starts, ends = windows["start_s"].to_numpy(), windows["end_s"].to_numpy()
    # Windows do not overlap: inside one, a start has been passed but not its end.
    inside = np.searchsorted(starts, fine_s, "right") > np.searchsorted(ends, fine_s, "right")
    time_ms = (fine_s - span_s[0]) * 1e3
    ax.fill_between(
        time_ms, held_w, where=inside, color=COLOURS[1], alpha=0.35, lw=0, label="inference"
    )
    ax.plot(time_ms, held_w, color=COLOURS[0], lw=1.2, label="power")
    ax.set(xlabel="Time (ms)", ylabel="Power (W)", xlim=(0, time_ms[-1]), ylim=(0, None))
    return ax


def energy_by_inference(
    energies_mj: dict[str, pd.Series], symlog_mj: float | None = None, ax: Axes | None = None
) -> Axes:
    """Draw the energy (mJ) of each inference in turn, one colour and marker per way to get it."""
    ax = new_axes(ax)
    colours, shapes = palette(energies_mj), markers(energies_mj)
    for name, energy_mj in energies_mj.items():
        style: dict[str, Any] = {"color": colours[name], "marker": shapes[name], "ls": "none"}
        ax.plot(range(len(energy_mj)), energy_mj, ms=4, alpha=0.6, mew=0, label=name, **style)
    if symlog_mj:
        ax.set_yscale("symlog", linthresh=symlog_mj)
        ax.set_yticks([symlog_mj * part for part in (0, 0.5, 1, 2, 5)])
        ax.yaxis.set_major_formatter("{x:g}")
    ax.set(xlabel="Inference, in order", ylabel="Energy of one inference (mJ)")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 1.14), ncols=2)
    return ax


def dot_rows(frame: pd.DataFrame, x: str, y: str, hue: str, ax: Axes | None = None) -> Axes:
    """One row per value of `y` (first on top), one marker per value of `hue`, log axis for `x`."""
    ax = new_axes(ax)
    rows = {name: i for i, name in enumerate(dict.fromkeys(frame[y]))}
    colours, shapes = palette(frame[hue]), markers(frame[hue])
    for name, part in frame.groupby(hue, sort=False):
        style: dict[str, Any] = {"color": colours[name], "marker": shapes[name], "alpha": 0.85}
        ax.plot(part[x], part[y].map(rows), linestyle="none", markersize=7, label=name, **style)
    ax.set_yticks(list(rows.values()), list(rows))
    ax.set(xscale="log", ylim=(len(rows) - 0.5, -0.5))
    plain_ticks(ax.xaxis)
    legend_below(ax, columns=3)
    return ax


def ratio_strip(frame: pd.DataFrame, x: str, y: str, ax: Axes | None = None) -> Axes:
    """Ratios `y` per category `x` on a log axis, a line at 1 and a bar at each median."""
    ax = new_axes(ax)
    colours = palette(frame[x])
    style: dict[str, Any] = {"palette": colours, "legend": False, "size": 4, "alpha": 0.6}
    sns.stripplot(frame, x=x, y=y, hue=x, jitter=0.25, ax=ax, **style)
    for i, name in enumerate(dict.fromkeys(frame[x])):
        median = frame.loc[frame[x] == name, y].median()
        ax.plot([i - 0.35, i + 0.35], [median, median], color="black", linewidth=2.5, zorder=5)
    ax.axhline(1, color="#666666", linestyle="--", linewidth=1, zorder=0)
    ax.set(yscale="log", xlabel="")
    ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(ticker.NullFormatter())
    return ax


def log_scatter(frame: pd.DataFrame, x: str, y: str, hue: str, ax: Axes | None = None) -> Axes:
    """Scatter on two log axes, colour and marker by `hue`; an empty frame shows its sentence.

    The legend stands below the figure, if the figure is made here.
    """
    own, ax = ax is None, new_axes(ax)
    if frame.empty:
        ax.set_axis_off()
        sentence = frame.attrs.get("missing", "no rows")
        ax.text(0.5, 0.5, sentence, ha="center", va="center", wrap=True)
        return ax
    colours, shapes = palette(frame[hue]), markers(frame[hue])
    for name, part in frame.groupby(hue, sort=False):
        style: dict[str, Any] = {"color": colours[name], "marker": shapes[name], "alpha": 0.55}
        ax.plot(part[x], part[y], linestyle="none", markersize=5, label=name, **style)
    ax.set(xscale="log", yscale="log")
    for axis in (ax.xaxis, ax.yaxis):
        plain_ticks(axis)
    if own:
        legend_below(ax)
    return ax


def plain_ticks(axis: Axis) -> None:
    """Label a short logarithmic axis with 1, 2 and 5 instead of powers of ten alone."""
    low, high = axis.get_view_interval()
    if high < 100 * low:
        axis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(ticker.NullFormatter())


def legend_below(ax: Axes, columns: int = 4) -> None:
    """Put the legend of an Axes below its figure, where it hides nothing."""
    where: dict[str, Any] = {"loc": "outside lower center", "ncols": columns}
    handles, labels = ax.get_legend_handles_labels()
    ax.figure.legend(handles, labels, fontsize="small", handletextpad=0.1, **where)


def _not_at_hand(ax: Axes) -> Axes:
    ax.set_axis_off()
    ax.text(0.5, 0.5, "The data set is not at hand.", ha="center", va="center")
    return ax


def error_rows(
    frame: pd.DataFrame, x: str, y: str, hue: str | None = None, ax: Axes | None = None
) -> Axes:
    """One row per value of `y` (first on top) and one marker per `hue`, with interval bars.

    `x` is a fraction, shown in percent; its interval lies in columns `x` + "_low95", "_high95".
    """
    own, ax = ax is None, new_axes(ax)
    if frame.empty:
        return _not_at_hand(ax)
    rows = {name: i for i, name in enumerate(dict.fromkeys(frame[y]))}
    hues = [""] if hue is None else list(dict.fromkeys(frame[hue]))
    colours, shapes = palette(hues), markers(hues)
    for i, name in enumerate(hues):
        part = frame if hue is None else frame[frame[hue] == name]
        place = part[y].map(rows) + (i - (len(hues) - 1) / 2) * 0.22
        bars = [part[x] - part[f"{x}_low95"], part[f"{x}_high95"] - part[x]]
        style: dict[str, Any] = {"color": colours[name], "marker": shapes[name], "ms": 8}
        ax.errorbar(part[x], place, xerr=bars, linestyle="none", label=name, **style)
    ax.set_yticks(list(rows.values()), list(rows))
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    if own and hue is not None:
        legend_below(ax)
    return ax


def percent_ticks(
    axis: Axis, ticks: Iterable[float] = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
) -> None:
    """Label a logarithmic axis of fractions in percent at `ticks`."""
    low, high = axis.get_view_interval()
    axis.set_ticks([tick for tick in ticks if low <= tick <= high], minor=False)
    axis.set_minor_formatter("")
    axis.set_major_formatter(lambda value, _: f"{100 * value:g} %")


def grey_diagonal(ax: Axes) -> Axes:
    """Draw the line on which prediction equals measurement, and give both axes its span."""
    low = min(ax.get_xlim()[0], ax.get_ylim()[0])
    high = max(ax.get_xlim()[1], ax.get_ylim()[1])
    ax.plot([low, high], [low, high], color="#888888", linewidth=1, zorder=0)
    ax.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    return ax


def error_curves(frame: pd.DataFrame, x: str, y: str, hue: str, ax: Axes | None = None) -> Axes:
    """Fractions `y` over `x`, both logarithmic, one line per `hue` with a band for its interval."""
    own, ax = ax is None, new_axes(ax)
    if frame.empty:
        return _not_at_hand(ax)
    colours, shapes = palette(frame[hue]), markers(frame[hue])
    for name, part in frame.groupby(hue, sort=False):
        ax.plot(part[x], part[y], color=colours[name], marker=shapes[name], label=name)
        band = (part[f"{y}_low95"], part[f"{y}_high95"])
        ax.fill_between(part[x], *band, color=colours[name], alpha=0.15, linewidth=0)
    ax.set(xscale="log", yscale="log")
    ax.set_xticks(sorted(frame[x].unique()), minor=False)
    ax.xaxis.set_minor_formatter("")
    ax.xaxis.set_major_formatter("{x:g}")
    percent_ticks(ax.yaxis)
    if own:
        legend_below(ax, columns=2)
    return ax
