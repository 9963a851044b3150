"""What generated masks have to be like: the rules that the training masks give, and the cleaning of specks by them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from guided_diffusion.data.mirror import FlipPairs

Label = NDArray[np.integer]

LEAST_QUANTILE = 0.01  # of the areas that the components of a class have in training; smaller ones are specks
LEAST_AREA = 2
MOST_CHANGED = 0.02  # share of the pixels of a mask that cleaning may change
STATED_POWER = -0.5  # of a class's frequency: how often it is stated for an image that has it
_OWN_SETS = 0.5  # share of the training masks that may have a set of classes of their own
_PASSES = 4  # of the cleaning: specks beside specks take several
_EIGHT_NEIGHBORS = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True)
class MaskRules:
    """What the training masks tell of masks of their kind, at the size of the model.

    class_mix: [K], how often each class is stated as the condition of a training image, 1 in all.
    class_sets: the sets of classes that occur in one mask; None where most masks have a set of their own.
    least_area: [K + 1] pixels, smaller components of a class (the last is null) are specks. least_hole: pixels,
    likewise of the background inside of other classes.
    """

    background: int
    class_mix: tuple[float, ...]
    class_sets: frozenset[tuple[int, ...]] | None
    least_area: tuple[int, ...]
    least_hole: int

    @property
    def num_classes(self) -> int:
        return len(self.class_mix)

    def cleaned(self, label: Label) -> tuple[Label, float]:
        """Return a label map [H, W] without specks, and the share of its pixels that changed.

        A speck takes the commonest label of the pixels around it (JoDiffusion, 2026, does so with small regions).
        """
        result = np.array(label)
        for _ in range(_PASSES):
            specks = sorted(self._specks(result), key=lambda part: (part[1].sum(), part[0][0].start, part[0][1].start))
            if not specks:
                break
            for where, mask in specks:
                _fill_from_ring(result, where, mask)
        return result, float((result != label).mean())

    def _specks(self, label: Label) -> Iterator[tuple[tuple[slice, slice], NDArray[np.bool_]]]:
        """Yield box and pixels of every component that is too small for its class."""
        for class_id in np.unique(label).tolist():
            least = self.least_hole if class_id == self.background else self.least_area[class_id]
            for where, mask, at_border in _components(label == class_id):
                # Background at the border is no hole: of what lies there, a part may be outside of the image.
                if mask.sum() < least and not (class_id == self.background and at_border):
                    yield where, mask

    def count_specks(self, label: Label) -> int:
        """Return the number of components of a label map [H, W] that are too small for their class."""
        return sum(1 for _ in self._specks(label))

    def set_of(self, label: Label) -> tuple[int, ...]:
        """Return the classes of a label map [H, W], sorted, without null."""
        return tuple(class_id for class_id in np.unique(label).tolist() if class_id < self.num_classes)

    def is_unseen(self, label: Label) -> bool:
        """Return whether no training mask has the set of classes of a label map [H, W]."""
        return self.class_sets is not None and self.set_of(label) not in self.class_sets

    def obeys(self, label: Label, asked: int) -> bool:
        """Return whether a label map [H, W] has the class `asked`; of the background, whether it has nothing else."""
        present = self.set_of(label)
        return present == (asked,) if asked == self.background else asked in present

    def faults(self, label: Label, changed: float, asked: int) -> tuple[str, ...]:
        """Return why a cleaned label map [H, W] is rejected: "specks", "unseen set", "class missing"; () if it is not.

        changed: the share of its pixels that cleaning changed. asked: the class it should have.
        """
        found = {
            "specks": changed > MOST_CHANGED,
            "unseen set": self.is_unseen(label),
            "class missing": not self.obeys(label, asked),
        }
        return tuple(name for name, wrong in found.items() if wrong)

    def to_state(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        sets = None if self.class_sets is None else sorted(map(list, self.class_sets))
        return {
            "background": self.background,
            "class_mix": list(self.class_mix),
            "class_sets": sets,
            "least_area": list(self.least_area),
            "least_hole": self.least_hole,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> MaskRules:
        """Return the rules that a checkpoint stores."""
        sets = None if state["class_sets"] is None else frozenset(map(tuple, state["class_sets"]))
        rest = {key: tuple(state[key]) for key in ("class_mix", "least_area")}
        return cls(**{**state, **rest, "class_sets": sets})


@dataclass(frozen=True, eq=False)
class MaskCounts:
    """What is counted in N training masks of K classes, at the size of the model; null is class K.

    present: [N, K] booleans. touching: [K + 1, K + 1], pairs of neighboring pixels, symmetric. areas: of the
    components of each of the K + 1 classes. holes: areas of the background's components inside of other classes.
    """

    background: int
    present: NDArray[np.bool_]
    touching: NDArray[np.int64]
    areas: tuple[tuple[int, ...], ...]
    holes: tuple[int, ...]

    @property
    def has_null(self) -> bool:
        """Whether a mask has pixels of no class."""
        return len(self.areas[-1]) > 0

    @property
    def frequency(self) -> NDArray[np.float64]:
        """The share of masks with each class, [K]; at least that of one mask."""
        return np.maximum(self.present.mean(0), 1 / len(self.present))

    def rules(self, exchanged: FlipPairs = ()) -> MaskRules:
        """Return the rules that these masks give.

        exchanged: classes that change places in mirrored masks, as which training shows every other one.
        """
        seen_as = np.arange(self.present.shape[1])
        for first, second in exchanged:
            seen_as[[first, second]] = second, first
        shown = np.concatenate([self.present, self.present[:, seen_as]]) if exchanged else self.present
        stated = stated_classes(shown, self.frequency, self.background)
        sets = [tuple(np.flatnonzero(row).tolist()) for row in shown]
        areas = list(self.areas)
        for first, second in exchanged:
            areas[first] = areas[second] = self.areas[first] + self.areas[second]
        least = [_least(each) for each in areas]
        foreground = [area for index, area in enumerate(least) if index != self.background and areas[index]]
        return MaskRules(
            background=self.background,
            class_mix=tuple(stated.mean(0).tolist()),
            class_sets=frozenset(sets) if len(set(sets)) <= max(1, _OWN_SETS * len(sets)) else None,
            least_area=tuple(least),
            # Where training has no hole at all, one is a speck if it is smaller than any part may be.
            least_hole=_least(self.holes) if self.holes else min(foreground, default=LEAST_AREA),
        )


def count_masks(labels: Iterable[Label], num_classes: int, background: int) -> MaskCounts:
    """Return what is counted in label maps [H, W] of integers in `0..num_classes`."""
    touching = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    areas: list[list[int]] = [[] for _ in range(num_classes + 1)]
    holes: list[int] = []
    present = []
    for label in labels:
        label = label.astype(np.int64)
        for first, second in ((label[1:], label[:-1]), (label[:, 1:], label[:, :-1])):
            np.add.at(touching, (first.ravel(), second.ravel()), 1)
        classes = np.unique(label).tolist()
        present.append(np.isin(np.arange(num_classes), classes))
        for class_id in classes:
            for _, mask, at_border in _components(label == class_id):
                areas[class_id].append(int(mask.sum()))
                if class_id == background and not at_border:
                    holes.append(int(mask.sum()))
    return MaskCounts(background, np.stack(present), touching + touching.T, tuple(map(tuple, areas)), tuple(holes))


def stated_classes(
    present: NDArray[np.bool_], frequency: NDArray[np.float64], background: int, power: float = STATED_POWER
) -> NDArray[np.float64]:
    """Return [N, K], the probability that a class is stated as the condition of each of N images; rows sum to 1.

    present: [N, K]. One of the classes that the image has, by its frequency to `power`; the background only where there
    is nothing else. An image of null pixels alone states the background.
    """
    weights = present * frequency**power
    weights[:, background] = 0
    nothing_else = ~weights.any(axis=1)
    weights[nothing_else, background] = 1
    return weights / weights.sum(1, keepdims=True)


def image_weights(counts: MaskCounts, balance: float) -> NDArray[np.float64]:
    """Return how often each of N training images is drawn, [N] with mean 1.

    With a class of frequency f drawn f^-`balance` times as often, and an image among those for which it is stated: so a
    model that is told the class learns the images of that class as they are, and only the classes are balanced.
    """
    stated = stated_classes(counts.present, counts.frequency, counts.background)
    weights = stated @ counts.frequency**-balance
    return weights / weights.mean()


def _least(areas: tuple[int, ...]) -> int:
    if not areas:
        return LEAST_AREA
    return max(LEAST_AREA, int(np.quantile(areas, LEAST_QUANTILE, method="lower")))


def _components(mask: NDArray[np.bool_]) -> Iterator[tuple[tuple[slice, slice], NDArray[np.bool_], bool]]:
    """Yield box, pixels [h, w] in it, and whether it touches the border, of each 8-connected component."""
    numbered, _ = ndimage.label(mask, _EIGHT_NEIGHBORS)
    for number, where in enumerate(ndimage.find_objects(numbered), start=1):
        ends = zip(where, mask.shape, strict=True)
        at_border = any(part.start == 0 or part.stop == size for part, size in ends)
        yield where, numbered[where] == number, at_border


def _fill_from_ring(label: Label, where: tuple[slice, slice], mask: NDArray[np.bool_]) -> None:
    """Give the pixels of a component the commonest label of the pixels around it, the lowest of equally common ones."""
    wide = tuple(slice(max(0, part.start - 1), part.stop + 1) for part in where)
    seen = label[wide]  # a view, which ends where the image does
    before = [part.start - outer.start for part, outer in zip(where, wide, strict=True)]
    inside = np.zeros(seen.shape, dtype=bool)
    inside[before[0] : before[0] + mask.shape[0], before[1] : before[1] + mask.shape[1]] = mask
    ring = ndimage.binary_dilation(inside, _EIGHT_NEIGHBORS) & ~inside
    if ring.any():
        seen[inside] = np.bincount(seen[ring].astype(np.int64)).argmax()
