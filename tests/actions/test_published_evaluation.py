"""`evaluate` as published: samples of the validation masks, the validation images alone, a segmenter from elsewhere."""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from pathlib import Path

import command_line
import numpy as np
import pytest
import torch
from browser import check_report
from error_lines import check_error
from painted import NearestColor, exported, paint, scripted
from PIL import Image
from random_networks import write_bare

from evaluations.segmentation.models import build_segmenter
from guided_diffusion import cli
from guided_diffusion.config.load import load_config
from guided_diffusion.models.architecture import height_width
from guided_diffusion.pipelines.evaluation.options import FROM_SAMPLES, resolve_options
from guided_diffusion.samples.reader import SampleFolder

CONFIG = Path(__file__).parents[2] / "configs" / "sdm" / "ade20k" / "evaluate.json"
SMALL = {"image_size": 32, "report_images": 2, "segmenter_input": "unit"}


@pytest.fixture(scope="module")
def ade20k(tmp_path_factory) -> Path:
    """A validation split of three painted images of the classes 0 to 3 and a column of no labeled class."""
    root = tmp_path_factory.mktemp("ade20k")
    for folder in ("images", "annotations"):
        (root / folder / "validation").mkdir(parents=True)
    # None is another one flipped or turned, which would be named.
    for index, quarters in enumerate(([0, 1, 2, 3], [0, 1, 3, 2], [0, 2, 3, 1])):
        label = np.kron(np.reshape(quarters, (2, 2)), np.ones((16, 16), int))
        label[:, :4] = 4
        Image.fromarray(paint(label)).save(root / "images" / "validation" / f"{index}.png")
        Image.fromarray(((label + 1) % 5).astype(np.uint8)).save(root / "annotations" / "validation" / f"{index}.png")
    return root


def sampled(tree: Path, folder: Path, **values) -> Path:
    """Sample from the tree with an untrained network."""
    weights = write_bare(folder.with_suffix(".pt"), 151)
    values |= {"model_path": weights, "data_dir": tree, "results_path": folder, "image_size": 32, "steps": 1}
    values |= {"dataset_mode": "ade20k", "data_split": "test", "resize": "squash", "prediction": "eps"}
    assert command_line.run("sample", **values) == 0
    return folder


@pytest.fixture(scope="module")
def samples(ade20k, tmp_path_factory) -> Path:
    return sampled(ade20k, tmp_path_factory.mktemp("samples") / "one")


@pytest.fixture(scope="module")
def painted_samples(samples, tmp_path_factory) -> Path:
    """The samples, each painted after its mask."""
    folder = tmp_path_factory.mktemp("painted") / "samples"
    shutil.copytree(samples, folder)
    for path in (folder / "masks").iterdir():
        with Image.open(path) as mask:
            label = np.array(mask).astype(int)
        Image.fromarray(paint(np.where(label == 0, 4, label - 1))).save(folder / "images" / path.name)
    return folder


@pytest.fixture(scope="module")
def nearest(tmp_path_factory) -> Path:
    return scripted(tmp_path_factory.mktemp("segmenter") / "nearest.pt", NearestColor())


@pytest.fixture
def table(tmp_path) -> Path:
    path = tmp_path / "labels.json"
    path.write_text(json.dumps({str(index): f"class {index}" for index in range(4)}))
    return path


@pytest.fixture
def evaluate(isdm, ade20k, painted_samples, tmp_path):
    """Run `evaluate` with the published config, without networks that need weights -> (record, stdout)."""

    def run(**values) -> tuple[dict, str]:
        base = {**SMALL, "data_dir": ade20k, "synthetic_dir": painted_samples, "output_dir": tmp_path / "out"}
        base |= {"inception_weights": "none", "lpips_weights": "none"}
        code, shown, errors = isdm("evaluate", CONFIG, **{**base, **values})
        assert (code, errors) == (0, [])
        return json.loads((tmp_path / "out" / "report.json").read_text()), shown

    return run


