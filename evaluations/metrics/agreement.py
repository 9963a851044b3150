"""Mask agreement: how well a segmenter trained on real images finds, in a sample, the mask it was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from evaluations.metrics.base import EvaluationSets, Fact, Measurement, Metric, sample_captions
from evaluations.metrics.segmentation import Counts, Floats, Scores, image_iou, plain, scores
from evaluations.report import charts
from evaluations.report.page import Figure, Section, Sheet, Table, Tile
from evaluations.report.sections import TRIPLE, percent
from evaluations.sets import Indices

HEADING = "Is the mask followed?"


@dataclass(frozen=True)
class Agreement:
    """Agreement of N samples with their masks: score [N] in 0..1, see `sample_scores`; scores of all together.

    by_class: [N, C], the IoU of each class in each sample; NaN where neither its mask nor the prediction has it.
    background_only: booleans [N], masks of nothing but background.
    """

    score: Floats
    by_class: Floats
    background_only: NDArray[np.bool_]
    scores: Scores

    def below(self, threshold: float) -> NDArray[np.bool_]:
        """Return [N], True for the samples whose score is lower than `threshold`."""
        return self.score < threshold

    def ranked(self) -> Indices:
        """Return the indices of the samples, the worst first."""
        return np.argsort(self.score, kind="stable")

    def summary(self) -> dict[str, Any]:
        """Return what describes the distribution of the scores, in JSON types.

        Of the masks that show something, where there are any: the others are agreed with by seeing nothing.
        """
        counted = self.score if self.background_only.all() else self.score[~self.background_only]
        quantiles = np.quantile(counted, [0, 0.1, 0.25, 0.5, 0.75, 0.9, 1])
        names = ("min", "p10", "p25", "median", "p75", "p90", "max")
        distribution = {"mean": float(counted.mean()), **dict(zip(names, map(float, quantiles), strict=True))}
        return {**distribution, "counted": len(counted), "bare": int(self.background_only.sum())}


def agreement(counts: Counts, background: int = 0) -> Agreement:
    """Return the agreement of samples from the counts of a segmenter's predictions on them, against their masks."""
    background_only = ~(np.delete(counts.truth, background, axis=1) > 0).any(axis=1)
    return Agreement(sample_scores(counts, background), image_iou(counts), background_only, scores(counts))


def sample_scores(counts: Counts, background: int = 0) -> Floats:
    """Return one score for each image, [N] in 0..1: its mean IoU over the classes of its mask without the background.

    Where a mask has nothing else, the IoU of the background; of an image without any labeled pixel 1.
    """
    # The background covers most of an image, so that its IoU is high even where every defect is missed. Alone it falls
    # with everything the segmenter sees that should not be there.
    in_mask = counts.truth > 0
    foreground = in_mask.copy()
    foreground[:, background] = False
    counted = np.where(foreground.any(axis=1, keepdims=True), foreground, in_mask)
    summed = np.where(counted, np.nan_to_num(image_iou(counts)), 0).sum(axis=1)
    number = counted.sum(axis=1)
    return np.where(number > 0, summed / np.maximum(number, 1), 1.0)


# ----------------------------------------------------------------------------------------------------- metric


@dataclass(frozen=True)
class AgreementFound:
    """The agreement of samples and, as a yardstick, of real test images; who tells it, and the samples to show."""

    samples: Agreement
    real: Agreement
    segmenter: str
    external: bool
    left_out: tuple[str, ...]
    class_names: tuple[str, ...]
    background: str
    worst: Sequence[tuple[Tile, ...]]
    best: Sequence[tuple[Tile, ...]]
    captions: tuple[str, str]


@dataclass(frozen=True)
class AgreementMetric(Metric[AgreementFound]):
    """Mask agreement of each sample; `shown` pictures of samples are in the report, and `threshold` in its chart."""

    key: ClassVar = "agreement"

    threshold: float | None
    shown: int

    def measure(self, sets: EvaluationSets) -> Measurement[AgreementFound]:
        """Return the agreement by the segmenter of the sets."""
        segmenter = sets.segmenter
        assert segmenter is not None
        samples, real = (agreement(segmenter.counts(images), sets.background) for images in (sets.samples, sets.test))
        scored = {"Agreement": samples.score}
        ranked, count = samples.ranked(), self.shown // 2 or 1
        if not samples.background_only.all():  # that nothing is seen where nothing is, is no picture worth showing
            ranked = ranked[~samples.background_only[ranked]]
        ends = ranked[:count], ranked[::-1][:count]
        found = AgreementFound(
            samples,
            real,
            segmenter.record["segmenter"],
            segmenter.external,
            segmenter.left_out,
            sets.class_names,
            sets.class_names[sets.background],
            *(sets.triples(indices) for indices in ends),
            tuple(sample_captions(scored, indices) for indices in ends),
        )
        return Measurement(
            _record(found, segmenter.record, sets.samples.names),
            found,
            (_finding(found),),
            tuple(_warnings(found)),
            _facts(found),
            scored,
        )

    def section(self, measurement: Measurement[AgreementFound]) -> Section:
        """Return the distribution of the scores, tables, and the samples at both ends."""
        found = measurement.result
        figures = [
            Figure("Scores of the samples", charts.score_histogram(found.samples.score, self.threshold, "agreement")),
            Sheet("Worst agreement", found.worst, TRIPLE, found.captions[0]),
            Sheet("Best agreement", found.best, TRIPLE, found.captions[1]),
        ]
        return Section(HEADING, _text(found), _tables(found), figures)


