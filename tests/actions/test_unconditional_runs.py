"""A network without a condition as a user has it: trained, trained on from weights, exported, and sampled from."""

from __future__ import annotations

import pytest
import torch
from error_lines import check_error, check_errors
from flat_options import unet
from tiny import TINY, TWO_LEVELS

from guided_diffusion import load_pipeline
from guided_diffusion.conditions.no_condition import NoCondition
from guided_diffusion.runtime.checkpoint import BEST, load_checkpoint
from guided_diffusion.runtime.errors import ConfigError, DataError

pytestmark = pytest.mark.slow


@pytest.fixture
def unconditional(lemons, isdm, tmp_path):
    """The folder of a finished run of one epoch."""
    folder = tmp_path / "unconditional"
    values = {**TWO_LEVELS, "data_dir": str(lemons), "class_cond": False, "max_epochs": 1, "preview_interval": 1}
    code, _, errors = isdm("train", **values, output_dir=str(folder), preview_steps=2)
    assert (code, errors) == (0, [])
    assert (folder / "previews" / "epoch_0001.png").is_file()
    return folder


def test_trains_and_never_makes_pairs(unconditional, lemons, isdm, tmp_path):
    checkpoint = load_checkpoint(unconditional / BEST)
    assert checkpoint.config["condition"] == "none"
    assert "output_blocks.0.0.in_layers.2.weight" in checkpoint.model
    model = {"model_path": unconditional, "results_path": tmp_path / "out"}
    code, _, errors = isdm("sample", **model, data_dir=lemons, augment_masks=True, s=2)
    assert code == 2
    check_errors(errors, "data_dir", "augment_masks", "num_samples", "s")
    assert all(str(unconditional / BEST) in line for line in errors)
    check_errors(isdm("sample", **model, mask_dir=lemons / "test" / "masks", num_samples=2)[2], "mask_dir")
    assert not (tmp_path / "out").exists()


def test_keys_that_say_how_masks_are_read_are_refused_and_its_own_config_is_not(unconditional, isdm, tmp_path):
    values = {"model_path": unconditional, "results_path": tmp_path / "out", "num_samples": 2, "steps": 2}
    idle = {"ignore_label": 9, "exif": "ignore", "flip_pairs": [["a", "b"]], "mask_resize": "area"}
    idle |= {"resize": "window", "scale": 0.5, "max_objects": 3}
    code, _, errors = isdm("sample", **values, **idle)
    assert code == 2
    check_errors(errors, *idle)
    assert not (tmp_path / "out").exists()
    for given in ((), (tmp_path / "out" / "config.json",)):
        code, _, errors = isdm("sample", *given, **({} if given else values))
        assert (code, errors) == (0, [])


def test_images_come_from_the_pipeline(unconditional):
    pipeline = load_pipeline(unconditional, device="cpu")
    images = pipeline(NoCondition(3, (16, 16)), [1, 2, 3], steps=2, batch_size=2)
    assert images.shape == (3, 3, 16, 16)
    assert (images[0] - images[1]).abs().max() > 0.1
    maps = torch.zeros(3, 16, 16, dtype=torch.uint8)
    assert torch.equal(pipeline(maps, [1, 2, 3], steps=2, batch_size=2), images)
    with pytest.raises(ConfigError, match=r"^s\b.*\b2\b"):
        pipeline(NoCondition(1, (16, 16)), [1], s=2)
    with pytest.raises(DataError, match=r"\[8, 8\].*\[16, 16\]|\[16, 16\].*\[8, 8\]"):
        pipeline(NoCondition(1, (8, 8)), [1])


def test_a_network_with_a_condition_needs_one(trained):
    with pytest.raises(DataError, match=r"^conditions\b"):
        load_pipeline(trained, device="cpu")(NoCondition(1, (16, 16)), [1])


def test_another_condition_is_another_run(unconditional, lemons, isdm):
    values = {**TWO_LEVELS, "data_dir": str(lemons), "output_dir": str(unconditional), "max_epochs": 2}
    code, _, errors = isdm("train", **values)
    assert code == 2
    check_errors(errors, "condition", "class_cond")
    assert all(shown in errors[0] for shown in ('"mask"', '"none"', str(unconditional)))
    assert isdm("train", **values, condition="none")[0] == 0


@pytest.mark.parametrize("action", ["train", "finetune"])
def test_bare_weights_are_trained_on(lemons, isdm, tmp_path, action):
    network = unet(
        image_size=16, num_channels=32, channel_mult=(1, 1), num_res_blocks=1, attention_resolutions=(8,),
        condition="none", resblock_updown=True,
    )  # fmt: skip
    torch.save(network.state_dict(), tmp_path / "bare.pt")
    values = {"data_dir": str(lemons), "resume_checkpoint": str(tmp_path / "bare.pt"), "prediction": "eps"}
    if action == "train":
        values |= {**TWO_LEVELS, "condition": "none"}
    else:
        values |= {key: TWO_LEVELS[key] for key in ("dataset_mode", "image_size", "diffusion_steps", "batch_size")}
        values |= {"num_heads": 4, "preview_interval": 0, "tensorboard": False}
    code, _, errors = isdm(action, **values, output_dir=str(tmp_path / "run"), max_epochs=1)
    assert (code, errors) == (0, [])
    assert load_checkpoint(tmp_path / "run" / BEST).config["condition"] == "none"


def test_bare_weights_name_the_condition_that_does_not_fit(trained, lemons, isdm, tmp_path):
    """What a network knows of masks is not left out."""
    torch.save(load_checkpoint(trained / BEST).model, tmp_path / "bare.pt")
    values = {
        **TINY,
        "data_dir": str(lemons),
        "resume_checkpoint": str(tmp_path / "bare.pt"),
        "prediction": "eps",
    }
    code, _, errors = isdm("train", **values, output_dir=str(tmp_path / "run"), condition="none")
    assert code == 2
    (line,) = errors
    check_error(line, tmp_path / "bare.pt", 'condition is "mask"', '"none"')
