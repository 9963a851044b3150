"""Where the samples of `evaluate` come from: the training or test images whose masks, or pixels, they have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import NamedTuple

import numpy as np

from evaluations.objects import ImageObjects
from evaluations.origins import UNKNOWN, MaskClue, RealMasks, origin_warnings, trace_origins
from evaluations.sets import ImageSet, Indices
from guided_diffusion.data.pairing import Pair
from guided_diffusion.samples.manifest import ManifestLine, MaskLineage, file_digest
from guided_diffusion.samples.reader import SampleFolder, mask_digests


class Split(NamedTuple):
    """A split of the real dataset, and its images in memory; both None where it is not read.

    whole: whether these are all pairs of the split, else the first ones, by their stems.
    """

    pairs: Sequence[Pair] | None
    images: ImageSet | None
    whole: bool = True

    def reaches(self, stem: str) -> bool:
        """Return whether a pair of this stem would be among `pairs`, if the split has one."""
        return bool(self.pairs) and (self.whole or stem <= self.pairs[-1].stem)


@dataclass(frozen=True)
class ReadSamples:
    """Samples of a folder, and what they were made from.

    origin, test_origin: [N], the image of the training or test split whose mask each has; -1: none. donors: [N, M], all
    training images that a sample has something of, None where each has one mask of the dataset. new_masks: [N], whether
    its mask is in no split. mask_flips: whether masks were turned upside down, and left to right.
    """

    folder: SampleFolder
    images: ImageSet
    origin: Indices
    test_origin: Indices
    donors: Indices | None
    new_masks: np.ndarray
    mask_flips: tuple[bool, bool]
    objects: tuple[ImageObjects, ...] = ()
    """Of each sample, where objects are measured."""
    painted: np.ndarray | None = None
    """[N], whether a person painted its mask from nothing, so that it has no origin to be known; None: no mask."""
    lost: tuple[str, ...] = ()
    """Of each sample with defects of images that are in neither split, the stem of one of these."""

    @property
    def made_from(self) -> Indices:
        """[N] or [N, M]: the training images that must not validate a model trained on a sample."""
        return self.origin if self.donors is None else self.donors


def traced(folder: SampleFolder, pairs: Sequence[Pair], images: ImageSet, splits: tuple[Split, Split]) -> ReadSamples:
    """Find the origins of samples in the training and the test split: by digests, names, and the masks themselves."""
    lineages, lost = _lineages(folder, pairs), ()
    if folder.has_native_depth:
        placed = _placed_origins(folder, pairs, splits)
        origin, test_origin, donors, lost = placed.donors[:, 0], placed.test, placed.donors, placed.lost
    else:
        masks = (_masks_of(folder, splits[0]), _masks_of(folder, splits[1]))
        files = tuple(_files_of(mask, split, lineages) for mask, split in zip(masks, splits, strict=True))
        origin, test_origin = trace_origins(images.labels, [_clue(folder, pair) for pair in pairs], masks)
        donors = _mask_donors(lineages, files, origin, test_origin)
    new_masks = np.array([folder.is_generated or made is not None for made in lineages])
    painted = np.array([made is not None and not (made.masks or made.images) for made in lineages])
    flips = _mask_flips(folder, lineages)
    return ReadSamples(folder, images, origin, test_origin, donors, new_masks, flips, painted=painted, lost=lost)


def origin_lines(samples: ReadSamples, training: Split, *, compared_with_test: bool) -> list[str]:
    """Return warnings on origins; none of generated masks, which are of no split, nor of `place`."""
    if samples.folder.has_native_depth or samples.folder.is_generated:
        return []
    known = np.full(len(samples.images), True) if samples.painted is None else ~samples.painted
    return origin_warnings(
        samples.folder.folder,
        samples.images.labels[known],
        None if training.images is None else samples.origin[known],
        samples.test_origin[known],
        compared_with_test=compared_with_test,
    )


def lost_lines(samples: ReadSamples) -> list[str]:
    """Return a warning if samples have defects of images that are in neither split, else nothing."""
    if not samples.lost:
        return []
    named = list(dict.fromkeys(samples.lost))
    shown = ", ".join(named[:3]) + (", ..." if len(named) > 3 else "")
    return [
        f"{samples.folder.folder}: {len(samples.lost)} of {len(samples.images)} samples have defects of images that "
        f"are in neither split ({shown}); if these are test images by another name, the study is invalid: place or "
        "paste from this data_dir"
    ]


def _masks_of(folder: SampleFolder, split: Split) -> RealMasks | None:
    if split.pairs is None or split.images is None or any(pair.mask is None for pair in split.pairs):
        return None
    digests = mask_digests(split.pairs) if folder.lines else ()
    return RealMasks(split.images.labels, [PurePath(pair.mask).name for pair in split.pairs], digests)


def _files_of(masks: RealMasks | None, split: Split, lineages: Sequence[MaskLineage | None]) -> Mapping[str, int]:
    """Return the images of a split by the digests of their masks, and of themselves if layouts are made of them."""
    if split.pairs is None:
        return {}
    found = {} if masks is None else {digest: index for index, digest in enumerate(masks.digests)}
    if any(lineage is not None and lineage.images for lineage in lineages):
        found |= {file_digest(pair.image): index for index, pair in enumerate(split.pairs)}
    return found


def _clue(folder: SampleFolder, pair: Pair) -> MaskClue:
    line = folder.line_of(pair)
    digest, source = (line.source_digest, line.source_mask) if line else ("", "")
    return MaskClue(digest, PurePath(source.replace("\\", "/")).name)


def _mask_donors(
    lineages: Sequence[MaskLineage | None],
    splits: tuple[Mapping[str, int], Mapping[str, int]],
    origin: Indices,
    test_origin: Indices,
) -> Indices | None:
    """Return [N, M] of the training images whose masks samples were made from, where some masks are new; else None.

    splits: as `_files_of` returns them. Fills in, by the lineage of new masks, `origin` and `test_origin` [N]. A sample
    that has anything of a test mask or layout has no training image as its origin: it is a leak.
    """
    if not any(lineages):
        return None
    training, test = splits
    found: list[list[int]] = []
    for number, lineage in enumerate(lineages):
        if lineage is None:
            found.append([index] if (index := int(origin[number])) >= 0 else [])
            continue
        digests = [file.digest for file in (*lineage.masks, *lineage.images)]
        found.append(list(dict.fromkeys(training[digest] for digest in digests if digest in training)))
        leaks = [test[digest] for digest in digests if digest in test and digest not in training]
        known = not leaks and all(digest in training for digest in digests) and bool(found[-1])
        origin[number] = found[-1][0] if known else UNKNOWN
        test_origin[number] = leaks[0] if leaks else UNKNOWN
    return _filled_up(found)


def _lineages(folder: SampleFolder, pairs: Sequence[Pair]) -> list[MaskLineage | None]:
    """Return for each sample what its mask was made of, None for a mask of the dataset."""
    lines = [folder.line_of(pair) for pair in pairs]
    return [None if line is None else line.lineage for line in lines]


def _mask_flips(folder: SampleFolder, lineages: Sequence[MaskLineage | None]) -> tuple[bool, bool]:
    """Return whether the masks of samples were turned upside down, and left to right."""
    if any(line.augment_masks for line in folder.lines.values()):
        return True, True
    flips = {lineage.flips for lineage in lineages if lineage is not None}
    return any(down for down, _ in flips), any(across for _, across in flips)


def _filled_up(rows: Sequence[Sequence[int]]) -> Indices:
    """Return rows of indices as [N, at least 1], filled up with UNKNOWN."""
    result = np.full((len(rows), max(1, *map(len, rows))), UNKNOWN, np.int64)
    for row, indices in zip(result, rows, strict=True):
        row[: len(indices)] = indices
    return result


class _PlacedOrigins(NamedTuple):
    """What placed samples were made from; -1: nothing of the split."""

    donors: Indices
    """[N, at least 1] of the training images whose defects they have, or which they were painted into."""
    test: Indices
    """[N] of the test image that each was painted into, or that a defect or the shape of one is of."""
    lost: tuple[str, ...]
    """As `ReadSamples` has it."""


def _by_mask(pairs: Sequence[Pair]) -> dict[str, int]:
    return {digest: index for index, digest in enumerate(mask_digests(pairs))}


def _digests_of_masks(line: ManifestLine | None) -> list[str]:
    """Return digests of the masks that a pair's mask was made of: its lineage, or what a person began to paint on."""
    if line is None:
        return []
    if line.lineage is not None:
        return [each.digest for each in line.lineage.masks]
    return [line.source_digest] if line.source_digest else []


