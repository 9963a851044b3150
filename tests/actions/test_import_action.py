"""`import`: a tiny project of each annotation tool becomes a dataset that `check` passes; mistakes are one line."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import annotated
import numpy as np
import pytest
from annotated import CLASSES, CORNERS, HEIGHT, NAMES, WIDTH, WRITTEN, imported, mask_of
from PIL import Image

from guided_diffusion.data.masks.classes_file import read_classes
from guided_diffusion.runtime.errors import ConfigError


@pytest.fixture(scope="module")
def projects(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("projects")
    for kind, write in WRITTEN.items():
        (root / kind).mkdir()
        write(root / kind)
    return {kind: root / kind for kind in WRITTEN}


@pytest.fixture
def project(projects, tmp_path):
    """Return a copy of a project, to be damaged."""

    def copy(kind: str) -> Path:
        shutil.copytree(projects[kind], tmp_path / kind)
        return tmp_path / kind

    return copy


def chosen(kind: str) -> dict:
    """Return the options that a format needs: two formats are seen where masks are named by tasks, or by indices."""
    options = {"label-studio-png": {"format": "label-studio-png"}}
    return {"classes": list(CLASSES), **options.get(kind, {})} if kind in ("folder", "label-studio-png") else {}


@pytest.mark.slow
@pytest.mark.parametrize("kind", WRITTEN)
def test_a_project_becomes_a_dataset_that_check_passes(isdm, projects, tmp_path, kind):
    target = tmp_path / "data"
    if kind == "coco":  # the whole action, with pictures
        code, text, errors = isdm("import", source=projects[kind], output_dir=target)
        assert (code, errors) == (0, [])
        assert str(target / "import.json") in text
        assert (target / "check" / "train.png").is_file()
    else:
        imported(projects[kind], target, **chosen(kind))
        data = {"data_dir": target, "dataset_mode": "multi-class", "output_dir": tmp_path / "check"}
        code, _, errors = isdm("check", **data, image_size=32, preview_images=0)
        assert (code, errors) == (0, [])
    classes, problems = read_classes(target)
    assert (classes.names, problems) == (("background", *CLASSES), [])
    rule = "corners" if kind in CORNERS else "centers"
    for number, name in enumerate(NAMES):
        assert np.array_equal(mask_of(target, name), annotated.expected(number, rule)), name
        (image,) = target.glob(f"*/images/{name}.png")
        sources = {path.read_bytes() for path in projects[kind].rglob(f"{name}.png")}
        assert image.read_bytes() in sources
    report = json.loads((target / "import.json").read_text(encoding="utf-8"))
    assert report["lost"] == {}
    meta = json.loads((target / "train" / "dataset_meta.json").read_text(encoding="utf-8"))
    assert meta["label_map"] == {"0": "background", "1": "dent", "2": "scratch"}
    tests = {path.stem for path in (target / "test" / "images").iterdir()}
    assert tests == {NAMES[3]} if kind in ("yolo", "voc") else len(tests) == 1


def change_json(path: Path, change) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def edit(path: Path, before: str, after: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after, 1), encoding="utf-8")


def in_json(name: str):
    """Return what makes a fault of a change to a JSON file."""
    return lambda change: lambda root: change_json(root / name, change)


def in_cvat(before: str, after: str):
    return lambda root: edit(root / "annotations.xml", before, after)


COCO = "annotations/instances_default.json"
TASK = "task-1-annotation-100-by-1-tag-dent-0.png"
in_coco, in_labelme, in_tasks = in_json(COCO), in_json("part_1.json"), in_json("project-1.json")
FAULTS = {
    "coco": [
        (in_coco(lambda c: c["annotations"][0].update(image_id=99)), "image_id 99"),
        (in_coco(lambda c: c["images"][0].update(file_name="no.png")), "'no.png' is not there"),
        (
            in_coco(lambda c: c["images"][0].update(file_name="../../a.png")),
            "leaves the folder",
        ),
        (in_coco(lambda c: c["images"][0].update(width=31)), "31x24"),
        (in_coco(lambda c: c["annotations"][0].update(segmentation=[[1, 2, 3]])), "odd"),
        (
            in_coco(lambda c: c["annotations"][1]["segmentation"].update(counts="~~")),
            "character",
        ),
        (
            in_coco(lambda c: c["annotations"][1]["segmentation"].update(counts=[5])),
            "runs are 5",
        ),
        (in_coco(lambda c: c["annotations"][1]["segmentation"].update(size=[9, 9])), "9x9"),
        (in_coco(lambda c: c["categories"][0].update(name="dent")), "is there twice"),
        (lambda r: (r / COCO).write_text("{"), "not valid JSON"),
        (lambda r: shutil.copy(r / COCO, r / "copy.json"), "names image"),
    ],
    "labelme": [
        (in_labelme(lambda c: c.update(imagePath="x.png")), "'x.png' is not there"),
        (in_labelme(lambda c: c.update(imagePath="/etc/a.png")), "not relative"),
        (in_labelme(lambda c: c.update(imagePath="part_2.png")), "is of image"),
        (in_labelme(lambda c: c["shapes"][0].update(label="")), "label"),
        (in_labelme(lambda c: c["shapes"][0].update(points=[[1]])), "points"),
        (in_labelme(lambda c: c["shapes"][0].update(points=[[1e9, 0]] * 3)), "1000000"),
        (in_labelme(lambda c: c["shapes"][0].update(shape_type="circle")), "two points"),
        (in_labelme(lambda c: c["shapes"][0].update(shape_type="mask")), "base 64"),
    ],
    "yolo": [
        (lambda r: edit(r / "data.yaml", "nc: 2", "nc: *two"), "data.yaml"),
        (lambda r: edit(r / "data.yaml", "['dent', 'scratch']", "7"), "names that are no list"),
        (lambda r: edit(r / "data.yaml", "'dent'", "'scratch'"), "two classes of one name"),
        (lambda r: edit(r / "data.yaml", "../valid", "../../../etc"), "is no folder of images"),
        (lambda r: (r / "train/labels/part_1.txt").write_text("1 0.1 nan 0.5 0.5 0.1 0.9\n"), "line 1"),
        (lambda r: (r / "train/labels/part_1.txt").write_text("1 0.1 0.1 0.5\n"), "odd"),
        (lambda r: (r / "train/labels/part_1.txt").write_text("1 310 20 300 90 10 10\n"), "shares"),
        (lambda r: (r / "train/labels/part_1.txt").write_text("scratch 0.1 0.1\n"), "line 1"),
    ],
    "cvat": [
        (
            in_cvat("<annotations>", '<!DOCTYPE a [<!ENTITY x "y">]><annotations>'),
            "entities",
        ),
        (in_cvat("</annotations>", ""), "is not XML"),
        (in_cvat("<image ", "<track></track><image "), "tracks"),
        (in_cvat('width="32"', 'width="x"'), "no width"),
        (in_cvat("part_1.png", "../../part_1.png"), "leaves"),
        (in_cvat('points="3', 'points="a'), "polygon number 2"),
        (in_cvat('rle="', 'rle="7, '), "runs"),
        (in_cvat('left="', 'left="x'), "whole number"),
    ],
    "voc": [
        (lambda r: edit(r / "labelmap.txt", "128,0,0", "128,0"), "line 3"),
        (lambda r: edit(r / "labelmap.txt", "128,0,0", "0,128,0"), "two classes of one color"),
        (lambda r: edit(r / "labelmap.txt", "dent:128,0,0::\n", ""), "which labelmap.txt does not have"),
        (lambda r: edit(r / "labelmap.txt", "dent:128,0,0::", "dent:::"), "none for 'dent'"),
        (lambda r: (r / "labelmap.txt").unlink(), "has no labelmap.txt"),
        (lambda r: (r / "JPEGImages/part_1.png").unlink(), "has no image of its name"),
        (lambda r: (r / "ImageSets/Segmentation/val.txt").write_text("part_1\n"), "has 'part_1'"),
        (lambda r: Image.new("L", (9, 9)).save(r / "SegmentationClass/part_1.png"), "9x9"),
        (lambda r: Image.new("L", (9, 9)).save(r / "JPEGImages/part_1.png"), "9x9"),
    ],
    "label-studio": [
        (
            in_tasks(lambda c: c[0]["data"].update(image="/data/a.png")),
            "is not there",
        ),
        (in_tasks(lambda c: c[0]["data"].update(image="../../../a.png")), "leaves"),
        (in_tasks(lambda c: c.append(c[0])), "as another"),
        (in_tasks(lambda c: value_of(c, 1).update(rle=[0, 0])), "cut short"),
        (
            in_tasks(lambda c: value_of(c, 1).update(rle=[0, 0, 0, 1, 7, 7])),
            "values",
        ),
        (in_tasks(lambda c: value_of(c, 1).update(rle=[300])), "0..255"),
        (in_tasks(lambda c: value_of(c, 1).update(rle=None)), "not a list"),
        (in_tasks(lambda c: result_of(c, 1).update(to_name="second")), "(image, second)"),
        (in_tasks(lambda c: [result_of(c, number).update(item_index=1) for number in (0, 1)]), "(image 1)"),
        (
            in_tasks(lambda c: value_of(c, 0).update(points=[[1, "a"]])),
            "region number 1",
        ),
        (in_tasks(lambda c: result_of(c, 0).update(original_width=16)), "16x24"),
    ],
    "label-studio-png": [
        (lambda r: (r / "min.json").unlink(), "no JSON says which images"),
        (lambda r: change_json(r / "min.json", lambda c: c.pop()), "tasks 4"),
        (lambda r: change_json(r / "min.json", lambda c: c[0].update(image="/data/x.png")), "is not there"),
        (lambda r: Image.new("L", (9, 9)).save(r / TASK), "9x9"),
        (lambda r: (r / TASK).write_bytes(b"PNG"), TASK),
        (lambda r: [path.unlink() for path in r.glob("task-*")], "no PNG named as"),
    ],
    "folder": [
        (lambda r: (r / "part_1.png").unlink(), "a mask without an image"),
        (lambda r: Image.new("L", (9, 9)).save(r / "part_1_mask.png"), "9x9"),
        (lambda r: Image.new("RGB", (WIDTH, HEIGHT), (7, 8, 9)).save(r / "part_1_mask.png"), "classes.json"),
        (lambda r: Image.new("L", (WIDTH, HEIGHT), 9).save(r / "part_1_mask.png"), "classes to a name for each"),
        (lambda r: shutil.copy(r / "part_1_mask.png", r / "part_1_gt.png"), "two masks"),
        (lambda r: shutil.copy(r / "part_1.png", r / "part_1.jpg"), "may be the mask of part_1.jpg or of part_1.png"),
        (lambda r: (r / "part_1.png").write_bytes(b""), "empty"),
        (lambda r: (r / "classes.json").write_text('{"0": 7}'), "class 0"),
    ],
}


def result_of(tasks, number: int) -> dict:
    return tasks[0]["annotations"][0]["result"][number]


def value_of(tasks, number: int) -> dict:
    return result_of(tasks, number)["value"]


CASES = [(kind, number) for kind, faults in FAULTS.items() for number in range(len(faults))]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "number"), CASES, ids=[f"{kind}-{number}" for kind, number in CASES])
def test_a_mistake_is_one_line_and_nothing_is_written(isdm, project, tmp_path, kind, number):
    source, target = project(kind), tmp_path / "out" / "data"
    damage, words = FAULTS[kind][number]
    damage(source)
    code, _, errors = isdm("import", source=source, output_dir=target, **{"format": kind, **chosen(kind)})
    assert code == 2
    assert len(errors) == 1, errors
    assert words in errors[0]
    assert not (tmp_path / "out").exists() or not any(tmp_path.joinpath("out").iterdir())


def test_every_loss_is_counted_and_listed(tmp_path):
    source = tmp_path / "source"
    annotated.write_images(source)
    content = annotated.coco_content()
    first = content["annotations"]
    new = [
        {"iscrowd": 1, "segmentation": {"size": [HEIGHT, WIDTH], "counts": [0, 48, HEIGHT * WIDTH - 48]}},
        {"segmentation": []},
        {"segmentation": [[1, 1, 5, 5]]},
        {"segmentation": [[1.6, 1.6, 2.4, 1.6, 2.4, 2.4]]},
        {"segmentation": [[100, 1, 120, 1, 120, 9]]},
        {"segmentation": [[28, 2, 40, 2, 40, 6, 28, 6]]},
        {"category_id": 99, "segmentation": [[1, 1, 5, 1, 5, 5]]},
        {"segmentation": [[1, 1, 2, 1, 2, 2, 1, 2]]},
        {"segmentation": [[0, 0, 3, 0, 3, 3, 0, 3]]},
    ]
    first += [{"id": 100 + n, "image_id": 10, "category_id": 7, "iscrowd": 0, **each} for n, each in enumerate(new)]
    (source / "all.json").write_text(json.dumps(content), encoding="utf-8")
    Image.new("RGB", (8, 8)).save(source / "more.png")
    result = imported(source, tmp_path / "data", crowds="drop")
    kinds = ["CROWD", "UNKNOWN_CLASS", "BOX", "FEW_CORNERS", "TINY", "OUTSIDE", "CUT", "HIDDEN", "UNLISTED"]
    assert {kind.name: count for kind, count in result.lost().items()} == dict.fromkeys(kinds, 1)
    entries = {
        loss["kind"]: loss["entry"] for loss in json.loads((tmp_path / "data/import.json").read_text())["losses"]
    }
    assert (entries["crowd"], entries["hidden"], entries["unlisted"]) == (
        "annotation 100",
        "annotation 107",
        "more.png",
    )
    mask = mask_of(tmp_path / "data", "part_1")
    assert (mask[2:6, 28:] == 2).all()
    assert (mask[10:, :2] == 0).all()  # the crowd
    ignoring = imported(source, tmp_path / "ignoring", crowds="ignore")
    crowd = mask_of(tmp_path / "ignoring", "part_1")
    assert ((crowd == 255) == ((mask == 0) & (np.arange(WIDTH) < 2))).all()
    imported(source, tmp_path / "keeping")
    assert (mask_of(tmp_path / "keeping", "part_1")[crowd == 255] == 2).all()
    assert ignoring.names == ("background", "dent", "scratch")
    classes, _ = read_classes(tmp_path / "ignoring")
    assert classes.ignore_values == (255,)


def test_overlaps_are_counted(projects, tmp_path):
    result = imported(projects["cvat"], tmp_path / "data")
    both = [annotated.inside(annotated.corners_of(n)) & annotated.inside(annotated.triangle(n)) for n in range(4)]
    assert sum(pair.covered_pixels for pair in result.pairs) == sum(int(each.sum()) for each in both) > 0
    assert sum(pair.covering for pair in result.pairs) == 4


def test_classes_are_chosen_and_ordered(projects, isdm, tmp_path):
    result = imported(projects["coco"], tmp_path / "data", classes=["scratch"])
    assert result.names == ("background", "scratch")
    assert {kind.name: count for kind, count in result.lost().items()} == {"UNKNOWN_CLASS": 4}
    code, _, (line,) = isdm("import", source=projects["coco"], output_dir=tmp_path / "no", classes=["scrach"])
    assert code == 2
    assert "scrach" in line
    assert "dent, scratch" in line


def test_formats_are_not_guessed(isdm, project, tmp_path):
    source = project("coco")
    shutil.copytree(project("cvat"), source / "more")
    code, _, (line,) = isdm("import", source=source, output_dir=tmp_path / "out")
    assert code == 2
    assert line.endswith("shows coco and cvat: set format to one of coco, cvat")
    annotated.write_images(tmp_path / "plain")
    code, _, (line,) = isdm("import", source=tmp_path / "plain", output_dir=tmp_path / "out")
    assert code == 2
    assert "shows none" in line
    code, _, (line,) = isdm("import", source=tmp_path / "nowhere", output_dir=tmp_path / "out")
    assert "does not exist" in line


def test_outputs_are_refused_where_they_would_mix(isdm, project, tmp_path):
    source = project("coco")
    for target, words in ((source / "out", "lie in each other"), (tmp_path, "lie in each other")):
        code, _, (line,) = isdm("import", source=source, output_dir=target)
        assert code == 2
        assert words in line
    (tmp_path / "filled").mkdir()
    (tmp_path / "filled" / "a").touch()
    code, _, (line,) = isdm("import", source=source, output_dir=tmp_path / "filled")
    assert code == 2
    assert "holds files" in line
    assert [path.name for path in (tmp_path / "filled").iterdir()] == ["a"]


def test_images_of_one_name_are_kept_apart(tmp_path):
    source = tmp_path / "source"
    for folder in ("a", "b", "CON"):
        annotated.write_images(source / folder, NAMES[:1])
    content = annotated.coco_content(["a/part_1", "b/part_1", "CON/part_1"])
    (source / "all.json").write_text(json.dumps(content), encoding="utf-8")
    result = imported(source, tmp_path / "data", test_share=0)
    assert sorted(pair.name for pair in result.pairs) == ["CON__part_1", "a__part_1", "b__part_1"]
    assert not (tmp_path / "data" / "test").exists()
    for pair in result.pairs:
        path = tmp_path / "data" / "train" / "images" / f"{pair.name}.png"
        assert path.read_bytes() == (source / pair.picture.name).read_bytes()


def test_images_may_be_links_and_elsewhere(projects, tmp_path):
    annotated.write_images(tmp_path / "elsewhere")
    (tmp_path / "only").mkdir()
    shutil.copy(projects["coco"] / COCO, tmp_path / "only" / "all.json")
    imported(tmp_path / "only" / "all.json", tmp_path / "data", image_dir=str(tmp_path / "elsewhere"), link=True)
    (linked,) = (tmp_path / "data").glob("*/images/part_1.png")
    assert os.path.samefile(linked, tmp_path / "elsewhere" / "part_1.png")


def test_the_same_seed_draws_the_same_images(projects, tmp_path):
    drawn = []
    for number, seed in enumerate((0, 0, 1, 2, 3)):
        result = imported(projects["coco"], tmp_path / str(number), seed=seed, test_share=0.5)
        drawn.append(tuple(pair.name for pair in result.pairs if pair.split == "test"))
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1
    assert all(len(names) == 2 for names in drawn)


def test_groups_are_drawn_for_test_together(projects, tmp_path):
    tested = set()
    for seed in range(4):
        options = {"group_pattern": "part_[12](.?)", "test_share": 0.34, "seed": seed}  # of three groups one
        result = imported(projects["coco"], tmp_path / str(seed), **options)
        tested.add(tuple(pair.name for pair in result.pairs if pair.split == "test"))
    assert len(tested) > 1
    assert tested <= {("part_1", "part_2"), ("part_3",), ("part_4",)}
    with pytest.raises(ConfigError, match="group_pattern"):
        imported(projects["coco"], tmp_path / "one", group_pattern="^(part)", test_share=0.5)
    assert not (tmp_path / "one").exists()


def test_an_interrupt_leaves_nothing(projects, tmp_path, monkeypatch):
    from guided_diffusion.pipelines import dataset_import

    seen = []

    def stop(*arguments):
        seen.append(list(tmp_path.glob(".data.*.partial/train/images/*")))
        raise KeyboardInterrupt

    monkeypatch.setattr(dataset_import, "write_run_record", stop)
    killed = tmp_path / ".data.999999999.partial"
    killed.mkdir()
    with pytest.raises(KeyboardInterrupt):
        imported(projects["coco"], tmp_path / "data")
    assert seen[0]  # all was there but the name
    assert not killed.exists()
    assert list(tmp_path.iterdir()) == []


def test_pictures_that_are_not_copied_are_named(isdm, project, tmp_path):
    source = project("labelme")
    Image.open(source / "part_1.png").save(source / "part_1.bmp")
    change_json(source / "part_1.json", lambda content: content.update(imagePath="part_1.bmp"))
    code, _, (line,) = isdm("import", source=source, output_dir=tmp_path / "data")
    assert code == 2
    assert "part_1.bmp" in line
    assert "convert it to PNG" in line
