"""Mask agreement: how well a segmenter trained on real images finds the mask that a sample was made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from evaluations.metrics.base import EvaluationSets, Measurement, Metric, sample_captions
from evaluations.metrics.segmentation import Counts, Floats, Scores, image_iou, plain, scores
from evaluations.report import charts
from evaluations.report.page import Figure, Section, Sheet, Table
from evaluations.report.sections import TRIPLE, decimals, percent
from evaluations.segmentation.segmenter import AgreementSegmenter
from evaluations.sets import Labels

HEADING = "Is the mask followed?"
SCORE = "Agreement"
_LEVELS = (0, 0.1, 0.25, 0.5, 0.75, 0.9, 1)
_DISTRIBUTION = ("mean", "min", "p10", "p25", "median", "p75", "p90", "max")


@dataclass(frozen=True)
class Agreement:
    """Agreement of N samples with their masks: score [N] in 0..1, see `sample_scores`; scores of all pixels together.

    by_class: [N, C], the IoU of each class in each sample; NaN where neither its mask nor the prediction has it.
    background_only: booleans [N], masks of nothing but background. The score is NaN where the segmenter knows none of
    the classes that it would be of.
    """

    score: Floats
    by_class: Floats
    background_only: NDArray[np.bool_]
    scores: Scores

    def summary(self) -> dict[str, Any]:
        """Return the distribution of the scores in JSON types; None, if there is no score.

        Masks of background alone are left out, unless all are: a segmenter that sees nothing agrees with them.
        """
        counted = self.score if self.background_only.all() else self.score[~self.background_only]
        counted = counted[~np.isnan(counted)]
        values = [np.mean(counted), *np.quantile(counted, _LEVELS)] if len(counted) else [np.nan] * len(_DISTRIBUTION)
        unknown = int(np.isnan(self.score).sum())
        return {
            **dict(zip(_DISTRIBUTION, map(plain, values), strict=True)),
            "counted": len(counted),
            "bare": int(self.background_only.sum()),
            **({"unknown": unknown} if unknown else {}),
        }


def agreement(counts: Counts, background: int = 0, labels: Labels | None = None) -> Agreement:
    """Return the agreement of samples from the counts of a segmenter's predictions against their masks.

    labels: the masks [N, H, W], of which a segmenter that does not know all classes has not counted all pixels.
    """
    in_counts = counts.truth > 0
    in_mask = in_counts if labels is None else _classes_of(labels, in_counts.shape[1])
    shown, known = (np.delete(each, background, axis=1).any(axis=1) for each in (in_mask, in_counts))
    # Without any of its classes a mask would be one of background alone, or of nothing.
    unknown = np.where(shown, ~known, in_mask.any(axis=1) & ~in_counts.any(axis=1))
    score = np.where(unknown, np.nan, sample_scores(counts, background))
    return Agreement(score, image_iou(counts), ~shown, scores(counts))


def _classes_of(labels: Labels, num_classes: int) -> NDArray[np.bool_]:
    """Return [N, C]: which classes each of the label maps [N, H, W] has."""
    return np.stack([np.bincount(label.ravel(), minlength=num_classes)[:num_classes] > 0 for label in labels])


def sample_scores(counts: Counts, background: int = 0) -> Floats:
    """Return one score for each image, [N] in 0..1: its mean IoU over the classes of its mask without the background.

    It is the IoU of the background if the mask has nothing else, and 1 if no pixel is labeled.
    """
    # The background covers most of an image, so its IoU is high even where every defect is missed. On its own it falls
    # with everything that the segmenter sees and that should not be there.
    in_mask = counts.truth > 0
    foreground = in_mask.copy()
    foreground[:, background] = False
    counted = np.where(foreground.any(axis=1, keepdims=True), foreground, in_mask)
    summed = np.where(counted, np.nan_to_num(image_iou(counts)), 0).sum(axis=1)
    number = counted.sum(axis=1)
    return np.where(number > 0, summed / np.maximum(number, 1), 1.0)


# ----------------------------------------------------------------------------------------------------- metric


@dataclass(frozen=True)
class AgreementMetric(Metric):
    """Mask agreement of each sample; `shown` pictures of samples are in the report, and `threshold` in its chart."""

    key: ClassVar = "agreement"

    threshold: float | None
    shown: int

    def measure(self, sets: EvaluationSets) -> Measurement:
        """Return the agreement of the samples and, as a yardstick, of the real test images."""
        segmenter, names = sets.segmenter, sets.class_names
        assert segmenter is not None
        samples, real = (
            agreement(segmenter.counts(images), sets.background, images.labels) for images in (sets.samples, sets.test)
        )
        by_sample = {
            name: {"score": plain(score), "iou": dict(zip(names, map(plain, by_class), strict=True))}
            for name, score, by_class in zip(sets.samples.names, samples.score, samples.by_class, strict=True)
        }
        ours, theirs = samples.summary(), real.summary()
        record = {
            **segmenter.record,
            "samples": {**ours, **samples.scores.to_json(names)},
            "real_test_images": {**theirs, **real.scores.to_json(names)},
            "by_sample": by_sample,
        }
        miou, real_miou = (percent(plain(each.scores.miou)) for each in (samples, real))
        means, medians = ([decimals(each[key]) for each in (ours, theirs)] for key in ("mean", "median"))
        finding = (
            f"mask agreement of {ours['counted']} samples: mean {means[0]}, median {medians[0]} "
            f"(real test images: {means[1]}, {medians[1]}); mIoU of all pixels together "
            f"{miou} % (real test images: {real_miou} %)"
        )
        facts = (
            ("Mask agreement", f"mean {means[0]} (real test images {means[1]})"),
            ("mIoU of the segmenter", f"{miou} % (real test images {real_miou} %)"),
        )
        text = _text(segmenter, names[sets.background], ours)
        tables = _tables(names, {"samples": samples, "real test images": real})
        section = Section(HEADING, text, tables, self._figures(sets, samples))
        warnings = _warnings(segmenter, len(names), ours, theirs)
        return Measurement(record, section, (finding,), warnings, facts, {SCORE: samples.score})

    def _figures(self, sets: EvaluationSets, samples: Agreement) -> list[Figure | Sheet]:
        ranked, count = np.argsort(samples.score, kind="stable"), self.shown // 2 or 1
        ranked = ranked[~np.isnan(samples.score[ranked])]
        if not samples.background_only.all():  # a sample in which there is nothing to see is not worth showing
            ranked = ranked[~samples.background_only[ranked]]
        chart = charts.score_histogram(samples.score, self.threshold, "agreement")
        ends = {"Worst agreement": ranked[:count], "Best agreement": ranked[::-1][:count]}
        sheets = [
            Sheet(title, sets.triples(indices), TRIPLE, sample_captions({SCORE: samples.score}, indices))
            for title, indices in ends.items()
            if len(indices)
        ]
        return [Figure("Scores of the samples", chart), *sheets]


def _warnings(
    segmenter: AgreementSegmenter, num_classes: int, samples: dict[str, Any], real: dict[str, Any]
) -> tuple[str, ...]:
    lines, unknown = [], segmenter.left_out
    if unknown:
        lines.append(
            f"the segmenter does not know {len(unknown)} of {num_classes} classes, which are left out of its scores: "
            f"{', '.join(unknown)}"
        )
    if "unknown" in samples:
        lines.append(
            f"the segmenter knows no class of the masks of {samples['unknown']} samples, which have no mask agreement: "
            "filter_below copies none of them"
        )
    # The mean: where most defects are tiny, both medians are 0.
    ours, theirs = samples["mean"], real["mean"]
    if ours is not None and theirs is not None and ours < 0.5 * theirs:
        lines.append(
            f"a segmenter finds the masks in the samples less than half as well (mean {ours:.2f}) as in real "
            f"test images ({theirs:.2f}): sample with a larger s, train longer, or look at the worst ones"
        )
    return tuple(lines)


def _text(segmenter: AgreementSegmenter, background: str, samples: dict[str, Any]) -> list[str]:
    text = [
        f"A segmenter ({segmenter.record['segmenter']}) looks for the mask in each sample. A sample's score is the "
        f"mean IoU over the classes of its mask without {background}; predicted classes that are not in the mask do "
        "not lower it. Its score on real test images is the yardstick"
        + ("." if segmenter.external else ", though it was trained on the images whose masks the samples have."),
    ]
    if segmenter.left_out:
        text.append(f"Classes that it does not know, whose pixels are ignored: {', '.join(segmenter.left_out)}.")
    if samples["bare"]:
        text.append(f"{samples['bare']} samples whose mask is all {background} are left out of the distribution.")
    if "unknown" in samples:
        text.append(f"{samples['unknown']} samples have no score, as it knows no class of their masks.")
    return text


def _tables(class_names: tuple[str, ...], sets: Mapping[str, Agreement]) -> list[Table]:
    keys = ("min", "p10", "p25", "median", "p75", "p90", "max", "mean")
    summaries = {label: each.summary() for label, each in sets.items()}
    distribution = [[label, *(decimals(summary[key]) for key in keys)] for label, summary in summaries.items()]
    pixels = [
        [label, percent(plain(each.scores.miou)), percent(plain(each.scores.pixel_accuracy))]
        for label, each in sets.items()
    ]
    ious = zip(*(each.scores.class_iou for each in sets.values()), strict=True)
    classes = [[name, *(percent(plain(iou)) for iou in pair)] for name, pair in zip(class_names, ious, strict=True)]
    caption = "mIoU: mean over the classes in the masks"
    return [
        Table(["score", *keys], distribution),
        Table(["all pixels together", "mIoU %", "pixel accuracy %"], pixels, caption),
        Table(["class", "IoU in samples %", "IoU in real test images %"], classes, "all pixels together"),
    ]
