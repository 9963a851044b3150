"""Samplers against known answers: Gaussian data, and a mixture of Gaussians with guidance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
import torch
from flat_options import noise_process
from torch import Tensor

from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.diffusion.denoiser import Denoiser
from guided_diffusion.diffusion.gaussian import GaussianDiffusion
from guided_diffusion.diffusion.guidance import GuidedNetwork
from guided_diffusion.diffusion.options import SAMPLER_DEFAULTS, SamplerOptions
from guided_diffusion.diffusion.samplers import SAMPLERS, draw_noise, sample_dpmpp_2m
from guided_diffusion.diffusion.schedule import named_betas
from scripts.measure.gaussian_answers import Moments, exact_network, sample_moments

MEAN = 0.3
STDS = [0.05, 0.2, 0.5, 1.0]
SCHEDULES = ["linear", "cosine"]
FIXED_SMALL = {"learn_sigma": False, "sigma_small": True}


# --- Gaussian data -----------------------------------------------------------------------------------------------


def end_of_the_flow(diffusion: GaussianDiffusion, mean: float, std: float, *, stochastic: bool = False) -> Moments:
    """Return the moments that a sampler of infinitely many steps between the ends of `diffusion` would give.

    stochastic: of the reverse SDE instead of the probability flow ODE, whose samples forget how they began.
    """
    # They are not quite (mean, std): sampling begins with noise alone where a little of the image should be in it, and
    # the last step goes to E[x0 | x_t], which varies less than x0. What remains besides is the sampler's own error.
    first, last = float(diffusion.alphas_cumprod[0]), float(diffusion.alphas_cumprod[-1])
    variances = [std**2 * abar + 1 - abar for abar in (first, last)]
    # Both equations are linear here: the ODE scales what x is off its mean by the ratio of the marginal deviations,
    # and the covariance of the SDE's ends, that of x at both in the true process, is sqrt(first last) std^2 + ....
    carried = (variances[0] / variances[1]) ** 0.5
    if stochastic:
        carried = (std**2 * (first * last) ** 0.5 + (last / first) ** 0.5 * (1 - first)) / variances[1]
    variance = variances[0] + carried**2 * (1 - variances[1])
    gain = std**2 * first**0.5 / variances[0]
    shift = -carried * last**0.5 * mean  # x begins with mean 0, not with that of the image
    return Moments(mean + gain * shift, gain * variance**0.5)


@pytest.mark.parametrize("std", STDS)
@pytest.mark.parametrize("schedule", SCHEDULES)
class TestGaussianData:
    # The order in which the standard deviation comes right; that of the SDE solver is its weak order.
    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("name", "order", "options"),
        [("ddpm", 1, FIXED_SMALL), ("ddim", 1, {}), ("dpm++2m", 2, {}), ("dpm++2m-sde", 2, {})],
    )
    def test_convergence(self, schedule: str, std: float, name: str, order: int, options: dict) -> None:
        """The process is so fine that 160 of its timesteps lie nearly where the grid wants them."""
        errors = []
        for steps in (40, 160):
            diffusion = noise_process(
                diffusion_steps=100_000, noise_schedule=schedule, steps=steps, time_grid="logsnr", **options
            )
            wanted = end_of_the_flow(diffusion, MEAN, std, stochastic=name in ("ddpm", "dpm++2m-sde"))
            found = sample_moments(SAMPLERS[name], diffusion, MEAN, std)
            errors.append(abs(found.std / wanted.std - 1))
            assert found.mean == pytest.approx(wanted.mean, abs=3e-4)
        assert math.log2(errors[0] / errors[1]) / 2 == pytest.approx(order, abs=0.15)

    @pytest.mark.parametrize("steps", [5, 20])
    def test_ancestral_sampling_with_the_exact_variance_is_exact(self, schedule: str, std: float, steps: int) -> None:
        diffusion = noise_process(noise_schedule=schedule, steps=steps, time_grid="logsnr")
        found = sample_moments(SAMPLERS["ddpm"], diffusion, MEAN, std)
        wanted = end_of_the_flow(diffusion, MEAN, std, stochastic=True)
        assert found == pytest.approx(wanted, rel=1e-5)

    def test_the_default_keeps_the_contrast(self, schedule: str, std: float) -> None:
        """The sampler, grid and count that are used where nothing is said: 20 steps of a process of 1000."""
        options = SamplerOptions().resolve()
        steps = SAMPLER_DEFAULTS[options.sampler].steps
        assert steps == 20
        diffusion = noise_process(noise_schedule=schedule, steps=steps, time_grid=options.time_grid)
        found = sample_moments(SAMPLERS[options.sampler], diffusion, MEAN, std)
        assert found.std == pytest.approx(std, rel=0.03)
        assert found.mean == pytest.approx(MEAN, abs=0.003)

    def test_so_does_the_default_that_draws_noise(self, schedule: str, std: float) -> None:
        grid, steps = SAMPLER_DEFAULTS["dpm++2m-sde"]
        diffusion = noise_process(noise_schedule=schedule, steps=steps, time_grid=grid)
        found = sample_moments(SAMPLERS["dpm++2m-sde"], diffusion, MEAN, std)
        assert found.std == pytest.approx(std, rel=0.03)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_default_keeps_what_is_common_to_a_whole_image(schedule: str) -> None:
    """The mean of 64 x 64 pixels that all differ together by 0.3 is, in units of its noise, data of 64 times that."""
    diffusion = noise_process(noise_schedule=schedule, steps=20, time_grid="logsnr")
    assert sample_moments(sample_dpmpp_2m, diffusion, 0.0, 64 * 0.3).std == pytest.approx(64 * 0.3, rel=0.03)


@pytest.mark.parametrize("name", SAMPLERS)
def test_moments_are_those_of_many_samples(name: str) -> None:
    diffusion = noise_process(steps=12, time_grid="logsnr")
    own = [torch.Generator().manual_seed(7)]
    noise = draw_noise(own, (1, 200, 200))
    denoise = Denoiser(exact_network(diffusion, MEAN, 0.2), diffusion)
    x = SAMPLERS[name](denoise, diffusion, noise, generators=own)
    found = sample_moments(SAMPLERS[name], diffusion, MEAN, 0.2)
    # Four standard errors of 40,000 pixels.
    assert found.mean == pytest.approx(x.mean().item(), abs=4 * found.std / 200)
    assert found.std == pytest.approx(x.std().item(), rel=4 / 200 / 2**0.5)


# --- a mixture with guidance -------------------------------------------------------------------------------------

MODES, WIDTHS, PRIOR = (-0.5, 0.4), (0.2, 0.1), (0.7, 0.3)
SCALE = 2.0


@pytest.mark.parametrize("level", [0.1, 0.6, 3.0])
def test_sampling_that_begins_with_images_keeps_their_distribution(level: float) -> None:
    """Images of the data, noised and sampled from there, are of the data again; with little noise the same ones."""
    whole = noise_process(noise_schedule="cosine")
    std, diffusion = 0.5, noise_process(noise_schedule="cosine", steps=40, time_grid="logsnr").begun_at(level, whole)
    assert diffusion.noise_levels[-1] == pytest.approx(level, rel=0.02)
    generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
    start = MEAN + std * draw_noise(generators, (1, 100, 100))
    last = torch.full((2,), diffusion.num_timesteps - 1)
    x = diffusion.q_sample(start, last, draw_noise(generators, (1, 100, 100)))
    images = sample_dpmpp_2m(
        Denoiser(exact_network(diffusion, MEAN, std), diffusion), diffusion, x, generators=generators
    )
    assert float(images.mean()) == pytest.approx(MEAN, abs=0.02)
    assert float(images.std()) == pytest.approx(std, rel=0.03)
    # A pixel of the start, and one of the data that has its noisy pixel: Gaussians whose correlation is known.
    share = std**2 / (std**2 + diffusion.noise_levels[-1] ** 2)
    found = torch.corrcoef(torch.stack([images.flatten(), start.flatten()]))[0, 1]
    assert float(found) == pytest.approx(math.sqrt(share), abs=0.03)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize(("grid", "steps"), [("logsnr", 20), ("logsnr", 8), ("uniform", 10), ("trailing", 10)])
def test_sampling_begins_at_the_noise_level_that_is_asked_for(schedule: str, grid: str, steps: int) -> None:
    whole = noise_process(noise_schedule=schedule)
    visited = noise_process(noise_schedule=schedule, steps=steps, time_grid=grid)
    for level in (0.1, 0.2, 0.3, 0.5, 2.0, 10.0):
        process = visited.begun_at(level, whole)
        assert process.noise_levels[-1] == pytest.approx(level, rel=0.05)
        assert list(process.timestep_map) == sorted(set(process.timestep_map))
        assert set(process.timestep_map[:-1]) <= set(visited.timestep_map)
        of_whole = whole.alphas_cumprod[list(process.timestep_map)]
        assert process.alphas_cumprod == pytest.approx(of_whole)


class Weights(NamedTuple):
    """How likely each class is at each pixel: [N, 2, H, W]."""

    share: Tensor

    @staticmethod
    def cat(branches: Sequence[Weights]) -> Weights:
        return Weights(torch.cat([weights.share for weights in branches]))

    def expand(self, n: int) -> Weights:
        return Weights(self.share.expand(n, -1, -1, -1))


def denoise_mixture(x: np.ndarray, abar: np.ndarray | float, share: Sequence[np.ndarray | float]) -> np.ndarray:
    """Return E[x0 | x_t] of pixels that are of class k with probability share[k], and then N(mode, width^2)."""
    log_density, estimates = [], []
    for mode, width, part in zip(MODES, WIDTHS, share, strict=True):
        variance, off = abar * width**2 + 1 - abar, x - np.sqrt(abar) * mode
        with np.errstate(divide="ignore"):
            log_density.append(np.log(part) - 0.5 * np.log(variance) - 0.5 * off**2 / variance)
        estimates.append(mode + width**2 * np.sqrt(abar) / variance * off)
    density = np.exp(np.array(log_density) - np.max(log_density, axis=0))
    return (density * np.array(estimates)).sum(0) / density.sum(0)


class MixtureNetwork:
    """The best network for this mixture, of the prediction v; knows a pixel's class where its label is not null."""

    def __init__(self, betas: np.ndarray):
        self.abar = np.cumprod(1 - betas)
        self.decoded: list[int] = []

    def encode(self, x: Tensor, t: Tensor) -> tuple[list[Tensor], Tensor]:
        return [x], torch.from_numpy(self.abar)[t]

    def modulate(self, condition: SemanticMap) -> Weights:
        one_hot = condition.one_hot()
        null = (condition.label == condition.num_classes).unsqueeze(1)
        return Weights(torch.where(null, torch.tensor(PRIOR).view(1, 2, 1, 1), one_hot))

    def decode(self, skips: list[Tensor], emb: Tensor, weights: Weights) -> Tensor:
        self.decoded.append(len(emb))
        x, abar = skips[0][:, 0].double().numpy(), emb.view(-1, 1, 1).numpy()
        x0 = denoise_mixture(x, abar, weights.share.double().numpy().swapaxes(0, 1))
        return torch.from_numpy((np.sqrt(abar) * x - x0) / np.sqrt(1 - abar)).unsqueeze(1).float()