@pytest.fixture(scope="module")
def published(ade20k, samples, nearest, inception, alexnet, tmp_path_factory) -> Path:
    """The folder of an evaluation with all that the papers measure: ten samples of every mask, a segmenter."""
    root = tmp_path_factory.mktemp("published")
    several = sampled(ade20k, root / "ten", num_samples=30, augment_masks=False, batch_size=30)
    values = SMALL | {
        "data_dir": ade20k,
        "synthetic_dir": samples,
        "diversity_dir": several,
        "output_dir": root / "out",
    }
    values |= {
        "inception_weights": inception,
        "lpips_weights": alexnet,
        "agreement": True,
        "segmenter": nearest,
        "segmenter_labels": root / "labels.json",
    }
    (root / "labels.json").write_text("[0, 1, 2, 3]")
    assert cli.main(command_line.arguments_of("evaluate", CONFIG, **values)) == 0
    return root / "out"


@pytest.mark.slow
def test_the_published_protocol_on_a_validation_split_alone(published):
    record = json.loads((published / "report.json").read_text())
    assert record["data"]["images"] == {"test": 3, "samples": 3}
    assert len(record["data"]["classes"]) == 151
    distances = record["distances"]
    assert (distances["compared_with"], "test" in distances) == ("test", False)
    assert (distances["samples"]["images"], distances["samples"]["against"]) == (3, 3)
    # Ten samples of every mask: `sample` goes over all masks again and again.
    assert [record["diversity"][key] for key in ("masks", "samples_per_mask", "images")] == [3, 10, 30]
    assert record["diversity"]["mean"] > 0
    assert record["drift"]["num_real"] == 3
    assert record["study"] is None
    assert "memorisation" not in record
    assert record["data"]["warnings"] == []
    assert 0 <= record["agreement"]["samples"]["miou"] < 1 == record["agreement"]["real_test_images"]["miou"]


@pytest.mark.slow
def test_the_report_opens_in_a_browser(published):
    check_report(published / "report.html")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["scripted", "exported"])
def test_painted_samples_are_found_by_a_segmenter_of_colors(kind, evaluate, nearest, table, tmp_path):
    if kind == "exported":
        nearest = exported(tmp_path / "nearest.pt2", NearestColor(), torch.zeros(1, 3, 32, 32))
    record, shown = evaluate(agreement=True, segmenter=nearest, segmenter_labels=table)
    found = record["agreement"]
    for key in ("samples", "real_test_images"):
        assert (found[key]["miou"], found[key]["pixel_accuracy"]) == (1, 1)
    given = found["given"]
    assert given["sha256"] == sha256(nearest.read_bytes()).hexdigest()[:16]
    assert (given["file"], given["labels_file"]) == (str(nearest), str(table))
    assert (given["model"], given["size"], given["input"]) == ("a program", [32, 32], "unit")
    assert given["labels"] == [f"class {index}" for index in range(4)]
    assert len(given["left_out_classes"]) == 147
    assert "unlabelled" in given["left_out_classes"]
    assert "147 of 151 classes" in shown
    page = (tmp_path / "out" / "report.html").read_text()
    assert given["sha256"] in page
    assert "labels.json" in page


@pytest.mark.slow
def test_a_shifted_table_finds_nothing_and_null_is_wrong(evaluate, nearest, table):
    table.write_text(json.dumps([1, 2, 3, 0]))
    record, _ = evaluate(agreement=True, segmenter=nearest, segmenter_labels=table)
    assert record["agreement"]["samples"]["miou"] == 0
    table.write_text(json.dumps([0, 1, 2, None]))
    record, _ = evaluate(agreement=True, segmenter=nearest, segmenter_labels=table)
    # Class 3 is left out with its pixels; the others are as they were.
    assert record["agreement"]["samples"]["miou"] == 1
    assert record["agreement"]["given"]["labels"] == ["class 0", "class 1", "class 2", None]


