"""The masks that are sampled from, scanned, and their encoding."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from guided_diffusion.data.datasets import read_mask
from guided_diffusion.data.files import open_mask, orientation
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.masks.inference import ClassOptions, infer_encoding
from guided_diffusion.data.mirror import flip_pairs
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.options import GeometryOptions, SourceOptions
from guided_diffusion.data.pairing import MaskEntry, Pair
from guided_diffusion.data.scan.lost_classes import MaskLoss
from guided_diffusion.data.scan.problems import ProblemKind, problem_lines
from guided_diffusion.data.scan.scan import scan_masks
from guided_diffusion.pipelines.dataset import plain_transform, scan_split
from guided_diffusion.runtime.errors import ConfigError, DataError
from guided_diffusion.samples.accepted_folder import accepted_masks
from guided_diffusion.samples.manifest import MaskLineage
from guided_diffusion.samples.mask_folder import edited_masks
from guided_diffusion.samples.reader import find_generated_masks


class FoundMasks(NamedTuple):
    """The masks of a sampling, their encoding, and those that lose a class by resizing."""

    entries: Sequence[Pair | MaskEntry]
    encoding: LabelEncoding
    losses: tuple[MaskLoss, ...]
    lineages: Mapping[str, MaskLineage]
    """Of masks that were made from others, by their paths."""
    shown: tuple[str, ...] = ()
    """The classes that any of them has."""

    def left_out(self, used: int) -> str:
        """Return which classes the first `used` masks lack, as the line of a warning; "" if none.

        Masks are often named after their classes, so the first of them show one class alone.
        """
        if used >= len(self.entries):
            return ""
        names = self.encoding.names
        lacking = {names.index(name) for name in self.shown}
        for entry in self.entries[:used]:
            if not lacking:
                return ""
            lacking -= set(read_mask(entry.mask, self.encoding, upright=entry.upright).unique().tolist())
        if not lacking:
            return ""
        missing = ", ".join(names[index] for index in sorted(lacking))
        return (
            f"num_samples is {used}, so the first {used} of {len(self.entries)} masks by name are used, and these do "
            f"not show {missing}: raise it (null: each mask once), or choose masks by mask_dir"
        )


def find_masks(
    source: SourceOptions,
    geometry: GeometryOptions,
    *,
    split: str = "test",
    mask_dir: str = "",
    encoding: LabelEncoding | None = None,
    also_ignored: int | None = None,
) -> FoundMasks:
    """Return the masks of a split of `source`, or of the folder `mask_dir`, and their encoding.

    encoding: that of the training; None for bare weights. also_ignored: one more mask value of ignored pixels.
    Raises DataError with a line for every fatal problem of the masks.
    """
    if encoding is None and mask_dir:
        if source.num_classes is None:
            line = "num_classes is missing: bare weights do not say what mask values mean; set it"
            raise ConfigError.of_keys(("num_classes", line))
        encoding = encoding_of_mode(source)
    if encoding is not None:
        encoding = encoding.ignoring(also_ignored)
    mode, with_edges = get_mode(source.dataset_mode), not geometry.no_instance
    lineages: dict[str, MaskLineage] = {}
    if mask_dir and (made := _masks_of_own(mask_dir)) is not None:
        mask_dir, lineages = str(made[0]), made[1]
    if mask_dir:
        transform = plain_transform(geometry, mode)
        report = scan_masks(
            mask_dir, encoding, mode=mode, exif=source.exif, transform=transform, with_instances=with_edges
        )
        without = sum(entry.instance is None for entry in report.pairs)
        if with_edges and mode.instances is not None and without:
            # The network sees other edges than in training.
            print(
                f"warning: {mask_dir}: {without} of {len(report.pairs)} masks have no instance map, so their edges are "
                f"those of the labels; dataset_mode {mode.name} has instance maps in a data_dir"
            )
    else:
        report = scan_split(source, geometry, split, encoding=encoding)
    encoding = report.raise_if_fatal()
    for line in problem_lines(problem for problem in report.warnings if problem.kind is not ProblemKind.EMPTY_CLASS):
        print(f"warning: {line}")
    encoding = encoding.with_ignore() if geometry.resize in ("pad", "window") else encoding
    shown = tuple(each.name for each in report.classes if each.images)
    return FoundMasks(report.pairs, encoding, report.losses, known_lineages(report.pairs, lineages), shown)


def _masks_of_own(mask_dir: str) -> tuple[Path, dict[str, MaskLineage]] | None:
    """Return the masks and lineages of a folder that `masks` or the studio wrote, None for any other."""
    return edited_masks(mask_dir) or accepted_masks(mask_dir)


def folder_of_masks(mask_dir: str) -> str:
    """Return where the masks of `mask_dir` lie: a folder that an action wrote has pictures of another kind, too.

    Raises DataError where it is not finished.
    """
    if (generated := find_generated_masks(mask_dir)) is not None:
        return str(generated.folder)
    own = _masks_of_own(mask_dir)
    return mask_dir if own is None else str(own[0])


def has_turned(entries: Sequence[Pair | MaskEntry]) -> bool:
    """Return whether the file of a mask has an EXIF orientation."""
    return any(orientation(open_mask(entry.mask, upright=False)) != 1 for entry in entries if entry.mask)


def read_otherwise(
    record: Mapping[str, Any],
    source: SourceOptions,
    names: Sequence[str],
    entries: Sequence[Pair | MaskEntry],
    *,
    mirrors: bool = True,
) -> str:
    """Return what the record of a run says of how it read or mirrored these masks, if that was otherwise; else "".

    mirrors: whether masks may be mirrored.
    """
    own = {frozenset((names[first], names[second])) for first, second in flip_pairs(names)}
    asked = {key: (record.get(key), getattr(source, key)) for key in ("flip_pairs", "exif")}
    had, have = (own if pairs is None else {frozenset(pair) for pair in pairs} for pairs in asked["flip_pairs"])
    other = {
        "flip_pairs": mirrors and had != have,
        "exif": asked["exif"][0] != asked["exif"][1] and has_turned(entries),
    }
    for key, (before, now) in asked.items():
        if other[key]:
            return f"holds masks with {key} {json.dumps(before)}, these would have {json.dumps(now)}"
    return ""


def known_lineages(entries: Sequence[Pair | MaskEntry], lineages: Mapping[str, MaskLineage]) -> dict[str, MaskLineage]:
    """Return the lineages of masks by their paths. lineages: by absolute paths."""
    known = {entry.mask: lineages.get(str(Path(entry.mask).absolute())) for entry in entries} if lineages else {}
    return {mask: lineage for mask, lineage in known.items() if lineage is not None}


def encoding_of_mode(source: SourceOptions) -> LabelEncoding:
    """Return the encoding that dataset_mode has without a look at the masks; a binary one expects 0 and 1.

    Raises DataError where the options contradict the mode.
    """
    mode = get_mode(source.dataset_mode)
    if mode.binary:
        assert source.num_classes is not None
        return LabelEncoding.identity(source.num_classes)
    encoding, problems = infer_encoding(mode, None, (), ClassOptions(source.num_classes, source.ignore_label))
    if encoding is None:
        raise DataError(problem_lines(problems))
    return encoding
