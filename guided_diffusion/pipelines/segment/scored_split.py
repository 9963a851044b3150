"""The classifiers of `segment` scored on the test split, image by image, so that an interrupted run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from evaluations.metrics.segmentation import (
    Counts,
    count,
    joined,
    plain,
    published_counts,
    published_means,
    scores,
)
from guided_diffusion.labeling.files import PixelClassifier
from guided_diffusion.pipelines.evaluation.results import StudyResults
from guided_diffusion.pipelines.segment.folds import predict_tiles
from guided_diffusion.pipelines.segment.labeled import LabeledImages
from guided_diffusion.pipelines.segment.reader import ImageReader
from guided_diffusion.runtime.files import make_folder

FOLDER = "test_scores"


def score_split(
    folder: Path, classifier: PixelClassifier, digest: str, images: LabeledImages, reader: ImageReader, *, flip: bool
) -> dict[str, Any]:
    """Return IoU of each class and mIoU, ours and as published, of the test images.

    Each has a file in `folder`/test_scores. digest: of the classifier's file. Masks are compared at the size at which
    labeled images are scored.
    """
    digests = {"classifier": digest, "test_images": images.digest}
    results = StudyResults(make_folder(folder / FOLDER), {"flip": flip}, digests, what="earlier run")
    results.begin()
    for number in tqdm(range(len(images)), "scoring test images", unit="image"):
        key = f"image_{number:06d}"
        if key in results:
            continue
        tiles, size = images.tiles[number], images.size(number)
        rows = range(*images.first_tiles[number : number + 2])
        views = reader.views(images.read_tiles(reader, rows), rows, tiles, flip=flip)
        found = predict_tiles(classifier.ensemble, views, tiles, size, classifier.vote).label.numpy()
        label = images.labels[number].numpy()
        hits, unions = published_counts(label, found, images.classes)
        own = count(label[None], found[None], images.classes).to_json()
        results[key] = {"counts": own, "hits": hits.tolist(), "unions": unions.tolist()}
    return _record([results[key] for key in results], images)


def _record(found: list[dict[str, Any]], images: LabeledImages) -> dict[str, Any]:
    ours = scores(joined([Counts.from_json(each["counts"]) for each in found]))
    hits, unions = (np.sum([each[kind] for each in found], axis=0) for kind in ("hits", "unions"))
    published, by_class = published_means(hits, unions)
    classes = {
        name: {"iou": plain(iou), "published_iou": float(other)}
        for name, iou, other in zip(images.names, ours.class_iou, by_class, strict=True)
    }
    return {"images": len(found), "miou": plain(ours.miou), "published_miou": published, "classes": classes}
