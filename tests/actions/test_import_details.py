"""`import`: what single formats may hold beside the plain case."""

from __future__ import annotations

import base64
import io
import json
import unicodedata

import annotated
import numpy as np
import pytest
from annotated import CLASSES, HEIGHT, NAMES, WIDTH, imported, mask_of
from error_lines import check_error
from PIL import Image, ImageDraw

from guided_diffusion.runtime.errors import ConfigError


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


def test_rectangles_of_four_points_are_those_of_two(tmp_path):
    """X-AnyLabeling writes all corners since version 2.2."""
    annotated.write_images(tmp_path / "s", NAMES[:1])
    (x0, y0), (x1, y1) = two = [[2.7, 3.2], [16.1, 15.9]]
    masks = []
    for name, points in (("two", two), ("four", [[x0, y0], [x1, y0], [x1, y1], [x0, y1]])):
        shapes = [{"label": "dent", "shape_type": "rectangle", "points": points}]
        content = annotated.labelme_content(0) | {"shapes": shapes}
        (tmp_path / "s" / "part_1.json").write_text(json.dumps(content), encoding="utf-8")
        imported(tmp_path / "s", tmp_path / name, test_share=0)
        masks.append(mask_of(tmp_path / name, "part_1"))
    assert np.array_equal(*masks)


def test_circles_of_labelme_are_those_that_it_draws(tmp_path):
    annotated.write_images(tmp_path / "s", NAMES[:1])
    circles = [((7.3, 6.8), 3.9, "dent"), ((20.5, 12.1), 8.7, "scratch"), ((31.4, 1.2), 4.6, "dent")]
    points = [[list(center), [center[0], center[1] + radius]] for center, radius, _ in circles]
    content = annotated.labelme_content(0)
    content["shapes"] = [
        {"label": label, "shape_type": "circle", "points": two}
        for two, (_, _, label) in zip(points, circles, strict=True)
    ]
    (tmp_path / "s" / "part_1.json").write_text(json.dumps(content), encoding="utf-8")
    result = imported(tmp_path / "s", tmp_path / "data", test_share=0)
    drawn = Image.new("L", (WIDTH, HEIGHT))
    for (x, y), radius, label in circles:  # labelme.utils.shape_to_mask
        box = [x - radius, y - radius, x + radius, y + radius]
        ImageDraw.Draw(drawn).ellipse(box, outline=CLASSES.index(label) + 1, fill=CLASSES.index(label) + 1)
    assert np.array_equal(mask_of(tmp_path / "data", "part_1"), np.asarray(drawn))
    assert {kind.name: count for kind, count in result.lost().items()} == {"CUT": 1}


def test_turned_rectangles_of_labelme_and_shapes_that_are_not_read(tmp_path):
    annotated.write_images(tmp_path / "s", NAMES[:1])
    corners = [[12, 2], [18, 8], [14, 12], [8, 6]]
    for kind in ("rotation", "oriented_rectangle", "quadrilateral", "polygon"):
        shapes = [
            {"label": "dent", "shape_type": kind, "points": corners},
            {"label": "dent", "shape_type": "cuboid", "points": corners},
            {"label": "dent", "shape_type": "linestrip", "points": corners},
        ]
        content = annotated.labelme_content(0) | {"shapes": shapes}
        (tmp_path / "s" / "part_1.json").write_text(json.dumps(content), encoding="utf-8")
        result = imported(tmp_path / "s", tmp_path / kind, test_share=0)
        assert {each.name: count for each, count in result.lost().items()} == {"NO_AREA": 1, "OTHER_SHAPE": 1}
        assert np.array_equal(mask_of(tmp_path / kind, "part_1"), mask_of(tmp_path / "rotation", "part_1"))
    assert mask_of(tmp_path / "rotation", "part_1")[7, 13] == 1


