"""Joint geometry of image and mask: one placement is drawn and then applied to both.

Training and sampling share the resize policy; sampling leaves out its random parts. Image (bicubic, antialiased) and
mask (nearest) are sampled at the same pixel centers, so they stay aligned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import resize

from guided_diffusion.conditions.base import Size
from guided_diffusion.data.mirror import FlipPairs, exchanged
from guided_diffusion.runtime.errors import ConfigError


@dataclass(frozen=True)
class Placement:
    """One draw of the geometry: scale to `scaled`, cut out a window of `size` at `offset`, flip it, then turn it."""

    scaled: Size
    offset: tuple[int, int]  # top left corner of the window; negative where the window is larger and gets a border
    size: Size  # before turning
    hflip: bool = False
    vflip: bool = False
    turns: int = 0  # quarter turns, counter-clockwise
    flip_pairs: FlipPairs = ()

    def image(self, image: Tensor) -> Tensor:
        """Place uint8 [C, H, W]: [C, *size], border black."""
        if tuple(image.shape[-2:]) != self.scaled:
            image = resize(image, list(self.scaled), InterpolationMode.BICUBIC, antialias=True)
        return self._cut(image, 0)

    def mask(self, mask: Tensor, border: int) -> Tensor:
        """Place integers [H, W]: every pixel takes the value at its center, the border takes `border`."""
        # In whole numbers: torchvision's NEAREST_EXACT has the same centers, but its float32 is off at some of them.
        rows, columns = (
            ((2 * torch.arange(new) + 1) * old).div(2 * new, rounding_mode="floor")
            for new, old in zip(self.scaled, mask.shape, strict=True)
        )
        return self._cut(mask[rows[:, None], columns], border)

    def label(self, label: Tensor, null_id: int) -> Tensor:
        """Place class ids [H, W] as `mask` does; classes called left and right change places in a mirrored picture."""
        return exchanged(self.mask(label, null_id), self.flip_pairs if self.hflip != self.vflip else ())

    def _cut(self, scaled: Tensor, border: int) -> Tensor:
        """Cut the window out of [..., *scaled], flip and turn it."""
        before = [-start for start in self.offset]  # padding; negative values crop
        after = [start + new - old for start, new, old in zip(self.offset, self.size, self.scaled, strict=True)]
        window = pad(scaled, (before[1], after[1], before[0], after[0]), value=border)
        flips = [dim for dim, flip in ((-1, self.hflip), (-2, self.vflip)) if flip]
        return window.flip(flips).rot90(self.turns, (-2, -1)).contiguous()


@dataclass(frozen=True)
class JointTransform:
    """The resize policy and the augmentations of a run; ConfigError for `rotate90` unless the size is square."""

    image_size: Size
    resize: Literal["crop", "squash", "pad"] = "crop"
    """crop: keep the aspect, cover the size and cut off the rest (at random in training, evenly otherwise). squash:
    scale each side by itself. pad: keep the aspect, fit inside and add a border, half of it on each side: black in
    images, the null id in masks."""
    random_flip: bool = True
    vertical_flip: bool = False
    rotate90: bool = False
    flip_pairs: FlipPairs = ()
    train: bool = True
    """Whether to crop, mirror (each axis with probability 1/2) and turn (0 to 3 quarters) at random."""

    def __post_init__(self) -> None:
        assert self.resize in ("crop", "squash", "pad")
        check_turns(self.image_size, self.rotate90)

    def place(self, size: Size, generator: torch.Generator | None = None) -> Placement:
        """Draw where a picture of `size` (height, width) goes; training needs a CPU generator.

        The number of random values drawn is always the same, so one option does not change the others' draws.
        """
        if not self.train:
            return self._cover(size) if self.resize == "crop" else self._whole(size)
        assert generator is not None, "training needs a generator"
        scale, top, left, hflip, vflip, turns = torch.rand(6, generator=generator, dtype=torch.float64).tolist()
        return replace(
            self._cover(size, (scale, top, left)) if self.resize == "crop" else self._whole(size),
            hflip=self.random_flip and hflip < 0.5,
            vflip=self.vertical_flip and vflip < 0.5,
            turns=int(turns * 4) if self.rotate90 else 0,
            flip_pairs=self.flip_pairs,
        )

    def _cover(self, size: Size, draw: tuple[float, float, float] | None = None) -> Placement:
        """Cover `image_size`; scale and window are centered, or chosen by `draw` (three numbers in [0, 1)).

        The drawn window has 0.8 to 1 of the limiting side, as the random crop of guided-diffusion.
        """
        ratios = [target / old for target, old in zip(self.image_size, size, strict=True)]
        limiting = ratios.index(max(ratios))  # the side that only just covers
        length = self.image_size[limiting]
        if draw is not None:
            longest = math.ceil(length / 0.8 - 1e-9)
            length += int(draw[0] * (longest - length + 1))
        factor = length / size[limiting]
        height, width = (max(target, round(old * factor)) for old, target in zip(size, self.image_size, strict=True))
        spare = (height - self.image_size[0], width - self.image_size[1])
        if draw is None:
            return Placement((height, width), (spare[0] // 2, spare[1] // 2), self.image_size)
        offset = (int(draw[1] * (spare[0] + 1)), int(draw[2] * (spare[1] + 1)))
        return Placement((height, width), offset, self.image_size)

    def _whole(self, size: Size) -> Placement:
        """Squash or pad."""
        if self.resize == "squash":
            return Placement(self.image_size, (0, 0), self.image_size)
        factor = min(target / old for target, old in zip(self.image_size, size, strict=True))
        height, width = (
            max(1, min(target, round(old * factor))) for old, target in zip(size, self.image_size, strict=True)
        )
        offset = (-((self.image_size[0] - height) // 2), -((self.image_size[1] - width) // 2))
        return Placement((height, width), offset, self.image_size)


def augment_mask(
    label: Tensor, edge: Tensor | None, generator: torch.Generator, flip_pairs: FlipPairs = ()
) -> tuple[Tensor, Tensor | None]:
    """Mirror a label map [H, W] and its edges alike in both axes at random and, if it is square, turn it."""
    height, width = label.shape
    square = height == width
    transform = JointTransform((height, width), "squash", vertical_flip=True, rotate90=square, flip_pairs=flip_pairs)
    placement = transform.place((height, width), generator)
    return placement.label(label, 0), None if edge is None else placement.mask(edge, 0)


def check_turns(size: Size, rotate90: bool) -> None:
    """Raise ConfigError if quarter turns are asked for a size that they would change."""
    if rotate90 and size[0] != size[1]:
        raise ConfigError.of("rotate90", f"needs a square image_size, found {list(size)}", "set rotate90 to false")
