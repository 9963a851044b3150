"""Networks and noise processes of flat options, as a configuration has them; they are not validated."""

from __future__ import annotations

from typing import Any

from guided_diffusion.diffusion.gaussian import GaussianDiffusion, build_diffusion
from guided_diffusion.diffusion.options import DiffusionOptions
from guided_diffusion.models.options import ModelOptions
from guided_diffusion.models.unet import UNetModel, build_unet


def model_options(**options: Any) -> ModelOptions:
    """Return the options of a network, by default with plain resampling."""
    return ModelOptions.model_construct(**{"resblock_updown": False, **options})


def unet(**options: Any) -> UNetModel:
    """Build a network of `ModelOptions` and the other arguments of `build_unet`."""
    own = {key: options.pop(key) for key in ModelOptions.model_fields.keys() & options.keys()}
    return build_unet(model_options(**own), **options)


def noise_process(**options: Any) -> GaussianDiffusion:
    """Build a noise process of `DiffusionOptions` and the other arguments of `build_diffusion`."""
    own = {key: options.pop(key) for key in DiffusionOptions.model_fields.keys() & options.keys()}
    return build_diffusion(DiffusionOptions.model_construct(**own), **options)
