"""Preview pictures of a training run: always the same masks, noise and few steps, from raw and averaged weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.data import visualize
from guided_diffusion.diffusion.gaussian import GaussianDiffusion
from guided_diffusion.diffusion.guidance import GuidedDenoiser
from guided_diffusion.diffusion.label_diffusion import LabelDiffusion, label_generators
from guided_diffusion.diffusion.samplers import draw_noise, sample_dpmpp_2m
from guided_diffusion.runtime.seeding import Stream, derive_seed
from guided_diffusion.training.ema import Ema


class Previewer:
    """Writes `<folder>/epoch_NNNN.png`: real image, mask, sample of the raw weights, sample of each average.

    diffusion: the process, respaced to the few steps of a preview.
    image: [N, C, H, W] real images in [-1, 1]; condition: their N maps. Both on the CPU.
    label_diffusion: what vanishes from the maps at the steps of `diffusion`; None for nothing.
    """

    def __init__(
        self,
        model: nn.Module,
        ema: Ema,
        diffusion: GaussianDiffusion,
        *,
        image: Tensor,
        condition: SemanticMap,
        class_names: tuple[str, ...],
        folder: Path,
        seed: int,
        device: torch.device,
        autocast: torch.dtype | None = None,
        label_diffusion: LabelDiffusion | None = None,
    ):
        self.model = model
        self.ema = ema
        self.diffusion = diffusion
        self.image = image
        self.condition = condition
        self.class_names = class_names
        self.folder = folder
        self.seed = seed
        self.device = device
        self.autocast = autocast
        self.label_diffusion = label_diffusion

    def __call__(self, epoch: int) -> Path:
        """Draw the picture of `epoch` and return its path. The model's weights are afterwards as they were."""
        columns = {"raw": self._sample()}
        for rate in self.ema.averages:
            with self.ema.applied(rate):
                columns[f"EMA {rate}"] = self._sample()
        palette = visualize.class_palette(self.condition.num_classes)
        masks = [visualize.colorize(label.numpy(), palette) for label in self.condition.label]
        shown = (self.image, *columns.values())
        real, *samples = (visualize.to_pixels(images.numpy()) for images in shown)
        path = self.folder / f"epoch_{epoch:04d}.png"
        picture = visualize.grid(
            list(zip(real, masks, *samples, strict=True)),
            column_titles=("real", "mask", *columns),
            legend=visualize.legend_of(self.class_names, self.condition.label),
            title=f"epoch {epoch}, {self.diffusion.num_timesteps} steps",
        )
        visualize.save(picture, path)
        return path

    def _sample(self) -> Tensor:
        """Return [N, C, H, W] samples on the CPU."""
        seeds = [derive_seed(Stream.SAMPLE, self.seed, index) for index in range(len(self.image))]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        labels = self.label_diffusion
        with torch.inference_mode():
            condition = self.condition.to(self.device)
            denoise = GuidedDenoiser(
                self.model,
                self.diffusion,
                condition,
                autocast=self.autocast,
                condition_at=None if labels is None else labels.at_each_step(label_generators(seeds)),
            )
            noise = draw_noise(generators, self.image.shape[1:], self.device)
            return sample_dpmpp_2m(denoise, self.diffusion, noise, generators=generators).cpu()
