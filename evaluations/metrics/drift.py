"""Drift: do the samples look like the real images, statistically?

Mean and standard deviation of each channel, class areas and power spectra are compared. A difference that is large and
beyond chance gives a warning: evaluations/README.md has the tests and limits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from evaluations.errors import EvaluationError
from evaluations.metrics.base import EvaluationSets, Measurement, Metric
from evaluations.report import charts
from evaluations.report.page import Figure, Section
from evaluations.sets import Images, ImageSet, Labels

Values = NDArray[np.float64]

BEYOND_CHANCE = 0.01  # p value for all statistics together
LARGE_SPREAD = 0.25  # of the standard deviation among the real images
LARGE_LEVELS = 2.0  # gray levels
LARGE_AREA = 2.0  # factor
LARGE_POWER = 3.0  # dB
HIGH_FREQUENCY = 1 / 3  # cycles per pixel; along an axis there are none above 1/2
ROUNDING_POWER = 1 / 12  # of the rounding to whole gray levels: there is no signal below it


@dataclass(frozen=True)
class Statistic:
    """One statistic of both sets, and its spread: the standard deviation from image to image in the real set.

    z: the difference over its standard error; None where nothing varies. large: whether the difference is.
    p: how probable such a difference is by chance, times the number of all statistics and at most 1.
    """

    real: float
    synthetic: float
    spread: float
    z: float | None
    p: float
    large: bool

    @property
    def change(self) -> float:
        """The samples' value minus the real one."""
        return self.synthetic - self.real

    @property
    def notable(self) -> bool:
        """Whether the difference is large and beyond chance, which is what a warning needs."""
        return self.large and self.p < BEYOND_CHANCE

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON file."""
        return {**asdict(self), "notable": self.notable}


@dataclass(frozen=True)
class Drift:
    """How `num_synthetic` images differ from `num_real`: mean and std of each channel in gray levels.

    areas: of each class, its share of the pixels that have a class, in 0..1. high_power: of the highest third of the
    frequencies, in dB. real_spectrum, synthetic_spectrum: [B] in dB by frequency [B] in cycles per pixel; see spectra.
    """

    num_real: int
    num_synthetic: int
    channels: tuple[str, ...]
    mean: tuple[Statistic, ...]
    std: tuple[Statistic, ...]
    areas: tuple[Statistic, ...]
    high_power: Statistic
    frequency: Values
    real_spectrum: Values
    synthetic_spectrum: Values

    def notable(self, class_names: Sequence[str]) -> list[tuple[str, str, Statistic]]:
        """Return the notable differences as (kind, name of the channel or class, statistic)."""
        groups = (
            ("mean", self.channels, self.mean),
            ("std", self.channels, self.std),
            ("area", class_names, self.areas),
            ("power", ("power",), (self.high_power,)),
        )
        return [
            (kind, name, statistic)
            for kind, names, statistics in groups
            for name, statistic in zip(names, statistics, strict=True)
            if statistic.notable
        ]

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON file."""

        def by_channel(statistics: tuple[Statistic, ...]) -> dict[str, Any]:
            return {name: each.to_json() for name, each in zip(self.channels, statistics, strict=True)}

        return {
            "num_real": self.num_real,
            "num_synthetic": self.num_synthetic,
            "mean": by_channel(self.mean),
            "std": by_channel(self.std),
            "areas": [each.to_json() for each in self.areas],
            "high_power": self.high_power.to_json(),
            "frequency": self.frequency.tolist(),
            "real_spectrum": self.real_spectrum.tolist(),
            "synthetic_spectrum": self.synthetic_spectrum.tolist(),
        }


def compare_sets(real: ImageSet, synthetic: ImageSet, *, with_areas: bool = True) -> Drift:
    """Return how the images and labels of `synthetic` differ from those of `real`, at least 2 images each of one size.

    with_areas: compare the areas of the classes; then EvaluationError for sets whose pixels are all ignored.
    """
    assert min(len(real), len(synthetic)) >= 2
    assert real.images.shape[1:] == synthetic.images.shape[1:]
    assert real.num_classes == synthetic.num_classes
    for name, each in (("real", real), ("synthetic", synthetic)):
        if with_areas and (each.labels == each.num_classes).all():
            raise EvaluationError("drift", f"no pixel of the {name} masks has a class", "check their class ids")
    gray = all((each.images == each.images[..., :1]).all() for each in (real, synthetic))
    used, channels = (slice(1), ("gray",)) if gray else (slice(None), ("red", "green", "blue"))
    (real_means, real_stds), (means, stds) = (channel_moments(each.images[..., used]) for each in (real, synthetic))
    areas = _areas(real, synthetic) if with_areas else []
    real_power, power = spectra(real.images), spectra(synthetic.images)
    count = 2 * len(channels) + len(areas) + 1

    def corrected(statistic: Statistic) -> Statistic:
        return replace(statistic, p=min(1.0, statistic.p * count))

    return Drift(
        num_real=len(real),
        num_synthetic=len(synthetic),
        channels=channels,
        mean=tuple(corrected(_levels(*pair)) for pair in zip(real_means.T, means.T, strict=True)),
        std=tuple(corrected(_levels(*pair)) for pair in zip(real_stds.T, stds.T, strict=True)),
        areas=tuple(map(corrected, areas)),
        high_power=corrected(_difference(real_power.high, power.high, least=LARGE_POWER)),
        frequency=power.frequency,
        real_spectrum=real_power.radial.mean(0),
        synthetic_spectrum=power.radial.mean(0),
    )


