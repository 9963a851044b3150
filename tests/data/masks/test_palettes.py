"""Masks that look the same and are stored under other numbers: palettes in another order, 1-bit beside 0/255."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from guided_diffusion.data.datasets import read_mask
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.scan.problems import ProblemKind
from guided_diffusion.data.scan.scan import scan_dataset, scan_masks
from guided_diffusion.runtime.errors import DataError

BLACK, WHITE, RED, BLUE = (0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 0, 255)


def label(index: int, classes: int = 2) -> np.ndarray:
    shape = np.zeros((16, 16), np.uint8)
    shape[index : index + 5, 2:9] = 1
    if classes > 2:
        shape[10:, 10:] = 2
    return shape


def indexed(labels: np.ndarray, colors, order) -> Image.Image:
    """Return a palette picture in which class c has the color `colors[c]`, at the index order.index(c)."""
    picture = Image.fromarray(np.array([order.index(c) for c in range(len(colors))], np.uint8)[labels])
    picture.putpalette([part for c in order for part in colors[c]])
    return picture


def scanned(data, mode="binary", **options):
    return scan_dataset(data, get_mode(mode), "train", progress=False, **options)


def assert_reads(report, labels) -> None:
    encoding = report.raise_if_fatal()
    for pair in report.pairs:
        assert np.array_equal(read_mask(pair.mask, encoding), labels[int(pair.stem)]), pair.stem


@pytest.mark.parametrize("object_color", [WHITE, RED])
def test_binary_palettes_in_any_order_are_read_by_color(build, object_color):
    labels = [label(i) for i in range(6)]
    masks = {str(i): indexed(labels[i], [BLACK, object_color], [0, 1] if i % 2 else [1, 0]) for i in range(6)}
    report = scanned(build(masks))
    assert_reads(report, labels)
    # What is written from them says the same to a viewer, and is read back.
    again = report.encoding.encode(labels[0])
    assert np.array_equal(report.encoding.decode(again, "x"), labels[0])
    assert again.convert("RGB").getpixel((2, 0)) == object_color


def test_one_palette_is_read_by_index_whatever_its_colors(build):
    labels = [label(i, 3) for i in range(3)]
    masks = {str(i): indexed(labels[i], [BLUE, BLACK, RED], [0, 1, 2]) for i in range(3)}
    assert_reads(scanned(build(masks), "multi-class", num_classes=3), labels)


def test_palettes_without_colors_are_read_by_index(build):
    labels = [label(i, 3) for i in range(3)]
    masks = {str(i): indexed(labels[i], [BLACK, BLACK, BLACK], [0, 1, 2]) for i in range(3)}
    assert_reads(scanned(build(masks), "multi-class", num_classes=3), labels)


@pytest.mark.parametrize(
    ("mode", "options", "classes"),
    [("multi-class", {"num_classes": 3}, 3), ("binary", {}, 3)],
    ids=["several classes", "binary with a third color"],
)
def test_palettes_that_tell_nothing_are_refused_with_two_files(build, mode, options, classes):
    labels = [label(i, classes) for i in range(4)]
    colors = [BLACK, RED, BLUE]
    masks = {str(i): indexed(labels[i], colors, [0, 1, 2] if i < 2 else [0, 2, 1]) for i in range(4)}
    data = build(masks)
    fatal = [problem for problem in scanned(data, mode, **options).problems if problem.fatal]
    assert [problem.kind for problem in fatal] == [ProblemKind.PALETTES]
    assert fatal[0].path.endswith("masks/2.png")
    assert str(data / "train/masks/0.png") in fatal[0].found


def test_classes_json_decides_by_color_and_says_that_indices_contradict_it(build):
    labels = [label(i, 3) for i in range(4)]
    colors = [BLACK, RED, BLUE]
    masks = {str(i): indexed(labels[i], colors, [0, 2, 1] if i % 2 else [0, 1, 2]) for i in range(4)}
    classes = {
        str(index): {"name": name, "value": index, "color": color}
        for index, (name, color) in enumerate(zip(("ground", "scratch", "dent"), colors, strict=True))
    }
    report = scanned(build(masks, classes=classes), "multi-class")
    assert_reads(report, labels)
    (warning,) = [problem for problem in report.problems if problem.kind is ProblemKind.PALETTES]
    assert not warning.fatal
    assert warning.path.endswith("1.png")


def test_colors_of_classes_json_that_masks_do_not_have_leave_the_index(build):
    labels = [label(i, 3) for i in range(2)]
    masks = {str(i): indexed(labels[i], [BLACK, (9, 9, 9), (8, 8, 8)], [0, 1, 2]) for i in range(2)}
    classes = {
        str(index): {"name": str(index), "value": index, "color": color}
        for index, color in enumerate([BLACK, RED, BLUE])
    }
    assert_reads(scanned(build(masks, classes=classes), "multi-class"), labels)


def test_a_later_mask_is_held_against_the_palette_of_the_training(build, tmp_path):
    colors = [BLACK, RED, BLUE]
    training = scanned(
        build({str(i): indexed(label(i, 3), colors, [0, 1, 2]) for i in range(2)}), "multi-class", num_classes=3
    )
    folder = tmp_path / "more"
    folder.mkdir()
    indexed(label(1, 3), colors, [2, 1, 0]).save(folder / "turned.png")
    report = scan_masks(folder, training.encoding, progress=False)
    assert np.array_equal(read_mask(report.pairs[0].mask, report.raise_if_fatal()), label(1, 3))
    indexed(label(1, 3), [BLACK, BLUE, (7, 7, 7)], [0, 1, 2]).save(folder / "strange.png")
    with pytest.raises(DataError):
        scan_masks(folder, training.encoding, progress=False).raise_if_fatal()


def one_bit(labels: np.ndarray) -> Image.Image:
    return Image.fromarray(labels * np.uint8(255)).convert("1")


@pytest.mark.parametrize("bits", [{0, 2}, {0, 1, 2, 3}, set()], ids=["some", "all", "none"])
def test_one_bit_masks_are_black_and_white(build, bits):
    labels = [label(i) for i in range(4)]
    masks = {str(i): one_bit(labels[i]) if i in bits else labels[i] * np.uint8(255) for i in range(4)}
    assert_reads(scanned(build(masks)), labels)


def test_one_bit_masks_beside_class_indices_are_indices(build):
    labels = [label(0), label(1), label(2, 3)]
    masks = {"0": one_bit(labels[0]), "1": labels[1], "2": labels[2]}
    assert_reads(scanned(build(masks), "multi-class", num_classes=3), labels)


def test_one_bit_masks_of_another_split(build, tmp_path):
    training = scanned(build({"0": label(0) * np.uint8(255)}))
    (tmp_path / "more").mkdir()
    one_bit(label(1)).save(tmp_path / "more/a.png")
    report = scan_masks(tmp_path / "more", training.encoding, progress=False)
    assert np.array_equal(read_mask(report.pairs[0].mask, report.raise_if_fatal()), label(1))


def test_masks_of_0_and_1_beside_0_and_255_are_refused(build):
    masks = {"0": label(0), "1": label(1) * np.uint8(255), "2": one_bit(label(2))}
    assert any(problem.fatal for problem in scanned(build(masks)).problems)
