"""Samplers: from noise to images, each a function with one signature.

All take `denoise(x, t) -> x0` (`Denoiser`), the process, the starting noise [N, C, H, W], and one generator an image,
so that an image is the same alone and in any batch. They return x0 [N, C, H, W] float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from guided_diffusion.diffusion.denoiser import Denoise
from guided_diffusion.diffusion.gaussian import GaussianDiffusion
from guided_diffusion.runtime.errors import ConfigError

Callback = Callable[[int, int, Tensor], None]
"""(steps done, steps in all, x after that step): for progress bars and pictures of the way; may raise to stop."""


class Sampler(Protocol):
    """What every function of `SAMPLERS` can be called with; some have further keywords."""

    def __call__(
        self,
        denoise: Denoise,
        process: GaussianDiffusion,
        noise: Tensor,
        *,
        generators: Sequence[torch.Generator],
        callback: Callback | None = None,
    ) -> Tensor: ...


def draw_noise(
    generators: Sequence[torch.Generator], shape: Sequence[int], device: torch.device | str = "cpu"
) -> Tensor:
    """Return standard normal noise [N, *shape] float32 on `device`, image i drawn from `generators[i]` alone.

    shape: of one image, (C, H, W). Each generator draws on its own device: CPU generators give the same noise for
    every `device`.
    """
    images = [torch.randn(tuple(shape), generator=g, device=g.device) for g in generators]
    return torch.stack(images).to(device)


@torch.no_grad()
def sample_ddpm(
    denoise: Denoise,
    process: GaussianDiffusion,
    noise: Tensor,
    *,
    generators: Sequence[torch.Generator],
    callback: Callback | None = None,
) -> Tensor:
    """Ancestral sampling: Ho et al. 2020, algorithm 2, with the mean of eq. 7 at the predicted x0.

    The variance is the process's, or what the network has learned. The last step adds no noise.
    """
    x = noise.float()
    for index, t in _steps(process, x, generators):
        x0, log_variance = denoise.with_variance(x, t)
        x, _, _ = process.q_posterior(x0, x, t)
        if index > 0:
            x = x + (0.5 * log_variance).exp() * draw_noise(generators, x.shape[1:], x.device)
        _report(callback, process, index, x)
    return x


@torch.no_grad()
def sample_ddim(
    denoise: Denoise,
    process: GaussianDiffusion,
    noise: Tensor,
    *,
    generators: Sequence[torch.Generator],
    callback: Callback | None = None,
    eta: float = 0.0,
) -> Tensor:
    """DDIM: Song et al. 2021, eq. 12 with the sigma of eq. 16.

    eta: 0 is deterministic and draws nothing; 1 has the noise of `fixed_small` ancestral sampling. ConfigError outside
    [0, 1].
    """
    if not 0 <= eta <= 1:
        raise ConfigError(f"eta: must be from 0 (deterministic) to 1 (as much noise as ddpm), found {eta}")
    x = noise.float()
    for index, t in _steps(process, x, generators):
        x, sigma = ddim_mean(process, denoise(x, t), x, index, eta)
        if sigma > 0:
            x = x + sigma * draw_noise(generators, x.shape[1:], x.device)
        _report(callback, process, index, x)
    return x


def ddim_mean(process: GaussianDiffusion, x0: Tensor, x_t: Tensor, index: int, eta: float) -> tuple[Tensor, float]:
    """Return mean [N, C, H, W] and standard deviation of x_{t-1} at step `index` (Song et al. 2021, eqs. 12 and 16).

    The noise is derived from `x0`, so that clipping or thresholding it counts.
    """
    eps = process.predict_eps(x0, x_t, torch.full((len(x_t),), index))
    abar_prev = float(process.alphas_cumprod_prev[index])
    # Eq. 16 is eta times the posterior's standard deviation; Python floats are float64.
    sigma = eta * math.sqrt(process.posterior_variance[index])
    direction = math.sqrt(max(0.0, 1 - abar_prev - sigma**2))
    return math.sqrt(abar_prev) * x0 + direction * eps, sigma


@torch.no_grad()
def sample_dpmpp_2m(
    denoise: Denoise,
    process: GaussianDiffusion,
    noise: Tensor,
    *,
    generators: Sequence[torch.Generator],
    callback: Callback | None = None,
) -> Tensor:
    """DPM-Solver++(2M): Lu et al. 2022 (DPM-Solver++), algorithm 2; deterministic, of second order.

    Solves the probability flow ODE by an exponential integrator in lambda = log(alpha / sigma). The last step goes to
    the predicted x0. Draws nothing from `generators`.
    """
    path, x, before = _LogSnrPath(process), noise.float(), None
    for index, t in _steps(process, x, generators):
        x0 = denoise(x, t)
        if index > 0:
            middle = path.extrapolate(x0, before, index)
            kept = path.sigma(index - 1) / path.sigma(index)
            x = kept * x - path.alpha(index - 1) * math.expm1(-path.width(index)) * middle
        else:
            x = x0
        before = x0
        _report(callback, process, index, x)
    return x


@torch.no_grad()
def sample_dpmpp_2m_sde(
    denoise: Denoise,
    process: GaussianDiffusion,
    noise: Tensor,
    *,
    generators: Sequence[torch.Generator],
    callback: Callback | None = None,
) -> Tensor:
    """SDE-DPM-Solver++(2M): Lu et al. 2022 (DPM-Solver++); as `sample_dpmpp_2m`, for the reverse SDE.

    Each step forgets as much of x as the reverse SDE does, and draws the noise that has to replace it; a variance that
    the network may have learned plays no part. The last step adds none.
    """
    path, x, before = _LogSnrPath(process), noise.float(), None
    for index, t in _steps(process, x, generators):
        x0 = denoise(x, t)
        if index > 0:
            h = path.width(index)
            renewed = -math.expm1(-2 * h)
            kept = path.sigma(index - 1) / path.sigma(index) * math.exp(-h)
            x = kept * x + path.alpha(index - 1) * renewed * path.extrapolate(x0, before, index)
            x = x + path.sigma(index - 1) * math.sqrt(renewed) * draw_noise(generators, x.shape[1:], x.device)
        else:
            x = x0
        before = x0
        _report(callback, process, index, x)
    return x


class _LogSnrPath:
    """The steps of a process as the DPM solvers see them; everything Python floats, which are float64."""

    def __init__(self, process: GaussianDiffusion):
        self._abar = process.alphas_cumprod.tolist()

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


def _steps(
    process: GaussianDiffusion, x: Tensor, generators: Sequence[torch.Generator]
) -> Iterator[tuple[int, Tensor]]:
    """Yield (index, index as [N] int64) from the noisiest step to step 0.

    The indices stay on the CPU, where guidance can read them without waiting for the device.
    """
    assert len(generators) == len(x), "one generator an image"
    for index in reversed(range(process.num_timesteps)):
        yield index, torch.full((len(x),), index, dtype=torch.int64)


def _report(callback: Callback | None, process: GaussianDiffusion, index: int, x: Tensor) -> None:
    if callback is not None:
        callback(process.num_timesteps - index, process.num_timesteps, x)


SAMPLERS: dict[str, Sampler] = {
    "ddpm": sample_ddpm,
    "ddim": sample_ddim,
    "dpm++2m": sample_dpmpp_2m,
    "dpm++2m-sde": sample_dpmpp_2m_sde,
}
