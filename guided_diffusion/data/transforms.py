"""Joint geometry of image and mask: one placement is drawn and then applied to both.

The same resize policy serves training and sampling; only its random parts are left out in sampling. Image and mask are
sampled at the same pixel centers (images bicubic and antialiased, masks nearest), so they stay aligned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from guided_diffusion.runtime.errors import ConfigError

Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class Placement:
    """One draw of the geometry: scale to `scaled`, cut the window at `offset`, then flip and turn it.

    size: height and width of the window, before turning.
    offset: its top left corner in the scaled picture; negative where the window is larger and gets a border.
    turns: quarter turns, counter-clockwise.
    """

    scaled: Size
    offset: tuple[int, int]
    size: Size
    hflip: bool = False
    vflip: bool = False
    turns: int = 0

    @property
    def content(self) -> tuple[int, int, int, int]:
        """Top, left, height and width of what shows the picture, the rest being border; before flips and turns."""
        (top, height), (left, width) = (
            (max(0, -start), min(scaled - start, length) - max(0, -start))
            for start, scaled, length in zip(self.offset, self.scaled, self.size, strict=True)
        )
        return top, left, height, width

    def image(self, image: Tensor) -> Tensor:
        """Return uint8 [C, H, W] placed: [C, *size], border black."""
        if tuple(image.shape[-2:]) != self.scaled:
            image = F.resize(image, list(self.scaled), InterpolationMode.BICUBIC, antialias=True)
        return self._turned(self._window(image, 0))

    def mask(self, mask: Tensor, border: int) -> Tensor:
        """Return integers [H, W] placed: every pixel takes the value at its center, the border takes `border`."""
        # Pixel i of the scaled mask has its center at (i + 1/2) / scaled of the length.
        rows, columns = (
            ((2 * torch.arange(new) + 1) * old).div(2 * new, rounding_mode="floor")
            for new, old in zip(self.scaled, mask.shape, strict=True)
        )
        top, left, height, width = self.content
        first_row, first_column = max(0, self.offset[0]), max(0, self.offset[1])
        rows, columns = rows[first_row : first_row + height], columns[first_column : first_column + width]
        placed = mask.new_full(self.size, border)
        placed[top : top + height, left : left + width] = mask[rows[:, None], columns[None, :]]
        return self._turned(placed)

    def _window(self, image: Tensor, border: int) -> Tensor:
        top, left, height, width = self.content
        first_row, first_column = max(0, self.offset[0]), max(0, self.offset[1])
        shown = image[:, first_row : first_row + height, first_column : first_column + width]
        if (height, width) == self.size:
            return shown
        placed = image.new_full((image.shape[0], *self.size), border)
        placed[:, top : top + height, left : left + width] = shown
        return placed

    def _turned(self, placed: Tensor) -> Tensor:
        flipped = [dim for dim, wanted in ((-1, self.hflip), (-2, self.vflip)) if wanted]
        placed = placed.flip(flipped) if flipped else placed
        return placed.rot90(self.turns, (-2, -1)).contiguous() if self.turns else placed.contiguous()


@dataclass(frozen=True)
class JointTransform:
    """The resize policy and the augmentations of a run.

    image_size: height and width of the result.
    resize: `crop` keeps the aspect ratio, covers the size and cuts off the rest (at random in training, evenly
        otherwise); `squash` scales each side by itself; `pad` keeps the aspect ratio, fits inside and adds a border:
        black in images, the null id in masks, half of it on each side.
    crop_scale: in training `crop` draws the scale such that the window is between these fractions of the limiting
        side: the random crop of guided-diffusion, there with 0.8 to 1.
    random_flip, vertical_flip: mirror left-right, upside down, with probability 1/2 each, in training.
    rotate90: turn by 0 to 3 quarter turns at random in training; ConfigError unless the size is square.
    """

    image_size: Size
    resize: Literal["crop", "squash", "pad"] = "crop"
    random_flip: bool = True
    vertical_flip: bool = False
    rotate90: bool = False
    crop_scale: tuple[float, float] = (0.8, 1.0)
    train: bool = True

    def __post_init__(self) -> None:
        assert self.resize in ("crop", "squash", "pad")
        assert 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1
        check_turns(self.image_size, self.rotate90)

    def __call__(
        self, image: Tensor | None, mask: Tensor, generator: torch.Generator | None = None, *, null_id: int
    ) -> tuple[Tensor | None, Tensor]:
        """Return image (uint8 [C, H, W] or None) and mask (integers [H, W]) at `image_size`, placed alike.

        generator: a CPU generator; needed in training, not used otherwise.
        """
        assert image is None or image.shape[-2:] == mask.shape
        height, width = mask.shape
        placement = self.place((height, width), generator)
        return None if image is None else placement.image(image), placement.mask(mask, null_id)

    def place(self, size: Size, generator: torch.Generator | None = None) -> Placement:
        """Draw where a picture of `size` (height, width) goes.

        Always draws the same number of random values, so switching one option does not change the others' draws.
        """
        if not self.train:
            return self._cover(size, None) if self.resize == "crop" else self._whole(size)
        assert generator is not None, "training needs a generator"
        scale, top, left, hflip, vflip, turns = torch.rand(6, generator=generator, dtype=torch.float64).tolist()
        placed = self._cover(size, (scale, top, left)) if self.resize == "crop" else self._whole(size)
        return Placement(
            placed.scaled,
            placed.offset,
            placed.size,
            hflip=self.random_flip and hflip < 0.5,
            vflip=self.vertical_flip and vflip < 0.5,
            turns=int(turns * 4) if self.rotate90 else 0,
        )

    def _cover(self, size: Size, draw: tuple[float, float, float] | None) -> Placement:
        """Scale such that both sides cover the target and place the window, by `draw` (three of [0, 1)) or centered."""
        ratios = [target / old for target, old in zip(self.image_size, size, strict=True)]
        limiting = ratios.index(max(ratios))  # the side that only just covers
        length = self.image_size[limiting]
        if draw is not None:
            low, high = (math.ceil(length / fraction - 1e-9) for fraction in reversed(self.crop_scale))
            length = low + int(draw[0] * (high - low + 1))
        factor = length / size[limiting]
        height, width = (max(target, round(old * factor)) for old, target in zip(size, self.image_size, strict=True))
        room = (height - self.image_size[0], width - self.image_size[1])
        offset = (
            (room[0] // 2, room[1] // 2)
            if draw is None
            else (int(draw[1] * (room[0] + 1)), int(draw[2] * (room[1] + 1)))
        )
        return Placement((height, width), offset, self.image_size)

    def _whole(self, size: Size) -> Placement:
        """Squash or pad: the whole picture, with half of the border (if any) on each side."""
        if self.resize == "squash":
            return Placement(self.image_size, (0, 0), self.image_size)
        factor = min(target / old for target, old in zip(self.image_size, size, strict=True))
        height, width = (
            max(1, min(target, round(old * factor))) for old, target in zip(size, self.image_size, strict=True)
        )
        return Placement(
            (height, width),
            (-((self.image_size[0] - height) // 2), -((self.image_size[1] - width) // 2)),
            self.image_size,
        )


def augment_mask(
    label: Tensor,
    generator: torch.Generator,
    *,
    edge: Tensor | None = None,
    random_flip: bool = True,
    vertical_flip: bool = False,
    rotate90: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Return a label map [H, W], and its edges [H, W] alike, mirrored and turned at random as in training.

    Raises ConfigError for `rotate90` on a map that is not square.
    """
    height, width = label.shape
    check_turns((height, width), rotate90)
    transform = JointTransform((height, width), "squash", random_flip, vertical_flip, rotate90)
    placement = transform.place((height, width), generator)
    return placement.mask(label, 0), None if edge is None else placement.mask(edge, 0)


def check_turns(size: Size, rotate90: bool) -> None:
    """Raise ConfigError if quarter turns are asked for a size that they would change."""
    if rotate90 and size[0] != size[1]:
        raise ConfigError(f"rotate90: needs a square image_size, found {list(size)}; set rotate90 to false")
