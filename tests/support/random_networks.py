"""Weights files of published networks, with random weights: nothing can be downloaded in tests."""

from __future__ import annotations

import io
from pathlib import Path

import torch
import torchvision
from flat_options import unet
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3


class _Unloaded(FeatureExtractorInceptionV3):
    """The library's network as it is before it loads weights."""

    def load_state_dict(self, *_args, **_keywords) -> None:
        pass


def random_inception(path: Path) -> Path:
    """Write weights of torch-fidelity's InceptionV3 that keep the size of what passes through all layers."""
    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = _Unloaded("inception-v3", ["2048"], feature_extractor_weights_path=nothing)
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    torch.save(network.state_dict(), path)
    return path


def random_alexnet(path: Path) -> Path:
    """Write weights of torchvision's AlexNet."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(torchvision.models.alexnet(weights=None).state_dict(), path)
    return path


def write_bare(path: Path, channels: int) -> Path:
    """Write weights of a small network by the published names, whose attention has 64 channels."""
    torch.manual_seed(0)
    network = unet(
        image_size=64,
        num_channels=32,
        num_res_blocks=1,
        channel_mult=(1, 1, 1, 2),
        attention_resolutions=(8,),
        num_classes=channels,
        num_head_channels=64,
        no_instance=True,
    )
    torch.save(network.state_dict(), path)
    return path
