"""The pairs that a person accepted in the studio: a folder of samples whose lines have settings of their own.

A pair counts where its line is in the manifest and both files are there. It is accepted in this order: both files
below temporary names, the folder's mark of unfinished work, the line, both renames, the mark taken off. So no file is
ever without its line, by which `evaluate` recognizes masks of the test split; and after a kill in between, readers
refuse the folder until the studio has opened it again and put aside what is not whole.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.runtime.files import is_temporary, make_folder, move, remove_leftovers, reporting_os_errors
from guided_diffusion.runtime.logs import read_run_record
from guided_diffusion.samples.manifest import (
    FOLDERS,
    MANIFEST,
    UNFINISHED,
    ManifestLine,
    MaskLineage,
    MaskOrigin,
    PlacedDefect,
    SampleSettings,
    file_digest,
    is_whole_png,
    read_manifest,
    write_manifest,
)
from guided_diffusion.samples.mark import SourceType, mark_of, write_mark
from guided_diffusion.samples.written_folder import keep_classes

MADE_BY = "studio"
TRASH = ".trash"
"""The folder, beside images/ and masks/, of pairs that were accepted and then discarded."""
_NAME = re.compile(r"studio_(\d{6,9})")


@dataclass(frozen=True)
class AcceptedPair:
    """A pair to be written."""

    image: bytes
    """A PNG without a mark."""
    label: NDArray[np.integer]
    """[H, W] class ids, of the image's size."""
    settings: SampleSettings
    seed: int
    """Of the image itself, which follows from the run's seed and `run_index`."""
    run_index: int
    source: MaskOrigin | None
    """The mask that painting began from; None: nothing."""
    source_split: str
    edited: bool
    lineage: MaskLineage | None
    good: MaskOrigin | None = None
    """The good image into which defects were painted."""
    defects: Sequence[PlacedDefect] = field(default_factory=tuple)
    kind: SourceType = "trainedAlgorithmicMedia"


