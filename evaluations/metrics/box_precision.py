"""Average precision of a detector on samples: one that was trained on real images, against the boxes of the layouts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.models import resnet18
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from tqdm import tqdm

from evaluations.errors import EvaluationError
from evaluations.metrics.base import EvaluationSets, Measurement, Metric, Skipped
from evaluations.objects import ImageObjects, mirrored_objects
from evaluations.report.page import Section, Table
from evaluations.report.sections import percent
from evaluations.segmentation.training import rate_share
from evaluations.sets import Images, Indices

HEADING = "Does a detector find the objects?"
NAME = "Box AP"
LIBRARY = "faster_coco_eval"
MISSING = Skipped(
    "not measured: faster-coco-eval is not installed; pip install faster-coco-eval (the extra boxes of isdm)",
    wanted=True,
)
SHORTER, LONGER = 128, 320
"""Sides in pixels to which smaller images are enlarged, and larger ones reduced, for the detector."""
BATCH = 8
_RATE = 1e-3
_CHANNELS = 64  # of the feature pyramid
_LEAST = 1e-2  # pixels: thinner boxes are refused by torchvision
_DETECTIONS = 100  # of an image, as in COCO

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Detections:
    """What a detector says of one image: classes [K], boxes [K, 4] in shares of width and height, scores [K]."""

    classes: Indices
    boxes: Floats
    scores: Floats


# ------------------------------------------------------------------------------------------ average precision


@dataclass(frozen=True, eq=False)
class Precision:
    """AP of each class [C], the mean over IoU 0.50:0.05:0.95, and AP at IoU 0.5; NaN for a class without objects."""

    by_class: Floats
    by_class50: Floats

    def to_json(self, names: Sequence[str]) -> dict[str, Any]:
        """Return plain values for a JSON file: means over the classes, and each class by name."""
        classes = {
            name: {"ap": float(ap), "ap50": float(ap50)}
            for name, ap, ap50 in zip(names, self.by_class, self.by_class50, strict=True)
            if not np.isnan(ap)
        }
        means = {key: float(np.mean([each[key] for each in classes.values()])) for key in ("ap", "ap50")}
        return {**means, "classes": classes}


def average_precision(
    found: Sequence[Detections], true: Sequence[ImageObjects], num_classes: int, size: tuple[int, int]
) -> Precision:
    """Return the AP of COCO (Lin et al. 2014), by faster-coco-eval, of detections in images of `size`; none is a crowd.

    At least one image has an object.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    content, results = coco_records(found, true, num_classes, size)
    assert content["annotations"], "there is nothing to find"
    if not results:
        counts = np.bincount(np.concatenate([each.classes for each in true]), minlength=num_classes)
        none = np.where(counts > 0, 0.0, np.nan)
        return Precision(none, none)
    truth = COCO(content)
    evaluation = COCOeval_faster(truth, truth.loadRes(results), iouType="bbox", print_function=lambda *_: None)
    evaluation.evaluate()
    evaluation.accumulate()
    # [IoU, recall, class, area, number of detections]: all areas, the largest number
    precision = np.asarray(evaluation.eval["precision"], np.float64)[:, :, :, 0, -1]
    precision = np.where(precision < 0, np.nan, precision).transpose(2, 0, 1)
    return Precision(precision.mean((1, 2)), precision[:, 0].mean(1))


