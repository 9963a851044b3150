"""Pictures to look at: colored label maps, overlays, titled grids.

Tiles are uint8 arrays [H, W, 3], label maps integer arrays [H, W] in `0..num_classes`; `num_classes` is the null id.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import accumulate, zip_longest
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from guided_diffusion.runtime.files import atomic_write

Pixels = NDArray[np.uint8]
Color = Sequence[int]  # red, green, blue in 0..255
Item = TypeVar("Item")

_BACKGROUND, _NULL, _PAPER, _INK = (16, 16, 20), (128, 128, 128), (255, 255, 255), (24, 24, 24)
# Colors that color-blind readers can tell apart (after Okabe and Ito 2008).
_FIRST = ((240, 220, 66), (213, 70, 0), (86, 180, 233), (200, 50, 160), (0, 158, 115), (0, 80, 200), (245, 160, 200))
_MAX_DISTINCT = 1024
_OPACITY = 0.45  # of an overlay
_SMALL_TEXT, _TEXT, _HEADING = 10, 14, 18  # font sizes in pixels
_MARGIN = 4  # white pixels around text
_MIN_TILE = 128  # pixels to which small tiles are enlarged by default


# ------------------------------------------------------------------------------------------------- label maps


def class_palette(num_classes: int) -> Pixels:
    """Return [num_classes + 1, 3]: nearly black for class 0, distinct colors for the others, gray for the null id.

    The color of a class does not depend on `num_classes`. Beyond 1024 classes the colors repeat.
    """
    distinct = _distinct_colors(min(num_classes, _MAX_DISTINCT))
    return np.concatenate([np.resize(distinct, (num_classes, 3)), np.array([_NULL], np.uint8)])


@lru_cache(maxsize=8)
def _distinct_colors(count: int) -> Pixels:
    """Return [count, 3]: after `_FIRST`, each color is the farthest in CIELAB from all before, white and null gray."""
    levels = np.linspace(0, 255, 16)
    candidates = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    positions = _cielab(candidates)
    chosen = [_BACKGROUND, *_FIRST][:count]
    taken = _cielab(np.array([_BACKGROUND, *_FIRST, _PAPER, _NULL], np.float64))
    distance = np.linalg.norm(positions[:, None] - taken[None], axis=-1).min(axis=1)
    while len(chosen) < count:
        best = int(distance.argmax())
        chosen.append(tuple(candidates[best]))
        distance = np.minimum(distance, np.linalg.norm(positions - positions[best], axis=-1))
    return np.array(chosen).astype(np.uint8)


def _cielab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return CIELAB [N, 3] (D65) of sRGB colors [N, 3] in 0..255 (IEC 61966-2-1, CIE 15)."""
    value = rgb / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ (to_xyz / to_xyz.sum(axis=1, keepdims=True)).T
    root = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * root[:, 1] - 16, 500 * (root[:, 0] - root[:, 1]), 200 * (root[:, 1] - root[:, 2])], axis=1)


def legend_of(names: Sequence[str], labels: Iterable[ArrayLike]) -> list[tuple[str, Color]]:
    """Return (name, color) of the classes that occur in `labels`, for `grid`."""
    palette = class_palette(len(names))
    shown = sorted({int(index) for label in labels for index in np.unique(np.asarray(label))})
    return [(names[index], palette[index].tolist()) for index in shown if index < len(names)]


def colorize(label: ArrayLike, palette: Pixels) -> Pixels:
    """Return the label map [H, W] in the colors of `palette` (see `class_palette`): [H, W, 3]."""
    label = np.asarray(label)
    assert label.ndim == 2, "label must be of shape [H, W]"
    assert label.dtype.kind in "iu", "label must be integers"
    assert 0 <= label.min() <= label.max() < len(palette), "label outside the palette"
    return palette[label]


def to_rgb(image: Pixels) -> Pixels:
    """Return [H, W, 3] for a gray ([H, W] or [H, W, 1]) or an RGB image."""
    image = np.asarray(image)
    assert image.dtype == np.uint8, "image must be uint8"
    if image.ndim == 2:
        image = image[..., None]
    assert image.shape[2:] in ((1,), (3,)), "image must be [H, W], [H, W, 1] or [H, W, 3]"
    return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))


