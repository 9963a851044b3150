"""The UNet of SDM and guided-diffusion: an encoder of the noisy image, and a decoder that a condition can modulate.

Wang et al., "Semantic Image Synthesis via Diffusion Models", 2022; Dhariwal & Nichol, "Diffusion Models Beat GANs on
Image Synthesis", 2021. Module names give the published `state_dict` names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from guided_diffusion.conditions.augmentation import AUGMENT_PARAMETERS
from guided_diffusion.conditions.base import Condition, Prepared, Size
from guided_diffusion.models.architecture import (
    architecture_problems,
    attention_factors,
    default_channel_mult,
    height_width,
    level_channels,
)
from guided_diffusion.models.blocks import ConditionedResBlock, ResBlock
from guided_diffusion.models.conditioners import CONDITIONERS
from guided_diffusion.models.conditioning import (
    ConditionedNorm,
    Conditioner,
    ConditionOptions,
    DecoderPass,
    Modulations,
)
from guided_diffusion.models.layers import (
    AttentionBlock,
    Downsample,
    GroupNorm32,
    Upsample,
    timestep_embedding,
    zero_initialized,
)
from guided_diffusion.models.options import ModelOptions
from guided_diffusion.models.taps import Tap
from guided_diffusion.runtime.errors import ConfigError


class UNetModel(nn.Module):
    """A network of (x [N, in_channels, H, W], t [N], condition), in three parts: `encode`, `modulate` and `decode`.

    `encode` never sees the condition and `modulate` sees nothing else: a sampler can encode once for several conditions
    and modulate once for all steps. Weights and features are channels_last, the fastest for convolutions and lookups.
    """

    def __init__(
        self,
        options: ModelOptions,
        *,
        image_size: tuple[int, int],
        in_channels: int,
        out_channels: int,
        conditioner: Conditioner | None,
    ):
        """Build an untrained network; use `build_unet`, which checks the options.

        image_size: (height, width) in pixels. conditioner: None for a network without a condition.
        """
        super().__init__()
        channel_mult = options.channel_mult or default_channel_mult(min(image_size))
        attention = attention_factors(min(image_size), channel_mult, options.attention_resolutions)
        num_channels, num_heads = options.num_channels, options.num_heads
        heads_upsample = num_heads if options.num_heads_upsample == -1 else options.num_heads_upsample
        self.conditioner = conditioner
        self.image_size = image_size
        self.num_levels = len(channel_mult)
        self.use_checkpoint = options.use_checkpoint
        emb_channels = 4 * num_channels
        shared = {"dropout": options.dropout, "use_scale_shift_norm": options.use_scale_shift_norm}
        plain = partial(ResBlock, emb_channels=emb_channels, **shared)

        def decoder_block(*channels: int, level: int, up: bool = False) -> nn.Module:
            if conditioner is None:
                return plain(*channels, up=up)
            return ConditionedResBlock(*channels, emb_channels, norm=conditioner.norm, level=level, up=up, **shared)

        def attend(channels: int, heads: int) -> AttentionBlock:
            heads = heads if options.num_head_channels == -1 else channels // options.num_head_channels
            return AttentionBlock(channels, heads, use_new_attention_order=options.use_new_attention_order)

        self.time_embed = nn.Sequential(
            nn.Linear(num_channels, emb_channels), nn.SiLU(), nn.Linear(emb_channels, emb_channels)
        )
        widths = level_channels(num_channels, channel_mult)
        attends = [2**level in attention for level in range(len(widths))]
        shape = (widths, attends, options.resblock_updown)
        self.input_blocks, skip_widths = _encoder(
            in_channels, options.num_res_blocks, *shape, plain, partial(attend, heads=num_heads)
        )
        width, middle = widths[-1], partial(decoder_block, level=len(widths) - 1)
        self.middle_block = nn.ModuleList([middle(width, width), attend(width, num_heads), middle(width, width)])
        self.output_blocks = _decoder(skip_widths, *shape, decoder_block, partial(attend, heads=heads_upsample))
        for block in list(self._conditioned_blocks())[:-1]:
            block.mask_head = conditioner.head(block.out_channels)
        last = zero_initialized(nn.Conv2d(widths[0], out_channels, 3, padding=1))
        self.out = nn.Sequential(GroupNorm32(widths[0]), nn.SiLU(), last)
        # Karras et al. 2022, appendix F.2. Made last, so that the other weights are drawn as without it.
        self.augment_embed = None
        if options.augment:
            self.augment_embed = nn.Linear(len(AUGMENT_PARAMETERS), num_channels, bias=False)
            nn.init.zeros_(self.augment_embed.weight)
        # What makes images of its outputs, where these are latents: a part of the network, so that one file has both.
        self.first_stage: nn.Module | None = None
        self.to(memory_format=torch.channels_last)

    def level_sizes(self, size: Size) -> list[Size]:
        """Return the sizes of all levels for images of `size` (height, width), from fine to coarse."""
        return [(size[0] >> level, size[1] >> level) for level in range(self.num_levels)]

    def preparation(self, size: Size) -> Callable[[Condition], Prepared | None] | None:
        """Return the function from a condition of `size` (height, width) to the `prepared` of `modulate`, if any.

        It can be pickled, for data loading processes.
        """
        if self.conditioner is None or type(self.conditioner).prepare is Conditioner.prepare:  # which prepares nothing
            return None
        return partial(self.conditioner.prepare, sizes=self.level_sizes(size))

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        condition: Condition,
        prepared: Prepared | None = None,
        augment: Tensor | None = None,
        *,
        with_masks: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """Map x [N, in_channels, H, W], t [N] and N conditions of size H x W to [N, out_channels, H, W].

        with_masks: of layouts also return the logits of the regressed masks, see `LayoutConditioner.mask_logits`, and
        the masks of `object_masks`.
        """
        modulations = self.modulate(condition, prepared)
        if not with_masks:
            return self.decode(*self.encode(x, t, augment), modulations)
        output, masks = self.decode(*self.encode(x, t, augment), modulations, with_masks=True)
        return output, modulations[0].mask_logits(), masks

    def encode(self, x: Tensor, t: Tensor, augment: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
        """Return the skip features, from fine to coarse, and the embedded timestep [N, 4 * num_channels].

        x: [N, in_channels, H, W], sides divisible by 2**(levels - 1). t: [N], any real numbers. augment: [N, P], the
        `AUGMENT_PARAMETERS` of the images; None: they are not augmented.
        """
        emb = self._embed(x, t, augment)
        skips, h = [], x.contiguous(memory_format=torch.channels_last)
        for layers in self.input_blocks:
            h = self._apply_layers(layers, h, emb)
            skips.append(h)
        return skips, emb

    def _embed(self, x: Tensor, t: Tensor, augment: Tensor | None = None) -> Tensor:
        step = 2 ** (self.num_levels - 1)
        assert not any(side % step for side in x.shape[2:]), f"{tuple(x.shape)}: sides must be divisible by {step}"
        dtype = self.time_embed[0].weight.dtype
        emb = timestep_embedding(t, self.time_embed[0].in_features).to(dtype)
        if augment is not None:
            assert self.augment_embed is not None, "a network without augmentation is told nothing of it"
            emb = emb + self.augment_embed(augment.to(dtype))
        return self.time_embed(emb)

    def modulate(self, condition: Condition, prepared: Prepared | None = None) -> Modulations:
        """Return the modulations of all conditioned normalizations.

        condition: of the images' size, one for each, or one to `expand`. prepared: the result of `preparation`; None to
        compute it here.
        """
        if self.conditioner is None:
            return Modulations([])
        self.conditioner.check(condition)
        levels = self.conditioner.levels(condition, self.level_sizes(condition.size), prepared)
        return Modulations([self._run(norm.modulate, levels[level]) for norm, level in self._conditioned_norms()])

    def _conditioned_norms(self) -> Iterator[tuple[ConditionedNorm, int]]:
        """Yield the conditioned normalizations with their levels, in the order of `decode`."""
        for block in self._conditioned_blocks():
            yield from block.norms

    def _conditioned_blocks(self) -> Iterator[ConditionedResBlock]:
        for layers in (self.middle_block, *self.output_blocks):
            yield from (layer for layer in layers if isinstance(layer, ConditionedResBlock))

    @overload
    def decode(
        self, skips: Sequence[Tensor], emb: Tensor, modulations: Modulations, *, with_masks: Literal[False] = False
    ) -> Tensor: ...

    @overload
    def decode(
        self, skips: Sequence[Tensor], emb: Tensor, modulations: Modulations, *, with_masks: Literal[True]
    ) -> tuple[Tensor, Tensor]: ...

    def decode(
        self, skips: Sequence[Tensor], emb: Tensor, modulations: Modulations, *, with_masks: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return [N, out_channels, H, W] from the results of `encode` and `modulate`, which stay unchanged.

        The last layers and the output have the precision of the weights, also under autocast. with_masks: also return
        the masks of `object_masks`.
        """
        drawn = DecoderPass(modulations)
        h = self._apply_layers(self.middle_block, skips[-1], emb, drawn)
        for layers, skip in zip(self.output_blocks, reversed(skips), strict=True):
            h = self._apply_layers(layers, torch.cat([h, skip], dim=1), emb, drawn)
        drawn.end()
        with torch.autocast(h.device.type, enabled=False):
            output = self.out[-1](self.out[0].norm_silu(h.to(self.out[-1].weight.dtype)))
        return (output, drawn.last.object_masks()) if with_masks else output

    def features(
        self, x: Tensor, t: Tensor, taps: Sequence[Tap], modulations: Modulations | None = None
    ) -> list[Tensor]:
        """Return the features at `taps`, [N, C, h, w] each at its own resolution, in one pass that ends at the last.

        x, t: as in `encode`. modulations: from `modulate`, which a conditioned network needs beyond the encoder.
        """
        last = max((tap.block for tap in taps if tap.part == "decoder"), default=-1)
        found: dict[Tap, Tensor] = {}
        drawn = None if modulations is None else DecoderPass(modulations)
        for tap, h in self._tapped(x, t, drawn, last):
            if tap in taps:
                found[tap] = h
            if len(found) == len(set(taps)):
                break
        return [found[tap] for tap in taps]

    def object_masks(self, x: Tensor, t: Tensor, modulations: Modulations) -> Tensor:
        """Return the masks with which the last block draws the objects of layouts, [N, O, H, W] in 0..1.

        x, t: as in `encode`; without stage masks they do not matter. The masks of empty slots are 0.
        """
        blocks = list(self._conditioned_blocks())
        if all(block.mask_head is None for block in blocks):
            return modulations[-1].object_masks()
        drawn, last = DecoderPass(modulations), Tap("decoder", len(self.output_blocks) - 1, True)
        h = next(h for tap, h in self._tapped(x, t, drawn, last.block) if tap == last)
        return drawn.next_block(h.shape[2:])[1].object_masks()

    def _tapped(self, x: Tensor, t: Tensor, drawn: DecoderPass | None, last: int) -> Iterator[tuple[Tap, Tensor]]:
        """Yield what every block takes and makes, up to decoder block `last`; skips that it does not need are freed."""
        emb = self._embed(x, t)
        skips, h = [], x.contiguous(memory_format=torch.channels_last)
        for number, layers in enumerate(self.input_blocks):
            yield Tap("encoder", number, True), h
            h = self._apply_layers(layers, h, emb)
            yield Tap("encoder", number), h
            if number >= len(self.input_blocks) - 1 - last:
                skips.append(h)
        assert drawn is not None or self.conditioner is None, "the decoder needs the modulations of a condition"
        yield Tap("middle", 0, True), h
        h = self._apply_layers(self.middle_block, h, emb, drawn)
        yield Tap("middle", 0), h
        for number, layers in enumerate(self.output_blocks[: last + 1]):
            h = torch.cat([h, skips.pop()], dim=1)
            yield Tap("decoder", number, True), h
            h = self._apply_layers(layers, h, emb, drawn)
            yield Tap("decoder", number), h

    def _apply_layers(self, layers: nn.ModuleList, h: Tensor, emb: Tensor, drawn: DecoderPass | None = None) -> Tensor:
        for layer in layers:
            if isinstance(layer, ConditionedResBlock):
                assert drawn is not None
                modulations = drawn.next_block(tuple(h.shape[2:]))
                h = self._run(layer, h, emb, *modulations)
                if layer.mask_head is not None:
                    drawn.seen = self._run(modulations[1].see, layer.mask_head, h)
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
    in_channels: int,
    num_res_blocks: int,
    widths: Sequence[int],
    attends: Sequence[bool],
    resblock_updown: bool,
    block: Callable[..., nn.Module],
    attend: Callable[[int], nn.Module],
) -> tuple[nn.ModuleList, list[int]]:
    """Return the blocks of the encoder and the channels of their skips."""
    blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(in_channels, widths[0], 3, padding=1)])])
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
    """Return the blocks of the decoder, one for each skip; the last of every level but the finest doubles the size."""
    blocks, remaining = nn.ModuleList(), list(skip_widths)
    per_level = len(skip_widths) // len(widths)
    channels = widths[-1]
    for level, width in reversed(list(enumerate(widths))):
        for i in range(per_level):
            layers = [block(channels + remaining.pop(), width, level=level)]
            channels = width
            if attends[level]:
                layers.append(attend(width))
            if level and i == per_level - 1:
                up = block(width, width, level=level, up=True) if resblock_updown else Upsample(width, use_conv=True)
                layers.append(up)
            blocks.append(nn.ModuleList(layers))
    return blocks


def build_unet(
    options: ModelOptions,
    *,
    image_size: int | Sequence[int],
    num_classes: int | None = None,
    no_instance: bool = True,
    image_channels: int = 3,
    learn_sigma: bool = True,
) -> UNetModel:
    """Return an untrained network, its weights drawn from torch's global generator.

    image_size: pixels, one number for a square or (height, width). num_classes: only a network conditioned on masks
    needs it. Raises ConfigError, a line for each key that cannot be used.
    """
    size = height_width(image_size)
    problems = architecture_problems(options, size)
    if problems:
        raise ConfigError([line for _, line in problems])
    return UNetModel(
        options,
        image_size=size,
        # An inpainting network also sees the known image, and the hole.
        in_channels=2 * image_channels + 1 if options.inpaint else image_channels,
        out_channels=2 * image_channels if learn_sigma else image_channels,
        conditioner=CONDITIONERS[options.condition](
            ConditionOptions(
                num_classes=num_classes,
                no_instance=no_instance,
                spade=options.spade,
                stage_masks=options.stage_masks,
                overlap=options.overlap,
                style_dim=options.style_dim,
                label_dim=options.label_dim,
            )
        ),
    )
