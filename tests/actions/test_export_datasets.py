"""`export` of datasets: label maps come back as those tools read them, and through `import`."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import yaml
from PIL import Image, ImageDraw

from guided_diffusion.config.load import load_config
from guided_diffusion.data.formats.options import ExportFormat
from guided_diffusion.data.formats.writing import WRITERS
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.pipelines.dataset_export import export_dataset
from guided_diffusion.pipelines.dataset_import import import_dataset
from guided_diffusion.runtime.logs import write_run_record
from guided_diffusion.samples.manifest import MaskOrigin
from guided_diffusion.samples.mask_folder import MaskFolder

HEIGHT, WIDTH = 36, 52
IGNORED = 3
"""The class id of ignored pixels in the label maps here."""
VALUES = np.array([0, 100, 200, 7], np.uint8)
"""Mask values of background, dent, scratch and ignored pixels."""
CLASSES = {
    "0": "background",
    "1": {"name": "dent", "value": 100},
    "2": {"name": "scratch, long", "value": 200},
    "ignore": {"value": 7},
}
CLASSES["0"] = {"name": "background", "value": 0}
PAIRS = {"train": ("a", "b", "sub/a"), "test": ("a", "turned")}


def label_of(split: str, stem: str) -> np.ndarray:
    """Return a label map: rings, thin lines, single pixels, noise, ignored pixels."""
    random = np.random.default_rng([len(split), *stem.encode()])
    picture = Image.new("L", (WIDTH, HEIGHT))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((5, 4, 24, 22), outline=1, width=3)
    draw.ellipse((11, 10, 16, 15), fill=2)
    draw.line((30, 3, 48, 20), fill=2)
    draw.line((30, 25, 47, 25), fill=1)
    draw.line((50, 3, 50, 20), fill=1)
    label = np.array(picture)
    noise = random.integers(0, 4, (10, 20))
    label[25:35, 3:23] = np.where(noise == 3, 0, noise)
    label[33:36, 40:52] = IGNORED
    return label


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data") / "tiles"
    for split, stems in PAIRS.items():
        for stem in stems:
            label = label_of(split, stem)
            image, mask = root / split / "images" / f"{stem}.jpg", root / split / "masks" / f"{stem}.png"
            image.parent.mkdir(parents=True, exist_ok=True)
            mask.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(len(stem)).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
            Image.fromarray(VALUES[label]).save(mask)
            if stem == "turned":  # lying, and its mask as viewers show it
                exif = Image.Exif()
                exif[274] = 6
                Image.fromarray(np.rot90(pixels)).save(image, exif=exif)
            else:
                Image.fromarray(pixels).save(image)
    (root / "classes.json").write_text(json.dumps(CLASSES), encoding="utf-8")
    return root


def exported(source: Path, target: Path, kind: str, **values):
    values = {"data_dir": str(source), "format": kind, "export_path": str(target), **values}
    return export_dataset(load_config("export", values))


@pytest.fixture(scope="module")
def written(dataset, tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("exports")
    for kind in WRITERS:
        exported(dataset, root / kind, kind)
    return {kind: root / kind for kind in WRITERS}


NAMES = {("train", "a"): "train__a", ("train", "b"): "b", ("train", "sub/a"): "train__sub__a"}
NAMES |= {("test", "a"): "test__a", ("test", "turned"): "turned"}


def all_labels() -> dict[str, np.ndarray]:
    return {name: label_of(*key) for key, name in NAMES.items()}


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_the_table_has_every_format():
    assert set(WRITERS) == set(get_args(ExportFormat))


@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_coco_as_its_own_tools_read_it(written):
    coco_tools = pytest.importorskip("pycocotools.coco")
    found = {}
    for split in ("train", "val"):
        coco = coco_tools.COCO(written["coco"] / "annotations" / f"instances_{split}.json")
        names = {category["id"]: category["name"] for category in coco.loadCats(coco.getCatIds())}
        assert names == {1: "dent", 2: "scratch, long", 3: "__ignore__"}
        for image in coco.loadImgs(coco.getImgIds()):
            label = np.zeros((image["height"], image["width"]), np.uint8)
            for each in coco.loadAnns(coco.getAnnIds(image["id"])):
                mask = coco.annToMask(each).astype(bool)
                assert not label[mask].any()
                label[mask] = each["category_id"]
                assert each["area"] == mask.sum()
                rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
                sides = int(columns[-1] - columns[0]) + 1, int(rows[-1] - rows[0]) + 1
                assert each["bbox"] == [columns[0], rows[0], *sides]
                assert each["iscrowd"] == (each["category_id"] == IGNORED)
            found[Path(image["file_name"]).stem] = label
            assert (written["coco"] / split / image["file_name"]).is_file()
            assert (image["synthetic"], image["origin"]) == (False, "real")
    assert found.keys() == all_labels().keys()
    assert all(np.array_equal(found[name], label) for name, label in all_labels().items())


def test_yolo_as_ultralytics_reads_it(written):
    """Its formula: shares times size, cut off to whole pixels, filled with the border (cv2.fillPoly)."""
    root = written["yolo"]
    names = yaml.safe_load((root / "data.yaml").read_text(encoding="utf-8"))
    assert names == {"train": "images/train", "val": "images/val", "names": {0: "dent", 1: "scratch, long"}}
    for name, label in all_labels().items():
        (text,) = root.glob(f"labels/*/{name}.txt")
        picture = Image.new("L", (WIDTH, HEIGHT))
        for line in text.read_text().splitlines():
            class_id, *shares = line.split()
            corners = (np.array(shares, np.float32).reshape(-1, 2) * (WIDTH, HEIGHT)).astype(np.int32)
            assert len(corners) >= 3
            assert (np.ptp(np.array(shares, float).reshape(-1, 2), axis=0) > 0).all()  # boxes without area are dropped
            color = int(class_id) + 1
            ImageDraw.Draw(picture).polygon([tuple(corner) for corner in corners.tolist()], fill=color, outline=color)
        assert np.array_equal(np.asarray(picture), np.where(label == IGNORED, 0, label)), name
    changed = json.loads((root / "export.json").read_text(encoding="utf-8"))["changed"]
    assert changed["ignored pixels, which became background"] == 5 * 36
    assert changed["holes, for which objects were cut into parts"] > 5


def test_voc_as_indices_and_colors(written):
    root = written["voc"]
    for name, label in all_labels().items():
        mask = Image.open(root / "SegmentationClass" / f"{name}.png")
        assert np.array_equal(np.asarray(mask), np.where(label == IGNORED, 255, label))
        colors = np.asarray(mask.convert("RGB"))
        assert (colors[label == 1] == (128, 0, 0)).all()
        assert (colors[label == 2] == (0, 128, 0)).all()
        assert (colors[label == IGNORED] == (224, 224, 192)).all()
    lists = [(root / "ImageSets" / "Segmentation" / f"{split}.txt").read_text() for split in ("train", "val")]
    assert lists == ["train__a\nb\ntrain__sub__a\n", "test__a\nturned\n"]


def test_nnunet_has_what_its_checks_want(written):
    root = written["nnunet"] / "Dataset001_nnunet"
    content = json.loads((root / "dataset.json").read_text(encoding="utf-8"))
    assert content["labels"] == {"background": 0, "dent": 1, "scratch, long": 2, "ignore": 3}
    assert content["numTraining"] == len(list((root / "labelsTr").iterdir())) == 3
    assert list(content["channel_names"]) == ["0", "1", "2"]
    for name, label in all_labels().items():
        part = "Ts" if name in ("test__a", "turned") else "Tr"
        image = pixels(root / f"images{part}" / f"{name}_0000.png")
        assert np.array_equal(pixels(root / f"labels{part}" / f"{name}.png"), label)
        assert image.shape == (HEIGHT, WIDTH, 3)


def test_an_imagefolder_names_its_masks(written):
    root = written["hf"]
    assert json.loads((root / "id2label.json").read_text()) == {"0": "background", "1": "dent", "2": "scratch, long"}
    for split, stems in PAIRS.items():
        lines = [json.loads(line) for line in (root / split / "metadata.jsonl").read_text().splitlines()]
        assert len(lines) == len(stems)
        for line in lines:
            label = all_labels()[Path(line["file_name"]).stem]
            assert np.array_equal(pixels(root / split / line["mask_file_name"]), np.where(label == IGNORED, 255, label))
            assert pixels(root / split / line["file_name"]).shape == (HEIGHT, WIDTH, 3)
            assert line["synthetic"] is False


def test_cityscapes_and_datumaro(written):
    for name, label in all_labels().items():
        expected = np.where(label == IGNORED, 255, label)
        (mask,) = written["datumaro"].glob(f"*/masks/{name}.png")
        assert np.array_equal(pixels(mask), expected)
        for kind in ("labelIds", "labelTrainIds"):
            (mask,) = written["cityscapes"].glob(f"gtFine/*/all/{name}_gtFine_{kind}.png")
            assert np.array_equal(pixels(mask), expected)
        (image,) = written["cityscapes"].glob(f"leftImg8bit/*/all/{name}_leftImg8bit.png")
        assert pixels(image).shape == (HEIGHT, WIDTH, 3)
    meta = json.loads((written["datumaro"] / "train" / "dataset_meta.json").read_text())
    assert meta == {"label_map": {"0": "background", "1": "dent", "2": "scratch, long"}}


@pytest.mark.parametrize("kind", ["coco", "voc", "yolo"])
def test_import_reads_what_export_wrote(written, tmp_path, kind):
    values = {"source": str(written[kind]), "output_dir": str(tmp_path / "back")}
    result = import_dataset(load_config("import", values))
    assert (result.names, result.lost()) == (("background", "dent", "scratch, long"), {})
    assert {pair.name: pair.split for pair in result.pairs} == {name: key[0] for key, name in NAMES.items()}
    ignored = 0 if kind == "yolo" else 255
    for name, label in all_labels().items():
        (mask,) = (tmp_path / "back").glob(f"*/masks/{name}.png")
        assert np.array_equal(pixels(mask), np.where(label == IGNORED, ignored, label)), name


def test_images_are_copied_bytewise_and_turned_ones_are_written_upright(written, dataset):
    assert (written["coco"] / "train" / "b.jpg").read_bytes() == (dataset / "train" / "images" / "b.jpg").read_bytes()
    turned = Image.open(written["coco"] / "val" / "turned.png")
    assert turned.size == (WIDTH, HEIGHT)
    assert not turned.getexif()
    stored = Image.open(dataset / "test" / "images" / "turned.jpg")
    assert np.array_equal(np.asarray(turned), np.rot90(np.asarray(stored), -1))


# --- mistakes ----------------------------------------------------------------------------------------------------


def no_data(values, root):
    values.pop("data_dir")


def both(values, root):
    values["model_path"] = "runs/x"


def filled(values, root):
    (root / "out").mkdir()
    (root / "out" / "file").touch()


def inside(values, root):
    values["export_path"] = values["data_dir"] / "train" / "images"


def no_layout(values, root):
    (values["data_dir"] / "classes.json").unlink()


def unknown_value(values, root):
    Image.new("L", (WIDTH, HEIGHT), 9).save(values["data_dir"] / "train" / "masks" / "b.png")


def no_image(values, root):
    (values["data_dir"] / "train" / "images" / "b.jpg").unlink()


def no_masks(values, root):
    values["dataset_mode"] = "images"


FAULTS = {
    no_data: "data_dir is missing",
    both: "model_path is given",
    filled: "holds files",
    inside: "read by way of data_dir",
    no_layout: "dataset_mode is missing",
    unknown_value: "mask values 9",
    no_image: "mask without image",
    no_masks: "has no masks",
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_mistake_is_one_line_and_nothing_is_written(isdm, dataset, tmp_path, kind):
    for number, (damage, words) in enumerate(FAULTS.items()):
        root = tmp_path / str(number)
        shutil.copytree(dataset, root / "data")
        values = {"data_dir": root / "data", "format": kind, "export_path": root / "out"}
        if damage is inside:
            values["dataset_mode"] = "multi-class"
        damage(values, root)
        code, _, errors = isdm("export", **values)
        assert (code, len(errors)) == (2, 1), (damage, errors)
        assert words in errors[0], damage
        assert not list(root.glob(".*partial"))
        assert damage is filled or not (root / "out").exists()


def test_unknown_formats_are_named(isdm, dataset, tmp_path):
    code, _, (line,) = isdm("export", data_dir=dataset, format="coc", export_path=tmp_path / "out")
    assert code == 2
    assert "cityscapes" in line


def test_too_many_classes_and_a_reserved_name(isdm, dataset, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(dataset, data)
    many = {str(index): f"c{index}" for index in range(300)}
    (data / "classes.json").write_text(json.dumps(many))
    for kind in ("voc", "nnunet", "cityscapes"):
        code, _, (line,) = isdm("export", data_dir=data, format=kind, export_path=tmp_path / kind)
        assert code == 2
        assert "at most 255 classes" in line
    for kind, name in (("nnunet", "ignore"), ("voc", "a:b")):
        (data / "classes.json").write_text(json.dumps(CLASSES).replace("dent", name))
        code, _, (line,) = isdm("export", data_dir=data, format=kind, export_path=tmp_path / kind)
        assert code == 2
        assert f"'{name}'" in line


def test_an_interrupt_leaves_nothing(dataset, tmp_path, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(WRITERS["coco"], "finish", stop)
    with pytest.raises(KeyboardInterrupt):
        exported(dataset, tmp_path / "out", "coco")
    assert list(tmp_path.iterdir()) == []


# --- what this project wrote -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Edited:
    """A mask as `masks` makes them."""

    label: np.ndarray
    base_name: str = "a.png"
    donors: tuple[str, ...] = ("a.png",)
    novelty: float = 0.5
    draws: int = 1


@pytest.fixture(scope="module")
def edited(tmp_path_factory) -> Path:
    """A folder of new masks, as `masks` writes it."""
    root = tmp_path_factory.mktemp("masks") / "edited"
    folder = MaskFolder(root, LabelEncoding.identity(3, ("background", "dent", "scratch")), "train", {})
    folder.begin(3)
    folder.open_part(0)
    for index in range(3):
        label = np.where(label_of("train", str(index)) == IGNORED, 0, label_of("train", str(index)))
        folder.write(index, Edited(label), {"a.png": MaskOrigin(mask="a.png", digest="0" * 16)})
    folder.close_part()
    folder.finish()
    write_run_record(root, "masks", {})
    return root


@pytest.mark.parametrize("kind", ["coco", "yolo", "voc", "cityscapes", "datumaro"])
def test_masks_alone_are_exported_without_images(edited, tmp_path, kind):
    result = exported(edited, tmp_path / "out", kind)
    assert (result.splits, result.origins) == ({"train": 3}, {"synthetic mask": 3})
    assert not [path for path in (tmp_path / "out").rglob("*") if path.parent.name in ("images", "JPEGImages")]
    if kind == "coco":
        content = json.loads((tmp_path / "out" / "annotations" / "instances_train.json").read_text())
        assert all(image["synthetic"] for image in content["images"])
    if kind == "datumaro":
        for path in (tmp_path / "out" / "train" / "masks").iterdir():
            assert np.array_equal(pixels(path), pixels(edited / "masks" / path.name))


@pytest.mark.parametrize("kind", ["nnunet", "hf"])
def test_formats_that_need_images_refuse_masks_alone(isdm, edited, tmp_path, kind):
    code, _, (line,) = isdm("export", data_dir=edited, format=kind, export_path=tmp_path / "out")
    assert code == 2
    assert "masks alone" in line


@pytest.mark.slow
def test_samples_say_that_they_are_synthetic(isdm, trained, lemons, tmp_path):
    samples = tmp_path / "samples"
    values = {"model_path": trained, "data_dir": lemons, "results_path": samples, "split": "train", "steps": 2}
    assert isdm("sample", **values, num_samples=2)[0] == 0
    for source in (samples, samples / "train"):
        target = tmp_path / f"of {source.name}"
        result = exported(source, target, "coco")
        assert result.origins == {"synthetic image": 2}
        content = json.loads((target / "annotations" / "instances_train.json").read_text())
        assert [image["synthetic"] for image in content["images"]] == [True, True]
    unfinished = samples / "train" / ".synthetic"
    unfinished.touch()
    code, _, (line,) = isdm("export", data_dir=samples, format="hf", export_path=tmp_path / "hf")
    assert code == 2
    assert "not finished" in line
