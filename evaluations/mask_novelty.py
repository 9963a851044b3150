"""Novelty of label maps: how little each is like the nearest training mask, flips and turns included."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from evaluations.origins import map_key
from evaluations.sets import Labels
from evaluations.symmetry import apply_d4, d4_of

Floats = NDArray[np.float64]

GRID = 64  # cells a side in which masks of any size are compared
_COARSE = 32  # the same for so many masks that the memory would matter
_MANY = 20_000  # classes of masks
NEAR = 0.1
"""Novelty below which a mask is a near copy of a training mask."""


class NoveltyIndex:
    """Training masks to which others are compared: 1 - IoU to the nearest under all flips and, if square, turns.

    IoU is the mean over the classes that either mask has; background and null id do not count.
    """

    def __init__(
        self,
        training: Iterable[Labels],
        num_classes: int,
        *,
        background: int = 0,
        flip_pairs: Sequence[tuple[int, int]] = (),
    ):
        """Take label maps [H, W] of any sizes in `0..num_classes`; classes of a pair change places in mirrored ones."""
        self.num_classes, self.background = num_classes, background
        self._mirrored = _exchange(num_classes, flip_pairs)
        cells: dict[int, list[NDArray[np.bool_]]] = {}
        rows: dict[int, list[int]] = {}
        counts, square = [], True
        for number, label in enumerate(training):
            present = self._classes_of(label)
            for class_id in present:
                cells.setdefault(class_id, []).append(occupied(label == class_id, GRID))
                rows.setdefault(class_id, []).append(number)
            counts.append(len(present))
            square = square and label.shape[0] == label.shape[1]
        self._turns, self._count = square, np.array(counts)
        self._side = GRID if sum(counts) <= _MANY else _COARSE
        self._cells = {class_id: self._flat(each) for class_id, each in cells.items()}
        self._area = {class_id: each.sum(axis=1) for class_id, each in self._cells.items()}
        self._rows = {class_id: np.array(each) for class_id, each in rows.items()}

    def __len__(self) -> int:
        return len(self._count)

    def nearest(self, label: Labels, *, without: int | None = None) -> tuple[float, int]:
        """Return (novelty in 0..1, number of the nearest training mask) of a label map [H, W].

        without: a training mask that is not compared. Without any to compare the novelty is 1 and the number -1.
        """
        if len(self) == 0 or (without is not None and len(self) == 1):
            return 1.0, -1
        present = self._classes_of(label)
        count = 8 if self._turns and label.shape[0] == label.shape[1] else 4
        iou, shared = np.zeros((count, len(self))), np.zeros((count, len(self)), np.int64)
        for class_id in present:
            # By way of the fine cells, as the training masks: of masks smaller than these, coarse ones are others.
            cells = self._flat([occupied(label == class_id, GRID)]).reshape(self._side, self._side) > 0
            views = dihedral(cells, count).reshape(count, -1).astype(np.float32)
            area, mirrored = float(cells.sum()), int(self._mirrored[class_id])
            for seen_as in {class_id, mirrored} & self._cells.keys():
                ours = [v for v in range(count) if seen_as == (mirrored if _mirrors(v) else class_id)]
                common = views[ours] @ self._cells[seen_as].T
                where = np.ix_(ours, self._rows[seen_as])
                iou[where] += common / (area + self._area[seen_as] - common)
                shared[where] += 1
        classes = len(present) + self._count - shared
        likeness = np.where(classes > 0, iou / np.maximum(classes, 1), 1.0).max(axis=0)
        if without is not None:
            likeness[without] = -1
        nearest = int(likeness.argmax())
        return float(np.clip(1 - likeness[nearest], 0, 1)), nearest

    def _flat(self, cells: Sequence[NDArray[np.bool_]]) -> NDArray[np.float32]:
        """Return masks in GRID x GRID cells as rows of the cells that are compared."""
        side, step = self._side, GRID // self._side
        pooled = np.stack(cells).reshape(len(cells), side, step, side, step).any(axis=(2, 4))
        return pooled.reshape(len(cells), -1).astype(np.float32)

    def _classes_of(self, label: Labels) -> list[int]:
        counts = np.bincount(label.ravel(), minlength=self.num_classes + 1)
        counts[[self.background, self.num_classes]] = 0
        return np.flatnonzero(counts).tolist()


def nearest_novelty(masks: Sequence[Labels], training: NoveltyIndex) -> Floats:
    """Return the novelty [N], in 0..1, of label maps [H, W] of any sizes; see `NoveltyIndex`."""
    return np.array([training.nearest(label)[0] for label in masks])


def leave_one_out(training: Sequence[Labels], index: NoveltyIndex, numbers: Iterable[int] = ()) -> Floats:
    """Return the novelty [N] of each training mask among the others. numbers: in the index, where they are a part."""
    own = tuple(numbers) or range(len(training))
    return np.array([index.nearest(label, without=number)[0] for label, number in zip(training, own, strict=True)])


def used_again(
    masks: Iterable[Labels], training: Iterable[Labels], num_classes: int, flip_pairs: Sequence[tuple[int, int]] = ()
) -> NDArray[np.bool_]:
    """Return [N], whether label maps [H, W] in `0..num_classes` equal a training mask, pixel by pixel.

    Under all flips and, if square, turns; classes of a pair change places in mirrored ones.
    """
    known, exchanged = {map_key(label) for label in training}, _exchange(num_classes, flip_pairs)

    def is_known(label: Labels) -> bool:
        views = ((apply_d4(label[..., None], symmetry)[..., 0], symmetry) for symmetry in d4_of(label[None, ..., None]))
        return any(map_key(exchanged[view] if _mirrors(symmetry) else view) in known for view, symmetry in views)

    return np.array([is_known(label) for label in masks], bool)


def _exchange(num_classes: int, flip_pairs: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """Return the class that each of `0..num_classes` is seen as in a mirror."""
    seen_as = np.arange(num_classes + 1)
    for first, second in flip_pairs:
        seen_as[[first, second]] = second, first
    return seen_as


def _mirrors(symmetry: int) -> bool:
    """Return whether a symmetry shows left as right; two mirrors are a turn."""
    return symmetry.bit_count() % 2 == 1


def occupied(mask: NDArray[np.bool_], side: int) -> NDArray[np.bool_]:
    """Return [side, side]: the cells of a mask [H, W] in which it has any pixel."""
    for axis in (0, 1):
        length = mask.shape[axis]
        if length > side:
            mask = np.logical_or.reduceat(mask, np.arange(side) * length // side, axis=axis)
        elif length < side:
            mask = mask.take((2 * np.arange(side) + 1) * length // (2 * side), axis=axis)
    return mask


def dihedral(mask: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """Return the first `count` SYMMETRIES of a square mask, [count, side, side]."""
    return np.stack([apply_d4(mask[..., None], symmetry)[..., 0] for symmetry in range(count)])
