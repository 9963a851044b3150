"""What a DeepLabV3 makes of the test images that was trained on the samples alone: a comparison as published."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from evaluations.metrics.base import EvaluationSets, Measurement, Metric
from evaluations.metrics.segmentation import plain, scores
from evaluations.report.page import Section, Table
from evaluations.report.sections import percent
from evaluations.segmentation.deeplab import DeepLabScores

HEADING = "Trained on the samples alone, as published"


@dataclass(frozen=True)
class DeepLabResult:
    """The scores of the best epoch on the test images, and mIoU as published on the training images by epoch."""

    test: DeepLabScores
    history: tuple[float, ...]
    best_epoch: int
    weights: str
    """What the backbone began with."""


@dataclass(frozen=True)
class DeepLabMetric(Metric):
    """mIoU of a DeepLabV3-ResNet101 of the samples, ours beside the published one."""

    key: ClassVar = "deeplab"

    train: Callable[[EvaluationSets], DeepLabResult]

    def measure(self, sets: EvaluationSets) -> Measurement:
        """Return the scores; a published mIoU is for comparison with published ones only."""
        result = self.train(sets)
        ours = scores(result.test.counts)
        by_class = dict(zip(sets.class_names, result.test.published_iou, strict=True))
        record = {
            "miou": plain(ours.miou),
            "published_miou": result.test.published_miou,
            "classes": {
                name: {"iou": plain(own), "published_iou": by_class[name]}
                for name, own in zip(sets.class_names, ours.class_iou, strict=True)
            },
            "epochs": list(result.history),
            "best_epoch": result.best_epoch,
            "backbone": result.weights,
        }
        rows = [
            [name, percent(each["iou"]), percent(each["published_iou"])] for name, each in record["classes"].items()
        ]
        table = Table(("class", "IoU, %", "as published, %"), [["mean", percent(record["miou"]),
                      percent(record["published_miou"])], *rows])  # fmt: skip
        text = [
            f"A DeepLabV3-ResNet101 of torchvision, trained on {len(sets.samples)} samples for {len(result.history)} "
            f"epochs; that of the best mIoU on the {len(sets.training)} real training images (epoch "
            f"{result.best_epoch}) was scored on {len(sets.test)} test images. Backbone: {result.weights}.",
            "As published, a prediction on an ignored pixel is a false positive, and a class that is nowhere counts 0. "
            "Compare that number with published ones only.",
        ]
        finding = (
            f"DeepLabV3 of the samples alone: test mIoU {percent(record['miou'])} %, as published "
            f"{percent(record['published_miou'])} %"
        )
        return Measurement(record, Section(HEADING, text, [table]), (finding,))
