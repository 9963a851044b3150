"""Do placed defects make segmentation better? Scores of arms and amounts, paired differences, a verdict in words.

An arm at an amount is its tests by repeat; tests of the same repeat had the same seed, and all have the same images.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from evaluations.groups import Groups
from evaluations.metrics.segmentation import Counts, plain, scores
from evaluations.segmentation.defect_scores import DefectTest
from evaluations.study.comparison import Difference, bootstrap_difference, kind_of_all, learned_nothing
from evaluations.study.training_chance import TrainingChance

SCORE = "foreground_miou"
"""Of `DefectTest.defect_counts`: the mean IoU over the defect classes that the test images have."""

ArmTests = Mapping[int, DefectTest]
"""Repeat -> test."""


def arm_record(tests: ArmTests, class_names: Sequence[str]) -> dict[str, Any]:
    """Return all scores of an arm: mean, standard deviation and each seed's; null where undefined."""
    summaries = [tests[repeat].summary(class_names) for repeat in sorted(tests)]
    keys = [key for key in summaries[0] if key not in ("classes", "good_images")]
    classes = {
        name: {key: _over_seeds([each["classes"][name][key] for each in summaries])["mean"] for key in found}
        for name, found in summaries[0]["classes"].items()
    }
    return {
        "repeats": sorted(tests),
        **{key: _over_seeds([each[key] for each in summaries]) for key in keys},
        "classes": classes,
        "called": _called(list(tests.values()), class_names),
    }


def _called(tests: Sequence[DefectTest], class_names: Sequence[str]) -> dict[str, dict[str, float | None]] | None:
    """Return what the defects of all seeds together are called; None unless all tests have counted that."""
    counted = [test.confused for test in tests if test.confused is not None]
    if len(counted) < len(tests):
        return None
    return replace(tests[0], confused=sum(counted)).called(class_names)


def _over_seeds(values: Sequence[float | None]) -> dict[str, Any]:
    numbers = np.array([np.nan if value is None else value for value in values], np.float64)
    std = plain(np.std(numbers, ddof=1)) if len(values) > 1 else None
    return {"mean": plain(np.mean(numbers)), "std": std, "by_seed": [plain(value) for value in numbers]}


def difference(
    baseline: ArmTests,
    arm: ArmTests,
    *,
    with_good: bool = False,
    groups: Groups | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    chance: TrainingChance | None = None,
) -> Difference | None:
    """Return the mean IoU of an arm less that of the baseline, over the repeats that both have; None without any.

    with_good: of the good test images, too, where every predicted defect is wrong. groups: of the images with defects
    and then of the good ones, see `bootstrap_difference`. chance: see `training_chance`; None: from these two alone.
    """
    repeats = sorted(baseline.keys() & arm.keys())
    if not repeats:
        return None
    first, second = ([_counts(tests[repeat], with_good) for repeat in repeats] for tests in (baseline, arm))
    groups = None if groups is None else groups[: len(first[0])]
    options = {"groups": groups, "confidence": confidence, "seed": seed, "chance": chance}
    return bootstrap_difference(first, second, score=SCORE, **options)


def training_chance(arms: Iterable[ArmTests], *, with_good: bool = False) -> TrainingChance | None:
    """Return how far trainings lie apart by chance, from all arms of an amount; None where one seed is all there is."""
    once = [
        {repeat: float(scores(_counts(test, with_good)).foreground_miou) for repeat, test in arm.items()}
        for arm in arms
    ]
    return TrainingChance.of(once)


def _counts(test: DefectTest, with_good: bool) -> Counts:
    return test.all_counts if with_good else test.defect_counts


