"""Preview pictures of a training run: the same masks and noise every time, from raw and averaged weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from guided_diffusion.conditions.known_region import KnownRegion
from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.data import visualize
from guided_diffusion.training.ema import EMA

DrawImages = Callable[[SemanticMap, Sequence[int]], Tensor]
"""(condition [N], N seeds) -> images [N, C, H, W] in [-1, 1] on the CPU, with the weights as they are."""


@dataclass(eq=False)
class Previewer:
    """Writes `<folder>/epoch_NNNN.png`: real image, mask, sample of the raw weights, sample of each average.

    draw: samples from the model whose weights `ema` averages, in `num_steps` steps.
    image: real images [N, C, H, W] in [-1, 1], and `condition` their N maps, both on the CPU.
    """

    draw: DrawImages
    ema: EMA
    image: Tensor
    condition: SemanticMap
    class_names: tuple[str, ...]  # () shows no masks
    folder: Path
    seeds: Sequence[int]
    num_steps: int
    known: KnownRegion | None = None
    """What an inpainting network is given of the images; the picture shows it, too."""

    def __call__(self, epoch: int) -> dict[str, float]:
        """Draw the picture of `epoch` and return what was measured, nothing; the model's weights stay the same."""
        columns = {"raw": self.draw(self.condition, self.seeds)}
        for rate in self.ema.averages:
            with self.ema.applied(rate):
                columns[f"EMA {rate}"] = self.draw(self.condition, self.seeds)
        masks = {"mask": self._masks()} if self.class_names else {}
        if self.known is not None:
            columns = {"given": self.known.image.masked_fill(self.known.hole[:, None], 0), **columns}
        real, *samples = (visualize.to_pixels(images.numpy()) for images in (self.image, *columns.values()))
        picture = visualize.grid(
            list(zip(real, *masks.values(), *samples, strict=True)),
            column_titles=("real", *masks, *columns),
            legend=visualize.legend_of(self.class_names, self.condition.label) if masks else (),
            title=f"epoch {epoch}, {self.num_steps} steps",
        )
        visualize.save(picture, self.folder / f"epoch_{epoch:04d}.png")
        return {}

    def _masks(self) -> list[visualize.Pixels]:
        palette = visualize.class_palette(self.condition.num_classes)
        return [visualize.colorize(label.numpy(), palette) for label in self.condition.label]
