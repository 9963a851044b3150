"""Images that are there twice: in train and test, within a split, or with two different masks.

Files of equal bytes and images of equal pixels are known by their digests. Look-alikes (saved anew as JPEG, resized,
a little brighter, flipped or turned) are known by the correlation of fine detail in thumbnails: see `look_alikes`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import blobfile as bf
import numpy as np
from PIL import Image

from guided_diffusion.data.files import open_mask, read_bytes
from guided_diffusion.data.fingerprint import PairPrint, content_digest
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.pairing import Pair
from guided_diffusion.data.scan.problems import Problem, ProblemKind
from guided_diffusion.runtime.errors import DataError

MOST_COMPARED = 10_000
"""Images above which look-alikes are not searched for: the time grows with the square of their number."""

_FINE_SIDE = 128  # gray levels are rounded at this side, so that their means have fractions
_SMALL = 64  # images with a side below it are compared by thumbnails of half the side: they have no finer detail
_SAME, _SAME_SMALL = 0.95, 0.985
_ALIKE, _ALONE = 0.87, 0.5
_LEAST_DETAIL = 0.5  # gray levels; below it, detail is what rounding leaves
_ROWS = 1024  # compared with all others at a time

DUPLICATES = (ProblemKind.REPEATED_IMAGE, ProblemKind.TWO_MASKS, ProblemKind.LOOK_ALIKE)
"""What is found within a split."""

Likeness = Literal["file", "pixels", "look-alike"]
_LIKE = {"file": "the same file as", "pixels": "the same pixels as", "look-alike": "nearly the same picture as"}


@dataclass(frozen=True)
class Twin:
    """Two pairs with one image; `of` is the one that stays: the earlier one, or the one in train.

    other_mask: their masks say different things.
    """

    pair: Pair
    of: Pair
    likeness: Likeness
    other_mask: bool = False


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Return the gray thumbnail of uint8 [C, H, W]: float32 [32, 32], averages over areas, 0..255."""
    shares = (0.299, 0.587, 0.114) if len(image) == 3 else (1.0,)
    gray = np.zeros((_FINE_SIDE, _FINE_SIDE), np.float32)
    for plane, share in zip(image, shares, strict=True):
        gray += np.float32(share) * np.asarray(Image.fromarray(plane).resize(gray.shape, Image.Resampling.BOX))
    return _halved(_halved(gray))


def find_twins(
    pairs: Sequence[Pair], prints: Sequence[PairPrint | None], encoding: LabelEncoding | None = None
) -> list[Twin]:
    """Return the later ones of the pairs of a split whose image is there already, in order.

    encoding: tells whether two masks mean the same; without it their bytes do.
    """
    known = [(pair, each) for pair, each in zip(pairs, prints, strict=True) if each is not None]
    first: dict[bytes, tuple[Pair, PairPrint]] = {}
    twins, alone = [], []
    for entry in known:
        pixels = entry[1].pixels
        if pixels in first:
            twins.append(_twin(entry, first[pixels], None, encoding))
        else:
            first[pixels] = entry
            alone.append(entry)
    found = look_alikes([each for _, each in alone])
    pairs_found = sorted({(max(a, b), min(a, b)) for a, b in found.items()})
    twins += [_twin(alone[later], alone[earlier], "look-alike", encoding) for later, earlier in pairs_found]
    order = {pair.stem: index for index, (pair, _) in enumerate(known)}
    return sorted(twins, key=lambda twin: order[twin.pair.stem])


def find_shared(
    test: tuple[Sequence[Pair], Sequence[PairPrint | None]],
    train: tuple[Sequence[Pair], Sequence[PairPrint | None]],
    encoding: LabelEncoding | None = None,
) -> list[Twin]:
    """Return the pairs of the test split whose image is in the training split too, in order."""
    known = [(pair, each) for pair, each in zip(*test, strict=True) if each is not None]
    others = [(pair, each) for pair, each in zip(*train, strict=True) if each is not None]
    by_pixels = {each.pixels: (pair, each) for pair, each in reversed(others)}
    alike = look_alikes([each for _, each in known], [each for _, each in others])
    twins = []
    for index, entry in enumerate(known):
        if entry[1].pixels in by_pixels:
            twins.append(_twin(entry, by_pixels[entry[1].pixels], None, encoding))
        elif index in alike:
            twins.append(_twin(entry, others[alike[index]], "look-alike", encoding))
    return twins