class AcceptedFolder:
    """`<root>/<split>/{images,masks}` with their manifest, for one process; `<root>/classes.json` serves all splits."""

    def __init__(self, root: str | Path, split: str, encoding: LabelEncoding, *, mark: bool = True):
        self.root = Path(root)
        self.folder = self.root / split if split else self.root
        self.encoding, self.mark = encoding, mark
        self._lines: dict[str, ManifestLine] = {}
        self._next = 0

    @property
    def manifest(self) -> Path:
        return self.folder / MANIFEST

    @property
    def _unfinished(self) -> Path:
        return self.folder / UNFINISHED

    def begin(self) -> None:
        """Prepare the folder, which the caller has locked; put aside what a killed process has left.

        Raises DataError for the results of another action, other classes, and pictures that were not accepted here.
        """
        lines = read_manifest(self.manifest, sound_only=True) if self.manifest.exists() else []
        foreign = next((line for line in lines if line.made_by != MADE_BY or not _NAME.fullmatch(_name(line))), None)
        action = read_run_record(self.folder, "environment.json").get("action", MADE_BY)
        if foreign is not None or action != MADE_BY:
            found = "holds pairs that were not accepted in the studio"
            raise DataError.of(self.folder, found, "choose another results_path, or another split")
        for path in self._pictures():
            if not (_NAME.fullmatch(path.stem) and path.parent.parent == self.folder):
                raise DataError.of(path, "was not accepted in the studio", "choose an empty results_path")
        keep_classes(self.root, self.encoding)
        for folder in (self.folder, *(self.folder / kind for kind in FOLDERS)):
            make_folder(folder)
            remove_leftovers(folder)
        self._settle(lines)
        # A name is never given twice: a page may still show the pair that had it.
        taken = [int(name[1]) for path in (self.folder / TRASH).rglob("*.png") if (name := _NAME.fullmatch(path.stem))]
        self._next = 1 + max([*(line.index for line in lines), *taken], default=-1)

    def _settle(self, lines: Collection[ManifestLine]) -> None:
        """Keep the pairs of `lines` that are whole, and put aside every other picture."""
        self._lines = {_name(line): line for line in lines if self._is_whole(line)}
        if len(self._lines) < len(lines) or self._unfinished.exists():
            write_manifest(self.manifest, self._lines.values())
        for path in self._pictures():
            if path.stem not in self._lines:
                self._put_aside(path)
        with reporting_os_errors(self._unfinished):
            self._unfinished.unlink(missing_ok=True)

    def _pictures(self) -> list[Path]:
        found = [path for kind in FOLDERS for path in sorted((self.folder / kind).rglob("*")) if path.is_file()]
        return [path for path in found if not is_temporary(path)]

    def _is_whole(self, line: ManifestLine) -> bool:
        return all(is_whole_png(self.folder / file) for file in line.files)

    @property
    def names(self) -> list[str]:
        """The names of the pairs, in the order in which they were accepted."""
        return list(self._lines)

    def files(self, name: str) -> tuple[Path, Path] | None:
        """Return image and mask of a pair; None where there is none of that name."""
        line = self._lines.get(name)
        return None if line is None else (self.folder / line.image, self.folder / line.mask)

    def accept(self, pair: AcceptedPair) -> str:
        """Write a pair and its line, and return its name."""
        if self._unfinished.exists():  # by an earlier one that failed, as on a full disk
            self._settle(self._lines.values())
        name = f"studio_{self._next:06d}"
        files = {kind: f"{kind}s/{name}.png" for kind in ("image", "mask")}
        temporary = {kind: self._temporary(file) for kind, file in files.items()}
        try:
            with reporting_os_errors(self.folder / files["image"]):
                temporary["image"].write_bytes(pair.image)
                if self.mark:
                    write_mark(temporary["image"], mark_of(pair.kind, pair.settings, pair.seed))
                self.encoding.encode(pair.label).save(temporary["mask"], format="PNG")
                for path in temporary.values():
                    _flush(path)
                line = self._line(pair, files, temporary["mask"])
                self._unfinished.touch()
                with open(self.manifest, "a", encoding="utf-8", newline="\n") as manifest:
                    manifest.write(line.text())
                    manifest.flush()
                    os.fsync(manifest.fileno())
                for kind, file in files.items():
                    move(temporary[kind], self.folder / file)
                self._unfinished.unlink()
        except BaseException:
            self._take_back(name)
            raise
        finally:
            for path in temporary.values():
                with suppress(OSError):
                    path.unlink(missing_ok=True)
        self._lines[name] = line
        self._next += 1
        return name

    def _temporary(self, file: str) -> Path:
        path = self.folder / file
        return path.with_name(f".{path.name}.{os.getpid()}.tmp")

    def _take_back(self, name: str) -> None:
        """Undo what was written of a pair that could not be finished, as on a full disk."""
        with suppress(OSError):
            for kind in FOLDERS:
                (self.folder / kind / f"{name}.png").unlink(missing_ok=True)
            if self.manifest.exists():  # else somebody deleted the folder, and it stays away
                write_manifest(self.manifest, self._lines.values())
            self._unfinished.unlink(missing_ok=True)

    def _line(self, pair: AcceptedPair, files: dict[str, str], mask: Path) -> ManifestLine:
        # A mask that was painted from nothing is its own source.
        source = pair.source or MaskOrigin(mask=files["mask"], digest=file_digest(mask))
        notes: dict[str, Any] = {"source_mask": source.mask, "source_digest": source.digest}
        if pair.good is not None:
            notes |= {"good_image": pair.good.mask, "good_digest": pair.good.digest}
            notes["defects"] = [defect.model_dump(by_alias=True) for defect in pair.defects]
        if pair.lineage is not None:
            notes["lineage"] = pair.lineage.model_dump()
        return ManifestLine(
            index=self._next,
            **files,
            made_by=MADE_BY,
            source_split=pair.source_split,
            edited=pair.edited,
            run_index=pair.run_index,
            seed=pair.seed,
            synthetic=True,
            **notes,
            **pair.settings.model_dump(),
        )

    def discard(self, name: str) -> bool:
        """Move a pair into the trash; False where there is none of that name."""
        line = self._lines.get(name)
        if line is None:
            return False
        with reporting_os_errors(self.folder / TRASH):
            make_folder(self.folder / TRASH)
            with open(self.folder / TRASH / MANIFEST, "a", encoding="utf-8", newline="\n") as trash:
                trash.write(line.text())
            self._unfinished.touch()
            for file in line.files:
                self._put_aside(self.folder / file)
            del self._lines[name]
            write_manifest(self.manifest, self._lines.values())
            self._unfinished.unlink()
        return True

    def _put_aside(self, path: Path) -> None:
        target = self.folder / TRASH / path.relative_to(self.folder)
        with reporting_os_errors(target):
            make_folder(target.parent)
            with suppress(FileNotFoundError):  # moved by an earlier attempt, or deleted by hand
                move(path, target)


def accepted_masks(mask_dir: str | Path) -> tuple[Path, dict[str, MaskLineage]] | None:
    """Return the masks of a folder of accepted pairs, and what each was made of, by its absolute path.

    mask_dir: that folder, or masks/ in it. None for any other folder. DataError where it is not finished.
    """
    if "://" in str(mask_dir):
        return None
    given = Path(mask_dir)
    root = given if (given / FOLDERS[1]).is_dir() else given.parent
    if given not in (root, root / FOLDERS[1]):
        return None
    if read_run_record(root, "environment.json").get("action") != MADE_BY or not (root / MANIFEST).is_file():
        return None
    if (root / UNFINISHED).exists():
        raise DataError.of(root, "its pairs are not finished", "open it in the studio first")
    lines = read_manifest(root / MANIFEST)
    return root / FOLDERS[1], {str((root / line.mask).absolute()): _lineage(line) for line in lines}


def _lineage(line: ManifestLine) -> MaskLineage:
    """Return what the mask of a pair was made of: one that was not edited is the mask that painting began from."""
    if line.lineage is not None:
        return line.lineage
    source = MaskOrigin(mask=line.source_mask, digest=line.source_digest)
    split = line.source_split or ""
    return MaskLineage(split=split, upside_down=False, left_to_right=False, masks=[source])


def _name(line: ManifestLine) -> str:
    return Path(line.image).stem


def _flush(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
