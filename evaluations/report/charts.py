"""Charts of the report. Each function is called without `axes` and returns an SVG element; see drawing.chart.

They are made for a column of 340 to 560 CSS pixels. Values that are None, NaN or infinite are left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from numpy.typing import ArrayLike, NDArray

from evaluations.report.drawing import (
    BETTER,
    GRID,
    INK,
    MUTED,
    SERIES,
    TEXT,
    WORSE,
    add_legend,
    chart,
    finite,
    numbers_of,
    wrapped,
)

Scores = Sequence[float | None] | NDArray[np.floating]

_BINS = 24
_MANY_ROWS = 24  # with so many the axis is repeated above the rows
_LOG_FROM = 100.0  # ratio of the largest to the smallest value above which `paired_bars` has a logarithmic axis
_COLORS = (*SERIES, MUTED)
_MARKERS = "oDs^vPX"
_STYLES = ("solid", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))


@dataclass(frozen=True)
class SettingBar:
    """One setting of the study: mean score over seeds, ends of its interval or None, scores of the seeds; in 0..1.

    low, high: the baseline's mean plus the ends of the interval of the paired difference to the baseline.
    """

    label: str
    mean: float | None
    low: float | None = None
    high: float | None = None
    seeds: Sequence[float | None] = ()


# ------------------------------------------------------------------------------------------------------- rows


@chart
def iou_bars(axes: Axes, arms: Sequence[SettingBar], baseline: str) -> None:
    """Draw the mean IoU of each arm, its interval and its seeds, and a vertical line at the arm labeled `baseline`.

    An arm whose interval is wholly above the baseline's mean has an upward mark, one wholly below a downward mark.
    """
    axes.figure.set_figheight(0.7 + 0.42 * max(1, len(arms)))
    means = {arm.label: 100 * numbers_of(arm.mean)[0] for arm in arms}
    reference = means.get(baseline, math.nan)
    axes.axvline(reference, color=MUTED, linestyle=(0, (4, 3)), linewidth=1.2, zorder=1)
    for row, arm in enumerate(arms):
        _draw_arm(axes, row, arm, reference, arm.label == baseline)
    _name_rows(axes, [wrapped(arm.label, 20, 2) for arm in arms])
    left, right = axes.dataLim.intervalx
    if left <= right:
        margin = max(1.0, 0.08 * (right - left))
        axes.set_xlim(left - margin, right + margin)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.set_xlabel("mIoU in percent")


def _draw_arm(axes: Axes, row: int, arm: SettingBar, reference: float, is_baseline: bool) -> None:
    mean, low, high = 100 * numbers_of([arm.mean, arm.low, arm.high])
    color, marker = MUTED, "o"
    if is_baseline:
        color, marker = INK, "s"
    elif low > reference:  # False where one is NaN
        color, marker = BETTER, "^"
    elif high < reference:
        color, marker = WORSE, "v"
    # The seeds are drawn below the mean, which would hide them.
    seeds = 100 * finite(arm.seeds)
    axes.plot(seeds, [row + 0.26] * len(seeds), "o", markersize=3.5, markerfacecolor="none", color=MUTED, zorder=2)
    axes.plot([low, high], [row, row], color=color, linewidth=2.4, zorder=3)
    axes.plot(mean, row, marker, color=color, markersize=8, zorder=4)
    text = "–" if math.isnan(mean) else f"{mean:.1f}"
    axes.text(1.02, row, text, color=color, weight="bold", va="center", transform=axes.get_yaxis_transform())


@chart
def class_bars(axes: Axes, class_names: Sequence[str], series: Mapping[str, Scores]) -> None:
    """Draw the IoU of every class for several arms: a row per class, a mark per arm.

    series: arm -> its IoU in 0..1 of each class; NaN or None for a class that the test images do not have.
    """
    values = {name: 100 * numbers_of(scores) for name, scores in series.items()}
    _draw_rows(axes, class_names, values)
    lowest = min((finite(scores).min(initial=100) for scores in values.values()), default=0)
    axes.set_xlim(max(-2, 10 * math.floor((lowest - 5) / 10)), 102)
    axes.set_xlabel("IoU in percent")


@chart
def paired_bars(axes: Axes, names: Sequence[str], real: Scores, synthetic: Scores, xlabel: str) -> None:
    """Draw a number of the real beside that of the synthetic images, for each of `names`, such as class area shares.

    The axis is logarithmic, but for a linear part around 0, if no value is negative and they span over two decades.
    """
    _draw_rows(axes, names, {"real": numbers_of(real), "synthetic": numbers_of(synthetic)})
    values = finite([*real, *synthetic])
    positive = values[values > 0]
    if len(positive) and values.min() >= 0 and positive.max() / positive.min() > _LOG_FROM:
        axes.set_xscale("symlog", linthresh=10.0 ** math.floor(math.log10(positive.min())))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlim(left=0)
    else:
        axes.axvline(0, color=GRID, zorder=0)
    axes.set_xlabel(wrapped(xlabel, 48, 2))


def _draw_rows(axes: Axes, names: Sequence[str], series: Mapping[str, NDArray[np.float64]]) -> None:
    """Draw a mark per row and series, joined by a line."""
    many = 0.3 if len(names) >= _MANY_ROWS else 0
    axes.figure.set_figheight(0.75 + 0.25 * max(1, len(names)) + 0.22 * math.ceil(len(series) / 2) + many)
    table = np.array(list(series.values())).reshape(len(series), len(names))
    rows = np.arange(len(names))
    ends = [reduce(table, axis=0, initial=np.nan) for reduce in (np.fmin.reduce, np.fmax.reduce)]
    axes.plot(ends, [rows, rows], color=GRID, linewidth=3, zorder=1, solid_capstyle="round")
    look = {"markersize": 6.5, "linestyle": "none", "alpha": 0.9, "zorder": 3, "clip_on": False}
    for name, values, marker, color in zip(series, table, cycle(_MARKERS), cycle(_COLORS), strict=False):
        axes.plot(values, rows, marker=marker, color=color, label=wrapped(name, 24), **look)
    for row in np.flatnonzero(np.isnan(table).all(axis=0)):
        where = {"transform": axes.get_yaxis_transform(), "va": "center"}
        axes.text(0.02, row, "no value", color=MUTED, fontsize=TEXT - 1, **where)
    _name_rows(axes, [wrapped(name, 22) for name in names])
    add_legend(axes)


def _name_rows(axes: Axes, labels: Sequence[str]) -> None:
    """Name the rows 0, 1, ... from the top."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(max(1, len(labels)) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    if len(labels) >= _MANY_ROWS:
        axes.tick_params(axis="x", top=True, labeltop=True)