@dataclass(frozen=True)
class DefectVerdict:
    """The answer for one architecture: a kind, a headline, and a line for each amount.

    kind: "helps" if at least one amount helps and none hurts, "hurts" the other way round, "mixed", "cannot tell", or
    "not measured"; an amount at which nothing was learned does not count. differences, rivals: of the placed defects to
    the baseline and the cheap rival, by amount; the intervals of the differences hold for all amounts at once.
    """

    kind: str
    headline: str
    lines: tuple[str, ...]
    differences: Mapping[str, Difference]
    rivals: Mapping[str, Difference]

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON file."""
        return {
            "kind": self.kind,
            "headline": self.headline,
            "lines": list(self.lines),
            "differences": {amount: each.to_json() for amount, each in self.differences.items()},
            "rivals": {amount: each.to_json() for amount, each in self.rivals.items()},
        }


def judge_defects(
    amounts: Sequence[str],
    baseline: Mapping[str, ArmTests],
    placed: Mapping[str, ArmTests],
    rival: Mapping[str, ArmTests],
    *,
    name: str = "placed",
    groups: Groups | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    chances: Mapping[str, TrainingChance | None] | None = None,
) -> DefectVerdict:
    """Return whether placed defects help against the baseline, and whether they are worse than a cheap rival.

    baseline, placed, rival: the tests by amount; an amount that lacks some is left out. name: what the headline calls
    the defects that are judged. groups: see `difference`. chances: by amount, see `training_chance`.
    """
    # Bonferroni: the best of several amounts looks good by chance more often than one.
    each = 1 - (1 - confidence) / max(1, len(amounts))
    options = {"groups": groups, "confidence": each, "seed": seed}
    differences = _differences(amounts, baseline, placed, options, chances or {})
    rivals = _differences(amounts, rival, placed, options, chances or {})
    if not differences:
        headline = f"Whether {name} defects help was not measured"
        return DefectVerdict("not measured", headline, (), differences, rivals)
    found, cheap, lines = {}, {}, []
    for amount in differences:
        arms = (tests.get(amount, {}) for tests in (baseline, placed, rival))
        nothing = learned_nothing([[test.defect_counts for test in arm.values()] for arm in arms if arm], SCORE)
        if nothing is not None:
            lines.append(f"{amount} images: cannot tell: {nothing}")
            continue
        found[amount] = differences[amount]
        if amount in rivals:
            cheap[amount] = rivals[amount]
        lines.append(_line(amount, found[amount], cheap.get(amount)))
    kind = kind_of_all([each.kind for each in found.values()])
    return DefectVerdict(kind, _headline(kind, found, cheap, name), tuple(lines), differences, rivals)


def _differences(
    amounts: Sequence[str],
    first: Mapping[str, ArmTests],
    second: Mapping[str, ArmTests],
    options: Mapping[str, Any],
    chances: Mapping[str, TrainingChance | None],
) -> dict[str, Difference]:
    found = {
        amount: difference(first.get(amount, {}), second.get(amount, {}), chance=chances.get(amount), **options)
        for amount in amounts
    }
    return {amount: each for amount, each in found.items() if each is not None}


def _line(amount: str, found: Difference, rival: Difference | None) -> str:
    mean, interval = found.points
    text = (
        f"{amount} images: {found.kind}: mIoU {mean} points against real + good images "
        f"({100 * found.confidence:.4g} % interval {interval}; {_seeds(found)})"
    )
    if rival is None:
        return text
    mean, interval = rival.points
    words = {"helps": "better than copy-paste", "hurts": "worse than copy-paste"}
    return f"{text}; {words.get(rival.kind, 'against copy-paste cannot tell')}: {mean} points ({interval})"


def _seeds(found: Difference) -> str:
    return "one seed: tentative" if found.tentative else f"{len(found.by_seed)} seeds"


def _headline(kind: str, differences: Mapping[str, Difference], rivals: Mapping[str, Difference], name: str) -> str:
    tentative = any(each.tentative for each in differences.values())
    helps, hurts = ("seem to help", "seem to hurt") if tentative else ("help", "hurt")
    found = {word: [amount for amount, each in differences.items() if each.kind == word] for word in ("helps", "hurts")}
    judged = f"{name.capitalize()} defects"
    headline = {
        "helps": f"{judged} {helps} at {_listed(found['helps'])} annotated images",
        "hurts": f"{judged} {hurts} at {_listed(found['hurts'])} annotated images",
        "mixed": f"{judged} {helps} at {_listed(found['helps'])} annotated images and {hurts} at "
        f"{_listed(found['hurts'])}",
        "cannot tell": f"Cannot tell whether {name} defects help",
    }[kind]
    worse = [amount for amount, each in rivals.items() if each.kind == "hurts"]
    better = [amount for amount, each in rivals.items() if each.kind == "helps"]
    if better:
        headline += f"; better than copy-paste at {_listed(better)}"
    if worse:
        headline += f"; worse than copy-paste at {_listed(worse)}"
    return headline


def _listed(amounts: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(amounts[:-1]), amounts[-1] if amounts else ""]))
