"""`import` of Pascal VOC: lists of splits, and backgrounds as tools and people write them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from annotated import imported, mask_of
from PIL import Image

from guided_diffusion.config.load import load_config
from guided_diffusion.pipelines.dataset_export import export_dataset
from guided_diffusion.runtime.errors import DataError

SIZE = 16
NAMES = ("crack 1", "crack 2", "dent.a", "dent.b")
LABEL_MAP = "background:0,0,0::\nscratch:200,0,0::\n"
LABEL = np.zeros((SIZE, SIZE), np.uint8)
LABEL[:4], LABEL[8:, :3] = 1, 2


def write_voc(root: Path, names=NAMES, label_map: str = LABEL_MAP, **lists: str) -> None:
    """Write masks in colors of a scratch at the top. lists: text by split."""
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for number, name in enumerate(names):
        pixels = np.random.default_rng(number).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{name}.png")
        mask = np.zeros((SIZE, SIZE, 3), np.uint8)
        mask[:4] = 200, 0, 0
        Image.fromarray(mask).save(root / "SegmentationClass" / f"{name}.png")
    (root / "labelmap.txt").write_text(label_map, encoding="utf-8")
    for split, text in lists.items():
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(text, encoding="utf-8")


def splits_of(result) -> dict[str, set[str]]:
    return {split: {p.picture.name[11:-4] for p in result.pairs if p.split == split} for split in ("train", "test")}


@pytest.mark.parametrize("form", ["{}", "  {}  ", '"{}"', "{}.png", "'{}.jpg'"])
def test_listed_names_may_have_spaces_dots_quotes_and_extensions(tmp_path, form):
    train, held_out = ("\n".join(form.format(name) for name in each) for each in (NAMES[::2], NAMES[1::2]))
    write_voc(tmp_path / "s", train="\ufeff" + train, val=held_out)
    result = imported(tmp_path / "s", tmp_path / "data")
    assert not result.drawn
    assert splits_of(result) == {"train": set(NAMES[::2]), "test": set(NAMES[1::2])}


def test_accents_may_be_one_code_point_or_two(tmp_path):
    composed, taken_apart = "\u00e9clat", "e\u0301clat"
    write_voc(tmp_path / "s", (taken_apart, "b"), train=composed, val="b")
    assert splits_of(imported(tmp_path / "s", tmp_path / "one")) == {"train": {composed}, "test": {"b"}}
    (tmp_path / "s" / "JPEGImages" / f"{taken_apart}.png").rename(tmp_path / "s" / "JPEGImages" / f"{composed}.png")
    (tmp_path / "s" / "ImageSets" / "Segmentation" / "train.txt").write_text(taken_apart, encoding="utf-8")
    assert splits_of(imported(tmp_path / "s", tmp_path / "two")) == {"train": {composed}, "test": {"b"}}


@pytest.mark.parametrize("folder", ["JPEGImages", "SegmentationClass"])
def test_two_files_of_one_name_are_refused(tmp_path, folder):
    write_voc(tmp_path / "s")
    Image.new("RGB", (SIZE, SIZE)).save(tmp_path / "s" / folder / f"{NAMES[0]}.bmp")
    with pytest.raises(DataError) as refused:
        imported(tmp_path / "s", tmp_path / "data")
    assert all(f"{folder}/{NAMES[0]}{suffix}" in str(refused.value) for suffix in (".bmp", ".png"))


def test_what_follows_a_listed_name_does_not_count(tmp_path):
    write_voc(tmp_path / "s", ("a", "b"), train="a  1\n\n", val="b -1\n")
    assert splits_of(imported(tmp_path / "s", tmp_path / "data")) == {"train": {"a"}, "test": {"b"}}


def test_listed_names_that_are_not_there_are_a_mistake(isdm, tmp_path):
    write_voc(tmp_path / "s", ("a", "b"), train="a\nc\nd\n", val="b\n")
    code, _, (line,) = isdm("import", source=tmp_path / "s", output_dir=tmp_path / "data")
    assert code == 2
    assert "train.txt" in line
    assert "c, d" in line
    assert not (tmp_path / "data").exists()


def test_listed_images_without_a_mask_are_counted(tmp_path):
    write_voc(tmp_path / "s", ("a", "b", "c"), train="a\nc\n", val="b\n")
    (tmp_path / "s" / "SegmentationClass" / "c.png").unlink()
    result = imported(tmp_path / "s", tmp_path / "data")
    assert not result.drawn
    assert {kind.name: count for kind, count in result.lost().items()} == {"UNLISTED": 1}


def test_an_export_with_spaces_comes_back_with_its_splits(tmp_path):
    own = {"train": ("crack 1", "crack 2"), "test": ("dent 1",)}
    for split, stems in own.items():
        for kind in ("images", "masks"):
            (tmp_path / "own" / split / kind).mkdir(parents=True)
        for number, stem in enumerate(stems):
            pixels = np.random.default_rng(number).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "own" / split / "images" / f"{stem}.png")
            Image.fromarray(LABEL).save(tmp_path / "own" / split / "masks" / f"{stem}.png")
    (tmp_path / "own" / "classes.json").write_text(json.dumps({"0": "background", "1": "dent", "2": "crack"}))
    values = {"data_dir": str(tmp_path / "own"), "format": "voc", "export_path": str(tmp_path / "voc")}
    export_dataset(load_config("export", values))
    result = imported(tmp_path / "voc", tmp_path / "back")
    assert {split: set(stems) for split, stems in own.items()} == splits_of(result)
    assert np.array_equal(mask_of(tmp_path / "back", "dent 1"), LABEL)


def test_a_label_map_may_begin_with_a_mark_of_its_encoding(tmp_path):
    write_voc(tmp_path / "s", ("a", "b"), "\ufeff" + LABEL_MAP)
    assert imported(tmp_path / "s", tmp_path / "data").names == ("background", "scratch")


@pytest.mark.parametrize("background", ["background", "_background_", "Background"])
def test_the_background_is_class_0_wherever_it_stands(tmp_path, background):
    write_voc(tmp_path / "s", ("a", "b"), f"scratch:200,0,0::\n{background}:0,0,0::\n")
    result = imported(tmp_path / "s", tmp_path / "data", test_share=0)
    assert result.names == (background, "scratch")
    assert np.array_equal(mask_of(tmp_path / "data", "a"), LABEL == 1)


def test_without_a_background_the_order_stays(tmp_path):
    write_voc(tmp_path / "s", ("a", "b"), "wall:200,0,0::\nfloor:0,0,0::\n")
    assert imported(tmp_path / "s", tmp_path / "data", test_share=0).names == ("wall", "floor")
    assert np.array_equal(mask_of(tmp_path / "data", "a"), LABEL != 1)


def test_the_background_of_a_folder_is_class_0_wherever_it_stands(tmp_path):
    (tmp_path / "s").mkdir()
    Image.new("RGB", (SIZE, SIZE), (9, 8, 7)).save(tmp_path / "s" / "a.png")
    Image.fromarray(LABEL).save(tmp_path / "s" / "a_mask.png")
    (tmp_path / "s" / "classes.json").write_text(json.dumps({"0": "dent", "1": "background", "2": "crack"}))
    result = imported(tmp_path / "s", tmp_path / "data", test_share=0)
    assert result.names == ("background", "dent", "crack")
    assert np.array_equal(mask_of(tmp_path / "data", "a"), np.array([1, 0, 2])[LABEL])


@pytest.mark.parametrize("kind", ["folder", "voc"])
def test_classes_name_the_values_in_their_order(tmp_path, kind):
    images, masks = ("", "") if kind == "folder" else ("JPEGImages", "SegmentationClass")
    for folder in (images, masks):
        (tmp_path / "s" / folder).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (SIZE, SIZE), (9, 8, 7)).save(tmp_path / "s" / images / "a.png")
    Image.fromarray(LABEL).save(tmp_path / "s" / masks / f"a{'_mask' if kind == 'folder' else ''}.png")
    result = imported(tmp_path / "s", tmp_path / "data", test_share=0, classes=("dent", "background", "crack"))
    assert result.names == ("background", "dent", "crack")
    assert np.array_equal(mask_of(tmp_path / "data", "a"), np.array([1, 0, 2])[LABEL])
