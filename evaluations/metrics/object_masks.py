"""Predicted masks of objects against the true ones, where a sample has the layout of a real image with a mask."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from evaluations.metrics.base import EvaluationSets, Measurement, Metric, Skipped
from evaluations.metrics.segmentation import plain
from evaluations.objects import ImageObjects, filled_boxes, pixels_of
from evaluations.report.page import Section, Sheet, Table
from evaluations.report.sections import percent
from evaluations.sets import Indices, Labels

HEADING = "Are the predicted masks true?"
NAME = "Predicted masks"
CELLS = 16
"""Rows and columns of the mean mask of a class in its boxes."""
_SAME = 0.5  # pixels by which two boxes of one object may differ

Shape = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ObjectScores:
    """Masks of M objects in their boxes against true masks: classes, pixels of both and of either, [M] each."""

    classes: Indices
    hits: Indices
    unions: Indices

    def of_class(self, class_id: int) -> dict[str, float | None]:
        """Return `iou`, of the summed pixels, and `mean_iou` of single objects; None without any."""
        chosen = self.classes == class_id
        hits, unions = self.hits[chosen], self.unions[chosen]
        if not unions.sum():
            return {"iou": None, "mean_iou": None}
        return {"iou": float(hits.sum() / unions.sum()), "mean_iou": float((hits / np.maximum(unions, 1)).mean())}

    def means(self, class_ids: Iterable[int]) -> dict[str, float | None]:
        """Return the means of both over classes."""
        rows = [self.of_class(class_id) for class_id in class_ids]
        return {key: _mean([row[key] for row in rows]) for key in ("iou", "mean_iou")}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return plain(float(np.mean(known))) if known else None


def object_scores(
    predicted: Iterable[Labels], true: Iterable[Labels], objects: Iterable[ImageObjects], num_classes: int
) -> ObjectScores:
    """Compare label maps [H, W] in the box of each object, pixel by pixel of its class; ignored ones do not count."""
    rows = []
    for found, label, each in zip(predicted, true, objects, strict=True):
        for class_id, box in zip(each.classes.tolist(), each.boxes, strict=True):
            inside = pixels_of(box, label.shape)
            counted = label[inside] != num_classes
            ours, theirs = (found[inside] == class_id) & counted, (label[inside] == class_id) & counted
            rows.append((class_id, int((ours & theirs).sum()), int((ours | theirs).sum())))
    columns = np.array(rows, np.int64).reshape(-1, 3).T
    return ObjectScores(*columns)


def matched(layout: ImageObjects, real: ImageObjects, size: tuple[int, int]) -> ImageObjects:
    """Return the objects of a layout that a real image has, too: of one class, with the same box to half a pixel."""
    scale = np.array([size[1], size[0], size[1], size[0]])
    near = (np.abs(layout.boxes[:, None] - real.boxes[None]) * scale <= _SAME).all(-1)
    kept = (near & (layout.classes[:, None] == real.classes[None])).any(1)
    return ImageObjects(layout.classes[kept], layout.boxes[kept])


def mean_shapes(labels: Labels, objects: Sequence[ImageObjects], num_classes: int) -> dict[int, Shape]:
    """Return the mean mask of each class in its boxes, [CELLS, CELLS], cut where it has the best IoU with the masks.

    labels: [N, H, W] of training images.
    """
    found: dict[int, list[NDArray[np.float32]]] = {}
    for label, each in zip(labels, objects, strict=True):
        for class_id, box in zip(each.classes.tolist(), each.boxes, strict=True):
            own = torch.from_numpy((label[pixels_of(box, label.shape)] == class_id).astype(np.float32))
            cells = interpolate(own[None, None], (CELLS, CELLS), mode="bilinear", antialias=True)[0, 0]
            found.setdefault(class_id, []).append(cells.numpy())
    return {class_id: _cut(np.stack(masks)) for class_id, masks in found.items() if class_id != num_classes}


def _cut(masks: NDArray[np.float32]) -> Shape:
    mean = masks.mean(0)

    def iou(shape: Shape) -> float:
        return float(np.minimum(masks, shape).sum() / np.maximum(masks, shape).sum().clip(1e-9))

    return max((mean >= level for level in np.linspace(0.05, 0.95, 19) * mean.max()), key=iou)


def drawn_shapes(
    objects: ImageObjects, shapes: dict[int, Shape], size: tuple[int, int], background: int
) -> NDArray[np.int64]:
    """Return the label map [H, W] of objects that have the shape of their class, smaller ones in front."""
    label = np.full(size, background, np.int64)
    for index in objects.front[::-1]:
        inside = label[pixels_of(objects.boxes[index], size)]
        class_id = int(objects.classes[index])
        shape = shapes.get(class_id, np.ones((CELLS, CELLS), bool))
        rows, columns = ((2 * np.arange(count) + 1) * CELLS // (2 * count) for count in inside.shape)
        inside[shape[np.ix_(rows, columns)]] = class_id
    return label


# ----------------------------------------------------------------------------------------------------- metric


@dataclass(frozen=True, eq=False)
class _Known:
    """Samples whose true masks are known: their indices, true label maps, and the objects that are compared."""

    indices: list[int]
    labels: list[Labels]
    objects: list[ImageObjects]


@dataclass(frozen=True)
class ObjectMasksMetric(Metric):
    """IoU of predicted masks with the true masks of the same objects; `shown` samples are in the report."""

    key: ClassVar = "object_masks"

    shown: int

    def measure(self, sets: EvaluationSets) -> Measurement:
        """Return the scores of layouts of the test and of the training split, beside those of baselines."""
        if not sets.has_masks:
            return Skipped("not measured: the real dataset has no masks").measurement(HEADING, NAME)
        record: dict[str, Any] = {}
        known = {part: _known(sets, part) for part in ("test", "training")}
        for part, each in known.items():
            if any(map(len, each.objects)):
                record[part] = _compared(sets, each)
        if not record:
            reason = "not measured: no sample has the layout of a real image whose mask was read"
            return Skipped(reason).measurement(HEADING, NAME)
        findings = tuple(_finding(part, entry) for part, entry in record.items())
        tables = [_table(part, entry) for part, entry in record.items()]
        first = known[next(iter(record))]
        section = Section(HEADING, _text(), tables, [self._sheet(sets, first)])
        warnings = tuple(line for part, entry in record.items() for line in _warnings(part, entry))
        facts = tuple(
            (f"IoU of predicted masks, {part} layouts", _shares(entry["mean"])) for part, entry in record.items()
        )
        return Measurement(record, section, findings, warnings, facts)

    def _sheet(self, sets: EvaluationSets, known: _Known) -> Sheet:
        groups = [
            (sets.samples.images[index], sets.samples.labels[index], label)
            for index, label in list(zip(known.indices, known.labels, strict=True))[: self.shown]
        ]
        return Sheet("Samples with predicted and true masks", groups, ("sample", "predicted", "true"))


def _known(sets: EvaluationSets, part: str) -> _Known:
    layouts = sets.layouts
    assert layouts is not None
    real, objects = getattr(sets, part), getattr(layouts, part)
    origins = sets.test_origin if part == "test" else sets.origin
    found = _Known([], [], [])
    if real is None or objects is None or not layouts.predicted:
        return found
    for index, origin in enumerate(origins.tolist()):
        if origin < 0:
            continue
        found.indices.append(index)
        found.labels.append(real.labels[origin])
        found.objects.append(matched(layouts.samples[index], objects[origin], sets.size))
    return found


def _compared(sets: EvaluationSets, known: _Known) -> dict[str, Any]:
    """Return the scores of the predicted masks, and of what needs no model, by class and as their mean."""
    assert sets.layouts is not None
    layouts = [sets.layouts.samples[index] for index in known.indices]
    predictions: dict[str, Callable[[], Iterable[Labels]]] = {
        "predicted": lambda: (sets.samples.labels[index] for index in known.indices),
        "whole_box": lambda: (filled_boxes(each, sets.size, sets.background) for each in layouts),
    }
    if sets.training is not None and sets.layouts.training is not None:
        shapes = mean_shapes(sets.training.labels, sets.layouts.training, sets.test.num_classes)
        predictions["mean_shape"] = lambda: (drawn_shapes(each, shapes, sets.size, sets.background) for each in layouts)
    scored = {
        name: object_scores(maps(), known.labels, known.objects, sets.test.num_classes)
        for name, maps in predictions.items()
    }
    classes = scored["predicted"].classes
    present = sorted(set(classes.tolist()))
    by_class = {
        sets.class_names[class_id]: {
            "objects": int((classes == class_id).sum()),
            **{name: each.of_class(class_id) for name, each in scored.items()},
        }
        for class_id in present
    }
    return {
        "samples": len(known.indices),
        "objects": len(classes),
        "left_out": sum(map(len, layouts)) - len(classes),
        "mean": {name: each.means(present) for name, each in scored.items()},
        "classes": by_class,
    }


_NAMES = {"predicted": "predicted", "whole_box": "the whole box", "mean_shape": "the mean shape of the class"}


def _shares(row: dict[str, Any]) -> str:
    return ", ".join(f"{_NAMES[name]} {percent(row[name]['iou'])} %" for name in _NAMES if name in row)


def _finding(part: str, entry: dict[str, Any]) -> str:
    counts = f"{entry['objects']} objects in {entry['samples']} samples"
    return f"IoU in boxes with the true masks of {part} layouts, mean over classes: {_shares(entry['mean'])} ({counts})"


def _warnings(part: str, entry: dict[str, Any]) -> list[str]:
    worse = [
        name
        for name, row in entry["classes"].items()
        if row["predicted"]["iou"] is not None and row["predicted"]["iou"] < row["whole_box"]["iou"]
    ]
    if not worse:
        return []
    line = f"predicted masks of {part} layouts are worse than whole boxes for {', '.join(worse)}"
    return [f"{line}: train longer, or with mask_supervision"]


def _text() -> list[str]:
    return [
        "Masks that the model predicted for layouts of real images, against the true masks of these images: pixels of "
        "the object's class in its box. IoU is that of the summed pixels, and beside it the mean over objects, in "
        "which small ones count as much. Objects that were moved, or that the real image has not, are left out.",
        "For comparison, what needs no model: every box full of its class, and every box with the mean mask of its "
        "class in the training images, cut where it fits these best. The smaller object is in front, as in predicted "
        "masks. The model draws an object of its own, so even a perfect mask of it is not the true one.",
    ]


def _table(part: str, entry: dict[str, Any]) -> Table:
    columns = [name for name in _NAMES if name in entry["mean"]]
    header = [f"layouts of the {part} split", "objects"]
    header += [text for name in columns for text in (f"{_NAMES[name]}: IoU, %", "mean over objects, %")]

    def row(name: str, count: int, values: dict[str, Any]) -> list[str | int]:
        shares = [percent(values[column][key]) for column in columns for key in ("iou", "mean_iou")]
        return [name, count, *shares]

    rows = [row(name, values["objects"], values) for name, values in entry["classes"].items()]
    return Table(header, [row("mean of the classes", entry["objects"], entry["mean"]), *rows])