def _sources(line: ManifestLine | None) -> list[str]:
    """Return the stems of the images that a pair's defects are of; none of new masks, and of given label maps."""
    if line is None or line.lineage is not None or line.mask_source == "dir":
        return []
    return [stem for defect in line.defects or () if (stem := defect.source.rpartition("#")[0])]


def _placed_origins(folder: SampleFolder, pairs: Sequence[Pair], splits: tuple[Split, Split]) -> _PlacedOrigins:
    """Trace the samples of `place` by the manifest: by the names of masks and the bytes of good images."""
    training, test_pairs = (split.pairs or () for split in splits)
    by_stem, test_by_stem = ({pair.stem: index for index, pair in enumerate(each)} for each in (training, test_pairs))
    by_image, test_by_image = (
        {file_digest(pair.image): index for index, pair in enumerate(each)} for each in (training, test_pairs)
    )
    lines = [folder.line_of(pair) for pair in pairs]
    traced_masks = [_digests_of_masks(line) for line in lines]
    by_mask, test_by_mask = (_by_mask(each) if any(traced_masks) else {} for each in (training, test_pairs))
    found, test, lost = [], [], []
    for line, made_of in zip(lines, traced_masks, strict=True):
        digest = "" if line is None else line.good_digest or ""
        defects = () if line is None else line.defects or ()
        donors = {by_stem.get(defect.source.rpartition("#")[0], UNKNOWN) for defect in defects}
        donors |= {by_mask.get(each, UNKNOWN) for each in made_of}
        found.append(sorted({*donors, by_image.get(digest, UNKNOWN)} - {UNKNOWN}))
        leaks = [test_by_mask[each] for each in made_of if each in test_by_mask and each not in by_mask]
        others = [stem for stem in _sources(line) if stem not in by_stem and splits[0].reaches(stem)]
        leaks += [test_by_stem[stem] for stem in others if stem in test_by_stem]
        lost += [stem for stem in others if stem not in test_by_stem][:1]
        test.append(test_by_image.get(digest, leaks[0] if leaks else UNKNOWN))
    return _PlacedOrigins(_filled_up(found), np.array(test, np.int64), tuple(lost))
