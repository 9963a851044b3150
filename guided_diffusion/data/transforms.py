"""Joint geometry of image and mask: one placement is drawn and then applied to both.

Training and sampling share the resize policy; sampling leaves out its random parts. Image (bicubic and antialiased, or
by area) and mask (nearest, or by area) are sampled at the same pixel centers, so they stay aligned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from guided_diffusion.conditions.base import Size
from guided_diffusion.data.area import Span, reduce_image, reduce_label, reduced_size
from guided_diffusion.data.components import Box
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
    image_by_area: bool = False
    label_by_area: bool = False
    background: int = 0  # of the area rule

    def image(self, image: Tensor) -> Tensor:
        """Place uint8 [C, H, W]: [C, *size], border black."""
        if tuple(image.shape[-2:]) == self.scaled:
            return self._finish(image[(..., *(slice(*span) for span in self.seen))], 0)
        if self.image_by_area:
            return self._finish(reduce_image(image, self.scaled, *self.seen), 0)
        image = resize_bicubic(image, self.scaled)
        return self._finish(image[(..., *(slice(*span) for span in self.seen))], 0)

    def mask(self, mask: Tensor, border: int) -> Tensor:
        """Place integers [H, W]: every pixel takes the value at its center, the border takes `border`."""
        rows, columns = (index[slice(*span)] for index, span in zip(self.sampled(mask.shape), self.seen, strict=True))
        return self._finish(mask[rows[:, None], columns], border)

    def inside(self) -> Tensor:
        """Return which pixels of the window show the picture, not its border: booleans [*size]."""
        (top, bottom), (left, right) = self.seen
        return self._finish(torch.ones(bottom - top, right - left, dtype=torch.bool), 0)

    def sampled(self, size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the rows and columns of a picture of `size` (height, width) whose pixels `scaled` takes by nearest."""
        # In whole numbers: torchvision's NEAREST_EXACT has the same centers, but its float32 is off at some of them.
        rows, columns = (
            ((2 * torch.arange(new) + 1) * old).div(2 * new, rounding_mode="floor")
            for new, old in zip(self.scaled, size, strict=True)
        )
        return rows, columns

    def label(self, label: Tensor, null_id: int) -> Tensor:
        """Place class ids [H, W] as `mask` does, or by the area rule; the border is null.

        Classes called left and right change places in a mirrored picture.
        """
        if self.label_by_area and tuple(label.shape) != self.scaled:
            ids = {"background": self.background, "null_id": null_id}
            placed = self._finish(reduce_label(label, self.scaled, *self.seen, **ids), null_id)
        else:
            placed = self.mask(label, null_id)
        return exchanged(placed, self.flip_pairs if self.mirrored else ())

    def boxes(self, boxes: Tensor, size: Size) -> Tensor:
        """Place boxes [N, 4] (x0, y0, x1, y1 in pixels of a picture of `size`), cut off at the border of the window."""
        # Imported here, as that takes seconds, and most runs have no boxes.
        from torchvision.transforms.v2.functional import crop, horizontal_flip, resize, rotate, vertical_flip
        from torchvision.tv_tensors import BoundingBoxes

        placed = resize(BoundingBoxes(boxes, format="XYXY", canvas_size=size), list(self.scaled))
        placed = crop(placed, *self.offset, *self.size)
        placed = horizontal_flip(placed) if self.hflip else placed
        placed = vertical_flip(placed) if self.vflip else placed
        placed = rotate(placed, 90 * self.turns, expand=True) if self.turns else placed
        return placed.as_subclass(Tensor)

    @property
    def window(self) -> Size:
        """Height and width of the placed picture."""
        return self.size if self.turns % 2 == 0 else (self.size[1], self.size[0])

    @property
    def mirrored(self) -> bool:
        """Whether left and right are exchanged."""
        return self.hflip != self.vflip

    def shown(self, size: Size) -> tuple[float, float, float, float]:
        """Return the part of a picture of `size` that is in the window: x0, y0, x1, y1 in its pixels."""
        (top, bottom), (left, right) = self.seen
        down, across = size[0] / self.scaled[0], size[1] / self.scaled[1]
        return left * across, top * down, right * across, bottom * down

    @property
    def seen(self) -> tuple[Span, Span]:
        """The rows and the columns of the scaled picture that are in the window."""
        rows, columns = (
            (min(max(0, start), old), max(0, min(start + new, old)))
            for start, new, old in zip(self.offset, self.size, self.scaled, strict=True)
        )
        return rows, columns

    def _finish(self, seen: Tensor, border: int) -> Tensor:
        """Add the border around what is seen of the picture, flip and turn it."""
        (top, bottom), (left, right) = self.seen
        before = (max(0, -self.offset[0]), max(0, -self.offset[1]))
        after = (self.size[0] - before[0] - (bottom - top), self.size[1] - before[1] - (right - left))
        window = pad(seen, (before[1], after[1], before[0], after[0]), value=border)
        flips = [dim for dim, flip in ((-1, self.hflip), (-2, self.vflip)) if flip]
        return window.flip(flips).rot90(self.turns, (-2, -1)).contiguous()


