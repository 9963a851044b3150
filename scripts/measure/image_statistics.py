"""Differences between two sets of images in simple statistics of their channels.

All images are 8-bit pictures of one size, and everything is in gray levels (0..255). For each channel:

mean, standard deviation: over all pixels of all images. Their error is the absolute difference.
gradient magnitude: sqrt(dx^2 + dy^2) of forward differences, at the pixels that have a neighbor on the right and one
    below. Its error is the 1-D Wasserstein distance of two histograms, whose 64 bins are as wide as the root of the
    magnitude (0.1 gray levels at 0, 11 at the largest that there can be). It says how far, on average, a gradient
    would have to be moved, and depends neither on the bins nor much on how many images there are: what chance puts
    into the next bin counts by the bin's small width. In a total variation it would count in full, and the more bins
    and the fewer images, the more of it there would be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]  # [N, H, W, C]
Values = NDArray[np.float64]

STATISTICS = {"mean": "mean", "std": "standard deviation", "gradient": "gradient magnitude"}
BINS = 64
# Root-spaced: most gradients of natural images are of a few gray levels.
BIN_EDGES: Values = np.hypot(255, 255) * np.linspace(0, 1, BINS + 1) ** 2
MOST_WORSE = 0.05
SPLITS = 200  # random halves of the real images


class Statistics(NamedTuple):
    """Statistics of a set of images, in gray levels; each [C].

    gradient: the mean gradient magnitude.
    histogram: [C, BINS], the shares of the gradient magnitudes that are in each bin.
    """

    mean: Values
    std: Values
    gradient: Values
    histogram: Values


class Sums(NamedTuple):
    """Sums over the pixels of each of N images, which give the statistics of any subset.

    pixels, squares: [N, C] float64, of the values and of their squares, exact. values: how many they are of.
    magnitudes: [N, C], of the gradient magnitudes. histogram: [N, C, BINS] their counts.
    """

    pixels: Values
    squares: Values
    values: int
    magnitudes: Values
    histogram: Values

    def statistics(self, which: slice | NDArray[np.int64] = slice(None)) -> Statistics:
        """Return the statistics of the images that `which` selects."""
        pixels, squares, magnitudes, histogram = (
            part[which] for part in (self.pixels, self.squares, self.magnitudes, self.histogram)
        )
        total = len(pixels) * self.values
        mean = pixels.sum(0) / total
        counts = histogram.sum(0)
        return Statistics(
            mean=mean,
            std=np.sqrt(np.maximum(squares.sum(0) / total - mean**2, 0)),
            gradient=magnitudes.sum(0) / counts.sum(1),
            histogram=counts / counts.sum(1, keepdims=True),
        )


def sums_of(images: Pixels) -> Sums:
    """Return the sums of `images` [N, H, W, C], uint8, at least 2 pixels high and wide."""
    assert images.dtype == np.uint8
    assert images.ndim == 4
    values = images.astype(np.float64)
    down, right = (np.diff(values, axis=axis) for axis in (1, 2))
    magnitude = np.hypot(down[:, :, :-1], right[:, :-1])
    histogram = [[np.histogram(channel, BIN_EDGES)[0] for channel in np.moveaxis(image, -1, 0)] for image in magnitude]
    return Sums(
        pixels=values.sum((1, 2)),
        squares=(values**2).sum((1, 2)),
        values=images.shape[1] * images.shape[2],
        magnitudes=magnitude.sum((1, 2)),
        histogram=np.array(histogram, np.float64),
    )


def wasserstein(first: Values, second: Values) -> Values:
    """Return the 1-D Wasserstein distance [...] of histograms [..., BINS] of shares, in gray levels.

    It is the area between the cumulative distributions; what is in a bin counts as in the middle of it.
    """
    middles = (BIN_EDGES[1:] + BIN_EDGES[:-1]) / 2
    between = np.cumsum(first - second, axis=-1)[..., :-1]
    return (np.abs(between) * np.diff(middles)).sum(-1)


def errors_of(found: Statistics, real: Statistics) -> dict[str, Values]:
    """Return the error [C] of each statistic of `found` against `real`, all in gray levels."""
    return {
        "mean": np.abs(found.mean - real.mean),
        "std": np.abs(found.std - real.std),
        "gradient": wasserstein(found.histogram, real.histogram),
    }


def halves_of(sums: Sums) -> dict[str, Values]:
    """Return the mean error [C] of one random half of the images against the other: what chance alone makes.

    Halves vary more than two whole sets of that many images would, by about the root of 2.
    """
    count = len(sums.pixels)
    generator = np.random.default_rng(0)
    found = []
    for _ in range(SPLITS):
        order = generator.permutation(count)
        found.append(errors_of(sums.statistics(order[: count // 2]), sums.statistics(order[count // 2 :])))
    return {name: np.mean([errors[name] for errors in found], axis=0) for name in STATISTICS}


# ------------------------------------------------------------------------------------------------- comparison


@dataclass(frozen=True)
class Figure:
    """A mean over seeds and the standard deviation over them, None where there is one seed."""

    mean: float
    spread: float | None

    @staticmethod
    def of(values: Sequence[float] | Values) -> Figure:
        """Return the figure of one value a seed."""
        return Figure(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None)

    def text(self, sign: str = "") -> str:
        """Return it with three decimals; `sign` "+" shows the sign of a difference."""
        return f"{self.mean:{sign}.3f}" + ("" if self.spread is None else f" ± {self.spread:.3f}")


@dataclass(frozen=True)
class Row:
    """One statistic of one channel of one set of samples.

    value: the statistic (of the gradient: its mean), error: against the real images, in gray levels.
    difference: its error less the reference's, seed by seed. worse: the mean error over the reference's, less 1; None
        where the latter is 0. value_change: the mean value over the reference's, less 1; None likewise.
    accepted: the error is at most 5 % larger than the reference's.
    """

    statistic: str
    channel: int
    setting: str
    value: Figure
    error: Figure
    difference: Figure
    worse: float | None
    value_change: float | None
    accepted: bool


def compare(sets: Mapping[str, Sequence[Statistics]], real: Statistics) -> list[Row]:
    """Return the rows of all settings, statistic by statistic; `sets`: one entry a seed for each, the reference first.

    Every setting, the reference among them, is held against the reference.
    """
    rows = []
    reference = next(iter(sets))
    for statistic in STATISTICS:
        for channel in range(len(real.mean)):
            values = {key: np.array([getattr(found, statistic)[channel] for found in sets[key]]) for key in sets}
            errors = {
                key: np.array([errors_of(found, real)[statistic][channel] for found in sets[key]]) for key in sets
            }
            for setting in sets:
                rows.append(
                    Row(
                        statistic,
                        channel,
                        setting,
                        value=Figure.of(values[setting]),
                        error=Figure.of(errors[setting]),
                        difference=Figure.of(errors[setting] - errors[reference]),
                        worse=_excess(errors[setting], errors[reference]),
                        value_change=_excess(values[setting], values[reference]),
                        accepted=bool(errors[setting].mean() <= (1 + MOST_WORSE) * errors[reference].mean()),
                    )
                )
    return rows


def _excess(values: Values, reference: Values) -> float | None:
    return float(values.mean() / reference.mean() - 1) if reference.mean() else None


def table(rows: Sequence[Row], calls: Mapping[str, int], real: Statistics, halves: Mapping[str, Values]) -> str:
    """Return the rows as a Markdown table, a block for each statistic and channel that begins with the real images.

    calls: of the network for an image, by setting, the reference first.
    """
    reference = next(iter(calls))
    lines = [
        "| statistic | images | network calls | calls over reference's | value | value over reference's, less 1 "
        "| error | error less reference's | worse | at most 5 % worse |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        name = STATISTICS[row.statistic] + (f", channel {row.channel}" if len(real.mean) > 1 else "")
        if row.setting == reference:
            value, half = getattr(real, row.statistic)[row.channel], halves[row.statistic][row.channel]
            lines.append(f"| {name} | real | | | {value:.3f} | | {half:.3f} (halves) | | | |")
        cells = [f"`{row.setting}`", str(calls[row.setting]), f"{calls[row.setting] / calls[reference]:.3g}"]
        if row.setting == reference:
            cells += [row.value.text(), "", row.error.text(), "", "", ""]
        else:
            cells += [row.value.text(), _percent(row.value_change), row.error.text(), row.difference.text("+")]
            cells += [_percent(row.worse), "yes" if row.accepted else "no"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:+.1f} %"
