"""The downstream study: what each arm is trained on, that arms are comparable, and that an interrupted one goes on."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from shapes import shapes

from evaluations.segmentation.models import build_segmenter
from evaluations.segmentation.training import TrainingPlan
from evaluations.study.run import (
    BASELINE,
    USUAL,
    StudyData,
    StudyOptions,
    arms_of,
    counts_of,
    lacking_samples,
    material_of,
    run_study,
    runs_of,
    split_validation,
)

ARMS = {arm.name: arm for arm in arms_of((0.5, 1, 2))}
SAMPLES_A_MASK = 3


@pytest.fixture(scope="module")
def data() -> StudyData:
    samples = shapes(20 * SAMPLES_A_MASK, seed=7)
    return StudyData(shapes(20), shapes(6, seed=1), samples, np.arange(len(samples)) % 20)


def options(**changes) -> StudyOptions:
    def build(architecture, seed):
        return build_segmenter(architecture, "resnet18", num_classes=3, seed=seed)

    plan = TrainingPlan(steps=2, batch_size=2, learning_rate=1e-3, validations=1)
    return StudyOptions(
        **{"build": build, "plan": plan, "validation_share": 0.25, "device": torch.device("cpu"), **changes}
    )


def test_the_arms_are_those_of_the_question():
    assert list(ARMS) == ["real", "mix_0.5", "mix_1", "mix_2", "synthetic", "augmented", "copy_paste"]
    assert [name for name, arm in ARMS.items() if arm.is_mix] == ["mix_0.5", "mix_1", "mix_2"]
    assert "augmented" not in [arm.name for arm in arms_of((1,), augment_all=True)]
    assert [arm.name for arm in arms_of((), rivals=False, synthetic_only=False)] == ["real"]


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
def test_what_an_arm_is_trained_on(data, name, real, synthetic):
    material = material_of(data, ARMS[name], options(), 0)
    assert (material.real, material.synthetic) == (real, synthetic)
    assert len(material.training) == real + synthetic
    assert len(material.validation) == 4


def test_no_arm_sees_what_chooses_its_best_state(data):
    for repeat in range(3):
        held = set(material_of(data, BASELINE, options(), repeat).validation.names)
        for arm in ARMS.values():
            material = material_of(data, arm, options(), repeat)
            assert set(material.validation.names) == held
            real = material.training.subset(range(material.real))
            assert not held & set(real.names)
            # A sample's number modulo 20 is the training image whose mask it has.
            origins = {f"shape{int(name[5:]) % 20}" for name in material.training.names[material.real :]}
            assert not held & origins
            assert not any((image == other).all() for image in material.training.images for other in data.test.images)


def test_repeats_differ_and_are_repeatable(data):
    def names(repeat, seed=0):
        return material_of(data, ARMS["mix_1"], options(seed=seed), repeat).training.names

    assert names(0) == names(0)
    assert len({names(0), names(1), names(0, seed=1)}) == 3


def test_a_larger_ratio_has_the_samples_of_a_smaller_one(data):
    few, more = (material_of(data, ARMS[name], options(), 0) for name in ("mix_0.5", "mix_2"))
    assert set(few.training.names[few.real :]) < set(more.training.names[more.real :])


def test_too_few_samples_are_counted(data):
    assert lacking_samples(data, list(ARMS.values()), options(), 3) == 0
    assert lacking_samples(data, arms_of((4,)), options(), 3) == 4 * 16 - 48
    unknown = StudyData(data.training, data.test, data.synthetic, np.full(60, -1))
    assert lacking_samples(unknown, arms_of((4,)), options(), 3) == 4 * 16 - 60


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


def test_an_interrupted_study_goes_on_and_repeats_nothing(data):
    runs, results, steps = runs_of(["fpn"], [BASELINE, ARMS["mix_1"], USUAL, ARMS["copy_paste"]], 2), {}, []

    def stop(run):
        steps.append(run.key)
        if len(steps) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(data, options(), runs, results, callback=stop)
    assert list(results) == ["fpn-real-0", "fpn-mix_1-0"]
    before, kept = dict(results), []
    run_study(data, options(), runs, results, keep=lambda run, model: kept.append(run.key))
    assert len(kept) == 6
    assert not set(kept) & set(before)
    assert {key: results[key] for key in before} == before
    whole: dict = {}
    run_study(data, options(), runs, whole)
    assert whole == results
    assert [len(counts) for counts in counts_of(results, "fpn", USUAL, 2)] == [6, 6]


def test_arms_of_a_seed_begin_alike(data):
    begun = {}

    def build(architecture, seed):
        model = build_segmenter(architecture, "resnet18", num_classes=3, seed=seed)
        begun.setdefault(seed, []).append(model.state_dict()["encoder.conv1.weight"].clone())
        return model

    runs = runs_of(["fpn"], [BASELINE, ARMS["mix_1"]], 2)
    run_study(data, options(build=build), runs, {}, callback=partial(lambda run: None))
    assert len(begun) == 2
    assert all(torch.equal(*pair) for pair in begun.values())
    assert not torch.equal(*[pair[0] for pair in begun.values()])


def test_augmentation_of_all_arms_changes_their_training_and_nothing_else(data):
    arms = arms_of((), synthetic_only=False, augment_all=True)
    runs, results = runs_of(["fpn"], arms, 1), ({}, {})
    for augment_all, found in zip((False, True), results, strict=True):
        run_study(data, options(augment_all=augment_all), runs, found)
    assert results[0].keys() == results[1].keys()
    assert all(results[0][key]["counts"] != results[1][key]["counts"] for key in results[0])
    usual: dict = {}
    run_study(data, options(), runs_of(["fpn"], [USUAL], 1), usual)
    assert usual["fpn-augmented-0"]["counts"] == results[1]["fpn-real-0"]["counts"]
