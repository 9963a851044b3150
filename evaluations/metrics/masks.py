"""The masks of the samples: their statistics against the training masks, each beside its floor, and their novelty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from evaluations.mask_novelty import NEAR, nearest_novelty, used_again
from evaluations.mask_statistics import (
    BY_CLASS,
    MARGIN,
    OVERALL,
    Line,
    MaskReference,
    MaskStatistics,
    mask_statistics,
)
from evaluations.metrics.base import NO_MASKS, EvaluationSets, Measurement, Metric, Skipped
from evaluations.report import charts
from evaluations.report.page import Figure, Section, Table
from evaluations.report.sections import percent

HEADING = "Are the masks like the training masks?"
MOST = 1000
"""Masks of each set that are compared, evenly spread."""
_ROWS = 40  # classes in a table


@dataclass(frozen=True)
class MasksMetric(Metric):
    """Statistics of the samples' masks; where the training images were not read it is not measured."""

    key: ClassVar = "masks"

    seed: int

    def measure(self, sets: EvaluationSets) -> Measurement:
        """Return the statistics; lines far out of their floors are warnings, but copies are none: masks are reused."""
        if not sets.has_masks:
            return NO_MASKS.measurement(HEADING, "Masks")
        if sets.training is None:
            return Skipped("not measured: no measurement reads the training images").measurement(HEADING, "Masks")
        training, test, masks = (_some(part.labels) for part in (sets.training, sets.test, sets.samples))
        print(f"comparing {len(masks)} masks with {len(training)} training masks", flush=True)
        reference = MaskReference.of(
            training,
            sets.class_names,
            background=sets.background,
            test=test,
            flips=sets.mask_flips,
            flip_pairs=sets.flip_pairs,
            seed=self.seed,
        )
        # All training masks, not only those that are compared: one of any of them is no new mask.
        reused = used_again(sets.samples.labels, sets.training.labels, len(sets.class_names), sets.flip_pairs)
        again = float(reused.mean())
        novelty = np.where(_some(reused), 0, nearest_novelty(masks, reference.index))
        result = mask_statistics(masks, reference, novelty=novelty)
        record = {**result.to_json(), "used_again": again}
        finding = f"masks: {result.summary()}; {percent(again)} % are training masks used again"
        facts = (("Novelty of the masks", f"median {np.median(result.novelty):.2f}"),)
        histogram = charts.distance_histogram(
            result.training_novelty, result.novelty, "1 - IoU to the nearest training mask"
        )
        section = Section(
            HEADING,
            _text(result, again, len(sets.training)),
            _tables(result),
            [Figure("Novelty of the masks", histogram)],
        )
        return Measurement(record, section, (finding,), _warnings(result), facts)


def _some(rows: NDArray[Any]) -> list[NDArray[Any]]:
    count = min(MOST, len(rows))
    return [rows[index * len(rows) // count] for index in range(count)]


def _text(result: MaskStatistics, again: float, num_training: int) -> list[str]:
    compared = len(result.training_novelty)
    of = "" if compared == num_training else f" of {compared} of the {num_training} training masks, evenly spread"
    out = [f"{name or 'all classes'}: {verdict}" for name, verdict in result.verdicts().items() if "out" in verdict[:3]]
    return [
        f"{result.summary()}.",
        f"{percent(again)} % of the masks are training masks used again: equal to one, pixel by pixel, flips and turns "
        f"included. Their novelty is 0, that of others 1 - IoU to the nearest{of}, in coarse cells. A novelty below "
        f"{NEAR:g} is a near copy.",
        "Each number is beside its floor: what random parts of the training masks, as many as there are masks here "
        "but at most half of them, have against the others (median, and 95 % of these parts), and what the test masks "
        "have. Classes of few training masks are not judged.",
        *out,
    ]


def _tables(result: MaskStatistics) -> list[Table]:
    overall = [line for line in result.lines if not line.class_name]
    tables = [_table("all classes", [(line.name, line) for line in overall], OVERALL)]
    names = list(dict.fromkeys(line.class_name for line in result.judged if line.class_name))
    for name in names[:_ROWS]:
        lines = [(line.name, line) for line in result.lines if line.class_name == name]
        tables.append(_table(name, lines, BY_CLASS))
    return tables


def _table(title: str, lines: Sequence[tuple[str, Line]], meanings: dict[str, str]) -> Table:
    rows = [
        [
            f"{name}: {meanings[name]}",
            *(_number(value) for value in (line.value, line.floor, line.limit, line.test)),
            "" if np.isnan(line.ratio) else "out" if line.is_out else "within",
        ]
        for name, line in lines
    ]
    return Table([title, "masks", "floor", "95 %", "test masks", "verdict"], rows)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _warnings(result: MaskStatistics) -> tuple[str, ...]:
    far = [line for line in result.far_out if line.name != "near copies"]
    if not far:
        return ()
    worst = sorted(far, key=lambda line: -line.ratio)[:5]
    shown = ", ".join(f"{line.class_name or 'all classes'} {line.name} ({line.ratio:.1f} times)" for line in worst)
    return (
        f"the masks differ from the training masks by more than {MARGIN:g} times their floor in {len(far)} statistics: "
        f"{shown}; see {HEADING!r}",
    )
