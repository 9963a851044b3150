"""SamplingPipeline: the images of `sample`, whatever came before, and clear words where something does not fit."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import command_line
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tiny import TINY
from torch import Tensor

from guided_diffusion import load_pipeline
from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.data.visualize import quantize
from guided_diffusion.diffusion.options import SamplerOptions
from guided_diffusion.pipelines.sampling import Cancelled, SamplingPipeline
from guided_diffusion.runtime.checkpoint import BEST, load_checkpoint
from guided_diffusion.runtime.errors import CheckpointError, ConfigError, DataError, UserError

ROOT = Path(__file__).parents[2]
SIZE, CLASSES = 16, 5
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {"steps": 4, "s": 1.5},
    "ancestral": {"sampler": "ddpm", "steps": 5, "s": 1.5, "extrapolation": 0.8, "dynamic_threshold": 0.9},
    "noisy": {"sampler": "ddim", "eta": 0.5, "steps": 4, "s": 2.0, "guidance_interval": [0.1, 2]},
    "plain": {"sampler": "dpm++2m-sde", "steps": 3, "time_grid": "uniform"},
}


QUICK = (("trained", "default"), ("trained", "plain"))


@pytest.fixture(scope="module")
def pipeline(trained: Path) -> SamplingPipeline:
    return load_pipeline(trained, device="cpu")


@pytest.fixture(scope="module")
def with_all(lemons: Path, tmp_path_factory) -> Path:
    """A run with instance edges and label diffusion, each of which has a say in the condition."""
    folder = tmp_path_factory.mktemp("runs") / "with_all"
    values = {**TINY, "data_dir": lemons, "output_dir": folder, "max_epochs": 1, "drop_rate": 0.2}
    assert command_line.run("train", **values, no_instance=False, cond_diffuse=True) == 0
    return folder


def labels(n: int = 3) -> NDArray[np.uint8]:
    """Label maps [N, 16, 16] with a square of another class each."""
    label = np.zeros((n, SIZE, SIZE), np.uint8)
    for index in range(n):
        label[index, 4:12, 3 + index : 10] = 1 + index % (CLASSES - 1)
    return label


def pixels(images: Tensor) -> NDArray[np.integer]:
    return quantize(images.numpy()).astype(int)


@pytest.fixture
def sampled(lemons: Path, tmp_path: Path, isdm) -> Callable[..., tuple[NDArray, list[int], NDArray]]:
    """`sampled(run, key=value)` runs the action and returns its masks [N, H, W], seeds and images [N, H, W, 3]."""

    def run(model: Path, **values: Any) -> tuple[NDArray, list[int], NDArray]:
        folder = tmp_path / "samples"
        base = {"model_path": str(model), "data_dir": str(lemons), "results_path": str(folder), "num_samples": 6}
        code, _, errors = isdm("sample", **{**base, **values})
        assert code == 0, errors
        lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
        masks, images = (
            np.stack([np.asarray(Image.open(folder / line[kind])) for line in lines]) for kind in ("mask", "image")
        )
        return masks, [line["seed"] for line in lines], images

    return run


# ------------------------------------------------------------------------------------- the images of the action


@pytest.mark.slow
def test_the_config_of_samples_from_bare_masks_can_be_given_again(trained, lemons, sampled, tmp_path, isdm):
    """The training's data_dir is no key of these samples: with mask_dir it would be a contradiction."""
    images = sampled(trained, data_dir="", mask_dir=str(lemons / "test" / "masks"), steps=2)[2]
    config = tmp_path / "samples" / "config.json"
    values = json.loads(config.read_text())
    assert (values["data_dir"], values["dataset_mode"]) == ("", load_checkpoint(trained / BEST).config["dataset_mode"])
    code, _, errors = isdm("sample", config, results_path=str(tmp_path / "again"))
    assert code == 0, errors
    again = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "again" / "images").iterdir())]
    assert sorted(image.tobytes() for image in again) == sorted(image.tobytes() for image in images)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "setting"),
    [
        pytest.param(model, setting, marks=[] if (model, setting) in QUICK else [pytest.mark.slow])
        for model in ("trained", "with_all")
        for setting in SETTINGS
    ],
)
def test_the_images_are_those_of_the_action(model, setting, sampled, request):
    run, options = request.getfixturevalue(model), SETTINGS[setting]
    masks, seeds, images = sampled(run, **options, batch_size=4)
    pipeline = load_pipeline(run, device="cpu")
    assert np.array_equal(pixels(pipeline(masks, seeds, **options, batch_size=4)), images)
    for batch_size in (1, 6):
        found = pixels(pipeline(masks, seeds, **options, batch_size=batch_size))
        # Another batch size may round float32 otherwise, which can move a value across the border of a gray level.
        assert np.abs(found - images).max() <= 1
        assert (found != images).mean() < 0.01


