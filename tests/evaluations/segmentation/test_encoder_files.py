"""Weights of timm's encoders from local files: under timm's own names, and the form of images that they take."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from evaluations.errors import EvaluationError
from evaluations.published_weights import read_state
from evaluations.segmentation.models import build_segmenter, input_form

LITE0 = "tf_efficientnet_lite0"
SHARED = Path(__file__).parents[4] / "shared" / "weights" / f"{LITE0}.safetensors"


def segmenter(weights: Path, encoder: str = f"tu-{LITE0}") -> torch.nn.Module:
    return build_segmenter("unet", encoder, num_classes=2, encoder_weights=str(weights), seed=0).eval()


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of random weights of the whole classifier."""
    path = tmp_path_factory.mktemp("weights") / "lite0.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(LITE0, pretrained=False)
        for name, value in model.state_dict().items():  # statistics of their own, so that none can be left out
            if name.endswith(("running_mean", "running_var")):
                value.uniform_(0.5, 1.5)
    save_file(model.state_dict(), path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("published", [False, True], ids=["random", "published"])
def test_features_are_those_of_timm(random_weights: Path, published: bool):
    if published and not SHARED.is_file():
        pytest.skip(f"{SHARED} is missing")
    path = SHARED if published else random_weights
    state = read_state(path, "encoder_weights")
    reference = timm.create_model(LITE0, pretrained=False, features_only=True)
    missing, left_over = reference.load_state_dict(state, strict=False)
    assert not missing
    assert {name.split(".")[0] for name in left_over} <= {"conv_head", "bn2", "classifier"}
    images = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        ours, theirs = segmenter(path).encoder(images)[1:], reference.eval()(images)
    assert len(ours) == len(theirs) == 5
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet18", "tu-tf_efficientnet_lite1"])
def test_weights_of_another_encoder_are_told_in_one_line(random_weights: Path, encoder: str):
    with pytest.raises(EvaluationError) as error:
        segmenter(random_weights, encoder)
    assert error.value.key == "encoder_weights"
    assert error.value.path == str(random_weights)
    assert encoder in error.value.found
    assert "\n" not in str(error.value)


def test_a_tensor_of_another_shape_is_told_in_one_line(random_weights: Path, tmp_path: Path):
    state = read_state(random_weights, "encoder_weights")
    state["conv_stem.weight"] = state["conv_stem.weight"][:16].clone()
    path = tmp_path / "cut.safetensors"
    save_file(state, path)
    with pytest.raises(EvaluationError) as error:
        segmenter(path)
    assert error.value.path == str(path)
    assert "conv_stem" in error.value.found
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("encoder", "form"),
    [
        ("tu-tf_efficientnet_lite0", "symmetric"),
        ("timm-tf_efficientnet_lite0", "symmetric"),
        ("tu-vit_base_patch16_224.augreg_in21k", "symmetric"),
        ("tu-resnet18", "imagenet"),
        ("tu-resnet50_clip.openai", "imagenet"),  # the nearest
        ("resnet18", "imagenet"),
        ("inceptionv4", "symmetric"),
        ("mit_b0", "imagenet"),
        ("tu-efficientnet_b0", "imagenet"),
        ("efficientnet-b1", "imagenet"),  # not timm's weights
    ],
)
def test_the_form_of_images_is_that_of_the_published_weights(encoder: str, form: str):
    assert input_form(encoder) == form
