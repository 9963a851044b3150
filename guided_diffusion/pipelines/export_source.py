"""What is exported: a dataset, or what `sample`, `place`, `segment`, `generate`, `masks` or `import` wrote."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path

from guided_diffusion.data.files import is_folder
from guided_diffusion.data.formats.annotated import is_background
from guided_diffusion.data.masks.classes_file import ClassesFile, read_classes
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.masks.inference import ClassOptions, infer_encoding
from guided_diffusion.data.modes import MODES, DatasetMode, get_mode
from guided_diffusion.data.options import SourceOptions
from guided_diffusion.data.pairing import MaskEntry, Pair
from guided_diffusion.data.scan.problems import problem_lines
from guided_diffusion.data.scan.report import ScanReport
from guided_diffusion.data.scan.scan import scan_dataset, scan_masks
from guided_diffusion.pipelines.dataset import scan_as_stored
from guided_diffusion.runtime.errors import ConfigError, DataError
from guided_diffusion.runtime.logs import read_run_record
from guided_diffusion.samples.manifest import (
    IMAGES_ALONE,
    MANIFEST,
    UNFINISHED,
    ManifestLine,
    file_digest,
    read_manifest,
)
from guided_diffusion.samples.mask_folder import ACTION as MASKS_ACTION
from guided_diffusion.samples.reader import LAYOUT

SPLITS = ("train", "test")
REAL, PREDICTED_MASK = "real", "real image, predicted mask"
"""Origins of pairs whose images are no model's."""


@dataclass(frozen=True, eq=False)
class SourceSplit:
    """The scanned pairs of a split, or masks alone."""

    split: str
    report: ScanReport
    origins: Mapping[str, str]
    """By absolute path of the mask; those that are missing are real."""
    folder: Path | None = None
    """Where its manifest and card lie, if it has them."""

    @property
    def entries(self) -> tuple[Pair, ...] | tuple[MaskEntry, ...]:
        return self.report.pairs

    def origin(self, entry: Pair | MaskEntry) -> str:
        """Return how a pair was made, `REAL` for one that was photographed and annotated."""
        return self.origins.get(os.path.abspath(entry.mask), REAL)


@dataclass(frozen=True, eq=False)
class ExportSource:
    """The splits that are exported, of one encoding."""

    splits: tuple[SourceSplit, ...]
    encoding: LabelEncoding
    background: int
    """The class that becomes class 0."""

    @property
    def inputs(self) -> str:
        """A digest of the files and of what masks mean, by which an export is known to be of them; reads all files."""
        entries = [(split.split, entry) for split in self.splits for entry in split.entries]
        files = [
            [split, entry.stem, entry.upright, *map(file_digest, [entry.mask, *_image_of(entry)])]
            for split, entry in entries
        ]
        content = [self.encoding.to_dict(), self.background, files]
        return sha256(json.dumps(content).encode()).hexdigest()[:16]


def _image_of(entry: Pair | MaskEntry) -> list[str]:
    return [entry.image] if isinstance(entry, Pair) else []


def find_export_source(source: SourceOptions) -> ExportSource:
    """Return what lies at data_dir; DataError where files are wrong, ConfigError where the layout is not known.

    Without dataset_mode it has to be what this project wrote: its folders have a manifest or a classes.json.
    """
    return _reader_of(source)()


def refuse_unknown_layout(source: SourceOptions) -> None:
    """Raise UserError where `find_export_source` cannot tell what lies at data_dir."""
    _reader_of(source)


def _reader_of(source: SourceOptions) -> Callable[[], ExportSource]:
    """Return what reads data_dir, which is not opened yet."""
    if source.dataset_mode:
        return partial(_of_dataset, source, mode_with_masks(source))
    root = Path(source.data_dir)
    if not root.is_dir():
        raise DataError.of(root, "is no folder", "give the dataset, or the results_path of an action")
    if read_run_record(root, "environment.json").get("action") == MASKS_ACTION:
        return partial(_of_masks, root)
    if (root / "images").is_dir() or _is_alone(root):
        return partial(_of_samples, root)
    if not any((root / split / "images").is_dir() for split in SPLITS):
        inside = [path for path in sorted(root.iterdir()) if (path / "images").is_dir()]
        if len(inside) == 1:
            return partial(_of_samples, inside[0])
    if any((root / name).exists() for name in ("classes.json", *(f"{split}/{MANIFEST}" for split in SPLITS))):
        return partial(_of_dataset, source, get_mode(LAYOUT))
    line = f"dataset_mode is missing: {root} has no classes.json and no {MANIFEST}, so its layout is not known; give it"
    raise ConfigError.of_keys(("dataset_mode", line))


def mode_with_masks(source: SourceOptions) -> DatasetMode:
    """Return the mode that dataset_mode names; ConfigError for one without masks."""
    mode = get_mode(source.dataset_mode)
    if mode.masks is None:
        line = f"dataset_mode is {mode.name}, which has no masks: give one that has"
        raise ConfigError.of_keys(("dataset_mode", line))
    return mode


