"""Pixel classifiers on a pretended GPU: maps and labels stay on the CPU, and the answers are those of the CPU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from pretended_cuda import pretended_cuda

from guided_diffusion.labeling.fit import Fit
from guided_diffusion.labeling.maps import ImageMaps
from guided_diffusion.labeling.pixels import PixelPool
from guided_diffusion.labeling.predict import predict
from guided_diffusion.labeling.recipes import FAST, PUBLISHED

RECIPES = {"fast": replace(FAST, batch=16, steps=4), "published": replace(PUBLISHED, epochs=1)}


def train_and_predict(recipe, device, state_path):
    rng = np.random.default_rng(0)
    maps = [rng.standard_normal(shape).astype(np.float16) for shape in ((4, 3, 5), (2, 12, 16))]
    images = [ImageMaps(maps, (12, 16))]
    pool = PixelPool([torch.from_numpy(rng.integers(0, 3, (12, 16)))], 3)
    fit = Fit(images, pool, recipe, members=2, device=device)
    fit.train_step()
    fit.save(state_path)
    ensemble = Fit(images, pool, recipe, members=2, device=device).run(state_path)
    found = predict(ensemble, images, recipe.vote)
    return found.label.cpu(), found.uncertainty.cpu(), found.score


@pytest.mark.parametrize("name", RECIPES)
def test_equal_to_the_cpu(name, tmp_path):
    with pretended_cuda():
        label, uncertainty, score = train_and_predict(RECIPES[name], "cuda:0", tmp_path / "gpu.pt")
    wanted, divergence, wanted_score = train_and_predict(RECIPES[name], "cpu", tmp_path / "cpu.pt")
    assert float((label == wanted).float().mean()) > 0.99
    assert torch.allclose(uncertainty, divergence, atol=1e-4)
    assert score == pytest.approx(wanted_score, abs=1e-4)