def integrate(start: np.ndarray, label: int, diffusion: GaussianDiffusion, interval: tuple[float, float]) -> np.ndarray:
    """Return where the guided probability flow takes `start`, by the classical Runge-Kutta method in float64.

    With y = x / sqrt(abar) and u = log(sigma) it is dy/du = y - E[x0 | x_t]; pieces end where guidance begins or ends.
    """
    own = [float(label == 0), float(label == 1)]
    ends = [0.5 * math.log((1 - abar) / abar) for abar in diffusion.alphas_cumprod[[-1, 0]]]
    inner = [math.log(level) for level in interval if math.exp(ends[1]) < level < math.exp(ends[0])]
    pieces = sorted([*ends, *inner], reverse=True)

    def guided_x0(y: np.ndarray, u: float, scale: float) -> np.ndarray:
        abar = 1 / (1 + math.exp(2 * u))
        cond, null = (denoise_mixture(math.sqrt(abar) * y, abar, share) for share in (own, PRIOR))
        return null + scale * (cond - null)

    def slope(y: np.ndarray, u: float) -> np.ndarray:
        return y - guided_x0(y, u, scale)

    def scale_at(u: float) -> float:
        return SCALE if interval[0] < math.exp(u) <= interval[1] else 1.0

    y = start / math.sqrt(diffusion.alphas_cumprod[-1])
    for begin, end in pairwise(pieces):
        scale, h = scale_at((begin + end) / 2), (end - begin) / 150
        for u in np.linspace(begin, end, 151)[:-1]:
            k1 = slope(y, u)
            k2 = slope(y + h / 2 * k1, u + h / 2)
            k3 = slope(y + h / 2 * k2, u + h / 2)
            y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + slope(y + h * k3, u + h))
    return guided_x0(y, ends[1], scale_at(ends[1]))


