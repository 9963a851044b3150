"""The Gaussian noise process: the algebra of q and p, and the training losses, as functions of a network's output.

Images are [N, C, H, W] in [-1, 1]. `t` is [N] int64, the index into this process (`0..num_timesteps - 1`, 0 is the
least noise), on the device of the images or on the CPU. abar_t is the product of (1 - beta) up to t, and
x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) noise (Ho et al. 2020, eq. 4); SNR_t = abar_t / (1 - abar_t).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from guided_diffusion.diffusion.options import DiffusionOptions
from guided_diffusion.diffusion.schedule import named_betas, respace_betas, space_timesteps
from guided_diffusion.diffusion.time_grid import pick_timesteps

Prediction = Literal["eps", "x0", "v"]
Variance = Literal["learned", "fixed_large", "fixed_small"]
Loss = Literal["mse", "rescaled_mse", "kl"]


@dataclass(frozen=True, eq=False)
class GaussianDiffusion:
    """A noise process and what a network predicts about it. Immutable."""

    # [T] float64 in (0, 1), of the visited steps.
    betas: NDArray[np.float64]
    # [T] timestep of the original process for each step, and the length of that process.
    timestep_map: tuple[int, ...]
    original_steps: int
    # The network predicts the noise "eps", the image "x0", or
    # "v" = sqrt(abar) noise - sqrt(1 - abar) x0 (Salimans & Ho 2022, appendix D).
    prediction: Prediction = "v"
    # "learned": C more channels interpolate log-variances (Nichol & Dhariwal 2021, eq. 15);
    # "fixed_large": beta; "fixed_small": that of the posterior (Ho et al. 2020, section 3.2).
    variance: Variance = "learned"
    # "mse", with learned variance plus the variational bound (Nichol & Dhariwal 2021, eq. 16);
    # "rescaled_mse": the bound times T / 1000; "kl": only the bound, times T.
    loss: Loss = "mse"
    # The network gets timesteps scaled to 0..1000.
    rescale_timesteps: bool = False
    # The gamma of Min-SNR loss weighting (Hang et al. 2023); None: weight 1.
    min_snr_gamma: float | None = None
    tables: _Tables = field(init=False, repr=False)

    def __post_init__(self) -> None:
        betas = np.array(self.betas, dtype=np.float64)
        assert betas.shape == (len(self.timestep_map),)
        assert ((betas > 0) & (betas < 1)).all(), "betas must lie in (0, 1)"
        assert self.prediction in get_args(Prediction)
        assert self.variance in get_args(Variance)
        assert self.loss in get_args(Loss)
        arrays = _process_tables(betas)
        arrays["timestep_map"] = np.array(self.timestep_map, dtype=np.int64)
        arrays["loss_weight"] = _loss_weight(arrays["alphas_cumprod"], self.prediction, self.min_snr_gamma)
        object.__setattr__(self, "betas", betas)
        object.__setattr__(self, "tables", _Tables(arrays))
        betas.setflags(write=False)

    @property
    def num_timesteps(self) -> int:
        """Number of visited steps T."""
        return len(self.betas)

    @property
    def alphas_cumprod(self) -> NDArray[np.float64]:
        """abar, [T] float64, read-only."""
        return self.tables["alphas_cumprod"]

    @property
    def alphas_cumprod_prev(self) -> NDArray[np.float64]:
        """abar of the step before, [T] float64, read-only; 1 at step 0."""
        return self.tables["alphas_cumprod_prev"]

    @property
    def posterior_variance(self) -> NDArray[np.float64]:
        """Variance of q(x_{t-1} | x_t, x0), [T] float64, read-only; 0 at step 0."""
        return self.tables["posterior_variance"]

    @property
    def noise_levels(self) -> NDArray[np.float64]:
        """sigma = sqrt((1 - abar) / abar), the noise relative to the image, [T] float64."""
        return np.sqrt((1 - self.alphas_cumprod) / self.alphas_cumprod)

    def begun_at(self, level: float, whole: GaussianDiffusion) -> GaussianDiffusion:
        """Return the process of the steps up to a noise level, for sampling from images with so much noise.

        whole: the process at all timesteps, where one has the level, or just less. It takes the place of the visited
        step that is nearest by its noise. Raises AssertionError for a level below all.
        """
        first = int((whole.noise_levels <= level).sum()) - 1
        assert first >= 0, "the level is below that of all timesteps"
        distances = np.abs(np.log(self.noise_levels) - np.log(whole.noise_levels[first]))
        timesteps = [*(step for step in self.timestep_map[: int(distances.argmin())] if step < first), first]
        return replace(self, betas=respace_betas(whole.betas, timesteps), timestep_map=tuple(timesteps))

    def model_t(self, t: Tensor) -> Tensor:
        """Return the network's timesteps [N] for the indices `t`: int64, or float32 with `rescale_timesteps`."""
        original = self.tables.gather("timestep_map", t, 1)
        return original.float() * (1000.0 / self.original_steps) if self.rescale_timesteps else original

    def q_sample(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Return x_t [N, C, H, W] from `x0` and `noise` of the same shape (Ho et al. 2020, eq. 4)."""
        return self._at("sqrt_abar", t, x0) * x0 + self._at("sqrt_one_minus_abar", t, x0) * noise

    def q_posterior(self, x0: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return mean [N, C, H, W], variance and log-variance [N, 1, 1, 1] of q(x_{t-1} | x_t, x0).

        Ho et al. 2020, eqs. 6 and 7. The variance is 0 at t = 0; its logarithm there is that of t = 1.
        """
        mean = self._at("posterior_mean_x0", t, x_t) * x0 + self._at("posterior_mean_xt", t, x_t) * x_t
        return mean, self._at("posterior_variance", t, x_t), self._at("posterior_log_variance", t, x_t)

    def split(self, model_output: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return mean and variance channels, [N, C, H, W] float32 each; the latter None for a fixed variance."""
        output = model_output.float()
        if self.variance != "learned":
            return output, None
        mean, variance = output.chunk(2, dim=1)
        assert mean.shape == variance.shape, "learned variance needs twice the image channels"
        return mean, variance

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return what the mean channels should be, [N, C, H, W], for `x0` with `noise` at `t`."""
        if self.prediction == "eps":
            return noise
        if self.prediction == "x0":
            return x0
        return self._at("sqrt_abar", t, x0) * noise - self._at("sqrt_one_minus_abar", t, x0) * x0

    def predict_x0(self, model_output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return x0 [N, C, H, W], not clipped, from the mean channels of `model_output` [N, C or 2C, H, W]."""
        output, _ = self.split(model_output)
        assert output.shape == x_t.shape
        if self.prediction == "x0":
            return output
        signal, sigma = self._at("sqrt_abar", t, x_t), self._at("sqrt_one_minus_abar", t, x_t)
        if self.prediction == "eps":
            return (x_t - sigma * output) / signal
        return signal * x_t - sigma * output

    def predict_eps(self, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the noise [N, C, H, W] in `x_t` whose clean image is `x0`."""
        return (x_t - self._at("sqrt_abar", t, x_t) * x0) / self._at("sqrt_one_minus_abar", t, x_t)

    def model_variance(self, model_output: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return variance and log-variance of p(x_{t-1} | x_t): [N, C, H, W] if learned, else [N, 1, 1, 1]."""
        _, values = self.split(model_output)
        if values is None:
            tables = (f"{self.variance}_variance", f"{self.variance}_log_variance")
            return self._at(tables[0], t, model_output), self._at(tables[1], t, model_output)
        # The channels interpolate between two log-variances: -1 is that of the posterior, 1 that of beta.
        lowest, highest = self._at("posterior_log_variance", t, values), self._at("log_betas", t, values)
        fraction = (values + 1) / 2
        log_variance = fraction * highest + (1 - fraction) * lowest
        return log_variance.exp(), log_variance

    def training_losses(
        self,
        model_output: Tensor,
        x0: Tensor,
        x_t: Tensor,
        t: Tensor,
        noise: Tensor,
        pixel_weight: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the losses of each image, [N] float32, means over channels and pixels; all arguments on one device.

        "loss" is minimized; "mse" is the squared error of the mean channels; "vb", if used, is the term of the
        variational bound in bits. x_t must be q_sample(x0, t, noise). pixel_weight: [N, 1, H, W], see `pixel_weights`,
        or [1, C, 1, 1], see `PairCode.loss_weight`.
        """
        mean, variance = self.split(model_output)
        losses = {"mse": _per_image((self.target(x0, noise, t) - mean) ** 2, pixel_weight)}
        if self.loss == "kl":
            losses["vb"] = self._variational_bound(model_output, x0, x_t, t, pixel_weight)
            losses["loss"] = self.num_timesteps * losses["vb"]
            return losses
        losses["loss"] = self.tables.gather("loss_weight", t, 1) * losses["mse"]
        if variance is not None:
            # The bound trains only the variance, the squared error only the mean (Nichol & Dhariwal 2021, 3.1).
            frozen = torch.cat([mean.detach(), variance], dim=1)
            losses["vb"] = self._variational_bound(frozen, x0, x_t, t, pixel_weight)
            if self.loss == "rescaled_mse":
                losses["vb"] = losses["vb"] * (self.num_timesteps / 1000)
            losses["loss"] = losses["loss"] + losses["vb"]
        return losses

    def _variational_bound(
        self, model_output: Tensor, x0: Tensor, x_t: Tensor, t: Tensor, pixel_weight: Tensor | None
    ) -> Tensor:
        """Return L_{t-1}, or at t = 0 the decoder's L_0 (Ho et al. 2020, eqs. 5 and 13), [N] in bits per dimension."""
        true_mean, _, true_log_variance = self.q_posterior(x0, x_t, t)
        mean, _, _ = self.q_posterior(self.predict_x0(model_output, x_t, t), x_t, t)
        log_variance = self.model_variance(model_output, t)[1].expand_as(mean)
        kl = _per_image(normal_kl(true_mean, true_log_variance, mean, log_variance), pixel_weight)
        decoder = _per_image(-discretized_log_likelihood(x0, mean, 0.5 * log_variance), pixel_weight)
        return torch.where(t == 0, decoder, kl) / math.log(2)

    def _at(self, table: str, t: Tensor, like: Tensor) -> Tensor:
        # Only CUDA guarantees that a background copy is read before the indices are freed.
        return self.tables.gather(table, t.to(like.device, non_blocking=like.is_cuda), like.ndim)


def build_diffusion(
    options: DiffusionOptions,
    timestep_respacing: str | int = "",
    *,
    steps: int | None = None,
    time_grid: str = "uniform",
    sigma_small: bool = False,
) -> GaussianDiffusion:
    """Build the noise process of resolved options.

    timestep_respacing: the steps to visit, see `space_timesteps`; "" for all. steps, time_grid: use `pick_timesteps`
    instead. sigma_small: a fixed variance is "fixed_small". Raises ConfigError where the process has no such steps.
    """
    betas = named_betas(options.noise_schedule, options.diffusion_steps)
    if steps is None:
        timesteps = space_timesteps(options.diffusion_steps, timestep_respacing)
    else:
        assert timestep_respacing == "", "give steps or timestep_respacing"
        timesteps = pick_timesteps(betas, time_grid, steps)
    fixed: Variance = "fixed_small" if sigma_small else "fixed_large"
    mse: Loss = "rescaled_mse" if options.rescale_learned_sigmas else "mse"
    return GaussianDiffusion(
        betas=respace_betas(betas, timesteps),
        timestep_map=tuple(timesteps),
        original_steps=options.diffusion_steps,
        prediction=options.prediction,
        variance="learned" if options.learn_sigma else fixed,
        loss="kl" if options.use_kl else mse,
        rescale_timesteps=options.rescale_timesteps,
        min_snr_gamma=options.min_snr_gamma,
    )


class _Tables:
    """Constants of each timestep: float64 arrays [T], gathered as float32 tensors on the device that asks."""

    def __init__(self, arrays: Mapping[str, NDArray]):
        self._arrays = dict(arrays)
        self._moved: dict[tuple[str, torch.device], Tensor] = {}
        for array in self._arrays.values():
            array.setflags(write=False)

    def __getitem__(self, name: str) -> NDArray:
        return self._arrays[name]

    def gather(self, name: str, t: Tensor, ndim: int) -> Tensor:
        """Return the entries at `t` [N], shaped [N, 1, …] with `ndim` dimensions; integers stay int64."""
        key = (name, t.device)
        if key not in self._moved:
            array = self._arrays[name]
            dtype = torch.float32 if array.dtype.kind == "f" else torch.int64
            self._moved[key] = torch.tensor(array, dtype=dtype, device=t.device)
        return self._moved[key][t].view(-1, *(1,) * (ndim - 1))


def _process_tables(betas: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    abar = np.cumprod(1 - betas)
    abar_prev = np.append(1.0, abar[:-1])
    posterior = betas * (1 - abar_prev) / (1 - abar)
    # The posterior variance at step 0 is 0, which has no logarithm: use that of step 1, or beta if there is none.
    first = posterior[1:2] if len(betas) > 1 else betas
    posterior_log_variance = np.log(np.append(first, posterior[1:]))
    large = np.append(first, betas[1:])
    return {
        "alphas_cumprod": abar,
        "alphas_cumprod_prev": abar_prev,
        "sqrt_abar": np.sqrt(abar),
        "sqrt_one_minus_abar": np.sqrt(1 - abar),
        "log_betas": np.log(betas),
        "posterior_variance": posterior,
        "posterior_log_variance": posterior_log_variance,
        "posterior_mean_x0": betas * np.sqrt(abar_prev) / (1 - abar),
        "posterior_mean_xt": (1 - abar_prev) * np.sqrt(1 - betas) / (1 - abar),
        "fixed_small_variance": posterior,
        "fixed_small_log_variance": posterior_log_variance,
        "fixed_large_variance": large,
        "fixed_large_log_variance": np.log(large),
    }


def _loss_weight(abar: NDArray[np.float64], prediction: Prediction, gamma: float | None) -> NDArray[np.float64]:
    """Return the weight of the squared error at each timestep, [T]: Min-SNR-gamma (Hang et al. 2023)."""
    if gamma is None:
        return np.ones_like(abar)
    snr = abar / (1 - abar)
    # The squared error of x0 gets the weight min(SNR, gamma). At a given x_t it equals the squared error of eps over
    # SNR, and that of v over SNR + 1 (from x_t = sqrt(abar) x0 + sqrt(1 - abar) eps, and
    # x0 = sqrt(abar) x_t - sqrt(1 - abar) v).
    return np.minimum(snr, gamma) / {"x0": 1.0, "eps": snr, "v": snr + 1}[prediction]


def _per_image(values: Tensor, pixel_weight: Tensor | None = None) -> Tensor:
    return (values if pixel_weight is None else values * pixel_weight).flatten(1).mean(1)


def normal_kl(mean1: Tensor, log_variance1: Tensor, mean2: Tensor, log_variance2: Tensor) -> Tensor:
    """Return KL(N1 || N2) of each element in nats; the arguments broadcast."""
    ratio = log_variance1 - log_variance2
    return 0.5 * (ratio.exp() - ratio - 1 + (mean1 - mean2) ** 2 * (-log_variance2).exp())


def discretized_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Return log p(x) of each element in nats for 8-bit images scaled to [-1, 1] (Ho et al. 2020, eq. 13).

    The Gaussian (`mean`, standard deviation exp(`log_scale`)) is integrated over the bin of the gray level, of width
    2/255; the bins of black and white reach to infinity.
    """
    inverse = (-log_scale).exp()
    upper = _normal_cdf(inverse * (x - mean + 1 / 255))
    lower = _normal_cdf(inverse * (x - mean - 1 / 255))
    inside = torch.where(x < -0.999, upper, torch.where(x > 0.999, 1 - lower, upper - lower))
    return inside.clamp(min=1e-12).log()


def _normal_cdf(x: Tensor) -> Tensor:
    # The tanh approximation (Page 1977) that published models were trained with.
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