# ------------------------------------------------------------------------------------------------- histograms


@chart
def score_histogram(axes: Axes, scores: ArrayLike, threshold: float | None, xlabel: str) -> None:
    """Draw how many samples have which score (in 0..1), with the median and the threshold, if there is one.

    Samples below `threshold` have another color; the legend tells their number.
    """
    values = finite(scores)
    bins = {"bins": _BINS, "range": (0, 1)}
    above, bottom = values, None
    if threshold is not None:
        below, above = values[values < threshold], values[values >= threshold]
        label = f"below {threshold:.3g}: {len(below)} of {len(values)}"
        # The bin with the threshold has both colors, one above the other.
        bottom = axes.hist(below, **bins, label=label, hatch="////", fill=False, edgecolor=WORSE)[0]
        axes.axvline(threshold, color=WORSE, linestyle=(0, (4, 3)))
    axes.hist(above, **bins, bottom=bottom, color=SERIES[0], alpha=0.85)
    if len(values):
        axes.axvline(np.median(values), color=INK, label=f"median {np.median(values):.3g}")
    _label_histogram(axes, xlabel, "samples")


@chart
def distance_histogram(axes: Axes, real: ArrayLike, samples: ArrayLike, xlabel: str) -> None:
    """Draw the distances of real images to their nearest other one and of samples to their nearest training image.

    Bars are shares of each set, since one may be much larger than the other.
    """
    sets = {"real to nearest other": finite(real), "sample to nearest training image": finite(samples)}
    bins = {"bins": _BINS, "range": (0, max(values.max(initial=0) for values in sets.values()) or 1)}
    looks = {"alpha": 0.45, "color": SERIES[0]}, {"fill": False, "edgecolor": SERIES[1], "linewidth": 1.8}
    for (name, values), look in zip(sets.items(), looks, strict=True):
        percent = np.full(len(values), 100 / max(1, len(values)))
        axes.hist(values, **bins, weights=percent, histtype="stepfilled", label=f"{name} ({len(values)})", **look)
    _label_histogram(axes, xlabel, "percent")