def splits_there(source: SourceOptions, mode: DatasetMode) -> list[str]:
    """Return the splits that have a folder of images; without any the training split, so that what is missing shows."""
    there = [split for split in SPLITS if is_folder(mode.folder(mode.images, source.data_dir, split))]
    return there or ["train"]


def _is_alone(root: Path) -> bool:
    return (root / "masks").is_dir() and (root / MANIFEST).is_file()


def _of_dataset(source: SourceOptions, mode: DatasetMode) -> ExportSource:
    splits: list[SourceSplit] = []
    encoding = None
    for split in splits_there(source, mode):
        folder = Path(source.data_dir, split)
        _refuse_unfinished(folder)
        report = scan_as_stored(source, mode, split, encoding=encoding)
        encoding = encoding or report.raise_if_fatal()
        report.raise_if_fatal()
        splits.append(SourceSplit(split, report, _origins(folder), folder))
    folders = [Path(source.data_dir), *(each.folder for each in splits if each.folder)]
    background = mode.background if source.dataset_mode else _background(encoding.names, folders)
    return ExportSource(tuple(splits), encoding, background)


def _background(names: Sequence[str], folders: Sequence[Path]) -> int:
    """Return the background of what was written into `folders`: that of the dataset that it was made of, else by name.

    Masks that are written have the classes of that dataset in their order, and its background need not be the first.
    """
    recorded = [read_run_record(folder).get("dataset_mode") for folder in folders]
    found = [mode.background for name in recorded for mode in MODES if name in (mode.name, *mode.aliases)]
    found += [index for index, name in enumerate(names) if not found and is_background(name)]
    found += [] if found else get_mode(LAYOUT).unlabeled_classes(names)
    return found[0] if found and found[0] < len(names) else 0


def _of_samples(folder: Path) -> ExportSource:
    """Return the one folder of images/ and masks/, whose classes.json lies in it or above it."""
    _refuse_unfinished(folder)
    split = "test" if folder.name == "test" else "train"
    classes = next((found for root in (folder, folder.parent) if (found := _classes(root)) is not None), None)
    if not (folder / "images").is_dir():
        return _masks_alone(folder, split, classes)
    origins = _origins(folder)  # refuses images alone, in which a scan would miss the masks
    mode = get_mode(LAYOUT)
    flat = replace(mode, images=replace(mode.images, folder="images"), masks=replace(mode.masks, folder="masks"))
    encoding = None if classes is None else _encoding_of(classes)
    report = scan_dataset(folder, flat, split, encoding=encoding)
    encoding = report.raise_if_fatal()
    background = _background(encoding.names, (folder, folder.parent))
    return ExportSource((SourceSplit(split, report, origins, folder),), encoding, background)


def _of_masks(root: Path) -> ExportSource:
    _refuse_unfinished(root)
    return _masks_alone(root, "train", _classes(root))


def _masks_alone(root: Path, split: str, classes: ClassesFile | None) -> ExportSource:
    if classes is None:
        raise DataError.of(root, "has masks, but no classes.json that says what they mean", "restore it")
    encoding = _encoding_of(classes)
    report = scan_masks(root / "masks", encoding)
    report.raise_if_fatal()
    origins = {os.path.abspath(entry.mask): "synthetic mask" for entry in report.pairs}
    return ExportSource((SourceSplit(split, report, origins, root),), encoding, _background(encoding.names, (root,)))


def _classes(root: Path) -> ClassesFile | None:
    classes, problems = read_classes(root)
    if problems:
        raise DataError(problem_lines(problems))
    return classes


def _encoding_of(classes: ClassesFile) -> LabelEncoding:
    """Return what masks mean by a classes.json alone; DataError where a value would be of two classes."""
    encoding, problems = infer_encoding(get_mode(LAYOUT), classes, (), ClassOptions())
    if encoding is None:
        raise DataError(problem_lines(problems))
    return encoding


def _refuse_unfinished(folder: Path) -> None:
    if (folder / UNFINISHED).exists():
        raise DataError.of(folder, "its samples are not finished", "run the same command again first")


def _origins(folder: Path) -> dict[str, str]:
    """Return how each pair of a folder was made, by the absolute path of its mask, as its manifest says."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return {}
    lines = read_manifest(manifest)
    if any(line.generates == IMAGES_ALONE for line in lines):
        raise DataError.of(manifest, "holds images without masks", "give a folder of pairs, or of masks")
    return {os.path.abspath(folder / line.mask): origin_of(line) for line in lines if line.mask}


def origin_of(line: ManifestLine) -> str:
    """Return how a pair was made, in words."""
    if line.pseudo is not None:
        return PREDICTED_MASK
    if line.good_image is not None or line.hole_margin is not None:  # the studio fills holes of training images, too
        kind = "synthetic" if line.blend is None else "pasted"
        return f"{kind} defects in a real image"
    if line.classified is not None or line.predicted is not None:
        return "synthetic image, predicted mask"
    if line.generates:
        return "synthetic image and mask" if "image" in line.kinds else "synthetic mask"
    return "synthetic image"