def coco_records(
    found: Sequence[Detections], true: Sequence[ImageObjects], num_classes: int, size: tuple[int, int]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return annotations and results as COCO files have them; boxes in pixels of images of `size`."""
    scale = np.array([size[1], size[0], size[1], size[0]])
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for number, (detected, objects) in enumerate(zip(found, true, strict=True), 1):
        for class_id, box in zip(objects.classes.tolist(), objects.boxes * scale, strict=True):
            x, y, width, height = _corner_and_size(box)
            entry = {"id": len(annotations) + 1, "image_id": number, "category_id": class_id + 1, "iscrowd": 0}
            annotations.append({**entry, "bbox": [x, y, width, height], "area": width * height})
        rows = zip(detected.classes.tolist(), detected.boxes * scale, detected.scores.tolist(), strict=True)
        for class_id, box, score in rows:
            entry = {"image_id": number, "category_id": class_id + 1, "bbox": _corner_and_size(box), "score": score}
            results.append(entry)
    images = [{"id": number, "height": size[0], "width": size[1]} for number in range(1, len(true) + 1)]
    categories = [{"id": class_id + 1, "name": str(class_id)} for class_id in range(num_classes)]
    return {"images": images, "annotations": annotations, "categories": categories}, results


def _corner_and_size(box: Floats) -> list[float]:
    x0, y0, x1, y1 = box.tolist()
    return [x0, y0, x1 - x0, y1 - y0]


# --------------------------------------------------------------------------------------------------- detector


def build_detector(num_classes: int, size: tuple[int, int], seed: int, shorter: int = SHORTER) -> FCOS:
    """Return FCOS (Tian et al. 2019) of torchvision on a ResNet-18 with random weights, a function of the seed.

    It matches no anchors, so that it learns from few images. Images of `size` with a shorter side below `shorter`
    are enlarged to it, large ones reduced.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = {f"layer{number}": str(index) for index, number in enumerate((2, 3, 4))}
        pyramid = BackboneWithFPN(resnet18(weights=None), layers, [128, 256, 512], _CHANNELS)
        del pyramid.fpn.extra_blocks  # a fourth level, coarser than the images
        pyramid.fpn.extra_blocks = None
        anchors = AnchorGenerator(((8,), (16,), (32,)), ((1.0,),) * 3)  # one a place, as FCOS takes them
        side = min(max(min(size), shorter), LONGER)
        return FCOS(
            pyramid,
            num_classes,
            min_size=side,
            max_size=max(side, LONGER),
            anchor_generator=anchors,
            score_thresh=0.02,
            detections_per_img=_DETECTIONS,
        )


def train_detector(
    model: FCOS,
    images: Images,
    objects: Sequence[ImageObjects],
    steps: int,
    *,
    seed: int,
    device: torch.device,
    flip_pairs: Sequence[tuple[int, int]] = (),
    callback: Callable[[], None] = lambda: None,
) -> FCOS:
    """Train a detector with AdamW on images [N, H, W, 3], mirrored at random; the batches are a function of `seed`.

    flip_pairs: classes that change places in a mirror. Raises EvaluationError if the loss is not finite.
    """
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_share(step, steps))
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        chosen = rng.integers(len(images), size=BATCH)
        mirrored = rng.random(BATCH) < 0.5
        batch = [
            _example(images[i], objects[i], bool(m), device, flip_pairs) for i, m in zip(chosen, mirrored, strict=True)
        ]
        losses = model([image for image, _ in batch], [target for _, target in batch])
        loss = torch.stack([*losses.values()]).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        callback()
    if not torch.isfinite(loss):
        raise EvaluationError("detector_steps", "the loss of the detector is not finite", "use another seed, or 0")
    return model.eval()


def _example(
    image: NDArray[np.uint8],
    objects: ImageObjects,
    mirrored: bool,
    device: torch.device,
    flip_pairs: Sequence[tuple[int, int]] = (),
) -> tuple[Tensor, dict[str, Tensor]]:
    pixels = torch.from_numpy(image).to(device).permute(2, 0, 1).float() / 255
    if mirrored:
        pixels, objects = pixels.flip(2), mirrored_objects(objects, flip_pairs)
    height, width = image.shape[:2]
    scaled = objects.boxes * np.array([width, height, width, height])
    seen = (scaled[:, 2:] - scaled[:, :2] > _LEAST).all(1)
    target = {"boxes": torch.from_numpy(scaled[seen]).float(), "labels": torch.from_numpy(objects.classes[seen])}
    return pixels, {name: value.to(device) for name, value in target.items()}


