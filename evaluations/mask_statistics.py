"""Statistics of label maps against training masks, each beside its floor: what equally many real masks have.

The floor of a statistic is its value for random parts of the training masks against the others. docs/masks.md has the
list. A line is within its floor if it is at most the 95 % quantile of these values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from scipy.stats import wasserstein_distance

from evaluations.mask_features import Floats, MaskFacts, class_sets, describe_mask
from evaluations.mask_novelty import NEAR, NoveltyIndex, leave_one_out
from evaluations.sets import Labels

SPLITS = 40
"""Random parts of the training masks, from which the floors are taken."""
QUANTILE = 0.95
MARGIN = 1.5
"""Times its floor from which on a line is far out."""
FEWEST = 4
"""Training masks of a class; those of fewer are not judged."""
_MOST = 400  # components that shapes are compared by
_CLIP = 4  # standard deviations of a feature

BY_CLASS = {
    "share": "share of the masks that show it, difference",
    "area": "area in a mask, Wasserstein distance in octaves",
    "size": "area of its components, Wasserstein distance in octaves",
    "thickness": "thickness of its components, Wasserstein distance in octaves",
    "count": "number of its components in a mask, total variation",
    "place": "centers of its components, Wasserstein distance in sides of the image",
    "heat map": "1 - correlation of the blurred maps of where it is",
    "shape": "MMD² of area, perimeter, thickness, eccentricity and extent of its components (cubic kernel)",
}
OVERALL = {
    "class sets": "sets of classes in a mask, total variation",
    "specks": "components of fewer than 3 px in a mask",
    "empty": "share of the masks without any class, difference",
    "near copies": f"share of the masks whose novelty is below {NEAR}",
}


@dataclass(frozen=True)
class Line:
    """One statistic beside its floor; None: it cannot be measured."""

    class_name: str
    """"" for those of all classes."""
    name: str
    value: float | None
    floor: float | None
    """Median of random parts of the training masks."""
    limit: float | None
    """Their 95 % quantile."""
    test: float | None = None
    """That of the test masks."""

    @property
    def ratio(self) -> float:
        """Value over limit: above 1 it is out; NaN where one is missing."""
        if self.value is None or self.limit is None:
            return float("nan")
        return max(self.value, 0.0) / self.limit if self.limit > 0 else (0.0 if self.value <= 0 else float("inf"))

    @property
    def is_out(self) -> bool:
        return self.ratio > 1

    @property
    def is_far_out(self) -> bool:
        """Whether it is more than 1.5 times its limit."""
        return self.ratio > MARGIN


@dataclass(frozen=True)
class MaskStatistics:
    """All lines of a set of masks, and the novelty of each."""

    lines: tuple[Line, ...]
    novelty: Floats
    """[N] of the masks."""
    training_novelty: Floats
    """[T] of the training masks, each among the others."""
    test_novelty: Floats | None = None

    @property
    def judged(self) -> list[Line]:
        return [line for line in self.lines if not np.isnan(line.ratio)]

    @property
    def far_out(self) -> list[Line]:
        return [line for line in self.lines if line.is_far_out]

    def verdicts(self) -> dict[str, str]:
        """Return for each class ("" for all together) what is out of its floor, in words."""
        result: dict[str, str] = {}
        for name in dict.fromkeys(line.class_name for line in self.lines):
            lines = [line for line in self.judged if line.class_name == name]
            out = [f"{line.name} ({line.ratio:.1f} times)" for line in lines if line.is_out]
            result[name] = ("out: " + ", ".join(out)) if out else "within" if lines else "too few masks to judge"
        return result

    def summary(self) -> str:
        """Return one line on how many lines are out, and the novelty."""
        if not self.judged:
            return f"too few training masks to judge; novelty {np.median(self.novelty):.2f} (median)"
        out, far = sum(line.is_out for line in self.lines), len(self.far_out)
        return (
            f"{len(self.judged) - out} of {len(self.judged)} statistics are within the 95 % of random parts of the "
            f"training masks, {far} more than {MARGIN:g} times outside; novelty {np.median(self.novelty):.2f} "
            f"(median), that of a training mask among the others {np.median(self.training_novelty):.2f}"
        )

    def table(self, most: int = 20) -> list[str]:
        """Return lines of text: each class with its ratios, value over 95 % of the floor, the worst classes first."""
        names, rows = list(BY_CLASS), []
        by_class: dict[str, dict[str, Line]] = {}
        for line in self.judged:
            by_class.setdefault(line.class_name, {})[line.name] = line
        overall = by_class.pop("", {})
        worst = sorted(by_class.items(), key=lambda item: -max(line.ratio for line in item[1].values()))
        for class_name, lines in worst[:most]:
            rows.append([class_name, *(_marked(lines[name].ratio) if name in lines else "" for name in names)])
        shown = [["", *names], *rows] if rows else []
        widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
        text = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in shown]
        if len(worst) > most:
            text.append(f"... and {len(worst) - most} classes that are nearer to the training masks")
        for line in overall.values():
            test = "" if line.test is None else f", test masks {line.test:.2f}"
            text.append(
                f"{line.name}: {line.value:.2f} (floor {line.floor:.2f}, 95 % {line.limit:.2f}{test})"
                f"{' !' if line.is_out else ''}"
            )
        return text

    def to_json(self) -> dict[str, Any]:
        """Return the record, in JSON types."""
        novelties = {"masks": self.novelty, "training": self.training_novelty, "test": self.test_novelty}
        lines = [
            {
                "class": line.class_name or None,
                "statistic": line.name,
                "value": line.value,
                "floor": line.floor,
                "limit": line.limit,
                "test": line.test,
                "verdict": None if np.isnan(line.ratio) else "out" if line.is_out else "within",
            }
            for line in self.lines
        ]
        return {
            "masks": len(self.novelty),
            "training_masks": len(self.training_novelty),
            "novelty": {
                name: {"median": float(np.median(each)), "near_copies": float((each < NEAR).mean())}
                for name, each in novelties.items()
                if each is not None
            },
            "lines": lines,
            "verdicts": {name or "all classes": verdict for name, verdict in self.verdicts().items()},
        }


@dataclass(frozen=True, eq=False)
class MaskReference:
    """The training masks that others are held against; described once, for any number of comparisons."""

    class_names: tuple[str, ...]
    background: int
    flips: tuple[bool, bool]
    """Whether masks may be turned upside down, and left to right: places are then compared without regard to it."""
    seed: int
    facts: tuple[MaskFacts, ...] = field(repr=False)
    index: NoveltyIndex = field(repr=False)
    novelty: Floats = field(repr=False)
    test: tuple[MaskFacts, ...] = field(repr=False)
    test_novelty: Floats | None = field(repr=False)
    _floors: dict[int, dict[tuple[str, str], Floats]] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(
        cls,
        training: Sequence[Labels],
        class_names: Sequence[str],
        *,
        background: int = 0,
        test: Sequence[Labels] = (),
        flips: tuple[bool, bool] = (False, False),
        flip_pairs: Sequence[tuple[int, int]] = (),
        index: NoveltyIndex | None = None,
        numbers: Sequence[int] = (),
        seed: int = 0,
        progress: Callable[[Sequence[Labels]], Sequence[Labels]] = lambda labels: labels,
    ) -> MaskReference:
        """Describe at least one training mask, [H, W] of any size in `0..len(class_names)`, the last being the null id.

        flip_pairs: classes that change places in mirrored masks. index: that of the training masks, if it is there, or
        of more masks; numbers: then those of `training` in it.
        """
        assert training
        count = len(class_names)
        index = index or NoveltyIndex(training, count, background=background, flip_pairs=flip_pairs)
        facts = tuple(describe_mask(label, count, background) for label in progress(training))
        novelty = leave_one_out(training, index, numbers)
        of_test = tuple(describe_mask(label, count, background) for label in test)
        test_novelty = np.array([index.nearest(label)[0] for label in test]) if test else None
        return cls(tuple(class_names), background, flips, seed, facts, index, novelty, of_test, test_novelty)

    @cached_property
    def judged(self) -> tuple[int, ...]:
        """The classes that enough training masks show."""
        times = Counter(class_id for mask in self.facts for class_id in mask.classes)
        return tuple(class_id for class_id in range(len(self.class_names)) if times[class_id] >= FEWEST)

    def floors(self, count: int) -> Mapping[tuple[str, str], Floats]:
        """Return the values of each statistic for random parts of `count` training masks, at most half of them."""
        count = min(count, len(self.facts) // 2)
        if count not in self._floors:
            values: dict[tuple[str, str], list[float]] = {}
            for split in range(SPLITS if count else 0):
                order = np.random.default_rng([self.seed, split]).permutation(len(self.facts))
                part, rest = ([self.facts[index] for index in each] for each in (order[:count], order[count:]))
                for key, value in self.compare(part, rest):
                    if value is not None:
                        values.setdefault(key, []).append(value)
            self._floors[count] = {key: np.array(each) for key, each in values.items()}
        return self._floors[count]

    def compare(
        self, masks: Sequence[MaskFacts], others: Sequence[MaskFacts]
    ) -> Iterator[tuple[tuple[str, str], float | None]]:
        """Yield ((class name, statistic), value) of masks held against others; None where one of them has none."""
        for class_id in self.judged:
            ours, theirs = ([m.classes[class_id] for m in side if class_id in m.classes] for side in (masks, others))
            name = self.class_names[class_id]
            yield (name, "share"), abs(len(ours) / len(masks) - len(theirs) / len(others))
            if not ours or not theirs:
                yield from (((name, other), None) for other in BY_CLASS if other != "share")
                continue
            shapes, real = (np.concatenate([facts.shapes for facts in side]) for side in (ours, theirs))
            yield (name, "area"), wasserstein_distance([each.area for each in ours], [each.area for each in theirs])
            yield (name, "size"), wasserstein_distance(shapes[:, 0], real[:, 0])
            yield (name, "thickness"), wasserstein_distance(shapes[:, 2], real[:, 2])
            yield (name, "count"), total_variation(*([len(f.shapes) for f in side] for side in (ours, theirs)))
            centers = [self._folded(np.concatenate([facts.centers for facts in side])) for side in (ours, theirs)]
            yield (name, "place"), sum(wasserstein_distance(*(c[:, axis] for c in centers)) for axis in (0, 1))
            heat = [self._symmetric(np.mean([facts.heat for facts in side], axis=0)) for side in (ours, theirs)]
            yield (name, "heat map"), 1 - correlation(*heat)
            yield (name, "shape"), shape_distance(shapes, real)
        yield ("", "class sets"), total_variation(class_sets(masks), class_sets(others))
        yield ("", "specks"), float(np.mean([mask.specks for mask in masks]))
        yield ("", "empty"), abs(*np.diff([np.mean([not m.classes for m in side]) for side in (masks, others)]))

    def _folded(self, centers: Floats) -> Floats:
        """Return centers [N, 2] with the axes that masks are flipped along folded at the middle."""
        return np.where(self.flips, np.abs(centers - 0.5), centers)

    def _symmetric(self, heat: Floats) -> Floats:
        for axis, flipped in enumerate(self.flips):
            if flipped:
                heat = (heat + np.flip(heat, axis)) / 2
        return heat


def mask_statistics(
    masks: Sequence[Labels], reference: MaskReference, *, novelty: Floats | None = None
) -> MaskStatistics:
    """Return the statistics of N > 0 label maps, [H, W] of any sizes, against the training masks.

    novelty: [N], where it is known already.
    """
    assert len(masks)
    facts = [describe_mask(label, len(reference.class_names), reference.background) for label in masks]
    if novelty is None:
        novelty = np.array([reference.index.nearest(label)[0] for label in masks])
    floors = reference.floors(len(facts))
    of_test = dict(reference.compare(reference.test, reference.facts)) if reference.test else {}
    smallest = 1 / min(len(facts), max(1, len(reference.facts) // 2))  # what a single mask changes a share by
    lines = []
    for key, value in reference.compare(facts, reference.facts):
        values = floors.get(key, np.array([]))
        floor = limit = None
        if len(values):
            floor, limit = float(np.median(values)), float(np.quantile(values, QUANTILE))
            limit = max(limit, smallest) if key[1] in ("share", "count", *OVERALL) else limit
        lines.append(Line(*key, value, floor, limit, of_test.get(key)))
    near, usual = float((novelty < NEAR).mean()), float((reference.novelty < NEAR).mean())
    tested = reference.test_novelty
    among = None if tested is None else float((tested < NEAR).mean())
    judged = len(reference.facts) > 1
    lines.append(Line("", "near copies", near, *((usual, max(usual, smallest)) if judged else (None, None)), among))
    return MaskStatistics(tuple(lines), novelty, reference.novelty, tested)


def total_variation(first: Sequence[Any], second: Sequence[Any]) -> float:
    """Return half the summed difference of the shares of each value, 0..1."""
    ours, theirs = Counter(first), Counter(second)
    return sum(abs(ours[v] / len(first) - theirs[v] / len(second)) for v in ours.keys() | theirs.keys()) / 2


def correlation(first: Floats, second: Floats) -> float:
    """Return Pearson's correlation of two arrays of one shape; 1 for two constants, 0 for one."""
    ours, theirs = first - first.mean(), second - second.mean()
    norms = np.linalg.norm(ours), np.linalg.norm(theirs)
    flat = [norm < 1e-9 for norm in norms]
    return float(all(flat)) if any(flat) else float((ours * theirs).sum() / (norms[0] * norms[1]))


def shape_distance(shapes: Floats, real: Floats) -> float | None:
    """Return the unbiased MMD² of two sets of features [N, D], standardized by the second, by the cubic kernel of KID.

    None where a set has fewer than two rows.
    """
    if min(len(shapes), len(real)) < 2:
        return None
    mean, spread = real.mean(axis=0), np.maximum(real.std(axis=0), 1e-3)
    ours, theirs = (np.clip((_few(each) - mean) / spread, -_CLIP, _CLIP) for each in (shapes, real))

    def kernel(first: Floats, second: Floats) -> Floats:
        return (first @ second.T / first.shape[1] + 1) ** 3

    within = 0.0
    for each in (ours, theirs):
        values = kernel(each, each)
        within += (values.sum() - np.trace(values)) / (len(each) * (len(each) - 1))
    return float(within - 2 * kernel(ours, theirs).mean())


def _few(rows: Floats) -> Floats:
    return rows[np.arange(_MOST) * len(rows) // _MOST] if len(rows) > _MOST else rows


def _marked(ratio: float) -> str:
    return f"{ratio:.2f}{'!' if ratio > 1 else ' '}"
