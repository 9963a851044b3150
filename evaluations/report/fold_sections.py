"""The sections of the report of `segment`, from its record."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from evaluations.report import charts
from evaluations.report.page import Figure, Section, Sheet, Table, Verdict
from evaluations.report.sections import Record, percent, points
from evaluations.sets import Images, Labels

FEATURES, VALUES = "features", "values of the pixel alone"
HELD_OUT_TITLES = ("image", "mask", "predicted", "uncertainty")
NEXT_TITLES = ("image", "predicted", "uncertainty")


def fold_verdict(scores: Record | None) -> Verdict:
    """Return how well held-out images were segmented, beside classifiers of the pixel's values; None: no folds."""
    if scores is None:
        return Verdict("not measured", "How good the masks are was not measured: there are no folds")
    own, values, difference = scores["features"]["miou"], scores["values"]["miou"], scores["difference"]
    headline = f"On labeled images that it never saw, mIoU is {percent(own['mean'])} % ({_span(own)})"
    low, high = points(difference["low"]), points(difference["high"])
    lines = [
        f"The values of the pixel alone give {percent(values['mean'])} %: features change that by "
        f"{points(difference['mean'])} points ({low} to {high})."
    ]
    if scores["weak"]:
        lines.append(f"Label more of: {', '.join(scores['weak'])}.")
    return Verdict(difference["kind"], headline, lines)


def scores_section(scores: Record) -> Section:
    """Return the scores of each class."""
    names = list(scores["features"]["classes"])
    iou = {
        label: [scores[key]["classes"][name]["iou"] for name in names]
        for key, label in (("features", FEATURES), ("values", VALUES))
    }
    rows: list[Sequence[str | int]] = []
    for name in names:
        own, values = (scores[key]["classes"][name] for key in ("features", "values"))
        rows.append(
            [name, scores["images_with"][name], percent(own["iou"]), _span(own), percent(values["iou"]), _span(values)]
        )
    rows.append(
        [
            "mean",
            scores["images"],
            percent(scores["features"]["miou"]["mean"]),
            _span(scores["features"]["miou"]),
            percent(scores["values"]["miou"]["mean"]),
            _span(scores["values"]["miou"]),
        ]
    )
    header = ["class", "images", "IoU %", "95 % interval", "values alone", "95 % interval"]
    text = [
        "Each labeled image was segmented by classifiers trained on the others alone (k folds, by image). IoU is of "
        "the summed pixels of all images; ignored pixels do not count.",
        "The intervals resample images (below 8 of them by Student's t; none for a class in one image): they tell how "
        "the scores would differ with other labeled images like these. "
        "The classifiers that label the new images were trained on all of them, so they should be a little better.",
        f"Rare classes are favored by {scores['favor_rare']:g} (0: as frequent as in the labels, 1: as in the training "
        "steps), which of the values tried scored best on all folds; a fold is scored by what was best on the others.",
        "Classifiers of the values of the pixel alone tell what its color gives away. Where they are as good, the "
        "classes can be told by color, and the features add nothing.",
    ]
    figures = [Figure("IoU of each class", charts.class_bars(names, iou))] if names else []
    return Section("Held-out images", text, [Table(header, rows)], figures)


def test_section(test: Record) -> Section:
    """Return the scores of the test split, beside those as published."""
    rows = [[name, percent(each["iou"]), percent(each["published_iou"])] for name, each in test["classes"].items()]
    rows.append(["mean", percent(test["miou"]), percent(test["published_miou"])])
    text = [
        f"{test['images']} images of the test split, by the classifiers trained on all labeled images. As published, a "
        "prediction on an ignored pixel is a false positive, and a class that is nowhere counts 0: for comparison with "
        "published numbers alone."
    ]
    return Section("Test images", text, [Table(["class", "IoU %", "as published, %"], rows)])


def uncertainty_section(record: Record, rows: Sequence[tuple[float, float, int, float]]) -> Section:
    """Return how often pixels of which uncertainty were right; rows: as of `Reliability.rows`."""
    table = [
        [f"{low:.4f} to {high:.4f}" if math.isfinite(high) else f"above {low:.4f}", pixels, percent(right)]
        for low, high, pixels, right in rows
    ]
    limit = f"Pixels above {record['ignore_above']:.4f} nats are ignored in the new masks ({record['limit_from']})."
    text = ["Uncertainty is how much the classifiers differ (Jensen-Shannon divergence, in nats).", limit]
    return Section("Does uncertainty tell errors?", text, [Table(["uncertainty", "pixels", "right %"], table)])


def held_out_section(groups: Sequence[tuple[Images | Labels, ...]], names: Sequence[str]) -> Section:
    """Return pictures of held-out images; groups: tiles under HELD_OUT_TITLES."""
    text = ["From the image that the classifiers were least sure of to the one they were surest of; bright: uncertain."]
    sheet = Sheet("Held-out images", groups, HELD_OUT_TITLES, ", ".join(names))
    return Section("What was right, and what was not", text, figures=[sheet] if groups else [])


def unlabeled_section(unlabeled: Record, groups: Sequence[tuple[Images | Labels, ...]]) -> Section:
    """Return what came of the unlabeled images, and which of them to label next; groups: tiles under NEXT_TITLES."""
    text = [
        f"{unlabeled['images']} images were labeled; the {unlabeled['dropped']} most uncertain ones got no pair. In "
        f"the {unlabeled['pairs']} pairs {percent(unlabeled['ignored'])} % of the pixels are ignored.",
        "To make the classifiers better, label these next: their most uncertain tenth of pixels is the most uncertain "
        "of all. Their masks in predicted/masks are a start.",
    ]
    rows = [
        [each["stem"], f"{each['score']:.4f}", percent(each["confidence"]), percent(each["ignored"])]
        for each in unlabeled["next"]
    ]
    table = Table(["image", "uncertainty", "confidence %", "ignored %"], rows)
    figures: list[Any] = [Sheet("The first of them", groups, NEXT_TITLES)] if groups else []
    return Section("Which images to label next", text, [table], figures)


def _span(interval: Record) -> str:
    return f"{percent(interval['low'])} to {percent(interval['high'])}"
