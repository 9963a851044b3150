"""Which blocks a UNet has, with the shapes of what they make, and which of them are worth reading."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from torch import nn

from guided_diffusion.models.blocks import ResidualBlock
from guided_diffusion.models.layers import Downsample, Upsample
from guided_diffusion.models.taps import Tap
from guided_diffusion.models.unet import UNetModel

PUBLISHED_SIDE = 256
"""Images below this side also get features of every pixel: the published strides would lose their detail."""


class BlockShape(NamedTuple):
    """Channels of features, and how many pixels of the image one of theirs spans in each direction."""

    channels: int
    stride: int


def block_shapes(model: UNetModel) -> dict[Tap, BlockShape]:
    """Return what every block of `model` takes and makes, in the order of the network."""
    now = BlockShape(model.input_blocks[0][0].in_channels, 1)
    shapes, skips = {}, []
    for number, layers in enumerate(model.input_blocks):
        shapes[Tap("encoder", number, True)] = now
        now = _after(layers, now)
        shapes[Tap("encoder", number)] = now
        skips.append(now)
    shapes[Tap("middle", 0, True)] = now
    now = _after(model.middle_block, now)
    shapes[Tap("middle", 0)] = now
    for number, layers in enumerate(model.output_blocks):
        now = BlockShape(now.channels + skips.pop().channels, now.stride)
        shapes[Tap("decoder", number, True)] = now
        now = _after(layers, now)
        shapes[Tap("decoder", number)] = now
    return shapes


def _after(layers: Iterable[nn.Module], shape: BlockShape) -> BlockShape:
    channels, stride = shape
    for layer in layers:
        resample = layer
        if isinstance(layer, ResidualBlock):
            channels, resample = layer.out_layers[-1].out_channels, layer.resample
        elif isinstance(layer, nn.Conv2d):
            channels = layer.out_channels
        if isinstance(resample, Downsample):
            stride *= 2
        elif isinstance(resample, Upsample):
            stride //= 2
    return BlockShape(channels, stride)


def automatic_blocks(model: UNetModel, source: str) -> tuple[Tap, ...]:
    """Return the blocks of the encoder or decoder that are worth reading, in this those of the published strides.

    Those are the first three of stride 8 (or of the coarsest), the first of stride 4 and the second of stride 2; in the
    encoder the last block of every level but the finest. Small images also get the last block of the finest level.
    """
    made = {tap: shape.stride for tap, shape in block_shapes(model).items() if tap.part == source and not tap.inputs}

    def of(stride: int) -> Sequence[Tap]:
        return [tap for tap, other in made.items() if other == stride]

    coarsest = max(made.values())
    if source == "decoder":
        chosen = [*of(min(8, coarsest))[:3], *of(4)[:1], *of(2)[1:2]]
    else:
        chosen = [of(stride)[-1] for stride in set(made.values()) - {1}]
    if min(model.image_size) < PUBLISHED_SIDE or not chosen:
        chosen.append(of(1)[-1])
    return tuple(sorted(set(chosen)))