class Mixture:
    """One image of the two classes, left and right, sampled by the solver and by integration from the same noise."""

    LABEL = torch.zeros(1, 16, 32, dtype=torch.int64)
    LABEL[..., 16:] = 1

    def __init__(self, steps: int, interval: tuple[float, float] | None = None, scale: float = SCALE):
        self.diffusion = noise_process(
            diffusion_steps=20_000, noise_schedule="cosine", learn_sigma=False, steps=steps, time_grid="logsnr"
        )
        self.network = MixtureNetwork(named_betas("cosine", 20_000))
        self.interval = interval
        self.noise = draw_noise([torch.Generator().manual_seed(3)], (1, 16, 32))
        guided = GuidedNetwork(self.network, self.diffusion, SemanticMap(self.LABEL, 2), scale=scale, interval=interval)
        own, denoise = [torch.Generator()], Denoiser(guided, self.diffusion)
        self.found = sample_dpmpp_2m(denoise, self.diffusion, self.noise, generators=own)

    def of_class(self, label: int) -> np.ndarray:
        return self.found[0, 0][self.LABEL[0] == label].double().numpy()

    def error(self) -> float:
        """Return the largest difference of a pixel from where the flow takes it."""
        errors = []
        for label in (0, 1):
            start = self.noise[0, 0][self.LABEL[0] == label].double().numpy()
            wanted = integrate(start, label, self.diffusion, self.interval or (0.0, math.inf))
            errors.append(np.abs(self.of_class(label) - wanted).max())
        return max(errors)


