"""`check` of boxes: of annotations and of masks; what it prints, writes and refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
from boxed import KINDS, boxed_copy, change, gray_set, write_published
from PIL import Image
from tiny import TINY


def checked(isdm, data, out, mode="boxes", **values):
    values = {"image_size": 32, "image_channels": 1, **values}
    return isdm("check", None, data_dir=str(data), dataset_mode=mode, output_dir=str(out), **values)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_boxes_are_measured_and_drawn(isdm, lemons, tmp_path, kind):
    data = boxed_copy(lemons, tmp_path / "data", kind)
    code, text, errors = checked(isdm, data, tmp_path / "out", image_channels=3)
    assert (code, errors) == (0, [])
    assert "8 images with boxes" in text
    assert ("xmin, ymin" if kind == "vott csv" else "width, height in pixels") in text.replace(
        "width, height]", "width, height"
    )
    statistics = json.loads((tmp_path / "out" / "boxes_train.json").read_text(encoding="utf-8"))
    objects = {each["name"]: each["objects"] for each in statistics["classes"]}
    assert objects["lemon"] == 8
    assert sum(objects.values()) == sum(int(n) * count for n, count in statistics["objects_per_image"].items())
    assert str(tmp_path / "out" / "train.png") in text
    picture = np.asarray(Image.open(tmp_path / "out" / "train.png"))
    yellow = (picture == (240, 220, 66)).all(-1)  # the color of the first class with objects
    assert yellow.any()


def test_what_the_model_does_not_see_is_said(isdm, tmp_path):
    data = gray_set(tmp_path / "data")
    code, text, errors = checked(isdm, data, tmp_path / "out", image_size=8, max_objects=1, preview_images=0)
    assert (code, errors) == (0, [])
    assert "objects 'scratch' are under 2 px high or wide at image_size [8, 8]" in text
    assert "have less than 10% of their area in the window of resize crop" in text
    assert "more than 1; raise max_objects" in text
    assert "images by number of objects: 0: 1, 1: 3" in text


def test_boxes_of_masks(isdm, lemons, tmp_path):
    code, text, errors = checked(isdm, lemons, tmp_path / "out", "multi-class", condition="boxes", image_channels=3)
    assert (code, errors) == (0, [])
    assert "8 pairs" in text
    assert "images by number of objects" in text
    statistics = json.loads((tmp_path / "out" / "boxes_test.json").read_text(encoding="utf-8"))
    assert statistics["classes"][1] | {"name": "", "share": 0, "shorter": 0, "longer": 0} == {
        **dict.fromkeys(("share", "shorter", "longer", "small", "cropped", "beyond", "thin"), 0),
        "name": "",
        "objects": 4,
        "images": 4,
    }


def test_classes_without_objects_and_good_images(isdm, tmp_path):
    data = gray_set(tmp_path / "data")
    change(data / "train/annotations.json", lambda content: content["categories"].append({"id": 99, "name": "rust"}))
    good = data / "train" / "good" / "images"
    good.mkdir(parents=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 99, (40, 40), np.uint8)).save(good / "g.png")
    code, text, errors = checked(isdm, data, tmp_path / "out", preview_images=0)
    assert (code, errors) == (0, [])
    assert "class 4: 'rust' is in no image" in text
    assert "1 good images" in text
    assert "images by number of objects: 0: 2," in text
    Image.open(data / "train/images/a.png").save(good / "g.png")
    code, text, _ = checked(isdm, data, tmp_path / "out", preview_images=0)
    assert code == 2
    assert "is a good image and, of the same pixels, the image of" in text
    assert "a.png, which has boxes" in text


@pytest.mark.slow
def test_boxes_of_whole_images_are_counted_where_layouts_have_no_background(isdm, tmp_path):
    data = gray_set(tmp_path / "data")

    def whole(content) -> None:
        for number, side in ((0, [0, 0, 60, 40]), (2, [0, 0, 33, 64])):
            entry = {"id": 90 + number, "image_id": 7 * number, "category_id": 23, "iscrowd": 0, "bbox": side}
            content["annotations"].append(entry)

    change(data / "train/annotations.json", whole)
    line = "background: is false, which leaves 2 boxes around a whole image out, as that is the class of its background"
    for background in (True, False):
        values = {"background": background, "preview_images": 0}
        code, text, errors = checked(isdm, data, tmp_path / "out", **values)
        assert (code, errors) == (0, [])
        assert text.count(f"warning: {line}") == (not background)
    values = {**TINY, "dataset_mode": "boxes", "image_channels": 1, "background": False, "max_epochs": 1}
    assert f"warning: {line}" in isdm("train", data_dir=data, output_dir=tmp_path / "run", **values)[1]


def test_faults_end_with_exit_code_2_and_no_picture(isdm, tmp_path):
    data = gray_set(tmp_path / "data")
    change(data / "train/annotations.json", lambda content: content["annotations"][0].update(bbox=[90, 0, 3, 3]))
    code, text, (error,) = checked(isdm, data, tmp_path / "out")
    assert code == 2
    assert "1 problem to fix" in error
    assert f"error: {data}/train/annotations.json: annotation 1: box [90, 0, 93, 3] of a.png" in text
    assert not (tmp_path / "out" / "train.png").exists()
    assert not (tmp_path / "out" / "boxes_train.json").exists()


def test_the_benchmark_as_published(isdm, tmp_path):
    data = write_published(tmp_path / "data")
    code, text, errors = checked(isdm, data, tmp_path / "out", "coco-boxes", image_channels=3)
    assert (code, errors) == (0, [])
    assert "10 images with boxes" in text
    assert "14 images without stuff, or without 3 to 8 objects" in text
    assert "steel" in text
    (data / "annotations" / "stuff_train2017.json").unlink()
    code, text, _ = checked(isdm, data, tmp_path / "out", "coco-boxes", image_channels=3)
    assert code == 2
    assert "stuff_train2017.json: the file does not exist" in text


def test_images_alone_have_no_boxes(isdm, lemons, tmp_path):
    code, _, (error,) = checked(isdm, lemons, tmp_path / "out", "images", condition="boxes")
    assert code == 2
    assert "neither boxes nor masks" in error