@pytest.mark.slow
def test_weights_with_an_output_for_every_class_need_no_table(evaluate, tmp_path):
    torch.save(build_segmenter("fpn", "resnet18", num_classes=151, seed=0).state_dict(), tmp_path / "weights.pt")
    record, _ = evaluate(
        agreement=True,
        segmenter=tmp_path / "weights.pt",
        segmenter_model="smp/fpn/resnet18",
        segmenter_size=[64, 32],
        segmenter_input="imagenet",
        filter_below=0.0,
    )
    given = record["agreement"]["given"]
    assert (given["model"], given["labels_file"], given["size"]) == ("smp/fpn/resnet18", None, [64, 32])
    assert given["left_out_classes"] == []
    assert record["filtered"]["kept"] == 3


@pytest.mark.slow
def test_samples_of_other_masks_are_told(evaluate, painted_samples, tmp_path):
    folder = tmp_path / "others"
    shutil.copytree(painted_samples, folder)
    (folder / "manifest.jsonl").unlink()
    path = folder / "masks" / "0.png"
    label = np.zeros((32, 32), np.uint8)
    label[3:9, 5:20] = 2
    Image.fromarray(label).save(path)
    record, _ = evaluate(synthetic_dir=folder, segmenter_input="imagenet")
    (line,) = record["data"]["warnings"]
    assert "1 of 3 samples" in line


@pytest.mark.slow
def test_sizes_need_not_be_multiples_of_32_where_nothing_is_trained(evaluate, nearest, table):
    size = {"image_size": [24, 40], "resize": "pad"}
    record, _ = evaluate(**size, agreement=True, segmenter=nearest, segmenter_labels=table)
    assert record["data"]["image_size"] == [24, 40]
    assert record["agreement"]["samples"]["miou"] > 0.8  # borders are of no class
    assert record["agreement"]["given"]["size"] == [24, 40]


def test_samples_are_compared_at_their_own_size_where_nothing_is_trained(tmp_path):
    def size(**values) -> list[int]:
        config = {"data_dir": "-", "synthetic_dir": "-", "output_dir": "-", "study": False, **values}
        made = {"image_size": 100, "dataset_mode": "ade20k"}
        samples = SampleFolder(tmp_path, "", made, {})
        return list(height_width(resolve_options(load_config("evaluate", config), samples).view.image_size))

    assert size(agreement=False) == size(segmenter="file.pt") == [100, 100]
    assert size() == [128, 128]


def test_what_is_left_open_is_as_the_samples_were_made(tmp_path):
    data = ("dataset_mode", "num_classes", "ignore_label", "exif", "flip_pairs", "group_pattern")
    data += ("max_objects", "min_object_size")
    assert set(FROM_SAMPLES) == {*data, "image_size", "image_channels", "image_range", "resize", "scale", "mask_resize"}
    made = {"image_size": 64, "dataset_mode": "cityscapes", "ignore_label": 255, "image_channels": 1}
    config = {"data_dir": "-", "synthetic_dir": "-", "output_dir": "-", "ignore_label": 7}
    resolved = resolve_options(load_config("evaluate", config), SampleFolder(tmp_path, "", made, {}))
    assert (resolved.source.dataset_mode, resolved.source.ignore_label) == ("cityscapes", 7)
    # Where neither says it, resize is the mode's.
    assert (resolved.view.image_size, resolved.view.image_channels, resolved.view.resize) == (64, 1, "pad")


def test_the_training_split_is_read_where_something_needs_it(isdm, ade20k, painted_samples, tmp_path):
    base = {**SMALL, "data_dir": ade20k, "synthetic_dir": painted_samples, "output_dir": tmp_path / "out"}
    base |= {"inception_weights": "none", "lpips_weights": "none", "segmenter_input": "imagenet"}
    needing = [{"compare_with": "training"}, {"near_duplicates": True}, {"study": True}, {"agreement": True}]
    for values in needing:
        code, _, errors = isdm("evaluate", CONFIG, **{**base, **values})
        assert code == 2
        assert any("images/training" in line.replace("\\", "/") for line in errors)


# ------------------------------------------------------------------------------------------------ wrong inputs


