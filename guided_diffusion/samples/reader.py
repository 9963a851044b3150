"""Samples on disk: finding them, checking them, and copying a selection of them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from guided_diffusion.data.masks.classes_file import FILE_NAME, ClassesFile, classes_text, read_classes
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.pairing import Pair
from guided_diffusion.data.scan.problems import ProblemKind, problem_lines
from guided_diffusion.data.scan.scan import scan_dataset
from guided_diffusion.runtime.card_file import DATASET_CARD, is_untouched, read_card
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.runtime.files import make_folder, remove, reporting_os_errors, write_text
from guided_diffusion.runtime.logs import read_run_record
from guided_diffusion.samples.manifest import (
    FOLDERS,
    IMAGES_ALONE,
    MANIFEST,
    MASKS_ALONE,
    UNFINISHED,
    ManifestLine,
    MaskLineage,
    file_digest,
    read_manifest,
    write_manifest,
)

RUN_CONFIG = "config.json"
SELECTION = "selection.json"  # marks a folder that `write_selection` filled
LAYOUT = "multi-class"  # dataset_mode of every folder of samples, whatever that of the real dataset


@dataclass(frozen=True)
class SampleFolder:
    """A folder with images/ and masks/."""

    folder: Path
    split: str  # its name below the results_path, "" if it is the results_path
    config: Mapping[str, Any]  # options of `sample` or `place`, empty if they are not recorded
    lines: Mapping[str, ManifestLine]  # by the image's path relative to the folder; empty without a manifest

    @property
    def checkpoint(self) -> str | None:
        """Digest of the checkpoint that made the samples, None if unknown."""
        return next((line.checkpoint for line in self.lines.values()), None)

    @property
    def has_native_depth(self) -> bool:
        """Whether the images have depth and range of real images, as `place` and `segment` leave them.

        Those of `sample` have 8 bits, in the range of the model already.
        """
        return any(line.good_image is not None for line in self.lines.values()) or self.pseudo_labels > 0

    @property
    def pseudo_labels(self) -> int:
        """How many pairs are real images whose masks `segment` has made."""
        return sum(line.pseudo is not None for line in self.lines.values())

    @property
    def labeled(self) -> frozenset[str]:
        """The images that people labeled, which `segment` puts beside those that it labeled: they are no samples."""
        return frozenset(line.image for line in self.lines.values() if line.image_digest is not None)

    @property
    def is_generated(self) -> bool:
        """Whether a model made the masks, too, so that no mask of the dataset is behind a sample."""
        return any(
            line.generates or line.mask_checkpoint or line.classified or line.predicted for line in self.lines.values()
        )

    @property
    def predicted(self) -> int:
        """How many masks a model of boxes has predicted for the images that it made of layouts."""
        return sum(line.predicted is not None for line in self.lines.values())

    @property
    def classified(self) -> int:
        """How many pairs are drawn images whose masks pixel classifiers have found."""
        return sum(line.classified is not None for line in self.lines.values())

    @property
    def holds_windows(self) -> bool:
        """Whether the images are windows at the scale of the model, as `sample` writes; `place` has whole images."""
        config = self.config
        return config.get("resize") == "window" and "image_size" in config and not self.has_native_depth

    def line_of(self, pair: Pair) -> ManifestLine | None:
        """Return the manifest's line of a pair, None if there is none."""
        return self.lines.get(Path(pair.image).relative_to(self.folder).as_posix())


def find_samples(directory: str | Path, key: str = "") -> SampleFolder:
    """Return the samples of a `results_path`: in `directory` itself, or in its one sub-folder with images.

    key: that names it, where several do. Raises DataError if there are none, several such sub-folders, or unfinished
    samples.
    """
    give = f"check {key}, which takes the results_path of sample" if key else "give the results_path of sample"
    root = Path(os.path.abspath(directory))  # without "..", as the paths of its pairs are
    if not root.is_dir():
        found = "is a file, not a folder" if root.exists() else "the folder does not exist"
        raise DataError.of(directory, found, give)
    inside = [root] if (root / "images").is_dir() else sorted(p for p in root.iterdir() if (p / "images").is_dir())
    if not inside:
        raise DataError.of(directory, "has no images/ and masks/", give)
    if len(inside) > 1:
        names = ", ".join(path.name for path in inside)
        raise DataError.of(directory, f"has samples in {names}", "give one of these folders")
    folder = inside[0]
    if (folder / UNFINISHED).exists():
        raise DataError.of(folder, "its samples are not finished", "run the same command again first")
    manifest = folder / MANIFEST
    lines = {line.image: line for line in read_manifest(manifest)} if manifest.exists() else {}
    _refuse_images_alone(folder, lines.values(), "give a folder of pairs, from a model trained with condition mask")
    return SampleFolder(folder, "" if folder == root else folder.name, read_run_record(folder), lines)


