"""Samplers: from noise to images, each a function with one signature.

All take `denoise(x_t, t) -> model_output` ([N, C, H, W], [N] indices -> [N, C or 2C, H, W]), the process, the starting
noise [N, C, H, W], and one generator an image, so that an image is the same alone and in any batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from guided_diffusion.diffusion.gaussian import DenoisedFn, GaussianDiffusion
from guided_diffusion.runtime.errors import ConfigError

Denoise = Callable[[Tensor, Tensor], Tensor]
# (steps done, steps in all, x after that step): for progress bars and pictures of the way.
Callback = Callable[[int, int, Tensor], None]


class Sampler(Protocol):
    """What every function of `SAMPLERS` can be called with; some have further keywords."""

    def __call__(
        self,
        denoise: Denoise,
        diffusion: GaussianDiffusion,
        noise: Tensor,
        *,
        generators: Sequence[torch.Generator],
        callback: Callback | None = None,
        clip_denoised: bool = True,
        denoised_fn: DenoisedFn | None = None,
    ) -> Tensor: ...


def draw_noise(
    generators: Sequence[torch.Generator], shape: Sequence[int], device: torch.device | str = "cpu"
) -> Tensor:
    """Return standard normal noise [N, *shape] float32 on `device`, image i drawn from `generators[i]` alone.

    shape: of one image, (C, H, W). Each generator draws on its own device: CPU generators give the same
    noise for every `device`.
    """
    images = [torch.randn(tuple(shape), generator=g, device=g.device) for g in generators]
    return torch.stack(images).to(device)


@torch.no_grad()
def sample_ddpm(
    denoise: Denoise,
    diffusion: GaussianDiffusion,
    noise: Tensor,
    *,
    generators: Sequence[torch.Generator],
    callback: Callback | None = None,
    clip_denoised: bool = True,
    denoised_fn: DenoisedFn | None = None,
) -> Tensor:
    """Ancestral sampling: Ho et al. 2020, algorithm 2, with the mean of eq. 7 at the predicted x0.

    Returns x0 [N, C, H, W] float32; in [-1, 1] with `clip_denoised`. The last step adds no noise.
    """
    assert len(generators) == len(noise)
    x = noise.float()
    for done, index, t in _steps(diffusion, x):
        p = diffusion.p_mean_variance(denoise(x, t), x, t, clip_denoised=clip_denoised, denoised_fn=denoised_fn)
        x = p.mean
        if index > 0:
            x = x + (0.5 * p.log_variance).exp() * draw_noise(generators, x.shape[1:], x.device)
        if callback is not None:
            callback(done, diffusion.num_timesteps, x)
    return x


@torch.no_grad()
def sample_ddim(
    denoise: Denoise,
    diffusion: GaussianDiffusion,
    noise: Tensor,
    *,
    generators: Sequence[torch.Generator],
    callback: Callback | None = None,
    clip_denoised: bool = True,
    denoised_fn: DenoisedFn | None = None,
    eta: float = 0.0,
) -> Tensor:
    """DDIM: Song et al. 2021, eq. 12 with the sigma of eq. 16.

    eta: 0 is deterministic and draws nothing from `generators`; 1 has the noise of `fixed_small` ancestral sampling.
        ConfigError outside [0, 1].

    Returns x0 [N, C, H, W] float32; in [-1, 1] with `clip_denoised`.
    """
    if not 0 <= eta <= 1:
        raise ConfigError(f"eta: must be from 0 (deterministic) to 1 (as much noise as ddpm), found {eta}")
    assert len(generators) == len(noise)
    x = noise.float()
    for done, index, t in _steps(diffusion, x):
        x0 = diffusion.denoised(denoise(x, t), x, t, clip_denoised=clip_denoised, denoised_fn=denoised_fn)
        x, sigma = ddim_mean(diffusion, x0, x, index, eta)
        if sigma > 0:
            x = x + sigma * draw_noise(generators, x.shape[1:], x.device)
        if callback is not None:
            callback(done, diffusion.num_timesteps, x)
    return x


def ddim_mean(
    diffusion: GaussianDiffusion, pred_xstart: Tensor, x_t: Tensor, index: int, eta: float
) -> tuple[Tensor, float]:
    """Return mean [N, C, H, W] and standard deviation of x_{t-1} at step `index` (Song et al. 2021, eqs. 12 and 16).

    The noise is derived from `pred_xstart`, so that clipping or thresholding it counts.
    """
    t = torch.full((len(x_t),), index, device=x_t.device)
    eps = diffusion.predict_eps(pred_xstart, x_t, t)
    abar_prev = float(diffusion.alphas_cumprod_prev[index])
    # Eq. 16 is eta times the posterior's standard deviation; Python floats are float64.
    sigma = eta * math.sqrt(diffusion.posterior_variance[index])
    direction = math.sqrt(max(0.0, 1 - abar_prev - sigma**2))
    return math.sqrt(abar_prev) * pred_xstart + direction * eps, sigma


@torch.no_grad()
def sample_dpmpp_2m(
    denoise: Denoise,
    diffusion: GaussianDiffusion,
    noise: Tensor,
    *,
    generators: Sequence[torch.Generator],
    callback: Callback | None = None,
    clip_denoised: bool = True,
    denoised_fn: DenoisedFn | None = None,
) -> Tensor:
    """DPM-Solver++(2M): Lu et al. 2022 (DPM-Solver++), algorithm 2; deterministic, of second order.

    Solves the probability flow ODE by an exponential integrator in lambda = log(alpha / sigma), with x0 extrapolated
    from this step and the one before. The first step has none before it, and the last goes to the predicted x0.

    Returns x0 [N, C, H, W] float32; in [-1, 1] with `clip_denoised`. Draws nothing from `generators`.
    """
    assert len(generators) == len(noise)
    path = _LogSnrPath(diffusion)

    def advance(x: Tensor, ahead: Tensor, index: int) -> Tensor:
        kept = path.sigma(index - 1) / path.sigma(index)
        return kept * x - path.alpha(index - 1) * math.expm1(-path.width(index)) * ahead

    return _multistep(
        denoise, advance, path, diffusion, noise, callback, clip_denoised=clip_denoised, denoised_fn=denoised_fn
    )


@torch.no_grad()
def sample_dpmpp_2m_sde(
    denoise: Denoise,
    diffusion: GaussianDiffusion,
    noise: Tensor,
    *,
    generators: Sequence[torch.Generator],
    callback: Callback | None = None,
    clip_denoised: bool = True,
    denoised_fn: DenoisedFn | None = None,
) -> Tensor:
    """SDE-DPM-Solver++(2M): Lu et al. 2022 (DPM-Solver++); as `sample_dpmpp_2m`, for the reverse SDE.

    Each step forgets as much of x as the reverse SDE does, and draws the noise that has to replace it; the variance
    that a network may have learned plays no part. The last step adds none.

    Returns x0 [N, C, H, W] float32; in [-1, 1] with `clip_denoised`.
    """
    assert len(generators) == len(noise)
    path = _LogSnrPath(diffusion)

    def advance(x: Tensor, ahead: Tensor, index: int) -> Tensor:
        h = path.width(index)
        renewed = -math.expm1(-2 * h)
        kept = path.sigma(index - 1) / path.sigma(index) * math.exp(-h)
        x = kept * x + path.alpha(index - 1) * renewed * ahead
        return x + path.sigma(index - 1) * math.sqrt(renewed) * draw_noise(generators, x.shape[1:], x.device)

    return _multistep(
        denoise, advance, path, diffusion, noise, callback, clip_denoised=clip_denoised, denoised_fn=denoised_fn
    )


class _LogSnrPath:
    """The steps of a process as the DPM solvers see them; everything Python floats, which are float64."""

    def __init__(self, diffusion: GaussianDiffusion):
        self._abar = diffusion.alphas_cumprod.tolist()

    def alpha(self, index: int) -> float:
        """Return the factor of x0 in x_t."""
        return math.sqrt(self._abar[index])

    def sigma(self, index: int) -> float:
        """Return the standard deviation of the noise in x_t."""
        return math.sqrt(1 - self._abar[index])

    def width(self, index: int) -> float:
        """Return h, by how much lambda = log(alpha / sigma) grows in the step from `index` to `index - 1`."""
        here, next_ = (math.log(self.alpha(i) / self.sigma(i)) for i in (index, index - 1))
        return next_ - here

    def extrapolate(self, x0: Tensor, before: Tensor | None, index: int) -> Tensor:
        """Return x0 at the middle (in lambda) of the step from `index`; `before`: that of `index + 1`, if any."""
        if before is None:
            return x0
        return x0 + self.width(index) / (2 * self.width(index + 1)) * (x0 - before)


def _multistep(
    denoise: Denoise,
    advance: Callable[[Tensor, Tensor, int], Tensor],
    path: _LogSnrPath,
    diffusion: GaussianDiffusion,
    noise: Tensor,
    callback: Callback | None,
    *,
    clip_denoised: bool,
    denoised_fn: DenoisedFn | None,
) -> Tensor:
    """Return x0 of a solver of second order, which takes x0 from this step and the one before.

    advance: (x_t, x0 at the middle of the step, index) -> x_{t-1}; the last step goes to the predicted x0 instead.
    """
    x, before = noise.float(), None
    for done, index, t in _steps(diffusion, x):
        x0 = diffusion.denoised(denoise(x, t), x, t, clip_denoised=clip_denoised, denoised_fn=denoised_fn)
        x = advance(x, path.extrapolate(x0, before, index), index) if index > 0 else x0
        before = x0
        if callback is not None:
            callback(done, diffusion.num_timesteps, x)
    return x


def _steps(diffusion: GaussianDiffusion, x: Tensor) -> Iterator[tuple[int, int, Tensor]]:
    """Yield (steps done when this one is, index, index as [N] int64) from the noisiest step to step 0."""
    total = diffusion.num_timesteps
    for index in reversed(range(total)):
        yield total - index, index, torch.full((len(x),), index, dtype=torch.int64, device=x.device)


SAMPLERS: dict[str, Sampler] = {
    "ddpm": sample_ddpm,
    "ddim": sample_ddim,
    "dpm++2m": sample_dpmpp_2m,
    "dpm++2m-sde": sample_dpmpp_2m_sde,
}