@pytest.fixture
def refused(isdm, ade20k, painted_samples, tmp_path):
    """Run `evaluate` with a segmenter and return its one error line; nothing may be written."""

    def run(**values) -> str:
        base = {**SMALL, "data_dir": ade20k, "synthetic_dir": painted_samples, "output_dir": tmp_path / "out"}
        base |= {"inception_weights": "none", "lpips_weights": "none", "agreement": True}
        code, _, errors = isdm("evaluate", CONFIG, **{**base, **values})
        assert code == 2
        assert not (tmp_path / "out").exists()
        (line,) = errors
        return line

    return run


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        *(
            ({key: value}, (key, "segmenter"))
            for key, value in {
                "segmenter_model": "smp/fpn/resnet18",
                "segmenter_labels": "labels.json",
                "segmenter_size": 64,
                "segmenter_input": "bytes",
            }.items()
        ),
        ({"segmenter": "x.pt", "agreement": False}, ("segmenter", "agreement")),
        ({"segmenter": "x.pt", "segmenter_model": "fpn"}, ("segmenter_model", "'fpn'", "smp/fpn/resnet34")),
        ({"segmenter": "x.pt", "segmenter_model": "smp/fpn"}, ("segmenter_model", "'smp/fpn'", "smp/fpn/resnet34")),
        ({"segmenter": "x.pt", "segmenter_model": "torchvision/a/b"}, ("segmenter_model", "'torchvision/a/b'")),
        ({"segmenter": "x.pt", "segmenter_size": 4}, ("segmenter_size", "4")),
        ({"segmenter": "x.pt", "segmenter_input": "caffe"}, ("segmenter_input", '"caffe"', '"imagenet"')),
        ({"compare_with": "validation"}, ("compare_with", '"validation"', '"training", "test"')),
    ],
    ids=str,
)
def test_a_wrong_option(refused, values, shown):
    check_error(refused(**{"segmenter_input": "imagenet", **values}), *shown)


def test_files_are_looked_at_before_any_data(refused, nearest, tmp_path):
    """A data_dir that is not there would be found by the scan."""
    nowhere = {"data_dir": tmp_path / "nowhere"}
    check_error(refused(**nowhere, segmenter="missing.pt"), "segmenter", "missing.pt")
    line = refused(**nowhere, segmenter=nearest, segmenter_labels="missing.json")
    check_error(line, "segmenter_labels", "missing.json")
    line = refused(**nowhere, segmenter=nearest, segmenter_model="smp/fpn/resnet18")
    check_error(line, "segmenter_model", "smp/fpn/resnet18", nearest)
    line = refused(**nowhere, segmenter=exported(tmp_path / "p.pt2", NearestColor(), torch.zeros(1, 3, 16, 16)))
    check_error(line, "segmenter", tmp_path / "p.pt2", "[32, 32]", "segmenter_size")


class OneOutput(torch.nn.Module):
    """A sigmoid would make the probability of a defect of its output."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, :1] - 5


def test_a_single_output_is_refused(refused, table, tmp_path):
    single = scripted(tmp_path / "single.pt", OneOutput())
    check_error(refused(segmenter=single), "segmenter", single, "1 output", "background")
    table.write_text(json.dumps({"0": 1}))
    check_error(refused(segmenter=single, segmenter_labels=table), "segmenter_labels", table, "background")


def test_outputs_that_are_not_the_classes(refused, nearest, table):
    line = refused(segmenter=nearest)
    check_error(line, "segmenter", nearest, "4 outputs", "151 classes", "segmenter_labels")
    table.write_text(json.dumps(["class 1", "sky", "class 2", None]))
    check_error(refused(segmenter=nearest, segmenter_labels=table), "segmenter_labels", table, "output 1", "'sky'")
    table.write_text(json.dumps({"0": 1, "1": 2, "2": 3, "3": 4, "7": 5}))
    check_error(refused(segmenter=nearest, segmenter_labels=table), "segmenter_labels", table, "output 7", "0 to 3")
