"""Previews of a model that makes masks: a picture by class, and how new, how clean and how obedient its masks are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from guided_diffusion.data import visualize
from guided_diffusion.data.mask_rules import MaskRules
from guided_diffusion.diffusion.pair_code import Decoded
from guided_diffusion.training.ema import EMA

NEAR = 0.1
"""Masks with less novelty are near copies."""

DrawMasks = Callable[[Sequence[int], Sequence[int]], Decoded]
"""(N classes, N seeds) -> what the model makes of them, on the CPU, with the weights as they are."""
Novelty = Callable[[Sequence[NDArray[np.integer]]], NDArray[np.floating]]
"""Label maps [H, W] -> the novelty of each, in 0..1: 1 - IoU to the nearest training mask."""
ShareOfCopies = Callable[[Tensor], float]
"""Images [N, C, H, W] in [-1, 1] -> the share that are near-duplicates of training images."""


@dataclass(frozen=True)
class AskedSamples:
    """What is asked of the model at every preview: N classes and their seeds."""

    classes: Sequence[int]
    seeds: Sequence[int]


@dataclass(eq=False)
class MaskPreviewer:
    """Writes `<folder>/epoch_NNNN.png`, a row for each of `shown` with mask and image by raw and averaged weights, and
    measures masks of the slowest average: see `measure_masks`.

    measured: N may be 0. own_novelty: that of the training masks, each among the others. copies: None for masks alone.
    say: writes a line into the log.
    """

    draw: DrawMasks
    ema: EMA
    rules: MaskRules
    class_names: tuple[str, ...]
    folder: Path
    shown: AskedSamples
    measured: AskedSamples
    novelty: Novelty
    own_novelty: Callable[[], NDArray[np.floating]]
    copies: ShareOfCopies | None
    say: Callable[[str], None]
    num_steps: int

    def __call__(self, epoch: int) -> dict[str, float]:
        """Draw the picture of `epoch` and return what was measured; the model's weights stay the same."""
        columns = {"raw": self.draw(self.shown.classes, self.shown.seeds)}
        measured = {}
        for rate in self.ema.averages:
            with self.ema.applied(rate):
                columns[f"EMA {rate}"] = self.draw(self.shown.classes, self.shown.seeds)
                if self.measured.classes and rate == max(self.ema.averages, key=float):
                    measured = self._measure(self.draw(self.measured.classes, self.measured.seeds))
        self._save(epoch, columns)
        if measured:
            self.say(self._line(epoch, measured))
        return {f"preview_{name}": value for name, value in measured.items()}

    def _measure(self, made: Decoded) -> dict[str, float]:
        values = measure_masks(made.label, self.measured.classes, self.rules, self.novelty)
        if self.copies is not None and made.image is not None:
            values["image_copies"] = self.copies(made.image)
        return values

    def _line(self, epoch: int, measured: dict[str, float]) -> str:
        own = self.own_novelty()
        images = f", {measured['image_copies']:.0%} of the images too like one" if "image_copies" in measured else ""
        return (
            f"epoch {epoch}, {len(self.measured.classes)} masks: class as asked {measured['obeyed']:.0%}, set of "
            f"classes never seen {measured['unseen']:.0%}, specks {measured['specks']:.1f} a mask; novelty median "
            f"{measured['novelty']:.2f} ({np.median(own):.2f} between training masks), below {NEAR} "
            f"{measured['near_copies']:.0%} ({(own < NEAR).mean():.0%}){images}"
        )

    def _save(self, epoch: int, columns: dict[str, Decoded]) -> None:
        palette = visualize.class_palette(len(self.class_names))
        titles, tiles = [], []
        for title, made in columns.items():
            titles.append(f"{title}: mask")
            tiles.append([visualize.colorize(label.numpy(), palette) for label in made.label])
            if made.image is not None:
                titles.append("image")
                tiles.append(visualize.to_pixels(made.image.numpy()))
        picture = visualize.grid(
            list(zip(*tiles, strict=True)),
            column_titles=titles,
            row_titles=[self.class_names[index] for index in self.shown.classes],
            legend=visualize.legend_of(self.class_names, [made.label for made in columns.values()]),
            title=f"epoch {epoch}, {self.num_steps} steps",
        )
        visualize.save(picture, self.folder / f"epoch_{epoch:04d}.png")


def measure_masks(labels: Tensor, asked: Sequence[int], rules: MaskRules, novelty: Novelty) -> dict[str, float]:
    """Return what is measured of N label maps [N, H, W] as they were decoded, without cleaning.

    Shares: "obeyed" (the class asked for), "unseen" (set of classes in no training mask), "near_copies" (novelty below
    `NEAR`); "specks" a mask; median "novelty".
    """
    maps = [label.numpy() for label in labels]
    far = novelty(maps)
    return {
        "obeyed": float(np.mean([rules.obeys(label, want) for label, want in zip(maps, asked, strict=True)])),
        "unseen": float(np.mean([rules.is_unseen(label) for label in maps])),
        "specks": float(np.mean([rules.count_specks(label) for label in maps])),
        "novelty": float(np.median(far)),
        "near_copies": float((far < NEAR).mean()),
    }


def spread_classes(mix: Sequence[float], count: int, offset: float) -> list[int]:
    """Return a class for each of `count` samples, so that any number of them from the first on has about the `mix`.

    mix: [K], 1 in all. offset: in [0, 1), where the sequence begins. Points spread by the golden ratio (an additive
    recurrence of low discrepancy): sample i depends on i and the offset alone.
    """
    ends = np.cumsum(np.asarray(mix, dtype=np.float64))
    points = (offset + np.arange(count) * ((5**0.5 - 1) / 2)) % 1.0
    return np.minimum(np.searchsorted(ends, points * ends[-1], side="right"), len(mix) - 1).tolist()


def rows_of_classes(mix: Sequence[float], count: int) -> list[int]:
    """Return the classes of `count` rows of a picture: those that are ever stated, in turn."""
    stated = [index for index, share in enumerate(mix) if share > 0]
    return [stated[row % len(stated)] for row in range(count)]
