"""Classifier-free guidance at the price of one encoder: the network function of a conditioned network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from guided_diffusion.conditions.base import Condition
from guided_diffusion.diffusion.gaussian import GaussianDiffusion
from guided_diffusion.runtime.errors import ConfigError

ConditionFn = Callable[[Any, Tensor], Condition]
"""(the batch's condition [N], t [N]) -> the condition that the network is called with at t, by label diffusion."""


class Modulations(Protocol):
    """What the condition does to the normalizations of a network, for a batch of images."""

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

    def modulate(self, condition: Condition) -> Modulations: ...

    def decode(self, skips: list[Tensor], emb: Tensor, modulations: Any) -> Tensor: ...


def guided_steps(diffusion: GaussianDiffusion, interval: Sequence[float] | None) -> NDArray[np.bool_]:
    """Return at which steps of the process guidance acts, [T] booleans (Kynkäänniemi et al. 2024).

    interval: (low, high] in noise level sigma = sqrt((1 - abar) / abar), the noise relative to the image; None for
    everywhere. Raises ConfigError where it is no interval or has none of the process's steps.
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


class GuidedNetwork:
    """The network function of a network with its condition: null + scale * (cond - null) (Ho & Salimans 2022, eq. 6).

    Holds for eps, x0 and v alike: at a given x_t they are affine in each other, and the weights of the branches sum to
    1. Scale 1 is the condition alone and 0 the null condition alone, without a second branch.
    """

    def __init__(
        self,
        model: ConditionedModel,
        process: GaussianDiffusion,
        condition: Condition,
        *,
        scale: float = 1.0,
        interval: Sequence[float] | None = None,
        amp_dtype: torch.dtype | None = None,
        condition_fn: ConditionFn | None = None,
    ):
        """Take the condition [N] of a batch, on the model's device.

        interval: noise levels outside of which scale is 1 (see `guided_steps`). amp_dtype: the type the network runs
        in, None for that of its weights. condition_fn: makes the condition of each call; None where it stays.
        """
        self.model = model
        self.process = process
        self.scale = scale
        self.amp_dtype = amp_dtype
        self._guided = None if interval is None else guided_steps(process, interval)
        self._scales = {scale} if interval is None else {scale, 1.0}
        # Null conditions are all alike: one is enough, for all batches.
        self._null = None if self._scales == {1} else self._modulate(condition[:1].null())
        self._set_condition(condition, condition_fn)

    def with_condition(self, condition: Condition, condition_fn: ConditionFn | None = None) -> GuidedNetwork:
        """Return the network function of another batch, of the same size; shares what the null condition gives."""
        assert (condition_fn is None) == (self._condition_fn is None), "condition_fn belongs to a batch: give its own"
        other = copy.copy(self)
        other._set_condition(condition, condition_fn)
        return other

    def _set_condition(self, condition: Condition, condition_fn: ConditionFn | None) -> None:
        self._condition, self._condition_fn = condition, condition_fn
        self._nulls = None if self._null is None else self._null.expand(len(condition))
        self._modulations: dict[float, Modulations] = {}
        if condition_fn is None:
            cond = None if self._scales == {0} else self._modulate(condition)
            self._modulations = {scale: self._branches(scale, cond) for scale in self._scales}

    @torch.no_grad()
    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the model output [N, C or 2C, H, W] float32 for `x_t` [N, C, H, W] at `t` [N].

        Only the mean channels are guided; the variance channels are the conditional branch's.
        """
        scale = self._scale_at(t)
        modulations = self._modulations_at(scale, t)
        model_t = self.process.model_t(t).to(x_t.device, non_blocking=x_t.is_cuda)
        with self._precision(x_t.device):
            skips, emb = self.model.encode(x_t, model_t)
            if scale in (0, 1):
                return self.model.decode(skips, emb, modulations).float()
            # The encoder does not see the condition: one encode serves both branches, and one decode runs both.
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
        # Samplers have `t` on the CPU, so that this does not wait for the device.
        sides = {bool(self._guided[index]) for index in t.tolist()}
        assert len(sides) == 1, "images inside and outside of the guidance interval in one batch"
        return self.scale if sides.pop() else 1.0

    def _modulations_at(self, scale: float, t: Tensor) -> Modulations:
        if self._condition_fn is None:
            return self._modulations[scale]
        return self._branches(scale, None if scale == 0 else self._modulate(self._condition_fn(self._condition, t)))

    def _branches(self, scale: float, cond: Modulations | None) -> Modulations:
        """Return the modulations that `scale` needs: of N images, or of 2N (condition, then null)."""
        if scale == 1:
            return cond
        if scale == 0:
            return self._nulls
        return type(self._nulls).cat([cond, self._nulls])

    def _modulate(self, condition: Condition) -> Modulations:
        with torch.no_grad(), self._precision(condition.device):
            return self.model.modulate(condition)

    def _precision(self, device: torch.device) -> AbstractContextManager:
        return nullcontext() if self.amp_dtype is None else torch.autocast(device.type, dtype=self.amp_dtype)
