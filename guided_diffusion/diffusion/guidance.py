"""Classifier-free guidance at the price of one encoder: the network as samplers see it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

from guided_diffusion.diffusion.gaussian import GaussianDiffusion
from guided_diffusion.semantic_map import SemanticMap


class Modulation(Protocol):
    """What the condition does to one normalisation layer, for a batch of images."""

    @staticmethod
    def cat(modulations: Sequence[Any]) -> Modulation:
        """Concatenate along the batch."""
        ...

    def expand(self, n: int) -> Modulation:
        """Repeat a batch of one `n` times."""
        ...


class ConditionedModel(Protocol):
    """A network whose encoder never sees the condition, and whose modulation never sees the image or t."""

    def encode(self, x: Tensor, t: Tensor) -> tuple[list[Tensor], Tensor]: ...

    def modulate(self, condition: SemanticMap) -> list[Any]: ...

    def decode(self, skips: list[Tensor], emb: Tensor, modulations: list[Any]) -> Tensor: ...


class GuidedDenoiser:
    """`denoise(x_t, t) -> model_output` of a network with its condition (Ho & Salimans 2022, eq. 6).

    The mean channels are null + scale * (cond - null); the variance channels are the conditional branch's. The formula
    is written for eps and holds as it stands for x0 and v: at a given x_t they are affine in each other, and the
    weights of the two branches sum to 1.

    What the condition gives is computed once, here. Both branches share one encode, which is exact as the encoder does
    not see the condition, and their decodes run as one batch of 2N.

    model, condition: on one device; `condition` has the N maps of the batch that is to be denoised.
    scale: 1 is the condition alone and 0 the null condition alone, each without a second branch.
    autocast: the type the network runs in (torch.bfloat16, torch.float16), None for that of its weights.
    """

    def __init__(
        self,
        model: ConditionedModel,
        diffusion: GaussianDiffusion,
        condition: SemanticMap,
        *,
        scale: float = 1.0,
        autocast: torch.dtype | None = None,
    ):
        self.model = model
        self.diffusion = diffusion
        self.scale = scale
        self.autocast = autocast
        with torch.no_grad(), self._precision(condition.label.device):
            self._modulations = self._modulate(condition)

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the model output [N, C or 2C, H, W] float32 for `x_t` [N, C, H, W] at the indices `t` [N]."""
        with self._precision(x_t.device):
            skips, emb = self.model.encode(x_t, self.diffusion.model_t(t))
            if self.scale in (0, 1):
                return self.model.decode(skips, emb, self._modulations).float()
            skips, emb = [torch.cat([skip, skip]) for skip in skips], torch.cat([emb, emb])
            output = self.model.decode(skips, emb, self._modulations)
        cond, null = output.float().chunk(2)
        channels = x_t.shape[1]
        mean = null[:, :channels] + self.scale * (cond[:, :channels] - null[:, :channels])
        return torch.cat([mean, cond[:, channels:]], dim=1)

    def _modulate(self, condition: SemanticMap) -> list[Any]:
        """Return one modulation a layer: of N images, or of 2N (condition, then null) where both branches run."""
        cond = self.model.modulate(condition) if self.scale != 0 else []
        if self.scale == 1:
            return cond
        # Null maps are all alike: one is enough.
        null = [m.expand(len(condition)) for m in self.model.modulate(condition[:1].null())]
        if self.scale == 0:
            return null
        return [type(c).cat([c, n]) for c, n in zip(cond, null, strict=True)]

    def _precision(self, device: torch.device) -> AbstractContextManager:
        return nullcontext() if self.autocast is None else torch.autocast(device.type, dtype=self.autocast)