# -------------------------------------------------------------------------------------------------- statistics


class Spectra(NamedTuple):
    """Power of N images: frequency [B] in cycles per pixel, radial [N, B] and high [N] in dB."""

    frequency: Values
    radial: Values
    high: Values


def channel_moments(images: Images) -> tuple[Values, Values]:
    """Return two arrays [N, C] whose means over the N images are the mean and the standard deviation of each channel.

    images: uint8 [N, H, W, C]. In gray levels: the means of the images, and their influences on the deviation s of the
    set, (s^2 + v) / 2s, where v is the mean of (x - mean)^2 in the image.
    """
    sizes = images.shape[1] * images.shape[2]
    means = images.sum((1, 2), dtype=np.int64) / sizes
    squares = np.stack([np.square(image, dtype=np.int64).sum((0, 1)) for image in images]) / sizes
    mean = means.mean(0)
    variances = np.maximum(squares - 2 * mean * means + mean**2, 0)
    std = np.sqrt(variances.mean(0))
    influences = (std**2 + variances) / np.where(std > 0, 2 * std, 1)
    return means, influences


def class_areas(labels: Labels, num_classes: int) -> tuple[Values, NDArray[np.bool_]]:
    """Return [N, num_classes] whose means over the N images are the classes' shares of all labeled pixels.

    These are the images' influences on the ratio of sums, share + (pixels - share * all) / mean(all), some outside
    0..1. The second array, of booleans [N, num_classes], tells whether the image shows the class.
    """
    counts = np.stack([np.bincount(label.ravel(), minlength=num_classes + 1)[:num_classes] for label in labels])
    totals = counts.sum(1, keepdims=True)
    shares = counts.sum(0) / totals.sum()
    return shares + (counts - shares * totals) / totals.mean(), counts > 0


