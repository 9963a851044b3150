"""Segmentation models: names, sizes, local weights, features."""

from __future__ import annotations

import hashlib
import re
import time
from functools import cache
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from evaluations.errors import EvaluationError
from evaluations.segmentation import models
from evaluations.segmentation.models import (
    ARCHITECTURES,
    MIN_BATCH,
    architecture_name,
    build_segmenter,
    check_size,
    encoder_features,
    to_input,
)
from evaluations.segmentation.weights import weights_digest

DEFAULT_ARCHITECTURES = ["unetplusplus", "fpn", "deeplabv3plus"]


def build(
    architecture: str = "fpn", encoder: str = "resnet18", weights: str = "none", seed: int = 0
) -> torch.nn.Module:
    return build_segmenter(architecture, encoder, num_classes=3, encoder_weights=weights, seed=seed)


@cache
def untouched(architecture: str, seed: int) -> torch.nn.Module:
    """Return a model with random weights, for tests that only read it."""
    return build(architecture, seed=seed)


def one_line(error: pytest.ExceptionInfo[EvaluationError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def equal_weights(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    assert ours.keys() == theirs.keys()
    return all(torch.equal(ours[key], theirs[key]) for key in ours)


# ----------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("DeepLabV3+", "deeplabv3plus"),
        ("deeplab_v3_plus", "deeplabv3plus"),
        ("DeepLab v3", "deeplabv3"),
        ("UNet++", "unetplusplus"),
        ("unet-plus-plus", "unetplusplus"),
        ("U-Net", "unet"),
        ("FPN", "fpn"),
    ],
)
def test_spellings_of_an_architecture(text: str, name: str) -> None:
    assert architecture_name(text) == name


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_name_is_a_spelling_of_itself(name: str) -> None:
    assert architecture_name(name.upper()) == name


@pytest.mark.parametrize(("text", "offered"), [("deeplabv4+", "deeplabv3plus"), ("zzz", "unet, unetplusplus")])
def test_unknown_architecture_names_near_ones(text: str, offered: str) -> None:
    with pytest.raises(EvaluationError) as error:
        architecture_name(text)
    assert error.value.key == "architectures"
    assert repr(text) in one_line(error)
    assert offered in error.value.remedy


@pytest.mark.parametrize(("text", "offered"), [("resnet-18", "resnet18"), ("tu-convnext_ato", "tu-convnext_atto")])
def test_unknown_encoder_names_near_ones(text: str, offered: str) -> None:
    with pytest.raises(EvaluationError) as error:
        build(encoder=text)
    assert error.value.key == "encoder"
    assert repr(text) in one_line(error)
    assert offered in error.value.remedy


@pytest.mark.parametrize(
    ("architecture", "encoder"), [("unetplusplus", "mit_b0"), ("dpt", "resnet18"), ("fpn", "tu-resnet18.nosuch")]
)
def test_an_encoder_that_does_not_go_with_the_architecture(architecture: str, encoder: str) -> None:
    with pytest.raises(EvaluationError) as error:
        build(architecture, encoder)
    assert error.value.key == "encoder"
    assert architecture in one_line(error)
    assert encoder in error.value.found


# ---------------------------------------------------------------------------------------------------- models


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture",
    ["fpn", *(pytest.param(a, marks=pytest.mark.slow) for a in ("unetplusplus", "deeplabv3plus", "unet"))],
)
def test_a_model_learns_from_the_smallest_batch(architecture: str) -> None:
    model = build(architecture)
    assert model.training
    torch.manual_seed(0)  # of the decoders' dropout
    images = torch.full((MIN_BATCH, 64, 64, 3), 40, dtype=torch.uint8)
    images[:, :, 32:] = 200
    labels = (images[..., 0] > 100).long()
    labels[:, 0] = 3  # no class
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(3):
        logits = model(to_input(images))
        assert logits.shape == (MIN_BATCH, 3, 64, 64)
        loss = torch.nn.functional.cross_entropy(logits, labels, ignore_index=3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_the_seed_decides_the_weights_and_the_global_generator_does_not() -> None:
    torch.manual_seed(1)
    first = build(seed=5)
    after = torch.rand(3)
    torch.manual_seed(2)
    assert equal_weights(first, build(seed=5))
    assert not equal_weights(first, build(seed=6))
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), after), "building drew from the global generator"


