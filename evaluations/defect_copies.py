"""Copies of training defects among placed ones: the rule for near-duplicates, defect by defect.

What is compared is the texture inside the defect's mask: its shape may be that of a training defect, its surroundings
are the good image's. evaluations/README.md has the rule and how well it finds copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from evaluations.metrics.near_duplicates import NearDuplicates, flag_near_duplicates
from evaluations.metrics.nearest import FEATURES, Nearest, nearest_features
from evaluations.sets import Indices
from evaluations.symmetry import SYMMETRIES, apply_d4, d4_of

Values = NDArray[np.float64]

TEXTURES = ("texture", "fine texture")
SIDE = 32  # pixels of a texture
FINE = 0.1  # of the shorter side of a defect: the standard deviation of the Gaussian that fine texture is free of
FEWEST_PIXELS = 16  # smaller defects have no texture to speak of
FEWEST_DEFECTS = 4  # training defects of a class; with fewer, there are no usual distances


@dataclass(frozen=True)
class DefectTextures:
    """Textures [N, 2, 32, 32, C] of N defects (see `defect_texture`) and the class of each, [N]."""

    textures: Values
    classes: Indices

    @staticmethod
    def of(textures: Sequence[Values], classes: Sequence[int]) -> DefectTextures:
        """Join the textures [2, 32, 32, C] of at least one defect."""
        assert len(textures) == len(classes)
        return DefectTextures(np.stack(textures), np.asarray(classes, np.int64))

    def __len__(self) -> int:
        return len(self.classes)

    def indices_of(self, class_id: int) -> Indices:
        """Return which defects are of the class and have any texture."""
        return np.flatnonzero((self.classes == class_id) & self.textures.any((2, 3, 4)).all(1))


@dataclass(frozen=True)
class DefectCopies:
    """Which of N placed defects are copies of training defects; arrays are [N], NaN and -1 where it cannot be judged.

    score: the ratio over its threshold; below 1 it is flagged. index, symmetry: of the nearest training defect.
    training_share: flagged among the training defects, each held against the others; real_share: among held-out ones.
    """

    score: Values
    index: Indices
    symmetry: Indices
    training_share: float | None
    real_share: float | None

    @property
    def flagged(self) -> Indices:
        """The indices of the copies."""
        return np.flatnonzero(self.score < 1)

    @property
    def judged(self) -> int:
        """How many placed defects have a texture, and training defects of their class to be compared with."""
        return int(np.isfinite(self.score).sum())

    @property
    def share(self) -> float | None:
        """The share of copies among the judged defects, 0..1; None without any."""
        return len(self.flagged) / self.judged if self.judged else None

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON file: the shares and a record for each copy."""
        flagged = [
            {
                "index": int(number),
                "training_index": int(self.index[number]),
                "symmetry": SYMMETRIES[self.symmetry[number]],
                "score": float(self.score[number]),
            }
            for number in self.flagged
        ]
        counts = {"placed": len(self.score), "judged": self.judged, "share": self.share}
        return {**counts, "training_share": self.training_share, "real_share": self.real_share, "flagged": flagged}


def defect_texture(pixels: NDArray[Any], mask: NDArray[np.bool_]) -> Values:
    """Return the texture and the fine texture of a defect, [2, 32, 32, C], from the box around it.

    pixels: [h, w] or [h, w, C] in any unit. mask: [h, w], the defect. Texture is what differs from the mean over the
    mask, fine texture from the blurred defect; both are 0 outside the mask, and everywhere for a tiny or flat defect.
    """
    assert pixels.shape[:2] == mask.shape
    assert mask.dtype == np.bool_
    values = np.atleast_3d(pixels).astype(np.float64)
    if mask.sum() < FEWEST_PIXELS or not np.ptp(values[mask], axis=0).any():
        return np.zeros((len(TEXTURES), SIDE, SIDE, values.shape[2]))
    inside = mask[..., None]
    texture = np.where(inside, values - values[mask].mean(0), 0)
    # A blur that sees the defect alone: smooth differences are what other surroundings, or blending, bring.
    sigma = FINE * min(mask.shape)
    weight, sums = (
        ndimage.gaussian_filter(part, (sigma, sigma, 0), mode="constant")
        for part in (inside.astype(np.float64), texture)
    )
    fine = np.where(inside, texture - sums / np.where(inside, weight, 1), 0)
    down, across = (_averaging(length, max(mask.shape)) for length in mask.shape)
    return np.einsum("ih,khwc,jw->kijc", down, np.stack([texture, fine]), across, optimize=True)


def _averaging(length: int, side: int) -> Values:
    """Return [32, length]: the weights that average pixels by area, in the middle of a square of `side` pixels."""
    cell = side / SIDE
    start = (length - side) / 2 + cell * np.arange(SIDE)[:, None]
    pixel = np.arange(length)
    return np.clip(np.minimum(start + cell, pixel + 1) - np.maximum(start, pixel), 0, None) / cell


def find_defect_copies(
    placed: DefectTextures, training: DefectTextures, held_out: DefectTextures | None = None
) -> DefectCopies:
    """Return which placed defects are nearer to a training defect of their class than training defects are.

    By texture or by fine texture, under flips and turns and whatever the contrast. held_out: real defects that are not
    in `training`; the share of flagged ones among them is what real defects are to each other.
    """
    count = len(placed)
    score, index, symmetry = np.full(count, np.nan), np.full(count, -1), np.full(count, -1)
    training_flags: list[float] = []
    real_flags: list[bool] = []
    for class_id in np.unique(training.classes).tolist():
        known = training.indices_of(class_id)
        if len(known) < FEWEST_DEFECTS:
            continue
        ours = placed.indices_of(class_id)
        theirs = held_out.indices_of(class_id) if held_out is not None else known[:0]
        judged = [placed.textures[ours], *([held_out.textures[theirs]] if held_out is not None else [])]
        result = _of_class(np.concatenate(judged), training.textures[known])
        score[ours], symmetry[ours] = result.score[: len(ours)], result.symmetry[: len(ours)]
        index[ours] = known[result.index[: len(ours)]]
        training_flags += [result.training_share] * len(known)
        real_flags += result.flagged[len(ours) : len(ours) + len(theirs)].tolist()
    shares = [float(np.mean(flags)) if flags else None for flags in (training_flags, real_flags)]
    return DefectCopies(score, index, symmetry, *shares)


def _of_class(textures: Values, training: Values) -> NearDuplicates:
    """Apply the rule to textures [N, 2, 32, 32, C] of one class; without any, to the training defects."""
    yardstick = _neighbors(training, training, leave_one_out=True)
    found = _neighbors(textures, training) if len(textures) else yardstick
    return flag_near_duplicates(found, yardstick, yardstick)


def _neighbors(textures: Values, training: Values, *, leave_one_out: bool = False) -> dict[str, Nearest]:
    neighbors = {}
    for number, name in enumerate(TEXTURES):
        keys = training[:, number]
        views = np.stack([apply_d4(keys, symmetry).reshape(len(keys), -1) for symmetry in d4_of(keys)])
        queries = textures[:, number].reshape(len(textures), -1)
        neighbors[name] = nearest_features(queries, views, leave_one_out=leave_one_out)[FEATURES]
    return neighbors