def test_what_is_loaded(pipeline, lemons):
    assert pipeline.image_shape == (3, SIZE, SIZE)
    assert pipeline.num_classes == CLASSES
    assert list(pipeline.class_names) == list(json.loads((lemons / "classes.json").read_text()).values())


@pytest.mark.slow
def test_settings_do_not_see_each_other(pipeline, trained):
    def sample(one: SamplingPipeline, setting: str) -> Tensor:
        return one(labels(), [1, 2, 3], **SETTINGS[setting], batch_size=2)

    fresh = {setting: sample(load_pipeline(trained, device="cpu"), setting) for setting in SETTINGS}
    for setting in (*SETTINGS, *reversed(SETTINGS)):
        assert torch.equal(sample(pipeline, setting), fresh[setting])


@pytest.mark.slow
def test_published_spellings_mean_what_they_mean_to_the_action(pipeline):
    for spelling, plain in (
        ({"timestep_respacing": "5"}, {"sampler": "ddpm", "steps": 5}),
        ({"timestep_respacing": "5", "use_ddim": True}, {"sampler": "ddim", "steps": 5}),
        ({}, {"sampler": "dpm++2m", "steps": 20, "time_grid": "logsnr"}),
    ):
        found, wanted = (pipeline(labels(), [1, 2, 3], **options) for options in (spelling, plain))
        assert torch.equal(found, wanted)


def test_extrapolation_begins_anew_with_every_batch(pipeline):
    options = SamplerOptions(sampler="ddpm", steps=5, time_grid="uniform")
    run = pipeline.begin(options, extrapolation=0.8)
    condition = pipeline.condition_of(labels())
    first, other, again = (run(condition, seeds) for seeds in ([1, 2, 3], [4, 5, 6], [1, 2, 3]))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, pipeline.begin(options)(condition, [1, 2, 3]))


def test_the_null_condition_is_looked_up_once_a_run(pipeline, monkeypatch):
    sizes = []
    modulate = pipeline.model.modulate
    monkeypatch.setattr(pipeline.model, "modulate", lambda maps: sizes.append(len(maps)) or modulate(maps))
    pipeline(labels(5), range(5), s=1.5, steps=2, batch_size=2)
    assert sizes == [1, 2, 2, 1]


@pytest.mark.slow
def test_a_new_run_sees_new_weights(trained):
    pipeline, options = load_pipeline(trained, device="cpu"), {"s": 1.5, "steps": 3}
    before = pipeline(labels(), range(3), **options)
    pipeline.model.load_state_dict(load_checkpoint(trained / BEST).weights("raw"))
    raw = load_pipeline(trained, device="cpu", weights="raw")(labels(), range(3), **options)
    assert torch.equal(pipeline(labels(), range(3), **options), raw)
    assert not torch.equal(before, raw)


def test_another_network_in_its_place(pipeline):
    """With a network that always predicts the same v, images do not depend on the condition."""
    seen = []

    def build(condition: SemanticMap, condition_fn: Any) -> Callable[[Tensor, Tensor], Tensor]:
        seen.append((len(condition), condition_fn))
        return lambda x_t, t: torch.zeros(len(x_t), 6, SIZE, SIZE)

    run = pipeline.begin(SamplerOptions(steps=3, time_grid="logsnr"), network=build)
    first, second = (run(pipeline.condition_of(label), [7, 8]) for label in (labels(2), labels(2)[::-1]))
    assert torch.equal(first, second)
    assert seen == [(2, None), (2, None)]


@pytest.mark.parametrize("count", [0, 1, 9])
def test_any_number_of_images(pipeline, count):
    images = pipeline(labels(count), range(count), steps=2)
    assert images.shape == (count, 3, SIZE, SIZE)
    assert images.dtype == torch.float32
    assert not images.is_inference()
    assert not images.numel() or images.abs().max() <= 1


def test_labels_come_in_many_types(pipeline):
    label = labels()
    wanted = pipeline(label, range(3), steps=2)
    for same in (label.tolist(), torch.from_numpy(label), label.astype(np.int64), label.astype(np.uint16)):
        assert torch.equal(pipeline(same, range(3), steps=2), wanted)
    condition = SemanticMap(torch.from_numpy(label), CLASSES)
    assert torch.equal(pipeline(condition, range(3), steps=2), wanted)
    binary = label > 0
    assert torch.equal(pipeline(binary, range(3), steps=2), pipeline(binary.astype(int), range(3), steps=2))
    no_class = np.where(label == 1, CLASSES, label)
    assert not torch.equal(pipeline(no_class, range(3), steps=2), wanted)


