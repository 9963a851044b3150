"""The contact sheet of `sample`: what samples have, mask or image or both, side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from guided_diffusion.data import visualize
from guided_diffusion.samples.manifest import IMAGES_ALONE, MASKS_ALONE, ManifestLine
from guided_diffusion.samples.writer import SyntheticFolder

SHEET, SHEET_TILES = "contact_sheet.png", 64
_BOXED, _BOXED_TILE = "layout | sample | predicted mask", 128  # px of the longer side of a tile
_TITLES = {IMAGES_ALONE: "samples", MASKS_ALONE: "masks"}


def save_contact_sheet(output: SyntheticFolder, lines: Sequence[ManifestLine], names: Sequence[str] = ()) -> None:
    """Write the sheet of written samples, spread over `lines`; none without samples. names: of the classes."""
    if not lines:
        return
    boxed = output.settings.layout_source is not None
    each = len(output.settings.kinds) + boxed
    palette = visualize.class_palette(len(names))
    tiles: list[visualize.Pixels] = []
    labels: list[np.ndarray] = []
    shown = visualize.evenly_spaced(lines, SHEET_TILES // each)
    for line, (image, label) in zip(shown, output.tiles(shown), strict=True):
        if boxed:
            labels.append(label)
            seen = [visualize.enlarged(part, _BOXED_TILE) for part in (image, visualize.colorize(label, palette))]
            tiles += [_boxes(line, seen[0], names), *seen]
            continue
        if label is not None:
            labels.append(label)
            tiles.append(visualize.colorize(label, palette))
        if image is not None:
            tiles.append(visualize.to_rgb(image))
    sheet = visualize.grid(
        visualize.in_square(tiles, each),
        legend=visualize.legend_of(names, labels),
        title=_BOXED if boxed else _TITLES.get(output.settings.generates, "mask | sample"),
    )
    visualize.save(sheet, output.folder / SHEET)


def _boxes(line: ManifestLine, image: visualize.Pixels, names: Sequence[str]) -> visualize.Pixels:
    """Return the boxes of a layout in the colors of their classes, over the image made dark."""
    palette = visualize.class_palette(len(names))
    objects = line.predicted.objects
    colors = [("", palette[names.index(each.name)].tolist()) for each in objects]
    return visualize.draw_boxes(image // 3, [each.box for each in objects], colors)
