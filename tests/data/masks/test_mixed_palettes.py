"""Palette masks beside gray and RGB ones, palettes turned round, and palettes that another split contradicts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from guided_diffusion.data.datasets import read_mask
from guided_diffusion.data.masks.encoding import LabelEncoding
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


def palette_picture(values: np.ndarray, colors) -> Image.Image:
    picture = Image.fromarray(values.astype(np.uint8))
    picture.putpalette([part for color in colors for part in color])
    return picture


def scanned(data, mode="binary", split="train", **options):
    return scan_dataset(data, get_mode(mode), split, progress=False, **options)


def assert_reads(report, labels) -> None:
    encoding = report.raise_if_fatal()
    for pair in report.pairs:
        assert np.array_equal(read_mask(pair.mask, encoding), labels[int(pair.stem)]), pair.stem


def palette_problems(report) -> list:
    return [problem for problem in report.problems if problem.kind is ProblemKind.PALETTES]


@pytest.mark.parametrize("object_color", [WHITE, RED])
def test_black_is_background_where_every_palette_is_turned_round(build, object_color):
    labels = [label(i) for i in range(3)]
    report = scanned(build({str(i): palette_picture(1 - labels[i], [object_color, BLACK]) for i in range(3)}))
    assert_reads(report, labels)
    (warning,) = palette_problems(report)
    assert not warning.fatal
    assert warning.path.endswith("0.png")


def test_values_in_classes_json_make_the_index_count(build):
    labels = [label(i) for i in range(2)]
    classes = {"0": {"name": "paper", "value": 0}, "1": {"name": "ink", "value": 1}}
    masks = {str(i): palette_picture(labels[i], [WHITE, BLACK]) for i in range(2)}
    assert_reads(scanned(build(masks, classes=classes)), labels)


@pytest.mark.parametrize("form", ["L", "RGB", "1"])
def test_palettes_beside_black_and_white_of_another_form(build, form):
    labels = [label(i) for i in range(4)]
    masks = {
        str(i): palette_picture(labels[i], [BLACK, WHITE])
        if i % 2
        else Image.fromarray(labels[i] * np.uint8(255)).convert(form)
        for i in range(4)
    }
    assert_reads(scanned(build(masks)), labels)


def test_a_palette_turned_round_beside_gray_indices_is_refused(build):
    masks = {"0": label(0), "1": palette_picture(1 - label(1), [WHITE, BLACK])}
    (problem,) = palette_problems(scanned(build(masks)))
    assert problem.fatal
    assert problem.path.endswith("1.png")


def test_a_palette_that_shows_a_gray_class_at_another_index_is_refused(build):
    """Tools that make files smaller turn gray 0 and 2 into a palette with two entries."""
    third = 2 * label(1)
    masks = {"0": label(0, 3), "1": palette_picture(third // 2, [BLACK, (2, 2, 2)])}
    (problem,) = palette_problems(scanned(build(masks), "multi-class", num_classes=3))
    assert problem.fatal
    assert problem.path.endswith("1.png")


def test_a_gray_among_the_colors_of_a_palette_is_a_color(build):
    labels = [label(0, 3), label(1, 3)]
    masks = {"0": labels[0], "1": palette_picture(labels[1], [BLACK, (2, 2, 2), RED])}
    assert_reads(scanned(build(masks), "multi-class", num_classes=3), labels)


def test_a_palette_of_one_color_beside_gray_is_read_by_index(build):
    labels = [label(0, 3), label(1, 3)]
    masks = {"0": labels[0], "1": palette_picture(labels[1], [BLACK] * 3)}
    assert_reads(scanned(build(masks), "multi-class", num_classes=3), labels)


def test_an_unused_entry_of_the_first_palette_says_nothing(build):
    labels = [np.zeros((16, 16), np.uint8), label(1, 3), label(2, 3)]
    palettes = [[BLACK, BLUE, RED], [BLACK, RED, BLUE], [BLACK, RED, BLUE]]
    masks = {str(i): palette_picture(labels[i], palettes[i]) for i in range(3)}
    report = scanned(build(masks), "multi-class", num_classes=3)
    assert_reads(report, labels)
    again = report.encoding.encode(labels[1]).convert("RGB")
    assert [again.getpixel(place) for place in ((0, 0), (2, 2), (12, 12))] == [BLACK, RED, BLUE]


@pytest.mark.parametrize("training_form", ["gray", "palette"])
def test_palettes_of_another_split_that_contradict_each_other_are_refused(build, tmp_path, training_form):
    colors, others = [BLACK, RED, BLUE], [BLACK, (0, 255, 0), (255, 255, 0)]
    first = label(0, 3) if training_form == "gray" else palette_picture(label(0, 3), colors)
    training = scanned(build({"0": first}), "multi-class", num_classes=3)
    turned = np.array([0, 2, 1])[label(2, 3)]
    masks = {"1": palette_picture(label(1, 3), others), "2": palette_picture(turned, [others[i] for i in (0, 2, 1)])}
    data = build(masks, split="test")
    for report in (
        scanned(data, "multi-class", "test", encoding=training.encoding),
        scan_masks(data / "test/masks", training.encoding, progress=False),
    ):
        (problem,) = palette_problems(report)
        assert problem.fatal
        assert problem.path.endswith("2.png")


def test_ignored_pixels_of_a_short_palette_are_read_back(build):
    masks = {"0": palette_picture(label(0, 3), [BLACK, RED, BLUE])}
    encoding = scanned(build(masks), "multi-class", num_classes=3).encoding.with_ignore()
    bordered = label(0, 3)
    bordered[:2] = encoding.num_classes
    assert np.array_equal(encoding.decode(encoding.encode(bordered), "x"), bordered)


def entry(name, value, color) -> dict:
    return {"name": name, "value": value, "color": color}


def colored_beside_gray():
    masks = [palette_picture(label(i), [BLACK, RED]) if i > 1 else Image.fromarray(label(i) * 255) for i in range(5)]
    return masks, {"0": entry("background", 0, BLACK), "1": entry("defect", 255, RED)}, "binary"


def blank_beside_gray():
    masks = [
        palette_picture(0 * label(i), [BLACK, WHITE]) if i > 1 else Image.fromarray(label(i) * 255) for i in range(5)
    ]
    return masks, None, "binary"


def ordered_otherwise():
    turned = np.array([0, 2, 1])
    masks = [
        palette_picture(turned[label(i, 3)], [BLACK, BLUE, RED])
        if i > 1
        else palette_picture(label(i, 3), [BLACK, RED, BLUE])
        for i in range(4)
    ]
    classes = {"0": entry("ground", 0, BLACK), "1": entry("scratch", 1, RED), "2": entry("dent", 2, BLUE)}
    return masks, classes, "multi-class"


def full_of_black():
    masks = [palette_picture(label(i), [BLACK, RED, *[BLACK] * 254]) for i in range(3)]
    return masks, {"0": entry("ground", 0, BLACK), "1": entry("scratch", 1, RED)}, "multi-class"


@pytest.mark.parametrize("bordered", [False, True])
@pytest.mark.parametrize("dataset", [colored_beside_gray, blank_beside_gray, ordered_otherwise, full_of_black])
def test_masks_are_written_so_that_they_read_back(build, tmp_path, dataset, bordered):
    """Of every class alone, as one color that is known makes the colors count, and of all of them."""
    masks, classes, mode = dataset()
    encoding = scanned(build({str(i): mask for i, mask in enumerate(masks)}, classes=classes), mode).raise_if_fatal()
    encoding = encoding.with_ignore() if bordered else encoding
    ids = np.arange(encoding.num_classes + bordered, dtype=np.uint8)
    for shown in (*ids, np.tile(ids, (2, 1))):
        written = np.broadcast_to(shown, (2, len(ids)))
        encoding.encode(written).save(tmp_path / "written.png")
        assert np.array_equal(read_mask(tmp_path / "written.png", encoding), written)


def test_an_index_with_the_color_of_another_class_is_not_written():
    """Also of a checkpoint, and where ignored pixels are added later."""
    colors = ((BLACK,), (RED,))
    full = LabelEncoding(
        2, ("a", "b"), ((0,), (1,)), colors, kind="palette", palette=bytes(3) + bytes(RED) + bytes(762)
    )
    assert full.encode(np.eye(2, dtype=np.uint8)).mode == "P"
    turned = replace(full, palette=bytes(RED) + bytes(3))
    for encoding in (full.ignoring(255), LabelEncoding.from_dict(turned.to_dict()).with_ignore()):
        written = np.array([[0, 1, 2]])
        assert np.array_equal(encoding.decode(encoding.encode(written), "x"), written)


def test_a_color_of_two_classes_is_not_that_of_a_third():
    encoding = LabelEncoding(
        3,
        ("a", "b", "c"),
        ((0,), (1,), (2,)),
        ignore_values=(255,),
        kind="palette",
        palette=bytes(3) + bytes(RED + BLUE),
    )
    full = LabelEncoding.from_dict(encoding.to_dict() | {"palette": (encoding.palette.ljust(768, b"\0")).hex()})
    labels = label(0, 3)
    assert np.array_equal(full.decode(palette_picture(labels, [BLACK, RED, BLUE]), "x"), labels)
    turned = palette_picture(np.array([1, 0, 2])[labels], [RED, BLACK, BLUE])
    with pytest.raises(DataError):
        full.decode(turned, "x")
