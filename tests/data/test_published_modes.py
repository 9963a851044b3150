"""The layouts of SDM and SCDM: files, label rules, instance ids, geometry; and that a mode is a record."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from published_trees import LAYOUTS, PUBLISHED, SIZE, STEMS, VALUES, gray, stripes, write_tree
from tiny import TINY

from guided_diffusion.data import modes
from guided_diffusion.data.datasets import ExampleKey, SegmentationDataset
from guided_diffusion.data.masks.encoding import LabelEncoding, edges_from_instances
from guided_diffusion.data.masks.inference import ClassOptions, infer_encoding
from guided_diffusion.data.modes import DatasetMode, FileRule, get_mode
from guided_diffusion.data.pairing import index_pairs
from guided_diffusion.data.scan.scan import scan_dataset
from guided_diffusion.data.transforms import JointTransform

COCO_SAMPLE = Path(__file__).parents[3] / "shared" / "data" / "coco_stuff_sample"


def published_encoding(name: str) -> LabelEncoding:
    """Return what the mode alone says of its masks."""
    encoding, problems = infer_encoding(get_mode(name), None, (), ClassOptions())
    assert not problems
    assert encoding is not None
    return encoding


def decode(encoding: LabelEncoding, values) -> list[int]:
    return encoding.decode(Image.fromarray(np.array([values], np.uint8)), "mask").tolist()[0]


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_files_pair_by_name(name, split, tmp_path):
    data = write_tree(tmp_path, name)
    pairs, problems = index_pairs(data, get_mode(name), split)
    assert not problems
    assert [pair.stem for pair in pairs] == sorted(STEMS[name])
    for pair in pairs:
        found = [pair.image, pair.mask, *([pair.instance] if pair.instance else [])]
        assert found == [str(data / template.format(pair.stem)) for template in LAYOUTS[name][split]]


@pytest.mark.parametrize("name", PUBLISHED)
def test_masks_are_read_as_published(name, tmp_path):
    report = scan_dataset(write_tree(tmp_path, name), get_mode(name), "train", progress=False)
    assert not report.fatal
    assert report.encoding.to_dict() == published_encoding(name).to_dict()
    assert report.ignored_share == 0
    for value, label in VALUES[name].items():
        assert decode(report.encoding, [value]) == [label]
        assert report.classes[label].images == 3


@pytest.mark.parametrize(
    ("name", "values", "classes"),
    [
        ("cityscapes", range(34), range(34)),
        ("ade20k", range(151), [150, *range(150)]),
        ("celeba", range(19), range(19)),
        ("coco", [*range(182), 255], range(183)),
    ],
)
def test_every_value_has_its_class_and_comes_back(name, values, classes):
    encoding = published_encoding(name)
    assert encoding.num_classes == len(values)
    assert decode(encoding, list(values)) == list(classes)
    written = encoding.encode(np.array([list(classes)]))
    assert np.asarray(written).tolist() == [list(values)]
    assert len(set(encoding.names)) == encoding.num_classes


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_check_works(name, tmp_path, isdm):
    data = write_tree(tmp_path / "data", name)
    output = tmp_path / "check"
    sizes = {"image_size": list(SIZE), "no_instance": False}
    code, shown, errors = isdm("check", data_dir=data, dataset_mode=name, output_dir=output, **sizes)
    assert code == 0, errors
    assert shown.count("3 pairs, width 32, height 16") == 2
    with Image.open(output / "train.png") as train, Image.open(output / "test.png") as test:
        assert train.size == test.size
        with_edges = train.width
    sizes["no_instance"] = True
    assert isdm("check", data_dir=data, dataset_mode=name, output_dir=output, **sizes)[0] == 0
    with Image.open(output / "train.png") as train:
        assert train.width < with_edges


def test_other_files_of_cityscapes_are_not_meant(tmp_path):
    data = write_tree(tmp_path, "cityscapes")
    for ending in ("color.png", "labelTrainIds.png", "instanceTrainIds.png", "polygons.json"):
        (data / "gtFine" / "train" / f"{STEMS['cityscapes'][0]}_gtFine_{ending}").touch()
    pairs, problems = index_pairs(data, get_mode("cityscapes"), "train")
    assert len(pairs) == 3
    assert not problems


@pytest.mark.parametrize(("first", "second"), [(26000, 26001), (24001, 24257), (26001, 65535)])
def test_instance_ids_keep_their_16_bits(first, second, tmp_path):
    """Ids that agree in their high byte, in their low byte, or beyond 8 bits are still two instances."""
    data = write_tree(tmp_path, "cityscapes")
    instance = np.full(SIZE, first, np.uint16)
    instance[:, 20:] = second
    for stem in STEMS["cityscapes"]:
        gray(data / f"gtFine/train/{stem}_gtFine_instanceIds.png", instance)
    edge = example(data, "cityscapes")["edge"]
    assert edge[:, 19:21].all()
    assert edge.sum() == 2 * SIZE[0]


def example(data: Path, name: str) -> dict:
    """Return the first training pair with its edges, not augmented, at its own size."""
    report = scan_dataset(data, get_mode(name), "train", progress=False)
    transform = JointTransform(SIZE, resize=get_mode(name).resize, train=False)
    dataset = SegmentationDataset(report.pairs, report.raise_if_fatal(), transform, with_edges=True)
    return dataset[ExampleKey(0, 0, 0, 1.0)]


@pytest.mark.parametrize("name", ["celeba", "ade20k"])
def test_edges_come_from_the_labels_where_there_are_no_instances(name, tmp_path):
    shown = example(write_tree(tmp_path, name), name)
    assert torch.equal(shown["edge"], edges_from_instances(shown["label"]))
    assert shown["edge"].sum() == 3 * 2 * SIZE[0]


def test_cityscapes_is_not_cropped():
    """At [256, 512] the whole image is seen, without a border, in training and in sampling."""
    for train in (True, False):
        transform = JointTransform((256, 512), resize=get_mode("cityscapes").resize, train=train)
        for seed in range(4):
            placement = transform.place((1024, 2048), torch.Generator().manual_seed(seed))
            assert placement.scaled == (256, 512)
            assert (placement.offset, placement.size) == ((0, 0), (256, 512))


@pytest.mark.parametrize(
    ("name", "given", "resize"),
    [("cityscapes", {}, "pad"), ("cityscapes", {"resize": "crop"}, "crop"), ("celeba", {}, "crop")],
)
def test_a_mode_says_how_pictures_are_resized_where_the_options_do_not(name, given, resize, tmp_path, isdm):
    data = write_tree(tmp_path / "data", name)
    values = {"data_dir": data, "dataset_mode": name, "output_dir": tmp_path / "out", "image_size": list(SIZE)}
    assert isdm("check", **values, **given)[0] == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["resize"] == resize


def test_instance_maps_are_not_asked_for_without_edges(tmp_path, isdm):
    data = write_tree(tmp_path / "data", "coco")
    for path in data.glob("*_inst/*"):
        path.unlink()
    values = {"data_dir": data, "dataset_mode": "coco", "output_dir": tmp_path / "out", "image_size": 16}
    assert isdm("check", **values)[0] == 0
    assert isdm("check", **values, no_instance=False)[0] == 2


# --- wrong inputs ------------------------------------------------------------------------------------------------

Break = Callable[[Path], dict]


def missing_instance_folder(data: Path) -> dict:
    (data / "train_inst").rename(data / "instances")
    return {}


def missing_instance_map(data: Path) -> dict:
    (data / "train_inst" / "000000000009.png").unlink()
    return {}


def instance_map_of_another_size(data: Path) -> dict:
    gray(data / "train_inst" / "000000000009.png", np.zeros((16, 30), np.uint8))
    return {}


def cityscapes_without_instance_maps(data: Path) -> dict:
    for path in data.rglob("*_instanceIds.png"):
        path.rename(path.with_name(path.name.replace("instanceIds", "instanceTrainIds")))
    return {}


def folder_of_another_name(data: Path) -> dict:
    (data / "annotations" / "training").rename(data / "annotations" / "train")
    return {}


def other_number_of_classes(data: Path) -> dict:
    return {"num_classes": 150}


def value_of_no_class(name: str, value: int) -> Break:
    """Return what writes the value into the first training mask."""

    def write(data: Path) -> dict:
        path = data / LAYOUTS[name]["train"][1].format(STEMS[name][0])
        mask = np.asarray(Image.open(path)).copy()
        mask[0, 0] = value
        gray(path, mask)
        return {}

    write.__name__ = f"value_{value}"
    return write


WRONG = [
    ("coco", missing_instance_folder, r"train_inst: .*no_instance"),
    ("coco", missing_instance_map, r"000000000009.png: mask without instance map.*train_inst"),
    ("coco", instance_map_of_another_size, r"000000000009.png.* 30x16"),
    ("cityscapes", cityscapes_without_instance_maps, r"_gtFine_instanceIds.png.*no_instance"),
    ("ade20k", folder_of_another_name, r"'train' to 'training'"),
    ("ade20k", other_number_of_classes, r"num_classes: 150 .*ade20k .*151.* num_classes"),
    ("ade20k", value_of_no_class("ade20k", 151), r"png: .*151 .*ade20k .*151 classes"),
    ("celeba", value_of_no_class("celeba", 19), r"png: .*19 .*celeba .*19 classes"),
    ("coco", value_of_no_class("coco", 182), r"png: .*182 .*coco .*183 classes"),
    ("cityscapes", value_of_no_class("cityscapes", 255), r"png: .*255 .*cityscapes .*34 classes.*ignore_label"),
]


@pytest.mark.parametrize(("name", "damage", "message"), WRONG, ids=[case[1].__name__ for case in WRONG])
def test_wrong_inputs(name, damage, message, tmp_path, isdm):
    data = write_tree(tmp_path / "data", name)
    values = {"data_dir": data, "dataset_mode": name, "image_size": 16, "no_instance": False, **damage(data)}
    code, shown, _ = isdm("check", **values, output_dir=tmp_path / "check")
    assert code == 2
    lines = [line.replace("\\", "/") for line in shown.splitlines() if line.startswith("error: ")]
    assert any(re.search(message, line) for line in lines), lines


def test_a_value_of_no_class_can_be_declared(tmp_path, isdm):
    data = write_tree(tmp_path / "data", "cityscapes")
    value_of_no_class("cityscapes", 255)(data)
    values = {"data_dir": data, "dataset_mode": "cityscapes", "output_dir": tmp_path / "check", "image_size": 16}
    assert isdm("check", **values, ignore_label=255)[0] == 0


# --- a mode is a record ------------------------------------------------------------------------------------------

FIELDS = DatasetMode(
    "fields",
    FileRule("photos/{split}", (".png",), "_rgb"),
    FileRule("maps/{split}", (".png",), "_crop"),
    FileRule("maps/{split}", (".png",), "_plot"),
    splits=(("train", "2023"), ("test", "2024")),
    num_classes=3,
    values=((10,), (20, 21), (30,)),
    ignore=(99,),
    names=("soil", "wheat", "weed"),
    resize="squash",
)


def write_fields(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for year, count in (("2023", 3), ("2024", 2)):
        for index in range(count):
            gray(root / f"photos/{year}/farm/{index}_rgb.png", rng.integers(0, 256, (*SIZE, 3), np.uint8))
            gray(root / f"maps/{year}/farm/{index}_crop.png", stripes([10, 21, 30, 99]).astype(np.uint8))
            gray(root / f"maps/{year}/farm/{index}_plot.png", stripes([300, 301]).astype(np.uint16))
    return root


@pytest.mark.slow
def test_a_mode_added_by_a_record_alone_trains_and_samples(tmp_path, isdm, monkeypatch):
    monkeypatch.setattr(modes, "MODES", (*modes.MODES, FIELDS))
    data, folder = write_fields(tmp_path / "data"), tmp_path / "run"
    options = {**TINY, "dataset_mode": "fields", "no_instance": False, "max_epochs": 1}
    code, _, errors = isdm("train", **options, data_dir=data, output_dir=folder)
    assert code == 0, errors
    trained = json.loads((folder / "config.json").read_text())
    assert (trained["num_classes"], trained["resize"]) == (3, "squash")

    few = {"data_dir": data, "steps": 2}
    code, _, errors = isdm("sample", **few, model_path=folder, results_path=tmp_path / "out")
    assert code == 0, errors
    for index in range(2):
        assert Image.open(tmp_path / f"out/images/farm/{index}.png").size == (16, 16)
        mask = np.asarray(Image.open(tmp_path / f"out/masks/farm/{index}.png"))
        assert mask[0].tolist() == [value for value in (10, 20, 30, 99) for _ in range(4)]

    # Another geometry in sampling than in training, as the published systems have it, where that is asked for.
    code, _, errors = isdm("sample", **few, model_path=folder, results_path=tmp_path / "crop", resize="crop")
    assert code == 0, errors
    mask = np.asarray(Image.open(tmp_path / "crop/masks/farm/0.png"))
    assert mask[0].tolist() == [20] * 8 + [30] * 8


@pytest.mark.slow
def test_bare_weights_take_geometry_and_label_rule_of_the_mode(tmp_path, isdm, monkeypatch):
    monkeypatch.setattr(modes, "MODES", (*modes.MODES, FIELDS))
    data, folder, bare = write_fields(tmp_path / "data"), tmp_path / "run", tmp_path / "bare.pt"
    options = {**TINY, "dataset_mode": "fields", "max_epochs": 1, "prediction": "eps"}
    assert isdm("train", **options, data_dir=data, output_dir=folder)[0] == 0
    assert isdm("export", model_path=folder, export_path=bare)[0] == 0
    (tmp_path / "bare.pt.json").unlink()
    said = {key: TINY[key] for key in ("image_size", "diffusion_steps")} | {"dataset_mode": "fields", "num_heads": 4}
    said["prediction"] = "eps"
    out = tmp_path / "out"
    code, _, errors = isdm("sample", **said, model_path=bare, data_dir=data, results_path=out, steps=2)
    assert code == 0, errors
    assert json.loads((out / "config.json").read_text())["resize"] == "squash"

    gray(tmp_path / "masks" / "plot.png", stripes([20, 30]).astype(np.uint8))
    masks = {"mask_dir": tmp_path / "masks", "results_path": tmp_path / "alone", "steps": 2}
    code, _, errors = isdm("sample", **said, **masks, model_path=bare)
    assert code == 0, errors
    assert np.asarray(Image.open(tmp_path / "alone/masks/plot.png"))[0].tolist() == [20] * 8 + [30] * 8


# --- real data ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not COCO_SAMPLE.is_dir(), reason="the sample of COCO-Stuff is not here")
def test_edges_of_real_instance_maps_lie_on_the_borders_of_labels():
    for split, count in (("train", 13), ("test", 8)):
        report = scan_dataset(COCO_SAMPLE, get_mode("coco"), split, progress=False)
        assert not report.fatal
        assert len(report.pairs) == count
        transform = JointTransform((128, 128), train=False)
        dataset = SegmentationDataset(report.pairs, report.encoding, transform, with_edges=True)
        shown = [dataset[ExampleKey(0, index, 0, 1.0)] for index in range(count)]
        borders = torch.stack([edges_from_instances(example["label"]) for example in shown])
        edges = torch.stack([example["edge"] for example in shown])
        # Instances divide what labels leave whole; what labels divide they leave whole only where a pixel is off.
        assert (borders & edges).sum() > 0.95 * borders.sum()
        assert borders.sum() < edges.sum() < 2 * borders.sum()
