"""Classes are counted as the model sees them: after scaling and after cropping."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from PIL import Image

from guided_diffusion.data.datasets import read_condition
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.pairing import MaskEntry
from guided_diffusion.data.scan.lost_classes import MaskLoss, codes_left, written_losses
from guided_diffusion.data.scan.problems import ProblemKind
from guided_diffusion.data.scan.scan import scan_dataset, scan_masks
from guided_diffusion.data.transforms import JointTransform

SCALING, CROPPING = ProblemKind.LOST_BY_SCALING, ProblemKind.LOST_BY_CROPPING


def dotted(height: int, width: int, *boxes: tuple[int, int, int, int], values: tuple[int, ...] = ()) -> np.ndarray:
    """Return a mask of 0 with boxes (row, column, height, width) of 1, or of `values`."""
    mask = np.zeros((height, width), np.uint8)
    for index, (row, column, rows, columns) in enumerate(boxes):
        mask[row : row + rows, column : column + columns] = values[index] if values else 1
    return mask


def scan(root, size=(32, 32), resize="crop", mode="multi-class", num_classes=2, **options):
    transform = JointTransform(size, resize=resize, train=False)
    return scan_dataset(
        root, get_mode(mode), "train", num_classes=num_classes, transform=transform, progress=False, **options
    )


def counts(report) -> list[tuple[int, int, int]]:
    return [(stats.images, stats.lost_by_scaling, stats.lost_by_cropping) for stats in report.classes]


def found(report) -> dict[ProblemKind, str]:
    return {problem.kind: problem.path for problem in report.warnings if problem.kind in (SCALING, CROPPING)}


@pytest.mark.parametrize("resize", ["crop", "squash", "pad"])
@pytest.mark.parametrize("size", [(8, 8), (16, 32), (64, 64)])
@pytest.mark.parametrize("shape", [(48, 48), (20, 90), (90, 20), (7, 5), (2, 500)])
def test_what_is_left_is_what_sampling_reads(tmp_path, resize, size, shape):
    rng = np.random.default_rng(0)
    mask = np.where(rng.random(shape) < 0.02, rng.integers(1, 200, shape), 0).astype(np.uint8)
    Image.fromarray(mask).save(tmp_path / "m.png")
    transform = JointTransform(size, resize=resize, train=False)
    label, *_ = read_condition(MaskEntry("m", str(tmp_path / "m.png")), LabelEncoding.identity(200), transform)
    codes = np.unique(mask)
    left = codes_left(mask, codes, transform)
    expected = np.isin(codes, label.numpy())
    assert np.array_equal(np.ones(len(codes), bool) if left is None else left.placed, expected)
    if left is not None:
        scaled = JointTransform(transform.place(shape).scaled, resize="squash", train=False).place(shape)
        assert np.array_equal(left.scaled, np.isin(codes, scaled.mask(_tensor(mask), 0)))
        for other, present in left.elsewhere:
            placed = JointTransform(size, resize=other, train=False).place(shape).mask(_tensor(mask), 255)
            assert np.array_equal(present, np.isin(codes, placed))


def _tensor(mask: np.ndarray):
    from torch import from_numpy

    return from_numpy(mask)


def test_the_size_named_keeps_the_class_and_no_smaller_one_does():
    mask = dotted(512, 512, (201, 77, 5, 4))
    transform = JointTransform((32, 32), train=False)
    left = codes_left(mask, np.array([0, 1]), transform)
    factor = int(left.factor[1])

    def keeps(times: int) -> bool:
        placement = JointTransform((32 * times, 32 * times), train=False).place(mask.shape)
        return bool((placement.mask(_tensor(mask), 0) == 1).any())

    assert left.factor[0] == 1
    assert factor > 1
    assert all(keeps(times) for times in (2, 3, 4, 6, 8, 12, 16) if times >= factor)
    assert not keeps({2: 1, 3: 2, 4: 3, 6: 4, 8: 6, 12: 8, 16: 12}[factor])


def test_classes_smaller_than_a_pixel(build):
    small, large = dotted(512, 512, (6, 9, 4, 5)), dotted(512, 512, (100, 100, 200, 100))
    report = scan(build({"a": small, "b": large, "c": large, "d": np.zeros_like(small)}))
    assert counts(report) == [(4, 0, 0), (3, 1, 0)]
    assert found(report) == {SCALING: "class 1"}
    (problem,) = (problem for problem in report.warnings if problem.kind is SCALING)
    assert "1 of the 3 masks" in problem.found
    assert [loss.path.rpartition("/")[2] for loss in report.losses] == ["a.png"]
    assert report.losses[0].classes == (1,)
    assert report.losses[0].empty
    assert counts(scan(build({}), size=(512, 512)))[1] == (3, 0, 0)
    header, _, row = report.table().splitlines()[:3]
    assert header.split()[-5:] == ["lost", "by", "scaling", "by", "cropping"]
    assert row.split()[-3:] == ["3", "1", "0"]


def test_classes_outside_the_center(build):
    ends = dotted(64, 400, (10, 5, 30, 55), (10, 340, 30, 50))
    root = build({"a": ends, "b": ends})
    report = scan(root)
    assert counts(report) == [(2, 0, 0), (2, 0, 2)]
    assert found(report) == {CROPPING: "class 1"}
    (problem,) = (problem for problem in report.warnings if problem.kind is CROPPING)
    assert "pad or squash" in problem.remedy
    for resize in ("pad", "squash"):
        assert counts(scan(root, resize=resize))[1] == (2, 0, 0)


def test_only_a_resize_that_keeps_the_class_is_advised(build):
    # Padding scales the rows, too, and loses what is two pixels high.
    root = build({"a": dotted(64, 400, (4, 5, 2, 50))})
    report = scan(root, size=(64, 64))
    kept = [counts(scan(root, size=(64, 64), resize=resize))[1] for resize in ("crop", "pad", "squash")]
    assert kept == [(1, 0, 1), (1, 1, 0), (1, 0, 0)]
    (problem,) = (problem for problem in report.warnings if problem.kind is CROPPING)
    assert "squash" in problem.remedy
    assert "pad" not in problem.remedy
    assert "1" not in problem.remedy  # "in 1 of these 1"
    assert "1 masks" not in problem.found


@pytest.mark.parametrize(("lost", "warned"), [(1, False), (2, True)])
def test_a_loss_counts_from_five_percent_on(build, lost, warned):
    masks = {f"m{i:02d}": dotted(64, 64, (10, 10, 40, 40)) for i in range(39 - lost)}
    masks |= {f"s{i}": dotted(64, 64, (1, 1, 1, 1)) for i in range(lost)}
    report = scan(build(masks), size=(8, 8))
    assert counts(report)[1] == (39, lost, 0)
    assert bool(found(report)) == warned
    assert bool(report.notes) != warned


def test_one_line_has_all_classes_that_few_masks_lose(build):
    large = {f"m{i:02d}": dotted(64, 400, (1, 180, 30, 40), (33, 180, 30, 40), values=(1, 2)) for i in range(40)}
    small = {"s": dotted(64, 400, (33, 180, 1, 1), values=(1,)), "t": dotted(64, 400, (1, 190, 1, 1), values=(2,))}
    outside = {"u": dotted(64, 400, (1, 2, 60, 60), values=(2,))}
    report = scan(build({**large, **small, **outside}), (16, 16), num_classes=3)
    assert counts(report)[1:] == [(41, 1, 0), (42, 1, 1)]
    assert not found(report)
    (line,) = report.notes
    assert line in report.table()
    for part in ("1 of 41", "1 of 42", "image_size 64", "all 2 of these", "pad or squash"):
        assert part in line


def test_the_note_names_only_what_is_lost(build):
    masks = {f"m{i:02d}": dotted(64, 64, (10, 10, 40, 40)) for i in range(30)} | {"s": dotted(64, 64, (1, 1, 1, 1))}
    (line,) = scan(build(masks), size=(8, 8)).notes
    assert "resize" not in line.replace("mask_resize", "")
    assert scan(build(masks), size=(64, 64)).notes == ()


def test_the_background_may_be_lost(build):
    root = build({"a": dotted(64, 64, (0, 0, 64, 63))})
    report = scan(root, size=(8, 8))
    assert counts(report) == [(1, 1, 0), (1, 0, 0)]
    assert not found(report)
    assert report.losses == ()


def test_codes_of_one_class_count_together(build):
    classes = {"0": "ground", "1": {"name": "hole", "values": [1, 2]}, "2": {"name": "crack", "value": 3}}
    boxes = ((1, 1, 1, 1), (20, 20, 30, 30), (1, 5, 1, 1))
    report = scan(build({"a": dotted(64, 64, *boxes, values=(1, 2, 3))}, classes=classes), (8, 8), num_classes=None)
    assert counts(report) == [(1, 0, 0), (1, 0, 0), (1, 1, 0)]
    assert report.losses[0].classes == (2,)
    assert not report.losses[0].empty


def test_masks_in_colors_and_masks_alone(build):
    classes = {"0": {"name": "ground", "color": [0, 0, 0]}, "1": {"name": "hole", "color": [255, 0, 9]}}
    colored = np.array([[0, 0, 0], [255, 0, 9]], np.uint8)[dotted(64, 64, (1, 1, 1, 1))]
    root = build({"a": colored}, classes=classes)
    report = scan(root, (8, 8), num_classes=None)
    assert counts(report)[1] == (1, 1, 0)
    transform = JointTransform((8, 8), train=False)
    alone = scan_masks(root / "train/masks", report.encoding, transform=transform, progress=False)
    assert counts(alone) == counts(report)
    assert alone.losses == report.losses
    assert found(alone) == {SCALING: "class 1"}


def test_without_a_geometry_nothing_is_lost(build):
    root = build({"a": dotted(64, 64, (1, 1, 1, 1))})
    report = scan_dataset(root, get_mode("multi-class"), "train", num_classes=2, progress=False)
    assert counts(report)[1] == (1, 0, 0)
    assert "lost" not in report.table()


def test_what_sampling_says_counts_every_mask_written():
    losses = [MaskLoss("/m/a.png", (1,), True), MaskLoss("/m/b.png", (1, 2), False)]
    names = ("ground", "hole", "crack")
    text = written_losses([f"/m/{name}.png" for name in "abcabc"], losses, names)
    for part in ("4 of 6", "hole in 4", "crack in 2", "2 are empty", "a.png"):
        assert part in text
    assert "b.png" not in text
    assert written_losses(["/m/c.png"], losses, names) == ""


def test_every_size_up_to_the_picture_is_tried():
    for row, column in product((0, 31, 63), repeat=2):
        mask = dotted(64, 64, (row, column, 1, 1))
        left = codes_left(mask, np.array([0, 1]), JointTransform((8, 8), train=False))
        factor = int(left.factor[1])
        for times in (factor, 8):
            placement = JointTransform((8 * times, 8 * times), train=False).place((64, 64))
            assert (placement.mask(_tensor(mask), 0) == 1).any()
