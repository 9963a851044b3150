"""SDM and SCDM as published: their configs describe their networks, and bare weights need little but a dataset mode."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from error_lines import check_error, check_errors
from PIL import Image
from published_trees import STEMS, write_tree
from random_networks import write_bare

from evaluations.segmentation.label_table import classes_of_outputs, read_table
from guided_diffusion.config.load import load_config, read_config_file, take_keys
from guided_diffusion.config.train import TrainConfig
from guided_diffusion.data.modes import get_mode
from guided_diffusion.diffusion.options import CLASSWISE
from guided_diffusion.models.architecture import attention_factors, level_channels
from guided_diffusion.models.options import ModelOptions
from guided_diffusion.pipelines.build import build_network, trained_config
from guided_diffusion.pipelines.evaluation.options import needs_training
from guided_diffusion.pipelines.sampling import sampling_process
from guided_diffusion.runtime.checkpoint import BEST, Checkpoint, load_checkpoint

CONFIGS = Path(__file__).parents[2] / "configs"
GOLDEN = Path(__file__).parents[1] / "golden" / "labels_classwise_ade20k_ddim25.npz"
# Classes, and channels of the condition, as the published command lines make them.
PUBLISHED = {"ade20k": (151, 151), "cityscapes": (34, 35), "celeba": (19, 20), "coco": (183, 184)}
SIZES = {"ade20k": (256, 256), "cityscapes": (256, 512), "celeba": (256, 256), "coco": (256, 256)}
SCDM = [mode for mode in PUBLISHED if mode != "cityscapes"]
CASES = [*(("sdm", mode) for mode in PUBLISHED), *(("scdm", mode) for mode in SCDM)]


def config_of(system: str, mode: str, action: str) -> Any:
    values, aside = take_keys(action, read_config_file(CONFIGS / system / mode / f"{action}.json"))
    assert not aside
    return load_config(action, values)


def published_network(system: str, mode: str) -> tuple[TrainConfig, dict[str, torch.Tensor]]:
    """Return the resolved training options of a mode and the weights they make, without their values."""
    config = config_of(system, mode, "train").replaced(num_classes=get_mode(mode).num_classes)
    with torch.device("meta"):
        network = build_network(config)
    return config, network.state_dict()


def test_every_published_config_is_tested():
    assert sorted(CASES) == sorted((path.parent.name, path.name) for path in CONFIGS.glob("s*dm/*") if path.is_dir())


@pytest.mark.slow
@pytest.mark.parametrize(("system", "mode"), CASES)
def test_the_training_config_makes_the_published_network(system, mode):
    options, weights = published_network(system, mode)
    options = options.to_json()
    assert tuple(np.broadcast_to(options["image_size"], 2)) == SIZES[mode]
    assert level_channels(256, options["channel_mult"]) == (256, 256, 512, 512, 1024, 1024)
    assert attention_factors(256, options["channel_mult"], options["attention_resolutions"]) == (8, 16, 32)
    assert options["num_classes"] == PUBLISHED[mode][0]
    assert weights["middle_block.0.in_norm.mlp_shared.0.weight"].shape == (128, PUBLISHED[mode][1], 3, 3)
    assert weights["out.2.weight"].shape == (6, 256, 3, 3)
    assert (options["prediction"], options["noise_schedule"], options["diffusion_steps"]) == ("eps", "linear", 1000)


@pytest.mark.slow
@pytest.mark.parametrize("action", ["finetune", "sample"])
@pytest.mark.parametrize(("system", "mode"), CASES)
def test_bare_weights_and_a_config_of_the_mode_tell_all_of_the_network(system, mode, action):
    options, weights = published_network(system, mode)
    config = config_of(system, mode, action)
    found = trained_config(Checkpoint(path=Path("weights.pt"), model=weights), config)
    keys = {
        *ModelOptions.keys(),
        "image_size",
        "image_channels",
        "no_instance",
        "num_classes",
        "learn_sigma",
        "prediction",
    }
    keys |= {"cond_diffuse", "cond_opt"}
    keys -= {"use_checkpoint", "num_heads"}  # recomputing is not part of the network, and num_head_channels rules
    found, options = found.to_json(), options.to_json()
    assert {key: found[key] for key in keys} == {key: options[key] for key in keys}


@pytest.mark.parametrize("mode", PUBLISHED)
def test_sampling_is_that_of_the_paper(mode):
    config = config_of("sdm", mode, "sample")
    sampler = config.sampler
    assert (sampler.sampler, sampler.steps, sampler.s, config.weights.weights) == ("ddpm", 1000, 1.5, "ema")
    assert config.geometry.resize == ("pad" if mode == "cityscapes" else "squash")
    assert config_of("sdm", mode, "finetune").optimizer.drop_rate == 0.2


# --- label diffusion ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", SCDM)
def test_label_diffusion_and_sampling_are_those_of_the_published_command_lines(mode):
    train, finetune, sample = (config_of("scdm", mode, action) for action in ("train", "finetune", "sample"))
    for config in (train, finetune, sample):
        assert (config.label_diffusion.cond_diffuse, config.label_diffusion.cond_opt) == (True, CLASSWISE)
    assert train.optimizer.lr == (2e-5 if mode == "celeba" else 1e-4)
    assert finetune.optimizer.lr == 2e-5
    assert {(config.optimizer.batch_size, config.optimizer.drop_rate) for config in (train, finetune)} == {(10, 0.2)}
    sampler, labels = sample.sampler, sample
    assert (sampler.sampler, sampler.s, labels.extrapolation, sampler.dynamic_threshold) == ("ddpm", 1.5, 0.8, 0.95)
    assert (sample.geometry.resize, sample.seed, labels.unlabeled_to_zero) == ("squash", 42, False)
    process = sampling_process(sampler, train.diffusion)
    np.testing.assert_array_equal(process.timestep_map, np.load(GOLDEN)["timestep_map"])


@pytest.mark.slow
@pytest.mark.parametrize("mode", SCDM)
def test_the_configs_of_scdm_train_finetune_and_sample(mode, tmp_path, isdm):
    """With a small network the whole way, and from bare weights with what they lack: eta."""
    folder, data = CONFIGS / "scdm" / mode, write_tree(tmp_path / "data", mode)
    runs = {name: tmp_path / name for name in ("train", "finetune")}
    small = {"data_dir": data, "max_epochs": 1, "batch_size": 3, "preview_interval": 0, "precision": "fp32"}
    network = {"image_size": 16, "num_channels": 32, "num_res_blocks": 1}
    network |= {"channel_mult": [1, 2], "attention_resolutions": [8]}
    code, _, errors = isdm("train", folder / "train.json", **small, **network, output_dir=runs["train"])
    assert code == 0, errors
    tuned = {**small, "resume_checkpoint": runs["train"], "output_dir": runs["finetune"]}
    code, _, errors = isdm("finetune", folder / "finetune.json", **tuned)
    assert code == 0, errors
    eta = np.load(runs["train"] / "eta.npy")
    assert eta.shape == (PUBLISHED[mode][0],)
    assert np.array_equal(np.load(runs["finetune"] / "eta.npy"), eta)
    assert load_checkpoint(runs["finetune"] / BEST).config["label_eta"] == eta.tolist()

    bare = tmp_path / "weights.pt"
    assert isdm("export", model_path=runs["finetune"], export_path=bare)[0] == 0
    images = {}
    for name, model, extra in (
        ("run", runs["finetune"], {}),
        ("recorded", bare, {}),
        ("bare", bare, {"eta_path": runs["finetune"] / "eta.npy", "image_size": 16, "prediction": "eps"}),
    ):
        if name == "bare":
            (tmp_path / "weights.pt.json").unlink()
        values = {"model_path": model, "results_path": tmp_path / name, "data_dir": data, "precision": "fp32"}
        values["mark"] = False  # it names the file of the weights
        code, _, errors = isdm("sample", folder / "sample.json", **values, **extra)
        assert code == 0, errors
        images[name] = [(tmp_path / name / "images" / f"{stem}.png").read_bytes() for stem in STEMS[mode]]
        line = json.loads((tmp_path / name / "manifest.jsonl").read_text().splitlines()[0])
        assert (line["steps"], line["time_grid"], line["cond_opt"]) == (25, "ddim25", CLASSWISE)
    assert images["run"] == images["recorded"] == images["bare"]


@pytest.mark.parametrize("mode", PUBLISHED)
def test_evaluation_is_that_of_the_paper(mode):
    config, sample = config_of("sdm", mode, "evaluate"), config_of("sdm", mode, "sample")
    assert tuple(np.broadcast_to(config.view.image_size, 2)) == SIZES[mode]
    quality = config.quality
    assert (quality.compare_with, quality.lpips_net, quality.near_duplicates) == ("test", "alex", False)
    assert (quality.inception_weights, quality.lpips_weights, config.study.study) == ("auto", "auto", False)
    assert not needs_training(config)
    same = ("data_dir", "dataset_mode", "resize")
    assert [config.get(key) for key in same] == [sample.get(key) for key in same]
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
    path, names = CONFIGS / "segmenter_labels" / f"{table}.json", get_mode(mode).names
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
        values = {"prediction": "eps", **values}  # small networks are no published ones
        weights = write_bare(tmp_path / "weights.pt", channels)
        code, _, errors = isdm("sample", model_path=weights, steps=1, **base, **values)
        written = tmp_path / "out" / "config.json"
        return code, json.loads(written.read_text()) if written.exists() else {}, errors

    return run


@pytest.mark.slow
@pytest.mark.parametrize("mode", PUBLISHED)
def test_bare_weights_sample_with_their_mode_alone(mode, bare, tmp_path):
    classes, channels = PUBLISHED[mode]
    code, options, errors = bare(channels, dataset_mode=mode)
    assert code == 0, errors
    height, width = SIZES[mode]
    assert Image.open(tmp_path / "out" / "images" / "only.png").size == (width, height)
    said = (options["num_classes"], options["no_instance"], options["num_head_channels"])
    assert said == (classes, channels == classes, 64)


@pytest.mark.slow
def test_the_edges_of_a_dataset_are_taken_where_the_weights_have_a_channel_for_them(tmp_path, isdm):
    data = tmp_path / "coco"
    for folder, suffix, last in (("img", "jpg", (3,)), ("label", "png", ()), ("inst", "png", ())):
        (data / f"val_{folder}").mkdir(parents=True)
        Image.fromarray(np.zeros((32, 32, *last), np.uint8)).save(data / f"val_{folder}" / f"9.{suffix}")
    weights = {channels: write_bare(tmp_path / f"{channels}.pt", channels) for channels in (183, 184)}
    base = {"dataset_mode": "coco", "data_dir": data, "image_size": 32, "steps": 1, "prediction": "eps"}
    for channels, path in weights.items():
        code, _, errors = isdm("sample", model_path=path, results_path=tmp_path / f"out{channels}", **base)
        assert code == 0, errors
    (data / "val_inst" / "9.png").unlink()
    for channels, path in weights.items():
        code, _, _ = isdm("sample", model_path=path, results_path=tmp_path / f"without{channels}", **base)
        assert code == (2 if channels == 184 else 0)


@pytest.mark.parametrize(("mode", "channels"), [("ade20k", 152), ("celeba", 19)])
def test_networks_of_the_other_kind_are_recognized_too(mode, channels, bare):
    code, options, errors = bare(channels, dataset_mode=mode, image_size=32)
    assert code == 0, errors
    assert options["no_instance"] == (channels == get_mode(mode).num_classes)


def test_what_the_options_say_comes_first(bare, tmp_path):
    code, options, errors = bare(20, dataset_mode="celeba", image_size=32, num_heads=2)
    assert code == 0, errors
    assert Image.open(tmp_path / "out" / "images" / "only.png").size == (32, 32)
    assert (options["num_heads"], options["num_head_channels"]) == (2, -1)


@pytest.mark.parametrize(("mode", "channels"), [("binary", 2), ("celeba", 20)])
def test_a_value_of_no_class_may_be_given_beside_bare_weights(mode, channels, bare, tmp_path):
    write_masks(tmp_path / "masks")
    label = np.zeros((32, 64), np.uint8)
    label[:, 20:] = 77
    Image.fromarray(label).save(tmp_path / "masks" / "only.png")
    small = {"dataset_mode": mode, "image_size": [32, 64], "num_head_channels": 64}
    assert bare(channels, **small)[0] == 2
    code, _, errors = bare(channels, **small, ignore_label=77)
    assert code == 0, errors
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "masks" / "only.png")), label)


def test_bare_weights_ask_for_all_that_they_do_not_tell(bare, tmp_path):
    code, _, errors = bare(5, prediction=None)
    assert code == 2
    check_errors(errors, "image_size", "dataset_mode", "prediction", "num_head_channels")
    assert all(str(tmp_path / "weights.pt") in line for line in errors)


def test_classes_and_edges_are_asked_for_where_both_would_fit(bare):
    code, _, errors = bare(5, dataset_mode="multi-class", image_size=32, num_head_channels=64)
    assert code == 2
    check_errors(errors, "num_classes")


@pytest.mark.parametrize(
    ("channels", "values", "shown"),
    [
        (20, {"dataset_mode": "ade20k"}, ("{weights}", "20 channels", "ade20k", "151 classes", "no_instance")),
        (20, {"dataset_mode": "celeba", "no_instance": True}, ("{weights}", "20 channels", "celeba", "19 classes")),
        (20, {"dataset_mode": "celeba", "num_classes": 18}, ("num_classes", "{weights}", "18", "20")),
        (5, {"dataset_mode": "multi-class"}, ("image_size", "{weights}")),
        (20, {"dataset_mode": "celebe"}, ("dataset_mode", "'celebe'", "'celeba'")),
        (20, {"dataset_mode": "celeba", "num_head_channels": 48}, ("num_head_channels", "48", "64")),
    ],
)
def test_wrong_weights_and_modes(channels, values, shown, bare, tmp_path):
    code, _, errors = bare(channels, **values)
    assert code == 2
    check_error(errors[0], *(text.format(weights=tmp_path / "weights.pt") for text in shown))
    assert not (tmp_path / "out").exists()