def find_shared_files(test: Sequence[Pair], train: Sequence[Pair], prints: Sequence[PairPrint | None]) -> list[Twin]:
    """Return the pairs of the test split whose image file is in train byte by byte; only files of equal size are read.

    What cannot be read is passed over: it is not what is trained on.
    """
    sizes = {each.file_size for each in prints if each is not None}
    known = {each.image: pair for pair, each in zip(train, prints, strict=True) if each is not None}
    twins = []
    for pair in test:
        try:
            found = known.get(content_digest(read_bytes(pair.image))) if bf.stat(pair.image).size in sizes else None
        except (DataError, OSError):
            continue
        if found is not None:
            twins.append(Twin(pair, found, "file"))
    return twins


def _twin(
    entry: tuple[Pair, PairPrint],
    of: tuple[Pair, PairPrint],
    likeness: Likeness | None,
    encoding: LabelEncoding | None,
) -> Twin:
    (pair, ours), (other, theirs) = entry, of
    exact: Likeness = "file" if ours.image == theirs.image else "pixels"
    # A look-alike may be flipped, and its mask with it.
    differs = likeness is None and ours.mask != theirs.mask and _masks_differ(pair, other, encoding)
    return Twin(pair, other, likeness or exact, differs)


def _masks_differ(pair: Pair, other: Pair, encoding: LabelEncoding | None) -> bool:
    if encoding is None or pair.mask is None or other.mask is None:
        return True
    try:
        ours, theirs = (
            encoding.decode(open_mask(each.mask, upright=each.upright), each.mask) for each in (pair, other)
        )
    except DataError:
        return True
    return not np.array_equal(ours, theirs)


def twin_problems(twins: Sequence[Twin], images: int) -> list[Problem]:
    """Return a warning for each image of a split of `images` that is there before."""
    doubled = sum(not twin.other_mask for twin in twins)
    problems = []
    for twin in twins:
        found = f"{_LIKE[twin.likeness]} {twin.of.image}"
        if twin.other_mask:
            boxes = twin.pair.mask is None
            found += (
                ", but their boxes differ" if boxes else f", but the masks differ ({twin.pair.mask}, {twin.of.mask})"
            )
            right = "image whose boxes are" if boxes else "pair whose mask is"
            remedy = f"keep the {right} right: the model is taught both"
            problems.append(Problem(twin.pair.image, found, remedy, ProblemKind.TWO_MASKS, fatal=False))
        else:
            found += f" ({doubled} of {images} images of this split repeat another)"
            kind = ProblemKind.LOOK_ALIKE if twin.likeness == "look-alike" else ProblemKind.REPEATED_IMAGE
            remedy = "keep one of them, unless it is meant to count more"
            problems.append(Problem(twin.pair.image, found, remedy, kind, fatal=False, like=twin.of.image))
    return problems


def shared_problems(twins: Sequence[Twin], images: int) -> list[Problem]:
    """Return a warning for each image of a test split of `images` that is in train, too."""
    problems = []
    for twin in twins:
        other = "mask" if twin.pair.mask is not None else "set of boxes"
        masks = f", with another {other}" if twin.other_mask else ""
        found = f"{_LIKE[twin.likeness]} {twin.of.image} in train{masks} ({len(twins)} of {images} test images are)"
        remedy = "remove it from train or from test: a model knows what it was trained on, so the test says too much"
        if twin.likeness == "look-alike":
            remedy += "; if names tell what shows one object, group_pattern finds all that do"
        kind = ProblemKind.LOOK_ALIKE_IN_TRAIN if twin.likeness == "look-alike" else ProblemKind.TEST_IN_TRAIN
        problems.append(Problem(twin.pair.image, found, remedy, kind, fatal=False, like=twin.of.image))
    return problems


def uncompared_problem(folder: str, images: int) -> Problem:
    """Return the warning that there are too many images to search for look-alikes."""
    found = f"{images} images are too many to search for pictures that are nearly the same (at most {MOST_COMPARED})"
    remedy = "copies of the same bytes or pixels are found; check parts of the data for others"
    return Problem(folder, found, remedy, ProblemKind.LOOK_ALIKE, fatal=False)


# ------------------------------------------------------------------------------------------------ look-alikes


