"""Keep the results of a `study` as small files, and make tables and the curve of those of several machines or days.

    python -m scripts.measure.study_records gather runs/magnetic_tile/study docs/records/magnetic_tile
    python -m scripts.measure.study_records table docs/records/magnetic_tile --curve curve.png
    python -m scripts.measure.study_records table docs/records/magnetic_tile --against docs/records/another

A result of `study` has the pixel counts of each test image. Intervals draw groups of test images (`group_pattern`), so
the sums over each group give the same ones, in a tenth of the space. `gather` writes them, one file a training, and
refuses results of other settings, data or synthetic images than those that are there. `table` needs neither images nor
networks.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluations.groups import Groups, numbered
from evaluations.metrics.segmentation import Counts, in_points, scores
from evaluations.report import charts
from evaluations.report.defect_sections import CURVE
from evaluations.report.drawing import chart_png
from evaluations.segmentation.defect_scores import DefectTest
from evaluations.study.comparison import Difference
from evaluations.study.defects import difference, training_chance
from guided_diffusion.config.load import load_config
from guided_diffusion.config.study import REAL_GOOD
from guided_diffusion.pipelines.evaluation.results import SETTINGS, StudyResults
from guided_diffusion.pipelines.study.arms import LABELS
from guided_diffusion.pipelines.study.runs import tested
from guided_diffusion.pipelines.study.setup import prepare
from guided_diffusion.pipelines.study.trainings import RESULTS
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.runtime.files import atomic_write
from guided_diffusion.runtime.logs import read_run_record
from scripts.dataset_folders import run_script

PARTS = ("counts", "good_counts")
"""The test images with defects, and the good ones."""

_TRAINED_ON = ("real", "good", "synthetic", "images")
COPIED = ("architecture", "amount", "arm", "repeat", *_TRAINED_ON, "isdm", "confused", "defects")
"""What a record has of a result as it is."""


@dataclass(frozen=True, eq=False)
class Record:
    """What is kept of one training: its test, with one row a group of test images."""

    content: Mapping[str, Any]
    test: DefectTest
    groups: tuple[str | None, ...]
    """Of the rows: those of images with defects, then those of good ones."""

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Record:
        """Return what `record_of` has made."""
        parts = [content[name] for name in PARTS if name in content]
        counts = [Counts.from_json({key: part[key] for key in part if key != "groups"}) for part in parts]
        test = DefectTest(*counts, defects=tuple(content["defects"]) if "defects" in content else None)
        return cls(content, test, tuple(group for part in parts for group in part["groups"]))

    @property
    def miou(self) -> float:
        return scores(self.test.defect_counts).foreground_miou

    @property
    def miou_with_good(self) -> float:
        return scores(self.test.all_counts).foreground_miou

    @property
    def class_ious(self) -> dict[str, float]:
        """IoU of each defect class."""
        ious = scores(self.test.counts).class_iou
        return {self.content["classes"][index]: ious[index] for index in self.test.defects or range(1, len(ious))}


Arms = Mapping[str, Sequence[Record]]
"""Arm -> its records by repeat, the arms in their usual order."""


def summed(counts: Counts, groups: Groups) -> Counts:
    """Return the counts of each group, in the order of their first images."""
    numbers = numbered(groups, len(counts))
    totals = np.zeros((3, 1 + int(numbers.max()), counts.truth.shape[1]), np.int64)
    for total, pixels in zip(totals, counts.columns, strict=True):
        np.add.at(total, numbers, pixels)
    return Counts(*totals)


def record_of(result: Mapping[str, Any], groups: Groups, class_names: Sequence[str]) -> dict[str, Any]:
    """Return the record of a result; groups: of the test images with defects, then of the good ones."""
    test, start = tested(dict(result)), 0
    images = sum(len(counts) for counts in (test.counts, test.good_counts) if counts is not None)
    if images != len(groups):
        found = f"has {len(groups)} images for the test, but the result is of {images}"
        raise DataError.of("data_dir or good_dir", found, "give the data that the study was run with")
    record = {key: result[key] for key in COPIED if key in result}
    record["classes"] = list(class_names)
    record["false_alarm_images"] = test.summary(class_names).get("false_alarm_images")
    for name, counts in zip(PARTS, (test.counts, test.good_counts), strict=True):
        if counts is not None:
            of_images = groups[start : start + len(counts)]
            _, first = np.unique(numbered(of_images, len(counts)), return_index=True)
            record[name] = {"groups": [of_images[index] for index in first], **summed(counts, of_images).to_json()}
            start += len(counts)
    return record


def gather(study: Path, output: Path) -> None:
    """Write a record for each result of a study into `output`, beside those that are there."""
    path = study / RESULTS / SETTINGS
    if not path.is_file():
        raise DataError.of(path, "does not exist", "name the output_dir of a study that has results")
    setup = prepare(load_config("study", read_run_record(study)))
    settings = json.loads(path.read_text(encoding="utf-8"))
    results, records = StudyResults(path.parent, {}, {}), StudyResults(output, settings, {})
    records.begin()
    for key in results:
        _refuse_other_images(results, key, records)
    for key in results:
        records[key] = record_of(results[key], setup.test_groups, setup.class_names)
        print(records.path(key).absolute())


def _refuse_other_images(results: StudyResults, key: str, records: StudyResults) -> None:
    """Raise DataError if an arm was trained on other images in the records: a mean over seeds would be of both."""
    result = results[key]
    for other, record in records.items():
        same = all(record[name] == result[name] for name in ("amount", "arm"))
        if same and record["images"] != result["images"]:
            remedy = f"choose another folder of records, or delete {records.path(other).name} there"
            raise DataError.of(results.path(key), f"is of other images than {records.path(other)}", remedy)


def read_records(folder: Path) -> dict[tuple[str, int], Arms]:
    """Return the records of a folder by architecture and number of real images. Raises DataError if there are none."""
    found: dict[tuple[str, int], dict[str, list[Record]]] = defaultdict(lambda: {arm: [] for arm in LABELS})
    for content in StudyResults(folder, {}, {}).values():
        found[content["architecture"], content["real"]][content["arm"]].append(Record.of(content))
    if not found:
        raise DataError.of(folder, "has no records of a study", "write some with `gather`")
    for arms in found.values():
        for arm in list(arms):
            arms[arm].sort(key=_repeat)
            if not arms[arm]:
                del arms[arm]
    return dict(sorted(found.items()))


def _repeat(record: Record) -> int:
    return record.content["repeat"]


def difference_of(arms: Arms, baseline: str, arm: str) -> Difference | None:
    """Return the mean IoU of an arm less that of another, over the repeats that both have; None without any."""
    return _difference(arms.get(baseline, []), arms[arm], arms.values())


def difference_between(arms: Arms, others: Arms, arm: str) -> Difference | None:
    """Return the mean IoU of an arm less that of the same arm of another study of the same test images.

    None where there is none, or where its records are the same. The arms of both tell how far trainings lie apart.
    """
    theirs, mine = others.get(arm, []), arms[arm]
    if theirs and mine[0].groups != theirs[0].groups:
        raise DataError.of("--against", "has records of other test images", "name records of the same data")
    copied = [record.content for record in theirs]
    if any(record.content in copied for record in mine):
        return None
    kept = [record.content for records in arms.values() for record in records]
    rest = [[record for record in records if record.content not in kept] for records in others.values()]
    return _difference(theirs, mine, [*arms.values(), *rest])


def _difference(
    baseline: Sequence[Record], records: Sequence[Record], arms: Iterable[Sequence[Record]]
) -> Difference | None:
    chance = training_chance(map(_tests, arms))
    return difference(_tests(baseline), _tests(records), groups=records[0].groups, chance=chance)


def _tests(records: Sequence[Record]) -> dict[int, DefectTest]:
    return {_repeat(record): record.test for record in records}


def table(
    found: Mapping[tuple[str, int], Arms],
    baseline: str = REAL_GOOD,
    others: Mapping[tuple[str, int], Arms] | None = None,
) -> list[str]:
    """Return a Markdown table with a row for each arm: scores in percent, differences to the baseline in points.

    others: of another study; the differences are to the same arms there, with those of each seed.
    """
    names = next(iter(next(iter(found.values())).values()))[0].class_ious
    head = ["architecture", "images", "arm", "mIoU of each seed", "difference", *names, "with good", "false alarms"]
    lines = [_row(head), _row(["---"] * len(head))]
    for (architecture, images), arms in found.items():
        for arm, records in arms.items():
            cells = [architecture, str(images), LABELS[arm]]
            cells.append(", ".join(f"{100 * record.miou:.1f}" for record in records))
            if others is not None:
                cells.append(_by_seed(difference_between(arms, others.get((architecture, images), {}), arm)))
            else:
                cells.append("" if arm == baseline else _in_words(difference_of(arms, baseline, arm)))
            cells += [f"{100 * np.mean([record.class_ious[name] for record in records]):.0f}" for name in names]
            cells.append(f"{100 * np.mean([record.miou_with_good for record in records]):.1f}")
            alarms = [record.content["false_alarm_images"] for record in records]
            cells.append("" if None in alarms else f"{100 * np.mean(alarms):.0f} %")
            lines.append(_row(cells))
    return lines


def _in_words(found: Difference | None) -> str:
    if found is None:
        return ""
    mean, interval = found.points
    return f"{mean} ({interval})" if found.kind == "cannot tell" else f"**{mean}** ({interval})"


def _by_seed(found: Difference | None) -> str:
    return f"{_in_words(found)}: {', '.join(map(in_points, found.by_seed))}" if found else ""


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def curve(found: Mapping[tuple[str, int], Arms]) -> dict[str, list[charts.AmountPoint]]:
    """Return the series of `charts.amount_curves` for the architecture of the most amounts.

    Arms of one amount are left out, as they are no curve, unless all are.
    """
    amounts = Counter(architecture for architecture, _ in found)
    chosen, series = max(amounts, key=lambda each: amounts[each]), defaultdict(list)
    for (architecture, images), arms in found.items():
        for arm, records in arms.items() if architecture == chosen else ():
            mious = [record.miou for record in records]
            std = float(np.std(mious, ddof=1)) if len(mious) > 1 else None
            series[LABELS[arm]].append(charts.AmountPoint(images, float(np.mean(mious)), std))
    return {name: points for name, points in series.items() if len(points) > 1} or dict(series)


def main(arguments: argparse.Namespace) -> None:
    """Run one of the two commands."""
    if arguments.command == "gather":
        gather(arguments.study, arguments.records)
        return
    found = read_records(arguments.records)
    others = read_records(arguments.against) if arguments.against else None
    print("\n".join(table(found, arguments.baseline, others)))
    if arguments.curve:
        with atomic_write(arguments.curve) as temporary:
            temporary.write_bytes(chart_png(charts.amount_curves, curve(found), CURVE))
        print(arguments.curve.absolute())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    gathering = commands.add_parser("gather", help="write records of the results of a study")
    gathering.add_argument("study", type=Path, help="output_dir of study")
    showing = commands.add_parser("table", help="print the table of records")
    for command in (gathering, showing):
        command.add_argument("records", type=Path, help="folder of records")
    compared = showing.add_mutually_exclusive_group()
    compared.add_argument("--baseline", choices=LABELS, default=REAL_GOOD, help="the arm that others are compared with")
    compared.add_argument("--against", type=Path, help="folder of records of another study: compare equal arms")
    showing.add_argument("--curve", type=Path, help="a picture of mIoU over annotated images, .png")
    run_script(main, parser.parse_args())
