"""Images of layouts on disk: what the manifest says of their objects, and all of it as a layout file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from guided_diffusion.conditions.base import Size
from guided_diffusion.data.boxes.asked import AskedLayout, shares_of
from guided_diffusion.data.boxes.layout_file import LAYOUT_FILE
from guided_diffusion.runtime.files import write_text
from guided_diffusion.samples.manifest import ManifestLine, PredictedMask, PredictedObject
from guided_diffusion.samples.writer import SyntheticFolder


def predicted_of(layout: AskedLayout, names: Sequence[str], steps: int, size: Size) -> PredictedMask:
    """Return what the manifest says of a layout whose objects have style seeds, in an image of `size`."""
    objects = [
        PredictedObject(
            name=names[each.class_id],
            box=None if each.is_background else list(each.box),
            style_seed=each.style_seed,
        )
        for each in layout.objects
    ]
    background = next((each for each in objects if each.box is None), None)
    inside = None if layout.inside is None else list(shares_of(layout.inside, size))
    boxed = [each for each in objects if each.box is not None]
    return PredictedMask(background=background, objects=boxed, inside=inside, steps=steps)


def save_objects(output: SyntheticFolder) -> Path:
    """Write the layouts of all samples as a layout file, which `sample` reads back; return its path."""
    path = output.folder / LAYOUT_FILE
    lines = [line for line in output.written() if line.predicted is not None]
    layouts = ",\n".join(f"  {json.dumps(_record(line))}" for line in lines)
    write_text(path, f'{{"units": "shares", "layouts": [\n{layouts}\n]}}\n')
    return path


def _record(line: ManifestLine) -> dict[str, Any]:
    predicted = line.predicted
    record: dict[str, Any] = {"name": line.image.removeprefix("images/").removesuffix(".png")}
    if predicted.background is not None:
        record["background"] = predicted.background.model_dump(by_alias=True, exclude_none=True)
    if predicted.inside is not None:
        record["inside"] = predicted.inside
    record["objects"] = [each.model_dump(by_alias=True) for each in predicted.objects]
    if line.lineage is not None:
        record["lineage"] = line.lineage.model_dump()
    return record
