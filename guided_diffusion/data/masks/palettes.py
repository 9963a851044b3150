"""Palette masks whose palettes differ, and 1-bit masks: the same picture under other numbers.

pngquant, ImageMagick and others order the palette as they like, so that one index is another color in another file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from guided_diffusion.data.files import open_mask
from guided_diffusion.data.masks.advice import unpack_color
from guided_diffusion.data.masks.encoding import Color, LabelEncoding, RawMask, raw_mask
from guided_diffusion.data.scan.problems import Problem, ProblemKind


@dataclass(frozen=True)
class MaskFacts:
    """The content of one mask: its distinct codes (`raw.values`, sorted, [K]) and their pixel counts [K]."""

    path: str
    raw: RawMask
    counts: np.ndarray

    @classmethod
    def of_file(cls, path: str) -> MaskFacts:
        """Return those of a file; DataError where it is no mask."""
        raw = raw_mask(open_mask(path), path)
        values, counts = np.unique(raw.values, return_counts=True)
        return cls(path, replace(raw, values=values), counts)


def palette_conflict(masks: Sequence[MaskFacts], grays: Sequence[int] = ()) -> Problem | None:
    """Return the problem of the first palette mask in which an index has another color than in an earlier one.

    grays: values of gray masks; a palette that is all gray must not show one of them at another index.
    """
    first: dict[int, tuple[int, str]] = {}
    remedy = "give each class its color in classes.json, or save all masks with one palette"
    gray_color = {value * 0x010101: value for value in grays if value < 256}
    for mask in masks:
        if mask.raw.kind != "palette" or mask.raw.colors is None:
            continue
        shown = mask.raw.colors.tolist()
        # A palette with colors is meant as such, whatever gray is in it; where indices share a color, it tells nothing.
        gray = all(color % 0x010101 == 0 for color in shown) and len(set(shown)) == len(shown)
        for index, color in zip(mask.raw.values.tolist(), mask.raw.colors.tolist(), strict=True):
            if gray and gray_color.get(color, index) != index:
                found = (
                    f"palette index {index} is gray {gray_color[color]} here, and gray masks hold {gray_color[color]}, "
                    "so that indices do not tell the classes"
                )
                return Problem(mask.path, found, f"{remedy}, or all as gray", ProblemKind.PALETTES)
            before, path = first.setdefault(index, (color, mask.path))
            if before != color:
                found = (
                    f"palette index {index} is {unpack_color(color)} here, but {unpack_color(before)} in {path}, so "
                    "that indices do not tell the classes"
                )
                return Problem(mask.path, found, remedy, ProblemKind.PALETTES)
    return None


def two_colors(masks: Sequence[MaskFacts]) -> tuple[tuple[Color, ...], ...]:
    """Return the colors of (background, object) where the masks show black and one other color, else ()."""
    shown = [colors for mask in masks if (colors := mask.raw.colors) is not None]
    colors = set(np.unique(np.concatenate(shown)).tolist()) if len(shown) == len(masks) else set()
    if len(colors) != 2 or 0 not in colors:
        return ()
    return ((0, 0, 0),), (unpack_color(max(colors)),)


def values_of_grays(masks: Sequence[MaskFacts]) -> list[int]:
    """Return the values of the masks without a palette, gray stored as RGB included."""
    values = (mask.raw.class_values for mask in masks if mask.raw.kind != "palette" and not mask.raw.one_bit)
    return sorted({value for each in values if each is not None for value in each.tolist()})


def black_at_an_index(masks: Sequence[MaskFacts]) -> Problem | None:
    """Return the warning that binary palette masks show black at an index other than 0, and are read by color."""
    inverted = [
        mask for mask in masks if mask.raw.kind == "palette" and ((mask.raw.values > 0) & (mask.raw.colors == 0)).any()
    ]
    if not inverted:
        return None
    found = f"in {len(inverted)} of {len(masks)} masks black is not palette index 0"
    remedy = "they are read by color, black as background; if indices count, give the classes values in classes.json"
    return Problem(inverted[0].path, found, remedy, ProblemKind.PALETTES, fatal=False)


def conflict_under(masks: Sequence[MaskFacts], encoding: LabelEncoding) -> Problem | None:
    """Return the problem of palette masks that are read by index with `encoding`, though their palettes differ."""
    by_index = [mask for mask in masks if mask.raw.kind == "palette" and not encoding.reads_by_color(mask.raw)]
    grays = [value for group in encoding.values for value in group] if encoding.palette is None else []
    return palette_conflict(by_index, grays)


def merged_palette(masks: Sequence[MaskFacts]) -> bytes | None:
    """Return the first palette, with the colors of all indices that any mask uses; None without palette masks."""
    used = [mask.raw for mask in masks if mask.raw.kind == "palette"]
    if not used:
        return None
    palette = bytearray(used[0].palette or b"")
    for raw in used:
        for index in raw.values.tolist():
            color = (raw.palette or b"")[3 * index : 3 * index + 3]
            if len(color) == 3:
                palette.extend(bytes(max(0, 3 * index + 3 - len(palette))))
                palette[3 * index : 3 * index + 3] = color
    return bytes(palette)


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
