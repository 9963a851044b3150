"""The segmenter that looks for the masks in samples and real images: trained by the study, or from a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from evaluations.errors import EvaluationError
from evaluations.metrics.segmentation import Counts
from evaluations.segmentation.external import ExternalSegmenter, SegmenterFile
from evaluations.segmentation.label_table import BACKGROUND_TOO, NO_CLASS, LabelTable, classes_of_outputs
from evaluations.segmentation.models import InputForm, encoder_features
from evaluations.segmentation.training import evaluate_segmenter, predict
from evaluations.sets import Images, ImageSet, Labels


@dataclass(frozen=True)
class AgreementSegmenter:
    """A segmenter that measures how well images show their masks, and its entry in report.json.

    external: whether it was trained elsewhere. counts: pixel counts of its predictions. features: of its encoder,
    float32 [N, D], or None. left_out: names of the classes that it does not know, whose pixels are ignored.
    predict: the class of each pixel, [N, H, W]; the number of classes where it is none of them.
    """

    record: dict[str, Any]
    external: bool
    counts: Callable[[ImageSet], Counts]
    features: Callable[[Images], np.ndarray] | None
    left_out: tuple[str, ...] = ()
    predict: Callable[[Images], Labels] | None = None


def trained_segmenter(
    model: nn.Module,
    name: str,
    *,
    augmented: bool,
    batch_size: int,
    device: torch.device,
    form: InputForm,
    saved: tuple[ImageSet, Counts],
) -> AgreementSegmenter:
    """Return a segmenter that was trained on the real training images, `augmented` with the usual augmentation.

    saved: images whose counts were saved when it was trained, so that another machine reports the same ones.
    """
    how = "with the usual augmentation" if augmented else "without augmentation, which did better in validation"

    def counts(images: ImageSet) -> Counts:
        return saved[1] if images is saved[0] else evaluate_segmenter(model, images, batch_size, device, form)

    record = {"segmenter": f"{name}, trained on the real training images {how}"}
    features = partial(encoder_features, model, device=device, form=form)
    predicted = partial(predict, model, batch_size=batch_size, device=device, form=form)
    return AgreementSegmenter(record, False, counts, features, predict=predicted)


def external_segmenter(
    file: SegmenterFile,
    table: LabelTable | None,
    table_path: Path,
    class_names: Sequence[str],
    *,
    batch_size: int,
    device: torch.device,
) -> AgreementSegmenter:
    """Return the segmenter in a file for a dataset of these classes; EvaluationError if its outputs do not fit them.

    table: what its outputs stand for; None: the classes in order.
    """
    names = list(class_names)
    if table is not None:
        classes = classes_of_outputs(table, table_path, outputs=file.outputs, class_names=names)
    elif file.outputs == len(names):
        classes = tuple(range(len(names)))
    else:
        found = f"has {file.outputs} output{'' if file.outputs == 1 else 's'}, but the dataset has {len(names)} classes"
        table_too = "give segmenter_labels, a table of what each output stands for"
        remedy = BACKGROUND_TOO if file.outputs == 1 else table_too
        raise EvaluationError("segmenter", found, remedy, path=file.path)
    model = ExternalSegmenter(file, classes, len(names))
    left_out = tuple(names[index] for index in model.left_out)
    height, width = file.size
    kind = file.model or "a program"
    by_table = "" if table is None else f", its outputs named by {table_path.name}"
    record = {
        "segmenter": f"{file.path.name}, SHA-256 {file.digest}, {kind}, trained elsewhere{by_table}; it looks at "
        f"{width} x {height} pixels",
        "given": {
            "file": str(file.path.absolute()),
            "sha256": file.digest,
            "model": kind,
            "labels_file": None if table is None else str(table_path.absolute()),
            "labels": [None if each == NO_CLASS else names[each] for each in classes],
            "size": [height, width],
            "input": file.form,
            "left_out_classes": list(left_out),
        },
    }
    counts = partial(model.counts, batch_size=batch_size, device=device)
    encoder = file.encoder_of
    features = None
    if encoder is not None:
        features = partial(encoder_features, encoder, device=device, form=file.form, size=file.size)
    predicted = partial(predict, model, batch_size=batch_size, device=device, form=file.form)
    return AgreementSegmenter(record, True, counts, features, left_out, predicted)
