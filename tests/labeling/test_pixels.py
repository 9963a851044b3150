"""Which pixels are drawn, and how often."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from guided_diffusion.labeling.maps import ImageMaps
from guided_diffusion.labeling.pixels import PixelPool, Pixels, read_features, standardization
from guided_diffusion.runtime.errors import DataError

LABELS = [
    torch.tensor([[0, 0, 0, 0, 9], [0, 0, 0, 2, 9], [0, 0, 0, 2, 9]]),
    torch.tensor([[0, 0, 9], [0, 0, 9]]),
]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def frequencies(pixels):
    return torch.bincount(pixels.label, minlength=3) / len(pixels.label)


def test_every_drawn_pixel_has_its_label():
    pool = PixelPool(LABELS, 3)
    assert pool.counts.tolist() == [14, 0, 2]
    for pixels in (pool.uniform(500, generator()), pool.balanced(500, generator())):
        for image, position, label in zip(*(each.tolist() for each in vars(pixels).values()), strict=True):
            assert LABELS[image].flatten()[position] == label
        assert 9 not in pixels.label


def test_uniform_draws_have_the_true_frequencies():
    pixels = PixelPool(LABELS, 3).uniform(20000, generator())
    assert torch.allclose(frequencies(pixels), torch.tensor([14 / 16, 0, 2 / 16]), atol=0.02)


def test_balanced_draws_and_the_ratio_that_corrects_them():
    pool = PixelPool(LABELS, 3)
    found = frequencies(pool.balanced(20000, generator()))
    # Half of 2/16, and a quarter of 1/2 twice.
    assert torch.allclose(found, torch.tensor([1 - 0.3125, 0, 0.3125]), atol=0.02)
    ratio = pool.log_ratio(20000)
    assert ratio.tolist() == pytest.approx([np.log(0.6875 / 0.875), 0, np.log(0.3125 / 0.125)], abs=1e-5)


def test_a_quarter_lies_on_rims():
    pool = PixelPool(LABELS[:1], 3)
    pixels = pool.balanced(4000, generator())
    rims = {3, 7, 12, 8, 13}  # the pixels of classes 0 and 2 beside each other
    first = sum(int(position) in rims for position in pixels.position[2000:3000]) / 1000
    assert all(int(position) in rims for position in pixels.position[3000:])
    assert first < 0.9


def test_a_single_class_has_no_rims():
    pool = PixelPool([torch.ones(4, 4, dtype=torch.uint8)], 3)
    assert set(pool.balanced(100, generator()).label.tolist()) == {1}
    assert pool.log_ratio(100).tolist() == pytest.approx([0, 0, 0], abs=1e-6)


def test_draws_depend_on_the_generator_alone():
    pool = PixelPool(LABELS, 3)
    first, again, other = (pool.balanced(100, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.position, again.position)
    assert not torch.equal(first.position, other.position)


def test_labels_without_a_class_are_refused():
    with pytest.raises(DataError) as caught:
        PixelPool([torch.full((4, 4), 255, dtype=torch.uint8)], 3)
    assert caught.value.path == "labeled images"


def test_features_are_in_the_order_of_the_pixels(random_maps):
    images = [ImageMaps(random_maps((4, 2, 3), (2, 5, 5), seed=seed), (6, 7)) for seed in range(3)]
    rng = np.random.default_rng(0)
    image, position = (torch.from_numpy(rng.integers(0, high, 50)) for high in (3, 42))
    out = torch.empty(50, 6)
    read_features(images, Pixels(image, position, image), out)
    for row, number, place in zip(out, image, position, strict=True):
        assert torch.allclose(row, images[number].read(place[None])[0], atol=1e-6)


def test_standardized_features_have_mean_0_and_deviation_1(random_maps):
    maps = random_maps((4, 8, 8))[0] * 5 + 3
    maps[2] = 1000.0
    image = ImageMaps([maps], (8, 8))
    every = Pixels(torch.zeros(64, dtype=torch.int64), torch.arange(64), torch.zeros(64, dtype=torch.int64))
    mean, scale = standardization([image], every, batch=10)
    found = (image.read(torch.arange(64)) - mean) * scale
    assert torch.allclose(found.mean(0), torch.zeros(4), atol=1e-4)
    assert torch.allclose(found.std(0, unbiased=False), torch.tensor([1.0, 1, 0, 1]), atol=1e-4)
