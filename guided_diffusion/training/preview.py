"""Preview pictures of a training run: always the same masks, noise and few steps, from raw and averaged weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.data import visualize
from guided_diffusion.runtime.seeding import Stream, derive_seed
from guided_diffusion.training.ema import EMA

DrawImages = Callable[[SemanticMap, Sequence[int]], Tensor]
"""(condition [N], N seeds) -> images [N, C, H, W] in [-1, 1] on the CPU, with the weights as they are."""


class Previewer:
    """Writes `<folder>/epoch_NNNN.png`: real image, mask, sample of the raw weights, sample of each average."""

    def __init__(
        self,
        draw: DrawImages,
        ema: EMA,
        *,
        image: Tensor,
        condition: SemanticMap,
        class_names: tuple[str, ...],
        folder: Path,
        seed: int,
        num_steps: int,
    ):
        """Take real images [N, C, H, W] in [-1, 1] and their N maps, both on the CPU.

        draw: samples from the model whose weights `ema` averages, in `num_steps` steps.
        """
        self.draw = draw
        self.ema = ema
        self.image = image
        self.condition = condition
        self.class_names = class_names
        self.folder = folder
        self.seeds = [derive_seed(Stream.SAMPLE, seed, index) for index in range(len(image))]
        self.num_steps = num_steps

    def __call__(self, epoch: int) -> Path:
        """Draw the picture of `epoch` and return its path. The model's weights are afterwards as they were."""
        columns = {"raw": self.draw(self.condition, self.seeds)}
        for rate in self.ema.averages:
            with self.ema.applied(rate):
                columns[f"EMA {rate}"] = self.draw(self.condition, self.seeds)
        palette = visualize.class_palette(self.condition.num_classes)
        masks = [visualize.colorize(label.numpy(), palette) for label in self.condition.label]
        shown = (self.image, *columns.values())
        real, *samples = (visualize.to_pixels(images.numpy()) for images in shown)
        path = self.folder / f"epoch_{epoch:04d}.png"
        picture = visualize.grid(
            list(zip(real, masks, *samples, strict=True)),
            column_titles=("real", "mask", *columns),
            legend=visualize.legend_of(self.class_names, self.condition.label),
            title=f"epoch {epoch}, {self.num_steps} steps",
        )
        visualize.save(picture, path)
        return path
