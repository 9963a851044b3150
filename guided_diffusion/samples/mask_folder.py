"""A folder of edited masks: its manifest, its writer, and the lineage that samples of its masks take from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, JsonValue

from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.runtime.files import atomic_write, is_temporary, make_folder, remove_leftovers
from guided_diffusion.runtime.logs import read_run_record
from guided_diffusion.samples.manifest import MANIFEST, UNFINISHED, MaskLineage, MaskOrigin, is_whole_png
from guided_diffusion.samples.written_folder import WrittenFolder, keep_classes, read_lines

MASKS = "masks"
ACTION = "masks"


class MaskLine(BaseModel):
    """One finished mask; its file is relative to the manifest. `settings` are those of all masks of the folder."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    index: int
    mask: str
    split: str
    base: MaskOrigin
    """The mask whose classes and counts it has."""
    donors: list[MaskOrigin]
    """The masks whose pixels, or boxes, it has."""
    novelty: float
    draws: int
    settings: dict[str, JsonValue]

    @property
    def lineage(self) -> MaskLineage:
        """What a sample made from the mask has to tell of it."""
        down, across = (bool(self.settings.get(key)) for key in ("vertical_flip", "random_flip"))
        return MaskLineage(split=self.split, upside_down=down, left_to_right=across, masks=self.donors or [self.base])

    @classmethod
    def read(cls, path: Path) -> dict[int, Self]:
        """Return the lines of a manifest by index, without what cannot be read."""
        return {line.index: line for line in read_lines(path, cls)}


class NewMask(Protocol):
    """A mask to be written, and what it was made of, by the names of masks of the dataset."""

    @property
    def label(self) -> NDArray[np.integer]:
        """Class ids [H, W]."""

    @property
    def base_name(self) -> str:
        """The mask whose classes and counts it has."""

    @property
    def donors(self) -> tuple[str, ...]:
        """Those whose pixels or boxes it has."""

    @property
    def novelty(self) -> float:
        """1 - IoU to the nearest mask of the dataset."""

    @property
    def draws(self) -> int:
        """How many were drawn, of which this one was taken."""


class MaskFolder(WrittenFolder):
    """`results_path` of `masks`."""

    def __init__(self, folder: str | Path, encoding: LabelEncoding, split: str, settings: Mapping[str, Any]):
        super().__init__(Path(folder))
        self.encoding, self.split, self.settings = encoding, split, dict(settings)
        self._prefix = "drawn" if settings.get("method") == "boxes" else "edited"

    def _file_of(self, index: int) -> str:
        """Return the path of a mask by its number, relative to the manifest."""
        return f"{MASKS}/{self._prefix}_{index:06d}.png"

    def begin(self, count: int) -> set[int]:
        """Prepare the folder for masks 0..count - 1; return the numbers of those that it has, to be kept.

        To be called in one process before any process writes. Raises DataError where the folder has masks of other
        settings, or files that are not masks of its own.
        """
        lines = self._lines()
        for line in lines.values():
            for key, value in self.settings.items():
                before = line.settings.get(key)
                if before != value:
                    found = f"holds masks with {key} {json.dumps(before)}, these would have {json.dumps(value)}"
                    if key == "inputs":  # a digest, which tells nobody anything
                        found = "holds masks made of another dataset, or its masks have changed"
                    raise DataError.of(self.manifest, found, "choose another results_path")
        ours = self._unfinished.exists() or self._is_ours
        named = {self._file_of(index) for index in range(count)} | {line.mask for line in lines.values()}
        for path in sorted((self.folder / MASKS).rglob("*")):
            foreign = path.is_file() and not is_temporary(path)
            if foreign and not (ours and path.relative_to(self.folder).as_posix() in named):
                raise DataError.of(path, "was not made by masks here", "choose an empty results_path")
        keep_classes(self.folder, self.encoding)
        make_folder(self.folder / MASKS)
        for folder in (self.folder, self.folder / MASKS):
            remove_leftovers(folder)
        finished = not self._unfinished.exists()
        self._mark_unfinished()
        whole = self._merge()
        self._find_damage({index: [self._file_of(index)] for index in range(count)}, lines, whole, finished=finished)
        return set(whole)

    @property
    def _is_ours(self) -> bool:
        return read_run_record(self.folder, "environment.json").get("action") == ACTION

    def _lines(self) -> dict[int, MaskLine]:
        lines: dict[int, MaskLine] = {}
        for path in [self.manifest, *self._parts]:
            lines |= MaskLine.read(path)
        return dict(sorted(lines.items()))

    def _merge(self) -> dict[int, MaskLine]:
        """Merge the parts of the processes into the manifest; keep the lines whose files are whole."""
        lines = {
            index: line
            for index, line in self._lines().items()
            if line.mask == self._file_of(index) and is_whole_png(self.folder / line.mask)
        }
        self._replace_manifest("".join(line.model_dump_json() + "\n" for line in lines.values()))
        return lines

    def write(self, index: int, mask: NewMask, origins: Mapping[str, MaskOrigin]) -> None:
        """Write one mask, then its line; origins: by the names of masks of the dataset."""
        with atomic_write(self.folder / self._file_of(index)) as temporary:
            self.encoding.encode(mask.label).save(temporary, format="PNG")
        line = MaskLine(
            index=index,
            mask=self._file_of(index),
            split=self.split,
            base=origins[mask.base_name],
            donors=[origins[name] for name in mask.donors],
            novelty=round(mask.novelty, 4),
            draws=mask.draws,
            settings=self.settings,
        )
        # The line comes last: a mask without a line is made again.
        self._add_line(line.model_dump_json() + "\n")

    def finish(self) -> list[MaskLine]:
        """Merge all parts, in one process after all have closed theirs; return the lines by index."""
        lines = self._merge()
        self._unfinished.unlink(missing_ok=True)
        return list(lines.values())

    def labels(self, lines: Sequence[MaskLine]) -> list[np.ndarray]:
        """Return the label maps [H, W] of masks that were written."""
        result = []
        for line in lines:
            with Image.open(self.folder / line.mask) as image:
                result.append(self.encoding.decode(image, line.mask))
        return result


def edited_masks(mask_dir: str | Path) -> tuple[Path, dict[str, MaskLineage]] | None:
    """Return the folder of PNG files of a results_path of `masks`, and the lineage of each by its absolute path.

    mask_dir: that folder, or masks/ in it. None for any other folder. DataError where its masks are not finished.
    """
    if "://" in str(mask_dir):
        return None
    given = Path(mask_dir)
    root = given if (given / MASKS).is_dir() else given.parent
    if given not in (root, root / MASKS) or read_run_record(root, "environment.json").get("action") != ACTION:
        return None
    if (root / UNFINISHED).exists():
        raise DataError.of(root, "its masks are not finished", "run the same command again first")
    lines = MaskLine.read(root / MANIFEST)
    return root / MASKS, {str((root / line.mask).absolute()): line.lineage for line in lines.values()}
