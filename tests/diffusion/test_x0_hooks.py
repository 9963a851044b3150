"""What is done to a predicted image: thresholding against its definition and numpy's quantiles, extrapolation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from guided_diffusion.diffusion.x0_hooks import Extrapolation, clip, dynamic_threshold, magnitude_quantile

T = torch.zeros(3, dtype=torch.int64)


def images(scale: float = 2.0) -> Tensor:
    x = scale * torch.randn(3, 3, 17, 13, generator=torch.Generator().manual_seed(0))
    return x * torch.tensor([0.1, 1.0, 4.0]).view(-1, 1, 1, 1)


@pytest.mark.parametrize("quantile", [1e-6, 0.3, 0.5, 0.995, 1.0])
def test_quantile_of_each_image_is_numpys(quantile: float) -> None:
    x = images()
    wanted = np.quantile(np.abs(x.numpy().reshape(3, -1)), quantile, axis=1)
    np.testing.assert_allclose(magnitude_quantile(x, quantile).numpy(), wanted, rtol=1e-5)


@pytest.mark.slow
def test_quantile_is_exact_where_an_image_has_more_elements_than_float32_can_count() -> None:
    count, high = 2**24 + 5000, 1000
    x = torch.zeros(1, 1, 1, count)
    x[..., ::7919][..., :high] = -3.0
    edge = count - high - 1  # the rank of the last zero
    for offset, wanted in ((-1.0, 0.0), (0.0, 0.0), (0.5, 1.5), (1.0, 3.0)):
        found = magnitude_quantile(x, (edge + offset) / (count - 1)).item()
        assert found == pytest.approx(wanted, abs=1e-6)


def test_values_in_range_stay() -> None:
    x = images().clamp(-1, 1)
    assert torch.equal(dynamic_threshold(0.9)(x, x, T), x)


def test_the_formula() -> None:
    x = images()
    found = dynamic_threshold(0.9)(x, x, T)
    for image, result in zip(x, found, strict=True):
        s = max(1.0, float(np.quantile(image.abs().numpy(), 0.9)))
        torch.testing.assert_close(result, image.clamp(-s, s) / s)
    assert found.abs().max() <= 1
    assert torch.equal(found[0], x[0])
    assert (found[2].abs() == 1).float().mean() == pytest.approx(0.1, abs=0.01)


def test_the_whole_range_only_scales() -> None:
    x = images()
    torch.testing.assert_close(dynamic_threshold(1.0)(x, x, T), x / x.abs().amax((1, 2, 3), keepdim=True).clamp(min=1))


@pytest.mark.parametrize("quantile", [0.0, -0.5, 1.1, float("nan")])
def test_quantiles_that_cannot_be(quantile: float) -> None:
    with pytest.raises(AssertionError):
        dynamic_threshold(quantile)


def test_clipping() -> None:
    x = images()
    assert torch.equal(clip(x, x, T), x.clamp(-1, 1))


def test_extrapolation_goes_on_from_what_it_gave_one_step_before() -> None:
    hook, before = Extrapolation(0.8), None
    for step in (4, 3, 2, 1, 0):
        x0 = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(step))
        wanted = x0 if before is None else x0 + 0.8 * (x0 - before)
        before = hook(x0, x0, torch.full((3,), step))
        assert torch.equal(before, wanted)


def test_extrapolations_share_nothing() -> None:
    first, second, x = Extrapolation(0.8), Extrapolation(0.8), images()
    first(x, x, T)
    assert torch.equal(second(2 * x, x, T), 2 * x)


@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf")])
def test_extrapolations_that_cannot_be(weight: float) -> None:
    with pytest.raises(AssertionError):
        Extrapolation(weight)
