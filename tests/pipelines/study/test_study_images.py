"""The images of a study in memory: nothing twice, and no more than there is room for."""

from __future__ import annotations

import pickle

import pytest

from guided_diffusion.config.load import load_config
from guided_diffusion.pipelines.study import trainings
from guided_diffusion.pipelines.study.generator import generator_of
from guided_diffusion.pipelines.study.setup import prepare
from guided_diffusion.pipelines.study.trainings import StudyImages, memory_line

ARMS = ("copy_paste", "poisson")


@pytest.fixture(scope="module")
def images(parts, good_parts, tmp_path_factory) -> StudyImages:
    values = {"data_dir": str(parts), "dataset_mode": "multi-class", "good_dir": str(good_parts), "pairs": 6}
    values |= {"arms": ["real_good", *ARMS], "amounts": "4,all", "image_channels": 1, "seed": 3}
    values |= {"output_dir": str(tmp_path_factory.mktemp("runs") / "study"), "encoder_weights": "none"}
    setup = prepare(load_config("study", values))
    generators = {amount: generator_of(setup, amount) for amount in (4, None)}
    for generator in generators.values():
        generator.begin(setup)
    return StudyImages.read(setup, generators)


def test_colors_of_gray_images_and_labels_of_good_ones_take_no_memory(images):
    pixels = [sum(label.size for label in part.labels) for part in (images.whole, images.good)]
    assert all(image.shape[2] == 3 for image in images.good.images)
    assert [images.whole.bytes, images.good.bytes] == [2 * pixels[0], pixels[1] + len(images.good)]
    synthetic = images.synthetic(None, "copy_paste")
    assert synthetic.bytes == 2 * sum(label.size for label in synthetic.labels)
    other = images.synthetic(None, "poisson")
    assert all(first is second for first, second in zip(synthetic.labels, other.labels, strict=True))


def test_images_of_other_amounts_are_forgotten_where_there_is_no_room(images, monkeypatch):
    found = {(amount, arm): images.arm(amount, arm) for amount in (4, None) for arm in ARMS}
    assert all(images.arm(*key) is each for key, each in found.items())
    monkeypatch.setattr(trainings, "available_memory", lambda: 0)
    assert images.arm(4, "poisson") is found[4, "poisson"]  # nothing new is needed
    images._synthetic.pop((4, "poisson"))
    images._arms.pop((4, "poisson"))
    again = images.arm(4, "poisson")
    assert {amount for amount, _ in images._synthetic} == {amount for amount, _ in images._arms} == {4}
    assert again is not found[4, "poisson"]
    assert again.images.digest == found[4, "poisson"].images.digest
    assert images.arm(None, "poisson").images.digest == found[None, "poisson"].images.digest
    assert {amount for amount, _ in images._synthetic} == {None}


@pytest.mark.parametrize(("at_once", "remedy"), [(1, "scale"), (3, "at_once")])
def test_images_that_may_not_fit_are_told(images, at_once, remedy, monkeypatch):
    synthetic = 2 * 6 * (images.good.bytes + sum(label.size for label in images.good.labels)) // len(images.good)
    needed = synthetic + 1 if at_once == 1 else at_once * (synthetic + images.real_bytes) + 1
    monkeypatch.setattr(trainings, "available_memory", lambda: needed)
    assert memory_line(images, at_once) == ""
    monkeypatch.setattr(trainings, "available_memory", lambda: needed - 100)
    assert remedy in memory_line(images, at_once)


def test_processes_that_are_not_forked_have_copies(images, monkeypatch):
    monkeypatch.setattr(trainings, "available_memory", lambda: 3 * images.real_bytes)
    for forked in (True, False):
        monkeypatch.setattr(trainings, "processes_are_forked", lambda forked=forked: forked)
        assert ("num_workers" in memory_line(images, 1, loaders=4)) == (not forked)


def test_another_process_gets_nothing_twice(images):
    sent = pickle.dumps(images.good)
    assert len(sent) < 1.2 * images.good.bytes + 2000
    there = pickle.loads(sent)
    assert (there.digest, there.names, there.bytes) == (images.good.digest, images.good.names, images.good.bytes)
