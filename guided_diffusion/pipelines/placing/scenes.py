"""What `place` and `paste` record of good images with defects, show of them, and tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from guided_diffusion.config.network import TrainedConfig
from guided_diffusion.data import visualize
from guided_diffusion.data.placing.options import PlacingOptions
from guided_diffusion.pipelines.placing.plan import Finished, PlacePlan
from guided_diffusion.runtime.units import counted
from guided_diffusion.samples.contact_sheet import SHEET
from guided_diffusion.samples.manifest import ManifestLine, PlacedDefect, SkippedDefect
from guided_diffusion.samples.place_sheet import place_sheet, placed_rows
from guided_diffusion.samples.writer import SyntheticFolder

SHEET_ROWS = 12


def scene_settings(options: PlacingOptions, plan: PlacePlan) -> dict[str, Any]:
    """Return what all pairs of a run have in common, by the keys of `ScenesSettings`."""
    return {
        "mask_source": options.mask_source,
        "place": options.place,
        "edit": options.edit,
        "defects_per_image": options.defects_per_image,
        "classes": list(options.classes) if options.classes else None,
        "inputs": plan.inputs,
    }


def recorded_defects(finished: Finished, names: Sequence[str]) -> tuple[list[PlacedDefect], list[SkippedDefect]]:
    """Return the defects of an image and those left out, as its line of the manifest has them; names: of classes."""
    placed = [PlacedDefect.of(names[defect.class_id], defect.extent, defect.source) for defect in finished.defects]
    return placed, [SkippedDefect(name=names[each.class_id], reason=each.reason) for each in finished.skipped]


def save_scene_sheet(output: SyntheticFolder, lines: Sequence[ManifestLine], trained: TrainedConfig) -> None:
    """Write the contact sheet of a finished folder, of pairs spread evenly over it; nothing where there are none."""
    if not lines:
        return
    geometry, encoding = trained.geometry, output.encoding
    assert encoding is not None
    shown = visualize.evenly_spaced(lines, SHEET_ROWS)
    upright = trained.source.exif != "ignore"
    rows = placed_rows(output.folder, shown, encoding, geometry.image_channels, geometry.image_range, upright=upright)
    visualize.save(place_sheet(rows, encoding.names), output.folder / SHEET)


def defect_lines(lines: Sequence[ManifestLine], planned: int, verb: str) -> list[str]:
    """Return what is told of finished pairs: how many there are, the defects by class, and those left out, and why."""
    placed = Counter(defect.name for line in lines for defect in line.defects or ())
    skipped = Counter((defect.name, defect.reason) for line in lines for defect in line.skipped or ())
    counts = ", ".join(f"{name} {count}" for name, count in sorted(placed.items()))
    told = [f"{counted(len(lines), 'image')} ({planned} asked for); {verb}: {counts or 'nothing'}"]
    if lines and not placed:
        told.insert(0, "warning: no image has got a defect, for the reasons below")
    return told + [f"  not placed: {count} {name}, {reason}" for (name, reason), count in sorted(skipped.items())]
