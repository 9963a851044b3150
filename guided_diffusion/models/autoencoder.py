"""The autoencoder of latent models: image and mask, or one of the two, as a small map of a few channels, and back.

Rombach et al. 2022 (Latent Diffusion), section 3.1, KL-regularized, small and without an adversary. The label map has a
head of its own, one score a class, as JoDiffusion (2026) has for its label autoencoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 8
"""Groups of the group normalizations; all numbers of channels are multiples of it."""
_BLOCKS = 2
_FOLDING = 2  # squares of pixels that become channels before the first convolution, without loss


class Posterior(NamedTuple):
    """The Gaussian of the latents of N images: mean and log of the standard deviation, [N, Z, H / f, W / f] each."""

    mean: Tensor
    log_std: Tensor


class Reconstruction(NamedTuple):
    """What N latents decode to."""

    image: Tensor | None
    """[N, image channels, H, W], about in [-1, 1]; None for masks alone."""
    scores: Tensor | None
    """[N, classes, H, W], the logits of each class; None for images alone."""


class ImageCoder(Protocol):
    """An autoencoder: `Autoencoder`, or a pretrained one. Sides of its input are multiples of `factor`."""

    factor: int
    latent_channels: int

    def posterior(self, x: Tensor) -> Posterior:
        """Return the posterior of x [N, C, H, W]."""

    def decode(self, z: Tensor) -> Reconstruction:
        """Return what latents [N, Z, H / f, W / f] decode to."""

    def to_state(self) -> dict[str, Any]:
        """Return plain values that tell its architecture."""


@dataclass(frozen=True)
class AutoencoderShape:
    """The architecture of an `Autoencoder`.

    label_channels: of the coded mask that it sees, classes: that its scores tell apart; 0 for images alone.
    factor: f, the latents have sides of H / f and W / f. width: channels of the first level, the others have twice as
    many.
    """

    image_channels: int
    label_channels: int
    classes: int
    factor: int
    latent_channels: int
    width: int

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the levels, at sides of H / 2, H / 4, ..., H / f."""
        levels = (self.factor // _FOLDING).bit_length()
        return (self.width, *[2 * self.width] * (levels - 1))


class ResidualBlock(nn.Module):
    """x + conv(act(norm(conv(act(norm(x)))))), [N, C, H, W]."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = _normed(channels, channels)
        self.second = _normed(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x))


class Autoencoder(nn.Module):
    """An untrained autoencoder of coded masks and images, weights drawn from torch's global generator."""

    def __init__(self, shape: AutoencoderShape):
        super().__init__()
        assert shape.factor in (4, 8)
        assert shape.width % GROUPS == 0
        self.shape = shape
        self.factor, self.latent_channels = shape.factor, shape.latent_channels
        widths = shape.widths
        inputs = (shape.image_channels + shape.label_channels) * _FOLDING**2
        self.encoder = nn.Sequential(nn.Conv2d(inputs, widths[0], 3, padding=1), *_blocks(widths[0]))
        for width, wider in pairwise(widths):
            self.encoder.extend([nn.Conv2d(width, wider, 4, stride=2, padding=1), *_blocks(wider)])
        self.encoder.extend([*_blocks(widths[-1]), _normed(widths[-1], 2 * shape.latent_channels)])
        self.decoder = nn.Sequential(nn.Conv2d(shape.latent_channels, widths[-1], 3, padding=1), *_blocks(widths[-1]))
        for width, narrower in pairwise(reversed(widths)):
            up = [nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(width, narrower, 3, padding=1)]
            self.decoder.extend([*_blocks(width), *up])
        self.decoder.extend(_blocks(widths[0]))
        self.image_head = _head(widths[0], shape.image_channels)
        self.label_head = _head(widths[0], shape.classes)

    def posterior(self, x: Tensor) -> Posterior:
        """Return the posterior of x [N, image + label channels, H, W], sides multiples of f."""
        folded = F.pixel_unshuffle(x, _FOLDING).contiguous(memory_format=torch.channels_last)
        mean, log_std = self.encoder(folded).float().chunk(2, dim=1)
        return Posterior(mean, log_std.clamp(-10, 5))

    def decode(self, z: Tensor) -> Reconstruction:
        """Return image and scores of latents [N, Z, H / f, W / f]."""
        h = self.decoder(z.contiguous(memory_format=torch.channels_last))
        heads = (self.image_head, self.label_head)
        return Reconstruction(*(None if head is None else F.pixel_shuffle(head(h), _FOLDING).float() for head in heads))

    @torch.no_grad()
    def undo_class_weights(self, class_weight: Tensor) -> None:
        """Subtract log w of each class from its score: after training with a cross entropy weighted by w [classes], the
        scores are then those of the classes' own probabilities (Menon et al. 2021, logit adjustment).
        """
        if self.label_head is not None:
            self.label_head[-1].bias -= class_weight.log().repeat_interleave(_FOLDING**2)

    def to_state(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return asdict(self.shape)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Autoencoder:
        """Return the untrained autoencoder that a checkpoint describes."""
        return cls(AutoencoderShape(**state))


def _normed(channels: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.GroupNorm(GROUPS, channels), nn.SiLU(), nn.Conv2d(channels, outputs, 3, padding=1))


def _blocks(channels: int) -> list[nn.Module]:
    return [ResidualBlock(channels) for _ in range(_BLOCKS)]


def _head(channels: int, outputs: int) -> nn.Module | None:
    return _normed(channels, outputs * _FOLDING**2) if outputs else None
