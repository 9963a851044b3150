"""Preview pictures of a training on boxes: layout, what is made of it, and the masks that the network draws with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from guided_diffusion.conditions.layout import LayoutCondition
from guided_diffusion.data import visualize
from guided_diffusion.training.ema import EMA

_TILE = 128  # pixels of the longer side of a picture, so that the names of boxes can be read

DrawLayouts = Callable[[LayoutCondition, Sequence[int]], tuple[Tensor, Tensor]]
"""(layouts [N], N seeds) -> images [N, C, H, W] in [-1, 1] and predicted masks [N, H, W], on the CPU."""


@dataclass(eq=False)
class LayoutPreviewer:
    """Writes `<folder>/epoch_NNNN.png`: layout, for raw weights and each average image and predicted mask, real image.

    draw: samples from the model whose weights `ema` averages, in `num_steps` steps. image: real images [N, C, H, W] in
    [-1, 1] of the N layouts of `condition`; label: their true masks [N, H, W], if there are any. All on the CPU.
    """

    draw: DrawLayouts
    ema: EMA
    image: Tensor
    condition: LayoutCondition
    label: Tensor | None
    class_names: tuple[str, ...]
    folder: Path
    seeds: Sequence[int]
    num_steps: int

    def __call__(self, epoch: int) -> dict[str, float]:
        """Draw the picture of `epoch` and return what was measured, nothing; the model's weights stay the same."""
        made = {"raw": self.draw(self.condition, self.seeds)}
        for rate in self.ema.averages:
            with self.ema.applied(rate):
                made[f"EMA {rate}"] = self.draw(self.condition, self.seeds)
        columns: dict[str, list[visualize.Pixels]] = {"layout": self._layouts()}
        for name, (images, masks) in made.items():
            columns |= {name: _enlarged(images), f"{name}: predicted mask": self._masks(masks)}
        columns["real"] = _enlarged(self.image)
        labels = [self.condition.label, *(masks for _, masks in made.values())]
        if self.label is not None:
            columns["its mask"] = self._masks(self.label)
            labels.append(self.label)
        picture = visualize.grid(
            list(zip(*columns.values(), strict=True)),
            column_titles=tuple(columns),
            legend=visualize.legend_of(self.class_names, labels),
            title=f"epoch {epoch}, {self.num_steps} steps",
            scale=1,
        )
        visualize.save(picture, self.folder / f"epoch_{epoch:04d}.png")
        return {}

    def _layouts(self) -> list[visualize.Pixels]:
        """Return pictures of the boxes: of a background's color, if that is an object."""
        palette = visualize.class_palette(self.condition.num_classes)
        pictures = []
        for label, box, present in zip(self.condition.label, self.condition.box, self.condition.present, strict=True):
            classes, boxes = label[present].tolist(), box[present].numpy()
            plain = 0
            if self.condition.background and classes:
                plain, classes, boxes = classes[0], classes[1:], boxes[1:]
            blank = visualize.colorize(self.image.new_full(self.condition.size, plain).long().numpy(), palette)
            entries = [(self.class_names[index], palette[index].tolist()) for index in classes]
            pictures.append(visualize.draw_boxes(visualize.enlarged(blank, _TILE), boxes, entries))
        return pictures

    def _masks(self, labels: Tensor) -> list[visualize.Pixels]:
        palette = visualize.class_palette(self.condition.num_classes)
        return [visualize.enlarged(visualize.colorize(label.numpy(), palette), _TILE) for label in labels]


def _enlarged(images: Tensor) -> list[visualize.Pixels]:
    return [visualize.enlarged(image, _TILE) for image in visualize.to_pixels(images.numpy())]
