"""The kinds of condition a network can be built for: the values of the option `condition`."""

from __future__ import annotations

from collections.abc import Callable

from guided_diffusion.models.conditioning import Conditioner, ConditionOptions
from guided_diffusion.models.spade.norm import SpadeConditioner


def _none(options: ConditionOptions) -> None:
    """Return no conditioner: an unconditional network."""


CONDITIONERS: dict[str, Callable[[ConditionOptions], Conditioner | None]] = {
    "mask": SpadeConditioner.from_options,
    "none": _none,
}
