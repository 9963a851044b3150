"""Gaussian data, for which the best network and the result of a sampler have closed forms.

For pixels from N(mean, std^2), each on its own, E[x0 | x_t] is linear in x_t; so every sampler is an affine map of the
noise it begins with and the noise it draws, and the distribution of its samples is known as soon as that map is.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from guided_diffusion.diffusion.denoiser import Denoiser, NetworkFunction
from guided_diffusion.diffusion.gaussian import GaussianDiffusion
from guided_diffusion.diffusion.samplers import Sampler, draw_noise


class Moments(NamedTuple):
    """Mean and standard deviation of a pixel."""

    mean: float
    std: float


def exact_network(diffusion: GaussianDiffusion, mean: float, std: float) -> NetworkFunction:
    """Return the best network function for pixels from N(mean, std^2).

    Its mean channels correspond to E[x0 | x_t], in the prediction of the process; its variance channels, where the
    process has learned variance, for the variance of q(x_{t-1} | x_t).
    """
    abar = torch.tensor(diffusion.alphas_cumprod)
    gain = std**2 * abar.sqrt() / (std**2 * abar + 1 - abar)
    left = std**2 * (1 - gain * abar.sqrt())  # Var[x0 | x_t]
    coefficient = torch.tensor(diffusion.tables["posterior_mean_x0"])
    log_variance = (torch.tensor(diffusion.posterior_variance) + coefficient**2 * left).log()
    lowest, highest = (torch.tensor(diffusion.tables[name]) for name in ("posterior_log_variance", "log_betas"))
    # A process of one step has its two bounds in one place.
    fraction = ((log_variance - lowest) / (highest - lowest)).nan_to_num(0.5, 0.5, 0.5)

    def network(x_t: Tensor, t: Tensor) -> Tensor:
        at = t.view(-1, 1, 1, 1)
        x0 = (mean + gain[at] * (x_t - abar[at].sqrt() * mean)).float()
        output = diffusion.target(x0, diffusion.predict_eps(x0, x_t, t), t)
        if diffusion.variance != "learned":
            return output
        return torch.cat([output, (2 * fraction[at] - 1).float().expand_as(output)], dim=1)

    return network


def sample_moments(sampler: Sampler, diffusion: GaussianDiffusion, mean: float, std: float, **keywords: Any) -> Moments:
    """Return the moments of infinitely many samples of `sampler` with the exact network for N(mean, std^2).

    Exact up to float32's rounding, as nothing is clipped, which would make the sampler nonlinear. keywords: further
    ones of the sampler, such as `eta`.
    """
    # One image is sampled whose pixels are a few times as many as its steps. With the noises that it was made from,
    # known from its generator, its pixels are linear equations in the factors of these noises.
    draws = diffusion.num_timesteps + 1  # the beginning, and at most one in each step
    shape = (1, 4, draws)
    generator = torch.Generator().manual_seed(0)
    noises = torch.stack([draw_noise([generator], shape) for _ in range(draws)])
    generator.manual_seed(0)
    denoise = Denoiser(exact_network(diffusion, mean, std), diffusion)
    x = sampler(denoise, diffusion, draw_noise([generator], shape), generators=[generator], **keywords)
    columns = torch.cat([noises.flatten(1), torch.ones(1, 4 * draws)]).double()
    factors = torch.linalg.lstsq(columns.T, x.flatten().double()).solution
    return Moments(float(factors[-1]), float(factors[:-1].norm()))
