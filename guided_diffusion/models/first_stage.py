"""The first stage of a latent model: a trained autoencoder, with the statistics by which its latents are standardized.

It is a part of the network whose samples it decodes, so that one file of weights has both. Its weights are buffers:
neither trained on nor averaged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from guided_diffusion.models.autoencoder import Autoencoder, ImageCoder, Reconstruction
from guided_diffusion.models.autoencoder_kl import AutoencoderKL

KINDS: dict[str, type[Autoencoder] | type[AutoencoderKL]] = {"own": Autoencoder, "kl": AutoencoderKL}
LEAST_STD = 1e-3
"""Standard deviation that a latent channel counts as having at least: one that never varies is not blown up."""


class FirstStage(nn.Module):
    """A trained autoencoder and its latents' mean and standard deviation of each channel, [Z] each."""

    def __init__(self, autoencoder: ImageCoder):
        super().__init__()
        self.autoencoder = autoencoder
        self.register_buffer("mean", torch.zeros(autoencoder.latent_channels))
        self.register_buffer("std", torch.ones(autoencoder.latent_channels))
        for module in autoencoder.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                delattr(module, name)
                module.register_buffer(name, parameter.detach())
        self.eval()

    @property
    def factor(self) -> int:
        """f: the latents have sides of H / f and W / f."""
        return self.autoencoder.factor

    @property
    def latent_channels(self) -> int:
        """Z, the channels of the latents."""
        return self.autoencoder.latent_channels

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Return the standardized latents [N, Z, H / f, W / f] of x [N, C, H, W]: the means of their posteriors."""
        mean, std = (each.view(1, -1, 1, 1) for each in (self.mean, self.std))
        return (self.autoencoder.posterior(x).mean - mean) / std

    @torch.no_grad()
    def decode(self, z: Tensor) -> Reconstruction:
        """Return what standardized latents decode to."""
        mean, std = (each.view(1, -1, 1, 1) for each in (self.mean, self.std))
        return self.autoencoder.decode(z * std + mean)

    def standardize(self, mean: Tensor, std: Tensor) -> None:
        """Set mean and standard deviation of the latents as they are, [Z] each."""
        self.mean.copy_(mean)
        self.std.copy_(std.clamp(min=LEAST_STD))

    def to_state(self) -> dict[str, Any]:
        """Return plain values that tell the architecture, without the weights."""
        kind = next(name for name, kind in KINDS.items() if isinstance(self.autoencoder, kind))
        return {"kind": kind, "shape": self.autoencoder.to_state()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> FirstStage:
        """Return the first stage that a checkpoint describes, its weights not yet loaded."""
        with torch.random.fork_rng(devices=[]):  # the weights drawn here are not used
            return cls(KINDS[state["kind"]].from_state(state["shape"]))