def look_alikes(prints: Sequence[PairPrint], others: Sequence[PairPrint] | None = None) -> dict[int, int]:
    """Return image -> its look-alike among `others`, or among the same images; nothing above MOST_COMPARED images.

    Two are alike where detail correlates by 0.95 (0.985 for small images), or by 0.87 and far more (0.5 in Fisher's z)
    than either with any third. Both numbers lie in the gap measured between different objects (880,003 pairs of
    magnetic tiles: at most 0.935, 0.982 at 48 px; 260 lemons: 0.73; 21 photographs: 0.19) and their copies.
    """
    same = others is None
    theirs = prints if others is None else others
    if not prints or not theirs or max(len(prints), len(theirs)) > MOST_COMPARED:
        return {}
    if any(each.thumbnail is None for each in (*prints, *theirs)):
        return {}
    small, small_theirs = (np.array([min(each.shape) < _SMALL for each in part]) for part in (prints, theirs))
    best = np.full(len(prints), -1)
    value, second = np.full((2, len(prints)), -1.0, np.float32)
    columns = np.full((2, len(theirs)), -1.0, np.float32)  # the two largest of each of the others
    for start, table in _correlations(prints, theirs, small, small_theirs):
        rows = np.arange(len(table))
        if same:
            table[rows, start + rows] = -1
        part = slice(start, start + len(table))
        best[part] = table.argmax(1)
        value[part] = table[rows, best[part]]
        columns = np.sort(np.concatenate([columns, table]), 0)[:-3:-1]
        table[rows, best[part]] = -1
        second[part] = table.max(1)
    third = np.maximum(second, np.where(columns[0][best] > value, columns[0][best], columns[1][best]))
    gap = np.arctanh(value.clip(0, 0.9999)) - np.arctanh(third.clip(0, 0.9999))
    enough = np.where(small | small_theirs[best], _SAME_SMALL, _SAME)
    # Where there is no third image, nothing tells how much images of this kind have in common.
    alone = (value >= _ALIKE) & (gap >= _ALONE) & (third > -1)
    return {int(index): int(best[index]) for index in np.flatnonzero((value >= enough) | alone)}


def _correlations(
    prints: Sequence[PairPrint], theirs: Sequence[PairPrint], small: np.ndarray, small_theirs: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first row, largest correlation over the eight flips and turns [rows, others]) for parts of the rows."""
    coarse_too = bool(small.any() or small_theirs.any())
    fine, fine_theirs = (_detail(np.stack([each.thumbnail for each in part])) for part in (prints, theirs))
    turned = _turned(fine_theirs)
    if coarse_too:
        coarse, coarse_theirs = (
            _detail(_halved(np.stack([each.thumbnail for each in part]))) for part in (prints, theirs)
        )
        turned_coarse = _turned(coarse_theirs)
    for start in range(0, len(prints), _ROWS):
        part = slice(start, start + _ROWS)
        table = _largest(fine[part], turned)
        if coarse_too:
            either = small[part, None] | small_theirs[None]
            table = np.where(either, _largest(coarse[part], turned_coarse), table)
        yield start, table


def _largest(rows: np.ndarray, turned: Sequence[np.ndarray]) -> np.ndarray:
    flat = rows.reshape(len(rows), -1)
    largest = flat @ turned[0].T
    for part in turned[1:]:
        np.maximum(largest, flat @ part.T, out=largest)
    return largest


def _turned(detail: np.ndarray) -> list[np.ndarray]:
    """Return [N, side * side] of [N, side, side] in the eight flips and turns of a square."""
    turns = [np.rot90(detail, quarter, (1, 2)) for quarter in range(4)]
    both = [picture for turn in turns for picture in (turn, turn[:, :, ::-1])]
    return [np.ascontiguousarray(picture).reshape(len(detail), -1) for picture in both]


def _detail(thumbnails: np.ndarray) -> np.ndarray:
    """Return what differs from the mean of 5 x 5 pixels, its strongest parts damped by a root, of norm 1.

    Shading, which all pictures of one camera share, is not in it, and a single strong edge does not decide.
    Zeros where there is hardly any.
    """
    padded = np.pad(thumbnails, ((0, 0), (2, 2), (2, 2)), mode="reflect")
    height, width = thumbnails.shape[1:]
    windows = (padded[:, y : y + height, x : x + width] for y in range(5) for x in range(5))
    rest = thumbnails - sum(windows) / 25
    enough = np.sqrt((rest**2).mean((1, 2))) >= _LEAST_DETAIL
    rest = np.sign(rest) * np.sqrt(np.abs(rest))
    rest -= rest.mean((1, 2), keepdims=True)
    norm = np.linalg.norm(rest, axis=(1, 2))
    return rest * (enough / np.maximum(norm, 1e-6))[:, None, None].astype(np.float32)


def _halved(pictures: np.ndarray) -> np.ndarray:
    """Return [..., H, W] averaged over 2 x 2 pixels."""
    *lead, height, width = pictures.shape
    return pictures.reshape(*lead, height // 2, 2, width // 2, 2).mean((-3, -1))