def spectra(images: Images) -> Spectra:
    """Return the radially averaged power spectra of `images` [N, H, W, 3], of the mean of their channels.

    |F(w (x - m))|^2 / sum(w^2) of an image x with mean m under a Hann window w, in dB of squared gray levels plus 1/12.
    Bins are one cycle on the shorter side wide; "high" is the mean above a third of a cycle per pixel.
    """
    # The window keeps the picture's edges from counting as detail. A checkerboard lies in the spectrum's corners.
    height, width = images.shape[1:3]
    from scipy.signal.windows import hann  # not above: a study and `segment` would wait for it, too

    window = np.outer(*(hann(side, sym=False) for side in (height, width)))
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(height), np.fft.fftfreq(width), indexing="ij"))
    shorter = min(height, width)
    bins = np.rint(radius * shorter).astype(np.int64).ravel()
    frequency = np.arange(1, shorter // 2 + 1) / shorter
    radial, high = [], []
    for image in images:
        gray = image.mean(-1)
        centered = gray - (gray * window).sum() / window.sum()
        power = np.abs(np.fft.fft2(centered * window)) ** 2 / np.square(window).sum()
        sums = np.bincount(bins, power.ravel())[1 : len(frequency) + 1]
        radial.append(sums / np.bincount(bins)[1 : len(frequency) + 1])
        high.append(power[radius > HIGH_FREQUENCY].mean())
    decibels = [10 * np.log10(np.array(values) + ROUNDING_POWER) for values in (radial, high)]
    return Spectra(frequency, *decibels)


# ------------------------------------------------------------------------------------------------- differences


def _statistic(real: Values, synthetic: Values, *, large: bool, p: float | None = None) -> Statistic:
    """Compare the means of two samples [N], [M]; p is that of Welch's t test unless it is given."""
    change = float(synthetic.mean() - real.mean())
    moments = [(values.mean(), values.std(ddof=1), len(values)) for values in (real, synthetic)]
    error = float(np.hypot(*(spread / np.sqrt(count) for _, spread, count in moments)))
    if p is None:
        # Without any variance the test is undefined, and any difference is certain.
        test = scipy.stats.ttest_ind_from_stats(*moments[0], *moments[1], equal_var=False) if error > 0 else None
        p = float(change == 0) if test is None else float(test.pvalue)
    z = change / error if error > 0 else None
    return Statistic(float(real.mean()), float(synthetic.mean()), float(moments[0][1]), z, p, large)


def _difference(real: Values, synthetic: Values, least: float) -> Statistic:
    return _statistic(real, synthetic, large=bool(abs(synthetic.mean() - real.mean()) > least))


def _levels(real: Values, synthetic: Values) -> Statistic:
    return _difference(real, synthetic, max(LARGE_LEVELS, LARGE_SPREAD * real.std(ddof=1)))


def _areas(real: ImageSet, synthetic: ImageSet) -> list[Statistic]:
    (real_areas, real_shown), (areas, shown) = (
        class_areas(each.labels, each.num_classes) for each in (real, synthetic)
    )
    return [_area(*four) for four in zip(real_areas.T, areas.T, real_shown.T, shown.T, strict=True)]


def _area(real: Values, synthetic: Values, real_shown: NDArray[np.bool_], shown: NDArray[np.bool_]) -> Statistic:
    if real_shown.any() and shown.any():
        factor = synthetic.mean() / real.mean()
        return _statistic(real, synthetic, large=bool(max(factor, 1 / factor) > LARGE_AREA))
    # Where one of the sets does not vary, the t test would take its value for certain.
    table = [[each.sum(), len(each) - each.sum()] for each in (real_shown, shown)]
    p = float(scipy.stats.fisher_exact(table).pvalue)
    return _statistic(real, synthetic, large=bool(real_shown.any() or shown.any()), p=p)


# ---------------------------------------------------------------------------------------------------- warnings


def warning(kind: str, name: str, statistic: Statistic) -> str:
    """Return the line for a notable difference, see `Drift.notable`."""
    real, synthetic, amount, more = statistic.real, statistic.synthetic, abs(statistic.change), statistic.change > 0
    if kind == "mean":
        return (
            f"{name} is {amount:.1f} gray levels {'brighter' if more else 'darker'} than in the real images "
            f"({synthetic:.1f} against {real:.1f}; their own images vary by {statistic.spread:.1f}): lower the "
            "guidance scale, sample with more steps or train longer"
        )
    if kind == "std":
        remedy = "lower the guidance scale or train longer" if more else "train longer or sample with more steps"
        return (
            f"{name} has {'more' if more else 'less'} contrast than in the real images (standard deviation "
            f"{synthetic:.1f} against {real:.1f} gray levels): {remedy}"
        )
    if kind == "power":
        look = "noisy or have a fine pattern" if more else "blurred"
        return (
            f"the highest third of the frequencies has {amount:.1f} dB {'more' if more else 'less'} power "
            f"than in the real images, so the samples are {look}: {'sample with more steps or ' if more else ''}train "
            "longer"
        )
    times = f"{synthetic / real:.2g} times" if real and synthetic else "and not"
    return (
        f"class '{name}' covers {synthetic:.2%} of the samples' masks, {times} its share of {real:.2%} of the real "
        "ones: choose the masks to sample from in the proportions that are wanted"
    )


# ----------------------------------------------------------------------------------------------------- metric


@dataclass(frozen=True)
class DriftMetric(Metric):
    """Drift of the samples from all real images that were read."""

    key: ClassVar = "drift"

    def measure(self, sets: EvaluationSets) -> Measurement:
        """Return the drift; notable differences are warnings."""
        drift = compare_sets(sets.real, sets.samples, with_areas=sets.has_masks)
        names = sets.class_names if sets.has_masks else ()
        warnings = tuple(warning(*notable) for notable in drift.notable(names))
        compared = {
            "Channel means": (drift.channels, drift.mean, "gray levels"),
            "Channel standard deviations": (drift.channels, drift.std, "gray levels"),
            "Class areas": (names, drift.areas, "share of the pixels"),
        }
        if not sets.has_masks:
            del compared["Class areas"]
        figures = []
        for title, (rows, statistics, unit) in compared.items():
            real, synthetic = [each.real for each in statistics], [each.synthetic for each in statistics]
            figures.append(Figure(title, charts.paired_bars(rows, real, synthetic, unit)))
        power = (10 ** (spectrum / 10) for spectrum in (drift.real_spectrum, drift.synthetic_spectrum))
        figures.append(Figure("Power spectra", charts.spectrum_curves(drift.frequency, *power)))
        text = warnings or ["No difference is both beyond chance and large."]
        section = Section("Do they look like the real images?", text, figures=figures)
        return Measurement(drift.to_json(), section, warnings=warnings)
