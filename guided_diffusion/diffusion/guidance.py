"""Classifier-free guidance that runs the encoder once: the network function of a conditioned network."""

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
from guided_diffusion.conditions.known_region import KnownRegion
from guided_diffusion.diffusion.gaussian import GaussianDiffusion
from guided_diffusion.runtime.errors import ConfigError

ConditionFn = Callable[[Any, Tensor], Condition]
"""(condition of the batch [N], t [N]) -> the condition at t, as label diffusion has it."""


class Modulations(Protocol):
    """What a network makes of a batch of conditions; `cat` concatenates batches, `expand` repeats a batch of one."""

    @staticmethod
    def cat(branches: Sequence[Any]) -> Modulations: ...

    def expand(self, n: int) -> Modulations: ...


class ConditionedModel(Protocol):
    """A network whose encoder never sees the condition, and whose modulation never sees the image or t."""

    def encode(self, x: Tensor, t: Tensor) -> tuple[list[Tensor], Tensor]: ...

    def modulate(self, condition: Condition) -> Modulations: ...

    def decode(self, skips: list[Tensor], emb: Tensor, modulations: Any) -> Tensor: ...

    def object_masks(self, x: Tensor, t: Tensor, modulations: Any) -> Tensor: ...


def guided_steps(diffusion: GaussianDiffusion, interval: Sequence[float] | None) -> NDArray[np.bool_]:
    """Return the steps of the process at which guidance acts, [T] booleans (Kynkäänniemi et al. 2024).

    interval: (low, high] in noise level sigma = sqrt((1 - abar) / abar), the noise relative to the image; None for
    all steps. Raises ConfigError for an interval without any step.
    """
    if interval is None:
        return np.ones(diffusion.num_timesteps, dtype=bool)
    sigma = diffusion.noise_levels
    inside = (interval[0] < sigma) & (sigma <= interval[1])
    if not inside.any():
        raise ConfigError(
            f"guidance_interval is {list(interval)}, which has none of the {len(sigma)} noise levels of sampling, "
            f"{sigma[0]:.3g} to {sigma[-1]:.3g}: widen it, or set s to 1 for no guidance"
        )
    return inside


class GuidedNetwork:
    """The network function null + scale * (cond - null) of a conditioned network (Ho & Salimans 2022, eq. 6).

    It is the same for eps, x0 and v, which are affine in each other at a given x_t. Scale 1 runs only the condition,
    scale 0 only the null condition.
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
        known: KnownRegion | None = None,
    ):
        """Take the condition [N] of a batch, on the model's device; `known`: what an inpainting network is given.

        interval: outside of these noise levels the scale is 1 (see `guided_steps`). amp_dtype: autocast to this type,
        None for the type of the weights. condition_fn: changes the condition at each step.
        """
        self.model = model
        self.process = process
        self.scale = scale
        self.amp_dtype = amp_dtype
        self._guided = None if interval is None else guided_steps(process, interval)
        self._scales = {scale} if interval is None else {scale, 1.0}
        # All null conditions are equal: one serves every batch.
        self._null = None if self._scales == {1} else self._modulate(condition[:1].null())
        self._set_condition(condition, condition_fn, known)

    def with_condition(
        self, condition: Condition, condition_fn: ConditionFn | None = None, known: KnownRegion | None = None
    ) -> GuidedNetwork:
        """Return the network function of another batch of the same image size, with the same null modulations."""
        assert (condition_fn is None) == (self._condition_fn is None), "give each batch a condition_fn, or none"
        other = copy.copy(self)
        other._set_condition(condition, condition_fn, known)
        return other

    def _set_condition(self, condition: Condition, condition_fn: ConditionFn | None, known: KnownRegion | None) -> None:
        self._condition, self._condition_fn = condition, condition_fn
        self._known = None if known is None else known.channels()
        self._nulls = None if self._null is None else self._null.expand(len(condition))
        self._modulations: dict[float, Modulations] = {}
        self._cond: Modulations | None = None
        if condition_fn is None:
            self._cond = None if self._scales == {0} else self._modulate(condition)
            self._modulations = {scale: self._branches(scale, self._cond) for scale in self._scales}

    @torch.no_grad()
    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the model output [N, C or 2C, H, W] float32 for `x_t` [N, C, H, W] at `t` [N].

        Only the mean channels are guided; the variance channels are those of the condition.
        """
        scale = self._scale_at(t)
        modulations = self._modulations_at(scale, t)
        model_t = self._model_t(x_t, t)
        with self._precision(x_t.device):
            seen = x_t if self._known is None else torch.cat([x_t, self._known], dim=1)
            skips, emb = self.model.encode(seen, model_t)
            if scale in (0, 1):
                return self.model.decode(skips, emb, modulations).float()
            skips, emb = [torch.cat([skip, skip]) for skip in skips], torch.cat([emb, emb])
            output = self.model.decode(skips, emb, modulations)
        cond, null = output.float().chunk(2)
        channels = x_t.shape[1]
        mean = null[:, :channels] + scale * (cond[:, :channels] - null[:, :channels])
        return torch.cat([mean, cond[:, channels:]], dim=1)

    @torch.no_grad()
    def object_masks(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the masks with which the network draws the objects of layouts, [N, O, H, W] float32 in 0..1.

        x_t, t: as the network function takes them.
        """
        cond = self._modulate(self._condition) if self._cond is None else self._cond
        with self._precision(x_t.device):
            return self.model.object_masks(x_t, self._model_t(x_t, t), cond).float()

    def _model_t(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.process.model_t(t).to(x_t.device, non_blocking=x_t.is_cuda)

    def _scale_at(self, t: Tensor) -> float:
        """Return the scale at `t`, which has to be inside the interval for all images of a batch, or for none."""
        if self._guided is None:
            return self.scale
        sides = {bool(self._guided[index]) for index in t.tolist()}
        assert len(sides) == 1, "one batch has images inside and outside of the guidance interval"
        return self.scale if sides.pop() else 1.0

    def _modulations_at(self, scale: float, t: Tensor) -> Modulations:
        if self._condition_fn is None:
            return self._modulations[scale]
        return self._branches(scale, None if scale == 0 else self._modulate(self._condition_fn(self._condition, t)))

    def _branches(self, scale: float, cond: Modulations | None) -> Modulations:
        """Return the modulations that `scale` needs: of N images, or of 2N (first condition, then null)."""
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
