"""A folder that several processes write into, whether samples or edited masks: its manifest and its classes."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TextIO, TypeVar

from pydantic import BaseModel, ValidationError

from guided_diffusion.data.masks.classes_file import FILE_NAME, classes_text
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.runtime.files import remove, reporting_os_errors, write_text
from guided_diffusion.runtime.logs import read_json_lines
from guided_diffusion.runtime.units import counted
from guided_diffusion.samples.manifest import MANIFEST, PART, UNFINISHED, is_whole_png

Line = TypeVar("Line", bound=BaseModel)
_NAMED = 3  # damaged files, at most


class WrittenFolder:
    """A folder whose manifest each process writes a part of, `.manifest-<rank>.jsonl`, until the parts are merged.

    The base of what writes such folders; `folder` is where the manifest lies.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.damaged: list[str] = []
        """A file of each sample that was damaged when the folder was begun and is to be made again."""
        self._part: TextIO | None = None

    @property
    def manifest(self) -> Path:
        return self.folder / MANIFEST

    @property
    def _unfinished(self) -> Path:
        """Marks the folder while a run goes on or after it was killed: it may have files that no manifest has."""
        return self.folder / UNFINISHED

    @property
    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob(PART.format("*")))

    def _mark_unfinished(self) -> None:
        with reporting_os_errors(self._unfinished):
            self._unfinished.touch()

    def _replace_manifest(self, lines: str) -> None:
        """Write the manifest anew, unless there are no lines, and remove the parts."""
        if lines:
            write_text(self.manifest, lines)
        for path in self._parts:
            remove(path)

    def _find_damage(
        self, files: Mapping[int, Sequence[str]], lines: Container[int], whole: Container[int], *, finished: bool
    ) -> None:
        """Note samples, their files by number, whose files are not `whole`, or have no line in a folder once finished.

        lines: the numbers that have lines. In an unfinished folder, files without a line are what a kill interrupted.
        """
        for number, names in files.items():
            if number in whole:
                continue
            if number in lines or (finished and any((self.folder / name).exists() for name in names)):
                self.damaged.append(next((name for name in names if not is_whole_png(self.folder / name)), names[0]))

    def counts(self, planned: int, there: int, noun: str) -> str:
        """Return "4 images, 1 is there already, 1 was damaged and is made again (images/a.png)"."""
        text = counted(planned, noun)
        if there:
            text += f", {counted(there, 'is there already', 'are there already')}"
        if self.damaged:
            again = counted(len(self.damaged), "was damaged and is made again", "were damaged and are made again")
            text += f", {again} ({', '.join(self.damaged[:_NAMED])}{', ...' if len(self.damaged) > _NAMED else ''})"
        return text

    def open_part(self, rank: int) -> None:
        """Open this process's part of the manifest."""
        path = self.folder / PART.format(rank)
        with reporting_os_errors(path):
            self._part = open(path, "a", encoding="utf-8")  # noqa: SIM115

    def _add_line(self, line: str) -> None:
        """Add a line to this process's part; it comes after its files, which without a line are made again."""
        assert self._part is not None
        with reporting_os_errors(self.manifest):
            self._part.write(line)
            self._part.flush()

    def close_part(self) -> None:
        if self._part is not None:
            self._part.close()
            self._part = None


def read_lines(path: Path, kind: type[Line]) -> list[Line]:
    """Return the lines of a manifest without what cannot be read, such as a line that a kill cut short."""
    lines = []
    for record in read_json_lines(path) if path.is_file() else ():
        with suppress(ValidationError):
            lines.append(kind.model_validate(record))
    return lines


def keep_classes(folder: Path, encoding: LabelEncoding, key: str = "results_path") -> None:
    """Write the classes.json of the folder that `key` names; DataError where another one is there."""
    path, text = folder / FILE_NAME, classes_text(encoding)
    if not path.exists():
        write_text(path, text)
    elif path.read_bytes() != text.encode():
        raise DataError.of(path, "belongs to another dataset", f"choose an empty {key}")
