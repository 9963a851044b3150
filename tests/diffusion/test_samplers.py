"""Samplers with the best denoiser of data ~ N(mu, s^2): what they have in common, and how they are related."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import pytest
import torch
from flat_options import noise_process
from torch import Tensor

from guided_diffusion.diffusion.denoiser import Denoiser, X0Hook
from guided_diffusion.diffusion.gaussian import GaussianDiffusion
from guided_diffusion.diffusion.options import SAMPLER_DEFAULTS, SamplerOptions
from guided_diffusion.diffusion.samplers import SAMPLERS, draw_noise
from guided_diffusion.diffusion.x0_hooks import clip
from guided_diffusion.runtime.seeding import Stream, derive_seed
from scripts.measure.gaussian_answers import exact_network

MU, STD = 0.3, 0.25
PREDICTIONS = ["eps", "x0", "v"]
VARIANCES = {
    "learned": {"learn_sigma": True},
    "fixed_large": {"learn_sigma": False},
    "fixed_small": {"learn_sigma": False, "sigma_small": True},
}


def generators(indices: list[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(derive_seed(Stream.SAMPLE, 1, index + 1)) for index in indices]


def sample(
    name: str,
    diffusion: GaussianDiffusion,
    indices: list[int],
    shape: tuple[int, ...],
    hooks: Sequence[X0Hook] = (clip,),
    **options,
) -> Tensor:
    own = generators(indices)
    denoise = Denoiser(exact_network(diffusion, MU, STD), diffusion, hooks)
    return SAMPLERS[name](denoise, diffusion, draw_noise(own, shape), generators=own, **options)


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_exact_denoiser_gives_the_data_distribution(name: str, variance: str, prediction: str) -> None:
    diffusion = noise_process(
        diffusion_steps=400, noise_schedule="cosine", prediction=prediction, **VARIANCES[variance]
    )
    x = sample(name, diffusion, [0, 1, 2, 3], (3, 40, 50), hooks=())
    assert x.shape == (4, 3, 40, 50)
    assert x.dtype == torch.float32
    # 24,000 independent pixels: 4 standard errors are 0.0065 of the mean and 2 % of the standard deviation.
    assert x.mean().item() == pytest.approx(MU, abs=0.0065)
    assert x.std().item() == pytest.approx(STD, rel=0.03)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_exact_variance_is_right_at_few_steps(prediction: str) -> None:
    """For Gaussian data the reverse steps are Gaussian: with their exact variance 10 steps do as well as 1000."""
    diffusion = noise_process(timestep_respacing="10", noise_schedule="cosine", prediction=prediction)
    x = sample("ddpm", diffusion, [0, 1, 2, 3], (1, 80, 75), hooks=())
    # The step to x0 adds no noise, so what the first step leaves is missing.
    first = STD**2 * (1 - diffusion.alphas_cumprod[0]) / (STD**2 * diffusion.alphas_cumprod[0] + diffusion.betas[0])
    assert x.mean().item() == pytest.approx(MU, abs=0.0065)
    assert x.var().item() == pytest.approx(STD**2 - first, rel=0.05)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("variance", VARIANCES)
def test_image_is_the_same_alone_and_in_a_batch(name: str, variance: str) -> None:
    diffusion = noise_process(diffusion_steps=30, **VARIANCES[variance])
    options = {"eta": 0.7} if name == "ddim" else {}
    together = sample(name, diffusion, [4, 0, 7], (1, 5, 7), **options)
    for row, index in enumerate([4, 0, 7]):
        alone = sample(name, diffusion, [index], (1, 5, 7), **options)
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-6)
    assert not torch.allclose(together[0], together[1], atol=0.1)


@pytest.mark.parametrize("name", ["ddim", "dpm++2m"])
def test_deterministic_samplers_draw_nothing(name: str) -> None:
    diffusion = noise_process(diffusion_steps=30, timestep_respacing="ddim10")
    noise = draw_noise(generators([0, 1]), (3, 4, 4))
    own = generators([2, 3])
    before = [g.get_state() for g in own]
    denoise = Denoiser(exact_network(diffusion, MU, STD), diffusion, [clip])
    first = SAMPLERS[name](denoise, diffusion, noise, generators=own)
    assert all(torch.equal(g.get_state(), state) for g, state in zip(own, before, strict=True))
    assert torch.equal(first, SAMPLERS[name](denoise, diffusion, noise, generators=generators([8, 9])))


@pytest.mark.parametrize(("first_order", "second_order"), [("ddim", "dpm++2m"), ("ddpm", "dpm++2m-sde")])
def test_before_there_is_a_step_to_look_back_to_the_solvers_are_the_old_ones(
    first_order: str, second_order: str
) -> None:
    """The first-order DPM-Solver++ is DDIM, and that of the SDE ancestral sampling with the posterior's variance."""
    for steps, differ in ((2, False), (3, True)):
        diffusion = noise_process(diffusion_steps=100, steps=steps, learn_sigma=False, sigma_small=True)
        old, new = (sample(name, diffusion, [0, 1], (3, 8, 8)) for name in (first_order, second_order))
        assert torch.allclose(new, old, rtol=0, atol=1e-5) != differ


