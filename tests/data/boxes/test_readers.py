"""The four forms of annotations mean the same; what is special in each is read as meant."""

from __future__ import annotations

import json
import shutil

import pytest
from boxed import GRAY, GRAY_NAMES, KINDS, change, gray_set
from PIL import Image

from guided_diffusion.data.boxes.records import BoxedImage
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.scan.boxes import scan_boxes
from guided_diffusion.data.scan.report import ScanReport

EXPORT, CSV = "train/lemons-export.json", "train/lemons-export.csv"


def scanned(folder, **options) -> ScanReport:
    return scan_boxes(folder, get_mode("boxes"), "train", progress=False, **options)


def named(report: ScanReport) -> dict[str, list[tuple[str, tuple[float, ...]]]]:
    """File name -> class and box of each object."""
    names = report.raise_if_fatal().names
    boxes: list[BoxedImage] = [pair.boxes for pair in report.pairs]
    return {
        each.path.rpartition("/")[2]: [(names[found.class_id], found.box) for found in each.objects] for each in boxes
    }


@pytest.mark.parametrize("kind", KINDS)
def test_all_forms_mean_the_same(tmp_path, kind):
    found = named(scanned(gray_set(tmp_path, kind)))
    expected = {name: boxes for name, (_, boxes) in GRAY.items() if boxes or "csv" not in kind}
    assert found == expected


@pytest.mark.parametrize("folder", ["data", "./data/", "../here//data"])
def test_a_relative_folder_is_the_same(tmp_path, monkeypatch, folder):
    gray_set(tmp_path / "here" / "data")
    monkeypatch.chdir(tmp_path / "here")
    assert named(scanned(folder)) == {name: boxes for name, (_, boxes) in GRAY.items()}


def test_class_0_is_the_background_and_names_keep_their_order(tmp_path):
    assert scanned(gray_set(tmp_path, "coco")).encoding.names == ("background", *GRAY_NAMES)
    shutil.rmtree(tmp_path / "train")
    assert scanned(gray_set(tmp_path, "vott csv")).encoding.names == ("background", "dent", "scratch", "spot")
    (tmp_path / "classes.json").write_text(json.dumps(dict(enumerate(["background", "spot", "dent", "scratch"]))))
    report = scanned(tmp_path)
    assert report.encoding.names == ("background", "spot", "dent", "scratch")
    assert named(report)["b.png"] == GRAY["b.png"][1]


def test_states_of_vott_tell_good_parts_from_unlabeled_pictures(tmp_path):
    def edit(content):
        states = {"c.png": 0, "b.png": 1}
        for entry in content["assets"].values():
            name = entry["asset"]["name"]
            entry["asset"]["state"] = states.get(name, 2)
            if name == "b.png":
                entry["regions"] = []

    change(gray_set(tmp_path, "vott") / EXPORT, edit)
    report = scanned(tmp_path)
    assert named(report)["b.png"] == []
    assert "c.png" not in named(report)
    assert any("1 pictures that are not labeled" in note for note in report.notes)
    assert any("1 pictures have no entry" in problem.line for problem in report.warnings)


def test_outlines_several_tags_and_frames_of_videos(tmp_path):
    def edit(content):
        first, second, *_ = content["assets"].values()
        del first["regions"][0]["boundingBox"]
        first["regions"][0] |= {"type": "POLYGON", "points": [{"x": 9, "y": 3.5}, {"x": 20, "y": 30}, {"x": 4, "y": 8}]}
        second["regions"][0]["tags"] = ["scratch", "dent"]
        second["asset"] |= {"name": "line 1.mp4#t=1.5", "type": 3, "parent": {"name": "line 1.mp4", "type": 2}}
        content["assets"]["film"] = {"asset": {"name": "line 1.mp4", "type": 2, "state": 2}, "regions": []}

    change(gray_set(tmp_path, "vott") / EXPORT, edit)
    images = tmp_path / "train" / "images"
    (images / "b.png").rename(images / "line 1.mp4#t=1.5.png")
    found = named(scanned(tmp_path))
    assert found["a.png"][0] == ("spot", (4, 3.5, 20, 30))
    box = (0, 10, 50, 14)
    assert found["line 1.mp4#t=1.5.png"] == [("scratch", box), ("dent", box)]


def test_names_in_csv_may_be_quoted_and_encoded(tmp_path):
    path = gray_set(tmp_path, "vott csv") / CSV
    text = path.read_text(encoding="utf-8")
    path.write_text("\ufeff" + text.replace('"sub d.png"', '"""sub%20d.png"""') + "\n\n", encoding="utf-8")
    assert named(scanned(tmp_path))["sub d.png"] == GRAY["sub d.png"][1]


def test_boxes_a_little_over_the_border_are_clipped_and_counted(tmp_path):
    path = gray_set(tmp_path) / "train" / "annotations.json"
    change(path, lambda content: content["annotations"][0].update(bbox=[-1.5, 6, 21.5, 35]))
    report = scanned(tmp_path)
    assert named(report)["a.png"][0] == ("spot", (0, 6, 20, 40))
    assert any(note.startswith("1 boxes stick out") for note in report.notes)