def assert_ellipse(label: np.ndarray, turn: float) -> None:
    """Check the pixels of the ellipse of these tests: around (15.2, 11.7), radii 9.3 and 4.1, turned by degrees."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5 - np.array([11.7, 15.2])[:, None, None]
    angle = np.radians(turn)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    share = (along / 9.3) ** 2 + (across / 4.1) ** 2
    assert ((label == 1) == (share < 1))[abs(share - 1) > 0.01].all()


@pytest.mark.parametrize("turn", [0, 90, 30, 330])
def test_ellipses_of_cvat_cover_the_pixels_whose_centers_are_inside(tmp_path, turn):
    annotated.write_images(tmp_path / "s" / "images", NAMES[:2])
    text = (
        "<annotations><meta><task><labels><label><name>dent</name></label></labels></task></meta>"
        f'<image id="0" name="{NAMES[0]}.png" width="{WIDTH}" height="{HEIGHT}">'
        f'<ellipse label="dent" cx="15.2" cy="11.7" rx="9.3" ry="4.1" rotation="{turn}"/>'
        f'<cuboid label="dent" xtl1="1"/></image></annotations>'
    )
    (tmp_path / "s" / "annotations.xml").write_text(text, encoding="utf-8")
    result = imported(tmp_path / "s", tmp_path / "data", test_share=0)
    assert {each.name: count for each, count in result.lost().items()} == {"OTHER_SHAPE": 1, "UNLISTED": 1}
    assert_ellipse(mask_of(tmp_path / "data", "part_1"), turn)


@pytest.mark.parametrize("wrong", ['rx="wide"', 'rx="nan"', ""])
def test_an_ellipse_that_is_none_is_a_mistake(isdm, tmp_path, wrong):
    annotated.write_images(tmp_path / "s" / "images", NAMES[:1])
    text = (
        f'<annotations><image id="0" name="{NAMES[0]}.png" width="{WIDTH}" height="{HEIGHT}">'
        f'<ellipse label="dent" cx="15" cy="11" ry="4" {wrong}/></image></annotations>'
    )
    (tmp_path / "s" / "annotations.xml").write_text(text, encoding="utf-8")
    code, _, errors = isdm("import", source=tmp_path / "s", output_dir=tmp_path / "data")
    assert (code, len(errors)) == (2, 1)
    assert "ellipse number 1" in errors[0]


def test_all_files_that_cannot_be_read_are_told(isdm, tmp_path):
    annotated.write_labelme(tmp_path / "s")
    (tmp_path / "s" / "part_2.json").write_text('{"shapes": [', encoding="utf-8")
    (tmp_path / "s" / "part_4.json").write_bytes(b"")
    code, _, errors = isdm("import", source=tmp_path / "s", output_dir=tmp_path / "data")
    assert (code, len(errors)) == (2, 2)
    assert "part_2.json: not valid JSON" in errors[0]
    assert "part_4.json: the file is empty" in errors[1]


def test_an_image_inside_a_labelme_file_is_written(tmp_path):
    import base64

    annotated.write_images(tmp_path / "s", NAMES[:1])
    content = (tmp_path / "s" / "part_1.png").read_bytes()
    (tmp_path / "s" / "part_1.png").unlink()
    record = annotated.labelme_content(0) | {"imageData": base64.b64encode(content).decode()}
    (tmp_path / "s" / "part_1.json").write_text(json.dumps(record), encoding="utf-8")
    imported(tmp_path / "s", tmp_path / "data", test_share=0)
    assert (tmp_path / "data" / "train" / "images" / "part_1.png").read_bytes() == content


@pytest.mark.parametrize("inside", [True, False])
def test_an_image_of_that_name_in_another_folder(tmp_path, inside):
    """It is not taken where the file holds its image; where it does not, it is told."""
    for folder in "ab":
        annotated.write_images(tmp_path / "s" / folder, NAMES[:1])
    Image.new("RGB", (WIDTH, HEIGHT), (9, 8, 7)).save(own := tmp_path / "s" / "a" / "part_1.png")
    data = base64.b64encode(own.read_bytes()).decode() if inside else None
    content = annotated.labelme_content(0) | {"imageData": data}
    (tmp_path / "s" / "a" / "part_1.json").write_text(json.dumps(content), encoding="utf-8")
    image = own.read_bytes()
    own.unlink()
    result = imported(tmp_path / "s", tmp_path / "data", test_share=0)
    taken = (tmp_path / "data/train/images/part_1.png").read_bytes()
    assert (taken == image) == inside
    assert [note for note in result.notes if "b/part_1.png for a/part_1.png" in note] == list(result.notes)
    assert len(result.notes) == (not inside)


@pytest.mark.parametrize("inside", [True, False])
def test_folders_of_files_and_images_may_have_the_same_parts(tmp_path, inside):
    """The images of labels/train are in images/train, whose names images/val may have, too."""
    for split in ("train", "val"):
        annotated.write_images(tmp_path / "s" / "images" / split, NAMES[:1])
        data = annotated.png_text(np.zeros((HEIGHT, WIDTH), bool)) if inside else None
        (tmp_path / "s" / "labels" / split).mkdir(parents=True)
        content = json.dumps(annotated.labelme_content(0) | {"imageData": data})
        (tmp_path / "s" / "labels" / split / "part_1.json").write_text(content, encoding="utf-8")
    result = imported(tmp_path / "s", tmp_path / "data")
    assert {pair.picture.name: pair.split for pair in result.pairs} == {
        "images/train/part_1.png": "train",
        "images/val/part_1.png": "test",
    }
    assert (result.notes, result.lost()) == ((), {})


def test_an_image_inside_a_labelme_file_is_png_or_jpeg(isdm, tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT)).save(buffer, format="TIFF")
    content = annotated.labelme_content(0) | {"imageData": base64.b64encode(buffer.getvalue()).decode()}
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "part_1.json").write_text(json.dumps(content), encoding="utf-8")
    code, _, errors = isdm("import", source=tmp_path / "s", output_dir=tmp_path / "data")
    assert (code, len(errors)) == (2, 1)
    assert "neither a PNG nor a JPEG" in errors[0]


def test_further_labels_and_images_of_no_task_are_told(tmp_path):
    annotated.write_images(tmp_path / "s", ("more", *NAMES[:2]))
    tasks = [annotated.label_studio_task(0), {**annotated.label_studio_task(1), "annotations": []}]
    result = tasks[0]["annotations"][0]["result"]
    result[0]["value"]["polygonlabels"].append("dent")
    size = {key: result[0][key] for key in ("original_width", "original_height")}
    result.append({**size, "id": "c", "value": {"imageDataURL": "data:,", "bitmasklabels": ["dent"]}})
    (tmp_path / "s" / "tasks.json").write_text(json.dumps(tasks), encoding="utf-8")
    imported(tmp_path / "s", tmp_path / "data", test_share=0)
    losses = json.loads((tmp_path / "data/import.json").read_text(encoding="utf-8"))["losses"]
    assert {loss["kind"]: loss["entry"] for loss in losses} == {
        "more_labels": "task 1, region number 1: dent",
        "other_shape": "task 1, region number 3",
        "not_annotated": "task 2",
        "unlisted": "more.png",
    }
    assert np.array_equal(mask_of(tmp_path / "data", "part_1"), annotated.expected(0))


@pytest.mark.parametrize("key", ["photo", "image", "other"])
def test_of_two_images_of_a_task_that_of_the_tag_counts(isdm, tmp_path, key):
    annotated.write_images(tmp_path / "s", NAMES[:2])
    task = annotated.label_studio_task(0)
    task["data"] = {"before": "/data/upload/1/0a1b2c3d-part_2.png", key: task["data"]["image"]}
    for each in task["annotations"][0]["result"]:
        each["to_name"] = "photo"
    (tmp_path / "s" / "tasks.json").write_text(json.dumps([task]), encoding="utf-8")
    code, _, errors = isdm("import", source=tmp_path / "s", output_dir=tmp_path / "data", test_share=0)
    if key == "other":
        assert (code, len(errors)) == (2, 1)
        assert "task 1: may be of part_2.png or of part_1.png" in errors[0]
    else:
        assert code == 0
        assert np.array_equal(mask_of(tmp_path / "data", "part_1"), annotated.expected(0))


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


@pytest.mark.parametrize(("turn", "minimal"), [(0, False), (90, False), (30, False), (330, True)])
def test_ellipses_of_label_studio_are_in_percent_of_width_and_height_and_turned_in_pixels(tmp_path, turn, minimal):
    """As its own page draws them: x and y are the center, whatever its documentation says."""
    annotated.write_images(tmp_path / "s", NAMES[:1])
    task = annotated.label_studio_task(0)
    value = {"x": 15.2 / WIDTH * 100, "y": 11.7 / HEIGHT * 100, "rotation": turn, "ellipselabels": ["dent"]}
    value |= {"radiusX": 9.3 / WIDTH * 100, "radiusY": 4.1 / HEIGHT * 100}
    own = {key: each for key, each in task["annotations"][0]["result"][0].items() if key not in ("value", "type")}
    if minimal:
        task = {**task["data"], "id": 1, "tag": [{**own, **value}], "annotator": 1, "annotation_id": 7}
    else:
        task["annotations"][0]["result"] = [{**own, "type": "ellipselabels", "value": value}]
    (tmp_path / "s" / "all.json").write_text(json.dumps([task]), encoding="utf-8")
    result = imported(tmp_path / "s", tmp_path / "data", test_share=0)
    assert not result.lost()
    assert_ellipse(mask_of(tmp_path / "data", "part_1"), turn)


def test_the_png_export_has_the_annotation_that_the_json_says(tmp_path):
    """The older one is said to be the truth."""
    annotated.write_images(tmp_path / "s", NAMES[:1])
    task = annotated.label_studio_task(0)
    (first,) = task["annotations"]
    task["annotations"] = [{**first, "ground_truth": True}, {**first, "id": 900}]
    (tmp_path / "s" / "tasks.json").write_text(json.dumps([task]), encoding="utf-8")
    masks = {100: annotated.inside(annotated.triangle(0)), 900: annotated.inside(annotated.corners_of(0))}
    for number, mask in masks.items():
        path = tmp_path / "s" / f"task-1-annotation-{number}-by-1-tag-dent-0.png"
        Image.fromarray(mask.astype(np.uint8) * 255).save(path)
    result = imported(tmp_path / "s", tmp_path / "data", test_share=0, format="label-studio-png")
    assert np.array_equal(mask_of(tmp_path / "data", "part_1"), masks[100])
    assert {kind.name: count for kind, count in result.lost().items()} == {"REJECTED": 1}


def test_empty_annotations_of_the_png_export_are_images_without_defects(tmp_path):
    annotated.write_label_studio_png(tmp_path / "s")
    pictures = tmp_path / "s" / "pictures"
    tasks = [annotated.label_studio_task(number) for number in range(len(NAMES))]
    for number, more in ((4, []), (5, tasks[0]["annotations"][0]["result"][:1])):  # nothing, and an outline
        (pictures / f"more_{number}.png").write_bytes((pictures / "part_1.png").read_bytes())
        task = {**tasks[0], "id": number + 1, "data": {"image": f"pictures/more_{number}.png"}}
        tasks.append({**task, "annotations": [{"id": 200 + number, "result": more}]})
    for number, name in enumerate(NAMES):
        tasks[number]["data"] = {"image": f"pictures/{name}.png"}
    (tmp_path / "s" / "full.json").write_text(json.dumps(tasks), encoding="utf-8")  # beside JSON-MIN
    result = imported(tmp_path / "s", tmp_path / "data", test_share=0, format="label-studio-png")
    assert sorted(pair.name for pair in result.pairs) == ["more_4", *NAMES]
    assert {kind.name: count for kind, count in result.lost().items()} == {"NO_MASK": 1}
    assert not mask_of(tmp_path / "data", "more_4").any()
    assert np.array_equal(mask_of(tmp_path / "data", "part_1"), annotated.expected(0))


def test_texts_of_yolo_are_found_whatever_the_form_of_their_accents(tmp_path):
    annotated.write_yolo(tmp_path / "s")
    taken_apart = unicodedata.normalize("NFD", "prüf_1")
    for folder, suffix in (("images", ".png"), ("labels", ".txt")):
        file = tmp_path / "s" / "train" / folder / f"part_1{suffix}"
        file.rename(file.with_name(f"{taken_apart}{suffix}"))
    imported(tmp_path / "s", tmp_path / "data", test_share=0)
    (mask,) = (tmp_path / "data").glob("*/masks/*f_1.png")
    assert np.array_equal(np.asarray(Image.open(mask)), annotated.expected(0, "corners"))


def test_texts_of_yolo_without_an_image_and_images_of_no_split_are_told(tmp_path):
    source = tmp_path / "s"
    annotated.write_yolo(source)
    labels = source / "train" / "labels"
    (labels / "part_1.txt").rename(labels / "Part_1.txt")
    (labels / "classes.txt").write_text("scratch\n1 2\n", encoding="utf-8")
    annotated.write_images(source / "spare", ["more"])
    (source / "spare" / "more.txt").write_text(annotated.yolo_lines(0), encoding="utf-8")
    result = imported(source, tmp_path / "data")
    assert {each.kind.name: each.entry for each in result.losses} == {
        "UNLISTED": "spare/more.png",
        "NO_IMAGE": "train/labels/Part_1.txt",
    }


def test_an_image_of_another_folder_is_told(tmp_path):
    content = annotated.coco_content()
    for number, image in enumerate(content["images"]):
        image["file_name"] = f"{'AB'[number // 2]}/{image['file_name']}"
    for folder, names in (("A", NAMES[:1]), ("B", NAMES[1:])):
        annotated.write_images(tmp_path / "s" / folder, names)
    (tmp_path / "s" / "all.json").write_text(json.dumps(content), encoding="utf-8")
    result = imported(tmp_path / "s", tmp_path / "data", test_share=0)
    assert len(result.pairs) == 4
    (line,) = (note for note in result.notes if "B/part_2.png" in note)
    assert "A/part_2.png" in line


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


@pytest.mark.parametrize("classes", [[], ["dent", "dent"]])
def test_classes_that_are_none_or_named_twice(tmp_path, classes):
    with pytest.raises(ConfigError) as refused:
        imported(tmp_path / "s", tmp_path / "data", classes=classes)
    check_error(f"error: {refused.value}", "classes", "one or more different names")
