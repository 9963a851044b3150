"""Inpainting networks from the command line: begun from plain ones, resumed, sampled from, exported."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import command_line
import numpy as np
import pytest
import torch
from PIL import Image
from tiny import TINY
from torch import Tensor

from guided_diffusion import load_pipeline
from guided_diffusion.conditions.known_region import KnownRegion
from guided_diffusion.conditions.no_condition import NoCondition
from guided_diffusion.diffusion.options import SAMPLER_DEFAULTS
from guided_diffusion.models.state_dict import AUGMENT_EMBED
from guided_diffusion.pipelines.sampling import SamplingPipeline
from guided_diffusion.pipelines.training import EMA_INITIAL_STEP
from guided_diffusion.runtime.checkpoint import BEST, LAST, load_checkpoint
from guided_diffusion.runtime.errors import DataError

FIRST = "input_blocks.0.0.weight"
SHORT = {"preview_interval": 0, "tensorboard": False}
HOLES = {"resize": "window", "inpaint": True}


@pytest.fixture(scope="module")
def filled(lemons, tmp_path_factory) -> Path:
    """A run of an inpainting network that is told of augmentation, by windows, with previews."""
    folder = tmp_path_factory.mktemp("runs") / "filled"
    values = {**TINY, **HOLES, "augment": 0.3, "max_epochs": 1, "drop_rate": 0.2, "preview_interval": 1}
    values |= {"preview_steps": 2, "preview_images": 2}
    assert command_line.run("train", **values, data_dir=lemons, output_dir=folder) == 0
    return folder


@pytest.fixture(scope="module")
def pipeline(filled) -> SamplingPipeline:
    return load_pipeline(filled, device="cpu")


def train(isdm, lemons: Path, folder: Path, **values: Any) -> list[str]:
    code, _, errors = isdm("train", **{**TINY, "data_dir": lemons, "output_dir": folder, "max_epochs": 1, **values})
    assert code == (2 if errors else 0)
    return errors


def moved(average: dict[str, Tensor], weights: dict[str, Tensor], rate: float, steps: int = 3) -> dict[str, Tensor]:
    """Return what becomes of an average that is taken over, where the weights stay as they are."""
    left = math.prod(min(rate, (1 + n) / (10 + n)) for n in range(EMA_INITIAL_STEP + 1, EMA_INITIAL_STEP + steps + 1))
    return {name: weights[name].lerp(value, left) for name, value in average.items()}


# ------------------------------------------------------------------------------------------------------ starting


@pytest.mark.slow
@pytest.mark.parametrize("source", [LAST, BEST])
@pytest.mark.parametrize("action", ["train", "finetune"])
def test_a_plain_checkpoint_starts_one_with_its_weights_alone(action, source, trained, lemons, tmp_path, isdm):
    """With a tiny learning rate the weights after a few steps are those of the start."""
    given = trained / source
    values = {"data_dir": lemons, "output_dir": tmp_path / "run", "resume_checkpoint": given, "inpaint": True}
    values |= {
        **SHORT,
        "lr": 1e-12,
        "max_epochs": 1,
        "batch_size": 3,
        "ema_rate": [0.9, 0.99],
        "drop_rate": 0.2,
        "augment": 0.2,
    }
    code, _, errors = isdm(action, **({**TINY, **values} if action == "train" else values))
    assert code == 0, errors
    plain, begun = load_checkpoint(given), load_checkpoint(tmp_path / "run" / LAST)
    assert "started_from" in begun.lineage
    averages = {rate: moved(average, plain.model, float(rate)) for rate, average in plain.ema.items()}
    for ours, theirs in ((begun.model, plain.model), *((begun.ema[rate], averages[rate]) for rate in averages)):
        assert ours.keys() == theirs.keys() | {AUGMENT_EMBED}
        assert ours[FIRST].shape[1] == 7
        assert ours[FIRST][:, 3:].abs().max() < 1e-9
        assert torch.allclose(ours[FIRST][:, :3], theirs[FIRST], atol=1e-6)
        assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in theirs.keys() - {FIRST})


@pytest.mark.slow
@pytest.mark.parametrize("action", ["train", "finetune"])
def test_bare_weights_start_one_too(action, trained, lemons, tmp_path, isdm):
    assert isdm("export", model_path=trained, export_path=tmp_path / "bare.pt", weights="raw")[0] == 0
    (tmp_path / "bare.pt.json").unlink()
    values = {"data_dir": lemons, "output_dir": tmp_path / "run", "resume_checkpoint": tmp_path / "bare.pt"}
    values |= {**SHORT, "inpaint": True, "max_epochs": 1, "prediction": "v", "lr": 1e-12}
    tiny = TINY if action == "train" else {key: TINY[key] for key in ("dataset_mode", "image_size", "diffusion_steps")}
    code, _, errors = isdm(action, **{**tiny, "num_heads": 4, "num_classes": 5, **values})
    assert code == 0, errors
    begun, plain = load_checkpoint(tmp_path / "run" / LAST), load_checkpoint(trained / BEST)
    assert begun.config["inpaint"] is True
    assert torch.allclose(begun.model[FIRST][:, :3], plain.model[FIRST], atol=1e-6)
    assert begun.model[FIRST][:, 3:].abs().max() < 1e-9


@pytest.mark.parametrize("action", ["train", "finetune"])
def test_what_fills_holes_is_not_made_plain(action, filled, lemons, tmp_path, isdm):
    values = {"data_dir": lemons, "output_dir": tmp_path / "run", "resume_checkpoint": filled, "inpaint": False}
    code, _, errors = isdm(action, **({**TINY, "resize": "window", **values} if action == "train" else values))
    assert code == 2
    (line,) = errors
    assert line.startswith("error: inpaint ")
    assert not (tmp_path / "run" / LAST).exists()


def test_sampling_does_not_make_a_plain_network_fill_holes(trained, lemons, tmp_path, isdm):
    values = {"model_path": trained, "data_dir": lemons, "results_path": tmp_path / "out", "inpaint": True}
    code, _, errors = isdm("sample", **values)
    assert code == 2
    (line,) = errors
    assert "inpaint=false" in line


@pytest.mark.slow
def test_a_run_that_was_begun_goes_on_bit_for_bit_without_its_source(trained, lemons, tmp_path, isdm):
    source = shutil.copytree(trained, tmp_path / "source")
    common = {**HOLES, "augment": 0.3, "resume_checkpoint": source, "drop_rate": 0.2}
    assert not train(isdm, lemons, tmp_path / "whole", **common, max_epochs=2)
    assert not train(isdm, lemons, tmp_path / "parts", **common, max_epochs=1)
    shutil.rmtree(source)
    assert not train(isdm, lemons, tmp_path / "parts", **common, max_epochs=2)
    for name in (LAST, BEST):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
def test_another_augmentation_is_another_run(filled, lemons, tmp_path, isdm):
    folder = shutil.copytree(filled, tmp_path / "run")
    (line,) = train(isdm, lemons, folder, **HOLES, augment=0.1, max_epochs=2, drop_rate=0.2)
    assert line.startswith("error: augment ")
    # From its weights it may be begun, with or without.
    for augment in (0.0, 0.6):
        values = {**HOLES, "augment": augment, "resume_checkpoint": filled, "lr": 1e-12, "drop_rate": 0.2}
        assert not train(isdm, lemons, tmp_path / f"{augment}", **values)
        begun = load_checkpoint(tmp_path / f"{augment}" / LAST)
        assert "started_from" in begun.lineage
        assert (AUGMENT_EMBED in begun.model) == (augment > 0)


# ------------------------------------------------------------------------------------------------------ sampling


def test_previews_show_the_filled_holes(filled):
    (preview,) = (filled / "previews").iterdir()
    assert Image.open(preview).width > 0


@pytest.mark.slow
def test_samples_are_whole_images_and_weights_are_exported(filled, lemons, tmp_path, isdm):
    images = []
    for name in ("run", "bare.pt", "described.safetensors"):
        model, more = filled, {}
        if name != "run":
            model = tmp_path / name
            assert isdm("export", model_path=filled, export_path=model)[0] == 0
        if name == "bare.pt":
            shared = {key: TINY[key] for key in ("dataset_mode", "image_size", "diffusion_steps")}
            more = {**shared, "num_heads": 4, "prediction": "v", "resize": "window"}
        folder = tmp_path / f"samples of {name}"
        values = {"model_path": model, "data_dir": lemons, "results_path": folder, "num_samples": 2, "steps": 2}
        code, _, errors = isdm("sample", **values, **more, s=1.5)
        assert code == 0, errors
        images.append([np.asarray(Image.open(path)) for path in sorted((folder / "images").iterdir())])
    for other in images[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(images[0], other, strict=True))


def region(n: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    images, holes = 2 * torch.rand(n, 3, 16, 16, generator=draw) - 1, torch.zeros(n, 16, 16, dtype=torch.bool)
    holes[:, 3:10, 4:9] = True
    return images, holes


SEEDS = (1, 2, 3)
MAPS = torch.randint(5, (3, 16, 16), generator=torch.Generator().manual_seed(1))


@pytest.mark.slow
@pytest.mark.parametrize("s", [1.0, 2.0])
@pytest.mark.parametrize("sampler", SAMPLER_DEFAULTS)
def test_holes_are_filled_and_the_rest_is_given(pipeline, sampler, s):
    images, holes = region()
    options = {"sampler": sampler, "steps": 3, "s": s, "dynamic_threshold": 0.9, "extrapolation": 0.8}
    found = pipeline(MAPS, SEEDS, known=(images.numpy(), holes.numpy()), **options)
    outside = ~holes[:, None].expand_as(images)
    assert torch.equal(found[outside], images[outside])
    assert not torch.isclose(found, images)[~outside].all()
    alone = pipeline(MAPS, SEEDS, known=KnownRegion(images, holes), batch_size=1, **options)
    assert torch.equal(alone[outside], found[outside])
    torch.testing.assert_close(alone, found, rtol=1e-3, atol=1e-3)


def test_without_a_known_region_everything_is_made(pipeline):
    images, _ = region()
    whole = pipeline(MAPS, SEEDS, steps=2)
    holes = torch.ones(3, 16, 16, dtype=torch.bool)
    assert torch.equal(whole, pipeline(MAPS, SEEDS, steps=2, known=(images, holes)))


IMAGES, HOLES_GIVEN = region()
WRONG = {
    "other images": (IMAGES[:2], HOLES_GIVEN),
    "other size": (IMAGES[..., :8], HOLES_GIVEN[..., :8]),
    "gray levels": (IMAGES * 127.5, HOLES_GIVEN),
    "bytes": (IMAGES.byte(), HOLES_GIVEN),
    "no booleans": (IMAGES, HOLES_GIVEN.float()),
    "not a number": (IMAGES * float("nan"), HOLES_GIVEN),
    "one array": (IMAGES,),
    "text": ("image.png", "hole.png"),
}


@pytest.mark.parametrize("name", WRONG)
def test_misfits_are_named(name, pipeline):
    with pytest.raises(DataError) as caught:
        pipeline(MAPS, SEEDS, steps=2, known=WRONG[name])
    assert caught.value.path == "known"


def test_a_plain_network_fills_no_holes(trained):
    with pytest.raises(DataError) as caught:
        load_pipeline(trained, device="cpu")(MAPS, SEEDS, steps=2, known=region())
    assert caught.value.path == "known"
    assert "inpaint" in caught.value.remedy


@pytest.mark.slow
@pytest.mark.parametrize("more", [{"cond_diffuse": True}, {"condition": "none"}, {"image_channels": 1}])
def test_with_label_diffusion_without_masks_and_in_gray(more, lemons, tmp_path, isdm):
    assert not train(isdm, lemons, tmp_path / "run", **HOLES, **more, learn_sigma=False)
    values = {"model_path": tmp_path / "run", "data_dir": lemons, "results_path": tmp_path / "out", "steps": 2}
    pipeline = load_pipeline(tmp_path / "run", device="cpu")
    images, holes = region()
    images = images[:, : pipeline.image_shape[0]]
    if pipeline.conditional:
        code, _, errors = isdm("sample", **values)
        assert code == 0, errors
    found = pipeline(MAPS if pipeline.conditional else NoCondition(3, (16, 16)), SEEDS, steps=2, known=(images, holes))
    assert torch.equal(found.movedim(1, -1)[~holes], images.movedim(1, -1)[~holes])
