"""The baselines of synthetic data: standard augmentation, and copy-paste of defects.

Images are uint8 tensors [3, H, W], label maps int64 tensors [H, W] in `0..num_classes`; `num_classes` marks ignored
pixels, and class 0 is the background. All random numbers come from the CPU generator that is passed in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy import ndimage
from torch import Generator, Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

ROTATION = 15.0  # degrees, either way
SCALE = (0.8, 1.25)  # drawn evenly in the logarithm
TRANSLATION = 0.1  # of the side, either way
BRIGHTNESS = CONTRAST = 0.2  # factors of 0.8 to 1.2
SATURATION = 0.1
HUE = 0.02  # of the color circle, either way
BLUR_SHARE, BLUR_SIGMA = 0.1, 0.8  # share of the images; at most so many pixels
Relabel = Callable[[Tensor], Tensor]
"""Class ids -> those that a mirrored image shows: classes called left and right change places."""

NOISE_SHARE, NOISE_DEVIATION = 0.1, 8.0  # share of the images; at most so many gray levels of 255


# --------------------------------------------------------------------------------------- standard augmentation


def standard_augmentation(
    image: Tensor,
    label: Tensor,
    generator: Generator,
    *,
    num_classes: int,
    vertical_flip: bool,
    relabel: Relabel | None = None,
    translation: float = TRANSLATION,
    margin: int = 0,
) -> tuple[Tensor, Tensor]:
    """Return a randomly changed copy of an image and its label map, less `margin` pixels at each border.

    Flips, rotation, scale, translation (at most that share of the side), color jitter, and sometimes a slight blur or
    noise. Labels are sampled by nearest neighbors; pixels from outside are ignored, and have the image's mean color.
    A margin is to be as wide as it takes for none to come from outside.
    """
    _check_pair(image, label)
    draws = iter(torch.rand(14, generator=generator).tolist())
    image, label = _moved(image, label, draws, num_classes, vertical_flip, relabel, translation, margin)
    image = _recolored(image, draws)
    if next(draws) < BLUR_SHARE:
        image = transforms.gaussian_blur(image, [3, 3], [0.1 + next(draws) * (BLUR_SIGMA - 0.1)] * 2)
    if next(draws) < NOISE_SHARE:
        noise = torch.randn(image.shape, generator=generator) * (next(draws) * NOISE_DEVIATION)
        image = (image + noise.to(image.device)).round().clamp(0, 255).to(torch.uint8)
    return image, label


def _check_pair(image: Tensor, label: Tensor) -> None:
    assert image.dtype == torch.uint8
    assert label.dtype == torch.int64
    assert image.shape == (3, *label.shape)


def _moved(
    image: Tensor,
    label: Tensor,
    draws: Iterator[float],
    num_classes: int,
    vertical_flip: bool,
    relabel: Relabel | None,
    translation: float,
    margin: int,
) -> tuple[Tensor, Tensor]:
    """Flip, turn, scale and shift image and label map alike."""
    left_right, upside_down = next(draws) < 0.5, next(draws) < 0.5 and vertical_flip
    if left_right:
        image, label = transforms.horizontal_flip(image), transforms.horizontal_flip(label)
    if upside_down:
        image, label = transforms.vertical_flip(image), transforms.vertical_flip(label)
    if left_right != upside_down and relabel is not None:
        label = relabel(label)
    height, width = label.shape
    angle = _between(-ROTATION, ROTATION, next(draws))
    shift = [_between(-translation, translation, next(draws)) * side for side in (width, height)]
    scale = SCALE[0] * (SCALE[1] / SCALE[0]) ** next(draws)
    if margin:
        return warped(image, label, angle, shift, scale, margin)
    motion = {"angle": angle, "translate": shift, "scale": scale, "shear": [0.0, 0.0]}
    mean = image.float().mean(dim=(1, 2)).tolist()
    image = transforms.affine(image, **motion, interpolation=InterpolationMode.BILINEAR, fill=mean)
    label = transforms.affine(label[None], **motion, interpolation=InterpolationMode.NEAREST, fill=[float(num_classes)])
    return image, label[0]


def warped(
    image: Tensor, label: Tensor, angle: float, shift: Sequence[float], scale: float, margin: int
) -> tuple[Tensor, Tensor]:
    """Turn by `angle` degrees, scale, then shift by (right, down) pixels, around the center; cut `margin` pixels off.

    As torchvision's `affine` does it where nothing comes from outside, but faster: one grid for both, and only the
    pixels that are kept.
    """
    height, width = label.shape
    down = torch.arange(margin, height - margin) - (height - 1) / 2 - shift[1]
    across = torch.arange(margin, width - margin) - (width - 1) / 2 - shift[0]
    cos, sin = math.cos(math.radians(angle)) / scale, math.sin(math.radians(angle)) / scale
    # Where in the source each pixel lies, -1..1 from border to border.
    x = (cos * across[None, :] + sin * down[:, None]) * (2 / width)
    y = (cos * down[:, None] - sin * across[None, :]) * (2 / height)
    grid = torch.stack([x, y], dim=-1)[None].to(image.device)
    sample = partial(nn.functional.grid_sample, grid=grid, padding_mode="border", align_corners=False)
    image = sample(image[None].float())[0].round().to(torch.uint8)
    return image, sample(label[None, None].float(), mode="nearest")[0, 0].long()


def _recolored(image: Tensor, draws: Iterator[float]) -> Tensor:
    """Vary brightness, contrast, saturation and hue."""
    image = transforms.adjust_brightness(image, _between(1 - BRIGHTNESS, 1 + BRIGHTNESS, next(draws)))
    image = transforms.adjust_contrast(image, _between(1 - CONTRAST, 1 + CONTRAST, next(draws)))
    saturation, hue = _between(1 - SATURATION, 1 + SATURATION, next(draws)), _between(-HUE, HUE, next(draws))
    if bool((image[0] == image[1]).all() and (image[1] == image[2]).all()):
        return image  # a gray image would not change, and hue takes as long as all the rest
    return transforms.adjust_hue(transforms.adjust_saturation(image, saturation), hue)


def _between(low: float, high: float, share: float) -> float:
    return low + (high - low) * share


# -------------------------------------------------------------------------------------------------- copy-paste


@dataclass(frozen=True)
class Component:
    """A connected piece of one class in its bounding box: `pixels` uint8 [3, h, w], `mask` bool [h, w]."""

    pixels: Tensor
    mask: Tensor
    label: int


class DefectBank:
    """The 8-connected components of all foreground classes of a dataset, for pasting into other images.

    After Ghiasi et al. 2021, "Simple Copy-Paste is a Strong Data Augmentation Method" (arXiv 2012.07177), without its
    large-scale jitter, and without blending, which made no difference there.
    """

    LEAST_PIXELS = 4  # a smaller component is noise of the annotation
    LARGEST_SHARE = 0.5  # of the image; a larger component would replace the whole image

    def __init__(self, images: Tensor, labels: Tensor, num_classes: int, relabel: Relabel | None = None) -> None:
        """images: uint8 [N, 3, H, W]; labels: int64 [N, H, W] in `0..num_classes`."""
        assert len(images) == len(labels)
        self._relabel = relabel
        self.components: list[Component] = []
        for image, label in zip(images, labels, strict=True):
            _check_pair(image, label)
            ids = label.cpu().numpy()
            for class_id in np.unique(ids[(ids > 0) & (ids < num_classes)]).tolist():
                self._collect(image.cpu(), ids == class_id, class_id)

    def __len__(self) -> int:
        return len(self.components)

    def _collect(self, image: Tensor, of_class: np.ndarray, class_id: int) -> None:
        """Add the components of one class of an image; `of_class` is bool [H, W]."""
        numbered, _ = ndimage.label(of_class, structure=np.ones((3, 3)))
        for number, box in enumerate(ndimage.find_objects(numbered), start=1):
            mask = numbered[box] == number
            if self.LEAST_PIXELS <= mask.sum() <= self.LARGEST_SHARE * of_class.size:
                self.components.append(Component(image[(slice(None), *box)].clone(), torch.from_numpy(mask), class_id))

    def paste(self, image: Tensor, label: Tensor, generator: Generator, *, at_most: int = 3) -> tuple[Tensor, Tensor]:
        """Return copies of an image and its label map with 0 to `at_most` components pasted, all counts equally likely.

        Each is flipped and turned by quarters at random, and lies inside the image. Later ones cover earlier ones.
        A component that does not fit is left out.
        """
        _check_pair(image, label)
        image, label = image.clone(), label.clone()
        count = _below(at_most + 1, generator) if self.components else 0
        for _ in range(count):
            component = self.components[_below(len(self.components), generator)]
            drawn = _turned(component, label.shape, generator, self._relabel)
            if drawn is not None:
                _put(drawn, image, label, generator)
        return image, label


def _below(count: int, generator: Generator) -> int:
    """Draw one of `0..count - 1`."""
    return int(torch.randint(count, (), generator=generator))


def _turned(component: Component, size: torch.Size, generator: Generator, relabel: Relabel | None) -> Component | None:
    """Return the component flipped at random and at a random quarter turn that fits `size`, None if there is none."""
    flip, turns = _below(2, generator), _below(4, generator)
    for quarter_turns in (turns, turns + 1):
        height, width = component.mask.shape[:: -1 if quarter_turns % 2 else 1]
        if height <= size[0] and width <= size[1]:
            pixels, mask = (part.flip(-1) if flip else part for part in (component.pixels, component.mask))
            turned = (part.rot90(quarter_turns, (-2, -1)) for part in (pixels, mask))
            mirrored = flip and relabel is not None
            return Component(*turned, int(relabel(torch.tensor(component.label))) if mirrored else component.label)
    return None


def _put(component: Component, image: Tensor, label: Tensor, generator: Generator) -> None:
    """Paste at a random place, in place."""
    height, width = component.mask.shape
    top = _below(label.shape[0] - height + 1, generator)
    left = _below(label.shape[1] - width + 1, generator)
    mask, pixels = component.mask.to(image.device), component.pixels.to(image.device)
    there = image[:, top : top + height, left : left + width]
    there[:, mask] = pixels[:, mask]
    label[top : top + height, left : left + width][mask] = component.label
