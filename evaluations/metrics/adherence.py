"""Adherence: what the objects change, by samples that were drawn with the same noise and without them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from evaluations.metrics.base import EvaluationSets, Measurement, Metric, Skipped
from evaluations.objects import ImageObjects, pixels_of
from evaluations.report.page import Section, Sheet, Table
from evaluations.report.sections import percent
from evaluations.sets import Images, Indices

HEADING = "Is there anything in the boxes?"
NAME = "Adherence"
FLOOR = 2.0
"""Gray levels: an object that changes its box by less is without effect."""
SIZES = (("below 0.5 %", 0.005), ("0.5 to 2 %", 0.02), ("2 to 10 %", 0.1), ("10 % and more", np.inf))
"""Shares of the image that boxes have: name, and what they are smaller than."""

Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Changes:
    """What M objects change, in gray levels (means of absolute differences): in their boxes, and outside of all boxes.

    classes [M], areas [M] (shares of the image), inside [M], outside [M] of the image of each, NaN where boxes cover
    it; sample [M], which one it is of.
    """

    classes: Indices
    areas: Values
    inside: Values
    outside: Values
    sample: Indices

    @property
    def without_effect(self) -> NDArray[np.bool_]:
        """[M], objects whose box changes by less than FLOOR, or by no more than what lies outside of all boxes."""
        return (self.inside < FLOOR) | (self.inside <= np.nan_to_num(self.outside, nan=-1.0))

    def summary(self, chosen: NDArray[np.bool_]) -> dict[str, Any]:
        """Return the means of the objects `chosen` [M], of which there is one or more."""
        outside = self.outside[chosen]
        known = outside[~np.isnan(outside)]
        return {
            "objects": int(chosen.sum()),
            "inside": float(self.inside[chosen].mean()),
            "outside": float(known.mean()) if len(known) else None,
            "without_effect": float(self.without_effect[chosen].mean()),
        }


def changes(images: Images, null: Images, objects: tuple[ImageObjects, ...]) -> Changes:
    """Return what the objects of images [N, H, W, 3] change, from the same images drawn without them."""
    assert images.shape == null.shape
    rows = []
    for number, (image, empty, each) in enumerate(zip(images, null, objects, strict=True)):
        change = np.abs(image.astype(np.float64) - empty).mean(-1)
        uncovered = np.ones(change.shape, bool)
        spans = [pixels_of(box, change.shape) for box in each.boxes]
        for span in spans:
            uncovered[span] = False
        outside = float(change[uncovered].mean()) if uncovered.any() else float("nan")
        for class_id, area, span in zip(each.classes, each.areas, spans, strict=True):
            rows.append((int(class_id), float(area), float(change[span].mean()), outside, number))
    classes, areas, inside, outside, sample = np.array(rows, np.float64).reshape(-1, 5).T
    return Changes(classes.astype(np.int64), areas, inside, outside, sample.astype(np.int64))


# ----------------------------------------------------------------------------------------------------- metric


@dataclass(frozen=True)
class AdherenceMetric(Metric):
    """How much the objects change in their boxes and elsewhere; `shown` samples are in the report."""

    key: ClassVar = "adherence"

    shown: int

    def measure(self, sets: EvaluationSets) -> Measurement:
        """Return the changes by class and by size of the box."""
        layouts = sets.layouts
        assert layouts is not None
        if layouts.null is None:
            reason = (
                "not measured: null_dir is empty; sample the same layouts again with only_background true, and give "
                "their results_path as null_dir"
            )
            return Skipped(reason).measurement(HEADING, NAME)
        found = changes(sets.samples.images, layouts.null, layouts.samples)
        if not len(found.classes):
            return Skipped("not measured: no sample has an object").measurement(HEADING, NAME)
        everything = found.summary(np.ones(len(found.classes), bool))
        by_class = {
            sets.class_names[class_id]: found.summary(found.classes == class_id)
            for class_id in sorted(set(found.classes.tolist()))
        }
        by_size, least = {}, 0.0
        for name, most in SIZES:
            chosen = (found.areas >= least) & (found.areas < most)
            by_size |= {name: found.summary(chosen)} if chosen.any() else {}
            least = most
        record = {
            "null": layouts.null_kind,
            "floor": FLOOR,
            "all": everything,
            "classes": by_class,
            "sizes": by_size,
        }
        share = f"{percent(everything['without_effect'])} %"
        finding = (
            f"adherence: boxes change by {everything['inside']:.1f} gray levels, the rest of the image by "
            f"{_levels(everything['outside'])}; {share} of {everything['objects']} objects are without effect"
        )
        tables = [_table("class", {"all": everything, **by_class}), _table("box, share of the image", by_size)]
        section = Section(HEADING, _text(layouts.null_kind), tables, [self._sheet(sets, found)])
        facts = (("Objects without effect", share),)
        return Measurement(record, section, (finding,), _warnings(by_class), facts)

    def _sheet(self, sets: EvaluationSets, found: Changes) -> Sheet:
        assert sets.layouts is not None
        assert sets.layouts.null is not None
        weakest = np.argsort(found.inside, kind="stable")
        chosen = list(dict.fromkeys(found.sample[weakest].tolist()))[: self.shown]
        groups = [
            (sets.samples.images[index], sets.layouts.null[index], sets.samples.labels[index]) for index in chosen
        ]
        return Sheet("Samples whose objects change least", groups, ("sample", "without objects", "mask"))


def _levels(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _table(title: str, rows: dict[str, dict[str, Any]]) -> Table:
    header = [title, "objects", "change in boxes", "outside", "without effect, %"]
    return Table(
        header,
        [
            [name, row["objects"], _levels(row["inside"]), _levels(row["outside"]), percent(row["without_effect"])]
            for name, row in rows.items()
        ],
    )


def _text(kind: str) -> list[str]:
    return [
        f"The same samples drawn again from the same noise {kind}: the mean absolute difference, in gray levels, in "
        "the box of each object, and outside of all boxes of its image. An object is without effect if its box changes "
        f"by less than {FLOOR:g} gray levels, or by no more than what lies outside of all boxes.",
        "A box that changes need not hold the right object: for that see the classes of crops, and a detector.",
    ]


def _warnings(by_class: dict[str, dict[str, Any]]) -> tuple[str, ...]:
    weak = [
        f"{name} ({percent(row['without_effect'])} %)" for name, row in by_class.items() if row["without_effect"] > 0.5
    ]
    if not weak:
        return ()
    return (f"most objects of {', '.join(weak)} are without effect: train longer, or sample with a larger s",)
