"""The table of readers, and which of them a source is for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from guided_diffusion.data.formats.annotated import Annotated, Reader
from guided_diffusion.data.formats.readers.coco import is_coco, read_coco
from guided_diffusion.data.formats.readers.cvat import is_cvat, read_cvat
from guided_diffusion.data.formats.readers.folder import pairs_of, read_folder
from guided_diffusion.data.formats.readers.label_studio import (
    PNG_NAME,
    is_label_studio,
    read_label_studio,
    read_label_studio_png,
)
from guided_diffusion.data.formats.readers.labelme import is_labelme, read_labelme
from guided_diffusion.data.formats.readers.voc import bases, read_voc
from guided_diffusion.data.formats.readers.yolo import is_yolo, read_yolo
from guided_diffusion.data.formats.source_files import SourceFiles
from guided_diffusion.runtime.errors import ConfigError, DataError

READERS: dict[str, Reader] = {
    "coco": read_coco,
    "labelme": read_labelme,
    "yolo": read_yolo,
    "cvat": read_cvat,
    "voc": read_voc,
    "label-studio": read_label_studio,
    "label-studio-png": read_label_studio_png,
    "folder": read_folder,
}
_OF_JSON: dict[str, Callable[[Any], bool]] = {
    "coco": is_coco,
    "labelme": is_labelme,
    "label-studio": is_label_studio,
}
_LOOKED_AT = 50
"""JSON files of which the content is looked at."""


def recognized(files: SourceFiles) -> list[str]:
    """Return the formats whose marks the files of a source bear: their names, roots of XML, and keys of JSON.

    DataError where nothing is recognized and a JSON file cannot be read.
    """
    found: set[str] = set()
    unreadable: DataError | None = None
    for name in files.named(".json")[:_LOOKED_AT]:
        try:
            content = files.json(name)
        except DataError as error:
            unreadable = error
            continue
        found |= {kind for kind, fits in _OF_JSON.items() if fits(content)}
    if any(is_cvat(files, name) for name in files.named(".xml")):
        found.add("cvat")
    if any(is_yolo(files, name) for name in files.named(".yaml", ".yml")):
        found.add("yolo")
    if not files.only:
        if bases(list(files.files)):
            found.add("voc")
        if any(PNG_NAME.fullmatch(name.rpartition("/")[2]) for name in files.files):
            found.add("label-studio-png")
        if _has_pairs(files):
            found.add("folder")
    if not found and unreadable is not None:
        raise unreadable
    return [kind for kind in READERS if kind in found]


def _has_pairs(files: SourceFiles) -> bool:
    """Return whether there are masks beside images, be it not certain of which."""
    try:
        return bool(pairs_of(sorted(files.pictures)))
    except DataError:
        return True


def read_source(files: SourceFiles, kind: str, classes: Sequence[str] = ()) -> Annotated:
    """Return the annotations of a source; kind: a key of READERS, or "auto" for what its files show.

    ConfigError where they show nothing, or several formats.
    """
    if kind == "auto":
        found = recognized(files)
        if len(found) != 1:
            shown = f"shows {' and '.join(found)}" if found else "shows none of the formats"
            line = f"format is auto, but {files.root} {shown}: set format to one of {', '.join(found or READERS)}"
            raise ConfigError.of_keys(("format", line))
        kind = found[0]
    annotated = READERS[kind](files, classes)
    if not annotated.pictures:
        raise DataError.of(files.root, f"has no annotated image as {annotated.form}", "check source and format")
    return annotated
