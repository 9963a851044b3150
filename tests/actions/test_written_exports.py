"""`export` of what this project wrote: classes, backgrounds and images as its networks see them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from odd_images import write_png
from PIL import Image

from guided_diffusion.config.load import load_config
from guided_diffusion.data.datasets import read_image
from guided_diffusion.data.formats.run_lengths import mask_of_runs, runs_of_text
from guided_diffusion.data.masks.classes_file import classes_text
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.masks.inference import ClassOptions, infer_encoding
from guided_diffusion.data.modes import get_mode
from guided_diffusion.pipelines.dataset_export import export_dataset
from guided_diffusion.runtime.logs import write_run_record

SIZE = 16


def exported(source: Path, target: Path, kind: str, **values):
    values = {"data_dir": str(source), "format": kind, "export_path": str(target), **values}
    return export_dataset(load_config("export", values))


def write_pairs(folder: Path, encoding: LabelEncoding, label: np.ndarray, count: int = 2) -> None:
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for index in range(count):
        pixels = np.random.default_rng(index).integers(0, 256, (*label.shape, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{index}.png")
        encoding.encode(label).save(folder / "masks" / f"{index}.png")


# --- background --------------------------------------------------------------------------------------------------


def coco_names(root: Path) -> np.ndarray:
    """Return the class name of each pixel of the first image, "" where no object is."""
    content = json.loads((root / "annotations" / "instances_train.json").read_text(encoding="utf-8"))
    names = {category["id"]: category["name"] for category in content["categories"]}
    found = np.full((SIZE, SIZE), "", object)
    for each in content["annotations"]:
        if each["image_id"] == 1:
            runs = runs_of_text(each["segmentation"]["counts"])
            found[mask_of_runs(runs, (SIZE, SIZE), by_column=True)] = names[each["category_id"]]
    return found


@pytest.mark.parametrize("layout", ["images", "train/images", "masks alone"])
@pytest.mark.parametrize("mode", ["ade20k", "coco"])
@pytest.mark.parametrize("recorded", [True, False], ids=["record", "names"])
def test_the_background_is_that_of_the_training_data(tmp_path, mode, recorded, layout):
    encoding, _ = infer_encoding(get_mode(mode), None, (), ClassOptions())
    unlabeled = get_mode(mode).background
    label = np.full((SIZE, SIZE), unlabeled)
    label[:8], label[12:] = 0, 5
    root = tmp_path / "source"
    folder = root if layout == "images" else root / "train"
    if layout == "masks alone":
        folder = root
        (root / "masks").mkdir(parents=True)
        encoding.encode(label).save(root / "masks" / "0.png")
    else:
        write_pairs(folder, encoding, label)
    (root / "classes.json").write_text(classes_text(encoding), encoding="utf-8")
    write_run_record(
        folder, "masks" if layout == "masks alone" else "sample", {"dataset_mode": mode} if recorded else {}
    )
    exported(root, tmp_path / "out", "coco")
    names = np.array([*encoding.names], object)
    names[unlabeled] = ""
    assert (coco_names(tmp_path / "out") == names[label]).all()


def test_a_record_goes_before_names(tmp_path):
    encoding = LabelEncoding.identity(3, ("wall", "dent", "unlabelled"))
    label = np.arange(SIZE * SIZE).reshape(SIZE, SIZE) % 3
    write_pairs(tmp_path / "source", encoding, label)
    (tmp_path / "source" / "classes.json").write_text(classes_text(encoding), encoding="utf-8")
    write_run_record(tmp_path / "source", "sample", {"dataset_mode": "multi-class"})
    assert exported(tmp_path / "source", tmp_path / "out", "coco").names == encoding.names


@pytest.mark.parametrize("kind", ["coco", "yolo", "nnunet"])
def test_a_class_0_that_the_format_loses_is_told(tmp_path, kind):
    for number, (name, told) in enumerate({"road": 1, "_background_": 0, "unlabelled": 0}.items()):
        encoding, source = LabelEncoding.identity(3, (name, "dent", "car")), tmp_path / str(number)
        write_pairs(source / "train", encoding, np.arange(SIZE * SIZE).reshape(SIZE, SIZE) % 3)
        (source / "classes.json").write_text(classes_text(encoding), encoding="utf-8")
        notes = [line for line in exported(source, tmp_path / f"to {number}", kind).lines() if name in line]
        assert len(notes) == told, notes
        assert all(f"{2 * 86} pixels of 'road', which is class 0" in line for line in notes)  # of two masks


@pytest.mark.parametrize("kind", ["coco", "yolo", "nnunet"])
def test_a_background_that_is_not_the_background_is_refused(isdm, tmp_path, kind):
    encoding = LabelEncoding.identity(3, ("wall", "background", "dent"))
    write_pairs(tmp_path / "train", encoding, np.arange(SIZE * SIZE).reshape(SIZE, SIZE) % 3)
    (tmp_path / "classes.json").write_text(classes_text(encoding), encoding="utf-8")
    values = {"data_dir": tmp_path, "dataset_mode": "multi-class", "format": kind, "export_path": tmp_path / "out"}
    code, _, errors = isdm("export", **values)
    assert (code, len(errors)) == (2, 1)
    assert "'wall'" in errors[0]
    assert not (tmp_path / "out").exists()


def test_images_alone_are_refused_as_such(isdm, tmp_path):
    (tmp_path / "samples" / "images").mkdir(parents=True)
    line = {"index": 0, "image": "images/0.png", "generates": "image"}
    (tmp_path / "samples" / "manifest.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    code, _, (error,) = isdm("export", data_dir=tmp_path / "samples", format="coco", export_path=tmp_path / "out")
    assert code == 2
    assert "images without masks" in error


# --- a classes.json that leaves something out --------------------------------------------------------------------


PARTIAL = {"0": "background", "1": {"name": "scratch", "values": [128, 255]}, "2": "dent", "ignore": {"value": 7}}


def test_a_flat_folder_may_leave_values_out(tmp_path):
    """As in README: without values, a class's value is its index."""
    values = np.array([0, 128, 255, 2, 7], np.uint8)
    codes = np.arange(SIZE * SIZE).reshape(SIZE, SIZE) % len(values)
    write_pairs(tmp_path / "flat", LabelEncoding.identity(256), values[codes])
    (tmp_path / "flat" / "classes.json").write_text(json.dumps(PARTIAL), encoding="utf-8")
    assert exported(tmp_path / "flat", tmp_path / "out", "voc").names == ("background", "scratch", "dent")
    for path in (tmp_path / "out" / "SegmentationClass").iterdir():
        assert np.array_equal(np.asarray(Image.open(path)), np.array([0, 1, 1, 2, 255])[codes])


