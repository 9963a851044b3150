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

    def reduced(self, image: NDArray[np.uint8], label: NDArray[np.integer]) -> tuple[Images, Labels]:
        """Return an image [H, W, C] and its label map [H, W] as the study has them, [h, w, 3] and [h, w]."""
        height, width = size = reduced_size(label.shape, self.scale)
        spans = (0, height), (0, width)
        planes = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        ids = torch.from_numpy(np.ascontiguousarray(label))
        null_id = self.encoding.num_classes
        if size != tuple(label.shape):
            planes = reduce_image(planes, size, *spans)
            ids = reduce_label(ids, size, *spans, background=self.background, null_id=null_id)
        dtype = np.uint8 if null_id < 256 else np.int32
        return visualize.to_rgb(planes.numpy().transpose(1, 2, 0)), ids.numpy().astype(dtype)

    def gathered(self, parts: Iterable[tuple[str, NDArray[np.uint8], NDArray[np.integer]]]) -> WholeImages:
        """Return (name, image [H, W, C], label map [H, W]) of each image as the study has them."""
        names, images, labels = [], [], []
        for name, image, label in parts:
            small, ids = self.reduced(image, label)
            names.append(name)
            images.append(small)
            labels.append(ids)
        return WholeImages(tuple(images), tuple(labels), tuple(names), self.encoding.num_classes)

    def read_pairs(self, pairs: Sequence[Pair], name: str) -> WholeImages:
        """Return pairs of the real dataset; `name` is that of the progress bar. DataError for files that changed."""
        bar = tqdm(pairs, desc=f"reading {name}", unit="pair")
        return self.gathered((pair.stem, *self.pixels(pair)) for pair in bar)

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

    def _good(self, good: GoodImage) -> tuple[NDArray[np.uint8], NDArray[np.integer]]:
        if good.mask is not None:
            return self.pixels(Pair(good.stem, good.image, good.mask, upright=good.upright))
        image = read_image(good.image, self.channels, upright=good.upright, image_range=self.image_range).numpy()
        return image.transpose(1, 2, 0), np.full(image.shape[-2:], self.background, np.uint8)

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
