"""Published weights without a condition: what their names and shapes, and the papers, tell of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from guided_diffusion.config.finetune import FinetuneConfig
from guided_diffusion.config.load import read_config
from guided_diffusion.config.pipeline import LoadConfig
from guided_diffusion.pipelines.build import build_network, trained_config
from guided_diffusion.runtime.checkpoint import Checkpoint
from guided_diffusion.runtime.errors import ConfigError

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


@pytest.fixture(params=["", "module."])
def lsun(request) -> Checkpoint:
    """Weights of the names and shapes of lsun_bedroom.pt, without memory for their values."""
    shapes = json.loads((GOLDEN / "ddpmseg_lsun256_layout.json").read_text())["state_dict"]
    weights = {request.param + name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    return Checkpoint(Path("lsun_bedroom.pt"), weights)


def shapes_of(weights) -> dict[str, tuple[int, ...]]:
    return {name.removeprefix("module."): tuple(weight.shape) for name, weight in weights.items()}


def test_lsun_needs_no_options(lsun):
    trained = trained_config(lsun, read_config(LoadConfig, {"model_path": "x"}))
    model, diffusion = trained.model, trained.diffusion
    assert (trained.geometry.image_size, model.condition, model.class_cond) == (256, "none", False)
    assert (model.num_channels, model.num_head_channels, model.attention_resolutions) == (256, 64, (32, 16, 8))
    assert (diffusion.prediction, diffusion.noise_schedule, diffusion.diffusion_steps) == ("eps", "linear", 1000)
    assert diffusion.learn_sigma
    assert not diffusion.rescale_timesteps
    with torch.device("meta"):
        network = build_network(trained)
    assert shapes_of(network.state_dict()) == shapes_of(lsun.model)
    assert sum(weight.numel() for weight in network.parameters()) == 552_814_086


def test_lsun_becomes_a_start_with_masks(lsun):
    values = {"data_dir": "d", "resume_checkpoint": "x", "output_dir": "o", "condition": "mask"}
    config = read_config(FinetuneConfig, {**values, "dataset_mode": "multi-class", "no_instance": False})
    trained = trained_config(lsun, config, takes_masks=True)
    assert (trained.model.condition, trained.source.dataset_mode) == ("mask", "multi-class")
    assert (trained.source.num_classes, trained.geometry.no_instance) == (None, False)
    assert (trained.geometry.image_size, trained.model.num_head_channels) == (256, 64)
    with pytest.raises(ConfigError) as caught:
        trained_config(lsun, read_config(FinetuneConfig, values), takes_masks=True)
    assert caught.value.keys == ("dataset_mode",)


def test_a_published_layout_says_what_is_published_for_it_alone(lsun):
    lsun.model = {name: weight for name, weight in lsun.model.items() if not name.endswith("out.2.weight")}
    lsun.model["out.2.weight"] = torch.empty(3, 256, 3, 3, device="meta")  # without learn_sigma it is another network
    with pytest.raises(ConfigError) as caught:
        trained_config(lsun, read_config(LoadConfig, {"model_path": "x"}))
    assert caught.value.keys == ("image_size", "prediction", "num_head_channels")
