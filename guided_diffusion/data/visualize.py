"""Pictures for people: colored label maps, overlays, titled grids and loss curves.

Tiles are uint8 arrays [H, W, 3], label maps integer arrays [H, W] in `0..num_classes`; `num_classes` is the null id.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
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
# The first classes get colors that stay apart for color-blind readers (after Okabe and Ito 2008).
_FIRST = ((240, 220, 66), (213, 70, 0), (86, 180, 233), (200, 50, 160), (0, 158, 115), (0, 80, 200), (245, 160, 200))
_MAX_DISTINCT = 1024
_TEXT, _HEADING = 14, 18  # font sizes in pixels
_MARGIN = 4  # white pixels around text
_MIN_TILE = 128  # pixels a tile is enlarged to when no scale is asked for


# ------------------------------------------------------------------------------------------------- label maps


def class_palette(num_classes: int) -> Pixels:
    """Return [num_classes + 1, 3]: nearly black for class 0, distinct colors for the others, gray for the null id.

    A class has the same color whatever `num_classes` is. Beyond 1024 classes the colors repeat.
    """
    assert num_classes >= 1
    distinct = _distinct_colors(min(num_classes, _MAX_DISTINCT))
    return np.concatenate([np.resize(distinct, (num_classes, 3)), np.array([_NULL], np.uint8)])


@lru_cache(maxsize=8)
def _distinct_colors(count: int) -> Pixels:
    """Return [count, 3]: each color the farthest, in CIELAB, from all before it, the paper and the null gray."""
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
    """Return the classes that occur in the maps `labels` with their colors, as `grid` shows them."""
    palette = class_palette(len(names))
    shown = sorted({int(index) for label in labels for index in np.unique(np.asarray(label))})
    return [(names[index], palette[index].tolist()) for index in shown if index < len(names)]


def colorize(label: ArrayLike, palette: Pixels) -> Pixels:
    """Return the label map [H, W] in the colors of `palette` ([num_classes + 1, 3], see class_palette): [H, W, 3]."""
    label = np.asarray(label)
    assert label.ndim == 2, "label must be of shape [H, W]"
    assert label.dtype.kind in "iu", "label must be integers"
    assert label.size == 0 or (label.min() >= 0 and label.max() < len(palette)), "label outside the palette"
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
    """Return images [N, C, H, W] in [-1, 1] as uint8 [N, H, W, C]; what lies outside is clipped."""
    pixels = np.clip(np.round((images.astype(np.float32) + 1) * 127.5), 0, 255).astype(np.uint8)
    return pixels.transpose(0, 2, 3, 1)


def to_pixels(images: NDArray[np.floating]) -> list[Pixels]:
    """Return images [N, 1 or 3, H, W] in [-1, 1] as N tiles uint8 [H, W, 3]."""
    return [to_rgb(image) for image in quantize(images)]


def evenly_spaced(items: Sequence[Item], count: int) -> list[Item]:
    """Return at most `count` of `items`, evenly spread over them: what a picture of a whole dataset shows."""
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def overlay(image: Pixels, label: ArrayLike, palette: Pixels, alpha: float = 0.45, *, background: int = 0) -> Pixels:
    """Return the image [H, W, 3] with the label map laid over it at opacity `alpha` in 0..1, but for the background."""
    image, colors = to_rgb(image), colorize(label, palette)
    assert image.shape == colors.shape, "image and label differ in size"
    assert 0 <= alpha <= 1
    mixed = np.round(image * (1 - alpha) + colors * alpha).astype(np.uint8)
    return np.where(np.asarray(label)[..., None] != background, mixed, image)


def draw_edges(image: Pixels, edge: ArrayLike) -> Pixels:
    """Return the image [H, W, 3] at half its brightness with the pixels of `edge` ([H, W] booleans) in white."""
    image, edge = to_rgb(image), np.asarray(edge)
    assert edge.dtype == bool, "edge must be booleans"
    assert image.shape[:2] == edge.shape, "image and edge differ in size"
    return np.where(edge[..., None], np.uint8(255), image // 2)


# ------------------------------------------------------------------------------------------------------ grids


def grid(
    rows: Sequence[Sequence[Pixels]],
    *,
    column_titles: Sequence[str] = (),
    row_titles: Sequence[str] = (),
    legend: Sequence[tuple[str, Color]] = (),
    scale: int | None = None,
    pad: int = 2,
    title: str = "",
) -> Image.Image:
    """Return a white sheet with the tiles of `rows` (uint8 [H, W, 3] or gray, any sizes; rows may end early).

    column_titles, row_titles: one per column above the tiles, one per row at the left; long ones are wrapped.
    legend: (name, color) pairs, shown as swatches under the tiles.
    scale: whole-number nearest-neighbor enlargement; None enlarges small tiles to about 128 pixels.
    pad: white pixels around every tile, shared by neighbors.
    """
    tiles = [[to_rgb(tile) for tile in row] for row in rows]
    sides = [max(tile.shape[:2]) for row in tiles for tile in row]
    assert sides, "a grid needs at least one tile"
    if scale is None:
        scale = max(1, round(_MIN_TILE / max(sides)))
    assert scale >= 1, "tiles are only ever enlarged"
    num_columns = max(len(row) for row in tiles)
    assert len(column_titles) in (0, num_columns), "one title per column, or none"
    assert len(row_titles) in (0, len(tiles)), "one title per row, or none"

    table = [[Image.fromarray(tile.repeat(scale, axis=0).repeat(scale, axis=1)) for tile in row] for row in tiles]
    widths = [max(row[c].width for row in table if c < len(row)) for c in range(num_columns)]
    if row_titles:
        table = [[_text(name, 2 * _MIN_TILE), *row] for name, row in zip(row_titles, table, strict=True)]
    if column_titles:
        corner = [_blank(0, 0)] if row_titles else []
        titles = [_text(name, width) for name, width in zip(column_titles, widths, strict=True)]
        table.insert(0, [*corner, *titles])
    body = _table(table, pad)
    parts = [_text(title, body.width, _HEADING)] if title else []
    parts.append(body)
    if legend:
        parts.append(_legend(legend, body.width))
    return _table([[part] for part in parts], 0)


def contact_sheet(
    tiles: Sequence[Pixels],
    columns: int = 16,
    *,
    legend: Sequence[tuple[str, Color]] = (),
    scale: int | None = 1,
    pad: int = 2,
    title: str = "",
) -> Image.Image:
    """Return a sheet of many tiles ([H, W, 3] each), `columns` a row, at their own size by default; see grid."""
    assert columns >= 1
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    return grid(rows, legend=legend, scale=scale, pad=pad, title=title)


def _blank(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), _PAPER)


def _table(rows: Sequence[Sequence[Image.Image]], pad: int) -> Image.Image:
    """Return the pictures as a table: a column as wide as its widest, a row as high as its highest, all centered."""
    num_columns = max(len(row) for row in rows)
    widths = [max(row[c].width for row in rows if c < len(row)) for c in range(num_columns)]
    heights = [max((cell.height for cell in row), default=0) for row in rows]
    left = np.cumsum([pad] + [width + pad for width in widths]).tolist()
    top = np.cumsum([pad] + [height + pad for height in heights]).tolist()
    sheet = _blank(left[-1], top[-1])
    for r, row in enumerate(rows):
        for c, cell in enumerate(row):
            sheet.paste(cell, (left[c] + (widths[c] - cell.width) // 2, top[r] + (heights[r] - cell.height) // 2))
    return sheet


def _text(text: str, max_width: int, size: int = _TEXT) -> Image.Image:
    """Return the text, dark on white with a margin, wrapped at spaces to `max_width` (a longer word is not cut)."""
    font = ImageFont.load_default(size)
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= max_width - 2 * _MARGIN:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    width = max((int(np.ceil(font.getlength(line))) for line in lines), default=0)
    line_height = sum(font.getmetrics())
    picture = _blank(width + 2 * _MARGIN, line_height * len(lines) + 2 * _MARGIN)
    draw = ImageDraw.Draw(picture)
    for number, line in enumerate(lines):
        draw.text((picture.width / 2, _MARGIN + number * line_height), line, fill=_INK, font=font, anchor="ma")
    return picture


def _legend(legend: Sequence[tuple[str, Color]], width: int) -> Image.Image:
    """Return swatches with names, as many a row as fit `width`."""
    entries = []
    for name, color in legend:
        swatch = Image.new("RGB", (_TEXT, _TEXT), tuple(int(value) for value in color))
        ImageDraw.Draw(swatch).rectangle((0, 0, _TEXT - 1, _TEXT - 1), outline=_INK)
        entries.append(_table([[swatch, _text(name, 2 * _MIN_TILE)]], _MARGIN // 2))
    rows: list[list[Image.Image]] = []
    for entry in entries:
        if rows and sum(other.width for other in rows[-1]) + entry.width <= width:
            rows[-1].append(entry)
        else:
            rows.append([entry])
    return _table([[_table([row], 0)] for row in rows], 0)


# ------------------------------------------------------------------------------------------------------ files


def save(image: Image.Image, path: str | Path) -> None:
    """Write the picture in the format of the path's ending; a file of that name is replaced in one go or not at all.

    Makes the folder. Raises ValueError for an ending that names no picture format.
    """
    formats = Image.registered_extensions()
    suffix = Path(path).suffix.lower()
    if suffix not in formats:
        raise ValueError(f"{path}: {suffix or 'no ending'} is not a picture format; use .png or .jpg")
    with atomic_write(path) as temporary:
        image.save(temporary, format=formats[suffix])