def _label_histogram(axes: Axes, xlabel: str, ylabel: str) -> None:
    axes.set(xlabel=wrapped(xlabel, 48, 2), ylabel=ylabel, ylim=(0, max(1.0, axes.get_ylim()[1])))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.grid(visible=False, axis="x")
    add_legend(axes)


# ----------------------------------------------------------------------------------------------------- curves


@dataclass(frozen=True)
class AmountPoint:
    """An arm at a number of annotated images: mean score over seeds, its standard deviation or None; in 0..1."""

    images: int
    mean: float | None
    std: float | None = None


@chart
def amount_curves(axes: Axes, series: Mapping[str, Sequence[AmountPoint]], ylabel: str) -> None:
    """Draw the score of each arm over the number of annotated images, with the standard deviation over seeds.

    The axis of images is logarithmic; marks of arms stand a little beside each other, so that none hides another.
    """
    axes.figure.set_figheight(3.6)
    looks = zip(series.items(), cycle(_COLORS), cycle(_MARKERS), cycle(_STYLES), strict=False)
    shift = 0.006 * np.log10(max((p.images for points in series.values() for p in points), default=10))
    for number, ((name, points), color, marker, style) in enumerate(looks):
        x = numbers_of([p.images for p in points]) * 10 ** (shift * (number - (len(series) - 1) / 2))
        y, error = (100 * numbers_of([getattr(p, key) for p in points]) for key in ("mean", "std"))
        label = wrapped(name, 24)
        axes.plot(x, y, color=color, marker=marker, markersize=5.5, linestyle=style, label=label, zorder=3)
        axes.vlines(x, y - np.nan_to_num(error), y + np.nan_to_num(error), color=color, linewidth=1.4, alpha=0.6)
    add_legend(axes)
    axes.set_xscale("log")
    amounts = sorted({p.images for points in series.values() for p in points})
    axes.set_xticks(amounts, [str(amount) for amount in amounts])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlabel="annotated images", ylabel=wrapped(ylabel, 48, 2))


@chart
def spectrum_curves(axes: Axes, frequency: ArrayLike, real: ArrayLike, synthetic: ArrayLike) -> None:
    """Draw radially averaged power, on a logarithmic axis, against the spatial frequency in cycles per pixel."""
    _draw_curves(axes, {"real": (frequency, real), "synthetic": (frequency, synthetic)})
    axes.set(xlabel="cycles per pixel", ylabel="power")


@chart
def loss_history(axes: Axes, runs: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """Draw the mean training loss of each epoch of one or several runs, on a logarithmic axis.

    runs: name -> one mapping per epoch with the keys "epoch" and "loss".
    """
    read = {name: [[epoch.get(key) for epoch in run] for key in ("epoch", "loss")] for name, run in runs.items()}
    _draw_curves(axes, read)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set(xlabel="epoch", ylabel="mean training loss")


def _draw_curves(axes: Axes, curves: Mapping[str, Sequence[ArrayLike]]) -> None:
    """Draw (x, y) of each name; the y axis is logarithmic unless all values lie within a factor of 5."""
    for (name, (x, y)), color, style in zip(curves.items(), cycle(_COLORS), cycle(_STYLES), strict=False):
        marker = "o" if len(finite(y)) < 15 else None  # a single value draws no line
        label = wrapped(name, 24)
        axes.plot(numbers_of(x), numbers_of(y), color=color, linestyle=style, marker=marker, markersize=4, label=label)
    add_legend(axes)
    low, high = axes.yaxis.get_minpos(), axes.yaxis.get_data_interval()[1]
    if high >= 5 * low:  # else there would be one tick or none
        axes.set_yscale("log", nonpositive="mask")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 30 * low else (1,)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter("{x:g}")  # matplotlib's own needs its mathematics parser