def test_a_box_of_everything_is_the_class_of_the_picture(tmp_path):
    def edit(content):
        content["categories"].append({"id": 99, "name": "matt"})
        whole = {"id": 50, "image_id": 7, "category_id": 99, "bbox": [0, 0, 50, 50]}
        content["annotations"].insert(0, whole)

    change(gray_set(tmp_path) / "train" / "annotations.json", edit)
    report = scanned(tmp_path)
    of_b = next(pair.boxes for pair in report.pairs if pair.stem == "b")
    assert report.encoding.names[of_b.background] == "matt"
    assert [found.box for found in of_b.objects] == [(0, 10, 50, 14)]
    assert {pair.boxes.background for pair in report.pairs if pair.stem != "b"} == {0}


def test_a_second_box_of_everything_is_an_object_and_told(tmp_path):
    def edit(content):
        content["categories"].append({"id": 99, "name": "matt"})
        whole = {"image_id": 7, "category_id": 99, "bbox": [0, 0, 50, 50]}
        content["annotations"] += [{"id": 50, **whole}, {"id": 51, **whole, "category_id": 3}]

    assert not scanned(gray_set(tmp_path), image_channels=1).warnings
    change(tmp_path / "train" / "annotations.json", edit)
    report = scanned(tmp_path, image_channels=1)
    of_b = next(pair.boxes for pair in report.pairs if pair.stem == "b")
    assert (report.encoding.names[of_b.background], of_b.objects[-1].box) == ("matt", (0, 0, 50, 50))
    (warning,) = report.warnings
    assert warning.path.endswith("b.png")
    assert "1 images have several boxes" in warning.found


def test_crowds_are_left_out(tmp_path):
    path = gray_set(tmp_path) / "train" / "annotations.json"
    change(path, lambda content: content["annotations"][1].update(iscrowd=1))
    report = scanned(tmp_path)
    assert len(named(report)["a.png"]) == 1
    assert any("1 crowds" in note for note in report.notes)


@pytest.mark.parametrize(("tag", "stated", "exif", "upright"), [
    (6, "upright", None, True),
    (6, "stored", None, False),
    (3, "stored", "apply", True),
    (3, "stored", "ignore", False),
])  # fmt: skip
def test_sizes_and_exif_tell_in_which_geometry_boxes_are(tmp_path, tag, stated, exif, upright):
    folder = gray_set(tmp_path)
    path = folder / "train" / "images" / "a.png"
    exif_data = Image.Exif()
    exif_data[0x0112] = tag
    Image.open(path).save(path, exif=exif_data)
    if stated == "upright":
        change(folder / "train" / "annotations.json", lambda content: content["images"][0].update(height=60, width=40))
        change(folder / "train" / "annotations.json", lambda content: content["annotations"].pop(1))
    report = scanned(folder, exif=exif)
    report.raise_if_fatal()
    first = report.pairs[0]
    assert first.upright == upright
    assert report.prints[0].shape == ((60, 40) if stated == "upright" else (40, 60))


def test_an_orientation_that_sizes_do_not_tell_is_refused(tmp_path):
    folder = gray_set(tmp_path)
    path = folder / "train" / "images" / "a.png"
    exif_data = Image.Exif()
    exif_data[0x0112] = 3
    Image.open(path).save(path, exif=exif_data)
    (problem,) = scanned(folder).fatal
    assert str(path) == problem.path
    assert "exif" in problem.remedy


def test_another_split_has_to_have_the_classes_of_the_training(tmp_path):
    training = scanned(gray_set(tmp_path, "vott csv"))
    gray_set(tmp_path, "vott csv", "test")
    path = tmp_path / "test" / "lemons-export.csv"
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if "scratch" not in line]
    path.write_text("\n".join(lines), encoding="utf-8")
    report = scan_boxes(tmp_path, get_mode("boxes"), "test", encoding=training.encoding, progress=False)
    assert report.raise_if_fatal().names == training.encoding.names
    path.write_text(path.read_text(encoding="utf-8").replace("spot", "sopt"), encoding="utf-8")
    report = scan_boxes(tmp_path, get_mode("boxes"), "test", encoding=training.encoding, progress=False)
    assert "'spot'" in report.fatal[0].remedy
    assert all("line " in problem.path for problem in report.fatal)


def test_changed_boxes_change_the_fingerprint_and_copies_are_told(tmp_path):
    folder = gray_set(tmp_path)
    first = scanned(folder)
    change(folder / "train" / "annotations.json", lambda content: content["annotations"][0].update(bbox=[5, 6, 15, 25]))
    second = scanned(folder)
    changed = [a.mask != b.mask for a, b in zip(first.prints, second.prints, strict=True)]
    assert changed == [True, False, False, False]
    shutil.copy(folder / "train" / "images" / "b.png", folder / "train" / "images" / "e.png")
    entry = {"id": 1000, "file_name": "e.png", "width": 50, "height": 50}
    change(folder / "train" / "annotations.json", lambda content: content["images"].append(entry))
    assert any("their boxes differ" in problem.line for problem in scanned(folder).warnings)


def test_a_box_of_the_background_covers_the_picture(tmp_path):
    def edit(content):
        content["categories"][0]["name"] = "background"

    path = gray_set(tmp_path, "coco") / "train" / "annotations.json"
    change(path, edit)
    found = [problem for problem in scanned(tmp_path).fatal if "background" in problem.line]
    assert len(found) == sum(name == GRAY_NAMES[0] for _, boxes in GRAY.values() for name, *_ in boxes) > 0
    assert all(str(path) in problem.line for problem in found)
