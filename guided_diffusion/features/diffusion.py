"""Features of a diffusion model: what blocks of its UNet make of noisy images, at a few noise levels.

Baranchuk et al., "Label-Efficient Semantic Segmentation with Diffusion Models", 2022.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guided_diffusion.conditions.base import Condition
from guided_diffusion.conditions.known_region import KnownRegion
from guided_diffusion.diffusion.gaussian import GaussianDiffusion
from guided_diffusion.diffusion.schedule import named_betas
from guided_diffusion.features.blocks import block_shapes
from guided_diffusion.features.extractor import MapShape, NetworkFeatures
from guided_diffusion.models.taps import Tap
from guided_diffusion.models.unet import UNetModel
from guided_diffusion.runtime.seeding import Stream, derive_seed

PUBLISHED_STEPS = 1000


def timesteps_at(feature_steps: Sequence[int], process: GaussianDiffusion) -> tuple[int, ...]:
    """Return the timesteps of `process` whose abar is nearest to those of `feature_steps` in the published process.

    That has 1000 linear steps, counted from 0. The order stays; steps that fall together are one.
    """
    abar = np.cumprod(1 - named_betas("linear", PUBLISHED_STEPS))[list(feature_steps)]
    nearest = np.abs(process.alphas_cumprod[None] - abar[:, None]).argmin(axis=1)
    return tuple(dict.fromkeys(int(step) for step in nearest))


class DiffusionFeatures(NetworkFeatures):
    """The features at `taps` of a UNet, of images noised to `timesteps`; a `FeatureExtractor`.

    In the published order: the timesteps as given, for each of them the blocks from first to last, however listed.
    """

    def __init__(
        self,
        model: UNetModel,
        process: GaussianDiffusion,
        *,
        taps: Sequence[Tap],
        timesteps: Sequence[int],
        null: Condition,
        image_channels: int = 3,
        share_noise: bool = True,
        seed: int = 0,
        noise: Tensor | None = None,
        noise_draws: int = 1,
        identity: Mapping[str, Any] | None = None,
        **options: Any,
    ):
        """Take a network in evaluation mode, on `device`, and the whole process that it was trained with.

        null: one condition without a mask, never a real one, which would tell of the mask. share_noise: all images and
        timesteps have one noise, `noise` [1, C, H, W] or drawn from `seed`; further draws have others. identity: what
        tells the weights apart. options: as in `NetworkFeatures`.
        """
        super().__init__(image_size=model.image_size, image_channels=image_channels, **options)
        assert process.num_timesteps == process.original_steps, "respaced timesteps have other noise"
        assert all(0 <= step < process.num_timesteps for step in timesteps)
        assert share_noise or noise is None
        self.model, self.process, self.timesteps = model, process, tuple(timesteps)
        shapes = block_shapes(model)
        self.taps = tuple(tap for tap in shapes if tap in set(taps))
        assert len(self.taps) == len(set(taps)), "a tap that the network does not have"
        self._shapes = tuple(
            MapShape(shapes[tap].channels, *(side // shapes[tap].stride for side in self.image_size))
            for tap in self.taps
        )
        self.seed, self.share_noise, self.identity = seed, share_noise, dict(identity or {})
        self.noise_draws, self.noise = noise_draws, noise
        if share_noise and noise is None:
            self.noise = self._shared_noise(seed)
        # A further noise is drawn by a seed of its own, so that the first is the same whatever their number.
        more = range(1, noise_draws if share_noise else 1)
        self._further = [self._shared_noise(derive_seed(Stream.FEATURE, seed, number)) for number in more]
        self._null = null.to(self.device)
        self._modulations = None

    @property
    def shapes(self) -> tuple[MapShape, ...]:
        return self._shapes * len(self.timesteps)

    def settings(self) -> dict[str, Any]:
        noise = None
        if self.noise is not None:
            noise = hashlib.sha256(self.noise.numpy(force=True).astype("<f4").tobytes()).hexdigest()[:16]
        # Named only where there are several, as classifiers from before do not have it.
        several = {"noise_draws": self.noise_draws} if self.noise_draws > 1 else {}
        return {
            "extractor": "diffusion",
            **self.identity,
            "timesteps": list(self.timesteps),
            "noise_levels": [round(float(self.process.alphas_cumprod[step]), 6) for step in self.timesteps],
            "blocks": [str(tap) for tap in self.taps],
            "seed": self.seed,
            "share_noise": self.share_noise,
            "noise": noise,
            **several,
            **self.common_settings(),
        }

    def _shared_noise(self, seed: int) -> Tensor:
        return torch.randn(1, self.image_channels, *self.image_size, generator=torch.Generator().manual_seed(seed))

    def noisy(self, images: Tensor, positions: Sequence[int] = (), draw: int = 0) -> Tensor:
        """Return images [N, C, H, W] at every timestep, [N * S, C, H, W]: all timesteps of an image, then the next."""
        count = len(self.timesteps)
        if self.share_noise:
            noise = (self._further[draw - 1] if draw else self.noise).to(images.device)
        else:
            assert len(positions) == len(images), "images that do not share their noise need positions"
            noise = torch.cat([self._own_noise(position, draw) for position in positions]).to(images.device)
        return self.process.q_sample(images.repeat_interleave(count, dim=0), self._steps(len(images)), noise)

    def _own_noise(self, position: int, draw: int) -> Tensor:
        key = (position, draw) if draw else (position,)
        generator = torch.Generator().manual_seed(derive_seed(Stream.FEATURE, self.seed, *key))
        return torch.randn(len(self.timesteps), self.image_channels, *self.image_size, generator=generator)

    def _steps(self, count: int) -> Tensor:
        return torch.tensor(self.timesteps, device=self.device).repeat(count)

    def native(self, images: Tensor, positions: Sequence[int] = (), draw: int = 0) -> list[Tensor]:
        x = self.noisy(images, positions, draw)
        modulations = None
        if any(tap.part != "encoder" for tap in self.taps):
            if self._modulations is None:
                self._modulations = self.model.modulate(self._null)
            modulations = self._modulations.expand(len(x))
        if self.model.input_blocks[0][0].in_channels != self.image_channels:  # it fills holes, and is told of them
            nothing = KnownRegion.nothing(len(x), x.shape[1:]).to(self.device)
            x = torch.cat([x, nothing.channels()], dim=1)
        made = self.model.features(x, self.process.model_t(self._steps(len(images))), self.taps, modulations)
        return [found.unflatten(0, (len(images), -1))[:, step] for step in range(len(self.timesteps)) for found in made]
