"""The table of readers, and which of them a source is for."""

from __future__ import annotations

from collections.abc import Sequence

from guided_diffusion.data.formats.annotated import Annotated, Reader
from guided_diffusion.data.formats.readers.coco import is_coco, read_coco
from guided_diffusion.data.formats.readers.folder import pairs_of, read_folder
from guided_diffusion.data.formats.source_files import SourceFiles
from guided_diffusion.runtime.errors import ConfigError, DataError

READERS: dict[str, Reader] = {
    "coco": read_coco,
    "folder": read_folder,
}
_LOOKED_AT = 50
"""JSON files of which the content is looked at."""


def recognized(files: SourceFiles) -> list[str]:
    """Return the formats whose marks the files of a source bear: their names, and the keys of JSON files."""
    found = []
    unreadable: DataError | None = None
    kinds = set()
    for name in files.named(".json")[:_LOOKED_AT]:
        try:
            kinds.add(_kind_of_json(files, name))
        except DataError as error:
            unreadable = error
    found += sorted(kinds - {""})
    if not files.only and pairs_of(sorted(files.pictures)):
        found.append("folder")
    if not found and unreadable is not None:
        raise unreadable
    return found


def _kind_of_json(files: SourceFiles, name: str) -> str:
    content = files.json(name)
    return "coco" if is_coco(content) else ""


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