# ------------------------------------------------------------------------------------- progress and cancelling


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_progress_is_counted_in_steps_of_images(pipeline, batch_size):
    told: list[tuple[int, int]] = []
    pipeline(labels(5), range(5), steps=3, batch_size=batch_size, progress=lambda *counts: told.append(counts))
    done = [count for count, _ in told]
    assert {total for _, total in told} == {15}
    assert done == sorted(set(done))
    assert len(done) == 3 * -(-5 // batch_size)
    assert done[-1] == 15


@pytest.mark.slow
@pytest.mark.parametrize("at", [0, 1, 4, 6])
def test_cancelling_stops_at_the_next_step_and_leaves_the_pipeline_usable(pipeline, at):
    options = {"steps": 3, "batch_size": 2, "s": 1.5}
    wanted, done = pipeline(labels(4), range(4), **options), [0]
    with pytest.raises(Cancelled):
        pipeline(
            labels(4),
            range(4),
            **options,
            progress=lambda count, _: done.append(count),
            cancelled=lambda: len(done) > at,
        )
    assert len(done) - 1 == at
    assert torch.equal(pipeline(labels(4), range(4), **options, cancelled=lambda: False), wanted)


def test_a_run_can_go_on_after_it_was_cancelled(pipeline):
    run = pipeline.begin(SamplerOptions(steps=3, time_grid="logsnr", s=1.5))
    condition = pipeline.condition_of(labels())
    wanted = run(condition, [1, 2, 3])
    with pytest.raises(Cancelled):
        run(condition, [4, 5, 6], cancelled=lambda: True)
    assert torch.equal(run(condition, [1, 2, 3]), wanted)


# ---------------------------------------------------------------------------------------------- what cannot be


@pytest.mark.parametrize(
    ("label", "values"),
    [
        (np.zeros((2, 24, 24), int), ("[2, 24, 24]", "[N, 16, 16]")),
        (np.zeros((SIZE, SIZE), int), ("[16, 16]", "[N, 16, 16]")),
        (np.full((2, SIZE, SIZE), 255), ("map 0", "255", "0 to 4")),
        (np.stack([labels(1)[0], labels(1)[0] + 6]).astype(int), ("map 1", "6", "0 to 4")),
        (np.full((2, SIZE, SIZE), -1), ("map 0", "-1", "0 to 4")),
        (np.zeros((2, SIZE, SIZE)), ("float64",)),
        (SemanticMap(torch.zeros(2, SIZE, SIZE, dtype=torch.uint8), 3), ("3 classes",)),
        (SemanticMap(torch.zeros(2, 8, 8, dtype=torch.uint8), CLASSES), ("[2, 8, 8]", "[N, 16, 16]")),
        (
            SemanticMap(torch.zeros(2, SIZE, SIZE, dtype=torch.uint8), CLASSES, torch.zeros(2, SIZE, SIZE).bool()),
            ("with instance edges",),
        ),
    ],
)
def test_conditions_that_do_not_fit(pipeline, label, values):
    with pytest.raises(DataError) as caught:
        pipeline(label, [0, 1])
    error = caught.value
    assert error.path == "conditions"
    assert all(value in error.found for value in values)
    assert error.remedy
    assert "\n" not in str(error)


def test_a_condition_without_the_edges_that_the_model_sees(with_all):
    condition = SemanticMap(torch.zeros(1, SIZE, SIZE, dtype=torch.uint8), CLASSES)
    with pytest.raises(DataError) as caught:
        load_pipeline(with_all, device="cpu")(condition, [0])
    assert caught.value.path == "conditions"
    assert "without instance edges" in caught.value.found


def keys_of(error: UserError) -> list[str]:
    """The key of each line: as the error has it, else the first word of the line."""
    return list(getattr(error, "keys", ())) or [re.match(r"\w+", line)[0] for line in error.messages]


@pytest.mark.parametrize(
    ("options", "key", "values"),
    [
        ({"seeds": [0, 1]}, "seeds", ("2", "3")),
        ({"seeds": [0, 1, -1]}, "seeds", ("-1",)),
        ({"batch_size": 0}, "batch_size", ("0",)),
        ({"steps": 1000}, "steps", ("1000", "50")),
        ({"steps": 2.5}, "steps", ("2.5",)),
        ({"sampler": "euler"}, "sampler", ('"euler"', '"ddpm"')),
        ({"s": -1}, "s", ("-1",)),
        ({"s": 1.5, "guidance_interval": [1000, 2000]}, "guidance_interval", ("1000", "2000", "20 ")),
        ({"eta": 0.5}, "eta", ("0.5", '"dpm++2m"')),
        ({"extrapolation": -1}, "extrapolation", ("-1",)),
        ({"step": 10}, "step", ("'steps'",)),
        ({"timestep_respacing": "1"}, "timestep_respacing", ("'1'", "steps")),
        ({"timestep_respacing": "10,1"}, "timestep_respacing", ("'10,1'", "steps")),
        ({"timestep_respacing": "ddim2"}, "timestep_respacing", ("'ddim2'", "steps")),
    ],
)
def test_settings_that_cannot_be(pipeline, options, key, values):
    with pytest.raises(ConfigError) as caught:
        pipeline(labels(), **{"seeds": [0, 1, 2], **options})
    assert keys_of(caught.value) == [key]
    assert all(value in str(caught.value) for value in values)


# ----------------------------------------------------------------------------------------------------- loading


@pytest.mark.slow
def test_a_folder_a_file_and_exported_weights_are_one_model(pipeline, trained, isdm, tmp_path):
    options = {"s": 1.5, "steps": 3}
    wanted = pipeline(labels(), range(3), **options)
    for suffix in (".pt", ".safetensors"):
        target = tmp_path / f"weights{suffix}"
        assert isdm("export", model_path=str(trained), export_path=str(target))[0] == 0
    assert torch.equal(load_pipeline(str(trained / BEST), device="cpu")(labels(), range(3), **options), wanted)
    described = load_pipeline(tmp_path / "weights.safetensors", device="cpu")
    assert described.class_names == pipeline.class_names
    assert torch.equal(described(labels(), range(3), **options), wanted)
    keys = ("dataset_mode", "image_size", "num_heads", "num_classes", "prediction", "diffusion_steps")
    config = load_checkpoint(trained / BEST).config
    recorded = load_pipeline(tmp_path / "weights.pt", device="cpu")
    assert torch.equal(recorded(labels(), range(3), **options), wanted)
    (tmp_path / "weights.pt.json").unlink()
    bare = load_pipeline(tmp_path / "weights.pt", device="cpu", **{key: config[key] for key in keys})
    assert torch.equal(bare(labels(), range(3), **options), wanted)
    with pytest.raises(ConfigError) as caught:
        load_pipeline(tmp_path / "weights.pt", device="cpu")
    assert caught.value.keys == ("image_size", "dataset_mode", "prediction", "num_head_channels")


@pytest.mark.parametrize(
    ("options", "kind", "values"),
    [
        ({"weights": "0.5"}, CheckpointError, ("'0.5'", "raw, ema")),
        ({"device": "tpu"}, ConfigError, ("'tpu'",)),
        ({"precision": "fp8"}, ConfigError, ('"fp8"', '"fp32"')),
        ({"image_size": 32}, ConfigError, ("32", "16", str(BEST))),
        ({"image_sise": 32}, ConfigError, ("'image_size'",)),
    ],
)
def test_loading_that_cannot_be(trained, options, kind, values):
    with pytest.raises(kind) as caught:
        load_pipeline(trained, **options)
    assert all(value in str(caught.value) for value in values)
    if kind is ConfigError:
        assert caught.value.keys == tuple(options)


def test_there_is_nothing_to_load(tmp_path):
    with pytest.raises(CheckpointError) as caught:
        load_pipeline(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: ")


def test_importing_the_package_does_not_import_torch():
    code = "import sys, guided_diffusion; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.fixture(scope="module")
def gray(lemons: Path, tmp_path_factory) -> Path:
    """A run of gray images."""
    folder = tmp_path_factory.mktemp("runs") / "gray"
    values = {**TINY, "data_dir": lemons, "output_dir": folder, "max_epochs": 1, "drop_rate": 0.2}
    assert command_line.run("train", **values, image_channels=1) == 0
    return folder


@pytest.mark.parametrize(("model", "color"), [("trained", "RGB"), ("gray", "L")])
def test_the_example_of_the_readme(model, color, request, tmp_path, monkeypatch):
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("## From Python")[2]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    shutil.copytree(request.getfixturevalue(model), tmp_path / "runs" / "demo" / "finetune")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    pictures = sorted(path.name for path in tmp_path.glob("*.png"))
    assert pictures == [f"sample_{index}.png" for index in range(4)]
    with Image.open(tmp_path / "sample_0.png") as picture:
        assert picture.size == (SIZE, SIZE)
        assert picture.mode == color
