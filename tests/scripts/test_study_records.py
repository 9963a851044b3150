"""Records of a study: they say what its report says, refuse others, and come from several places."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
from parts import NAMES, write_good, write_parts
from PIL import Image

from evaluations.metrics.segmentation import Counts
from evaluations.segmentation.defect_scores import DefectTest, FalseAlarms
from evaluations.study.defects import arm_record, difference, training_chance
from guided_diffusion.config.load import load_config
from guided_diffusion.pipelines.evaluation.results import StudyResults
from guided_diffusion.pipelines.study.setup import prepare
from guided_diffusion.runtime.errors import ConfigError, DataError
from guided_diffusion.runtime.logs import write_run_record
from scripts.measure import study_records
from scripts.measure.study_records import (
    Record,
    curve,
    difference_between,
    difference_of,
    gather,
    read_records,
    record_of,
    table,
)

IMAGES, GOOD = 40, 12
GROUPS = [f"tile{index // 3}" for index in range(IMAGES)] + ["tile0", None, None, *["good"] * (GOOD - 3)]
CLASSES = ["background", "crack", "spot"]


def planted(quality: float, seed: int, defects: tuple[int, ...] | None = None) -> DefectTest:
    """Return the test of a model that finds about this share of two classes; five good images have false alarms."""
    rng = np.random.default_rng(seed)
    truth = np.tile([2000, 100, 300], (IMAGES, 1))
    shares = rng.normal(quality, 0.2, (IMAGES, 3)).clip(0, 1)
    hits = np.round(truth * shares).astype(np.int64)
    hits[:, 0] = truth[:, 0]
    missed = truth - hits
    wrong = np.zeros_like(truth)
    wrong[:, 0] = missed.sum(axis=1)
    false = np.zeros((GOOD, 3), np.int64)
    false[:5, 1] = rng.integers(10, 50, 5)
    kept = np.zeros((GOOD, 3), np.int64)
    kept[:, 0] = 2000 - false[:, 1]
    good = Counts(kept, false, false[:, [1, 0, 0]] * [1, 0, 0])
    pixels = false.copy()
    pixels[:, 0] = pixels[:, 1:].sum(axis=1)
    alarms = FalseAlarms(pixels, pixels, np.full(GOOD, 2000))
    return DefectTest(Counts(hits, wrong, missed), good, alarms, np.diag([9, 9, 9]), defects)


def result(test: DefectTest, arm: str, repeat: int, *, amount: str = "20", real: int = 20) -> dict:
    keys = {"architecture": "unet", "amount": amount, "arm": arm, "repeat": repeat, "real": real}
    return {**keys, "good": 7, "synthetic": 0, "images": "digest", "isdm": "0", "seconds": 9.0, **test.to_json()}


def planted_arm(quality: float, seed: int, defects: tuple[int, ...] | None = None) -> dict[int, DefectTest]:
    return {repeat: planted(quality, seed + repeat, defects) for repeat in range(3)}


@pytest.mark.parametrize("defects", [None, (2,)])
def test_records_give_the_scores_and_intervals_of_the_images(defects):
    with pytest.raises(DataError):
        record_of(result(planted(0.4, 0, defects), "place", 0), [*GROUPS, None], CLASSES)
    arms = {"real_good": planted_arm(0.4, 0, defects), "place": planted_arm(0.5, 9, defects)}
    records = {
        arm: [Record.of(json.loads(json.dumps(record_of(result(test, arm, repeat), GROUPS, CLASSES))))
              for repeat, test in tests.items()]
        for arm, tests in arms.items()
    }  # fmt: skip
    chance = training_chance(arms.values())
    theirs, ours = difference(*arms.values(), groups=GROUPS, chance=chance), difference_of(records, *records)
    assert (ours.mean, ours.low, ours.high, ours.groups) == (theirs.mean, theirs.low, theirs.high, theirs.groups)
    assert ours.groups == 14
    for arm, tests in arms.items():
        summary = arm_record(tests, CLASSES)
        assert [record.miou for record in records[arm]] == summary["miou"]["by_seed"]
        assert [record.miou_with_good for record in records[arm]] == summary["miou_with_good"]["by_seed"]
        assert [r.content["false_alarm_images"] for r in records[arm]] == summary["false_alarm_images"]["by_seed"]
        for name, scores in summary["classes"].items():
            assert np.mean([record.class_ious[name] for record in records[arm]]) == pytest.approx(scores["iou"])
        assert list(records[arm][0].class_ious) == list(summary["classes"])


def records_of(arm: str, tests: dict[int, DefectTest]) -> list[Record]:
    return [Record.of(record_of(result(test, arm, repeat), GROUPS, CLASSES)) for repeat, test in tests.items()]


def test_equal_arms_of_two_studies_are_compared():
    real, placed, others = planted_arm(0.4, 0), planted_arm(0.5, 9), planted_arm(0.6, 20)
    first = {"real_good": records_of("real_good", real), "place": records_of("place", placed)}
    second = {"real_good": records_of("real_good", real), "place": records_of("place", others)}
    found = difference_between(second, first, "place")  # the records that both have count once
    expected = difference(placed, others, groups=GROUPS, chance=training_chance([real, others, placed]))
    ends = ("mean", "low", "high", "by_seed", "groups")  # records have as many images as groups
    assert [getattr(found, end) for end in ends] == [getattr(expected, end) for end in ends]
    assert difference_between(second, first, "real_good") is None
    assert difference_between(second, {}, "place") is None
    head, _, real_row, row = table({("unet", 20): second}, others={("unet", 20): first})
    assert len({head.count("|"), real_row.count("|"), row.count("|")}) == 1
    mean, interval = expected.points
    assert f"{mean}** ({interval}): " in row
    assert all(f"{100 * value:+.1f}" in row for value in expected.by_seed)
    for record in first["place"]:
        object.__setattr__(record, "groups", record.groups[1:])
    with pytest.raises(DataError):
        difference_between(second, first, "place")


def write_study(folder: Path, *, steps: int = 5, seeds: tuple[int, ...] = (0, 1), images: str = "digest") -> Path:
    """Write a study of planted results and the data that its config names."""
    parts, good = write_parts(folder / "parts", pairs=4), folder / "good"
    for split, size in (("train", (40, 56)), ("test", (44, 60))):
        write_good(good / split, {"a": size})
    out = folder / "out"
    values = {
        "data_dir": str(parts),
        "dataset_mode": "multi-class",
        "good_dir": str(good),
        "arms": "real_good,copy_paste",
    }
    config = load_config("study", values | {"arms": "real_good", "amounts": "all", "output_dir": str(out)})
    count = len(prepare(config).test)
    write_run_record(out, "study", config.to_json())
    results = StudyResults(out / "results", {"steps": steps}, {"test images": "a"})
    results.begin()
    for seed in seeds:
        hits = np.tile([2000, 0, 50, 90 + seed], (count, 1)).astype(np.int64)
        missed = np.tile([0, 0, 50, 10 - seed], (count, 1)).astype(np.int64)
        none = np.zeros((1, 4), np.int64)
        good, alarms = Counts(none + 2640 * (np.arange(4) == 0), none, none), FalseAlarms(none, none, np.array([2640]))
        test = DefectTest(Counts(hits, np.zeros_like(hits), missed), good, alarms)
        results[f"unet-nall-real_good-{seed}"] = result(test, "real_good", seed, amount="all", real=4) | {
            "images": images
        }
    return out


def test_what_several_places_have_found_is_one_table(tmp_path, capsys):
    gather(write_study(tmp_path / "one"), tmp_path / "records")
    gather(write_study(tmp_path / "two", seeds=(1, 2)), tmp_path / "records")
    found = read_records(tmp_path / "records")
    (arms,) = found.values()
    assert [record.content["repeat"] for record in arms["real_good"]] == [0, 1, 2]
    assert all(record.content["classes"] == list(NAMES) for record in arms["real_good"])
    lines = table(found)
    assert len({line.count("|") for line in lines}) == 1
    assert "70.0, 70.5, 71.0" in lines[2]  # (50 + 90) / 2 and more
    picture = tmp_path / "curve.png"
    capsys.readouterr()
    arguments = {"command": "table", "records": tmp_path / "records", "baseline": "real_good", "against": None}
    study_records.main(argparse.Namespace(**arguments, curve=picture))
    assert capsys.readouterr().out.splitlines() == [*lines, str(picture)]
    assert Image.open(picture).size[0] > 500


def test_the_curve_is_of_the_architecture_and_the_arms_of_several_amounts():
    """Other architectures and the usual augmentation were looked at with one number of images."""
    one = {repeat: Record.of(record_of(result(planted(0.4, repeat), "place", repeat), GROUPS, CLASSES))
           for repeat in range(2)}  # fmt: skip
    arms = {"real_good": [one[0]], "place": [one[0], one[1]]}
    found = {("fpn", 60): arms, ("unet", 20): arms, ("unet", 60): {**arms, "unaugmented": [one[1]]}}
    series = curve(found)
    assert [[point.images for point in points] for points in series.values()] == [[20, 60], [20, 60]]
    assert [points[0].std is None for points in series.values()] == [True, False]
    assert series["+ placed defects"][0].mean == pytest.approx((one[0].miou + one[1].miou) / 2)
    alone = {key: each for key, each in found.items() if key == ("fpn", 60)}
    assert [[point.images for point in points] for points in curve(alone).values()] == [[60], [60]]


def test_what_cannot_be_compared_is_refused(tmp_path):
    gather(write_study(tmp_path / "one"), tmp_path / "records")
    with pytest.raises(ConfigError, match="steps"):
        gather(write_study(tmp_path / "two", steps=6), tmp_path / "records")
    with pytest.raises(DataError, match="images"):
        gather(write_study(tmp_path / "three", seeds=(2,), images="others"), tmp_path / "records")
    (tmp_path / "none").mkdir()
    for wrong in (lambda: gather(tmp_path / "none", tmp_path / "records"), lambda: read_records(tmp_path / "none")):
        with pytest.raises(DataError, match="none"):
            wrong()
