"""Classifier-free guidance at the price of one encoder: the network as samplers see it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.diffusion.gaussian import GaussianDiffusion
from guided_diffusion.runtime.errors import ConfigError

# The maps [N] that the network is called with at t [N], of the maps that the batch has.
ConditionAt = Callable[[SemanticMap, Tensor], SemanticMap]


class Modulations(Protocol):
    """What the condition does to the normalisations of a network, for a batch of images."""

    @staticmethod
    def cat(branches: Sequence[Any]) -> Modulations:
        """Concatenate along the batch."""
        ...

    def expand(self, n: int) -> Modulations:
        """Repeat a batch of one `n` times."""
        ...


class ConditionedModel(Protocol):
    """A network whose encoder never sees the condition, and whose modulation never sees the image or t."""

    def encode(self, x: Tensor, t: Tensor) -> tuple[list[Tensor], Tensor]: ...

    def modulate(self, condition: SemanticMap) -> Modulations: ...

    def decode(self, skips: list[Tensor], emb: Tensor, modulations: Any) -> Tensor: ...


def guided_steps(diffusion: GaussianDiffusion, interval: Sequence[float] | None) -> NDArray[np.bool_]:
    """Return at which steps of the process guidance acts, [T] (Kynkäänniemi et al. 2024).

    interval: (low, high] in noise level sigma = sqrt((1 - abar) / abar), the standard deviation of the noise where
        the image has factor 1; None for everywhere.

    Raises ConfigError where it is no interval or has none of the process's steps.
    """
    if interval is None:
        return np.ones(diffusion.num_timesteps, dtype=bool)
    if len(interval) != 2 or not 0 <= interval[0] < interval[1]:
        raise ConfigError(f"guidance_interval: must be [low, high] with 0 <= low < high, found {list(interval)}")
    sigma = np.sqrt((1 - diffusion.alphas_cumprod) / diffusion.alphas_cumprod)
    inside = (interval[0] < sigma) & (sigma <= interval[1])
    if not inside.any():
        raise ConfigError(
            f"guidance_interval is {list(interval)}, which has none of the {len(sigma)} noise levels sampled at, "
            f"{sigma[0]:.3g} to {sigma[-1]:.3g}: widen it, or set s to 1 for no guidance"
        )
    return inside


class GuidedDenoiser:
    """`denoise(x_t, t) -> model_output` of a network with its condition (Ho & Salimans 2022, eq. 6).

    The mean channels are null + scale * (cond - null); the variance channels are the conditional branch's. The formula
    is written for eps and holds as it stands for x0 and v: at a given x_t they are affine in each other, and the
    weights of the two branches sum to 1.

    What the condition gives is computed once, here, and what the null condition gives once for all denoisers that come
    from one another `with_condition`. With `condition_at` the condition of every call is another one, and only what
    the null condition gives is kept. Both branches share one encode, which is exact as the encoder does not see the
    condition, and their decodes run as one batch of 2N.

    model, condition: on one device; `condition` has the N maps of the batch that is to be denoised.
    scale: 1 is the condition alone and 0 the null condition alone, each without a second branch.
    interval: noise levels (low, high] outside of which scale is 1 (see `guided_steps`); None: guided everywhere.
    autocast: the type the network runs in (torch.bfloat16, torch.float16), None for that of its weights.
    condition_at: makes the maps of each call from `condition`, for example by label diffusion (`LabelDiffusion`); None
        for maps that stay. The null branch has null maps in any case.
    """

    def __init__(
        self,
        model: ConditionedModel,
        diffusion: GaussianDiffusion,
        condition: SemanticMap,
        *,
        scale: float = 1.0,
        interval: Sequence[float] | None = None,
        autocast: torch.dtype | None = None,
        condition_at: ConditionAt | None = None,
    ):
        self.model = model
        self.diffusion = diffusion
        self.scale = scale
        self.autocast = autocast
        self._guided = None if interval is None else guided_steps(diffusion, interval)
        self._scales = {scale} if interval is None else {scale, 1.0}
        # Null maps are all alike: one is enough.
        self._null = None if self._scales == {1} else self._modulate(condition[:1].null())
        self._take(condition, condition_at)

    def with_condition(self, condition: SemanticMap, condition_at: ConditionAt | None = None) -> GuidedDenoiser:
        """Return a denoiser for the next batch: other maps of the same size, and what changes them at each step."""
        assert (condition_at is None) == (self._condition_at is None), "condition_at belongs to a batch: give its own"
        other = copy.copy(self)
        other._take(condition, condition_at)
        return other

    def _take(self, condition: SemanticMap, condition_at: ConditionAt | None) -> None:
        self._condition, self._condition_at = condition, condition_at
        self._nulls = None if self._null is None else self._null.expand(len(condition))
        self._modulations: dict[float, Modulations] = {}
        if condition_at is None:
            cond = None if self._scales == {0} else self._modulate(condition)
            self._modulations = {scale: self._branches(scale, cond) for scale in self._scales}

    @torch.no_grad()
    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the model output [N, C or 2C, H, W] float32 for `x_t` [N, C, H, W] at the indices `t` [N]."""
        scale = self._scale_at(t)
        modulations = self._modulations_at(scale, t)
        with self._precision(x_t.device):
            skips, emb = self.model.encode(x_t, self.diffusion.model_t(t))
            if scale in (0, 1):
                return self.model.decode(skips, emb, modulations).float()
            skips, emb = [torch.cat([skip, skip]) for skip in skips], torch.cat([emb, emb])
            output = self.model.decode(skips, emb, modulations)
        cond, null = output.float().chunk(2)
        channels = x_t.shape[1]
        mean = null[:, :channels] + scale * (cond[:, :channels] - null[:, :channels])
        return torch.cat([mean, cond[:, channels:]], dim=1)

    def _scale_at(self, t: Tensor) -> float:
        """Return the scale of the step at `t`; a batch has to be on one side of the interval's ends."""
        if self._guided is None:
            return self.scale
        # Reading `t` waits for the device, so that it is done only where there is something to decide.
        sides = {bool(self._guided[index]) for index in t.tolist()}
        assert len(sides) == 1, "images inside and outside of the guidance interval in one batch"
        return self.scale if sides.pop() else 1.0

    def _modulations_at(self, scale: float, t: Tensor) -> Modulations:
        if self._condition_at is None:
            return self._modulations[scale]
        return self._branches(scale, None if scale == 0 else self._modulate(self._condition_at(self._condition, t)))

    def _branches(self, scale: float, cond: Modulations | None) -> Modulations:
        """Return the modulations that `scale` needs: of N images, or of 2N (condition, then null)."""
        if scale == 1:
            return cond
        if scale == 0:
            return self._nulls
        return type(self._nulls).cat([cond, self._nulls])

    def _modulate(self, condition: SemanticMap) -> Modulations:
        with torch.no_grad(), self._precision(condition.label.device):
            return self.model.modulate(condition)

    def _precision(self, device: torch.device) -> AbstractContextManager:
        return nullcontext() if self.autocast is None else torch.autocast(device.type, dtype=self.autocast)
