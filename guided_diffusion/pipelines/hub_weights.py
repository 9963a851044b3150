"""Weights that are named by an address on the Hugging Face Hub: one commit for the whole run, and in its record."""

from __future__ import annotations

from typing import TypeVar

from guided_diffusion.runtime.hub import pinned
from guided_diffusion.runtime.hub_address import is_address
from guided_diffusion.runtime.options import FlatConfig

Config = TypeVar("Config", bound=FlatConfig)


def with_pinned_weights(config: Config, key: str = "model_path") -> Config:
    """Return `config` with the commit and file that the address of `key` means now, which are downloaded.

    A path stays as it is. Raises CheckpointError, see `hub.fetch`.
    """
    value = config.get(key)
    return config.replaced(**{key: pinned(value)}) if is_address(value) else config
