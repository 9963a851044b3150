"""Networks whose published outputs were recorded in tests/golden: their weights follow from names and shapes."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flat_options import unet
from torch import Tensor, nn
from torch.nn import functional as F

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
OPTIONS = "image_size num_channels num_res_blocks num_heads num_head_channels use_scale_shift_norm resblock_updown"


def value_of(name: str, shape: Sequence[int]) -> Tensor:
    """Return the weight of this name, by the rule of the golden files."""
    if not len(shape):
        return torch.tensor(0)  # num_batches_tracked
    value = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) > 1:
        value = value / np.sqrt(np.prod(shape[1:]))
    elif name.endswith("running_var"):
        value = 1 + 0.1 * np.abs(value)
    else:
        value = 1 + 0.1 * value if name.endswith("weight") else 0.1 * value
    return torch.from_numpy(value.astype(np.float32))


def fill(module: nn.Module) -> nn.Module:
    """Give every weight of `module` its value, and return it."""
    for name, weight in module.state_dict().items():
        weight.copy_(value_of(name, tuple(weight.shape)))
    return module


def weights_of(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Return the weights of these names and shapes."""
    return {name: value_of(name, shape) for name, shape in shapes.items()}


def record_of(name: str) -> dict[str, Any]:
    """Return what tests/golden says of the case `name`."""
    return json.loads((GOLDEN / f"{name}.json").read_text())


def arrays_of(name: str) -> dict[str, np.ndarray]:
    """Return the arrays of the case `name`."""
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return dict(arrays)


def published_options(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a published network by our names, without its condition."""
    options = {key: record["options"][key] for key in (*OPTIONS.split(), "use_new_attention_order", "learn_sigma")}
    return {**options, "attention_resolutions": [int(s) for s in record["options"]["attention_resolutions"].split(",")]}


def build_published(record: Mapping[str, Any]) -> nn.Module:
    """Return the network without a condition of published options."""
    return unet(condition="none", **published_options(record))


def images_and_noise(side: int) -> tuple[Tensor, Tensor]:
    """Return the images [2, 3, H, W] and the noise [1, 3, H, W] that features were recorded of."""
    rng = np.random.default_rng(7)
    images = np.clip(0.5 * rng.standard_normal((2, 3, side, side)), -1, 1).astype(np.float32)
    noise = rng.standard_normal((1, 3, side, side)).astype(np.float32)
    return torch.from_numpy(images), torch.from_numpy(noise)


def probed(maps: Sequence[Tensor], record: Mapping[str, Any], side: int) -> np.ndarray:
    """Return the features at the recorded pixels [N, pixels, D]: every map enlarged to `side`, one after the other."""
    rows, columns = np.ix_(record["rows"], record["columns"])
    shown = (F.interpolate(found.float(), size=(side, side), mode="bilinear") for found in maps)
    return torch.cat([found[:, :, rows, columns].flatten(2) for found in shown], dim=1).transpose(1, 2).numpy()