@pytest.mark.parametrize("name", ["dpm++2m", "dpm++2m-sde"])
def test_the_solvers_have_no_use_for_the_variance(name: str) -> None:
    learned, *fixed = (
        sample(name, noise_process(diffusion_steps=60, steps=12, **options), [0, 1], (3, 4, 4))
        for options in VARIANCES.values()
    )
    assert all(torch.equal(learned, other) for other in fixed)


def test_ddim_with_eta_1_is_ddpm_with_the_small_variance() -> None:
    diffusion = noise_process(diffusion_steps=100, learn_sigma=False, sigma_small=True)
    ddpm = sample("ddpm", diffusion, [0, 1], (3, 8, 8))
    ddim = sample("ddim", diffusion, [0, 1], (3, 8, 8), eta=1.0)
    torch.testing.assert_close(ddim, ddpm, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", SAMPLERS)
def test_callback_and_clipping(name: str) -> None:
    diffusion = noise_process(diffusion_steps=50, timestep_respacing="7")
    calls: list[tuple[int, int]] = []
    last: list[Tensor] = []

    def callback(done: int, total: int, x: Tensor) -> None:
        calls.append((done, total))
        last[:] = [x]

    x = sample(name, diffusion, [0], (1, 4, 6), hooks=[lambda x0, x_t, t: 10 * x0, clip], callback=callback)
    assert calls == [(done, 7) for done in range(1, 8)]
    assert torch.equal(last[0], x)
    assert x.abs().max() <= 1 + 1e-6
    assert not x.requires_grad


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_network_is_asked_from_noisy_to_clean(name: str) -> None:
    diffusion = noise_process(diffusion_steps=50, timestep_respacing="5")
    exact, asked = exact_network(diffusion, MU, STD), []

    def network(x_t: Tensor, t: Tensor) -> Tensor:
        asked.append(t.tolist())
        return exact(x_t, t)

    own = generators([0, 1])
    SAMPLERS[name](Denoiser(network, diffusion), diffusion, draw_noise(own, (1, 2, 2)), generators=own)
    assert asked == [[index] * 2 for index in (4, 3, 2, 1, 0)]


@pytest.mark.parametrize("eta", [-0.1, 1.5, float("nan")])
def test_eta_out_of_range(eta: float) -> None:
    diffusion = noise_process(diffusion_steps=30)
    with pytest.raises(AssertionError):
        sample("ddim", diffusion, [0], (1, 2, 2), eta=eta)


def test_noise_of_an_image_is_its_generators_alone() -> None:
    both = draw_noise(generators([0, 1]), (3, 4, 5))
    assert both.shape == (2, 3, 4, 5)
    assert torch.equal(both[1:], draw_noise(generators([1]), (3, 4, 5)))


def test_samplers_and_their_options_agree() -> None:
    assert set(SAMPLERS) == set(get_args(SamplerOptions.model_fields["sampler"].annotation)) == set(SAMPLER_DEFAULTS)
