"""Images of a study in memory: whole images, reduced by area to the scale that segmentation models see."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from evaluations.sets import Images, Labels
from evaluations.whole_images import WholeImages
from guided_diffusion.data import visualize
from guided_diffusion.data.area import reduce_image, reduce_label, reduced_size
from guided_diffusion.data.components import Box
from guided_diffusion.data.datasets import read_image, read_mask
from guided_diffusion.data.files import check_sizes
from guided_diffusion.data.intensity import ImageRange
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.native_image import NativeImage
from guided_diffusion.data.pairing import GoodImage, Pair
from guided_diffusion.samples.reader import SampleFolder, open_samples, with_ignored


@dataclass(frozen=True)
class StudyView:
    """How files become images of the study."""

    encoding: LabelEncoding
    channels: Literal[1, 3]
    scale: float
    image_range: ImageRange = "auto"
    background: int = 0

    @property
    def _dtype(self) -> type[np.integer]:
        return np.uint8 if self.encoding.num_classes < 256 else np.int32

    def reduced(self, image: NDArray[np.uint8], label: NDArray[np.integer]) -> tuple[Images, Labels]:
        """Return an image [H, W, C] and its label map [H, W] as the study has them, [h, w, 3] and [h, w]."""
        return self.reduced_image(image), self.reduced_label(label)

    def reduced_image(self, image: NDArray[np.uint8]) -> Images:
        """Return an image [H, W, C] as the study has it, [h, w, 3]; the colors of a gray one are the same memory."""
        height, width = size = reduced_size(image.shape[:2], self.scale)
        planes = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        if size != image.shape[:2]:
            planes = reduce_image(planes, size, (0, height), (0, width))
        pixels = np.ascontiguousarray(planes.numpy().transpose(1, 2, 0))
        return np.broadcast_to(pixels, (height, width, 3))

    def reduced_label(self, label: NDArray[np.integer]) -> Labels:
        """Return a label map [H, W] as the study has it, [h, w]."""
        height, width = size = reduced_size(label.shape, self.scale)
        ids = torch.from_numpy(np.ascontiguousarray(label))
        if size != label.shape:
            options = {"background": self.background, "null_id": self.encoding.num_classes}
            ids = reduce_label(ids, size, (0, height), (0, width), **options)
        return ids.numpy().astype(self._dtype)

    def gathered(self, parts: Iterable[tuple[str, Images, Labels]]) -> WholeImages:
        """Return images of name, pixels and label map, as the study has these."""
        names, images, labels = [], [], []
        for name, image, label in parts:
            names.append(name)
            images.append(image)
            labels.append(label)
        return WholeImages(tuple(images), tuple(labels), tuple(names), self.encoding.num_classes)

    def read_pairs(self, pairs: Sequence[Pair], name: str) -> WholeImages:
        """Return pairs of the real dataset; `name` is that of the progress bar. DataError for files that changed."""
        bar = tqdm(pairs, desc=f"reading {name}", unit="pair")
        return self.gathered((pair.stem, *self.read(pair)) for pair in bar)

    def read(self, pair: Pair) -> tuple[Images, Labels]:
        """Return image [h, w, 3] and label map [h, w] of a pair as the study has them. DataError as `read_pairs`."""
        return self.reduced(*self.pixels(pair))

    def pixels(self, pair: Pair) -> tuple[NDArray[np.uint8], NDArray[np.integer]]:
        """Return image [H, W, C] and label map [H, W] of a pair at their own size. DataError as `read_pairs`."""
        image = read_image(pair.image, self.channels, upright=pair.upright, image_range=self.image_range)
        label = read_mask(pair.mask, self.encoding, upright=pair.upright)
        check_sizes(pair.image, image.shape[-2:], pair.mask, label.shape)
        return image.numpy().transpose(1, 2, 0), label.numpy()

    def read_good(self, images: Sequence[GoodImage], name: str) -> WholeImages:
        """Return good images, as `read_pairs` does; those without a mask are background everywhere."""
        bar = tqdm(images, desc=f"reading {name}", unit="image")
        return self.gathered((good.stem, *self._good(good)) for good in bar)

    def _good(self, good: GoodImage) -> tuple[Images, Labels]:
        if good.mask is not None:
            return self.read(Pair(good.stem, good.image, good.mask, upright=good.upright))
        pixels = read_image(good.image, self.channels, upright=good.upright, image_range=self.image_range).numpy()
        image = self.reduced_image(pixels.transpose(1, 2, 0))
        return image, np.broadcast_to(self._dtype(self.background), image.shape[:2])  # one number of memory

    def read_windows(self, samples: SampleFolder) -> WholeImages:
        """Return the windows that `sample` wrote, which are of the scale already."""
        encoding = with_ignored(self.encoding, samples).with_ignore()  # uncertain pixels, and borders
        pairs = open_samples(samples, encoding, self.channels)
        images, labels = [], []
        for pair in tqdm(pairs, desc="reading samples", unit="pair"):
            image = read_image(pair.image, self.channels, image_range="full").numpy()
            images.append(visualize.to_rgb(np.ascontiguousarray(image.transpose(1, 2, 0))))
            labels.append(read_mask(pair.mask, encoding).numpy())
        names = tuple(pair.stem for pair in pairs)
        return WholeImages(tuple(images), tuple(labels), names, encoding.num_classes)


def seen(good: NativeImage, pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Return what a model sees, [H, W, C], of a good image whose pixels were changed to these."""
    height, width = good.size
    changed = NativeImage(pixels, good.alpha, good.low, good.high)
    return visualize.quantize(changed.region(Box(0, 0, height, width)).numpy()[None])[0]
