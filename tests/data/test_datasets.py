from __future__ import annotations

import errno
import os

import numpy as np
import pytest
import torch
from PIL import Image

from guided_diffusion.data.datasets import (
    ExampleKey,
    SegmentationDataset,
    decoded_bytes,
    read_condition,
    read_image,
    read_mask,
)
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.pairing import MaskEntry, Pair, index_pairs
from guided_diffusion.data.transforms import JointTransform
from guided_diffusion.runtime.errors import DataError

ENCODING = LabelEncoding.identity(3)


@pytest.fixture
def pairs(build):
    rng = np.random.default_rng(1)
    root = build({f"m{i}": rng.integers(0, 3, (20 + i, 30), np.uint8) for i in range(4)})
    return index_pairs(root, get_mode("multi-class"), "train")[0]


def dataset(pairs, **options) -> SegmentationDataset:
    return SegmentationDataset(pairs, ENCODING, JointTransform((16, 16)), **options)


def saved(tmp_path, image: Image.Image, name: str = "a.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_all_modes(tmp_path, channels):
    gray = np.array([[0, 128], [255, 64]], np.uint8)
    rgb = np.stack([gray] * 3, -1)
    palette = Image.fromarray(np.array([[0, 1], [2, 3]], np.uint8))
    palette.putpalette([level for value in (0, 128, 255, 64) for level in [value] * 3])
    opaque = np.full_like(gray, 255)
    for image in (
        Image.fromarray(gray),
        Image.fromarray(rgb),
        palette,
        Image.fromarray(np.dstack([gray, opaque])),
        Image.fromarray(np.dstack([rgb, opaque])),
        Image.fromarray(gray.astype(np.uint16) * 257),
    ):
        read = read_image(saved(tmp_path, image), channels)
        assert read.dtype == torch.uint8
        assert read.tolist() == [gray.tolist()] * channels, image.mode


def test_transparency_is_composited_over_black(tmp_path):
    image = Image.fromarray(np.array([[[200, 100, 50, 0], [200, 100, 50, 255], [200, 100, 50, 128]]], np.uint8))
    assert read_image(saved(tmp_path, image), 3)[:, 0].T.tolist() == [[0, 0, 0], [200, 100, 50], [100, 50, 25]]
    palette = Image.fromarray(np.array([[0, 1]], np.uint8))
    palette.putpalette([90, 90, 90, 80, 80, 80])
    assert read_image(saved(tmp_path, palette, transparency=0), 1).tolist() == [[[0, 80]]]


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to view
    path = saved(tmp_path, Image.fromarray(np.array([[10, 20, 30], [40, 50, 60]], np.uint8)), exif=exif)
    assert read_image(path, 1).tolist() == [[[40, 10], [50, 20], [60, 30]]]


@pytest.mark.parametrize(
    ("content", "found"), [(b"", "0 bytes"), (b"hello", "format"), (None, os.strerror(errno.ENOENT))]
)
def test_unreadable_files(tmp_path, content, found):
    if content is not None:
        (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_image(tmp_path / "a.png", 3)
    assert caught.value.path == str(tmp_path / "a.png")
    assert found in caught.value.found
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_truncated_files(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    path = saved(tmp_path, Image.fromarray(noise), "a" + suffix)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(DataError) as error:
        read_image(path, 3)
    assert error.value.path == str(path)
    assert "truncated" in error.value.found


def test_examples_have_the_documented_form(pairs):
    example = dataset(pairs, with_edges=True)[ExampleKey(0, 1, 5, 1.0)]
    assert example["image"].shape == (3, 16, 16)
    assert -1 <= example["image"].min() < example["image"].max() <= 1
    assert example["label"].dtype == torch.uint8
    assert example["edge"].dtype == torch.bool
    assert (example["index"], example["batch_index"], example["weight"]) == (1, 5, 1.0)


def test_many_classes_are_int16(tmp_path):
    mask = saved(tmp_path, Image.fromarray(np.array([[0, 299]], np.uint16)), "m.png")
    label, *_ = read_condition(
        MaskEntry("m", str(mask)), LabelEncoding.identity(300), JointTransform((1, 2), train=False)
    )
    assert label.dtype == torch.int16
    assert label.tolist() == [[0, 299]]
    assert read_mask(mask, LabelEncoding.identity(300)).dtype == torch.int32


def test_an_example_depends_on_seed_epoch_and_index_alone(pairs):
    key = ExampleKey(2, 1, 0, 1.0)
    first = dataset(pairs, seed=4)
    for other in range(4):
        first[ExampleKey(0, other, other, 1.0)]
    torch.rand(3)
    again = dataset(pairs, seed=4, cache_images=False)
    assert torch.equal(first[key]["image"], again[key._replace(batch_index=3)]["image"])
    epochs = [first[ExampleKey(epoch, 1, 0, 1.0)]["image"] for epoch in range(6)]
    assert any(not torch.equal(epochs[0], other) for other in epochs[1:])
    assert not torch.equal(epochs[0], dataset(pairs, seed=5)[ExampleKey(0, 1, 0, 1.0)]["image"]) or not torch.equal(
        epochs[1], dataset(pairs, seed=5)[ExampleKey(1, 1, 0, 1.0)]["image"]
    )


def test_cached_examples_equal_uncached_ones(pairs):
    cached, plain = (
        dataset(pairs, cache_images=True, with_edges=True),
        dataset(pairs, cache_images=False, with_edges=True),
    )
    assert cached.caches
    assert not plain.caches
    for epoch in range(2):
        for index in range(len(pairs)):
            one, other = (d[ExampleKey(epoch, index, 0, 1.0)] for d in (cached, plain))
            assert all(torch.equal(one[name], other[name]) for name in ("image", "label", "edge"))


def test_auto_caches_what_fits(pairs, monkeypatch):
    assert decoded_bytes(pairs, 3) == pytest.approx(sum((20 + i) * 30 * 4 for i in range(4)))
    assert dataset(pairs).caches
    monkeypatch.setattr("guided_diffusion.data.datasets.available_memory", lambda: 4 * decoded_bytes(pairs, 3))
    assert dataset(pairs, num_workers=1).caches
    several = dataset(pairs, num_workers=2)
    assert not several.caches
    assert "num_workers" in several.cache_note
    assert "2 loading processes" in several.cache_note
    assert dataset(pairs, num_workers=2, cache_images=True).cache_note == ""


def test_edges_come_from_the_instance_map_after_scaling(tmp_path):
    label = saved(tmp_path, Image.fromarray(np.zeros((8, 8), np.uint8)), "m.png")
    ids = np.repeat(np.array([[24001, 24002]], np.uint16), 8, 0).repeat(4, 1)
    instance = saved(tmp_path, Image.fromarray(ids), "i.png")
    entry = MaskEntry("m", str(label), str(instance))
    _, edge, _ = read_condition(entry, ENCODING, JointTransform((4, 4), train=False), with_edges=True)
    assert edge.tolist() == [[False, True, True, False]] * 4


def test_sizes_that_differ_are_an_error(tmp_path, pairs):
    image = saved(tmp_path, Image.new("RGB", (20, 30)))
    with pytest.raises(DataError) as error:
        dataset([Pair("a", str(image), pairs[0].mask)])[ExampleKey(0, 0, 0, 1.0)]
    assert error.value.path == str(image)
    assert all(token in error.value.found for token in ("20x30", pairs[0].mask, "30x20", "EXIF"))


def test_ignored_values_become_the_null_id(tmp_path):
    encoding = LabelEncoding(2, ("a", "b"), ((0,), (1,)), ignore_values=(255,))
    path = saved(tmp_path, Image.fromarray(np.array([[0, 1, 255]], np.uint8)))
    assert read_mask(path, encoding).tolist() == [[0, 1, 2]]
