"""Fits learn, members are independent, the stopping rule is the published one, and nothing is lost when killed."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from killed_fit import QUICK, fit_saving
from processes import start_function

from guided_diffusion.labeling.files import PixelClassifier
from guided_diffusion.labeling.fit import Fit
from guided_diffusion.labeling.maps import ImageMaps
from guided_diffusion.labeling.options import ClassifierOptions
from guided_diffusion.labeling.pixels import PixelPool
from guided_diffusion.labeling.predict import predict
from guided_diffusion.labeling.recipes import FAST, PUBLISHED, StoppingRule, recipe_of
from guided_diffusion.runtime.errors import CheckpointError, DataError

FEW_EPOCHS = replace(PUBLISHED, epochs=7)


def accuracy(ensemble, images, labels, vote="mean"):
    hits = [(predict(ensemble, [maps], vote).label == label)[2:] for maps, label in zip(images, labels, strict=True)]
    return float(torch.stack(hits).float().mean())


@pytest.fixture
def data(blobs):
    """Images, their pool, and unseen images with labels."""
    images, labels = blobs()
    return images, PixelPool(labels, 3), *blobs(images=2, seed=5)


@pytest.mark.parametrize(("recipe", "least"), [(QUICK, 0.95), (FEW_EPOCHS, 0.9)], ids=["fast", "published"])
def test_unseen_images_are_labeled(data, recipe, least):
    images, pool, unseen, labels = data
    ensemble = Fit(images, pool, recipe, members=2).run()
    assert not ensemble.training
    assert accuracy(ensemble, unseen, labels, recipe.vote) > least


def test_pixel_values_alone_are_maps_too(blobs):
    _, labels = blobs()
    colors = torch.tensor([[1.0, -1, 0], [0, 1, -1], [-1, 0, 1], [0, 0, 0]])
    images = []
    for label in labels:
        shown = colors[label.long().clamp(max=3)].permute(2, 0, 1)
        images.append(ImageMaps([shown + 0.2 * torch.randn(shown.shape)], label.shape))
    ensemble = Fit(images, PixelPool(labels, 3), QUICK, members=2).run()
    assert accuracy(ensemble, images, labels) > 0.95


@pytest.mark.slow
def test_probabilities_of_a_rare_class_are_those_of_its_frequency():
    # The features tell nothing, so that the best answer is the frequency of each class.
    rng = np.random.default_rng(0)
    label = torch.zeros(40, 40, dtype=torch.uint8)
    label.view(-1)[torch.from_numpy(rng.permutation(1600)[:80])] = 1
    image = ImageMaps([rng.standard_normal((2, 40, 40)).astype(np.float32)], (40, 40))
    recipe = replace(FAST, batch=512, steps=150)
    found = predict(Fit([image], PixelPool([label], 2), recipe, members=2).run(), [image])
    rare = torch.where(found.label == 1, found.confidence, 1 - found.confidence)
    assert float(rare.mean()) == pytest.approx(0.05, abs=0.02)


@pytest.mark.parametrize("recipe", [QUICK, FEW_EPOCHS], ids=["fast", "published"])
def test_a_member_does_not_depend_on_the_others(data, recipe):
    images, pool, *_ = data
    recipe = replace(recipe, steps=5, epochs=1)
    alone, among = (Fit(images, pool, recipe, members=members).run() for members in (1, 3))
    for name, value in alone.member_weights(0).items():
        assert torch.allclose(value, among.member_weights(0)[name], atol=1e-5), name
    assert not torch.equal(among.first_weight[0], among.first_weight[1])


def test_each_epoch_shows_each_pixel_once(data):
    images, pool, *_ = data
    fit = Fit(images, pool, PUBLISHED, members=2)
    steps = PUBLISHED.steps_per_epoch(len(pool))
    seen = {0: [], 1: []}
    for fit.step in range(2 * steps):
        pixels = fit._draw()
        for member, part in enumerate((pixels.image * 256 + pixels.position).split(64)):
            seen[member].append(part)
    for parts in seen.values():
        first, second = torch.cat(parts[:steps]), torch.cat(parts[steps:])
        assert len(first.unique()) == len(first) == len(pool) // 64 * 64
        assert not torch.equal(first, second)
    assert not torch.equal(torch.cat(seen[0]), torch.cat(seen[1]))


def test_recorded_stops(golden):
    record, _ = golden("stopping")
    assert len(record["cases"]) == 4
    for case in record["cases"].values():
        steps = PUBLISHED.steps_per_epoch(case["pixels"])
        assert steps == case["steps_per_epoch"]
        rule = StoppingRule(steps)
        done = 0
        for step, loss in enumerate(case["losses"][: PUBLISHED.total_steps(case["pixels"])]):
            done = step + 1
            if rule.after(step, loss):
                break
        assert done == case["steps_done"]


def test_a_stopped_member_keeps_its_weights_while_others_go_on(data):
    images, pool, *_ = data
    fit = Fit(images, pool, replace(PUBLISHED, epochs=20), members=2)
    steps = PUBLISHED.steps_per_epoch(len(pool))
    fit.rules[0].best = -1.0  # no loss is ever below it
    while not fit._stopped:
        fit.train_step()
    assert fit.step == fit.rules[0].stopped_after == 4 * steps + 51
    stopped = fit.ensemble.member_weights(0)
    fit.train_step()
    assert not torch.equal(fit.ensemble.first_weight[0], stopped["layers.0.weight"])
    result = fit.result()
    assert all(torch.equal(value, stopped[name]) for name, value in result.member_weights(0).items())
    assert torch.equal(result.first_weight[1], fit.ensemble.first_weight[1])


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [QUICK, FEW_EPOCHS], ids=["fast", "published"])
def test_a_resumed_fit_has_the_same_bytes(data, recipe, tmp_path):
    images, pool, *_ = data
    whole = Fit(images, pool, recipe, members=2).run()
    begun = Fit(images, pool, recipe, members=2)
    begun.rules[0].best = 0.5
    for _ in range(13):
        begun.train_step()
    begun.rules[0].best = float("inf")
    begun.save(tmp_path / "state.pt")
    resumed = Fit(images, pool, recipe, members=2).run(tmp_path / "state.pt")
    again = Fit(images, pool, recipe, members=2).run(tmp_path / "state.pt")  # all its steps are done
    for name, ensemble in (("whole", whole), ("resumed", resumed), ("again", again)):
        PixelClassifier(ensemble).save(tmp_path / name)
    assert len({(tmp_path / name).read_bytes() for name in ("whole", "resumed", "again")}) == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
def test_a_killed_fit_ends_with_the_bytes_of_a_whole_one(data, tmp_path):
    images, pool, *_ = data
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    fit_saving(images, pool, tmp_path / "whole")
    state = tmp_path / "killed" / "state.pt"
    kills = 0
    for _ in range(10):
        before = state.stat().st_mtime_ns if state.exists() else 0
        process = start_function(fit_saving, images, pool, tmp_path / "killed")
        while process.is_alive() and kills < 2 and not (state.exists() and state.stat().st_mtime_ns > before):
            time.sleep(0.002)
        if kills < 2 and process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.join()
        if process.exitcode == 0:
            break
    assert kills == 2
    files = [(tmp_path / folder / "classifier.pt").read_bytes() for folder in ("whole", "killed")]
    assert files[0] == files[1]


def test_the_state_of_another_fit_is_refused(data, blobs, tmp_path):
    images, pool, *_ = data
    path = tmp_path / "state.pt"
    Fit(images, pool, QUICK, members=2).save(path)
    other_labels = PixelPool([label.flip(0) for label in blobs()[1]], 3)
    for changed in (
        Fit(images, pool, QUICK, members=3),
        Fit(images, pool, QUICK, members=2, seed=1),
        Fit(images, pool, FEW_EPOCHS, members=2),
        Fit(images, other_labels, QUICK, members=2),
    ):
        with pytest.raises(CheckpointError) as caught:
            changed.load(path)
        assert caught.value.path == str(path)
    torch.save({"format": "something else"}, path)
    with pytest.raises(CheckpointError):
        Fit(images, pool, QUICK, members=2).run(path)


def test_fewer_pixels_than_a_published_batch_are_refused(blobs):
    images, labels = blobs(images=1, side=8)
    with pytest.raises(DataError) as caught:
        Fit(images, PixelPool(labels, 3), PUBLISHED, members=1)
    assert "48" in caught.value.found


def test_options_change_a_recipe():
    assert recipe_of(ClassifierOptions()) == FAST
    assert recipe_of(ClassifierOptions(recipe="published")) == PUBLISHED
    changed = ClassifierOptions(
        classifier_steps=7, classifier_batch=8, classifier_lr=0.1, balance=False, vote="majority"
    )
    assert recipe_of(changed) == replace(FAST, steps=7, batch=8, lr=0.1, balance=False, vote="majority")
    assert recipe_of(ClassifierOptions(recipe="published", vote="mean")) == replace(PUBLISHED, vote="mean")
    assert [key for key, _ in ClassifierOptions(recipe="published", classifier_steps=7).check()] == ["classifier_steps"]
    assert not list(changed.check())
