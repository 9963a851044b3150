"""What the area rule loses, against what sampling reads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from guided_diffusion.data.area import reduce_label
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.scan.lost_by_area import classes_left, may_lose
from guided_diffusion.data.scan.problems import ProblemKind
from guided_diffusion.data.scan.scan import scan_dataset, scan_masks
from guided_diffusion.data.transforms import JointTransform

NULL = 7


def transform_of(resize: str, size: tuple[int, int], scale: float = 1.0, **options) -> JointTransform:
    return JointTransform(size, resize, scale=scale, mask_resize="area", train=False, **options)


def kept(label: np.ndarray, transform: JointTransform, *, cropped: bool = True) -> set[int]:
    """Return the classes of the whole reduced map, or of its part that `crop` leaves."""
    placement = transform.place(label.shape)
    tensor = torch.from_numpy(label.astype(np.uint8))
    rows, columns = (0, placement.scaled[0]), (0, placement.scaled[1])
    if placement.scaled != label.shape:
        tensor = reduce_label(tensor, placement.scaled, rows, columns, background=transform.background, null_id=NULL)
    if cropped and transform.resize == "crop":
        rows, columns = placement.seen
        tensor = tensor[slice(*rows), slice(*columns)]
    return set(tensor.unique().tolist())


@st.composite
def spotted(draw):
    size = draw(st.tuples(st.integers(3, 60), st.integers(3, 60)))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    label = np.zeros(size, np.uint8)
    for _ in range(draw(st.integers(0, 8))):
        top, left = rng.integers(0, size[0]), rng.integers(0, size[1])
        height, width = rng.integers(1, draw(st.sampled_from([2, 4, 20])), 2)
        label[top : top + height, left : left + width] = rng.choice([1, 2, 3, 4, NULL])
    return label


@pytest.mark.slow
@settings(max_examples=250, deadline=None)
@given(
    label=spotted(),
    resize=st.sampled_from(["window", "window", "crop", "squash", "pad"]),
    size=st.sampled_from([(8, 8), (16, 24)]),
    scale=st.sampled_from([1.0, 0.5, 0.37, 0.1]),
)
def test_what_is_left_is_what_the_reduced_map_has(label, resize, size, scale):
    transform = transform_of(resize, size, scale, background=1)
    classes = np.unique(label)
    present = set(classes.tolist()) - {NULL}
    gone = present - kept(label, transform)
    left = classes_left(label, classes, transform, NULL)
    assert (left is None) == (not gone)
    assert not gone or may_lose(label, classes, transform), "the first look misses nothing"
    if left is None:
        return
    assert set(classes[~left.placed].tolist()) == gone
    assert set(classes[~left.scaled].tolist()) == present - kept(label, transform, cropped=False)
    for other, flags in left.elsewhere:
        changed = transform_of(other, size, scale, background=1)
        assert set(classes[~flags].tolist()) & gone == gone - kept(label, changed)
    for class_id in classes[~left.scaled].tolist():
        (factor,) = left.factor[classes == class_id].tolist()
        if not factor:
            continue
        changed = (
            transform_of(resize, size, min(1.0, scale * factor), background=1)
            if resize == "window"
            else transform_of(resize, (size[0] * factor, size[1] * factor), background=1)
        )
        assert class_id in kept(label, changed, cropped=False)


def test_what_fills_a_pixel_needs_no_second_look():
    mask = np.zeros((3000, 4000), np.uint16)
    mask[100:104, 100:104] = 300
    codes = np.array([0, 300])
    assert not may_lose(mask, codes, transform_of("window", (64, 64), 0.5))
    assert not may_lose(mask, codes, transform_of("window", (64, 64), 1.0))
    mask[104, 104] = 301
    assert may_lose(mask, np.array([0, 300, 301]), transform_of("window", (64, 64), 0.5))
    assert may_lose(mask, codes, transform_of("crop", (64, 64))), "outside of what crop leaves"


def scan(root, size=(8, 8), resize="window", scale=0.25, mode="multi-class", num_classes=None, **options):
    transform = JointTransform(size, resize, scale=scale, train=False, **options)
    return scan_dataset(root, get_mode(mode), "train", num_classes=num_classes, transform=transform, progress=False)


def counts(report) -> list[tuple[int, int, int]]:
    return [(stats.images, stats.lost_by_scaling, stats.lost_by_cropping) for stats in report.classes]


CLASSES = {"0": "ground", "1": {"name": "hole", "values": [1, 2]}, "2": {"name": "crack", "value": 3}}


def test_codes_of_one_class_cover_together_and_the_ground_may_be_rare(build):
    """Alone each code of the hole would be lost, and the class that covers most is not the background."""
    mask = np.zeros((32, 32), np.uint8)
    mask[0, :4] = 1
    mask[1, :4] = 2
    mask[8, 8] = 3
    report = scan(build({"a": mask}, classes=CLASSES))
    assert counts(report) == [(1, 0, 0), (1, 0, 0), (1, 1, 0)]
    full = np.full((32, 32), 3, np.uint8)
    full[16:18, 16:20] = 0  # half a pixel, of which the crack takes the other half
    full[4:6, 4:8] = 0
    full[6, 4:8] = 1
    full[7, 4:6] = 2  # the hole has 0.375 of a pixel, the crack 0.125
    report = scan(build({"a": full}, classes=CLASSES))
    assert counts(report) == [(1, 1, 0), (1, 0, 0), (1, 0, 0)]


def test_windows_lose_by_scaling_alone_and_the_scale_that_keeps_is_named(build):
    line = np.zeros((64, 200), np.uint8)
    line[:, 100] = 1  # a quarter of a pixel at scale 0.25, half of one at 0.5
    report = scan(build({"a": line, "b": line}), num_classes=2)
    assert counts(report) == [(2, 0, 0), (2, 2, 0)]
    (problem,) = (each for each in report.warnings if each.kind is ProblemKind.LOST_BY_SCALING)
    assert "scale 0.25" in problem.found
    assert "scale 0.5" in problem.remedy
    assert "image_size" not in problem.line
    assert "mask_resize" not in problem.line
    for scale in (0.5, 1.0):
        report = scan(build({}), scale=scale, num_classes=2)
        assert counts(report)[1] == (2, 0, 0)
        assert report.losses == ()


def test_nearest_windows_may_lose_and_the_area_rule_is_named(build):
    dot = np.zeros((64, 64), np.uint8)
    dot[20, 20] = 1
    report = scan(build({"a": dot}), scale=0.5, num_classes=2, mask_resize="nearest")
    assert counts(report)[1] == (1, 1, 0)
    (problem,) = (each for each in report.warnings if each.kind is ProblemKind.LOST_BY_SCALING)
    assert "mask_resize" in problem.remedy
    assert "scale 1," in problem.remedy
    assert counts(scan(build({}), scale=1.0, num_classes=2, mask_resize="nearest"))[1] == (1, 0, 0)


@pytest.mark.parametrize("resize", ["crop", "squash", "pad"])
def test_other_resizes_keep_thin_lines_by_area(build, resize):
    line = np.zeros((32, 32), np.uint8)
    line[:, 16] = 1
    root = build({"a": line})
    assert counts(scan(root, (16, 16), resize, num_classes=2, mask_resize="area"))[1] == (1, 0, 0)
    assert counts(scan(root, (16, 16), resize, num_classes=2))[1] == (1, 1, 0)


def test_masks_in_colors_and_masks_alone(build):
    classes = {"0": {"name": "ground", "color": [0, 0, 0]}, "1": {"name": "hole", "color": [255, 0, 9]}}
    label = np.zeros((64, 64), np.uint8)
    label[5, 5] = 1
    root = build({"a": np.array([[0, 0, 0], [255, 0, 9]], np.uint8)[label]}, classes=classes)
    report = scan(root)
    assert counts(report)[1] == (1, 1, 0)
    transform = JointTransform((8, 8), "window", scale=0.25, train=False)
    alone = scan_masks(root / "train/masks", report.encoding, transform=transform, progress=False)
    assert counts(alone) == counts(report)
    assert alone.losses == report.losses


def test_masks_of_unknown_values_are_still_reported(build):
    label = np.zeros((64, 64), np.uint8)
    label[5, 5] = 9
    root = build({"a": label})
    transform = JointTransform((8, 8), "window", scale=0.25, train=False)
    report = scan_dataset(
        root, get_mode("multi-class"), "train", encoding=LabelEncoding.identity(2), transform=transform, progress=False
    )
    assert [problem.kind for problem in report.fatal] == [ProblemKind.UNKNOWN_VALUES]


def test_a_mask_is_turned_alike_at_the_second_look(build):
    label = np.zeros((64, 20), np.uint8)
    label[:, 3] = 1
    root = build({"a": label})
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("images", "masks"):
        path = root / "train" / kind / "a.png"
        Image.open(path).save(path, exif=exif)
    assert counts(scan(root, num_classes=2))[1] == (1, 1, 0)
