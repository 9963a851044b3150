"""The conditioners that a network can be built with, by the values of the option `condition`."""

from __future__ import annotations

from collections.abc import Callable

from guided_diffusion.models.conditioning import Conditioner, ConditionOptions
from guided_diffusion.models.layout.norm import LayoutConditioner
from guided_diffusion.models.spade.norm import SpadeConditioner

CONDITIONERS: dict[str, Callable[[ConditionOptions], Conditioner | None]] = {
    "mask": SpadeConditioner.from_options,
    "boxes": LayoutConditioner.from_options,
    "none": lambda options: None,
}
