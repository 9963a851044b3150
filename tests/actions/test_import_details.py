"""`import`: what single formats may hold beside the plain case."""

from __future__ import annotations

import json

import annotated
import numpy as np
from annotated import HEIGHT, NAMES, WIDTH, imported, mask_of
from PIL import Image


def test_other_shapes_of_labelme(tmp_path):
    annotated.write_images(tmp_path / "s", NAMES[:1])
    mask = np.zeros((4, 5), bool)
    mask[1:3, 1:4] = True
    shapes = [
        {"label": "dent", "shape_type": "rectangle", "points": [[2, 3], [6, 5]]},
        {"label": "dent", "shape_type": "circle", "points": [[20, 12], [24, 12]]},
        {"label": "scratch", "shape_type": "mask", "points": [[10, 18], [14, 21]], "mask": annotated.png_text(mask)},
        {"label": "dent", "shape_type": "line", "points": [[0, 0], [3, 3]]},
        {"label": "__ignore__", "shape_type": "rectangle", "points": [[0, 22], [31, 23]]},
    ]
    content = annotated.labelme_content(0) | {"shapes": shapes, "imageData": None}
    (tmp_path / "s" / "part_1.json").write_text(json.dumps(content), encoding="utf-8")
    result = imported(tmp_path / "s", tmp_path / "data", test_share=0)
    label = mask_of(tmp_path / "data", "part_1")
    assert (label[3:6, 2:7] == 1).all()
    assert label[12, 17:24].tolist() == [1] * 7
    assert abs(int((label == 1).sum()) - 15 - np.pi * 4.5**2) < 12
    assert np.array_equal(label[18:22, 10:15] == 2, mask)
    assert (label[22:] == 255).all()
    assert {kind.name for kind in result.lost()} == {"NO_AREA"}


def test_an_image_inside_a_labelme_file_is_written(tmp_path):
    import base64

    annotated.write_images(tmp_path / "s", NAMES[:1])
    content = (tmp_path / "s" / "part_1.png").read_bytes()
    (tmp_path / "s" / "part_1.png").unlink()
    record = annotated.labelme_content(0) | {"imageData": base64.b64encode(content).decode()}
    (tmp_path / "s" / "part_1.json").write_text(json.dumps(record), encoding="utf-8")
    imported(tmp_path / "s", tmp_path / "data", test_share=0)
    assert (tmp_path / "data" / "train" / "images" / "part_1.png").read_bytes() == content


def test_annotations_of_label_studio_that_do_not_count(tmp_path):
    annotated.write_images(tmp_path / "s")
    tasks = [annotated.label_studio_task(number) for number in range(4)]
    good = tasks[0]["annotations"][0]
    empty = {"id": 7, "result": [], "was_cancelled": False}
    tasks[0]["annotations"] = [{**good, "ground_truth": True}, empty]
    tasks[1]["annotations"] = [{**empty, "was_cancelled": True}]
    tasks[2]["annotations"] = []
    (tmp_path / "s" / "all.json").write_text(json.dumps(tasks), encoding="utf-8")
    result = imported(tmp_path / "s", tmp_path / "data", test_share=0)
    assert [pair.name for pair in result.pairs] == ["part_1", "part_4"]
    assert {kind.name: count for kind, count in result.lost().items()} == {"REJECTED": 2, "NOT_ANNOTATED": 2}
    assert np.array_equal(mask_of(tmp_path / "data", "part_1"), annotated.expected(0))


def test_minimal_json_of_label_studio(tmp_path):
    annotated.write_images(tmp_path / "s")
    tasks = []
    for number in range(4):
        task = annotated.label_studio_task(number)
        regions = [{**each, **each["value"]} for each in task["annotations"][0]["result"]]
        regions = [{key: value for key, value in each.items() if key not in ("value", "type")} for each in regions]
        tasks.append({**task["data"], "id": task["id"], "tag": regions, "annotator": 1, "annotation_id": 7})
    (tmp_path / "s" / "min.json").write_text(json.dumps(tasks), encoding="utf-8")
    imported(tmp_path / "s", tmp_path / "data", test_share=0)
    for number, name in enumerate(NAMES):
        assert np.array_equal(mask_of(tmp_path / "data", name), annotated.expected(number))


def test_turned_photographs_keep_their_masks(tmp_path):
    """Annotations of the picture as viewers show it, of a file that is stored lying."""
    exif = Image.Exif()
    exif[274] = 6
    (tmp_path / "s").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (WIDTH, HEIGHT, 3), np.uint8)
    for size, name in (((HEIGHT, WIDTH), "upright"), ((WIDTH, HEIGHT), "stored")):
        Image.fromarray(pixels).save(tmp_path / "s" / "part_1.jpg", exif=exif)
        content = annotated.coco_content(NAMES[:1], ".jpg")
        content["images"][0].update(height=size[0], width=size[1])
        content["annotations"] = content["annotations"][:1]
        (tmp_path / "s" / "all.json").write_text(json.dumps(content), encoding="utf-8")
        imported(tmp_path / "s", tmp_path / name, test_share=0)
        assert mask_of(tmp_path / name, "part_1").shape == size
