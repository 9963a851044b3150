"""Which real mask each sample was made from: by its manifest, else by its label map, flips included."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from evaluations.sets import Indices, Labels
from evaluations.symmetry import dihedral_views

UNKNOWN = -1


@dataclass(frozen=True)
class MaskClue:
    """Digest and name of the mask file that a sample was made from, by its manifest; "" if unknown."""

    digest: str = ""
    name: str = ""


@dataclass(frozen=True)
class RealMasks:
    """The label maps [N, H, W] of a split, with the names and (if there is a manifest) the digests of their files."""

    labels: Labels
    names: Sequence[str]
    digests: Sequence[str] = ()


def trace_origins(samples: Labels, clues: Sequence[MaskClue], splits: Sequence[RealMasks | None]) -> Indices:
    """Return [S, N]: in each of S splits the index of the mask of each of N samples, or UNKNOWN.

    The digest decides, and the name among files of equal content. Without either the label map is compared under all
    flips and turns. A map of a single class is never compared, as many images may have it.
    """
    read = {row: split for row, split in enumerate(splits) if split is not None}
    by_digest = {row: _indices_by(split.digests) for row, split in read.items()}
    by_map: dict[int, dict[bytes, list[int]]] = {}
    origins = np.full((len(splits), len(samples)), UNKNOWN, np.int64)
    for index, (label, clue) in enumerate(zip(samples, clues, strict=True)):
        matches = {row: table.get(clue.digest, []) for row, table in by_digest.items()}
        if not any(matches.values()):
            # The views of all masks are only made if a sample needs them.
            by_map = by_map or {row: _indices_by_map(split.labels) for row, split in read.items()}
            matches = {row: table.get(map_key(label), []) for row, table in by_map.items()}
        for row, candidates in matches.items():
            named = [candidate for candidate in candidates if read[row].names[candidate] == clue.name]
            origins[row, index] = next(iter([*named, *candidates]), UNKNOWN)
    return origins


def map_key(label: Labels) -> bytes:
    """Return a digest of a label map [H, W], by which thousands of them are compared."""
    return sha256(repr(label.shape).encode() + label.astype(np.int32).tobytes()).digest()


def leaked(origin: Indices, test_origin: Indices) -> int:
    """Return how many samples were made from masks of the test split."""
    return int(((origin < 0) & (test_origin >= 0)).sum())


def origin_warnings(
    folder: object, labels: Labels, origin: Indices | None, test_origin: Indices, *, compared_with_test: bool
) -> list[str]:
    """Return a line if samples are not of test masks but should be, and one if origins are unknown.

    labels: the samples' [N, H, W]. origin: None if the training images were not read.
    """
    # The origin of a label map of a single class cannot be known, nor does it matter.
    varied = np.array([_is_varied(label) for label in labels], bool)
    count = len(labels)
    others = int((varied & (test_origin < 0)).sum()) if compared_with_test else 0
    unknown = 0 if origin is None else int((varied & (origin < 0) & (test_origin < 0)).sum())
    lines = []
    if others:
        lines.append(
            f"{folder}: {others} of {count} samples were not made from masks of the test images, with which they are "
            "compared; published numbers are of such samples: sample with data_split test"
        )
    if unknown:
        lines.append(
            f"{folder}: the masks that {unknown} of {count} samples were made from are unknown; if they are of test "
            "images, the study is invalid, and if they are of validation images, mixes with samples look a little too "
            "good: keep the manifest.jsonl of sample beside the samples"
        )
    return lines


def _is_varied(label: Labels) -> bool:
    return bool((label != label.flat[0]).any())


def _indices_by(keys: Iterable[Hashable]) -> dict[Hashable, list[int]]:
    indices: dict[Hashable, list[int]] = {}
    for index, key in enumerate(keys):
        indices.setdefault(key, []).append(index)
    return indices


def _indices_by_map(labels: Labels) -> dict[bytes, list[int]]:
    """Return the indices of the varied label maps by the key of the map in each flip and turn."""
    indices: dict[bytes, list[int]] = {}
    for index, label in enumerate(labels):
        if _is_varied(label):
            for view in dihedral_views(label[None, ..., None]):
                indices.setdefault(map_key(view[0, ..., 0]), []).append(index)
    return indices
