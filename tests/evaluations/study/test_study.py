"""The downstream study: what each setting is trained on, that settings compare, and that an interrupted one resumes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from shapes import shapes

from evaluations.errors import EvaluationError
from evaluations.segmentation.models import build_segmenter
from evaluations.segmentation.training import TrainingPlan
from evaluations.study.run import counts_of, run_study
from evaluations.study.settings import REAL_ONLY, STANDARD_AUGMENTATION, StudyPlan, runs_of, settings_of
from evaluations.study.training_sets import (
    StudyData,
    fewest_training,
    lacking_samples,
    split_validation,
    training_sets,
)

SETTINGS = {setting.name: setting for setting in settings_of((0.5, 1, 2))}
SAMPLES_A_MASK = 3


@pytest.fixture(scope="module")
def data() -> StudyData:
    samples = shapes(20 * SAMPLES_A_MASK, seed=7)
    return StudyData(shapes(20), shapes(6, seed=1), samples, np.arange(len(samples)) % 20)


def plan_of(**changes) -> StudyPlan:
    def build(architecture, seed):
        return build_segmenter(architecture, "tu-lcnet_050", num_classes=3, seed=seed)

    training = TrainingPlan(steps=2, batch_size=2, learning_rate=1e-3, validations=1)
    return StudyPlan(
        **{"build": build, "training": training, "validation_share": 0.25, "device": torch.device("cpu"), **changes}
    )


def test_the_settings_are_those_of_the_question():
    assert list(SETTINGS) == ["real", "mix_0.5", "mix_1", "mix_2", "synthetic", "augmented", "copy_paste"]
    assert [name for name, setting in SETTINGS.items() if setting.is_mix] == ["mix_0.5", "mix_1", "mix_2"]
    assert "augmented" not in [setting.name for setting in settings_of((1,), augment_all=True)]
    assert [setting.name for setting in settings_of((), baselines=False, synthetic_only=False)] == ["real"]


@pytest.mark.parametrize(
    ("name", "real", "synthetic"),
    [
        ("real", 16, 0),
        ("mix_0.5", 16, 8),
        ("mix_1", 16, 16),
        ("mix_2", 16, 32),
        ("synthetic", 0, 48),
        ("augmented", 16, 0),
        ("copy_paste", 16, 0),
    ],
)
def test_what_a_setting_is_trained_on(data, name, real, synthetic):
    sets = training_sets(data, SETTINGS[name], plan_of(), 0)
    assert (sets.real, sets.synthetic) == (real, synthetic)
    assert len(sets.training) == real + synthetic
    assert len(sets.validation) == 4


def test_no_setting_sees_what_chooses_its_best_state(data):
    for repeat in range(3):
        held = set(training_sets(data, REAL_ONLY, plan_of(), repeat).validation.names)
        for setting in SETTINGS.values():
            sets = training_sets(data, setting, plan_of(), repeat)
            assert set(sets.validation.names) == held
            real = sets.training.subset(range(sets.real))
            assert not held & set(real.names)
            # A sample's number modulo 20 is the training image whose mask it has.
            origins = {f"shape{int(name[5:]) % 20}" for name in sets.training.names[sets.real :]}
            assert not held & origins
            assert not any((image == other).all() for image in sets.training.images for other in data.test.images)


def test_repeats_differ_and_are_repeatable(data):
    def names(repeat, seed=0):
        return training_sets(data, SETTINGS["mix_1"], plan_of(seed=seed), repeat).training.names

    assert names(0) == names(0)
    assert len({names(0), names(1), names(0, seed=1)}) == 3


def test_a_larger_ratio_has_the_samples_of_a_smaller_one(data):
    few, more = (training_sets(data, SETTINGS[name], plan_of(), 0) for name in ("mix_0.5", "mix_2"))
    assert set(few.training.names[few.real :]) < set(more.training.names[more.real :])


def test_too_few_samples_are_counted(data):
    assert lacking_samples(data, list(SETTINGS.values()), plan_of(), 3) == {}
    assert lacking_samples(data, settings_of((4,)), plan_of(), 3) == {"": 4 * 16 - 48}
    unknown = StudyData(data.training, data.test, data.samples, np.full(60, -1))
    assert lacking_samples(unknown, settings_of((4,)), plan_of(), 3) == {"": 4 * 16 - 60}


def test_other_samples_keep_their_own_origins(data):
    """All but the first 20 of the other samples are of unknown origin, so none of these is left out."""
    origin = np.where(np.arange(60) < 20, data.origin, -1)
    other = replace(data.samples, images=data.samples.images[::-1].copy())
    both = replace(data, others={"edited": (other, origin)})
    (setting,) = (each for each in settings_of((1, 2), others=("edited",)) if each.source)
    assert not setting.is_mix
    sets = training_sets(both, setting, plan_of(), 0)
    assert sets.synthetic == training_sets(both, SETTINGS["mix_2"], plan_of(), 0).synthetic == 2 * sets.real
    assert lacking_samples(both, settings_of((4,), others=("edited",)), plan_of(), 1)["edited"] < 4 * 16 - 48
    assert all((other.images == image).all(axis=(1, 2, 3)).any() for image in sets.training.images[sets.real :])


def test_validation_has_a_share_of_every_class():
    labels = np.zeros((40, 4, 4), np.int64)
    labels[:10, 0, 0] = 1  # 10 images with class 1, two of them with the rare class 2
    labels[:2, 0, 1] = 2
    labels[30, 0, 0] = 3  # of one image alone
    kept, held = split_validation(labels, 4, 0.25, seed=0)
    assert sorted([*kept, *held]) == list(range(40))
    assert 30 in kept
    assert sum(index < 2 for index in held) == 0  # round(0.25 * 2) is 0, so the two stay in training
    assert sum(2 <= index < 10 for index in held) == 2
    assert len(held) == 2 + round(0.25 * 29)
    many = np.zeros((40, 2, 2), np.int64) + np.arange(40)[:, None, None] // 2  # 20 classes of two images each
    assert len(split_validation(many, 20, 0.2, seed=0)[1]) == 8
    two = split_validation(labels[:2], 4, 0.01, seed=0)
    assert [len(part) for part in two] == [1, 1]


@pytest.mark.parametrize("seed", range(5))
def test_the_only_images_of_classes_are_trained_on(seed):
    labels = np.zeros((20, 4, 4), np.int64)
    labels[:15, 0, 0] = 1 + np.arange(15)  # in one image each
    kept, held = split_validation(labels, 16, 0.2, seed=seed)
    assert set(range(15)) <= set(kept)
    assert len(held) == 4
    alone = np.arange(1, 6)[:, None, None] * np.ones((5, 4, 4), np.int64)
    assert len(split_validation(alone, 6, 0.2, seed=seed)[1]) == 1  # one has to validate


def test_results_of_other_samples_are_known_by_their_ratio():
    names = [[each.name for each in settings_of(ratios, others=("edited",))] for ratios in ((0.5, 1), (0.5, 1, 2))]
    shared = set(names[0]) & set(names[1])
    assert "mix_0.5" in shared
    assert not any(name.startswith("other_edited") for name in shared)


def test_the_fewest_training_images_of_any_masks():
    assert fewest_training(9, 0.2) == 6
    of_three = np.zeros((9, 2, 2), np.int64) + np.arange(9)[:, None, None] // 3  # three classes of three images each
    assert len(split_validation(of_three, 3, 0.2, seed=0)[0]) == 6
    rng = np.random.default_rng(0)
    for count, share in [(2, 0.5), (5, 0.2), (8, 0.2), (16, 0.34), (23, 0.5), (30, 0.9)]:
        for classes in (1, 3, 12):
            labels = rng.integers(classes, size=(count, 1, 2))
            assert len(split_validation(labels, classes, share, seed=1)[0]) >= fewest_training(count, share)


def test_groups_are_not_divided_for_validation():
    groups = [f"tile {number % 12}" for number in range(48)] + [None] * 4
    labels = np.zeros((52, 2, 2), np.int64) + (np.arange(52) % 3)[:, None, None]  # four tiles of each class
    kept, held = split_validation(labels, 3, 0.25, 0, groups)
    assert sorted([*kept, *held]) == list(range(52))
    in_both = {groups[index] for index in kept} & {groups[index] for index in held}
    assert in_both <= {None}
    for label in range(3):
        assert len({groups[index] for index in held if labels[index, 0, 0] == label}) >= 1
    np.testing.assert_array_equal(
        split_validation(labels, 3, 0.25, 0, [None] * 52)[1], split_validation(labels, 3, 0.25, 0)[1]
    )
    with pytest.raises(EvaluationError, match="group_pattern"):
        split_validation(labels, 3, 0.25, 0, ["one"] * 52)


def test_the_groups_of_the_training_images_reach_the_training_sets(data):
    grouped = replace(data, groups=[f"tile {number // 5}" for number in range(20)])
    sets = training_sets(grouped, SETTINGS["real"], plan_of(), 0)
    tiles = [
        {grouped.groups[data.training.names.index(name)] for name in part.names}
        for part in (sets.training, sets.validation)
    ]
    assert not tiles[0] & tiles[1]
    assert tiles[1]


@pytest.mark.slow
def test_an_interrupted_study_goes_on_and_repeats_nothing(data):
    runs, results, steps = (
        runs_of(["fpn"], [REAL_ONLY, SETTINGS["mix_1"], STANDARD_AUGMENTATION, SETTINGS["copy_paste"]], 2),
        {},
        [],
    )

    def stop(run):
        steps.append(run.key)
        if len(steps) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(data, plan_of(), runs, results, callback=stop)
    assert list(results) == ["fpn-real-0", "fpn-mix_1-0"]
    before, kept = dict(results), []
    run_study(data, plan_of(), runs, results, keep=lambda run, model: kept.append(run.key))
    assert len(kept) == 6
    assert not set(kept) & set(before)
    assert {key: results[key] for key in before} == before
    whole: dict = {}
    run_study(data, plan_of(), runs, whole)
    assert whole == results
    assert [len(counts) for counts in counts_of(results, "fpn", STANDARD_AUGMENTATION, 2)] == [6, 6]


@pytest.mark.slow
def test_settings_of_a_seed_begin_alike(data):
    begun = {}

    def build(architecture, seed):
        model = build_segmenter(architecture, "tu-lcnet_050", num_classes=3, seed=seed)
        begun.setdefault(seed, []).append(next(model.parameters()).detach().clone())
        return model

    runs = runs_of(["fpn"], [REAL_ONLY, SETTINGS["mix_1"]], 2)
    run_study(data, plan_of(build=build), runs, {}, callback=partial(lambda run: None))
    assert len(begun) == 2
    assert all(torch.equal(*pair) for pair in begun.values())
    assert not torch.equal(*[pair[0] for pair in begun.values()])


@pytest.mark.slow
def test_augmentation_of_all_settings_changes_their_training_and_nothing_else(data):
    settings = settings_of((), synthetic_only=False, augment_all=True)
    runs, results = runs_of(["fpn"], settings, 1), ({}, {})
    for augment_all, found in zip((False, True), results, strict=True):
        run_study(data, plan_of(augment_all=augment_all), runs, found)
    assert results[0].keys() == results[1].keys()
    assert all(results[0][key]["counts"] != results[1][key]["counts"] for key in results[0])
    standard: dict = {}
    run_study(data, plan_of(), runs_of(["fpn"], [STANDARD_AUGMENTATION], 1), standard)
    assert standard["fpn-augmented-0"]["counts"] == results[1]["fpn-real-0"]["counts"]
