"""SDM as published: its configs describe its networks, and its bare weights need nothing but a dataset mode."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from random_networks import write_bare

from evaluations.output_labels import classes_of_outputs, read_table
from guided_diffusion.actions.assemble import MODEL_KEYS, model_from_options, options_of_checkpoint
from guided_diffusion.actions.evaluation.data import needs_training
from guided_diffusion.architecture import attention_factors, level_channels
from guided_diffusion.checkpoint import Checkpoint
from guided_diffusion.config import load_config, read_config_file
from guided_diffusion.data.modes import get_mode

CONFIGS = Path(__file__).parents[1] / "configs" / "sdm"
# Classes, and channels of the condition, as the published command lines make them.
PUBLISHED = {"ade20k": (151, 151), "cityscapes": (34, 35), "celeba": (19, 20), "coco": (183, 184)}
SIZES = {"ade20k": (256, 256), "cityscapes": (256, 512), "celeba": (256, 256), "coco": (256, 256)}


def config_of(mode: str, action: str) -> Any:
    return load_config(action, read_config_file(CONFIGS / mode / f"{action}.json"))


def published_network(mode: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return the resolved training options of a mode and the weights they make, without their values."""
    options = {**config_of(mode, "train").to_json(), "num_classes": get_mode(mode).num_classes}
    with torch.device("meta"):
        return options, model_from_options(options).state_dict()


@pytest.mark.parametrize("mode", PUBLISHED)
def test_the_training_config_makes_the_published_network(mode):
    options, weights = published_network(mode)
    assert tuple(np.broadcast_to(options["image_size"], 2)) == SIZES[mode]
    assert level_channels(256, options["channel_mult"]) == (256, 256, 512, 512, 1024, 1024)
    assert attention_factors(256, options["channel_mult"], options["attention_resolutions"]) == (8, 16, 32)
    assert options["num_classes"] == PUBLISHED[mode][0]
    assert weights["middle_block.0.in_norm.mlp_shared.0.weight"].shape == (128, PUBLISHED[mode][1], 3, 3)
    assert weights["out.2.weight"].shape == (6, 256, 3, 3)
    assert (options["prediction"], options["noise_schedule"], options["diffusion_steps"]) == ("eps", "linear", 1000)


@pytest.mark.parametrize("action", ["finetune", "sample"])
@pytest.mark.parametrize("mode", PUBLISHED)
def test_bare_weights_and_a_config_of_the_mode_tell_all_of_the_network(mode, action):
    options, weights = published_network(mode)
    config = config_of(mode, action)
    found = options_of_checkpoint(Checkpoint(path=Path("weights.pt"), model=weights), config)
    keys = {*MODEL_KEYS, "image_size", "image_channels", "no_instance", "num_classes", "learn_sigma", "prediction"}
    keys -= {"use_checkpoint", "num_heads"}  # recomputing is not part of the network, and num_head_channels rules
    plain = {key: json.loads(json.dumps(found[key])) for key in keys}
    assert plain == {key: json.loads(json.dumps(options[key])) for key in keys}


@pytest.mark.parametrize("mode", PUBLISHED)
def test_sampling_is_that_of_the_paper(mode):
    config = config_of(mode, "sample")
    assert (config.sampler, config.steps, config.s, config.weights) == ("ddpm", 1000, 1.5, "ema")
    assert config.resize == ("pad" if mode == "cityscapes" else "squash")
    assert config_of(mode, "finetune").drop_rate == 0.2


@pytest.mark.parametrize("mode", PUBLISHED)
def test_evaluation_is_that_of_the_paper(mode):
    config, sample = config_of(mode, "evaluate"), config_of(mode, "sample")
    assert tuple(np.broadcast_to(config.image_size, 2)) == SIZES[mode]
    assert (config.compare_with, config.lpips_net, config.study, config.memorisation) == ("test", "alex", False, False)
    assert (config.inception_weights, config.lpips_weights) == ("auto", "auto")
    assert not needs_training(config.to_json())
    same = ("data_dir", "dataset_mode", "resize")
    assert [getattr(config, key) for key in same] == [getattr(sample, key) for key in same]
    assert (config.synthetic_dir, sample.data_split) == (sample.results_path, "test")


@pytest.mark.parametrize(
    ("table", "mode", "left_out"),
    [
        ("ade20k_150", "ade20k", {"unlabelled"}),
        ("coco_182", "coco", {"unlabelled"}),
        ("cityscapes_19", "cityscapes", {"unlabeled", "static", "parking", "caravan", "trailer"}),
    ],
)
def test_label_tables_of_usual_segmenters(table, mode, left_out):
    path, names = CONFIGS.parent / "segmenter_labels" / f"{table}.json", get_mode(mode).names
    outputs = int(table.rpartition("_")[2])
    classes = classes_of_outputs(read_table(path), path, outputs=outputs, class_names=names)
    assert len(set(classes)) == outputs
    assert left_out <= {names[index] for index in set(range(len(names))) - set(classes)}


