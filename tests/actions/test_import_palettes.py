"""`import` of palette masks whose palettes differ: one index is another class in another file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from annotated import imported, mask_of
from PIL import Image

SIZE = 16
BLACK, RED, GREEN, WHITE = (0, 0, 0), (255, 0, 0), (0, 255, 0), (255, 255, 255)
LABEL = np.zeros((SIZE, SIZE), np.uint8)
LABEL[:4, :9], LABEL[8:, :3] = 1, 2
NAMES = ("part_1", "part_2", "part_3")
COLORS = np.array([BLACK, RED, GREEN], np.uint8)


def write(root: Path, kind: str, order, labels=LABEL, colors=COLORS) -> None:
    """Write masks of the same colors, each with its own order of them. order: the palette of each mask."""
    images, masks = (root, root) if kind == "folder" else (root / "JPEGImages", root / "SegmentationClass")
    for folder in (images, masks):
        folder.mkdir(parents=True, exist_ok=True)
    for number, (name, palette) in enumerate(zip(NAMES, order, strict=True)):
        pixels = np.random.default_rng(number).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
        Image.fromarray(pixels).save(images / f"{name}.png")
        index_of = np.array([palette.index(color) for color in map(tuple, colors.tolist())])
        mask = Image.fromarray(index_of[labels].astype(np.uint8))
        mask.putpalette([channel for color in palette for channel in color])
        mask.save(masks / f"{name}{'_mask' if kind == 'folder' else ''}.png")


SAME = [[BLACK, RED, GREEN]] * 3
MIXED = [[BLACK, RED, GREEN], [BLACK, GREEN, RED], [BLACK, RED, GREEN]]


@pytest.mark.parametrize("kind", ["folder", "voc"])
def test_palettes_that_differ_are_refused_and_nothing_is_written(isdm, tmp_path, kind):
    write(tmp_path / "s", kind, MIXED)
    values = {"source": tmp_path / "s", "output_dir": tmp_path / "data", "test_share": 0}
    code, _, errors = isdm("import", **values, classes=["background", "red", "green"])
    assert (code, len(errors)) == (2, 1)
    assert "part_2" in errors[0]
    assert ("classes.json" if kind == "folder" else "labelmap.txt") in errors[0]
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("kind", ["folder", "voc"])
@pytest.mark.parametrize("order", [SAME, MIXED], ids=["one", "mixed"])
def test_the_remedies_give_the_masks_that_are_shown(tmp_path, kind, order):
    write(tmp_path / "s", kind, order)
    values = {"classes": ["background", "red", "green"]} if order is SAME else {}
    if order is MIXED and kind == "folder":
        colors = zip(("background", "red", "green"), COLORS.tolist(), strict=True)
        content = {str(index): {"name": name, "color": color} for index, (name, color) in enumerate(colors)}
        (tmp_path / "s" / "classes.json").write_text(json.dumps(content), encoding="utf-8")
    elif order is MIXED:
        text = "background:0,0,0::\nred:255,0,0::\ngreen:0,255,0::\n"
        (tmp_path / "s" / "labelmap.txt").write_text(text, encoding="utf-8")
    imported(tmp_path / "s", tmp_path / "data", test_share=0, **values)
    assert all(np.array_equal(mask_of(tmp_path / "data", name), LABEL) for name in NAMES)


@pytest.mark.parametrize("classes", [None, ["background", "dent"]])
@pytest.mark.parametrize("order", [[[WHITE, BLACK]] * 3, [[WHITE, BLACK], [BLACK, WHITE], [WHITE, BLACK]]])
def test_two_colors_are_read_by_color(tmp_path, order, classes):
    label = np.minimum(LABEL, 1)
    write(tmp_path / "s", "folder", order, label, np.array([BLACK, WHITE]))
    result = imported(tmp_path / "s", tmp_path / "data", test_share=0, classes=classes)
    assert result.names[1] == (classes or ["", "foreground"])[1]
    assert all(np.array_equal(mask_of(tmp_path / "data", name), label) for name in NAMES)


def test_masks_whose_names_differ_in_case_are_those_of_their_images(tmp_path):
    (tmp_path / "s").mkdir()
    for name, color in (("Part", (9, 8, 7)), ("part", (7, 8, 9))):
        Image.new("RGB", (SIZE, SIZE), color).save(tmp_path / "s" / f"{name}.png")
    Image.fromarray(LABEL.clip(0, 1)).save(tmp_path / "s" / "Part_mask.png")
    result = imported(tmp_path / "s", tmp_path / "data", test_share=0)
    assert [pair.picture.name for pair in result.pairs] == ["Part.png"]


def test_of_two_values_the_background_is_0(isdm, tmp_path):
    """Inverted masks: that 0 is the defect has to be said in classes.json."""
    (tmp_path / "s").mkdir()
    Image.new("RGB", (SIZE, SIZE), (9, 8, 7)).save(tmp_path / "s" / "a.png")
    Image.fromarray(255 - LABEL.clip(0, 1) * 255).save(tmp_path / "s" / "a_mask.png")
    values = {"source": tmp_path / "s", "output_dir": tmp_path / "data", "test_share": 0}
    code, _, errors = isdm("import", **values, classes=["dent", "background"])
    assert (code, len(errors)) == (2, 1)
    assert "of 0, 255 it is 0" in errors[0]
    content = {"0": {"name": "background", "value": 255}, "1": {"name": "dent", "value": 0}}
    (tmp_path / "s" / "classes.json").write_text(json.dumps(content), encoding="utf-8")
    imported(tmp_path / "s", tmp_path / "data", test_share=0)
    assert np.array_equal(mask_of(tmp_path / "data", "a"), LABEL.clip(0, 1))
