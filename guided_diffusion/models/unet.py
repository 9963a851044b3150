"""The UNet of SDM: an encoder of the noisy image and a decoder that a semantic map modulates.

Wang et al., "Semantic Image Synthesis via Diffusion Models", 2022. Module names give the published `state_dict` names.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from guided_diffusion.conditions.semantic_map import SemanticMap, Size
from guided_diffusion.models.architecture import (
    architecture_problems,
    attention_factors,
    default_channel_mult,
    height_width,
    level_channels,
)
from guided_diffusion.models.blocks import ConditionedResBlock, ResBlock
from guided_diffusion.models.layers import (
    AttentionBlock,
    Downsample,
    GroupNorm32,
    Upsample,
    timestep_embedding,
    zero_initialised,
)
from guided_diffusion.models.spade.modulation import Modulation, Modulations
from guided_diffusion.models.spade.norm import Form, LevelCondition
from guided_diffusion.runtime.errors import ConfigError


class UNetModel(nn.Module):
    """A network of (x [N, C, H, W], t [N], condition) in three parts that can be called apart.

    `encode` never sees the condition and `modulate` sees nothing else, so that a sampler may encode once for several
    conditions and modulate once for all steps. `build_unet` makes one from the published options.

    image_size: (height, width) in pixels of the images it is made for.
    condition_channels: channels of the one-hot condition, a possible edge channel included.
    num_channels: width that `channel_mult` multiplies, level by level from fine to coarse.
    attention: the downsampling factors (1, 2, 4, ...) of the levels with attention; the bottleneck always has it.
    num_heads, num_heads_upsample: attention heads of encoder and bottleneck, and of the decoder.
    num_head_channels: channels a head; -1 leaves it to the numbers of heads.
    use_checkpoint: recompute every block in the backward pass instead of keeping what it computed.
    spade: how modulations are computed: "lookup", "mixed" or "dense" (see conditioning.py), or "auto", whichever is
        cheapest for the maps at hand. The result is the same but for rounding.

    Weights and features are kept in channels_last memory, in which convolutions and lookups are fastest.
    """

    def __init__(
        self,
        *,
        image_size: tuple[int, int],
        image_channels: int,
        out_channels: int,
        condition_channels: int,
        num_channels: int,
        num_res_blocks: int,
        channel_mult: Sequence[float],
        attention: Collection[int],
        num_heads: int,
        num_heads_upsample: int,
        num_head_channels: int,
        dropout: float,
        use_checkpoint: bool,
        use_scale_shift_norm: bool,
        resblock_updown: bool,
        use_new_attention_order: bool,
        spade: Form,
    ):
        super().__init__()
        self.spade = spade
        self.image_size = image_size
        self.condition_channels = condition_channels
        self.num_levels = len(channel_mult)
        self.use_checkpoint = use_checkpoint
        emb_channels = 4 * num_channels
        shared = {"dropout": dropout, "use_scale_shift_norm": use_scale_shift_norm}
        plain = partial(ResBlock, emb_channels=emb_channels, **shared)
        conditioned = partial(
            ConditionedResBlock, emb_channels=emb_channels, condition_channels=condition_channels, **shared
        )

        def attend(channels: int, heads: int) -> AttentionBlock:
            heads = heads if num_head_channels == -1 else channels // num_head_channels
            return AttentionBlock(channels, heads, use_new_attention_order=use_new_attention_order)

        self.time_embed = nn.Sequential(
            nn.Linear(num_channels, emb_channels), nn.SiLU(), nn.Linear(emb_channels, emb_channels)
        )
        widths = level_channels(num_channels, channel_mult)
        attends = [2**level in attention for level in range(len(widths))]
        self.input_blocks, skip_widths = _encoder(
            image_channels, widths, attends, num_res_blocks, resblock_updown, plain, partial(attend, heads=num_heads)
        )
        self.middle_block = nn.ModuleList(
            [conditioned(widths[-1], widths[-1]), attend(widths[-1], num_heads), conditioned(widths[-1], widths[-1])]
        )
        self.output_blocks = _decoder(
            skip_widths, widths, attends, resblock_updown, conditioned, partial(attend, heads=num_heads_upsample)
        )
        self.out = nn.Sequential(
            GroupNorm32(widths[0]),
            nn.SiLU(),
            zero_initialised(nn.Conv2d(widths[0], out_channels, 3, padding=1)),
        )
        self.to(memory_format=torch.channels_last)

    def level_sizes(self, size: Size) -> list[Size]:
        """Return the sizes that maps of `size` (height, width) are brought to, from fine to coarse."""
        return [(size[0] >> level, size[1] >> level) for level in range(self.num_levels)]

    def lookup_sizes(self, size: Size) -> list[Size]:
        """Return those of `level_sizes` at which neighbourhoods are asked for."""
        return [] if self.spade == "dense" else self.level_sizes(size)

    def forward(self, x: Tensor, t: Tensor, condition: SemanticMap) -> Tensor:
        """Return the output [N, out_channels, H, W] for x [N, C, H, W], t [N] and a condition of N maps of H x W."""
        return self.decode(*self.encode(x, t), self.modulate(condition))

    def encode(self, x: Tensor, t: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the skip features, from fine to coarse, and the embedded timestep [N, 4 * num_channels].

        x: [N, C, H, W], sides divisible by 2**(levels - 1). t: [N], any real numbers.
        """
        step = 2 ** (self.num_levels - 1)
        assert not any(side % step for side in x.shape[2:]), f"{tuple(x.shape)}: sides must be divisible by {step}"
        dtype = self.time_embed[0].weight.dtype
        emb = self.time_embed(timestep_embedding(t, self.time_embed[0].in_features).to(dtype))
        skips, h = [], x.contiguous(memory_format=torch.channels_last)
        for layers in self.input_blocks:
            h = self._apply_layers(layers, h, emb)
            skips.append(h)
        return skips, emb

    def modulate(self, condition: SemanticMap) -> Modulations:
        """Return the modulations of all conditioned normalisations.

        condition: N maps of the images' size, or one that `Modulations.expand` then makes stand for N.
        """
        assert condition.channels == self.condition_channels, (
            f"the condition has {condition.channels} channels, the network takes {self.condition_channels}"
        )
        levels = [LevelCondition(condition, size, self.spade) for size in self.level_sizes(condition.size)]
        level, modulations = self.num_levels - 1, []
        for layers in (self.middle_block, *self.output_blocks):
            for layer in layers:
                level_in = level
                if isinstance(layer, Upsample) or (isinstance(layer, ConditionedResBlock) and layer.up):
                    level -= 1
                if isinstance(layer, ConditionedResBlock):
                    modulations.append(self._run(layer.in_norm.modulate, levels[level_in]))
                    modulations.append(self._run(layer.out_norm.modulate, levels[level]))
        return Modulations(modulations)

    def decode(self, skips: Sequence[Tensor], emb: Tensor, modulations: Modulations) -> Tensor:
        """Return the output [N, out_channels, H, W] from what `encode` and `modulate` returned, none of it changed.

        The last layers run in the precision of the weights whatever autocast says, and so is the output.
        """
        rest = iter(modulations)
        h = self._apply_layers(self.middle_block, skips[-1], emb, rest)
        for layers, skip in zip(self.output_blocks, reversed(skips), strict=True):
            h = self._apply_layers(layers, torch.cat([h, skip], dim=1), emb, rest)
        assert next(rest, None) is None, "more modulations than conditioned normalisations"
        with torch.autocast(h.device.type, enabled=False):
            return self.out[-1](self.out[0].activated(h.to(self.out[-1].weight.dtype)))

    def _apply_layers(
        self, layers: nn.ModuleList, h: Tensor, emb: Tensor, modulations: Iterator[Modulation] | None = None
    ) -> Tensor:
        for layer in layers:
            if isinstance(layer, ConditionedResBlock):
                assert modulations is not None
                h = self._run(layer, h, emb, next(modulations), next(modulations))
            elif isinstance(layer, ResBlock):
                h = self._run(layer, h, emb)
            elif isinstance(layer, AttentionBlock):
                h = self._run(layer, h)
            else:
                h = layer(h)
        return h

    def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        if self.use_checkpoint and torch.is_grad_enabled():
            return checkpoint(function, *args, use_reentrant=False)
        return function(*args)


