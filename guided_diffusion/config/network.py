"""What the size of the images and the network demand of each other."""

from __future__ import annotations

from collections.abc import Iterator

from guided_diffusion.data.options import GeometryOptions
from guided_diffusion.models.architecture import (
    architecture_problems,
    attention_factors,
    default_channel_mult,
    height_width,
)
from guided_diffusion.models.options import ModelOptions
from guided_diffusion.runtime.options import Problem


def check_network(model: ModelOptions, geometry: GeometryOptions) -> Iterator[Problem]:
    """Yield what keeps these options from making a network; nothing where some are left to the checkpoint."""
    sizes = (
        model.num_channels,
        model.num_res_blocks,
        model.num_heads,
        model.num_heads_upsample,
        model.num_head_channels,
    )
    if geometry.image_size is None or None in sizes:
        return
    yield from architecture_problems(model, geometry.image_size)


def with_size_defaults(model: ModelOptions, geometry: GeometryOptions) -> ModelOptions:
    """Return the network's options with what follows from the image size, so that a checkpoint says it."""
    short = min(height_width(geometry.image_size))
    mult = tuple(model.channel_mult or default_channel_mult(short))
    attention = model.attention_resolutions
    if attention is None:
        attention = tuple(short // factor for factor in attention_factors(short, mult, None))
    return model.model_copy(update={"channel_mult": mult, "attention_resolutions": attention})
