"""Networks of flat options, as a configuration has them."""

from __future__ import annotations

from typing import Any

from guided_diffusion.models.options import ModelOptions
from guided_diffusion.models.unet import UNetModel, build_unet


def model_options(**options: Any) -> ModelOptions:
    """Return options that are not validated, so that impossible ones reach the code; resampling is plain by default."""
    return ModelOptions.model_construct(**{"resblock_updown": False, **options})


def unet(**options: Any) -> UNetModel:
    """Build a network of `ModelOptions` and the other arguments of `build_unet`."""
    own = {key: options.pop(key) for key in ModelOptions.model_fields.keys() & options.keys()}
    return build_unet(model_options(**own), **options)