def _refuse_images_alone(path: str | Path, lines: Iterable[ManifestLine], remedy: str) -> None:
    if any(line.generates == IMAGES_ALONE for line in lines):
        raise DataError.of(path, "holds images without masks, of a model without a condition", remedy)


def count_pseudo_labels(data_dir: str | Path, split: str) -> dict[str, int]:
    """Return how many masks of a split of a `data_dir` models made, by action, as its manifest says.

    `sample` stands for those that a model of boxes predicted.
    """
    manifest = Path(data_dir) / split / MANIFEST
    if "://" in str(data_dir) or not manifest.is_file():
        return {}
    lines = read_manifest(manifest, sound_only=True)
    counts = {
        "segment": sum(line.pseudo is not None for line in lines),
        "generate": sum(line.classified is not None for line in lines),
        "sample": sum(line.predicted is not None for line in lines),
    }
    return {action: count for action, count in counts.items() if count}


class GeneratedMasks(NamedTuple):
    """A folder of masks that a model made."""

    folder: Path
    checkpoint: str
    """Digest of the checkpoint of the model, which was trained on the training split."""
    ignored: int | None
    """Mask value of pixels without a class, None where there are none."""
    lineages: Mapping[str, MaskLineage]
    """Of masks that were predicted from layouts, by their absolute paths."""


def find_generated_masks(mask_dir: str) -> GeneratedMasks | None:
    """Return the masks that a model made at `mask_dir`, the results_path of `sample` or masks/ in it; else None.

    Raises DataError where they are not finished, and for images without masks.
    """
    if not mask_dir or "://" in mask_dir:
        return None
    given = Path(os.path.abspath(mask_dir))
    for root in (given, given.parent):
        folder, manifest = root / FOLDERS[1], root / MANIFEST
        if given not in (root, *(root / kind for kind in FOLDERS)) or not manifest.is_file():
            continue
        lines = read_manifest(manifest, sound_only=True)
        _refuse_images_alone(mask_dir, lines, "give a folder of masks")
        if given == root / FOLDERS[0] or not folder.is_dir():
            continue
        if not any(line.generates == MASKS_ALONE or line.classified or line.predicted for line in lines):
            continue
        if (root / UNFINISHED).exists():
            raise DataError.of(mask_dir, "its masks are not finished", "run the same command again first")
        lineages = {str((root / line.mask).absolute()): line.lineage for line in lines if line.lineage is not None}
        checkpoint = lines[0].checkpoint or lines[0].read_npz or ""
        return GeneratedMasks(folder, checkpoint, _ignored_value(root), lineages)
    return None


def _classes_of(folder: Path) -> ClassesFile | None:
    """Return the classes.json of a folder of samples, which lies there or above; DataError where it is damaged."""
    for root in (folder, folder.parent):
        classes, problems = read_classes(root)
        if problems:
            raise DataError(problem_lines(problems))
        if classes is not None:
            return classes
    return None


def _ignored_value(folder: Path) -> int | None:
    classes = _classes_of(folder)
    return None if classes is None else next(iter(classes.ignore_values), None)


def with_ignored(encoding: LabelEncoding, samples: SampleFolder) -> LabelEncoding:
    """Return the real dataset's `encoding` with what samples have for pixels without a class, as uncertain ones are.

    Raises DataError where that stands for a class of the dataset.
    """
    classes = _classes_of(samples.folder)
    if classes is None:
        return encoding
    if encoding.kind == "rgb":
        return replace(encoding, ignore_colors=tuple(dict.fromkeys((*encoding.ignore_colors, *classes.ignore_colors))))
    for value in classes.ignore_values:
        if value not in encoding.ignore_values:
            encoding = encoding.ignoring(value)
    return encoding


