"""Augmentation that does not leak into samples: the network is told of each image how it was changed, and nothing in
sampling.

Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", 2022, section 5 and appendix F.2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from guided_diffusion.conditions.base import Size
from guided_diffusion.data.mirror import FlipPairs
from guided_diffusion.data.transforms import Placement

SCALE_UNIT = 0.2  # binary logarithm of the scale
SHIFT_UNIT = 0.125  # share of the side
BRIGHTNESS_UNIT = 0.1  # share of the gray levels
LARGEST = 2.0  # units; farther draws of the normal distribution are moved here


@dataclass(frozen=True)
class Augmentation:
    """One draw: in this order shift, scale, mirror, turn and change the brightness of a window."""

    hflip: bool = False
    vflip: bool = False
    turns: int = 0  # quarter turns, counter-clockwise
    scale: float = 0.0  # in units, as the next ones; above 0 the content becomes larger
    shift: tuple[float, float] = (0.0, 0.0)  # of the content, down and right, before the placement mirrors and turns
    brightness: float = 0.0

    @staticmethod
    def draw(probability: float, generator: torch.Generator, *, square: bool) -> Augmentation:
        """Draw each of flips, turn (of squares), scale, shift and brightness with `probability`, else leave it out.

        A flip that is drawn mirrors every second image, a turn has 0 to 3 quarters, as in the paper.
        """
        chosen = (torch.rand(6, generator=generator, dtype=torch.float64) < probability).tolist()
        evenly = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
        units = torch.randn(4, generator=generator, dtype=torch.float64).clamp(-LARGEST, LARGEST).tolist()
        return Augmentation(
            hflip=chosen[0] and evenly[0] < 0.5,
            vflip=chosen[1] and evenly[1] < 0.5,
            turns=int(4 * evenly[2]) if chosen[2] and square else 0,
            scale=units[0] if chosen[3] else 0.0,
            shift=(units[1], units[2]) if chosen[4] else (0.0, 0.0),
            brightness=units[3] if chosen[5] else 0.0,
        )

    def applied(self, placement: Placement) -> AugmentedPlacement:
        """Return where the picture of `placement` goes, cut out larger, smaller or elsewhere."""
        factor = 2 ** (self.scale * SCALE_UNIT)
        size = tuple(max(1, round(side / factor)) for side in placement.size)
        offset, shift = [], []
        for start, old, new, full, units in zip(
            placement.offset, placement.size, size, placement.scaled, self.shift, strict=True
        ):
            still = (2 * start + old - new) // 2
            # At least one row and column of the picture stay in sight.
            moved = min(max(still - round(units * SHIFT_UNIT * new), 1 - new), full - 1)
            offset.append(moved)
            shift.append((still - moved) / (SHIFT_UNIT * new) if units else 0.0)
        cut = replace(placement, size=size, offset=tuple(offset))
        seen_as = placement.size if placement.turns % 2 == 0 else placement.size[::-1]
        then = Placement(
            seen_as,
            (0, 0),
            seen_as,
            hflip=self.hflip,
            vflip=self.vflip,
            turns=self.turns,
            flip_pairs=placement.flip_pairs,
            label_by_area=placement.label_by_area and factor < 1,
            background=placement.background,
        )
        return AugmentedPlacement(cut, then, replace(self, shift=tuple(shift)))

    def brightened(self, image: Tensor) -> Tensor:
        """Return float gray levels 0..255 made brighter or darker."""
        if not self.brightness:
            return image
        return (image + 255 * BRIGHTNESS_UNIT * self.brightness).clamp(0, 255)


@dataclass(frozen=True)
class AugmentedPlacement:
    """A placement with another window, and what is done with this window after it was mirrored and turned."""

    cut: Placement
    then: Placement  # of the window
    augmentation: Augmentation

    @property
    def moved(self) -> bool:
        """Whether the window is not that of the picture without augmentation."""
        return self.augmentation.scale != 0 or self.augmentation.shift != (0, 0)

    @property
    def label_by_area(self) -> bool:
        return self.cut.label_by_area

    def parameters(self) -> Tensor:
        """Return the `AUGMENT_PARAMETERS`, float32."""
        ours, cut = self.augmentation, self.cut
        down, right = (-v if flip else v for v, flip in zip(ours.shift, (cut.vflip, cut.hflip), strict=True))
        for _ in range(cut.turns):  # what was on the right is now above
            down, right = -right, down
        quarters = (ours.turns in (1, 2), ours.turns in (2, 3))
        return torch.tensor([ours.hflip, ours.vflip, *quarters, ours.scale, down, right, ours.brightness]).float()

    def image(self, image: Tensor) -> Tensor:
        """Place uint8 [C, H, W], border black; what is next to the border is not darkened by it."""
        window = self.cut.image(image)
        if tuple(window.shape[-2:]) == self.then.scaled:
            return self.then.image(window)
        return self.then.image(_continued(window, self.cut.inside())) * self.inside()

    def mask(self, mask: Tensor, border: int) -> Tensor:
        """Place integers [H, W]: every pixel takes the value at its center, the border takes `border`."""
        return self.then.mask(self.cut.mask(mask, border), border)

    def label(self, label: Tensor, null_id: int) -> Tensor:
        """Place class ids [H, W] as `mask` does, or by the area rule; the border is null."""
        placed = self.then.label(self.cut.label(label, null_id), null_id)
        return placed.masked_fill(~self.inside(), null_id)  # the area rule may see the picture in half of a pixel

    def boxes(self, boxes: Tensor, size: Size) -> Tensor:
        """Place boxes as `Placement.boxes` does."""
        return self.then.boxes(self.cut.boxes(boxes, size), self.cut.window)

    @property
    def window(self) -> Size:
        return self.then.window

    @property
    def mirrored(self) -> bool:
        return self.cut.mirrored != self.then.mirrored

    @property
    def flip_pairs(self) -> FlipPairs:
        return self.cut.flip_pairs

    def shown(self, size: Size) -> tuple[float, float, float, float]:
        """Return the part of a picture that is in the window, as `Placement.shown` does."""
        return self.cut.shown(size)

    def inside(self) -> Tensor:
        """Return which pixels show the picture, not a border: booleans [H, W]."""
        return self.then.mask(self.cut.inside(), 0)


def _continued(window: Tensor, inside: Tensor) -> Tensor:
    """Return a window [C, H, W] with its border filled from the next pixel of the picture, a rectangle."""
    rows, columns = (torch.nonzero(inside.any(dim))[:, 0].tolist() for dim in (1, 0))
    seen = window[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    around = (columns[0], window.shape[2] - 1 - columns[-1], rows[0], window.shape[1] - 1 - rows[-1])
    return pad(seen.float()[None], around, mode="replicate")[0].to(window.dtype)