@pytest.mark.parametrize(
    ("architecture", "height", "width", "uses"),
    [
        ("fpn", 100, 64, "[96, 64] or [128, 64]"),
        ("unet", 20, 70, "[32, 64] or [32, 96]"),
        ("deeplabv3plus", 40, 64, "[32, 64] or [48, 64]"),
        ("pan", 64, 128, "[128, 128]"),
    ],
)
def test_size_that_does_not_fit(architecture: str, height: int, width: int, uses: str) -> None:
    with pytest.raises(EvaluationError) as error:
        check_size(height, width, untouched(architecture, 0))
    assert error.value.key == "image_size"
    assert error.value.found.startswith(f"[{height}, {width}]")
    assert error.value.remedy.endswith(uses)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", [*DEFAULT_ARCHITECTURES, "pan", "pspnet"])
@pytest.mark.parametrize("size", [(64, 96), (144, 128), (128, 160), (100, 96)])
def test_size_check_is_right_about_the_model(architecture: str, size: tuple[int, int]) -> None:
    model = build(architecture).eval()
    try:
        check_size(*size, model)
        fits = True
    except EvaluationError:
        fits = False
    try:
        with torch.inference_mode():
            output = model(torch.zeros(1, 3, *size)).shape
        assert output == (1, 3, *size)
        runs = True
    except RuntimeError:
        runs = False
    assert fits == runs


# ---------------------------------------------------------------------------------------------------- inputs


def test_input_is_torchvisions_preset() -> None:
    images = torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    preset = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.transforms(crop_size=16, resize_size=16)
    expected = preset(images.permute(0, 3, 1, 2))
    assert to_input(images).dtype == torch.float32
    torch.testing.assert_close(to_input(images), expected, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_features_are_the_pooled_deepest_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = torchvision.models.resnet18()
    torch.save(backbone.state_dict(), tmp_path / "resnet18.pt")
    model = build("fpn", weights=str(tmp_path / "resnet18.pt"))
    images = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    images[3] = images[1]
    together = encoder_features(model, images, device="cpu")
    monkeypatch.setattr(models, "FEATURE_BATCH", 2)
    features = encoder_features(model, images, device="cpu")
    assert features.shape == (5, 512)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features[3], features[1], rtol=1e-3, atol=1e-4)
    assert np.abs(features[0] - features[1]).max() > 1e-2
    np.testing.assert_allclose(together, features, 1e-3, 1e-4)
    # torchvision's own network, without its classifier, ends in the same pooled features.
    backbone.fc = torch.nn.Identity()
    with torch.inference_mode():
        expected = backbone.eval()(to_input(torch.from_numpy(images))).numpy()
    np.testing.assert_allclose(features, expected, rtol=1e-3, atol=1e-4)


def test_features_of_a_vision_transformer() -> None:
    model = build("dpt", "tu-test_vit")
    images = np.zeros((2, 64, 64, 3), np.uint8)
    assert encoder_features(model, images, device="cpu").shape == (2, model.encoder.out_channels[-1])


# --------------------------------------------------------------------------------------------------- weights


@pytest.mark.slow
@pytest.mark.parametrize("wrapping", ["bare", "state_dict", "module.", "encoder.", "module.encoder.", "safetensors"])
def test_local_weights_come_back(tmp_path: Path, wrapping: str) -> None:
    source = untouched("fpn", 1)
    state = source.encoder.state_dict()
    path = tmp_path / "encoder.pth"
    if wrapping == "safetensors":
        path = path.with_suffix(".safetensors")
        save_file(state, path)
    elif wrapping == "state_dict":
        torch.save({"state_dict": state, "epoch": 3}, path)
    elif wrapping == "bare":
        torch.save(state, path)
    else:
        torch.save({f"{wrapping}{key}": value for key, value in state.items()}, path)
    loaded = build("unet", weights=str(path), seed=2)
    assert equal_weights(loaded.encoder, source.encoder)
    assert equal_weights(loaded.decoder, untouched("unet", 2).decoder), "the rest comes from the seed"


@pytest.mark.slow
def test_a_whole_segmenters_file_gives_its_encoder(tmp_path: Path) -> None:
    source = untouched("unet", 2)
    torch.save(source.state_dict(), tmp_path / "unet.pt")
    assert equal_weights(build("fpn", weights=str(tmp_path / "unet.pt")).encoder, source.encoder)


@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet18", "mobilenet_v2"])
def test_torchvision_weights_load_without_their_classifier(tmp_path: Path, encoder: str) -> None:
    published = getattr(torchvision.models, encoder.removeprefix("tu-"))().state_dict()
    assert any(key.startswith(("fc.", "classifier.")) for key in published)
    torch.save(published, tmp_path / "published.pth")
    loaded = build("fpn", encoder, str(tmp_path / "published.pth")).encoder.state_dict()
    for key, value in loaded.items():
        assert torch.equal(value, published[key.removeprefix("model.")])


