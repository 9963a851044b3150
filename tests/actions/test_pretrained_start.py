"""A network without a condition as the start of one with masks: exact at first, then it learns them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from error_lines import check_error, check_errors
from flat_options import unet
from tiny import TINY, TWO_LEVELS

from guided_diffusion import load_pipeline
from guided_diffusion.conditions.no_condition import NoCondition
from guided_diffusion.runtime.checkpoint import BEST, LAST, load_checkpoint

pytestmark = pytest.mark.slow

ALONE = {key: value for key, value in TWO_LEVELS.items() if key != "dataset_mode"}
FINETUNE = {"dataset_mode": "multi-class", "condition": "mask", "batch_size": 3, "preview_interval": 0}
FINETUNE |= {"tensorboard": False, "max_epochs": 1, "ema_rate": [0.9, 0.99]}


@pytest.fixture(scope="session")
def pretrained(lemons, tmp_path_factory) -> Path:
    """The folder of a run without masks, long enough for weights that are not those of the beginning."""
    import command_line

    folder = tmp_path_factory.mktemp("runs") / "pretrained"
    values = {**ALONE, "image_dir": lemons / "train" / "images", "output_dir": folder, "max_epochs": 3}
    assert command_line.run("train", **values) == 0
    return folder


def lineage_of(folder: Path) -> dict:
    return load_checkpoint(folder / LAST).lineage


@pytest.mark.parametrize("action", ["train", "finetune"])
def test_the_images_are_the_same_until_masks_are_learned(pretrained, lemons, isdm, tmp_path, action):
    """With a learning rate of nearly 0, images of any mask are those of the network that never saw one."""
    values = {"data_dir": lemons, "resume_checkpoint": pretrained, "output_dir": tmp_path / "run", "lr": 1e-30}
    options = {**TWO_LEVELS, "max_epochs": 1, "drop_rate": 0.2} if action == "train" else FINETUNE
    code, _, errors = isdm(action, **{**options, **values})
    assert (code, errors) == (0, [])
    log = (tmp_path / "run" / "log.txt").read_text()
    (line,) = (line for line in log.splitlines() if "converted" in line)
    assert "condition none to mask" in line
    assert "5 classes" in line
    source = {"train": LAST, "finetune": BEST}[action]
    plain = load_pipeline(pretrained / source, weights="raw", device="cpu")
    spade = load_pipeline(tmp_path / "run" / LAST, weights="raw", device="cpu")
    maps = torch.randint(0, 6, (3, 16, 16), generator=torch.Generator().manual_seed(0))
    expected = plain(NoCondition(3, (16, 16)), [1, 2, 3], steps=3)
    for s in (1.0, 2.0):
        torch.testing.assert_close(spade(maps, [1, 2, 3], steps=3, s=s), expected, atol=1e-4, rtol=0)
    averaged = load_pipeline(pretrained / source, weights="0.99", device="cpu")
    spade = load_pipeline(tmp_path / "run" / LAST, weights="0.99", device="cpu")
    # The average moves by 1 % towards weights that stayed the same.
    torch.testing.assert_close(
        spade(maps, [1, 2, 3], steps=3), averaged(NoCondition(3, (16, 16)), [1, 2, 3], steps=3), atol=0.05, rtol=0
    )
    lineage = lineage_of(tmp_path / "run")
    assert lineage["converted"] == "condition none to mask"
    assert (tmp_path / "run" / lineage["started_from"]["path"]).resolve() == (pretrained / source).resolve()
    assert lineage["saw_dropped_masks"] is True


def test_masks_are_learned_and_an_interrupted_run_goes_on(pretrained, lemons, isdm, tmp_path):
    values = {**FINETUNE, "data_dir": lemons, "resume_checkpoint": pretrained, "lr": 1e-2, "drop_rate": 0}
    assert isdm("finetune", **values, output_dir=tmp_path / "run")[0] == 0
    code, _, errors = isdm("finetune", **{**values, "max_epochs": 3}, output_dir=tmp_path / "run")
    assert (code, errors) == (0, [])
    assert isdm("finetune", **{**values, "max_epochs": 3}, output_dir=tmp_path / "whole")[0] == 0
    ours, whole = (load_checkpoint(tmp_path / name / LAST) for name in ("run", "whole"))
    assert all(torch.equal(value, ours.model[name]) for name, value in whole.model.items())
    assert ours.lineage == whole.lineage
    assert ours.lineage["saw_dropped_masks"] is False
    maps = torch.randint(0, 6, (2, 16, 16), generator=torch.Generator().manual_seed(0))
    images = load_pipeline(tmp_path / "run" / LAST, weights="raw", device="cpu")(maps, [1, 1], steps=3)
    assert (images[0] - images[1]).abs().max() > 1e-4


@pytest.mark.parametrize("action", ["train", "finetune"])
def test_bare_weights_are_a_start(lemons, isdm, tmp_path, action):
    network = unet(
        image_size=16, num_channels=32, channel_mult=(1, 1), num_res_blocks=1, attention_resolutions=(8,),
        condition="none", resblock_updown=True,
    )  # fmt: skip
    torch.save(network.state_dict(), tmp_path / "bare.pt")
    values = {"data_dir": lemons, "resume_checkpoint": tmp_path / "bare.pt", "output_dir": tmp_path / "run"}
    if action == "train":
        values |= {**TWO_LEVELS, "prediction": "eps", "max_epochs": 1}
    else:
        values |= {**FINETUNE, "image_size": 16, "num_heads": 4, "diffusion_steps": 50, "prediction": "eps"}
    code, _, errors = isdm(action, **values)
    assert (code, errors) == (0, [])
    checkpoint = load_checkpoint(tmp_path / "run" / LAST)
    assert (checkpoint.config["condition"], checkpoint.config["num_classes"]) == ("mask", 5)
    assert checkpoint.config["prediction"] == "eps"
    assert "converted" in checkpoint.lineage


def test_a_start_that_does_not_fit_is_named(pretrained, lemons, isdm, tmp_path):
    values = {"data_dir": lemons, "resume_checkpoint": pretrained, "output_dir": tmp_path / "run"}
    code, _, errors = isdm(
        "train", **{**TWO_LEVELS, **values, "image_channels": 1, "num_channels": 64, "learn_sigma": False}
    )
    assert code == 2
    check_errors(errors, "num_channels", "learn_sigma", "image_channels")
    assert all("condition" not in line for line in errors)
    code, _, errors = isdm("finetune", **{**FINETUNE, **values, "image_channels": 1})
    assert code == 2
    check_errors(errors, "image_channels")
    torch.save(load_checkpoint(pretrained / BEST).model, tmp_path / "bare.pt")
    bare = {**TWO_LEVELS, **values, "resume_checkpoint": tmp_path / "bare.pt", "prediction": "v", "image_channels": 1}
    code, _, errors = isdm("train", **bare)
    assert code == 2
    (line,) = errors
    check_error(line, tmp_path / "bare.pt", "image_channels is 3 in the file, 1 in the config")
    assert "num_classes" not in line


def test_masks_have_to_be_asked_for(pretrained, lemons, isdm, tmp_path):
    """What was trained without masks is finetuned without them, unless the condition is given."""
    values = {"data_dir": lemons, "resume_checkpoint": pretrained, "batch_size": 3, "tensorboard": False}
    values |= {"max_epochs": 1, "preview_interval": 0}
    code, _, errors = isdm("finetune", **values, output_dir=tmp_path / "images")
    assert (code, errors) == (0, [])
    assert load_checkpoint(tmp_path / "images" / LAST).config["condition"] == "none"
    code, _, errors = isdm("finetune", **values, condition="mask", output_dir=tmp_path / "masks")
    assert code == 2
    check_errors(errors, "condition")
    assert "dataset_mode" in errors[0]
    code, _, errors = isdm("finetune", **values, dataset_mode="multi-class", output_dir=tmp_path / "other")
    assert code == 2
    check_errors(errors, "dataset_mode")
    assert "set condition to mask" in errors[0]
    code, _, errors = isdm("finetune", **values, dataset_mode="boxes", output_dir=tmp_path / "none")
    assert code == 2
    check_errors(errors, "dataset_mode")
    assert "set condition to mask" not in errors[0]  # such data has none


@pytest.mark.parametrize("action", ["train", "finetune"])
def test_a_start_without_masks_makes_none(pretrained, lemons, isdm, tmp_path, action):
    values = {"data_dir": lemons, "resume_checkpoint": pretrained, "output_dir": tmp_path / "run", "generates": "pair"}
    base = {**TWO_LEVELS, "learn_sigma": False} if action == "train" else {**FINETUNE, "learn_sigma": None}
    code, _, errors = isdm(action, **{**base, **values})
    assert code == 2
    assert any(line.startswith("error: generates") for line in errors)
    torch.save(load_checkpoint(pretrained / BEST).model, tmp_path / "bare.pt")
    known = {"prediction": "v", "image_size": 16, "num_heads": 4}
    code, _, errors = isdm(action, **{**base, **values, **known, "resume_checkpoint": tmp_path / "bare.pt"})
    assert code == 2
    check_errors(errors, "generates")


def test_a_network_with_masks_does_not_forget_them(trained, lemons, isdm, tmp_path):
    values = {**TINY, "data_dir": lemons, "resume_checkpoint": trained, "condition": "none", "max_epochs": 9}
    code, _, errors = isdm("train", **values, output_dir=tmp_path / "run")
    assert code == 2
    check_errors(errors, "condition")
