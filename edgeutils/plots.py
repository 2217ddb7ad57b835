"""One look for every figure: colours that mean the same device everywhere, units on every axis.

Colour-blind readers can tell the colours apart; a marker repeats what the colour says.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from edgeutils import ROOT
from edgeutils.hardware.trace import PowerTrace

#: The colours of Okabe and Ito (2008), without the yellow that is too light on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F3C8D", "#444444")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<")
#: How a source is drawn where colour is taken.
SOURCE_MARKERS = {"measured": "o", "published": "s", "simulated": "^", "estimated": "x"}
PERCENT_TICKS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
#: The same phone, board or source has the same colour and marker in every chapter.
_FIXED_ORDER = (
    tuple(pd.read_csv(ROOT / "data" / "published" / "devices.csv")["device"]),
    ("Raspberry Pi 4", "Firefly", "VIM4", "Xavier", "Orin", "Odroid"),
    tuple(SOURCE_MARKERS),
)


def palette(names: Iterable[str], values: tuple[str, ...] = COLOURS) -> dict[str, str]:
    """Colour of each name: fixed for known devices and sources, in order for others."""
    names = list(dict.fromkeys(names))
    order = next((known for known in _FIXED_ORDER if set(names) <= set(known)), names)
    return {name: values[order.index(name) % len(values)] for name in names}


def markers(names: Iterable[str]) -> dict[str, str]:
    """Marker of each name, as `palette` for those who cannot rely on colour."""
    return palette(names, MARKERS)


def _styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    colours, shapes = palette(names), markers(names)
    return {n: {"color": colours[n], "marker": shapes[n], "label": str(n)} for n in colours}


def _parts(frame: pd.DataFrame, hue: str) -> list[tuple[pd.DataFrame, dict[str, Any]]]:
    """Rows of each value of `hue`, with its colour, marker and label."""
    styles = _styles(frame[hue])
    return [(part, styles[str(name)]) for name, part in frame.groupby(hue, sort=False)]


def use_book_style() -> None:
    """Set matplotlib's defaults for the book; call it once at the top of a notebook."""
    # Numbers that go into the text are glued by their repr: 0.5, not np.float64(0.5).
    if np.lib.NumpyVersion(np.__version__) >= "2.0.0":
        np.set_printoptions(legacy="1.25")  # type: ignore[arg-type,unused-ignore]
    sns.set_theme(style="whitegrid", context="notebook", palette=list(COLOURS))
    plt.style.use(ROOT / "edgeutils" / "book.mplstyle")


def new_axes(ax: Axes | None = None) -> Axes:
    """Return `ax`, or the Axes of a new figure."""
    return plt.subplots()[1] if ax is None else ax


def _rows(ax: Axes, names: Iterable[str]) -> dict[str, int]:
    """Label one row per name, the first on top, and return the height of each."""
    rows = {name: i for i, name in enumerate(dict.fromkeys(names))}
    ax.set_yticks(list(rows.values()), list(rows))
    ax.set_ylim(len(rows) - 0.5, -0.5)
    return rows


def _not_at_hand(ax: Axes, frame: pd.DataFrame) -> Axes:
    """Write why there is nothing to draw."""
    ax.set_axis_off()
    sentence = frame.attrs.get("missing", "The data set is not at hand.")
    ax.text(0.5, 0.5, sentence, ha="center", va="center", wrap=True)
    return ax


