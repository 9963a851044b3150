"""Which image sizes, channels, attention and heads fit together in the UNet; for configurations, without torch."""

from __future__ import annotations

from collections.abc import Sequence

from guided_diffusion.models.options import ModelOptions
from guided_diffusion.runtime.options import Problem

GROUPS = 32
"""Groups of every group normalization: all numbers of channels are multiples of it."""

_PUBLISHED_CHANNEL_MULT: dict[int, tuple[float, ...]] = {
    512: (0.5, 1, 1, 2, 2, 4, 4),
    256: (1, 1, 2, 2, 4, 4),
    128: (1, 1, 2, 3, 4),
    64: (1, 2, 3, 4),
    0: (1, 2, 3),
}


def height_width(image_size: int | Sequence[int]) -> tuple[int, int]:
    """Return `image_size` in pixels, one number for a square or (height, width), as (height, width)."""
    if isinstance(image_size, int):
        return image_size, image_size
    height, width = image_size
    return int(height), int(width)


def default_channel_mult(short_side: int) -> tuple[float, ...]:
    """Return the channel multiplier of every level for images whose shorter side is `short_side` pixels.

    The rows for 64, 128, 256 and 512 are those of SDM (Wang et al. 2022) and guided-diffusion. A size in between takes
    the row of the next smaller one; sizes below 64 have three levels.
    """
    return _PUBLISHED_CHANNEL_MULT[max(size for size in _PUBLISHED_CHANNEL_MULT if size <= short_side)]


def reachable_resolutions(short_side: int, channel_mult: Sequence[float]) -> tuple[int, ...]:
    """Return the shorter side of the feature maps of every level in pixels, from fine to coarse."""
    return tuple(short_side // 2**level for level in range(len(channel_mult)))


def level_channels(num_channels: int, channel_mult: Sequence[float]) -> tuple[int, ...]:
    """Return the channels of every level, from fine to coarse."""
    return tuple(int(mult * num_channels) for mult in channel_mult)


def attention_factors(
    short_side: int, channel_mult: Sequence[float], attention_resolutions: Sequence[int] | None
) -> tuple[int, ...]:
    """Return the downsampling factors (1, 2, 4, ...) of the levels with attention.

    attention_resolutions: shorter sides in pixels; as published, the factor is `short_side // resolution`, and a
    resolution that no level has is ignored. None: the levels of 16 pixels or less, or else the coarsest level.
    """
    factors = [2**level for level in range(len(channel_mult))]
    if attention_resolutions is None:
        sides = reachable_resolutions(short_side, channel_mult)
        chosen = [factor for factor, side in zip(factors, sides, strict=True) if side <= 16]
        return tuple(chosen or factors[-1:])
    wanted = {short_side // resolution for resolution in attention_resolutions}
    return tuple(factor for factor in factors if factor in wanted)


def architecture_problems(
    options: ModelOptions, image_size: int | Sequence[int], *, reduced: tuple[str, int] = ("", 1)
) -> list[Problem]:
    """Return (key, line) for everything that makes a UNet of these options impossible.

    image_size: of the network. reduced: the option, and its factor, that makes images smaller before they reach it.
    """
    size = height_width(image_size)
    short_side = min(size)
    positive = {
        "image_size": short_side,
        "num_channels": options.num_channels,
        "num_res_blocks": options.num_res_blocks,
    }
    positive |= {key: min(getattr(options, key) or [1]) for key in ("channel_mult", "attention_resolutions")}
    by_channels, as_encoder = options.num_head_channels != -1, options.num_heads_upsample == -1
    if by_channels:
        positive["num_head_channels"] = options.num_head_channels
    else:
        positive["num_heads"] = options.num_heads
        if not as_encoder:
            positive["num_heads_upsample"] = options.num_heads_upsample
    problems = [(key, f"{key} has the value {n}: use numbers above 0") for key, n in positive.items() if n <= 0]
    if problems:
        return problems
    mult = options.channel_mult or default_channel_mult(short_side)
    problems = _size_problems(size, mult, *reduced) + _channel_problems(options.num_channels, mult)
    problems += _attention_problems(short_side, mult, options.attention_resolutions)
    if problems:
        return problems
    # The bottleneck always has attention, with the encoder's number of heads.
    channels = level_channels(options.num_channels, mult)
    factors = attention_factors(short_side, mult, options.attention_resolutions)
    decoder = sorted({channels[factor.bit_length() - 1] for factor in factors})
    encoder = sorted({*decoder, channels[-1]})
    if by_channels:
        return _head_problems("num_head_channels", options.num_head_channels, encoder)
    problems = _head_problems("num_heads", options.num_heads, encoder)
    if as_encoder or options.num_heads_upsample == options.num_heads:
        return problems
    return problems + _head_problems("num_heads_upsample", options.num_heads_upsample, decoder)


def _size_problems(size: tuple[int, int], channel_mult: Sequence[float], reducing: str, factor: int) -> list[Problem]:
    # In pixels of the image, as image_size is.
    size, step = (size[0] * factor, size[1] * factor), factor * 2 ** (len(channel_mult) - 1)
    if not any(side % step for side in size):
        return []
    lower, upper = ([max(side // step, 1) * step for side in size], [-(-side // step) * step for side in size])
    found, lower, upper = (v[0] if size[0] == size[1] else list(v) for v in (size, lower, upper))
    nearest = f"{upper}" if lower == upper else f"{lower} or {upper}"
    levels = len(channel_mult)
    by = f" with {reducing} {factor}" if factor > 1 else ""
    line = f"image_size is {found}, but a UNet of {levels} levels{by} needs sides divisible by {step}"
    return [("image_size", f"{line}: use {nearest}, or a channel_mult of fewer than {levels} entries")]


def _channel_problems(num_channels: int, channel_mult: Sequence[float]) -> list[Problem]:
    def fits(candidate: int) -> bool:
        return all(c > 0 and c % GROUPS == 0 for c in level_channels(candidate, channel_mult))

    if fits(num_channels):
        return []
    found = ", ".join(str(c) for c in level_channels(num_channels, channel_mult))
    candidates = [c for c in range(GROUPS, num_channels + 8 * GROUPS, GROUPS) if fits(c)]
    nearest = min(candidates, key=lambda c: abs(c - num_channels), default=None)
    remedy = "change channel_mult" if nearest is None else f"set num_channels={nearest}"
    line = f"num_channels is {num_channels}, which makes levels of {found} channels, not multiples of {GROUPS}"
    return [("num_channels", f"{line}: {remedy}")]


def _attention_problems(
    short_side: int, channel_mult: Sequence[float], attention_resolutions: Sequence[int] | None
) -> list[Problem]:
    if not attention_resolutions or attention_factors(short_side, channel_mult, attention_resolutions):
        return []
    found = ", ".join(str(r) for r in attention_resolutions)
    reachable = ", ".join(str(r) for r in reachable_resolutions(short_side, channel_mult))
    line = f"attention_resolutions is {found}, but the levels of this UNet are {reachable} pixels"
    return [("attention_resolutions", f"{line}: choose among these or leave it out")]


def _head_problems(key: str, value: int, attended: Sequence[int]) -> list[Problem]:
    odd = ", ".join(str(channels) for channels in attended if channels % value)
    return (
        [(key, f"{key} is {value}, which does not divide the {odd} channels of attention: use a divisor")]
        if odd
        else []
    )
