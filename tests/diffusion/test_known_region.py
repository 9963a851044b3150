"""The known region as a hook: its pixels are the given ones at every step of every sampler."""

from __future__ import annotations

import pytest
import torch
from flat_options import noise_process
from torch import Tensor

from guided_diffusion.conditions.known_region import KnownRegion
from guided_diffusion.diffusion.denoiser import Denoiser
from guided_diffusion.diffusion.samplers import SAMPLERS, draw_noise
from guided_diffusion.diffusion.x0_hooks import Extrapolation, clip, dynamic_threshold

N, SHAPE, STEPS = 3, (2, 6, 8), 7
HOOKS = {
    "none": lambda: [],
    "clipped": lambda: [clip],
    "published order": lambda: [Extrapolation(0.8), dynamic_threshold(0.7), clip],
}


def region() -> KnownRegion:
    draw = torch.Generator().manual_seed(0)
    image, hole = 2 * torch.rand(N, *SHAPE, generator=draw) - 1, torch.zeros(N, *SHAPE[1:], dtype=torch.bool)
    hole[0, 1:4, 2:5] = True
    hole[1] = torch.rand(SHAPE[1:], generator=draw) < 0.5
    return KnownRegion(image, hole)


def network(x_t: Tensor, t: Tensor) -> Tensor:
    """A network of learned variances, wrong everywhere, whose errors grow in some pixels."""
    return torch.cat([torch.tanh(3 * x_t.roll(1, -1)) + 0.3, torch.sin(x_t)], dim=1)


def sample(sampler: str, hooks: str, known: KnownRegion, part: slice, seen: list[Tensor] | None = None) -> Tensor:
    """Sample images `part`; every x0 that the sampler goes on with is put in `seen`."""
    process = noise_process(diffusion_steps=100, timestep_respacing=str(STEPS), prediction="v")
    after = [] if seen is None else [lambda x0, x_t, t: seen.append(x0) or x0]
    generators = [torch.Generator().manual_seed(seed) for seed in range(N)[part]]
    denoiser = Denoiser(network, process, [*HOOKS[hooks](), known[part].keep, *after])
    keywords = {"eta": 0.5} if sampler == "ddim" else {}
    noise = draw_noise(generators, SHAPE)
    return SAMPLERS[sampler](denoiser, process, noise, generators=generators, **keywords)


@pytest.mark.parametrize("hooks", HOOKS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_known_pixels_are_given_ones_at_every_step_and_at_the_end(sampler, hooks):
    known, seen = region(), []
    images = sample(sampler, hooks, known, slice(None), seen)
    assert len(seen) == STEPS
    outside = ~known.hole[:, None].expand(N, *SHAPE)
    for x0 in (*seen, images):
        assert torch.equal(x0[outside], known.image[outside])
        assert not torch.equal(x0, known.image)
    assert torch.equal(images[2], known.image[2])  # without a hole


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_image_does_not_depend_on_its_batch(sampler):
    known = region()
    together = sample(sampler, "published order", known, slice(None))
    alone = torch.cat([sample(sampler, "published order", known, slice(i, i + 1)) for i in range(N)])
    assert torch.equal(together, alone)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_region_that_is_a_hole_everywhere_changes_nothing(sampler):
    nothing = KnownRegion.nothing(N, SHAPE)
    assert len(nothing) == N
    other = KnownRegion(torch.full((N, *SHAPE), 0.5), nothing.hole)
    assert torch.equal(sample(sampler, "clipped", nothing, slice(None)), sample(sampler, "clipped", other, slice(None)))
    assert torch.equal(nothing.channels()[:, -1], torch.ones(N, *SHAPE[1:]))
    assert torch.equal(other.channels(), nothing.channels())


def test_what_lies_in_the_hole_is_not_seen():
    known = region()
    changed = KnownRegion(torch.where(known.hole[:, None], 0.123, known.image), known.hole)
    assert torch.equal(known.channels(), changed.channels())
    first, second = (sample("ddim", "published order", each, slice(None)) for each in (known, changed))
    assert torch.equal(first, second)
