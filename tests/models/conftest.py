"""Small networks with weights that make every part of them matter, and label maps to condition them with."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recorded
import torch
from flat_options import unet
from torch import Tensor, nn

from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.models.unet import UNetModel

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
NUM_CLASSES = 4


@pytest.fixture(scope="session")
def fill() -> Callable[[nn.Module], nn.Module]:
    """Fill every weight from its name and shape, as the recorded reference outputs were made."""
    return recorded.fill


@pytest.fixture(scope="session")
def tiny(fill: Callable[[nn.Module], nn.Module]) -> Callable[..., UNetModel]:
    """Build a filled 16 px network of two levels, in evaluation mode; options may be overridden."""

    def build(**options: Any) -> UNetModel:
        defaults = {"image_size": 16, "num_channels": 32, "num_res_blocks": 1, "channel_mult": (1, 2)}
        return fill(unet(**{**defaults, "num_classes": NUM_CLASSES, **options})).eval()

    return build


@pytest.fixture(scope="session")
def noise() -> Callable[..., Tensor]:
    def draw(*shape: int, seed: int = 0) -> Tensor:
        return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))

    return draw


@pytest.fixture(scope="session")
def label_map() -> Callable[..., SemanticMap]:
    """Draw maps with null pixels among them, in 2x2 patches so that levels differ; edges on demand."""

    def draw(n: int = 2, size: tuple[int, int] = (16, 16), *, edges: bool = False, seed: int = 1) -> SemanticMap:
        rng = np.random.default_rng(seed)
        coarse = rng.integers(0, NUM_CLASSES + 1, (n, size[0] // 2, size[1] // 2), dtype=np.uint8)
        label = torch.from_numpy(coarse.repeat(2, axis=1).repeat(2, axis=2))
        edge = torch.from_numpy(rng.random((n, *size)) < 0.2) if edges else None
        return SemanticMap(label, NUM_CLASSES, edge)

    return draw


@dataclass
class GoldenCase:
    options: dict[str, Any]
    shapes: dict[str, list[int]]
    arrays: dict[str, np.ndarray]
    stride: int

    @property
    def condition(self) -> SemanticMap:
        label = torch.from_numpy(self.arrays["label"])
        instance = self.arrays.get("instance")
        return SemanticMap(label, self.options["num_classes"], None if instance is None else _edges(instance))


def _edges(instance: np.ndarray) -> Tensor:
    """Mark the pixels that differ from a 4-neighbor, of maps [N, H, W]."""
    edge = np.zeros(instance.shape, dtype=bool)
    for ahead, behind in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[:, :, 1:], np.s_[:, :, :-1])):
        differs = instance[ahead] != instance[behind]
        edge[ahead] |= differs
        edge[behind] |= differs
    return torch.from_numpy(edge)


@pytest.fixture(scope="session", params=["unet_64px_32ch", "unet_64px_instance"])
def golden(request: pytest.FixtureRequest) -> GoldenCase:
    """A network of the published implementation: its options, weight names and shapes, and recorded outputs."""
    record = json.loads((GOLDEN / f"{request.param}.json").read_text())
    unused = "class_cond use_fp16 diffusion_steps noise_schedule timestep_respacing use_kl predict_xstart"
    unused = {*unused.split(), "rescale_timesteps", "rescale_learned_sigmas"}
    options = {key: value for key, value in record["options"].items() if key not in unused}
    options["attention_resolutions"] = [int(side) for side in options["attention_resolutions"].split(",")]
    with np.load(GOLDEN / f"{request.param}.npz") as arrays:
        return GoldenCase(options, record["state_dict"], dict(arrays), record["probe_stride"])
