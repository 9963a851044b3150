"""The segmenter that looks for the masks in the samples: trained here on the real images, or given as a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from evaluations.errors import EvaluationError
from evaluations.metrics.segmentation import Counts
from evaluations.segmentation.external import GivenSegmenter, SegmenterFile, read_segmenter
from evaluations.segmentation.label_table import NO_CLASS, Table, classes_of_outputs, read_table
from evaluations.segmentation.models import InputForm, encoder_features
from evaluations.segmentation.training import evaluate_segmenter
from evaluations.sets import ImageSet, Pixels
from evaluations.study.run import USUAL
from guided_diffusion.models.architecture import height_width
from guided_diffusion.pipelines.evaluation.study import Study, load_segmenter

BATCH = 32  # images whose features are computed at a time


@dataclass(frozen=True)
class Judge:
    """A segmenter that tells how well samples show their masks.

    record: what report.json says of it; "segmenter" is the line for people.
    given: whether it was trained elsewhere.
    counts: pixel counts of its predictions on images.
    features: what its encoder makes of images, float32 [N, D]; None where it has no encoder of its own.
    left_out: names of the classes that it does not know, whose pixels count as of no class.
    """

    record: dict[str, Any]
    given: bool
    counts: Callable[[ImageSet], Counts]
    features: Callable[[Pixels], np.ndarray] | None
    left_out: tuple[str, ...] = ()


def trained_judge(study: Study) -> Judge:
    """Return the segmenter that the study has trained; UserError where its file is damaged."""
    model, options = load_segmenter(study), study.options
    augmented = options.augment_all or study.segmenter_run.arm == USUAL
    how = "with the usual augmentation" if augmented else "without augmentation, which did better in validation"

    def counts(images: ImageSet) -> Counts:
        if images is study.data.test:  # known since its training
            return Counts.from_json(study.results[study.segmenter_run.key]["counts"])
        return evaluate_segmenter(model, images, options.plan.batch_size, options.device)

    record = {"segmenter": f"{study.architectures[0]}, trained on the real training images {how}"}
    return Judge(record, False, counts, _features_of(model, options.device))


def _features_of(
    model: nn.Module, device: torch.device, form: InputForm = "imagenet", size: tuple[int, int] | None = None
) -> Callable[[Pixels], np.ndarray]:
    return partial(encoder_features, model, batch_size=BATCH, device=device, form=form, size=size)


@dataclass(frozen=True)
class GivenFiles:
    """A given segmenter and its label table (None: outputs are the classes in order), before the classes are known."""

    segmenter: SegmenterFile
    table: Table | None
    table_path: Path


def read_given(options: Mapping[str, Any], device: torch.device) -> GivenFiles | None:
    """Return what `options` (resolved) give as a segmenter, tried out on images of noise; None for none.

    Raises EvaluationError for files that are missing, cannot be read or do not fit.
    """
    if not options["segmenter"]:
        return None
    table_path = Path(options["segmenter_labels"])
    table = read_table(table_path) if options["segmenter_labels"] else None
    segmenter = read_segmenter(
        options["segmenter"],
        options["segmenter_model"],
        size=height_width(options["segmenter_size"] or options["image_size"]),
        form=options["segmenter_input"],
        device=device,
    )
    return GivenFiles(segmenter, table, table_path)


def given_judge(given: GivenFiles, class_names: Sequence[str], batch_size: int, device: torch.device) -> Judge:
    """Return the given segmenter for a dataset of these classes; EvaluationError where its outputs do not fit them."""
    file, names = given.segmenter, list(class_names)
    if given.table is not None:
        classes = classes_of_outputs(given.table, given.table_path, outputs=file.outputs, class_names=names)
    elif file.outputs == len(names):
        classes = tuple(range(len(names)))
    else:
        raise EvaluationError(
            f"segmenter: {file.path} has {file.outputs} outputs, but the dataset has {len(names)} classes: give "
            "segmenter_labels, a table of what each output stands for"
        )
    model = GivenSegmenter(file, classes, len(names))
    left_out = tuple(names[index] for index in model.left_out)
    height, width = file.size
    kind = file.model or "a program"
    by_table = "" if given.table is None else f", its outputs named by {given.table_path.name}"
    record = {
        "segmenter": f"{file.path.name}, SHA-256 {file.digest}, {kind}, trained elsewhere{by_table}; it looks at "
        f"{width} x {height} pixels",
        "given": {
            "file": str(file.path.absolute()),
            "sha256": file.digest,
            "model": kind,
            "labels_file": str(given.table_path.absolute()) if given.table is not None else None,
            "labels": [None if each == NO_CLASS else names[each] for each in classes],
            "size": [height, width],
            "input": file.form,
            "left_out_classes": list(left_out),
        },
    }
    counts = partial(model.counts, batch_size=batch_size, device=device)
    encoder = file.encoder_of
    features = None if encoder is None else _features_of(encoder, device, file.form, file.size)
    return Judge(record, True, counts, features, left_out)