def test_a_value_of_two_classes_is_a_mistake(isdm, tmp_path):
    write_pairs(tmp_path / "flat", LabelEncoding.identity(3), np.zeros((SIZE, SIZE), int))
    wrong = {"0": "background", "1": {"name": "scratch", "value": 2}, "2": "dent"}
    (tmp_path / "flat" / "classes.json").write_text(json.dumps(wrong), encoding="utf-8")
    code, _, errors = isdm("export", data_dir=tmp_path / "flat", format="coco", export_path=tmp_path / "out")
    assert (code, len(errors)) == (2, 1)
    assert "classes.json" in errors[0]


# --- images as networks see them ---------------------------------------------------------------------------------


def transparent(kind: str) -> Image.Image:
    """Return an image whose upper half is transparent, with light hidden in it."""
    pixels = np.full((SIZE, SIZE, 4), 200, np.uint8)
    pixels[..., 1], pixels[..., 3] = 90, 255
    pixels[: SIZE // 2, :, 3] = 0
    if kind == "RGBA":
        return Image.fromarray(pixels)
    if kind == "LA":
        return Image.fromarray(pixels).convert("LA")
    image = Image.fromarray(np.repeat([[0], [1]], SIZE // 2, axis=0).repeat(SIZE, axis=1).astype(np.uint8))
    image.putpalette([250, 240, 230, 200, 90, 200])
    return image if kind == "P" else image.convert("RGB")


TRANSPARENT = {"RGBA": None, "LA": None, "P": 0, "RGB": (250, 240, 230)}


@pytest.mark.parametrize(("kind", "color"), TRANSPARENT.items())
def test_transparent_pixels_are_black_in_nnunet(tmp_path, kind, color):
    write_pairs(tmp_path / "data" / "train", LabelEncoding.identity(2), np.eye(SIZE, dtype=int), count=1)
    options = {} if color is None else {"transparency": color}
    path = tmp_path / "data" / "train" / "images" / "0.png"
    transparent(kind).save(path, **options)
    (tmp_path / "data" / "classes.json").write_text(json.dumps({"0": "background", "1": "dent"}), encoding="utf-8")
    exported(tmp_path / "data", tmp_path / "out", "nnunet", dataset_mode="multi-class")
    (written,) = (tmp_path / "out").rglob("imagesTr/*.png")
    seen = read_image(path, 1 if kind == "LA" else 3).numpy().transpose(1, 2, 0)
    assert np.array_equal(np.asarray(Image.open(written)).reshape(seen.shape), seen)
    assert not seen[: SIZE // 2].any()
    assert seen[SIZE // 2 :].all()


def test_gray_images_of_16_bits_with_alpha_are_gray_in_nnunet(tmp_path):
    write_pairs(tmp_path / "data" / "train", LabelEncoding.identity(2), np.eye(SIZE, dtype=int), count=1)
    pixels = np.stack([np.full((SIZE, SIZE), 50000), 65535 * np.eye(SIZE)], axis=-1).astype(np.uint16)
    write_png(tmp_path / "data" / "train" / "images" / "0.png", pixels)
    exported(tmp_path / "data", tmp_path / "out", "nnunet", dataset_mode="binary")
    (written,) = (tmp_path / "out").rglob("imagesTr/*.png")
    assert np.array_equal(np.asarray(Image.open(written)), 50000 * np.eye(SIZE))
    (content,) = (tmp_path / "out").rglob("dataset.json")
    assert json.loads(content.read_text(encoding="utf-8"))["channel_names"] == {"0": "gray"}


@pytest.mark.parametrize("kind", ["cityscapes", "nnunet"])
def test_images_in_four_colors_of_print_become_rgb(tmp_path, kind):
    write_pairs(tmp_path / "data" / "train", LabelEncoding.identity(2), np.eye(SIZE, dtype=int), count=1)
    path = tmp_path / "data" / "train" / "images" / "0.jpg"
    Image.open(path.with_suffix(".png")).convert("CMYK").save(path)
    path.with_suffix(".png").unlink()
    (tmp_path / "data" / "classes.json").write_text(json.dumps({"0": "background", "1": "dent"}), encoding="utf-8")
    exported(tmp_path / "data", tmp_path / "out", kind, dataset_mode="multi-class")
    folder = {"cityscapes": "leftImg8bit/train/all", "nnunet": "imagesTr"}[kind]
    (written,) = (tmp_path / "out").rglob(f"{folder}/*.png")
    assert np.array_equal(np.asarray(Image.open(written)), np.asarray(Image.open(path).convert("RGB")))