def _encoder(
    image_channels: int,
    widths: Sequence[int],
    attends: Sequence[bool],
    num_res_blocks: int,
    resblock_updown: bool,
    block: Callable[..., nn.Module],
    attend: Callable[[int], nn.Module],
) -> tuple[nn.ModuleList, list[int]]:
    """Return the encoder's blocks and the channels of the skip that each of them leaves."""
    blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(image_channels, widths[0], 3, padding=1)])])
    skip_widths = [widths[0]]
    for level, width in enumerate(widths):
        for _ in range(num_res_blocks):
            layers = [block(skip_widths[-1], width)]
            if attends[level]:
                layers.append(attend(width))
            blocks.append(nn.ModuleList(layers))
            skip_widths.append(width)
        if level != len(widths) - 1:
            down = block(width, width, down=True) if resblock_updown else Downsample(width, use_conv=True)
            blocks.append(nn.ModuleList([down]))
            skip_widths.append(width)
    return blocks, skip_widths


def _decoder(
    skip_widths: Sequence[int],
    widths: Sequence[int],
    attends: Sequence[bool],
    resblock_updown: bool,
    block: Callable[..., nn.Module],
    attend: Callable[[int], nn.Module],
) -> nn.ModuleList:
    """Return the decoder's blocks: each takes one skip, the last of every level but the finest doubles the size."""
    blocks, remaining = nn.ModuleList(), list(skip_widths)
    per_level = len(skip_widths) // len(widths)
    channels = widths[-1]
    for level, width in reversed(list(enumerate(widths))):
        for i in range(per_level):
            layers = [block(channels + remaining.pop(), width)]
            channels = width
            if attends[level]:
                layers.append(attend(width))
            if level and i == per_level - 1:
                layers.append(block(width, width, up=True) if resblock_updown else Upsample(width, use_conv=True))
            blocks.append(nn.ModuleList(layers))
    return blocks