def open_samples(samples: SampleFolder, encoding: LabelEncoding, image_channels: int) -> tuple[Pair, ...]:
    """Return the scanned pairs of a folder of samples, without `labeled` ones.

    Raises DataError if they do not fit the real dataset's `encoding`.
    """
    folder = samples.folder
    if (classes := _classes_of(folder)) is not None:
        _check_same_classes(Path(classes.path), classes, encoding)
    mode = get_mode(LAYOUT)
    report = scan_dataset(folder.parent, mode, folder.name, image_channels=image_channels, encoding=encoding)
    without_partner = (ProblemKind.IMAGE_WITHOUT_MASK, ProblemKind.MASK_WITHOUT_IMAGE)
    unpaired = [problem for problem in report.fatal if problem.kind in without_partner]
    if unpaired and not report.pairs:
        found = f"no image has a mask of its name ({Path(unpaired[0].path).name}, for one, has none)"
        raise DataError.of(folder, found, "give a folder whose images/ and masks/ have the same names")
    report.raise_if_fatal()
    labeled = {str(folder / image) for image in samples.labeled}
    return tuple(pair for pair in report.pairs if pair.image not in labeled)


def _check_same_classes(path: Path, classes: ClassesFile, encoding: LabelEncoding) -> None:
    """Raise DataError if names, values or colors of the samples' classes differ from the real dataset's."""
    if classes.names != encoding.names:
        found = (
            f"has {len(classes.names)} classes ({', '.join(classes.names)}), but the real dataset has "
            f"{len(encoding.names)} ({', '.join(encoding.names)})"
        )
        raise DataError.of(path, found, "give samples of the real dataset")
    for ours, theirs in ((classes.values, encoding.values), (classes.colors, encoding.colors)):
        if any(ours) and any(theirs) and ours != theirs:
            found = f"its classes are written as {list(ours)}, those of the real dataset as {list(theirs)}"
            raise DataError.of(path, found, "write both alike")


def mask_digests(pairs: Sequence[Pair]) -> list[str]:
    """Return the `file_digest` of each pair's mask."""
    return [file_digest(pair.mask) for pair in pairs]


def refuse_target(samples: SampleFolder, target: str | Path) -> None:
    """Raise DataError if `target` is the folder of the samples, or has pictures that are not an earlier selection."""
    folder = Path(target).absolute() / samples.split
    if folder.resolve() == samples.folder.resolve():
        raise DataError.of("filtered_dir", f"{target} is where the samples themselves lie", "choose another folder")
    pictures = _pictures_in(folder)
    if pictures and not (folder / SELECTION).is_file():
        found = "is in filtered_dir, but was not copied there by evaluate"
        raise DataError.of(pictures[0], found, "choose an empty folder")


def _pictures_in(folder: Path) -> list[Path]:
    return [path for kind in FOLDERS for path in sorted((folder / kind).rglob("*")) if path.is_file()]


def write_selection(
    samples: SampleFolder,
    pairs: Sequence[Pair],
    encoding: LabelEncoding,
    target: str | Path,
    notes: Sequence[Mapping[str, Any]],
) -> Path:
    """Copy samples, their options and their manifest lines (`notes` adds keys) below `target`; return the folder.

    Replaces an earlier selection. The manifest is written last, so an interrupted copy has none.
    """
    root = Path(target).absolute()
    folder = root / samples.split
    names = [[Path(path).relative_to(samples.folder).as_posix() for path in (pair.image, pair.mask)] for pair in pairs]
    write_text(folder / SELECTION, json.dumps({"from": str(samples.folder), "pairs": len(pairs)}, indent=2) + "\n")
    with reporting_os_errors(folder):
        (folder / MANIFEST).unlink(missing_ok=True)
        wanted = {name for both in names for name in both}
        for path in _pictures_in(folder):
            if path.relative_to(folder).as_posix() not in wanted:
                path.unlink()
    for name in wanted:
        make_folder((folder / name).parent)
        with reporting_os_errors(folder / name):
            shutil.copyfile(samples.folder / name, folder / name)
    write_text(root / FILE_NAME, classes_text(encoding))
    if samples.config:
        write_text(folder / RUN_CONFIG, json.dumps(samples.config, indent=2) + "\n")
    else:  # that of an earlier selection, of other samples
        remove(folder / RUN_CONFIG)
    if not samples.lines and is_untouched(read_card(folder / DATASET_CARD) or ""):
        remove(folder / DATASET_CARD)
    if samples.lines:
        lines = zip(map(samples.line_of, pairs), notes, strict=True)
        write_manifest(folder / MANIFEST, [line.with_notes(note) for line, note in lines if line is not None])
    return folder
