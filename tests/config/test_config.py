"""Configurations: spellings, defaults, contradictions, and what is said about mistakes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from guided_diffusion.config.load import ACTIONS, load_config
from guided_diffusion.runtime.errors import ConfigError
from guided_diffusion.runtime.option_help import describe_options, json_schema
from scripts import write_options

ROOT = Path(__file__).parents[2]
NEEDED = {"data_dir": "d", "dataset_mode": "binary", "output_dir": "o"}
# fmt: off
PUBLISHED = [
    "data_dir", "dataset_mode", "image_size", "num_classes", "batch_size", "microbatch", "lr", "weight_decay",
    "lr_anneal_steps", "ema_rate", "drop_rate", "schedule_sampler", "resume_checkpoint", "num_channels",
    "num_res_blocks", "num_heads", "num_heads_upsample", "num_head_channels", "attention_resolutions", "channel_mult",
    "dropout", "resblock_updown", "use_scale_shift_norm", "use_new_attention_order", "use_checkpoint", "use_fp16",
    "learn_sigma", "diffusion_steps", "noise_schedule", "timestep_respacing", "use_kl", "predict_xstart",
    "rescale_timesteps", "rescale_learned_sigmas", "class_cond", "no_instance", "clip_denoised", "num_samples",
    "model_path", "results_path", "s", "use_ddim",
]
# fmt: on


def refused(action: str, **values) -> dict[str, str]:
    """The lines by their keys."""
    with pytest.raises(ConfigError) as caught:
        load_config(action, values)
    error = caught.value
    assert len(set(error.keys)) == len(error.messages), "one line a key"
    return dict(zip(error.keys, error.messages, strict=True))


def test_every_published_key_is_known():
    known = {key for kind in ACTIONS.values() for key in kind.fields()}
    assert not set(PUBLISHED) - known


@pytest.mark.parametrize(
    ("key", "spelling", "value"),
    [
        ("attention_resolutions", "32,16,8", (32, 16, 8)),
        ("attention_resolutions", [32, 16], (32, 16)),
        ("attention_resolutions", 16, (16,)),
        ("channel_mult", "1,2,2", (1.0, 2.0, 2.0)),
        ("channel_mult", "", (1.0, 2.0, 3.0, 4.0)),
        ("channel_mult", None, (1.0, 2.0, 3.0, 4.0)),
        ("ema_rate", "0.99,0.999", (0.99, 0.999)),
        ("ema_rate", 0.999, (0.999,)),
        ("image_size", [64, 128], (64, 128)),
        ("lr", 1, 1.0),
    ],
)
def test_lists_and_published_spellings_are_read(key, spelling, value):
    assert load_config("train", {**NEEDED, key: spelling}).get(key) == value


def test_published_spellings_of_a_choice():
    assert load_config("train", {**NEEDED, "predict_xstart": True}).diffusion.prediction == "x0"
    assert load_config("train", {**NEEDED, "use_fp16": True}).precision.precision == "fp16"
    for given in ({"class_cond": False}, {"condition": "none"}, {"class_cond": False, "condition": "none"}):
        model = load_config("train", {**NEEDED, **given}).model
        assert (model.condition, model.class_cond) == ("none", False)
    assert load_config("train", {**NEEDED, "class_cond": True}).model.condition == "mask"
    sample = {"model_path": "m", "results_path": "r", "mask_dir": "k"}
    assert load_config("sample", sample).model.condition is None
    assert load_config("sample", {**sample, "class_cond": True}).model.condition == "mask"
    assert load_config("sample", {**sample, "use_ddim": True, "eta": 0.5}).sampler.sampler == "ddim"


@pytest.mark.parametrize(
    ("given", "sampler", "time_grid"),
    [
        ({}, "dpm++2m", "logsnr"),
        ({"steps": 50}, "dpm++2m", "logsnr"),
        ({"time_grid": "trailing"}, "dpm++2m", "trailing"),
        ({"sampler": "dpm++2m-sde"}, "dpm++2m-sde", "logsnr"),
        ({"sampler": "ddpm"}, "ddpm", "uniform"),
        ({"sampler": "ddim", "time_grid": "logsnr"}, "ddim", "logsnr"),
        ({"use_ddim": True}, "ddim", "uniform"),
        # What published command lines say means what it has always meant.
        ({"timestep_respacing": "250"}, "ddpm", None),
        ({"timestep_respacing": "ddim25", "use_ddim": True}, "ddim", None),
        ({"timestep_respacing": "10,15", "sampler": "dpm++2m"}, "dpm++2m", None),
    ],
)
def test_a_sampler_brings_its_time_grid(given, sampler, time_grid):
    config = load_config("sample", {"model_path": "m", "results_path": "r", "mask_dir": "k", **given})
    assert (config.sampler.sampler, config.sampler.time_grid) == (sampler, time_grid)
    resolved = json.loads(json.dumps(config.to_json()))
    assert load_config("sample", resolved).to_json() == config.to_json()


@pytest.mark.parametrize(
    "given", [{"channel_mult": "1,2", "use_fp16": True, "image_size": [32, 48]}, {"condition": "none"}]
)
def test_resolved_config_loads_again_and_is_the_same(given):
    first = load_config("train", {**NEEDED, **given}).to_json()
    again = load_config("train", json.loads(json.dumps(first))).to_json()
    assert again == first


@pytest.mark.parametrize(
    ("action", "key", "value", "text"),
    [
        ("train", "output_dir", 20240501, "20240501"),
        ("sample", "weights", 0.999, "0.999"),
        ("sample", "split", 7, "7"),
        ("evaluate", "data_dir", 5, "5"),
    ],
)
def test_a_number_where_text_is_expected_is_text(action, key, value, text):
    config = ACTIONS[action].from_flat({key: value})
    assert config.get(key) == text
    assert {key} == config.given


@pytest.mark.parametrize("value", [True, 3.0, 2])
def test_channels_are_a_whole_number(value):
    wrong = refused("train", **NEEDED, image_channels=value)
    assert "3" in wrong["image_channels"]
    assert (
        load_config("evaluate", {"data_dir": "d", "synthetic_dir": "s", "output_dir": "o"}).view.image_channels is None
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_no_text_either(value):
    assert list(refused("demo", output_dir=value)) == ["output_dir"]


def test_a_key_with_several_mistakes_has_one_line():
    assert list(refused("train", **NEEDED, eta_path="s3://bucket/eta.npy", ema_rate=[1, 2])) == ["eta_path", "ema_rate"]


@pytest.mark.parametrize(
    ("key", "value", "wrong"),
    [
        ("data_dir", "s3://bucket/set", True),
        ("data_dir", "https://example.com/set", True),
        ("data_dir", "file:///home/me/set", True),
        ("data_dir", "s3:/bucket/set", True),  # a Path was made of it
        ("data_dir", "gs:/bucket/set", True),
        ("data_dir", "gs://", True),
        ("data_dir", "C:\\new\\train", os.name != "nt"),
        ("data_dir", "C:\new\train", True),  # what JSON makes of single backslashes
        ("data_dir", "gs://bucket/set", False),
        ("data_dir", "az://account/container/set", False),
        ("data_dir", "https://account.blob.core.windows.net/container/set", False),
        ("output_dir", "gs://bucket/run", True),
        ("output_dir", "C:/runs", os.name != "nt"),
        ("output_dir", " ", True),
        ("output_dir", "~nobody-of-this-name/run", True),
        ("output_dir", "run\ud800", True),
        ("output_dir", "sets/a:b", False),
        ("output_dir", "run\0", True),
    ],
)
def test_addresses_and_control_characters_in_paths(key, value, wrong):
    paths = {"data_dir": "d", "dataset_mode": "binary", "output_dir": "o", key: value}
    if not wrong:
        assert load_config("train", paths).get(key) == value
        return
    with pytest.raises(ConfigError) as error:
        load_config("train", paths)
    (line,) = error.value.messages
    assert line.startswith(f"{key} is ")
    assert line.isprintable()


@pytest.mark.parametrize(
    ("action", "key"),
    [
        ("sample", "num_samples"),
        ("sample", "batch_size"),
        ("train", "num_channels"),
        ("train", "num_res_blocks"),
        ("train", "max_epochs"),
        ("train", "batch_size"),
        ("train", "preview_steps"),
        ("evaluate", "train_steps"),
    ],
)
@pytest.mark.parametrize("value", [10**11 * 32, 1e300, 10**250])
def test_absurd_numbers_are_refused_at_once(action, key, value):
    with pytest.raises(ConfigError) as error:
        load_config(action, {key: value})
    assert any(line.startswith(f"{key} is ") for line in error.value.messages)


def test_everything_wrong_is_reported_at_once_with_the_way_out():
    lines = refused(
        "train",
        dataset_mode="binary",
        output_dir="o",
        batchsize=4,
        lr="fast",
        num_heads=True,
        resize="zoom",
        use_kl=True,
        rescale_learned_sigmas=True,
        image_size=50,
        steps=3,
    )
    values = {  # what was found, and what would do
        "batchsize": ("train", "'batch_size'"),
        "lr": ('"fast"', "above 0", "0.0001"),
        "num_heads": ("true", "whole number at least 1", "4"),
        "resize": ('"zoom"', '"crop", "squash", "pad"'),
        "data_dir": ("--set data_dir=",),
        "use_kl": ("rescale_learned_sigmas",),
        "image_size": ("50",),
        "steps": ("train", "sample"),
    }
    assert lines.keys() == values.keys()
    for key, parts in values.items():
        assert key in lines[key]
        assert all(part in lines[key] for part in parts), lines[key]
        assert "\n" not in lines[key]


@pytest.mark.parametrize(
    ("action", "values", "key", "names"),
    [
        ("train", {"predict_xstart": True, "prediction": "v"}, "predict_xstart", ["prediction"]),
        ("train", {"use_fp16": True, "precision": "bf16"}, "use_fp16", ["precision"]),
        ("train", {"class_cond": False, "condition": "mask"}, "class_cond", ["condition"]),
        ("train", {"class_cond": True, "condition": "none"}, "class_cond", ["condition"]),
        ("train", {"condition": "none", "cond_diffuse": True}, "cond_diffuse", ["condition"]),
        ("train", {"class_cond": False, "cond_diffuse": True}, "cond_diffuse", ["condition"]),
        ("finetune", {"condition": "none", "cond_diffuse": True}, "cond_diffuse", ["condition"]),
        ("sample", {"condition": "none", "cond_diffuse": True, "mask_dir": "m"}, "cond_diffuse", ["condition"]),
        ("train", {"ema_rate": "1.5"}, "ema_rate", ["1.5"]),
        ("train", {"microbatch": 0}, "microbatch", ["0"]),
        ("train", {"rotate90": True, "image_size": [32, 64]}, "rotate90", ["[32, 64]"]),
        ("finetune", {"rotate90": True, "image_size": [32, 64]}, "rotate90", ["[32, 64]"]),
        ("train", {"attention_resolutions": "7"}, "attention_resolutions", ["7"]),
        ("train", {"num_channels": 48}, "num_channels", ["48"]),
        ("train", {"num_head_channels": 24}, "num_head_channels", ["24"]),
        ("train", {"min_snr_gamma": 5, "use_kl": True}, "min_snr_gamma", ["use_kl"]),
        ("train", {"use_kl": True, "learn_sigma": False}, "use_kl", ["learn_sigma"]),
        ("train", {"eta_scale": 0.5}, "eta_scale", ["cond_diffuse"]),
        ("train", {"scale": 0.5}, "scale", ["crop", "window"]),
        ("segment", {"scale": 0.5, "resize": "squash"}, "scale", ["squash", "window"]),
        ("train", {"window_focus": 0.5, "resize": "pad"}, "window_focus", ["pad", "window"]),
        ("train", {"hole_shares": [1, 0, 0], "resize": "window"}, "hole_shares", ["inpaint"]),
        ("train", {"hole_shares": [1, 0, 0]}, "hole_shares", ["[1.0, 0.0, 0.0]", "window"]),
        ("train", {"allow_thin": True}, "allow_thin", ["true", "latent"]),
        ("train", {"latent": 8, "autoencoder_crop": 8}, "autoencoder_crop", ["is 8", "from 16 on"]),
        (
            "train",
            {"latent": 8, "image_size": [8, 64], "channel_mult": "1"},
            "image_size",
            ["is [8, 64]", "at least 16", "4 or null"],
        ),
        (
            "train",
            {"latent": 8, "image_size": [16, 24], "channel_mult": "1,2"},
            "image_size",
            ["is [16, 24]", "latent 8", "by 16", "[16, 16] or [16, 32]"],
        ),
        ("finetune", {"eta_path": "e", "cond_opt": "discrete_zero_uniform"}, "eta_path", ["cond_opt"]),
        ("sample", {"steps": 4, "timestep_respacing": "8", "mask_dir": "m"}, "steps", ["timestep_respacing"]),
        ("sample", {"use_ddim": True, "sampler": "ddpm", "mask_dir": "m"}, "use_ddim", ["sampler"]),
        ("sample", {"timestep_respacing": "ddim", "mask_dir": "m"}, "timestep_respacing", ["'ddim'"]),
        ("sample", {"device": "gpu", "mask_dir": "m"}, "device", ["'gpu'", "cpu"]),
        ("sample", {"eta": 0.5, "mask_dir": "m"}, "eta", ["ddim"]),
        ("sample", {"eta": 0.5, "timestep_respacing": "9", "mask_dir": "m"}, "eta", ['"ddpm"']),
        ("sample", {"time_grid": "logsnr", "timestep_respacing": "9", "mask_dir": "m"}, "time_grid", ["respacing"]),
        ("sample", {"dynamic_threshold": 0.9, "clip_denoised": False, "mask_dir": "m"}, "dynamic_threshold", ["clip"]),
        ("sample", {"dynamic_threshold": 0, "mask_dir": "m"}, "dynamic_threshold", ["above 0"]),
        ("sample", {"guidance_interval": [5, 0.3], "s": 2, "mask_dir": "m"}, "guidance_interval", ["[5.0, 0.3]"]),
        ("sample", {"guidance_interval": "0.3", "s": 2, "mask_dir": "m"}, "guidance_interval", ["[0.3]"]),
        ("sample", {"guidance_interval": [0.3, 5], "mask_dir": "m"}, "guidance_interval", ["s is 1"]),
        ("sample", {"mask_dir": "m", "data_dir": "d"}, "data_dir", ["mask_dir", "both"]),
        ("sample", {}, "data_dir", ["mask_dir", "neither"]),
        ("sample", {"mask_dir": "m", "split": "../up"}, "split", ["../up"]),
        ("evaluate", {"null_dir": "n", "objects": False}, "null_dir", ["objects is false"]),
        ("generate", {"read_npz": "n", "ignore_above": 0.0}, "ignore_above", ["read_npz"]),
        ("export", {"export_path": "weights.bin"}, "export_path", [".pt", ".safetensors"]),
    ],
)
def test_contradictions(action, values, key, names):
    base = {key: "x" for key in ACTIONS[action].required if key not in ("dataset_mode", "data_dir")}
    for more in ({"seedling": 1}, base):  # beside an unknown key, and alone
        line = refused(action, **{**more, **values})[key]
        assert all(name in line for name in (key, *names)), line


@pytest.mark.parametrize("action", list(ACTIONS))
def test_schema_files_equal_the_options(action):
    written = json.loads((ROOT / "configs" / "schema" / f"{action}.json").read_text(encoding="utf-8"))
    assert written == json_schema(ACTIONS[action]), (
        f"run: python main.py schema {action} > configs/schema/{action}.json"
    )


SHIPPED = sorted(
    path for path in (ROOT / "configs").rglob("*.json") if path.parent.name not in ("schema", "segmenter_labels")
)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_shipped_configs_load_and_name_their_schema(path):
    values = json.loads(path.read_text(encoding="utf-8"))
    schema = (path.parent / values.pop("$schema")).resolve()
    assert schema.is_file()
    load_config(schema.stem, values)


def test_shipped_configs_of_place_go_with_a_training_of_windows():
    folders = {path.parent for path in SHIPPED if path.name.endswith("place.json")}
    assert len(folders) == 2
    for folder in folders:
        shipped = {path: json.loads(path.read_text(encoding="utf-8")) for path in SHIPPED if path.parent == folder}
        (place,) = (values for path, values in shipped.items() if path.name.endswith("place.json"))
        (train,) = (values for values in shipped.values() if values.get("output_dir") == place["model_path"])
        assert (train["resize"], train["inpaint"]) == ("window", True)
        assert [train[key] for key in ("data_dir", "good_dir")] == [place[key] for key in ("data_dir", "good_dir")]


def test_the_configs_of_the_readme_mean_one_dataset():
    named = set(re.findall(r"configs/(config_\w+\.json)", (ROOT / "README.md").read_text(encoding="utf-8")))
    shipped = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in SHIPPED if path.name in named}
    assert len(shipped) == len(named) >= 9
    for key in ("data_dir", "dataset_mode", "good_dir"):
        assert len({values[key] for values in shipped.values() if key in values}) == 1, key


def test_every_action_has_a_shipped_config():
    used = {Path(json.loads(path.read_text(encoding="utf-8"))["$schema"]).stem for path in SHIPPED}
    assert used == set(ACTIONS)


@pytest.mark.parametrize("action", list(ACTIONS))
def test_every_option_has_one_line_of_meaning(action):
    described = [row for rows in describe_options(ACTIONS[action]).values() for row in rows]
    assert sorted(row.key for row in described) == sorted(ACTIONS[action].fields())
    for key, _, meaning in described:
        assert 10 < len(meaning) < 200, key
        assert "\n" not in meaning


@pytest.mark.parametrize("action", list(ACTIONS))
def test_groups_have_titles_and_about_ten_keys_come_first(action):
    kind = ACTIONS[action]
    assert all(group.title for group in kind.groups().values())
    assert len({group.title for group in kind.groups().values()}) == len(kind.groups())
    assert set(kind.required) <= set(kind.common or kind.fields()) <= set(kind.fields())
    assert len(kind.common or kind.fields()) <= 15


@pytest.mark.slow
def test_help_is_quick_and_lists_every_option():
    """Processor time, as other work on the machine must not decide, against that of a start with PyTorch."""

    def seconds(*arguments: str) -> tuple[float, str]:
        before = os.times()
        shown = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
        after = os.times()
        spent = after.children_user + after.children_system - before.children_user - before.children_system
        return spent, shown.stdout

    helps = [seconds("main.py", "train", "--help", "all") for _ in range(3)]
    assert all(f"\n  {key} " in helps[0][1] for key in ACTIONS["train"].fields())
    assert min(helps)[0] < seconds("-c", "import torch")[0] / 4


def test_the_page_of_options_is_that_of_the_options():
    assert write_options.PAGE.read_text(encoding="utf-8") == write_options.page(), (
        "run: python -m scripts.write_options"
    )


@pytest.mark.parametrize(("former", "key"), [("memorisation", "near_duplicates"), ("rivals", "baselines")])
def test_former_names_of_keys_are_read(former, key):
    needed = {"data_dir": "d", "synthetic_dir": "s", "output_dir": "o"}
    assert load_config("evaluate", {**needed, former: False}).get(key) is False
    assert former not in load_config("evaluate", {**needed, former: False}).to_json()
    assert key in refused("evaluate", **needed, **{former: False, key: True})[former]
    assert json_schema(ACTIONS["evaluate"])["properties"][former]["deprecated"]
