"""Palette masks whose palettes differ, and 1-bit masks: the same picture under other numbers.

pngquant, ImageMagick and others order the palette as they like, so that one index is another color in another file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from guided_diffusion.data.masks.advice import unpack_color
from guided_diffusion.data.masks.encoding import Color, LabelEncoding, RawMask
from guided_diffusion.data.scan.problems import Problem, ProblemKind


@dataclass(frozen=True)
class MaskFacts:
    """The content of one mask: its distinct codes (`raw.values`, sorted, [K]) and their pixel counts [K]."""

    path: str
    raw: RawMask
    counts: np.ndarray


def palette_conflict(masks: Sequence[MaskFacts]) -> Problem | None:
    """Return the problem of the first palette mask in which an index has another color than in an earlier one."""
    first: dict[int, tuple[int, str]] = {}
    for mask in masks:
        if mask.raw.kind != "palette" or mask.raw.colors is None:
            continue
        for index, color in zip(mask.raw.values.tolist(), mask.raw.colors.tolist(), strict=True):
            before, path = first.setdefault(index, (color, mask.path))
            if before != color:
                found = (
                    f"palette index {index} is {unpack_color(color)} here, but {unpack_color(before)} in {path}, so "
                    "that indices do not tell the classes"
                )
                remedy = "give each class its color in classes.json, or save all masks with one palette"
                return Problem(mask.path, found, remedy, ProblemKind.PALETTES)
    return None


def two_colors(masks: Sequence[MaskFacts]) -> tuple[tuple[Color, ...], ...]:
    """Return the colors of (background, object) where the masks show black and one other color, else ()."""
    shown = [colors for mask in masks if (colors := mask.raw.colors) is not None]
    colors = set(np.unique(np.concatenate(shown)).tolist()) if len(shown) == len(masks) else set()
    if len(colors) != 2 or 0 not in colors:
        return ()
    return ((0, 0, 0),), (unpack_color(max(colors)),)


def contradicted_indices(masks: Sequence[MaskFacts], encoding: LabelEncoding) -> list[Problem]:
    """Return a warning where indices of palette masks say other classes than their colors, by which they are read."""
    if not (encoding.values and encoding.colors):
        return []
    by_value = replace(encoding, colors=(), ignore_colors=(), palette=None, kind="grey16")
    contradicted = []
    for mask in masks:
        if mask.raw.kind == "palette":
            label, index = encoding.lookup(mask.raw), by_value.lookup(mask.raw)
            if ((label != index) & (label >= 0) & (index >= 0)).any():
                contradicted.append(mask.path)
    if not contradicted:
        return []
    found = f"in {len(contradicted)} palette masks indices and colors are of different classes in classes.json"
    remedy = "they are read by color; correct 'value' in classes.json if that is wrong"
    return [Problem(contradicted[0], found, remedy, ProblemKind.PALETTES, fatal=False)]


def with_white_as_255(masks: Sequence[MaskFacts], listed: Sequence[int]) -> Sequence[MaskFacts]:
    """Return the masks with 1-bit ones as black and white, 0 and 255, where others hold 255 and none holds 1.

    listed: values that classes.json gives to classes.
    """
    others = {*listed, *(value for mask in masks if not mask.raw.one_bit for value in mask.raw.values.tolist())}
    if 255 not in others or 1 in others:
        return masks
    return [
        replace(mask, raw=replace(mask.raw, values=mask.raw.values * np.uint8(255))) if mask.raw.one_bit else mask
        for mask in masks
    ]
