"""Weights of pixels: means over the hole, a little of what is known, nothing of the border."""

from __future__ import annotations

import pytest
import torch

from guided_diffusion.diffusion.pixel_weights import KNOWN_WEIGHT, pixel_weights


def random_pixels(seed: int, count: int = 3) -> torch.Tensor:
    return torch.rand(count, 7, 5, generator=torch.Generator().manual_seed(seed)) < 0.5


def test_pixels_count_alike_without_border_and_hole():
    assert pixel_weights(None, None) is None


@pytest.mark.parametrize("with_inside", [False, True])
@pytest.mark.parametrize("with_hole", [False, True])
def test_the_weighted_mean_is_the_mean_over_the_hole_and_a_little_of_the_rest(with_inside, with_hole):
    if not (with_inside or with_hole):
        return
    loss = torch.rand(3, 2, 7, 5, dtype=torch.float64)
    inside, hole = random_pixels(0) if with_inside else None, random_pixels(1) if with_hole else None
    weights = pixel_weights(inside, hole)
    assert weights.shape == (3, 1, 7, 5)
    assert weights.dtype == torch.float32
    for index in range(3):
        seen = torch.ones(7, 5, dtype=torch.bool) if inside is None else inside[index]
        expected = loss[index, :, seen].mean()
        if hole is not None:
            known = loss[index, :, seen & ~hole[index]].mean()
            expected = loss[index, :, seen & hole[index]].mean() + KNOWN_WEIGHT * known
        assert (loss[index] * weights[index]).mean().item() == pytest.approx(expected.item(), rel=1e-6)


def test_empty_parts_count_nothing():
    inside, everything = torch.zeros(1, 4, 4, dtype=torch.bool), torch.ones(1, 4, 4, dtype=torch.bool)
    assert (pixel_weights(inside, None) == 0).all()
    assert (pixel_weights(inside, everything) == 0).all()
    assert (pixel_weights(None, everything) == 1).all()
    assert torch.allclose(pixel_weights(everything, ~everything), torch.tensor(KNOWN_WEIGHT))
    for weights in (pixel_weights(inside, ~everything), pixel_weights(everything, everything)):
        assert torch.isfinite(weights).all()
