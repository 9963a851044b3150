"""Taking an optimizer's saved state over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def restore_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Load the moments of `saved` into `optimizer`; its weight decay stays what it is.

    Moments get the memory format of their weights, which those of a checkpoint from elsewhere may not have: fused
    kernels go through both as they lie in memory and do not check.
    """
    decays = [group["weight_decay"] for group in optimizer.param_groups]
    optimizer.load_state_dict(dict(saved))
    for group, decay in zip(optimizer.param_groups, decays, strict=True):
        group["weight_decay"] = decay
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == weight.shape and value.stride() != weight.stride():
                state[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)
