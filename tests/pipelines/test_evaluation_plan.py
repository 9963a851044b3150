"""How `evaluate` trains its segmentation models."""

from __future__ import annotations

import pytest
import torch

from guided_diffusion.config.evaluate import StudyOptions
from guided_diffusion.pipelines.evaluation.study import make_plan


@pytest.mark.parametrize(
    ("encoder", "weights", "form"),
    [
        ("resnet18", "imagenet", "imagenet"),
        ("tu-tf_efficientnet_lite0", "lite0.safetensors", "symmetric"),  # mean and deviation 0.5, as timm has them
        ("tu-tf_efficientnet_lite0", "none", "imagenet"),
    ],
)
def test_images_enter_as_the_weights_were_trained(encoder, weights, form):
    plan = make_plan(StudyOptions(encoder=encoder, encoder_weights=weights), 3, torch.device("cpu"))
    assert plan.training.form == form