@pytest.mark.slow
def test_guided_samples_are_where_the_guided_flow_ends() -> None:
    errors = [Mixture(steps).error() for steps in (20, 80, 320)]
    assert errors[0] < 0.1
    assert errors[2] < 2e-4
    assert math.log2(errors[1] / errors[2]) / 2 == pytest.approx(2, abs=0.3)


def test_so_they_are_with_an_interval() -> None:
    mixture = Mixture(400, interval=(0.2, 2.0))
    # The scale jumps, and a step across a jump is off by its own width.
    assert mixture.error() < 2e-3
    assert set(mixture.network.decoded) == {1, 2}
    assert mixture.network.decoded.count(2) < 100


def test_guidance_leads_away_from_the_other_class() -> None:
    plain, guided, only_inside = (Mixture(50, scale=1), Mixture(50), Mixture(50, interval=(0.2, 2.0)))
    for label, direction in ((0, -1), (1, 1)):
        assert plain.of_class(label).mean() == pytest.approx(MODES[label], abs=4 * WIDTHS[label] / 16)
        assert plain.of_class(label).std() == pytest.approx(WIDTHS[label], rel=0.2)
        shift, shift_inside = (direction * (m.of_class(label) - plain.of_class(label)) for m in (guided, only_inside))
        assert (shift > 0).all()
        assert shift.mean() > shift_inside.mean() > 0