def build_unet(
    *,
    image_size: int | Sequence[int],
    num_classes: int,
    num_channels: int,
    num_res_blocks: int,
    image_channels: int = 3,
    no_instance: bool = True,
    channel_mult: Sequence[float] | None = None,
    num_heads: int = 4,
    num_heads_upsample: int = -1,
    num_head_channels: int = -1,
    attention_resolutions: Sequence[int] | None = None,
    dropout: float = 0.0,
    learn_sigma: bool = True,
    use_checkpoint: bool = False,
    use_scale_shift_norm: bool = True,
    resblock_updown: bool = False,
    use_new_attention_order: bool = False,
    spade: Form = "auto",
) -> UNetModel:
    """Return the UNet that the published options describe, its weights drawn from torch's global generator.

    image_size: pixels, one number for a square or (height, width).
    num_classes: real classes; with `no_instance` false the condition has one more channel, for edges.
    channel_mult: a multiplier of `num_channels` per level; None or empty takes `default_channel_mult`.
    attention_resolutions: shorter sides in pixels of the levels with attention, see `attention_factors`.
    num_heads_upsample: heads of the decoder, -1 for `num_heads`. num_head_channels: if not -1, used instead of both.
    learn_sigma: put out twice `image_channels`, the second half for the variance.

    Raises ConfigError, a line for each key that cannot be used.
    """
    size = height_width(image_size)
    problems = architecture_problems(
        image_size=size,
        num_channels=num_channels,
        num_res_blocks=num_res_blocks,
        channel_mult=channel_mult,
        attention_resolutions=attention_resolutions,
        num_heads=num_heads,
        num_heads_upsample=num_heads_upsample,
        num_head_channels=num_head_channels,
    )
    if problems:
        raise ConfigError(problems)
    channel_mult = tuple(channel_mult or default_channel_mult(min(size)))
    return UNetModel(
        image_size=size,
        image_channels=image_channels,
        out_channels=2 * image_channels if learn_sigma else image_channels,
        condition_channels=num_classes + (not no_instance),
        num_channels=num_channels,
        num_res_blocks=num_res_blocks,
        channel_mult=channel_mult,
        attention=attention_factors(min(size), channel_mult, attention_resolutions),
        num_heads=num_heads,
        num_heads_upsample=num_heads if num_heads_upsample == -1 else num_heads_upsample,
        num_head_channels=num_head_channels,
        dropout=dropout,
        use_checkpoint=use_checkpoint,
        use_scale_shift_norm=use_scale_shift_norm,
        resblock_updown=resblock_updown,
        use_new_attention_order=use_new_attention_order,
        spade=spade,
    )
