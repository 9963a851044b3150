"""Every fault of a dataset of boxes is one line that names the file, the entry, what was found and what to do."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from boxed import change, gray_set
from PIL import Image

from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.scan.boxes import scan_boxes
from guided_diffusion.data.scan.problems import problem_lines

NAMES = {"coco": "annotations.json", "vott": "lemons-export.json", "vott csv": "lemons-export.csv"}
Spoil = Callable[[Path], object]
"""Changes the folder of a split."""


def coco(edit: Callable[[dict], object]) -> Spoil:
    return lambda folder: change(folder / NAMES["coco"], edit)


def box(*numbers: float) -> Spoil:
    return coco(lambda content: content["annotations"][0].update(bbox=list(numbers)))


def vott(edit: Callable[[list[dict]], object]) -> Spoil:
    """Edit the entries of the assets."""
    return lambda folder: change(folder / NAMES["vott"], lambda content: edit(list(content["assets"].values())))


def export(edit: Callable[[dict], object]) -> Spoil:
    return lambda folder: change(folder / NAMES["vott"], edit)


def rows(edit: Callable[[str], str], name: str = NAMES["vott csv"]) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / name
        path.write_text(edit(path.read_text(encoding="utf-8")), encoding="utf-8")

    return spoil


def as_corners(content: dict) -> None:
    for each in content["annotations"]:
        x, y, width, height = each["bbox"]
        each["bbox"] = [x, y, x + width, y + height]


def as_shares(content: dict) -> None:
    sizes = {each["id"]: (each["width"], each["height"]) for each in content["images"]}
    for each in content["annotations"]:
        (width, height), numbers = sizes[each["image_id"]], each["bbox"]
        each["bbox"] = [value / side for value, side in zip(numbers, (width, height) * 2, strict=True)]


def only_project(folder: Path) -> None:
    (folder / NAMES["vott"]).rename(folder / "lemons.vott")


def classes_json(folder: Path) -> None:
    (folder.parent / "classes.json").write_text(json.dumps({"0": "background", "1": "scratch", "2": "spot"}))


# What is wrong, form, what spoils it, the file or entry that the line begins with, and a part of the line.
FAULTS: list[tuple[str, str, Spoil, str, str]] = [
    ("no images", "coco", coco(lambda content: content.update(images=[], annotations=[])), "", "images is empty"),
    ("no categories", "coco", coco(lambda c: c.update(categories=[], annotations=[])), "", "categories is empty"),
    ("no list of annotations", "coco", coco(lambda content: content.pop("annotations")), "", "no list annotations"),
    ("image id", "coco", coco(lambda c: c["annotations"][0].update(image_id=5)), "annotation 1", "image_id 5 is not"),
    ("category", "coco", coco(lambda c: c["annotations"][0].update(category_id=5)), "annotation 1", "category_id 5"),
    ("id twice", "coco", coco(lambda c: c["annotations"][1].update(id=1)), "annotation 1", "there twice"),
    ("image id twice", "coco", coco(lambda c: c["images"][2].update(id=0)), "image 0", "there twice"),
    ("name twice", "coco", coco(lambda c: c["images"][2].update(file_name="b.png")), "image b.png", "there twice"),
    ("category twice", "coco", coco(lambda c: c["categories"].append({"id": 3, "name": "x"})), "category 3", "twice"),
    ("name of two", "coco", coco(lambda c: c["categories"][1].update(name="dent")), "category named dent", "twice"),
    ("outside", "coco", box(61, 2, 5, 5), "annotation 1", "a.png, which has 60x40 px, is wholly outside"),
    ("no area", "coco", box(5, 6, 0, 5), "annotation 1", "has no area"),
    ("no number", "coco", box(5, 6, float("nan"), 5), "annotation 1", "number that is none"),
    ("infinite", "coco", box(5, 6, float("inf"), 5), "annotation 1", "number that is none"),
    ("negative", "coco", box(5, 6, -3, 5), "annotation 1", "ends before it begins"),
    ("far over the border", "coco", box(30, 6, 50, 5), "annotation 1", "sticks out far; .*corners"),
    ("three numbers", "coco", box(5, 6, 3), "annotation 1", r"bbox is \[5, 6, 3\]; .*x, y, width, height"),
    ("text", "coco", coco(lambda c: c["annotations"][0]["bbox"].insert(0, "x")), "annotation 1", "bbox"),
    ("no bbox", "coco", coco(lambda c: c["annotations"][0].pop("bbox")), "annotation 1", "has no bbox"),
    ("no id", "coco", coco(lambda c: c["annotations"][0].pop("id")), "annotation number 1", "has no id"),
    ("no object", "coco", coco(lambda c: c["annotations"].insert(0, 7)), "annotation number 1", "is 7"),
    ("width 0", "coco", coco(lambda c: c["images"][1].update(width=0)), "image 7", "width is 0"),
    ("shares", "coco", coco(as_shares), "", "above 1, as if they were shares"),
    ("broken JSON", "coco", rows(lambda text: text[:-20], NAMES["coco"]), "", "not valid JSON at line 1"),
    ("no object at all", "coco", rows(lambda _: "[]", NAMES["coco"]), "", "JSON list"),
    ("empty file", "coco", lambda folder: (folder / NAMES["coco"]).write_bytes(b""), "", "0 bytes"),
    ("an export of VoTT", "coco", coco(lambda c: (c.clear(), c.update(assets={}))), "", "it is an export of VoTT"),
    ("path", "coco", coco(lambda c: c["images"][1].update(file_name="../b.png")), "image 7", "leaves the folder"),
    ("other path", "coco", coco(lambda c: c["images"][1].update(file_name="C:\\p\\b.png")), "image 7", "not relative"),
    ("another name", "coco", coco(lambda c: c["images"][1].update(file_name="B.PNG")), "image B.PNG", "b.png is there"),
    ("picture removed", "coco", lambda folder: (folder / "images/c.png").unlink(), "image c.png", "put it there"),
    ("another class", "coco", classes_json, "annotation 6", "class 'dent' is not known"),
    ("unknown tag", "vott", vott(lambda a: a[0]["regions"][0].update(tags=["Spot"])), "region r00", "tag 'Spot'"),
    ("no tag", "vott", vott(lambda a: a[0]["regions"][0].update(tags=[])), "region r00 of asset a.png", "has no tag"),
    ("no outline", "vott", vott(lambda a: (a[0]["regions"][0].pop("points"), a[0]["regions"][0].pop("boundingBox"))),
     "region r00 of asset a.png", "neither boundingBox nor points"),
    ("a point", "vott", vott(lambda a: a[0]["regions"][0].update(boundingBox=None, points=[{"x": 3, "y": 4}])),
     "region r00 of asset a.png", "has no area"),
    ("half a box", "vott", vott(lambda a: a[0]["regions"][0]["boundingBox"].pop("width")), "asset a.png", "no regions"),
    ("no name", "vott", vott(lambda a: a[0]["asset"].pop("name")), "asset 0", "has no asset name"),
    ("path in a name", "vott", vott(lambda a: a[0]["asset"].update(name="../a.png")), "asset ../a.png", "leaves"),
    ("no assets", "vott", export(lambda content: content.update(assets={})), "", "no assets"),
    ("no tags", "vott", export(lambda content: content.pop("tags")), "", "has no tags"),
    ("tag twice", "vott", export(lambda content: content["tags"].append({"name": "dent"})), "tag dent", "there twice"),
    ("frame", "vott", vott(lambda a: a[0]["asset"].update(name="f.mp4#t=2", type=3)), "image f.mp4#t=2", "frame of a"),
    ("nothing labeled", "vott", vott(lambda a: [e.update(regions=[], asset={**e["asset"], "state": 0}) for e in a]),
     "", "no picture is labeled"),
    ("no header", "vott csv", rows(lambda text: text.partition("\n")[2]), "", "has no header"),
    ("header alone", "vott csv", rows(lambda text: text.partition("\n")[0] + "\n"), "", "a header and no boxes"),
    ("no column", "vott csv", rows(lambda text: text.replace("ymax", "bottom", 1)), "", "header has no ymax"),
    ("empty CSV", "vott csv", rows(lambda _: ""), "", "0 bytes"),
    ("semicolons", "vott csv", rows(lambda text: text.replace(",", ";")), "", "semicolons"),
    ("decimal comma", "vott csv", rows(lambda text: text.replace("5.0", "5,0", 1)), "line 2", "7 cells"),
    ("text in a row", "vott csv", rows(lambda text: text.replace("5.0", "left", 1)), "line 2", "'left' is no number"),
    ("no label", "vott csv", rows(lambda text: text.replace('"spot"', '""', 1)), "line 2", "has no label"),
    ("no image", "vott csv", rows(lambda text: text.replace('"a.png"', '""', 1)), "line 2", "has no image"),
    ("width for xmax", "vott csv", rows(lambda text: text.replace("20.0", "2.0", 1)), "line 2", "ends before"),
    ("hidden path", "vott csv", rows(lambda text: text.replace('"a.png"', '"%2e%2e/a.png"', 1)), "line 2", "leaves"),
    ("another picture", "vott csv", rows(lambda text: text.replace('"b.png"', '"x.png"')), "image x.png", "is not in"),
]  # fmt: skip
OF_FILES: list[tuple[str, str, Spoil, str, str]] = [
    ("no annotation file", "coco", lambda folder: (folder / NAMES["coco"]).unlink(), "train", "no annotation file"),
    ("two annotation files", "coco", lambda folder: (folder / "b.csv").write_text("image"), "train", "several"),
    ("only a project", "vott", only_project, "train", "a .vott file has no regions"),
    ("no folder", "coco", lambda folder: (folder / "images").rename(folder / "pictures"), "train/images", "not exist"),
    ("size", "coco", lambda f: Image.new("L", (70, 40)).save(f / "images/a.png"), "images/a.png", "70x40 px, but"),
    ("turned", "coco", lambda f: Image.new("L", (40, 60)).save(f / "images/a.png"), "images/a.png", "sides exchanged"),
    ("no picture", "coco", lambda folder: (folder / "images/a.png").write_bytes(b"x"), "train/images/a.png", "format"),
    ("two pictures of a stem", "coco", lambda f: Image.new("L", (9, 9)).save(f / "images/a.jpg"), "a.png", "a second"),
]  # fmt: skip


def fatal(folder: Path, **options):
    return scan_boxes(folder, get_mode("boxes"), "train", progress=False, **options).fatal


@pytest.mark.parametrize(
    ("kind", "spoil", "entry", "part"), [fault[1:] for fault in FAULTS], ids=[f[0] for f in FAULTS]
)
def test_a_fault_of_an_entry_is_one_line(tmp_path, kind, spoil, entry, part):
    spoil(gray_set(tmp_path, kind) / "train")
    lines = problem_lines(fatal(tmp_path))
    where = f"{tmp_path}/train/{NAMES[kind]}: {entry}"
    matching = [line for line in lines if line.startswith(where) and re.search(part, line)]
    assert len(matching) == 1, lines
    assert lines == matching
    assert "; " in matching[0]


@pytest.mark.parametrize(
    ("kind", "spoil", "path", "part"), [fault[1:] for fault in OF_FILES], ids=[fault[0] for fault in OF_FILES]
)
def test_a_fault_of_a_file_is_one_line(tmp_path, kind, spoil, path, part):
    spoil(gray_set(tmp_path, kind) / "train")
    (line,) = problem_lines(fatal(tmp_path))
    assert line.startswith(str(tmp_path))
    assert path in line.partition(": ")[0]
    assert re.search(part, line), line


def test_corners_taken_for_width_and_height_are_told_once(tmp_path):
    coco(as_corners)(gray_set(tmp_path) / "train")
    lines = problem_lines(fatal(tmp_path))
    assert len(lines) == 1
    assert "3 of 6 boxes stick out far, and all would fit as [x0, y0, x1, y1]" in lines[0]


def test_more_classes_than_the_options_say(tmp_path):
    (problem,) = fatal(gray_set(tmp_path), num_classes=3)
    assert problem.path == "num_classes"
    assert "4 classes: background, scratch, spot, dent" in problem.found
    assert not fatal(tmp_path, num_classes=4)


def test_many_alike_faults_are_one_line(tmp_path):
    def edit(content):
        for number in range(60):
            entry = {"id": 100 + number, "image_id": 0, "category_id": 3, "bbox": [70 + number, 0, 5, 5]}
            content["annotations"].append(entry)

    coco(edit)(gray_set(tmp_path) / "train")
    (line,) = problem_lines(fatal(tmp_path))
    assert "annotation 100" in line
    assert "59 more like it" in line
