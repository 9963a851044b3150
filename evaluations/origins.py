"""Which real mask each sample was made from: by what its manifest says, else by its label map, flips included."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from evaluations.sets import Indices, Labels
from evaluations.symmetry import SYMMETRIES, apply_d4

UNKNOWN = -1


@dataclass(frozen=True)
class MaskClue:
    """What a manifest says of the mask file that a sample was made from: digest and name, "" where it does not."""

    digest: str = ""
    name: str = ""


@dataclass(frozen=True)
class RealMasks:
    """The label maps [N, H, W] of a split with the names and digests of their files; no digests without a manifest."""

    labels: Labels
    names: Sequence[str]
    digests: Sequence[str] = ()


def trace_origins(samples: Labels, clues: Sequence[MaskClue], splits: Sequence[RealMasks | None]) -> Indices:
    """Return [S, N]: in each of S splits the index of the mask of each of N samples, UNKNOWN where it has none.

    The digest decides, and the name among files of equal content. Without either the label map is looked for under
    all flips and turns. A map of one class alone tells nothing.
    """
    known = {row: split for row, split in enumerate(splits) if split is not None}
    by_digest = {row: _indices_by(split.digests) for row, split in known.items()}
    by_map: dict[int, dict[bytes, list[int]]] = {}
    found = np.full((len(splits), len(samples)), UNKNOWN, np.int64)
    for index, (label, clue) in enumerate(zip(samples, clues, strict=True)):
        matches = {row: table.get(clue.digest, []) for row, table in by_digest.items()}
        if not any(matches.values()):
            # The views of every mask are only made where a sample needs them.
            by_map = by_map or {row: _indices_by_map(split.labels) for row, split in known.items()}
            matches = {row: table.get(map_key(label), []) for row, table in by_map.items()}
        for row, candidates in matches.items():
            named = [candidate for candidate in candidates if known[row].names[candidate] == clue.name]
            found[row, index] = next(iter([*named, *candidates]), UNKNOWN)
    return found


def map_key(label: Labels) -> bytes:
    """Return a digest of a label map [H, W]: thousands of them are compared, by a few bytes each."""
    return sha256(repr(label.shape).encode() + label.astype(np.int32).tobytes()).digest()


def leaked(origin: Indices, test_origin: Indices) -> int:
    """Return how many samples were made from masks of the test split."""
    return int(((origin < 0) & (test_origin >= 0)).sum())


def origin_warnings(
    folder: object, labels: Labels, origin: Indices | None, test_origin: Indices, *, compared_with_test: bool
) -> list[str]:
    """Return a line where samples are not of test masks that should be, and one where origins are unknown.

    labels: the samples' [N, H, W]. origin: None where the training images were not read.
    """
    # Labels of one class alone tell nothing, and neither do they give anything away.
    varied = np.array([_is_varied(label) for label in labels])
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
            f"{folder}: of {unknown} of {count} samples nobody knows which mask they were made from; where it is a "
            "test image's, the study is worth nothing, and where it is one that chooses the best state, their arms "
            "look a little too good"
        )
    return lines


def _is_varied(label: Labels) -> bool:
    return bool((label != label.flat[0]).any())


def _indices_by(keys: Iterable[Hashable]) -> dict[Hashable, list[int]]:
    found: dict[Hashable, list[int]] = {}
    for index, key in enumerate(keys):
        found.setdefault(key, []).append(index)
    return found


def _indices_by_map(labels: Labels) -> dict[bytes, list[int]]:
    """Return the key of a label map, in any flip or turn -> indices; without maps of one class alone."""
    found: dict[bytes, list[int]] = {}
    for index, label in enumerate(labels):
        if _is_varied(label):
            for symmetry in range(len(SYMMETRIES)):
                turned = np.ascontiguousarray(apply_d4(label[..., None], symmetry)[..., 0])
                if turned.shape == label.shape and index not in found.setdefault(map_key(turned), []):
                    found[map_key(turned)].append(index)
    return found