def test_timm_names_load_in_timms_form_for_features(tmp_path: Path) -> None:
    """As classifiers timm's networks say "stages.0", and as encoders "stages_0"."""
    published = timm.create_model("test_convnext").state_dict()
    torch.save(published, tmp_path / "published.pth")
    loaded = build("fpn", "tu-test_convnext", str(tmp_path / "published.pth")).encoder.state_dict()
    assert torch.equal(loaded["model.stages_1.blocks.0.conv_dw.weight"], published["stages.1.blocks.0.conv_dw.weight"])


@pytest.mark.slow
def test_older_densenet_names_load(tmp_path: Path) -> None:
    source = build("fpn", "densenet121", seed=1).encoder
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", key): value
        for key, value in source.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "old.pth")
    assert equal_weights(build("fpn", "densenet121", str(tmp_path / "old.pth")).encoder, source)


def misfit(kind: str, path: Path) -> str:
    """Write a file that cannot be meant; return what the message must name."""
    state = torchvision.models.resnet18().state_dict()
    if kind == "deeper network":
        torch.save(torchvision.models.resnet34().state_dict(), path)
        return "layer1.2.conv1.weight"
    if kind == "missing key":
        del state["layer3.1.bn2.weight"]
        torch.save(state, path)
        return "layer3.1.bn2.weight"
    if kind == "one channel":
        torch.save(state | {"conv1.weight": torch.zeros(64, 1, 7, 7)}, path)
        return "conv1.weight"
    if kind == "other thing":
        torch.save({"step": torch.tensor(3)}, path)
        return "conv1.weight"
    if kind == "no tensors":
        torch.save({"step": 3}, path)
        return "state dictionary"
    if kind == "pickled module":
        torch.save(torch.nn.Linear(2, 2), path)
        return "could not be read"
    if kind == "truncated":
        torch.save(state, path)
        path.write_bytes(path.read_bytes()[:10_000])
        return "could not be read"
    path.write_bytes(b"<html>404</html>")
    return "could not be read"


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [
        "deeper network",
        "missing key",
        "one channel",
        "other thing",
        "no tensors",
        "pickled module",
        "truncated",
        "html",
    ],
)
def test_file_that_does_not_fit(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "weights.pt"
    expected = misfit(kind, path)
    with pytest.raises(EvaluationError) as error:
        build(weights=str(path))
    assert (error.value.key, error.value.path) == ("encoder_weights", str(path))
    assert expected in one_line(error)


def test_damaged_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"\x00" * 100)
    with pytest.raises(EvaluationError) as error:
        build(weights=str(path))
    assert (error.value.key, error.value.path) == ("encoder_weights", str(path))


@pytest.mark.parametrize("name", ["missing.pt", "folder/missing", "folder"])
def test_missing_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    path = str(tmp_path / name)
    for call in (lambda: build(weights=path), lambda: weights_digest(path)):
        with pytest.raises(EvaluationError) as error:
            call()
        assert error.value.key == "encoder_weights"
        assert path in one_line(error)


def test_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "weights.h5").write_bytes(b"1")
    with pytest.raises(EvaluationError) as error:
        build(weights=str(tmp_path / "weights.h5"))
    assert error.value.path == str(tmp_path / "weights.h5")
    assert ".safetensors" in error.value.found


def test_digest_is_of_the_files_bytes(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(b"abc")
    assert weights_digest(str(path)) == hashlib.sha256(b"abc").hexdigest()[:16]
    assert [weights_digest(name) for name in ("none", "None", "", "imagenet")] == [None] * 4


@pytest.mark.parametrize(("encoder", "weights"), [("resnet18", "imagnet"), ("tu-resnet18", "noisy-student")])
def test_unknown_published_weights_are_not_looked_for(encoder: str, weights: str) -> None:
    with pytest.raises(EvaluationError) as error:
        build(encoder=encoder, weights=weights)
    assert f'"{weights}"' in one_line(error)
    assert error.value.key == "encoder_weights"
    assert '"imagenet"' in error.value.remedy


@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet18"])
def test_offline_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: str) -> None:
    """Port 9 of this machine stands for a hub that cannot be reached, an empty folder for the cache."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    start = time.monotonic()
    with pytest.raises(EvaluationError) as error:
        build(encoder=encoder, weights="imagenet")
    assert time.monotonic() - start < 8
    assert error.value.key == "encoder_weights"
    assert encoder in one_line(error)
    assert '"none"' in error.value.remedy
