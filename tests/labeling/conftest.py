"""Random maps and label maps, and recorded weights by the rule of the golden files."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from guided_diffusion.labeling.maps import ImageMaps

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def _value(name: str, shape: Sequence[int]) -> np.ndarray:
    value = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) == 0:
        return np.zeros((), dtype=np.int64)
    if len(shape) > 1:
        value = value / np.sqrt(np.prod(shape[1:]))
    elif name.endswith("running_var"):
        value = 1 + 0.1 * abs(value)
    else:
        value = 1 + 0.1 * value if name.endswith("weight") else 0.1 * value
    return value.astype(np.float32)


@pytest.fixture(scope="session")
def ruled() -> Callable[..., dict[str, Tensor]]:
    """Make the weights of a recorded classifier from their names and shapes."""

    def make(shapes: Mapping[str, Sequence[int]], prefix: str = "") -> dict[str, Tensor]:
        return {name: torch.from_numpy(_value(prefix + name, tuple(shape))) for name, shape in shapes.items()}

    return make


@pytest.fixture(scope="session")
def golden() -> Callable[[str], tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """Read a recorded case: its description and its arrays."""

    def read(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        record = json.loads((GOLDEN / f"ddpmseg_{name}.json").read_text())
        arrays = GOLDEN / f"ddpmseg_{name}.npz"
        if not arrays.exists():
            return record, {}
        with np.load(arrays) as file:
            return record, dict(file)

    return read


@pytest.fixture(scope="session")
def random_maps() -> Callable[..., list[np.ndarray]]:
    """Draw maps [C, h, w] float32 of (C, h, w)."""

    def draw(*shapes: tuple[int, int, int], seed: int = 0) -> list[np.ndarray]:
        rng = np.random.default_rng(seed)
        return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]

    return draw


@pytest.fixture(scope="session")
def upsampled() -> Callable[..., Tensor]:
    """Upsample maps as the published code does, in float64."""

    def compute(maps, size):
        """All features of an image [H * W, D] in float64, as the published code makes them."""
        parts = [
            F.interpolate(torch.from_numpy(each)[None].double(), size=size, mode="bilinear", align_corners=False)
            for each in maps
        ]
        return torch.cat(parts, dim=1)[0].flatten(1).T

    return compute


@pytest.fixture(scope="session")
def blobs() -> Callable[..., tuple[list[ImageMaps], list[Tensor]]]:
    """Make images whose coarse maps tell the label of a pixel but for noise; the first rows are ignored (255)."""

    def make(images: int = 3, side: int = 16, classes: int = 3, noise: float = 0.3, seed: int = 0):
        rng = np.random.default_rng(seed)
        colors = np.random.default_rng(99).standard_normal((classes, 6))
        described, labels = [], []
        for _ in range(images):
            coarse = rng.integers(0, classes, (side // 4, side // 4))
            label = coarse.repeat(4, axis=0).repeat(4, axis=1)
            fine = colors[label] + noise * rng.standard_normal((side, side, 6))
            maps = [fine.transpose(2, 0, 1).astype(np.float16), rng.standard_normal((4, 3, 3)).astype(np.float16)]
            label[:2] = 255
            described.append(ImageMaps(maps, (side, side)))
            labels.append(torch.from_numpy(label.astype(np.uint8)))
        return described, labels

    return make