@torch.inference_mode()
def detect(model: FCOS, images: Images, device: torch.device) -> list[Detections]:
    """Return what the detector finds in each of `images` [N, H, W, 3]."""
    found = []
    height, width = images.shape[1:3]
    scale = np.array([width, height, width, height])
    for start in range(0, len(images), BATCH):
        batch = torch.from_numpy(images[start : start + BATCH]).to(device).permute(0, 3, 1, 2).float() / 255
        for each in model(list(batch)):
            boxes, labels, scores = (each[key].cpu().numpy() for key in ("boxes", "labels", "scores"))
            found.append(Detections(labels, boxes.astype(np.float64) / scale, scores.astype(np.float64)))
    return found


# ----------------------------------------------------------------------------------------------------- metric


@dataclass(frozen=True)
class BoxPrecisionMetric(Metric):
    """AP of a detector of real training images on the samples, beside that on the real test images."""

    key: ClassVar = "box_precision"

    steps: int
    seed: int
    device: torch.device

    def measure(self, sets: EvaluationSets) -> Measurement:
        """Return AP and AP50, of all classes and of each; skipped where the library of AP is missing."""
        layouts = sets.layouts
        assert layouts is not None
        if find_spec(LIBRARY) is None:
            lacking = MISSING.measurement(HEADING, NAME)
            return Measurement(lacking.record, lacking.section, (f"{NAME}: {MISSING.reason}",))
        assert sets.training is not None
        assert layouts.training is not None
        for name in ("training", "test", "samples"):
            if not any(map(len, getattr(layouts, name))):
                return Skipped(f"not measured: the {name} images have no objects").measurement(HEADING, NAME)
        model = build_detector(len(sets.class_names), sets.size, self.seed)
        with tqdm(total=self.steps, desc="detector", unit="step") as bar:
            train_detector(
                model,
                sets.training.images,
                layouts.training,
                self.steps,
                seed=self.seed,
                device=self.device,
                flip_pairs=sets.flip_pairs,
                callback=bar.update,
            )
        parts = {"samples": (sets.samples, layouts.samples), "real_test_images": (sets.test, layouts.test)}
        scores = {
            name: average_precision(
                detect(model, images.images, self.device), objects, len(sets.class_names), sets.size
            ).to_json(sets.class_names)
            for name, (images, objects) in parts.items()
        }
        record = {"detector": "FCOS on a ResNet-18, random weights", "steps": self.steps, **scores}
        ours, real = (f"{percent(scores[name]['ap50'])} %" for name in parts)
        finding = (
            f"box AP of a detector of real images: {percent(scores['samples']['ap'])} % (AP50 {ours}) on samples, "
            f"{percent(scores['real_test_images']['ap'])} % (AP50 {real}) on real test images"
        )
        facts = (("Box AP50 on samples", f"{ours} (real test images {real})"),)
        section = Section(HEADING, _text(record, len(sets.training)), [_table(scores)])
        return Measurement(record, section, (finding,), facts=facts)


def _text(record: dict[str, Any], images: int) -> list[str]:
    return [
        f"A detector ({record['detector']}) learned the boxes of {images} real training images in {record['steps']} "
        f"batches of {BATCH}, and is asked for those of the samples: AP of COCO against the boxes that the samples "
        "were made of. AP on real test images is the yardstick: if it is low, the detector is weak and AP says little. "
        "It can be higher on samples, whose objects may be plainer. Published scores are of other detectors."
    ]


def _table(scores: dict[str, dict[str, Any]]) -> Table:
    names = list(dict.fromkeys(name for each in scores.values() for name in each["classes"]))
    header = ["class", *(f"{title}: {key}, %" for title in ("samples", "real") for key in ("AP", "AP50"))]
    rows = [["mean", *(percent(each[key]) for each in scores.values() for key in ("ap", "ap50"))]]
    rows += [
        [name, *(percent(each["classes"].get(name, {}).get(key)) for each in scores.values() for key in ("ap", "ap50"))]
        for name in names
    ]
    return Table(header, rows)
