"""Charts of the report, each as two SVG documents: for a light and for a dark page.

Labels stay text in the reader's own sans-serif font, which is a tenth of the size of drawn glyphs. The background is
transparent. Sizes suit a column of 340 to 560 CSS pixels. Values that are None, NaN or infinite are left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from evaluations.report.drawing import (
    TEXT,
    Chart,
    Theme,
    add_legend,
    draw_chart,
    finite,
    is_known,
    log_axis,
    numbers_of,
    wrapped,
)

_BINS = 24
_MANY_ROWS = 24  # from here on the axis is repeated above the rows
_LOG_FROM = 100.0  # ratio of the largest to the smallest value from which `paired_bars` takes a logarithmic axis
_MARKERS = "oDs^vPX"


@dataclass(frozen=True)
class SettingBar:
    """One setting of the study: mean score over seeds, ends of its interval or None, scores of the seeds; in 0..1.

    Whiskers can be read against the baseline's line: low and high are the baseline's mean plus the ends of the interval
    of the paired difference to it.
    """

    label: str
    mean: float | None
    low: float | None = None
    high: float | None = None
    seeds: Sequence[float] = ()


# ------------------------------------------------------------------------------------------------------- rows


def iou_bars(arms: Sequence[SettingBar], baseline: str, title: str = "") -> Chart:
    """Draw the mean IoU of each arm with its interval and its seeds; the baseline's mean is a vertical line.

    An arm whose interval lies wholly above the baseline's mean has an upward mark, one wholly below a downward mark.
    baseline: the label of the baseline's arm; without such an arm there is no line.
    """
    reference = next((100 * arm.mean for arm in arms if arm.label == baseline and is_known(arm.mean)), None)

    def draw(axes: Axes, theme: Theme) -> None:
        if reference is not None:
            axes.axvline(reference, color=theme.muted, linestyle=(0, (4, 3)), linewidth=1.2, zorder=1)
        for row, arm in enumerate(arms):
            _draw_arm(axes, theme, row, arm, reference, arm.label == baseline)
        _name_rows(axes, [wrapped(arm.label, 20, 2) for arm in arms])
        axes.set_xlim(*_percent_limits(arms))
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.set_xlabel("mIoU in percent", color=theme.muted)

    return draw_chart(draw, 0.7 + 0.42 * max(1, len(arms)), title)


def _draw_arm(axes: Axes, theme: Theme, row: int, arm: SettingBar, reference: float | None, is_baseline: bool) -> None:
    seeds = 100 * finite(arm.seeds)
    # Beside the mean, not on it: with few seeds they would hide each other.
    axes.plot(
        seeds, np.full(len(seeds), row + 0.26), "o", markersize=3.5, markerfacecolor="none", color=theme.muted, zorder=2
    )
    at_right = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": TEXT}
    if not is_known(arm.mean):
        axes.text(1.02, row, "–", color=theme.muted, **at_right)
        return
    color, marker = theme.muted, "o"
    if is_baseline:
        color, marker = theme.ink, "s"
    elif reference is not None and is_known(arm.low) and 100 * arm.low > reference:
        color, marker = theme.better, "^"
    elif reference is not None and is_known(arm.high) and 100 * arm.high < reference:
        color, marker = theme.worse, "v"
    if is_known(arm.low) and is_known(arm.high):
        axes.plot([100 * arm.low, 100 * arm.high], [row, row], color=color, linewidth=2.4, zorder=3)
    axes.plot(100 * arm.mean, row, marker, color=color, markersize=8, zorder=4)
    axes.text(1.02, row, f"{100 * arm.mean:.1f}", color=color, weight="bold", **at_right)


def _percent_limits(arms: Sequence[SettingBar]) -> tuple[float, float]:
    """Return the ends of an axis in percent that shows every number of `arms` and at least two points."""
    values = 100 * finite([value for arm in arms for value in (arm.mean, arm.low, arm.high, *arm.seeds)])
    if not len(values):
        return 0.0, 100.0
    margin = max(1.0, 0.08 * float(np.ptp(values)))
    return float(values.min()) - margin, float(values.max()) + margin


def class_bars(
    class_names: Sequence[str], series: Mapping[str, Sequence[float | None] | NDArray[np.floating]], title: str = ""
) -> Chart:
    """Draw the IoU of every class for several arms: a row per class, a mark per arm.

    series: arm -> its IoU in 0..1 of each class; NaN or None where a class has none, such as one that the test images
        do not have.
    """
    values = {name: 100 * numbers_of(scores) for name, scores in series.items()}
    assert all(len(scores) == len(class_names) for scores in values.values())

    def draw(axes: Axes, theme: Theme) -> None:
        _draw_rows(axes, theme, class_names, values)
        known = finite(np.concatenate(list(values.values()))) if values else np.empty(0)
        axes.set_xlim(max(-2.0, 10 * math.floor((float(known.min()) - 5) / 10)) if len(known) else 0, 102)
        axes.set_xlabel("IoU in percent", color=theme.muted)

    return draw_chart(draw, _rows_height(len(class_names), len(values)), title)


def paired_bars(
    names: Sequence[str],
    real: Sequence[float | None] | NDArray[np.floating],
    synthetic: Sequence[float | None] | NDArray[np.floating],
    xlabel: str,
    title: str = "",
) -> Chart:
    """Draw a number of the real beside that of the synthetic images, for each of `names`, such as class area shares.

    The axis is logarithmic where no value is negative and the positive ones span more than two decades; a zero is then
    an open mark at the left end.
    """
    values = {"real": numbers_of(real), "synthetic": numbers_of(synthetic)}
    assert all(len(numbers) == len(names) for numbers in values.values())
    all_values = finite(np.concatenate(list(values.values())))
    positive = all_values[all_values > 0]
    logarithmic = len(positive) > 0 and all_values.min() >= 0 and positive.max() / positive.min() > _LOG_FROM
    floor = 10.0 ** math.floor(math.log10(positive.min()) - 0.5) if logarithmic else None

    def draw(axes: Axes, theme: Theme) -> None:
        if floor is not None:
            log_axis(axes, "x")
            axes.set_xlim(floor / 1.5, float(positive.max()) * 1.7)
        elif len(all_values):
            low, high = min(0.0, float(all_values.min())), max(0.0, float(all_values.max()))
            margin = 0.04 * (high - low) or 1.0
            axes.set_xlim(low - margin, high + margin)
        _draw_rows(axes, theme, names, values, floor)
        axes.set_xlabel(wrapped(xlabel, 48, 2), color=theme.muted)

    return draw_chart(draw, _rows_height(len(names), 2), title)


def _rows_height(rows: int, series: int) -> float:
    """Return the height in inches of a chart made by _draw_rows."""
    return 0.75 + 0.25 * max(1, rows) + 0.22 * math.ceil(series / 2) + (0.3 if rows >= _MANY_ROWS else 0)


def _draw_rows(
    axes: Axes,
    theme: Theme,
    names: Sequence[str],
    series: Mapping[str, NDArray[np.float64]],
    floor: float | None = None,
) -> None:
    """Draw a mark per row and series, the marks of a row joined by a line; zeros at `floor`, where there is one."""
    rows = np.arange(len(names))
    table = np.stack([*series.values(), np.full(len(names), np.nan)])
    zero = np.zeros(table.shape, bool)
    if floor is not None:
        zero = table == 0
        table = np.where(zero, floor, table)
    for row in np.flatnonzero(np.isfinite(table).sum(axis=0) > 1):
        ends = table[np.isfinite(table[:, row]), row]
        axes.plot([ends.min(), ends.max()], [row, row], color=theme.grid, linewidth=3, zorder=1, solid_capstyle="round")
    for index, name in enumerate(series):
        look = {
            "marker": _MARKERS[index % len(_MARKERS)],
            "color": theme.series[index % len(theme.series)],
            "markersize": 6.5,
            "linestyle": "none",
            "alpha": 0.9,
            "zorder": 3,
        }
        axes.plot(np.where(zero[index], np.nan, table[index]), rows, label=wrapped(name, 24, 1), **look)
        axes.plot(np.where(zero[index], table[index], np.nan), rows, markerfacecolor="none", **look)
    for row in np.flatnonzero(~np.isfinite(table).any(axis=0)):
        where = {"transform": axes.get_yaxis_transform(), "va": "center"}
        axes.text(0.02, row, "no value", color=theme.muted, fontsize=TEXT - 1, **where)
    if zero.any():
        axes.plot([], [], "o", color=theme.muted, markerfacecolor="none", label="open: zero")
    _name_rows(axes, [wrapped(name, 22, 1) for name in names])
    add_legend(axes, theme)


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


def score_histogram(scores: ArrayLike, threshold: float | None, title: str = "", xlabel: str = "IoU") -> Chart:
    """Draw how many samples have which score (in 0..1), with the median and, where there is one, the threshold.

    Samples below `threshold` have another color, and their count stands in the legend.
    """
    values = finite(scores)

    def draw(axes: Axes, theme: Theme) -> None:
        edges = _edges(min(0.0, *values, 0.0), max(1.0, *values, 1.0), threshold)
        limit = -np.inf if threshold is None else threshold
        below, kept = values[values < limit], values[values >= limit]
        if threshold is not None:
            label = f"below {threshold:.3g}: {len(below)} of {len(values)}"
            axes.hist(below, edges, color=theme.worse, label=label, hatch="////", fill=False, edgecolor=theme.worse)
        axes.hist(kept, edges, color=theme.series[0], alpha=0.85)
        if threshold is not None:
            _vertical(axes, threshold, theme.worse, (0, (4, 3)), None)
        if len(values):
            middle = float(np.median(values))
            _vertical(axes, middle, theme.ink, "solid", f"median {middle:.3g}")
        _count_axis(axes, theme, "samples", xlabel)

    return draw_chart(draw, 2.7, title)


def distance_histogram(
    real: ArrayLike, samples: ArrayLike, threshold: float | None, xlabel: str = "distance", title: str = ""
) -> Chart:
    """Draw the distances of real images to their nearest other one and of samples to their nearest training image.

    Both as shares of their own number, since there may be many more of one than of the other. Left of `threshold` a
    sample is suspected to be a copy.
    """
    sets = {"real to nearest other": finite(real), "sample to nearest training image": finite(samples)}

    def draw(axes: Axes, theme: Theme) -> None:
        together = np.concatenate(list(sets.values()))
        highest = max(float(together.max()) if len(together) else 0.0, threshold or 0.0) or 1.0
        edges = _edges(min(0.0, *together, 0.0), highest, threshold)
        for (name, values), color, filled in zip(sets.items(), theme.series, (True, False), strict=False):
            share = np.full(len(values), 100 / max(1, len(values)))
            look = {"alpha": 0.45, "color": color} if filled else {"edgecolor": color, "linewidth": 1.8}
            label = f"{name} ({len(values)})"
            axes.hist(values, edges, weights=share, histtype="stepfilled", fill=filled, label=label, **look)
        if threshold is not None:
            _vertical(axes, threshold, theme.ink, (0, (4, 3)), f"suspected copy: below {threshold:.3g}")
        _count_axis(axes, theme, "percent", xlabel)

    return draw_chart(draw, 3.1, title)


def _edges(low: float, high: float, threshold: float | None) -> NDArray[np.float64]:
    """Return the edges of about equal bins, with the threshold among them: no bar may lie on both sides of it."""
    if threshold is None or not low < threshold < high:
        return np.linspace(low, high, _BINS + 1)
    left = min(max(1, round(_BINS * (threshold - low) / (high - low))), _BINS - 1)
    return np.concatenate([np.linspace(low, threshold, left + 1), np.linspace(threshold, high, _BINS - left + 1)[1:]])


def _vertical(axes: Axes, x: float, color: str, style: str | tuple[int, tuple[int, int]], label: str | None) -> None:
    axes.axvline(x, color=color, linestyle=style, linewidth=1.6, label=label)


def _count_axis(axes: Axes, theme: Theme, ylabel: str, xlabel: str) -> None:
    axes.set_xlabel(wrapped(xlabel, 48, 2), color=theme.muted)
    axes.set_ylabel(ylabel, color=theme.muted)
    axes.set_ylim(0, max(1.0, axes.get_ylim()[1]))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.grid(visible=False, axis="x")
    add_legend(axes, theme)


# ----------------------------------------------------------------------------------------------------- curves


def spectrum_curves(frequency: ArrayLike, real: ArrayLike, synthetic: ArrayLike, title: str = "") -> Chart:
    """Draw radially averaged power, on a logarithmic axis, against the spatial frequency in cycles per pixel."""
    x = numbers_of(frequency)

    def draw(axes: Axes, theme: Theme) -> None:
        for (name, power), color, style in zip(
            {"real": real, "synthetic": synthetic}.items(), theme.series, ("solid", (0, (5, 2))), strict=False
        ):
            y = numbers_of(power)
            _line(axes, x, np.where(y > 0, y, np.nan), color, style, name)
        log_axis(axes, "y")
        axes.set_xlabel("cycles per pixel", color=theme.muted)
        axes.set_ylabel("power", color=theme.muted)
        add_legend(axes, theme)

    return draw_chart(draw, 2.9, title)


def loss_history(
    history: Sequence[Mapping[str, float]] | Mapping[str, Sequence[Mapping[str, float]]], title: str = ""
) -> Chart:
    """Draw the mean training loss of each epoch, of one run or of several by name; see log_axis.

    history: one mapping per epoch with the keys "epoch" and "loss".
    """
    runs = history if isinstance(history, Mapping) else {"": history}

    def draw(axes: Axes, theme: Theme) -> None:
        for index, (name, epochs) in enumerate(runs.items()):
            x, y = (numbers_of([record.get(key) for record in epochs]) for key in ("epoch", "loss"))
            style = ("solid", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))[index % 4]
            color = theme.series[index % len(theme.series)]
            _line(axes, x, np.where(y > 0, y, np.nan), color, style, wrapped(name, 24, 1))
        log_axis(axes, "y")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel("epoch", color=theme.muted)
        axes.set_ylabel("mean training loss", color=theme.muted)
        add_legend(axes, theme)

    return draw_chart(draw, 2.9, title)


def _line(
    axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64], color: str, style: str | tuple, label: str
) -> None:
    # A marker too: a single value would draw no line.
    marker = "o" if np.isfinite(y).sum() < 15 else None
    axes.plot(x, y, color=color, linestyle=style, linewidth=1.8, marker=marker, markersize=4, label=label)
