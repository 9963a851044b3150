"""Samplers: from noise to images, as functions with one signature.

They take `denoise(x, t) -> x0`, the process, the starting noise [N, C, H, W], and one generator for each image, so
that an image does not depend on its batch. They return x0 [N, C, H, W] float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from guided_diffusion.diffusion.denoiser import Denoiser
from guided_diffusion.diffusion.gaussian import GaussianDiffusion

Callback = Callable[[int, int, Tensor], None]
"""(steps done, number of steps, x after the step): for progress bars and intermediate images; may raise to stop."""


class Sampler(Protocol):
    """The signature of every function in `SAMPLERS`; some take more keywords."""

    def __call__(
        self,
        denoise: Denoiser,
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
    denoise: Denoiser,
    process: GaussianDiffusion,
    noise: Tensor,
    *,
    generators: Sequence[torch.Generator],
    callback: Callback | None = None,
) -> Tensor:
    """Ancestral sampling: Ho et al. 2020, algorithm 2, with the mean of eq. 7 at the predicted x0.

    The variance is fixed or learned, as the process has it. The last step adds no noise.
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
    denoise: Denoiser,
    process: GaussianDiffusion,
    noise: Tensor,
    *,
    generators: Sequence[torch.Generator],
    callback: Callback | None = None,
    eta: float = 0.0,
) -> Tensor:
    """DDIM: Song et al. 2021, eq. 12 with the sigma of eq. 16.

    eta: in [0, 1]; 0 is deterministic and draws nothing, 1 has the noise of `fixed_small` ancestral sampling.
    """
    assert 0 <= eta <= 1
    x = noise.float()
    for index, t in _steps(process, x, generators):
        x, sigma = ddim_mean(process, denoise(x, t), x, index, eta)
        if sigma > 0:
            x = x + sigma * draw_noise(generators, x.shape[1:], x.device)
        _report(callback, process, index, x)
    return x


def ddim_mean(process: GaussianDiffusion, x0: Tensor, x_t: Tensor, index: int, eta: float) -> tuple[Tensor, float]:
    """Return mean [N, C, H, W] and standard deviation of x_{t-1} at step `index` (Song et al. 2021, eqs. 12 and 16)."""
    # Not the network's own noise: clipping and thresholding have changed x0.
    eps = process.predict_eps(x0, x_t, torch.full((len(x_t),), index))
    abar_prev = float(process.alphas_cumprod_prev[index])
    # Eq. 16 is eta times the standard deviation of the posterior.
    sigma = eta * math.sqrt(process.posterior_variance[index])
    direction = math.sqrt(max(0.0, 1 - abar_prev - sigma**2))
    return math.sqrt(abar_prev) * x0 + direction * eps, sigma


@torch.no_grad()
def sample_dpmpp_2m(
    denoise: Denoiser,
    process: GaussianDiffusion,
    noise: Tensor,
    *,
    generators: Sequence[torch.Generator],
    callback: Callback | None = None,
    sde: bool = False,
) -> Tensor:
    """DPM-Solver++(2M): Lu et al. 2022 (DPM-Solver++), algorithm 2, of second order in lambda = log(alpha / sigma).

    sde: solve the reverse SDE (SDE-DPM-Solver++), which draws noise in every step but the last, not the probability
    flow ODE, which draws none. A learned variance is not used. The last step returns the predicted x0.
    """
    path, x, before = _LogSnrPath(process), noise.float(), None
    for index, t in _steps(process, x, generators):
        x0 = denoise(x, t)
        if index == 0:
            x = x0
        else:
            h, alpha, sigma = path.width(index), path.alpha(index - 1), path.sigma(index - 1)
            # The SDE shrinks x by another exp(-h) and adds new noise instead.
            shrinking = h if sde else 0.0
            x = sigma / path.sigma(index) * math.exp(-shrinking) * x
            x = x + alpha * -math.expm1(-h - shrinking) * path.extrapolate(x0, before, index)
            if sde:
                x = x + sigma * math.sqrt(-math.expm1(-2 * h)) * draw_noise(generators, x.shape[1:], x.device)
        before = x0
        _report(callback, process, index, x)
    return x


class _LogSnrPath:
    """The coefficients of the DPM solvers at the steps of a process, in float64."""

    def __init__(self, process: GaussianDiffusion):
        self._abar = process.alphas_cumprod.tolist()

    def alpha(self, index: int) -> float:
        """Return the coefficient of x0 in x_t."""
        return math.sqrt(self._abar[index])

    def sigma(self, index: int) -> float:
        """Return the standard deviation of the noise in x_t."""
        return math.sqrt(1 - self._abar[index])

    def width(self, index: int) -> float:
        """Return h, the growth of lambda = log(alpha / sigma) in the step from `index` to `index - 1`."""
        here, next_ = (math.log(self.alpha(i) / self.sigma(i)) for i in (index, index - 1))
        return next_ - here

    def extrapolate(self, x0: Tensor, before: Tensor | None, index: int) -> Tensor:
        """Return x0 at the middle (in lambda) of the step from `index`; before: the x0 of `index + 1`, if any."""
        if before is None:
            return x0
        return x0 + self.width(index) / (2 * self.width(index + 1)) * (x0 - before)


def _steps(
    process: GaussianDiffusion, x: Tensor, generators: Sequence[torch.Generator]
) -> Iterator[tuple[int, Tensor]]:
    """Yield (index, index as [N] int64 on the CPU) from the noisiest step to step 0."""
    assert len(generators) == len(x), "one generator an image"
    for index in reversed(range(process.num_timesteps)):
        # On the CPU, guidance can read the indices without waiting for the device.
        yield index, torch.full((len(x),), index, dtype=torch.int64)


def _report(callback: Callback | None, process: GaussianDiffusion, index: int, x: Tensor) -> None:
    if callback is not None:
        callback(process.num_timesteps - index, process.num_timesteps, x)


SAMPLERS: dict[str, Sampler] = {
    "ddpm": sample_ddpm,
    "ddim": sample_ddim,
    "dpm++2m": sample_dpmpp_2m,
    "dpm++2m-sde": partial(sample_dpmpp_2m, sde=True),
}
