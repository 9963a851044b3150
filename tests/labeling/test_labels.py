"""Label maps as the published code reads them, and folds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from guided_diffusion.labeling.folds import split_folds
from guided_diffusion.labeling.labels import PUBLISHED_MIN_REGION, resize_image, resize_nearest, without_small
from guided_diffusion.labeling.pixels import PixelPool


def test_recorded_labels_and_training_pixels(golden):
    _, arrays = golden("labels")
    resized = [resize_nearest(label, (32, 32)) for label in arrays["raw"]]
    assert np.array_equal(resized, arrays["label_resized"])
    cleaned = [without_small(label, 255, PUBLISHED_MIN_REGION) for label in resized]
    kept = [np.flatnonzero(label != 255) for label in cleaned]
    assert np.array_equal(np.concatenate(kept), arrays["pixel_index"])
    assert np.array_equal(
        np.concatenate([label.flat[index] for label, index in zip(cleaned, kept, strict=True)]), arrays["pixel_label"]
    )
    pool = PixelPool([torch.from_numpy(label) for label in cleaned], 9)
    assert len(pool) == len(arrays["pixel_label"])
    assert pool.counts.tolist() == np.bincount(arrays["pixel_label"], minlength=9).tolist()
    pixels = pool.take(torch.arange(len(pool)))
    wanted = zip(
        np.repeat([0, 1], [len(index) for index in kept]), arrays["pixel_index"], arrays["pixel_label"], strict=True
    )
    assert sorted(zip(*(each.tolist() for each in vars(pixels).values()), strict=True)) == sorted(
        tuple(map(int, pixel)) for pixel in wanted
    )


def test_recorded_images(golden):
    _, arrays = golden("labels")
    images = np.stack([resize_image(Image.fromarray(image), (32, 32)) for image in arrays["images"]])
    assert images.dtype == np.float32
    assert np.allclose(images, arrays["image_ddpm"], atol=1e-5)
    # What MAE and SwAV take: less the mean of ImageNet, over its deviation.
    mean, deviation = (np.reshape(each, (3, 1, 1)) for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    assert np.allclose(((images + 1) / 2 - mean) / deviation, arrays["image_mae"], atol=1e-5)


def test_resizing_to_the_same_size_changes_nothing():
    label = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert np.array_equal(resize_nearest(label, (3, 4)), label)
    assert resize_nearest(label, (2, 2)).tolist() == [[0, 2], [4, 6]]


@pytest.mark.parametrize(("images", "folds"), [(10, 5), (7, 3), (4, 4)])
def test_each_image_is_held_out_once(images, folds):
    split = split_folds(images, folds, 3)
    assert sorted(image for fold in split for image in fold) == list(range(images))
    assert {len(fold) for fold in split} <= {images // folds, -(-images // folds)}
    assert split == split_folds(images, folds, 3)
    assert images < 7 or split != split_folds(images, folds, 4)
    assert split == split_folds(images, folds, 3, list(range(images)))


def test_groups_are_held_out_whole():
    groups = [0, 0, 0, 1, 2, 2, 3, 4, 4, 4]
    split = split_folds(10, 3, 3, groups)
    assert sorted(image for fold in split for image in fold) == list(range(10))
    held = [{groups[image] for image in fold} for fold in split]
    assert sum(map(len, held)) == 5
    assert {len(fold) for fold in held} == {1, 2}