def rank_chart(ranks: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw how the rank (1 on top) of each device (rows) moves from one column to the next."""
    ax = new_axes(ax)
    for device, style in _styles(ranks.index).items():
        row = ranks.loc[device].astype(float)
        ax.plot(range(len(row)), row, markersize=9, clip_on=False, **style)
    first = ranks.iloc[:, 0].sort_values()
    ax.set_yticks(first.astype(float), [f"{name}  {rank}" for name, rank in first.items()])
    ax.set_xticks(range(ranks.shape[1]), ranks.columns)
    ax.set(ylim=(len(ranks) + 0.3, 0.7), xlim=(-0.1, ranks.shape[1] - 0.9), ylabel="Rank")
    ax.grid(axis="y", visible=False)
    return ax


def device_scatter(frame: pd.DataFrame, x: str, y: str, ax: Axes | None = None) -> Axes:
    """One marker per device (the index); columns `x` or `y` + "_low90", "_high90" become bars."""
    ax = new_axes(ax)
    for device, style in _styles(frame.index).items():
        row = frame.loc[device]
        style |= {"linestyle": "none", "ms": 12, "mec": "white", "mew": 0.6}
        for axis, name in (("xerr", x), ("yerr", y)):
            if f"{name}_low90" in frame:
                low, high = row[f"{name}_low90"], row[f"{name}_high90"]
                style[axis] = [[row[name] - low], [high - row[name]]]
        ax.errorbar(row[x], row[y], **style)
    ax.legend(loc="upper center", bbox_to_anchor=(0.45, -0.16), ncols=2, handletextpad=0.2)
    return ax


def rank_heatmap(shares: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Grid of the share of resamples (0 to 1) in which each device (rows) holds each rank."""
    text = shares.map(lambda share: f"{share:.0%}" if share >= 0.005 else "")
    style: dict[str, Any] = {"cmap": "Blues", "vmin": 0, "vmax": 1, "cbar": False}
    return sns.heatmap(shares, annot=text, fmt="", linewidths=1, ax=new_axes(ax), **style)


def power_over_time(
    trace: PowerTrace, windows: pd.DataFrame, span_s: tuple[float, float], ax: Axes | None = None
) -> Axes:
    """Draw power as steps within `span_s`, the area under it shaded in each of the `windows`."""
    ax = new_axes(ax)
    fine_s = np.linspace(*span_s, 4000)
    middle_s = (trace.time_s[1:] + trace.time_s[:-1]) / 2
    held_w = trace.power_w[np.searchsorted(middle_s, fine_s)]
    # Windows do not overlap: inside one, a start has been passed but not its end.
    started, ended = (np.searchsorted(windows[e], fine_s, "right") for e in ("start_s", "end_s"))
    time_ms = (fine_s - span_s[0]) * 1e3
    shade: dict[str, Any] = {"color": COLOURS[1], "alpha": 0.35, "lw": 0, "label": "inference"}
    ax.fill_between(time_ms, held_w, where=started > ended, **shade)
    ax.plot(time_ms, held_w, color=COLOURS[0], lw=1.2, label="power")
    ax.set(xlabel="Time (ms)", ylabel="Power (W)", xlim=(0, time_ms[-1]), ylim=(0, None))
    return ax


def energy_by_inference(
    energies_mj: dict[str, pd.Series], symlog_mj: float | None = None, ax: Axes | None = None
) -> Axes:
    """Draw the energy (mJ) of each inference in turn, one colour and marker per way to get it."""
    ax = new_axes(ax)
    for name, style in _styles(energies_mj).items():
        ax.plot(np.asarray(energies_mj[name]), ls="none", ms=4, alpha=0.6, mew=0, **style)
    if symlog_mj:
        ax.set_yscale("symlog", linthresh=symlog_mj)
        ax.set_yticks(symlog_mj * np.array([0, 0.5, 1, 2, 5]))
        ax.yaxis.set_major_formatter("{x:g}")
    ax.set(xlabel="Inference, in order", ylabel="Energy of one inference (mJ)")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 1.14), ncols=2)
    return ax


def dot_rows(frame: pd.DataFrame, x: str, y: str, hue: str, ax: Axes | None = None) -> Axes:
    """One row per value of `y` (first on top), one marker per value of `hue`, log axis for `x`."""
    ax = new_axes(ax)
    if frame.empty:
        return _not_at_hand(ax, frame)
    rows = _rows(ax, frame[y])
    for part, style in _parts(frame, hue):
        ax.plot(part[x], part[y].map(rows), ls="none", ms=7, alpha=0.85, **style)
    ax.set_xscale("log")
    plain_ticks(ax.xaxis)
    legend_below(ax)
    return ax


def ratio_strip(frame: pd.DataFrame, x: str, y: str, ax: Axes | None = None) -> Axes:
    """Ratios `y` per category `x` on a log axis, a line at 1 and a bar at each median."""
    ax = new_axes(ax)
    style: dict[str, Any] = {"palette": palette(frame[x]), "legend": False, "size": 4}
    sns.stripplot(frame, x=x, y=y, hue=x, jitter=0.25, alpha=0.6, ax=ax, **style)
    for i, median in enumerate(frame.groupby(x, sort=False)[y].median()):
        ax.plot([i - 0.35, i + 0.35], [median, median], color="black", linewidth=2.5, zorder=5)
    ax.axhline(1, color="#666666", linestyle="--", linewidth=1, zorder=0)
    ax.set(yscale="log", xlabel="")
    plain_ticks(ax.yaxis, decades=np.inf)
    return ax


