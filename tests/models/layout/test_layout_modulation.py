"""The modulation of layouts: as the published form has it, with gradients, in parts and repeated."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from guided_diffusion.models.conditioning import Modulations
from guided_diffusion.models.group_norm import normalize
from guided_diffusion.models.layout.masks import ObjectMasks
from guided_diffusion.models.layout.modulation import EmptyModulation, LayoutModulation, mixed_norm
from scripts.benchmark.layout import broadcast_form


def made(n: int, objects: int, channels: int, size: tuple[int, int], dtype=torch.float32, seed: int = 0):
    """Return a modulation of random tables and masks, and gamma and beta."""
    draw = torch.Generator().manual_seed(seed)
    gamma, beta = (torch.randn(n, objects, channels, generator=draw, dtype=dtype) for _ in range(2))
    masks = torch.rand(n, objects, *size, generator=draw, dtype=dtype)
    masks[:, :, :2] = 0  # nothing there
    label, refined = torch.zeros(n, objects).long(), torch.zeros(n, objects)
    common = ObjectMasks(label, refined, None, {}, objects, torch.zeros(len(label), objects, 16, 16))
    scale, shift = (
        torch.cat([torch.full_like(table[:, :1], first), table], dim=1) for table, first in ((gamma, 1), (beta, 0))
    )
    return LayoutModulation(scale, shift, common.weights(masks), masks, common), gamma, beta


@pytest.mark.parametrize("time", [False, True])
@pytest.mark.parametrize("cache", [2**8, 2**21])
def test_products_are_the_broadcast_form(monkeypatch, noise, time, cache):
    monkeypatch.setattr("guided_diffusion.models.group_norm.CACHE", cache)  # parts of images, or several of them
    modulation, gamma, beta = made(3, 5, 32, (20, 24))
    x = 2 * noise(3, 32, 20, 24) + 0.5
    times = (noise(3, 32, seed=1), noise(3, 32, seed=2)) if time else (None, None)
    expected = broadcast_form(normalize(x), modulation.masks, gamma, beta, *times)
    torch.testing.assert_close(modulation.norm_silu(x, *times), expected, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(modulation.norm_silu(x, *times), expected, atol=1e-5, rtol=1e-5)


def test_gradients_of_everything_are_those_of_the_broadcast_form(noise):
    modulation, gamma, beta = made(2, 3, 32, (6, 8))
    x, weighted = noise(2, 32, 6, 8), noise(2, 32, 6, 8, seed=3)
    times = noise(2, 32, seed=1), noise(2, 32, seed=2)
    found = []
    for product in (True, False):
        leaves = [tensor.clone().requires_grad_() for tensor in (x, modulation.masks, gamma, beta, *times)]
        own, masks, own_gamma, own_beta, scale, shift = leaves
        if product:
            tables = (torch.cat([torch.full_like(t[:, :1], f), t], dim=1) for t, f in ((own_gamma, 1), (own_beta, 0)))
            weight = modulation.objects.weights(masks)
            out = LayoutModulation(*tables, weight, masks, modulation.objects).norm_silu(own, scale, shift)
        else:
            out = broadcast_form(normalize(own), masks, own_gamma, own_beta, scale, shift)
        (out * weighted).sum().backward()
        found.append([leaf.grad for leaf in leaves])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize("cache", [2**6, 2**21])
def test_gradients_in_double_precision(monkeypatch, cache):
    monkeypatch.setattr("guided_diffusion.models.group_norm.CACHE", cache)
    monkeypatch.setattr("guided_diffusion.models.group_norm.CHUNK", 3)
    modulation, *_ = made(2, 2, 32, (2, 3), torch.float64)
    draw = torch.Generator().manual_seed(5)
    x = torch.randn(2, 32, 2, 3, dtype=torch.float64, generator=draw).to(memory_format=torch.channels_last)
    weight = torch.rand(2, 6, 2, dtype=torch.float64, generator=draw)
    inputs = [tensor.requires_grad_() for tensor in (x, modulation.scale, modulation.shift, weight)]
    assert torch.autograd.gradcheck(mixed_norm, inputs, fast_mode=True)
    assert torch.autograd.gradcheck(lambda w: mixed_norm(*inputs[:3], w), [weight])


def test_pixels_outside_of_all_masks_are_normalized_alone(noise):
    modulation, *_ = made(2, 3, 32, (12, 10))
    x = noise(2, 32, 12, 10)
    expected = F.silu(normalize(x))[:, :, :2]
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(modulation.norm_silu(x)[:, :, :2], expected, rtol=0, atol=2e-7)


@torch.no_grad()
def test_expanded_and_joined(noise):
    one, two = made(1, 3, 32, (6, 8))[0], made(2, 5, 32, (6, 8), seed=1)[0]
    empty = EmptyModulation(torch.ones(1, 32), torch.zeros(1, 32), 3, (6, 8))
    x, scale, shift = noise(6, 32, 6, 8), noise(6, 32, seed=1), noise(6, 32, seed=2)
    shared = {}
    expanded = one.expand(3, shared)
    assert shared == {one.objects: expanded.objects}
    joined = Modulations.cat([Modulations([m]) for m in (expanded, two, empty)])[0]
    assert len(joined) == 6
    assert all(tensor.shape[0] in (1, 2, 3) for tensor in joined.tensors())
    parts = ((one, 0), (one, 1), (one, 2), (empty, 5))
    out = joined.norm_silu(x, scale, shift)
    for part, i in parts:
        expected = part.norm_silu(x[i : i + 1], scale[i : i + 1], shift[i : i + 1])
        torch.testing.assert_close(out[i : i + 1], expected)
    torch.testing.assert_close(out[3:5], two.norm_silu(x[3:5], scale[3:5], shift[3:5]))
    plain = F.silu(normalize(x[:1]) * (1 + scale[:1, :, None, None]) + shift[:1, :, None, None])
    torch.testing.assert_close(empty.norm_silu(x[:1], scale[:1], shift[:1]), plain)


def test_nothing_of_image_size_is_kept_but_the_input(noise):
    modulation, *_ = made(2, 3, 64, (16, 16))
    x = noise(2, 64, 16, 16).to(memory_format=torch.channels_last).requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        modulation.norm_silu(x, noise(2, 64), noise(2, 64))
    large = {tensor.untyped_storage().data_ptr() for tensor in kept if tensor.numel() >= x.numel() // 2}
    assert large == {x.untyped_storage().data_ptr()}


def test_autocast_keeps_the_type_of_the_features(noise):
    modulation, *_ = made(2, 3, 32, (6, 8))
    x = noise(2, 32, 6, 8).bfloat16()
    expected = modulation.norm_silu(x.float())
    with torch.autocast("cpu", torch.bfloat16):
        trained = modulation.norm_silu(x.clone().requires_grad_())
        with torch.no_grad():
            sampled = modulation.norm_silu(x)
    for found in (trained, sampled):
        assert found.dtype == torch.bfloat16
        assert (found - expected).abs().max() <= 0.02 * expected.abs().max()
