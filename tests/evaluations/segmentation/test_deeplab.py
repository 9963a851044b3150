"""Trainings on samples alone: an interrupted one goes on exactly, the best epoch is kept."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from evaluations.segmentation.deeplab import DeepLabScores, DeepLabTraining, score
from evaluations.sets import ImageSet

CPU = torch.device("cpu")


def images(count: int, seed: int = 0) -> ImageSet:
    """Bright pixels are class 1, dark ones 0; some are ignored."""
    draw = np.random.default_rng(seed)
    pixels = draw.integers(0, 256, (count, 8, 8, 3), np.uint8)
    labels = (pixels.mean(axis=-1) > 128).astype(np.int16)
    labels[:, :2, :2] = 2
    return ImageSet(pixels, labels, tuple(map(str, range(count))), 2)


def training(seed: int = 0) -> DeepLabTraining:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Dropout(), nn.Conv2d(8, 2, 1))
    return DeepLabTraining(model, images(17), images(4, 1), seed=seed, device=CPU)


def test_goes_on_exactly():
    whole, part = training(), training()
    for _ in range(3):
        whole.run_epoch()
    part.run_epoch()
    state = copy.deepcopy(part.state())
    again = training()
    torch.manual_seed(9)
    again.load_state(state)
    for _ in range(2):
        again.run_epoch()
    assert again.history == whole.history
    assert all(torch.equal(value, again.best[name]) for name, value in whole.best.items())
    other = training(seed=1)
    other.run_epoch()
    assert other.state()["model"]["0.weight"].ne(state["model"]["0.weight"]).any()


def test_the_best_epoch_is_scored():
    run = training()
    losses = []
    for _ in range(12):
        run.run_epoch(losses.append)
    assert len(losses) == 12 * 2  # a last batch of one image is left out
    scores = run.finish(images(4, 1))
    assert scores.published_miou == max(run.history)
    assert run.history.index(max(run.history)) + 1 == run.best_epoch
    assert max(run.history) > run.history[0]


def test_published_scores_count_ignored_pixels():
    class Bright(nn.Module):
        def forward(self, x):
            bright = x.mean(dim=1, keepdim=True)
            return torch.cat([-bright, bright], dim=1)

    model = Bright()
    model.weight = nn.Parameter(torch.zeros(1))
    found = score(model, images(6), CPU)
    assert found.miou > 0.7
    # 4 of 64 pixels are ignored and count as false positives of their class.
    assert found.published_miou == pytest.approx(found.miou, abs=0.12)
    assert found.published_miou < found.miou - 0.02
    again = DeepLabScores.from_json(found.to_json())
    assert (again.published_miou, again.miou) == (found.published_miou, found.miou)
