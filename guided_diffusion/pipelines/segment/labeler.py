"""A pixel classifier in use: what it says of an image, and what its file tells of its classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from guided_diffusion.conditions.base import Size
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.tiles import Tile
from guided_diffusion.labeling.files import PixelClassifier
from guided_diffusion.labeling.uncertainty import ignore_uncertain
from guided_diffusion.pipelines.segment.folds import predict_tiles
from guided_diffusion.pipelines.segment.reader import ImageReader
from guided_diffusion.runtime.errors import CheckpointError

UNMEASURED_LIMIT = 0.1
"""`ignore_above` without folds, in nats."""


@dataclass(frozen=True, eq=False)
class LabeledImage:
    """The mask of an image: class ids [H, W], the number of classes where it is too uncertain.

    uncertainty: [H, W], nats. score: that of the image. confidence: its mean. ignored: the share of such pixels.
    """

    label: NDArray[np.integer]
    uncertainty: NDArray[np.floating]
    score: float
    confidence: float
    ignored: float


@dataclass(frozen=True)
class Labeler:
    """Labels images by a classifier, whose ensemble is on the device, and ignores what is uncertain."""

    classifier: PixelClassifier
    reader: ImageReader
    ignore_above: float
    flip: bool

    def __call__(self, pixels: Tensor, positions: Sequence[int], tiles: Sequence[Tile], size: Size) -> LabeledImage:
        """Return the mask of an image of `size`; the others as `ImageReader.views` takes them."""
        views = self.reader.views(pixels, positions, tiles, flip=self.flip)
        found = predict_tiles(self.classifier.ensemble, views, tiles, size, self.classifier.vote)
        null = self.classifier.ensemble.classes
        label = ignore_uncertain(found, self.ignore_above, null).numpy()
        confidence = float(found.confidence.double().mean())
        return LabeledImage(
            label, found.uncertainty.numpy(), found.score, confidence, ignored=float((label == null).mean())
        )


def limit_of_classifier(classifier: PixelClassifier) -> float:
    """Return the uncertainty, in nats, above which pixels are ignored: that of the classifier's own folds, if any."""
    return classifier.training.get("ignore_above", UNMEASURED_LIMIT)


def encoding_of_classifier(file: Path, classifier: PixelClassifier) -> LabelEncoding:
    """Return what the classes of a classifier are; of published ones, which do not say it, their numbers."""
    if not classifier.encoding:
        return LabelEncoding.identity(classifier.ensemble.classes)
    try:
        encoding = LabelEncoding.from_dict(classifier.encoding)
    except (AssertionError, AttributeError, TypeError, ValueError):
        found = "its classes are not those of a training"
        raise CheckpointError.of(file, found, "it was tampered with: copy it again") from None
    if encoding.num_classes != classifier.ensemble.classes:
        found = f"has {classifier.ensemble.classes} outputs for {encoding.num_classes} classes"
        raise CheckpointError.of(file, found, "it was tampered with: copy it again")
    return encoding
