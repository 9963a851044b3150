"""The x0 of a latent model: what an autoencoder makes of an image, or of an image and its coded label map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from guided_diffusion.diffusion.pair_code import Decoded, PairCode

LIMIT = 5.0
"""Standardized latents beyond this are clipped in sampling."""
_AT_A_TIME = 8


class Reconstructed(Protocol):
    """What latents decode to."""

    image: Tensor | None
    scores: Tensor | None


class Stage(Protocol):
    """An autoencoder with standardized latents."""

    factor: int
    latent_channels: int
    mean: Tensor

    def encode(self, x: Tensor) -> Tensor:
        """Return latents [N, Z, H / f, W / f] of x [N, C, H, W]."""

    def decode(self, z: Tensor) -> Reconstructed:
        """Return image [N, C, H, W] and scores [N, classes, H, W], of which one may be None."""


@dataclass(frozen=True, eq=False)
class LatentCode:
    """How images, or images and label maps, become the latents that a diffusion model learns, and back.

    pixels: the code of the masks that the stage encodes, with values of +-1 and p = 1; None for images alone.
    """

    stage: Stage
    pixels: PairCode | None = None

    def __post_init__(self) -> None:
        assert self.pixels is None or (self.pixels.scale, self.pixels.folding) == (1, 1)

    @property
    def channels(self) -> int:
        """Channels Z of x0."""
        return self.stage.latent_channels

    @property
    def image_channels(self) -> int:
        """Channels of the images of a model that makes masks, 0 for masks alone."""
        assert self.pixels is not None, "a model of images has as many as its images"
        return self.pixels.image_channels

    def shape(self, size: Sequence[int]) -> tuple[int, int, int]:
        """Return the shape (Z, H / f, W / f) of the x0 of an image of `size` (H, W)."""
        return self.channels, size[0] // self.stage.factor, size[1] // self.stage.factor

    def encode(self, image: Tensor | None, label: Tensor | None) -> Tensor:
        """Return x0 [N, Z, H / f, W / f] of images [N, C, H, W] in [-1, 1] and, with masks, labels [N, H, W]."""
        return self.stage.encode(image if self.pixels is None else self.pixels.encode(image, label))

    def decode(self, x: Tensor) -> Decoded:
        """Return images, labels and margins of latents `x`, on the CPU; the margin is the probability of the class
        less that of the next.
        """
        assert self.pixels is not None
        made = [self._decode_part(part) for part in x.split(_AT_A_TIME)]
        images, labels, margins = zip(*made, strict=True)
        image = torch.cat(images) if self.pixels.image_channels else None
        return Decoded(image, torch.cat(labels), torch.cat(margins))

    def _decode_part(self, x: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        made = self.stage.decode(x.to(self.stage.mean.device))
        best, order = made.scores.softmax(1).topk(min(2, made.scores.shape[1]), dim=1)
        margin = best[:, 0] - best[:, 1] if best.shape[1] > 1 else torch.ones_like(best[:, 0])
        image = None if made.image is None else made.image.clamp(-1, 1).cpu()
        return image, order[:, 0].cpu(), margin.cpu()

    def decode_images(self, x: Tensor) -> Tensor:
        """Return the images [N, C, H, W] in [-1, 1] of latents `x`, on the device of `x`, of a model of images."""
        device = self.stage.mean.device
        parts = [self.stage.decode(part.to(device)).image.clamp(-1, 1) for part in x.split(_AT_A_TIME)]
        return torch.cat(parts).to(x.device)

    def clip(self, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return `x0` clamped to [-5, 5], in standard deviations: a hook of sampling."""
        return x0.clamp(-LIMIT, LIMIT)

    def loss_weight(self, mask_weight: float, device: torch.device | str = "cpu") -> None:
        """Return None: all latent channels count alike."""
        return None


Code = PairCode | LatentCode
"""How what a model makes becomes its x0."""