@dataclass(frozen=True)
class Target:
    """What a window shows, in pixels of the picture: a component's box, and a pixel of it that is always seen."""

    box: Box
    point: tuple[int, int]  # row and column


@dataclass(frozen=True)
class JointTransform:
    """The resize policy and the augmentations of a run; ConfigError for `rotate90` unless the size is square."""

    image_size: Size
    resize: Literal["crop", "squash", "pad", "window"] = "crop"
    """crop: keep the aspect, cover the size and cut off the rest (at random in training, evenly otherwise). squash:
    scale each side by itself. pad: keep the aspect, fit inside and add a border, half of it on each side: black in
    images, the null id in masks. window: scale by `scale` and cut a window out, with such a border where the picture
    is smaller."""
    scale: float = 1.0
    mask_resize: Literal["nearest", "area"] | None = None  # None: by area for windows, else nearest
    background: int = 0  # of the area rule
    random_flip: bool = True
    vertical_flip: bool = False
    rotate90: bool = False
    brightness: float = 0.0  # largest shift of the gray levels at random, as a share of their range
    flip_pairs: FlipPairs = ()
    train: bool = True
    """Whether to crop, mirror (each axis with probability 1/2) and turn (0 to 3 quarters) at random."""

    def __post_init__(self) -> None:
        assert self.resize in ("crop", "squash", "pad", "window")
        check_turns(self.image_size, self.rotate90)

    @property
    def masks_by_area(self) -> bool:
        """Whether masks shrink by the area rule."""
        return self.resize == "window" if self.mask_resize is None else self.mask_resize == "area"

    def place(self, size: Size, generator: torch.Generator | None = None, target: Target | None = None) -> Placement:
        """Draw where a picture of `size` (height, width) goes; training needs a CPU generator.

        target: what a window should show. The number of random values drawn is always the same, so one option does not
        change the others' draws.
        """
        rules = {
            "image_by_area": self.resize == "window",
            "label_by_area": self.masks_by_area,
            "background": self.background,
        }
        if not self.train:
            return replace(self._fit(size, None, target), **rules)
        assert generator is not None, "training needs a generator"
        scale, top, left, hflip, vflip, turns = torch.rand(6, generator=generator, dtype=torch.float64).tolist()
        return replace(
            self._fit(size, (scale, top, left), target),
            **rules,
            hflip=self.random_flip and hflip < 0.5,
            vflip=self.vertical_flip and vflip < 0.5,
            turns=int(turns * 4) if self.rotate90 else 0,
            flip_pairs=self.flip_pairs,
        )

    def brightened(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Return float gray levels 0..255 brighter or darker by a random share of up to `brightness` of the range."""
        if not (self.train and self.brightness):
            return image
        shift = 2 * float(torch.rand((), generator=generator, dtype=torch.float64)) - 1
        return (image + 255 * self.brightness * shift).clamp(0, 255)

    def _fit(self, size: Size, draw: tuple[float, float, float] | None, target: Target | None) -> Placement:
        if self.resize == "window":
            return self._window(size, None if draw is None else draw[1:], target)
        return self._cover(size, draw) if self.resize == "crop" else self._whole(size)

    def _window(self, size: Size, draw: tuple[float, float] | None, target: Target | None) -> Placement:
        """Cut out a window that shows `target`, wholly where it fits; centered, or chosen by `draw` (in [0, 1))."""
        scaled = reduced_size(size, self.scale)
        offset = []
        for axis, (old, full, length) in enumerate(zip(size, scaled, self.image_size, strict=True)):
            low, high = min(0, full - length), max(0, full - length)  # a smaller picture lies anywhere in its border
            if target is not None and high > 0:
                point = target.point[axis] * full // old
                first, last = (target.box.top, target.box.bottom) if axis == 0 else (target.box.left, target.box.right)
                first, last = first * full // old, -(-last * full // old)
                low, high = point - length + 1, point
                if last - first <= length:
                    low, high = max(low, last - length), min(high, first)
                low, high = (min(max(value, 0), full - length) for value in (low, high))
            offset.append((low + high) // 2 if draw is None else low + int(draw[axis] * (high - low + 1)))
        return Placement(scaled, tuple(offset), self.image_size)

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


def resize_bicubic(image: Tensor, size: Size) -> Tensor:
    """Return [C, H, W] at `size`, antialiased; what torchvision's resize gives, which takes seconds to import."""
    values = image if image.dtype == torch.uint8 or image.is_floating_point() else image.float()
    resized = interpolate(values[None], size, mode="bicubic", align_corners=False, antialias=True)[0]
    return resized if resized.dtype == image.dtype else resized.round().to(image.dtype)


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
