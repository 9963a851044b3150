"""The contact sheet of `sample`: what samples have, mask or image or both, side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from guided_diffusion.data import visualize
from guided_diffusion.samples.manifest import IMAGES_ALONE, MASKS_ALONE, ManifestLine
from guided_diffusion.samples.writer import SyntheticFolder

SHEET, SHEET_TILES = "contact_sheet.png", 64
_TITLES = {IMAGES_ALONE: "samples", MASKS_ALONE: "masks"}


def save_contact_sheet(output: SyntheticFolder, lines: Sequence[ManifestLine], names: Sequence[str] = ()) -> None:
    """Write the sheet of written samples, spread over `lines`; none without samples. names: of the classes."""
    if not lines:
        return
    each = len(output.settings.kinds)
    palette = visualize.class_palette(len(names))
    tiles: list[visualize.Pixels] = []
    labels: list[np.ndarray] = []
    for image, label in output.tiles(visualize.evenly_spaced(lines, SHEET_TILES // each)):
        if label is not None:
            labels.append(label)
            tiles.append(visualize.colorize(label, palette))
        if image is not None:
            tiles.append(visualize.to_rgb(image))
    sheet = visualize.grid(
        visualize.in_square(tiles, each),
        legend=visualize.legend_of(names, labels),
        title=_TITLES.get(output.settings.generates, "mask | sample"),
    )
    visualize.save(sheet, output.folder / SHEET)
