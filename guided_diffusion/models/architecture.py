"""The rules that tie image size, channels, attention and heads of the UNet together; needs no torch.

The options are checked twice, when a configuration is read and when the network is built: both use these functions.
"""

from __future__ import annotations

from collections.abc import Sequence

from guided_diffusion.runtime.options import Problem

GROUPS = 32
"""Groups of every group normalization: each channel count has to be a multiple."""

_PUBLISHED_CHANNEL_MULT: dict[int, tuple[float, ...]] = {
    512: (0.5, 1, 1, 2, 2, 4, 4),
    256: (1, 1, 2, 2, 4, 4),
    128: (1, 1, 2, 3, 4),
    64: (1, 2, 3, 4),
    0: (1, 2, 3),
}


def height_width(image_size: int | Sequence[int]) -> tuple[int, int]:
    """Return `image_size`, one number for a square or (height, width), as (height, width) in pixels."""
    if isinstance(image_size, int):
        return image_size, image_size
    height, width = image_size
    return int(height), int(width)


def default_channel_mult(short_side: int) -> tuple[float, ...]:
    """Return a channel multiplier per level for images whose shorter side is `short_side` pixels.

    The rows for 64, 128, 256 and 512 are those of SDM (Wang et al., "Semantic Image Synthesis via Diffusion Models",
    2022) and guided-diffusion; a size in between takes the row of the next smaller one; below 64 three levels remain.
    """
    return _PUBLISHED_CHANNEL_MULT[max(size for size in _PUBLISHED_CHANNEL_MULT if size <= short_side)]


def reachable_resolutions(short_side: int, channel_mult: Sequence[float]) -> tuple[int, ...]:
    """Return the shorter side of the feature maps in pixels, level by level from fine to coarse."""
    return tuple(short_side // 2**level for level in range(len(channel_mult)))


def level_channels(num_channels: int, channel_mult: Sequence[float]) -> tuple[int, ...]:
    """Return the channels of every level, from fine to coarse."""
    return tuple(int(mult * num_channels) for mult in channel_mult)


def attention_factors(
    short_side: int, channel_mult: Sequence[float], attention_resolutions: Sequence[int] | None
) -> tuple[int, ...]:
    """Return the downsampling factors (1, 2, 4, ...) of the levels that have attention.

    attention_resolutions: shorter sides in pixels; the published rule `short_side // resolution` finds the factor, and
        a resolution that is no level's is passed over. None: the levels of 16 pixels or less, or the coarsest one.
    """
    factors = [2**level for level in range(len(channel_mult))]
    if attention_resolutions is None:
        sides = reachable_resolutions(short_side, channel_mult)
        chosen = [factor for factor, side in zip(factors, sides, strict=True) if side <= 16]
        return tuple(chosen or factors[-1:])
    wanted = {short_side // resolution for resolution in attention_resolutions}
    return tuple(factor for factor in factors if factor in wanted)


def architecture_problems(
    *,
    image_size: int | Sequence[int],
    num_channels: int,
    num_res_blocks: int,
    channel_mult: Sequence[float] | None = None,
    attention_resolutions: Sequence[int] | None = None,
    num_heads: int = 4,
    num_heads_upsample: int = -1,
    num_head_channels: int = -1,
) -> list[Problem]:
    """Return (key, line) for everything that keeps these options from making a UNet; empty means that they do.

    `channel_mult` None or empty means the default of the size.
    """
    size = height_width(image_size)
    positive = {"image_size": min(size), "num_channels": num_channels, "num_res_blocks": num_res_blocks}
    positive |= {"channel_mult": min(channel_mult or [1]), "attention_resolutions": min(attention_resolutions or [1])}
    if num_head_channels == -1:
        positive |= {
            "num_heads": num_heads,
            "num_heads_upsample": 1 if num_heads_upsample == -1 else num_heads_upsample,
        }
    else:
        positive["num_head_channels"] = num_head_channels
    problems = [(key, f"{key} has the value {n}: use numbers above 0") for key, n in positive.items() if n <= 0]
    if problems:
        return problems
    mult = tuple(channel_mult or default_channel_mult(min(size)))
    problems = _size_problems(size, mult) + _channel_problems(num_channels, mult)
    problems += _attention_problems(min(size), mult, attention_resolutions)
    if problems:
        return problems
    heads = (num_heads, num_heads if num_heads_upsample == -1 else num_heads_upsample, num_head_channels)
    factors = attention_factors(min(size), mult, attention_resolutions)
    return _head_problems(level_channels(num_channels, mult), factors, *heads)


def _size_problems(size: tuple[int, int], channel_mult: Sequence[float]) -> list[Problem]:
    step = 2 ** (len(channel_mult) - 1)
    if not any(side % step for side in size):
        return []
    lower, upper = ([max(side // step + up, 1) * step for side in size] for up in (0, 1))
    found, lower, upper = (v[0] if size[0] == size[1] else list(v) for v in (size, lower, upper))
    nearest = f"{upper}" if lower == upper else f"{lower} or {upper}"
    levels = len(channel_mult)
    line = (
        f"image_size is {found}, but a UNet of {levels} levels needs sides divisible by {step}: "
        f"use {nearest}, or a channel_mult of fewer than {levels} entries"
    )
    return [("image_size", line)]


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


def _head_problems(
    channels: Sequence[int], factors: Sequence[int], num_heads: int, num_heads_upsample: int, num_head_channels: int
) -> list[Problem]:
    # The bottleneck has attention whatever the levels have, with the encoder's number of heads.
    decoder = sorted({channels[factor.bit_length() - 1] for factor in factors})
    encoder = sorted({*decoder, channels[-1]})
    if num_head_channels != -1:
        checks = [("num_head_channels", num_head_channels, encoder)]
    else:
        checks = [("num_heads", num_heads, encoder)]
        if num_heads_upsample != num_heads:
            checks.append(("num_heads_upsample", num_heads_upsample, decoder))
    problems = []
    for key, value, attended in checks:
        odd = ", ".join(str(c) for c in attended if c % value)
        if odd:
            line = f"{key} is {value}, which does not divide the {odd} channels of attention: use a divisor"
            problems.append((key, line))
    return problems