def filtered_section(kept: int, threshold: float, folder: str) -> Section:
    """Return what the report says of a copy of the samples that reach `threshold`."""
    return Section(HEADING, [f"{kept} samples of at least {threshold:g} were copied to {folder}."])


def _record(found: AgreementFound, segmenter: Mapping[str, Any], sample_names: Sequence[str]) -> dict[str, Any]:
    names, samples = found.class_names, found.samples
    return {
        **segmenter,
        "samples": {**samples.summary(), **samples.scores.to_json(names)},
        "real_test_images": {**found.real.summary(), **found.real.scores.to_json(names)},
        "by_sample": {
            name: {"score": float(score), "iou": dict(zip(names, map(plain, by_class), strict=True))}
            for name, score, by_class in zip(sample_names, samples.score, samples.by_class, strict=True)
        },
    }


def _finding(found: AgreementFound) -> str:
    ours, theirs = found.samples.summary(), found.real.summary()
    return (
        f"mask agreement of {ours['counted']} samples: mean {ours['mean']:.2f}, median {ours['median']:.2f} (of real "
        f"test images: {theirs['mean']:.2f}, {theirs['median']:.2f}); mIoU of all pixels together "
        f"{100 * found.samples.scores.miou:.1f} % ({100 * found.real.scores.miou:.1f} %)"
    )


def _warnings(found: AgreementFound) -> list[str]:
    lines = []
    if found.left_out:
        lines.append(
            f"the segmenter does not know {len(found.left_out)} of {len(found.class_names)} classes, which are left "
            f"out of its scores: {', '.join(found.left_out)}"
        )
    ours, theirs = (each.summary()["mean"] for each in (found.samples, found.real))
    # The mean: where most defects are tiny, both medians are 0.
    if ours < 0.5 * theirs:
        lines.append(
            f"a segmenter finds the masks in the samples less than half as well (mean {ours:.2f}) as in real "
            f"test images ({theirs:.2f}): sample with a larger s, train longer, or look at the worst ones"
        )
    return lines


def _facts(found: AgreementFound) -> tuple[Fact, ...]:
    ours, theirs = (each.summary()["mean"] for each in (found.samples, found.real))
    miou, real_miou = (percent(plain(each.scores.miou)) for each in (found.samples, found.real))
    return (
        Fact("Mask agreement", f"mean {ours:.2f} (real test images {theirs:.2f})"),
        Fact("mIoU of the segmenter", f"{miou} % (real test images {real_miou} %)"),
    )


def _text(found: AgreementFound) -> list[str]:
    background, without = found.background, int(found.samples.background_only.sum())
    text = [
        f"A segmenter ({found.segmenter}) looks for the mask in each sample. A sample's score is the mean IoU over "
        f"the classes of its mask without {background}; things seen that are not in the mask cost nothing. What it "
        "reaches on real test images is the yardstick"
        + ("." if found.external else ", though it has seen the images that the masks of samples are from."),
    ]
    if found.left_out:
        text.append(f"Classes that it does not know, whose pixels count nowhere: {', '.join(found.left_out)}.")
    if without:
        text.append(f"{without} samples whose mask is all {background} are left out of the distribution.")
    return text


def _tables(found: AgreementFound) -> list[Table]:
    keys = ("min", "p10", "p25", "median", "p75", "p90", "max", "mean")
    sets = {"samples": found.samples, "real test images": found.real}
    rows = [[label, *(f"{each.summary()[key]:.2f}" for key in keys)] for label, each in sets.items()]
    summed = [
        [label, percent(plain(each.scores.miou)), percent(plain(each.scores.pixel_accuracy))]
        for label, each in sets.items()
    ]
    classes = [
        [name, *(percent(plain(each.scores.class_iou[index])) for each in sets.values())]
        for index, name in enumerate(found.class_names)
    ]
    return [
        Table(["score", *keys], rows),
        Table(
            ["all pixels together", "mIoU %", "pixel accuracy %"], summed, "mIoU: mean over the classes in the masks"
        ),
        Table(["class", "IoU in samples %", "IoU in real test images %"], classes, "all pixels together"),
    ]
