"""The studies of DDPM-seg as shipped, on a made-up dataset in their layout: segment, generate, evaluate."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from colored import picture, train, write_unlabeled
from error_lines import check_error
from odd_images import write_png
from parts import lines_of, pixels_of
from torchvision.models import resnet101

from evaluations.metrics.segmentation import published_miou
from guided_diffusion.data.datasets import read_mask
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.scan.scan import scan_dataset
from guided_diffusion.labeling.files import load_classifier
from guided_diffusion.labeling.labels import resize_nearest

CONFIGS = Path(__file__).parents[2] / "configs/ddpmseg"
NULL = 255


def write_split(folder: Path, numbers: range, *, offset: int = 0) -> None:
    """Write images with their labels beside them; a corner is ignored, except with an offset, where 0 is."""
    for number in numbers:
        image, label = picture(number)
        label = label.astype(np.int64) + offset
        label[:3, :3] = 0 if offset else NULL
        write_png(folder / f"{number}.png", image)
        np.save(folder / f"{number}.npy", label)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("datasets") / "made_up"
    write_split(folder / "real/train", range(8))
    write_split(folder / "real/test", range(20, 26))
    write_split(folder / "ddpm", range(40, 45))
    return folder


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    write_unlabeled(tmp_path_factory.mktemp("images") / "all", 8)
    images = next(tmp_path_factory.getbasetemp().glob("images*/all"))
    return train(images, tmp_path_factory.mktemp("runs") / "network")


@pytest.fixture
def run(isdm, data, network, tmp_path):
    """Run an action by a shipped config of horse_21 with other values; returns what it printed."""

    def of(name: str, **values) -> str:
        shipped = json.loads((CONFIGS / "horse_21" / f"{name}.json").read_text())
        action = Path(shipped.pop("$schema")).stem
        own = {"num_classes": 3, "max_test": 4, "precision": "fp32", "model_path": network, "data_dir": data}
        own |= {"feature_blocks": [0, 1, 2], "members": 2}
        changed = {key: value for key, value in own.items() if key in shipped}
        code, shown, errors = isdm(action, **{**shipped, **changed, **values})
        assert code == 0, errors
        return shown

    return of


def test_labels_are_read_as_published(data):
    report = scan_dataset(data, get_mode("ddpmseg"), "train", num_classes=3, ignore_label=NULL, first=5, progress=False)
    encoding = report.raise_if_fatal()
    assert not report.warnings
    assert [pair.stem for pair in report.pairs] == ["0", "1", "2", "3", "4"]
    for pair in report.pairs:
        label = np.load(pair.mask)
        assert np.array_equal(read_mask(pair.mask, encoding).numpy(), np.where(label == NULL, 3, label))


def test_layouts(data, tmp_path):
    drawn = scan_dataset(data, get_mode("ddpmseg-drawn"), "train", num_classes=3, ignore_label=NULL, progress=False)
    assert len(drawn.pairs) == 5
    assert not drawn.fatal
    write_split(tmp_path / "real/train", range(3), offset=5)
    bedroom = scan_dataset(tmp_path, get_mode("ddpmseg-bedroom"), "train", progress=False)
    encoding: LabelEncoding = bedroom.raise_if_fatal()
    assert encoding.num_classes == 28
    label = np.load(bedroom.pairs[0].mask)
    expected = np.where(label == 0, 28, label - 1)
    assert np.array_equal(read_mask(bedroom.pairs[0].mask, encoding).numpy(), expected)


@pytest.mark.parametrize(
    "array",
    [np.zeros((24, 24, 1), np.uint8), np.zeros((24, 24)), np.full((24, 24), -1), np.array([{}], object), None],
    ids=["3d", "floats", "negative", "objects", "text"],
)
def test_labels_that_are_none(array, data, tmp_path):
    write_split(tmp_path / "real/train", range(3))
    path = tmp_path / "real/train/1.npy"
    path.write_bytes(b"\x93NUMPY, but no array") if array is None else np.save(path, array)
    report = scan_dataset(tmp_path, get_mode("ddpmseg"), "train", num_classes=3, ignore_label=NULL, progress=False)
    assert [problem.path for problem in report.fatal] == [str(path)]


def test_a_label_without_an_image_and_an_image_without_a_label(tmp_path):
    write_split(tmp_path / "real/train", range(3))
    (tmp_path / "real/train/0.npy").unlink()
    (tmp_path / "real/train/2.png").unlink()
    report = scan_dataset(tmp_path, get_mode("ddpmseg"), "train", num_classes=3, ignore_label=NULL, progress=False)
    assert {problem.path for problem in report.fatal} == {
        str(tmp_path / "real/train/0.png"),
        str(tmp_path / "real/train/2.npy"),
    }


@pytest.mark.slow
def test_from_classifiers_to_evaluate(run, data, tmp_path):
    drawn = tmp_path / "drawn"
    run("segment_drawn", output_dir=drawn)
    classifier = load_classifier(drawn / "classifier.pt")
    assert (len(classifier.training["images"]), classifier.vote) == (5, "majority")
    results = tmp_path / "generated"
    run("generate", classifier_path=drawn / "classifier.pt", num_samples=9, steps=4, results_path=results)
    lines = lines_of(results / "train")
    assert len(lines) == 9
    assert not any((pixels_of(results / "train" / line["mask"]) == NULL).any() for line in lines)
    values = {"synthetic_dir": results, "output_dir": tmp_path / "evaluate", "image_size": 32}
    values |= {"deeplab_weights": "none", "deeplab_epochs": 1, "max_training": 4}
    shown = run("evaluate", **values)
    entry = json.loads((tmp_path / "evaluate/report.json").read_text())["deeplab"]
    assert len(entry["epochs"]) == 1
    assert 0 <= entry["published_miou"] <= 1
    assert "DeepLabV3 of the samples alone" in shown
    assert "Trained on the samples alone" in (tmp_path / "evaluate/report.html").read_text()


@pytest.mark.slow
def test_the_published_score_is_that_of_all_pixels(run, data, network, tmp_path):
    folder = tmp_path / "segment"
    shown = run("segment", output_dir=folder, max_labeled=4)
    record = json.loads((folder / "report.json").read_text())
    assert (record["data"]["labeled"], record["test"]["images"]) == (4, 4)
    record = record["test"]
    assert record["miou"] > 0.6
    assert f"{100 * record['published_miou']:.1f} %" in shown
    # Ignored corners count as false positives, as published.
    assert record["published_miou"] < record["miou"]
    # The same images by the same classifiers, without their labels.
    images = tmp_path / "images"
    for number in range(20, 24):
        write_png(images / f"{number}.png", pixels_of(data / "real/test" / f"{number}.png"))
    import command_line

    again = {"model_path": network, "classifier_path": folder / "classifier.pt", "image_dir": images}
    assert command_line.run("segment", **again, output_dir=tmp_path / "again", ignore_above=9) == 0
    truth = [resize_nearest(np.load(data / "real/test" / f"{number}.npy"), (24, 24)) for number in range(20, 24)]
    found = [pixels_of(tmp_path / "again/predicted/masks" / f"{number}.png") for number in range(20, 24)]
    miou, _ = published_miou(np.stack(truth), np.stack(found), 3, NULL)
    assert record["published_miou"] == pytest.approx(miou)


@pytest.mark.slow
def test_backbone_weights(data, isdm, tmp_path):
    from evaluations.errors import EvaluationError
    from evaluations.segmentation.deeplab import DeepLab, backbone_weights
    from guided_diffusion.config.evaluate import DeepLabOptions, QualityOptions
    from guided_diffusion.pipelines.evaluation.metrics import MetricContext, make_metrics

    with torch.random.fork_rng():
        torch.manual_seed(5)
        state = resnet101(weights=None).state_dict()
    torch.save(state, tmp_path / "resnet101.pth")
    model = DeepLab(3, backbone_weights(str(tmp_path / "resnet101.pth")), seed=0)
    assert torch.equal(model.network.backbone.conv1.weight, state["conv1.weight"])
    torch.save({"conv1.weight": state["conv1.weight"]}, tmp_path / "other.pth")
    with pytest.raises(EvaluationError) as caught:
        DeepLab(3, backbone_weights(str(tmp_path / "other.pth")), seed=0)
    assert str(tmp_path / "other.pth") in str(caught.value)
    options = DeepLabOptions(deeplab=True, deeplab_weights=str(tmp_path / "other.pth"))
    with pytest.raises(EvaluationError):  # before anything is read or trained
        make_metrics(MetricContext(QualityOptions(), 0, torch.device("cpu"), options))


def test_deeplab_keys(isdm, tmp_path):
    code, _, errors = isdm("evaluate", data_dir="x", synthetic_dir="y", output_dir=tmp_path, deeplab_epochs=3)
    assert code == 2
    check_error(errors[0], "deeplab_epochs")