# --- bare weights ------------------------------------------------------------------------------------------------


def write_masks(folder: Path) -> Path:
    folder.mkdir()
    label = np.zeros((32, 64), np.uint8)
    label[:, 20:] = 7
    Image.fromarray(label).save(folder / "only.png")
    return folder


@pytest.fixture
def bare(tmp_path, isdm):
    """Run `sample` from bare weights whose condition has so many channels."""

    def run(channels: int, **values: Any) -> tuple[int, dict[str, Any], list[str]]:
        masks = tmp_path / "masks"
        base = {"mask_dir": masks if masks.exists() else write_masks(masks), "results_path": tmp_path / "out"}
        weights = write_bare(tmp_path / "weights.pt", channels)
        code, _, errors = isdm("sample", model_path=weights, steps=1, **base, **values)
        written = tmp_path / "out" / "config.json"
        return code, json.loads(written.read_text()) if written.exists() else {}, errors

    return run


@pytest.mark.parametrize("mode", PUBLISHED)
def test_bare_weights_sample_with_their_mode_alone(mode, bare, tmp_path):
    classes, channels = PUBLISHED[mode]
    code, options, errors = bare(channels, dataset_mode=mode)
    assert code == 0, errors
    height, width = SIZES[mode]
    assert Image.open(tmp_path / "out" / "images" / "only.png").size == (width, height)
    said = (options["num_classes"], options["no_instance"], options["num_head_channels"], options["prediction"])
    assert said == (classes, channels == classes, 64, "eps")


def test_the_edges_of_a_dataset_are_taken_where_the_weights_have_a_channel_for_them(tmp_path, isdm):
    data = tmp_path / "coco"
    for folder, suffix, last in (("img", "jpg", (3,)), ("label", "png", ()), ("inst", "png", ())):
        (data / f"val_{folder}").mkdir(parents=True)
        Image.fromarray(np.zeros((32, 32, *last), np.uint8)).save(data / f"val_{folder}" / f"9.{suffix}")
    weights = {channels: write_bare(tmp_path / f"{channels}.pt", channels) for channels in (183, 184)}
    base = {"dataset_mode": "coco", "data_dir": data, "image_size": 32, "steps": 1}
    for channels, path in weights.items():
        code, _, errors = isdm("sample", model_path=path, results_path=tmp_path / f"out{channels}", **base)
        assert code == 0, errors
    (data / "val_inst" / "9.png").unlink()
    for channels, path in weights.items():
        code, _, _ = isdm("sample", model_path=path, results_path=tmp_path / f"without{channels}", **base)
        assert code == (2 if channels == 184 else 0)


@pytest.mark.parametrize(("mode", "channels"), [("ade20k", 152), ("celeba", 19)])
def test_networks_of_the_other_kind_are_recognised_too(mode, channels, bare):
    code, options, errors = bare(channels, dataset_mode=mode, image_size=32)
    assert code == 0, errors
    assert options["no_instance"] == (channels == get_mode(mode).num_classes)


def test_what_the_options_say_comes_first(bare, tmp_path):
    code, options, errors = bare(20, dataset_mode="celeba", image_size=32, num_heads=2)
    assert code == 0, errors
    assert Image.open(tmp_path / "out" / "images" / "only.png").size == (32, 32)
    assert (options["num_heads"], options["num_head_channels"]) == (2, -1)


@pytest.mark.parametrize(
    ("channels", "values", "message"),
    [
        (20, {"dataset_mode": "ade20k"}, "condition has 20 channels, but dataset_mode ade20k has 151 classes"),
        (20, {"dataset_mode": "celeba", "no_instance": True}, "20 channels, but dataset_mode celeba has 19 classes"),
        (20, {"dataset_mode": "celeba", "num_classes": 18}, "num_classes does not fit the shapes"),
        (5, {"dataset_mode": "multi-class"}, "image_size cannot be seen in the bare weights"),
        (5, {}, "dataset_mode cannot be seen in the bare weights"),
        (20, {"dataset_mode": "celebe"}, "did you mean 'celeba'"),
        (20, {"dataset_mode": "celeba", "num_head_channels": 48}, "num_head_channels is 48, which does not divide"),
    ],
)
def test_wrong_weights_and_modes(channels, values, message, bare, tmp_path):
    code, _, errors = bare(channels, **values)
    assert code == 2
    assert any(message in line for line in errors), errors
    assert not (tmp_path / "out").exists()
