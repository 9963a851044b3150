"""MAE and SwAV: recorded features, and strict loading of their published files."""

from __future__ import annotations

import argparse

import numpy as np
import pytest
import torch
from recorded import arrays_of, probed, record_of, weights_of

from guided_diffusion.features.vision import VIT_L8, MaeFeatures, MaeShape, SwavFeatures
from guided_diffusion.runtime.errors import CheckpointError

TINY = MaeShape(side=32, patch=8, width=64, depth=4, heads=4, blocks=2)
FP32 = {"dtype": torch.float32}


def normalized(side: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(7).standard_normal((1, 3, side, side)).astype(np.float32))


@pytest.fixture(scope="module")
def mae_file(tmp_path_factory):
    """A file as MAE's training writes it, with what belongs to the decoder and with the arguments of the training."""
    path = tmp_path_factory.mktemp("mae") / "mae.pth"
    record = record_of("ddpmseg_mae_tiny")
    content = {"model": weights_of(record["state_dict"]), "epoch": 3, "args": argparse.Namespace(lr=1e-3)}
    torch.save(content, path)
    return path


@pytest.fixture(scope="module")
def swav_file(tmp_path_factory):
    """A file as SwAV's training writes it."""
    path = tmp_path_factory.mktemp("swav") / "swav.pth.tar"
    weights = weights_of(record_of("ddpmseg_swav")["state_dict"])
    unused = {"projection_head.0.weight": torch.zeros(2, 2), "prototypes.weight": torch.zeros(3, 2)}
    torch.save({"epoch": 8, "state_dict": {f"module.{k}": v for k, v in {**weights, **unused}.items()}}, path)
    return path


@torch.no_grad()
def test_recorded_features_of_mae(mae_file):
    record, golden, found = record_of("ddpmseg_mae_tiny"), arrays_of("ddpmseg_mae_tiny"), MaeFeatures(mae_file, TINY)
    maps = found.of_normalized(normalized(32))
    assert [tuple(values.shape[1:]) for values in maps] == [tuple(shape) for shape in found.shapes]
    np.testing.assert_allclose(maps[0].numpy(), golden["native_first"], atol=1e-4)
    np.testing.assert_allclose(probed(maps, record, 32)[0], golden["features"], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["swav", pytest.param("swav_w2", marks=pytest.mark.slow)])
@torch.no_grad()
def test_recorded_features_of_swav(name, tmp_path):
    record, path = record_of(f"ddpmseg_{name}"), tmp_path / "x.pth"
    torch.save({"state_dict": {f"module.{k}": v for k, v in weights_of(record["state_dict"]).items()}}, path)
    found = SwavFeatures(path, double=name == "swav_w2", image_size=(64, 64))
    maps = found.of_normalized(normalized(64))
    assert [list(shape) for shape in found.shapes] == record["native_shapes"]
    assert [list(values.shape[1:]) for values in maps] == record["native_shapes"]
    np.testing.assert_allclose(probed(maps, record, 64)[0], arrays_of(f"ddpmseg_{name}")["features"], atol=1e-4)


def test_the_published_mae():
    """12 blocks of 1024 channels on 32 x 32 tokens, as published."""
    record = record_of("ddpmseg_mae_tiny")
    assert VIT_L8.blocks * VIT_L8.width == 12288
    assert VIT_L8.side // VIT_L8.patch == 32
    published = "img_size 256, patch 8, embed_dim 1024, depth 24, heads 16, mlp_ratio 4; last 12 blocks"
    assert record["published"].startswith(published)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(64, 64), (40, 72), (33, 50)])
def test_sizes_of_maps(swav_file, size):
    found = SwavFeatures(swav_file, image_size=size, **FP32)
    maps = found.maps(torch.zeros(1, 3, *size))
    assert [tuple(values.shape[1:]) for values in maps] == [tuple(shape) for shape in found.shapes]
    assert sum(found.dims) == 6720


def test_images_are_normalized_as_imagenet(mae_file):
    """An image of the mean color is 0 there, one that is a standard deviation brighter is 1; gray becomes colored."""
    found, gray = MaeFeatures(mae_file, TINY, **FP32), MaeFeatures(mae_file, TINY, image_channels=1, **FP32)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    image = (2 * (mean + std) - 1).expand(2, 3, 32, 32)
    torch.testing.assert_close(found.normalized(image), torch.ones(2, 3, 32, 32), atol=1e-5, rtol=0)
    values = torch.linspace(-1, 1, 1024).view(1, 1, 32, 32)
    for one, three in zip(gray.maps(values), found.maps(values.expand(1, 3, 32, 32)), strict=True):
        assert torch.equal(one, three)


def test_what_is_loaded_leaves_the_random_numbers_alone(mae_file):
    before = torch.random.get_rng_state()
    MaeFeatures(mae_file, TINY)
    assert torch.equal(torch.random.get_rng_state(), before)


def saved(path, content):
    torch.save(content, path)
    return path


def test_other_files_are_refused(mae_file, swav_file, tmp_path):
    weights = weights_of(record_of("ddpmseg_mae_tiny")["state_dict"])
    text = tmp_path / "text.pth"
    text.write_text("no weights")
    broken = {**weights, "norm.bias": torch.full((64,), float("nan"))}
    wider = {**weights, "norm.bias": torch.zeros(65)}
    more = {**weights, "head.weight": torch.zeros(2, 64)}
    less = {key: value for key, value in weights.items() if key != "blocks.2.norm1.weight"}
    cases = {
        "missing": tmp_path / "none.pth",
        "text": text,
        "another training": swav_file,
        "another network": saved(tmp_path / "g.pth", torch.load(swav_file)["state_dict"]),
        "another shape": saved(tmp_path / "a.pth", {"model": wider}),
        "not finite": saved(tmp_path / "b.pth", {"model": broken}),
        "more": saved(tmp_path / "c.pth", {"model": more}),
        "less": saved(tmp_path / "d.pth", {"model": less}),
        "a list": saved(tmp_path / "e.pth", [1, 2]),
        "no weights": saved(tmp_path / "f.pth", {"model": {"epoch": 3}}),
    }
    found = {}
    for name, path in cases.items():
        with pytest.raises(CheckpointError) as caught:
            MaeFeatures(path, TINY)
        (message,) = caught.value.messages
        assert message.startswith(str(path))
        found[name] = caught.value.found
    assert "cls_token" in found["another network"]
    assert "norm.bias" in found["another shape"]
    assert "norm.bias" in found["not finite"]
    assert "head.weight" in found["more"]
    assert "blocks.2.norm1.weight" in found["less"]


def test_the_narrow_network_is_not_the_wide_one(swav_file):
    with pytest.raises(CheckpointError) as caught:
        SwavFeatures(swav_file, double=True)
    assert "conv1.weight" in caught.value.found