def log_scatter(frame: pd.DataFrame, x: str, y: str, hue: str, ax: Axes | None = None) -> Axes:
    """Points on two log axes, colour and marker by `hue`; an empty frame shows its sentence.

    Columns `y` + "_low95" and "_high95" make a band and join the points.
    """
    own, ax = ax is None, new_axes(ax)
    if frame.empty:
        return _not_at_hand(ax, frame)
    banded = f"{y}_low95" in frame
    look: dict[str, Any] = {} if banded else {"ls": "none", "ms": 5, "alpha": 0.55}
    for part, style in _parts(frame, hue):
        ax.plot(part[x], part[y], **look, **style)
        if banded:
            band = (part[x], part[f"{y}_low95"], part[f"{y}_high95"])
            ax.fill_between(*band, color=style["color"], alpha=0.15, linewidth=0)
    ax.set(xscale="log", yscale="log")
    plain_ticks(ax.xaxis)
    plain_ticks(ax.yaxis)
    if own:
        legend_below(ax)
    return ax


def plain_ticks(axis: Axis, decades: float = 2) -> None:
    """Label a logarithmic axis shorter than `decades` with 1, 2 and 5, not powers of ten alone."""
    low, high = axis.get_view_interval()
    if high < 10**decades * low:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def legend_below(ax: Axes) -> None:
    """Put the legend of an Axes below its figure, in as many columns as its names allow."""
    handles, labels = ax.get_legend_handles_labels()
    style: dict[str, Any] = {"loc": "outside lower center", "ncols": 70 // max(map(len, labels))}
    ax.figure.legend(handles, labels, fontsize="small", handletextpad=0.1, **style)


def error_rows(
    frame: pd.DataFrame, x: str, y: str, hue: str | None = None, ax: Axes | None = None
) -> Axes:
    """Fractions `x`, a row per `y`, a marker per `hue`, bars from `x` + "_low95" to "_high95"."""
    own, ax = ax is None, new_axes(ax)
    if frame.empty:
        return _not_at_hand(ax, frame)
    rows = _rows(ax, frame[y])
    parts = _parts(frame, hue) if hue else [(frame, _styles([""])[""])]
    for i, (part, style) in enumerate(parts):
        place = part[y].map(rows) + (i - (len(parts) - 1) / 2) * 0.22
        bars = [part[x] - part[f"{x}_low95"], part[f"{x}_high95"] - part[x]]
        ax.errorbar(part[x], place, xerr=bars, linestyle="none", ms=8, **style)
    _percent_axis(ax.xaxis)
    if own and hue:
        legend_below(ax)
    return ax


def percent_ticks(axis: Axis, ticks: Iterable[float] = PERCENT_TICKS) -> None:
    """Label a logarithmic axis of fractions in percent at `ticks`."""
    low, high = axis.get_view_interval()
    axis.set_ticks([tick for tick in ticks if low <= tick <= high], minor=False)
    axis.set_minor_formatter("")
    axis.set_major_formatter(_percent)


def _percent_axis(axis: Axis) -> None:
    """Label a linear axis of fractions in percent, at round numbers."""
    axis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(_percent)


def _percent(value: float, _: float) -> str:
    return f"{100 * value:g} %"


def slice_lines(
    ax: Axes, sweep: pd.DataFrame, x: str, points: pd.DataFrame, y: str = "value"
) -> None:
    """Draw predictions `y` of each `method` over the size `x`, real `points` beside them.

    Columns `y` + "_low90" and "_high90" make a band; where `outside` is true a line is dotted.
    """
    ax.plot(points[x], points[y], "o", color="black", ms=4, alpha=0.5, mew=0, label="measured")
    for part, style in _parts(sweep, "method"):
        look: dict[str, Any] = {"color": style["color"], "lw": 1.6}
        band = part.get([f"{y}_low90", f"{y}_high90"])
        if band is not None and band.notna().all(axis=None):
            ax.fill_between(part[x], *band.T.to_numpy(), color=style["color"], alpha=0.2, lw=0)
        outside = part["outside"].astype(bool)
        near = [outside.shift(step, fill_value=False) for step in (-1, 1)]
        ax.plot(part[x], part[y].mask(outside), label=style["label"], **look)
        ax.plot(part[x], part[y].where(outside | near[0] | near[1]), ls=":", **look)
    ax.set(xscale="log", yscale="log")
    plain_ticks(ax.xaxis)
    plain_ticks(ax.yaxis)


def share_bars(shares: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """One bar per row (first on top), cut into the shares (fractions) of the columns."""
    own, ax = ax is None, new_axes(ax)
    rows, colours, left = _rows(ax, shares.index), palette(shares.columns), 0 * shares.iloc[:, 0]
    for name, hatch in zip(shares, _HATCHES, strict=False):
        style: dict[str, Any] = {"color": colours[name], "hatch": hatch, "label": str(name)}
        ax.barh(list(rows.values()), shares[name], left=left, edgecolor="white", **style)
        left = left + shares[name]
    ax.set_xlim(0, 1)
    _percent_axis(ax.xaxis)
    ax.grid(axis="y", visible=False)
    if own:
        legend_below(ax)
    return ax


def grey_diagonal(ax: Axes) -> Axes:
    """Draw the line on which prediction equals measurement, and give both axes its span."""
    span = [min(ax.get_xlim()[0], ax.get_ylim()[0]), max(ax.get_xlim()[1], ax.get_ylim()[1])]
    ax.plot(span, span, color="#888888", linewidth=1, zorder=0)
    ax.set(xlim=span, ylim=span, aspect="equal")
    return ax


def error_curves(frame: pd.DataFrame, x: str, y: str, hue: str, ax: Axes | None = None) -> Axes:
    """As `log_scatter`, for fractions `y` (shown in percent) over few values of `x`."""
    ax = log_scatter(frame, x, y, hue, ax)
    if not frame.empty:
        ax.set_xticks(frame[x].unique())
        ax.xaxis.set_major_formatter("{x:g}")
        percent_ticks(ax.yaxis)
    return ax


#: Second channel beside the colour of an area.
_HATCHES = ("", "////", "....", "xxxx", "----", "\\\\\\\\")
#: Smaller errors are drawn here: on a logarithmic axis there is no zero.
PERCENT_FLOOR = 1e-5


def budget_bars(parts: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """One bar per row, as long as the root of the sum of the squares of the columns.

    Each column takes the share that its square has in the sum: that is how independent
    uncertainties add up.
    """
    own, ax = ax is None, new_axes(ax)
    rows, colours = _rows(ax, parts.index), palette(parts.columns)
    total = np.sqrt((parts**2).sum(axis=1))
    until = (parts**2).fillna(0).cumsum(axis=1).div(total, axis=0)
    look: dict[str, Any] = {"height": 0.6, "edgecolor": "white"}
    for name, hatch in zip(parts, _HATCHES, strict=False):
        begin = until[name] - (parts[name] ** 2).fillna(0) / total
        style = {"color": colours[name], "hatch": hatch, "label": str(name), **look}
        ax.barh(list(rows.values()), until[name] - begin, left=begin, **style)
    for name, row in rows.items():
        ax.text(total[name] + 0.01 * total.max(), row, f"{total[name]:.2g}", va="center")
    ax.set_xlim(0, 1.15 * total.max())
    ax.grid(axis="y", visible=False)
    if own:
        legend_below(ax)
    return ax


def point_rows(
    frame: pd.DataFrame, x: str, y: str, hue: str | None = None, ax: Axes | None = None
) -> Axes:
    """One row per value of `y` (first on top), its points spread in height, a bar at the median.

    With `hue` a row has a lane, a colour and a marker for each value of it.
    """
    own, ax = ax is None, new_axes(ax)
    if frame.empty:
        return _not_at_hand(ax, frame)
    rows, rng = _rows(ax, frame[y]), np.random.default_rng(0)
    lanes = list(dict.fromkeys(frame[hue])) if hue else [None]
    half = 0.36 / len(lanes)
    for part, style in _parts(frame, hue or y):
        lane = lanes.index(part[hue].iloc[0]) if hue else 0
        place = part[y].map(rows) + (2 * lane + 1 - len(lanes)) * 1.1 * half
        spread = rng.uniform(-0.7, 0.7, len(part)) * half
        ax.plot(part[x], place + spread, ls="none", ms=5, alpha=0.5, mew=0, **style)
        for height, median in part.groupby(place)[x].median().items():
            ax.plot([median, median], [height - half, height + half], color="black", lw=2.5)
    if own and hue:
        legend_below(ax)
    return ax


def rate_errors(frame: pd.DataFrame, y: str, hue: str, ax: Axes | None = None) -> Axes:
    """Fractions `y` over falling `hertz`, a line per `hue`; hollow where `too_low` is true."""
    ax = new_axes(ax)
    for part, style in _parts(frame, hue):
        error = part[y].clip(lower=PERCENT_FLOOR)
        ax.plot(part["hertz"], error, lw=1, ms=8, mfc="white", **style)
        fine = ~part["too_low"]
        ax.plot(part["hertz"][fine], error[fine], ls="none", ms=8, **{**style, "label": None})
    ax.set(xscale="log", yscale="log", xlim=(8000, 0.6), ylim=(0.8 * PERCENT_FLOOR, 10))
    percent_ticks(ax.yaxis, (1e-4, 1e-3, 1e-2, 1e-1, 1))
    return ax
