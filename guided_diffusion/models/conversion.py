"""The exact conversion of an unconditional network into a SPADE network that ignores its mask.

A plain block normalizes with weight w and bias b. SPADE does the same under any mask where the convolutions behind
gamma and beta have zero weights and the biases w - 1 and b: y = x_hat * (1 + gamma) + beta.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

PLAIN = "middle_block.0.in_layers.2.weight"
"""A weight that only a network has whose middle and decoder are plain blocks."""

_PLAIN_PART = re.compile(r"((?:middle_block\.\d+|output_blocks\.\d+\.\d+)\.)(in|out)_layers\.(\d+)\.(weight|bias)")
_CONVOLUTIONS = {("in", "2"): "1", ("out", "3"): "2"}  # where a conditioned block has them in the same list


def is_unconditional(names: Iterable[str]) -> bool:
    """Return whether weights of these names, with or without a leading `module.`, are of an unconditional network."""
    return any(str(name).removeprefix("module.") == PLAIN for name in names)


def ignoring_masks(state_dict: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """Return unconditional weights as those of `model`, a SPADE network, with the same output under any mask.

    `mlp_shared`, which then reaches nothing, is as in `model`. Differences of the architecture stay, for
    `load_weights` to refuse. A leading `module.` is dropped.
    """
    own = model.state_dict()
    shared = {name.rpartition("mlp_shared")[2]: value for name, value in own.items() if ".mlp_shared." in name}
    converted: dict[str, Any] = {}
    for name, value in state_dict.items():
        name = str(name).removeprefix("module.")
        part = _PLAIN_PART.fullmatch(name)
        if part is None:
            converted[name] = value
            continue
        block, side, index, kind = part.groups()
        if index != "0":
            index = _CONVOLUTIONS.get((side, index), index)
            converted[f"{block}{side}_layers.{index}.{kind}"] = value
            continue
        norm = f"{block}{side}_norm."
        conv, bias = ("mlp_gamma", value - 1) if kind == "weight" else ("mlp_beta", value)
        converted[f"{norm}{conv}.bias"] = bias
        converted[f"{norm}{conv}.weight"] = torch.zeros(len(value), len(shared[".0.bias"]), 3, 3, dtype=value.dtype)
        if kind == "weight":  # once a normalization
            for rest, weight in shared.items():
                converted[f"{norm}mlp_shared{rest}"] = own.get(f"{norm}mlp_shared{rest}", weight).clone()
    return converted
