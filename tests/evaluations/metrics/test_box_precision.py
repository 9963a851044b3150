"""Average precision: known answers, pycocotools as the reference, and a detector that learns."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
import torch
from layout_sets import image_objects, image_set, layout_sets, one_each

from evaluations.metrics import box_precision
from evaluations.metrics.box_precision import (
    BoxPrecisionMetric,
    Detections,
    average_precision,
    build_detector,
    coco_records,
    detect,
    train_detector,
)
from evaluations.objects import ImageObjects, LayoutSets

CPU = torch.device("cpu")
SIZE = (40, 60)


def found(objects: ImageObjects, score: float = 0.9) -> Detections:
    return Detections(objects.classes, objects.boxes, np.full(len(objects), score))


@pytest.fixture
def library():
    pytest.importorskip(box_precision.LIBRARY)


@pytest.mark.usefixtures("library")
class TestKnownAnswers:
    TRUE = (image_objects([1, 2], [(0, 0, 0.5, 0.5), (0.5, 0.5, 1, 1)]), image_objects([1], [(0.2, 0.2, 0.4, 0.4)]))

    def ap(self, *detections: Detections):
        return average_precision(detections, self.TRUE, 3, SIZE)

    def test_everything_found(self):
        precision = self.ap(*map(found, self.TRUE))
        assert precision.by_class[1:].tolist() == [1, 1]
        assert np.isnan(precision.by_class[0])
        assert precision.to_json(["a", "b", "c"])["ap"] == 1

    def test_nothing_found(self):
        none = found(image_objects([], []))
        precision = self.ap(none, none)
        assert precision.by_class[1:].tolist() == [0, 0]
        assert np.isnan(precision.by_class[0])

    def test_half_of_a_class_found(self):
        """Precision is 1 up to a recall of 0.5: 51 of the 101 points."""
        precision = self.ap(found(self.TRUE[0]), found(image_objects([], [])))
        assert precision.by_class[1:] == pytest.approx([51 / 101, 1])

    def test_loose_boxes_count_at_low_thresholds(self):
        """Boxes with IoU 0.72 count at 0.5, 0.55, ... 0.7: 5 of 10 thresholds."""
        loose = [ImageObjects(each.classes, each.boxes * [1, 1, 1, 1]) for each in self.TRUE]
        for each in loose:
            each.boxes[:, 2] = each.boxes[:, 0] + 0.72 * (each.boxes[:, 2] - each.boxes[:, 0])
        precision = self.ap(*map(found, loose))
        assert precision.by_class[1:] == pytest.approx([0.5, 0.5])
        assert precision.by_class50[1:].tolist() == [1, 1]

    def test_another_class_is_not_found(self):
        swapped = [ImageObjects(3 - each.classes, each.boxes) for each in self.TRUE]
        assert self.ap(*map(found, swapped)).by_class[1:].tolist() == [0, 0]


@pytest.mark.usefixtures("library")
def test_as_pycocotools():
    coco, evaluation = (pytest.importorskip(f"pycocotools.{name}") for name in ("coco", "cocoeval"))
    rng = np.random.default_rng(0)
    true, detections = [], []
    for _ in range(12):
        corners = rng.random((5, 2)) * 0.6
        boxes = np.concatenate([corners, corners + 0.1 + rng.random((5, 2)) * 0.3], axis=1)
        true.append(ImageObjects(rng.integers(1, 4, 5), boxes))
        moved = np.concatenate([boxes + rng.normal(0, 0.02, boxes.shape), boxes[:2] + 0.05])
        detections.append(Detections(np.append(true[-1].classes, [1, 2]), moved, rng.random(7)))
    ours = average_precision(detections, true, 4, SIZE)
    content, results = coco_records(detections, true, 4, SIZE)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = content
        truth.createIndex()
        theirs = evaluation.COCOeval(truth, truth.loadRes(results), "bbox")
        theirs.evaluate()
        theirs.accumulate()
        theirs.summarize()
    assert 0.2 < theirs.stats[0] < 0.9
    assert np.nanmean(ours.by_class) == pytest.approx(theirs.stats[0], abs=1e-9)
    assert np.nanmean(ours.by_class50) == pytest.approx(theirs.stats[1], abs=1e-9)


def squares(count: int, seed: int) -> tuple[np.ndarray, tuple[ImageObjects, ...]]:
    """Return dark images with a bright square each."""
    rng = np.random.default_rng(seed)
    images, objects = rng.integers(0, 60, (count, 32, 32, 3), np.uint8), []
    for image in images:
        y, x = rng.integers(0, 20, 2)
        image[y : y + 12, x : x + 12] += 180
        objects.append(image_objects([1], [np.array([x, y, x + 12, y + 12]) / 32]))
    return images, tuple(objects)


class Recorder(torch.nn.Module):
    """Keeps the targets that it is trained on."""

    def __init__(self):
        super().__init__()
        self.weight, self.targets = torch.nn.Parameter(torch.ones(())), []

    def forward(self, images, targets):
        self.targets += targets
        return {"loss": self.weight**2}


def test_sides_change_places_in_mirrored_examples():
    left, right = (0.1, 0.2, 0.3, 0.4), (0.6, 0.2, 0.9, 0.4)
    objects = (image_objects([1, 2, 3], [left, right, left]),)
    model = train_detector(
        Recorder(), np.zeros((1, 20, 20, 3), np.uint8), objects, 2, seed=0, device=CPU, flip_pairs=[(1, 2)]
    )
    seen = {(int(label), bool(box[0] < 10)) for t in model.targets for box, label in zip(*t.values(), strict=True)}
    assert seen == {(1, True), (2, False), (3, True), (3, False)}  # class 3 is on both sides: some were mirrored


@pytest.mark.slow
@pytest.mark.usefixtures("library")
def test_the_detector_learns():
    images, objects = squares(16, 0)
    model = train_detector(build_detector(3, (32, 32), 0, shorter=32), images, objects, 40, seed=0, device=CPU)
    others, true = squares(8, 1)
    assert average_precision(detect(model, others, CPU), true, 3, (32, 32)).by_class50[1] > 0.7


def test_mirrored_boxes_lie_on_the_mirrored_object():
    images, objects = squares(2, 0)
    for image, each in zip(images, objects, strict=True):
        for mirrored in (False, True):
            pixels, target = box_precision._example(image, each, mirrored, CPU)
            x0, y0, x1, y1 = target["boxes"][0].round().int().tolist()
            assert pixels[:, y0:y1, x0:x1].min() > 0.6
            assert pixels.sum() - pixels[:, y0:y1, x0:x1].sum() < 0.3 * pixels.numel()


@pytest.mark.slow
def test_images_without_objects_and_boxes_without_width():
    images, _ = squares(2, 0)
    model = build_detector(3, (32, 32), 0, shorter=32)
    for none in (image_objects([], []), image_objects([1], [(0.5, 0.5, 0.5 + 1e-9, 0.7)])):
        train_detector(model, images, (none, none), 1, seed=0, device=CPU)


def measure(samples: tuple[ImageObjects, ...]):
    images, objects = squares(2, 0)
    part = image_set(images)
    layouts = LayoutSets(objects, objects, samples)
    sets = layout_sets(part, part, part, layouts, has_masks=False)
    return BoxPrecisionMetric(1, 0, CPU).measure(sets)


def test_without_the_library_the_report_says_so(monkeypatch):
    monkeypatch.setattr(box_precision, "LIBRARY", "no_such_library")
    measured = measure(one_each([1, 1]))
    assert "pip install faster-coco-eval" in measured.record["skipped"]
    assert "faster-coco-eval" in measured.findings[0]


@pytest.mark.usefixtures("library")
def test_nothing_to_find():
    assert "samples" in measure((image_objects([], []),) * 2).record["skipped"]