def quantize(images: NDArray[np.floating]) -> Pixels:
    """Return images [N, C, H, W], clipped to [-1, 1], as uint8 [N, H, W, C]."""
    pixels = np.clip(np.round((images.astype(np.float32) + 1) * 127.5), 0, 255).astype(np.uint8)
    return pixels.transpose(0, 2, 3, 1)


def to_pixels(images: NDArray[np.floating]) -> list[Pixels]:
    """Return images [N, 1 or 3, H, W] in [-1, 1] as N tiles uint8 [H, W, 3]."""
    return [to_rgb(image) for image in quantize(images)]


def evenly_spaced(items: Sequence[Item], count: int) -> list[Item]:
    """Return at most `count` of `items`, evenly spread over them."""
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def overlay(image: Pixels, label: ArrayLike, palette: Pixels, *, background: int) -> Pixels:
    """Return the image [H, W, 3] with the label map over it in translucent colors, except the class `background`."""
    image = to_rgb(image)
    mixed = np.round(image * (1 - _OPACITY) + colorize(label, palette) * _OPACITY).astype(np.uint8)
    return np.where(np.asarray(label)[..., None] != background, mixed, image)


def draw_edges(image: Pixels, edge: ArrayLike) -> Pixels:
    """Return the image [H, W, 3] at half its brightness with the pixels of `edge` ([H, W] booleans) in white."""
    return np.where(np.asarray(edge)[..., None], np.uint8(255), to_rgb(image) // 2)


def enlarged(image: Pixels, side: int) -> Pixels:
    """Return the image [H, W, 3] scaled so that its longer side has `side` pixels; sharp-edged where it grows."""
    picture = Image.fromarray(to_rgb(image))
    factor = side / max(picture.size)
    size = tuple(max(1, round(length * factor)) for length in picture.size)
    return np.array(picture.resize(size, Image.Resampling.NEAREST if factor > 1 else Image.Resampling.LANCZOS))


def draw_boxes(image: Pixels, boxes: ArrayLike, entries: Sequence[tuple[str, Color]]) -> Pixels:
    """Return the image [H, W, 3] with boxes [N, 4] (x0, y0, x1, y1 as shares of its sides), names and colors beside.

    Of an empty name only the box is drawn.
    """
    picture = Image.fromarray(to_rgb(image))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(_SMALL_TEXT)
    width, height = picture.size
    scaled = np.asarray(boxes, np.float64).reshape(-1, 4) * (width, height, width, height)
    for (x0, y0, x1, y1), (name, color) in zip(np.round(scaled).astype(int).tolist(), entries, strict=True):
        x0, y0 = min(x0, width - 1), min(y0, height - 1)
        right, bottom = max(x0, min(x1, width) - 1), max(y0, min(y1, height) - 1)
        draw.rectangle((x0, y0, right, bottom), outline=tuple(color))
        if not name:
            continue
        wide, high = math.ceil(font.getlength(name)) + 2, sum(font.getmetrics())
        left, top = max(0, min(x0, width - wide)), y0 - high if y0 >= high else min(bottom + 1, height - high)
        draw.rectangle((left, top, left + wide, top + high - 1), fill=tuple(color))
        ink = _PAPER if sum(color) < 384 else _INK
        draw.text((left + 1, top), name, fill=ink, font=font)
    return np.array(picture)


# ------------------------------------------------------------------------------------------------------ grids


def grid(
    rows: Sequence[Sequence[Pixels]],
    *,
    column_titles: Sequence[str] = (),
    row_titles: Sequence[str] = (),
    legend: Sequence[tuple[str, Color]] = (),
    scale: int | None = None,
    title: str = "",
) -> Image.Image:
    """Return a white sheet with `rows` of tiles (uint8 [H, W, 3] or gray, any sizes, any number in a row).

    Titles are above the columns and at the left of the rows; the legend's (name, color) pairs are under the tiles.
    scale: whole-number nearest-neighbor enlargement; None enlarges small tiles to about 128 pixels.
    """
    tiles = [[to_rgb(tile) for tile in row] for row in rows]
    largest = max(max(tile.shape[:2]) for row in tiles for tile in row)
    scale = scale or max(1, round(_MIN_TILE / largest))
    table = [[Image.fromarray(tile.repeat(scale, axis=0).repeat(scale, axis=1)) for tile in row] for row in tiles]
    titles = [_text(*each) for each in zip(column_titles, _widths(table), strict=True)] if column_titles else []
    if row_titles:
        table = [[_text(name, 2 * _MIN_TILE), *row] for name, row in zip(row_titles, table, strict=True)]
        titles.insert(0, _blank(0, 0))
    body = _table([titles, *table] if column_titles else table, pad=2)
    heading = [[_text(title, body.width, _HEADING)]] if title else []
    footer = [[_legend(legend, body.width)]] if legend else []
    return _table([*heading, [body], *footer])


def in_square(tiles: Sequence[Pixels], each: int = 1) -> list[Sequence[Pixels]]:
    """Return rows of at least one tile for a `grid` about as wide as high; groups of `each` tiles stay in a row."""
    columns = each * math.ceil(math.sqrt(len(tiles)) / each)
    return [tiles[start : start + columns] for start in range(0, len(tiles), columns)]


def _blank(width: int, height: int, color: Color = _PAPER) -> Image.Image:
    return Image.new("RGB", (width, height), tuple(color))


def _widths(rows: Sequence[Sequence[Image.Image]]) -> list[int]:
    return [max(cell.width for cell in column if cell is not None) for column in zip_longest(*rows)]


def _table(rows: Sequence[Sequence[Image.Image]], pad: int = 0) -> Image.Image:
    """Return the pictures, centered in the cells of a table; columns and rows take the size of their largest."""
    widths, heights = _widths(rows), [max((cell.height for cell in row), default=0) for row in rows]
    left, top = (
        list(accumulate(sizes, lambda end, size: end + size + pad, initial=pad)) for sizes in (widths, heights)
    )
    sheet = _blank(left[-1], top[-1])
    for r, row in enumerate(rows):
        for c, cell in enumerate(row):
            sheet.paste(cell, (left[c] + (widths[c] - cell.width) // 2, top[r] + (heights[r] - cell.height) // 2))
    return sheet


def _text(text: str, max_width: int, size: int = _TEXT) -> Image.Image:
    """Return the text, dark on white with a margin, wrapped at spaces to `max_width` (a longer word is not cut)."""
    font = ImageFont.load_default(size)
    rows = _wrap(text.split(), lambda words: font.getlength(" ".join(words)) <= max_width - 2 * _MARGIN)
    lines = [" ".join(words) for words in rows]
    width = max((math.ceil(font.getlength(line)) for line in lines), default=0)
    line_height = sum(font.getmetrics())
    picture = _blank(width + 2 * _MARGIN, line_height * len(lines) + 2 * _MARGIN)
    draw = ImageDraw.Draw(picture)
    for number, line in enumerate(lines):
        draw.text((picture.width / 2, _MARGIN + number * line_height), line, fill=_INK, font=font, anchor="ma")
    return picture


def _legend(legend: Sequence[tuple[str, Color]], width: int) -> Image.Image:
    """Return swatches with names in rows of at most `width`."""
    entries = []
    for name, color in legend:
        swatch = _blank(_TEXT, _TEXT, color)
        ImageDraw.Draw(swatch).rectangle((0, 0, _TEXT - 1, _TEXT - 1), outline=_INK)
        entries.append(_table([[swatch, _text(name, 2 * _MIN_TILE)]], _MARGIN // 2))
    rows = _wrap(entries, lambda row: sum(entry.width for entry in row) <= width)
    return _table([[_table([row])] for row in rows])


def _wrap(items: Iterable[Item], fits: Callable[[list[Item]], bool]) -> list[list[Item]]:
    """Return the items in rows that fit; an item that does not fit has a row of its own."""
    rows: list[list[Item]] = []
    for item in items:
        if rows and fits([*rows[-1], item]):
            rows[-1].append(item)
        else:
            rows.append([item])
    return rows


# ------------------------------------------------------------------------------------------------------ files


def save(image: Image.Image, path: str | Path) -> None:
    """Write the picture atomically in the format of the path's extension, PNG for an unknown one."""
    with atomic_write(path) as temporary:
        image.save(temporary, format=Image.registered_extensions().get(Path(path).suffix.lower(), "PNG"))
