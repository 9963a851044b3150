"""Features of networks that learned from images without labels: MAE and SwAV, of their published files over timm.

He et al., "Masked Autoencoders Are Scalable Vision Learners", 2022; Caron et al., "Unsupervised Learning of Visual
Features by Contrasting Cluster Assignments", 2020.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from timm.models.resnet import Bottleneck, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from guided_diffusion.conditions.base import Size
from guided_diffusion.features.extractor import MapShape, NetworkFeatures
from guided_diffusion.features.options import MAE_SIDE
from guided_diffusion.features.published import identity_of, load_strictly, read_published

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of red, green and blue in 0..1."""
SWAV_WIDTHS = (64, 128, 256, 512)
LAYERS = (3, 4, 6, 3)
"""Blocks in layer1 to layer4 of a ResNet-50."""


class MaeShape(NamedTuple):
    """A vision transformer, by default ViT-L/8 for 256 px, and how many of its last blocks are read."""

    side: int = MAE_SIDE
    patch: int = 8
    width: int = 1024
    depth: int = 24
    heads: int = 16
    blocks: int = 12

    def __str__(self) -> str:
        return f"an MAE with patches of {self.patch} px, {self.width} channels and {self.depth} blocks"


VIT_L8 = MaeShape()


class VisionFeatures(NetworkFeatures):
    """Base of the extractors whose networks take images in the colors of ImageNet; gray images become colored."""

    def __init__(self, network: nn.Module, **options: Any):
        super().__init__(**options)
        self.network = network.to(self.device).eval().requires_grad_(False)

    def normalized(self, images: Tensor) -> Tensor:
        """Return what the network takes, [N, 3, H, W], of images [N, 1 or 3, H, W] in [-1, 1]."""
        mean, std = (images.new_tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        return ((images + 1) / 2 - mean) / std

    def native(self, images: Tensor, positions: Sequence[int] = (), draw: int = 0) -> list[Tensor]:
        return self.of_normalized(self.normalized(images))

    @abstractmethod
    def of_normalized(self, x: Tensor) -> list[Tensor]:
        """Return the maps of what `normalized` returned."""


class MaeFeatures(VisionFeatures):
    """Outputs of the last blocks of an MAE encoder, before the last normalization, one token a pixel; an extractor."""

    def __init__(self, path: str | Path, shape: MaeShape = VIT_L8, *, image_channels: int = 3, **options: Any):
        """Read a published file, {"model": weights}; raises CheckpointError for another network.

        options: device, amp_dtype and dtype as in `NetworkFeatures`.
        """
        weights = read_published(path, "model", first="cls_token", kind=str(shape))
        with torch.random.fork_rng(devices=[]):  # its own weights are replaced
            network = VisionTransformer(
                img_size=shape.side,
                patch_size=shape.patch,
                embed_dim=shape.width,
                depth=shape.depth,
                num_heads=shape.heads,
                num_classes=0,
                norm_layer=partial(nn.LayerNorm, eps=1e-6),
                weight_init="skip",
            )
        load_strictly(network, weights, unused=("decoder_", "mask_token"), path=path, kind=str(shape))
        self.shape, self._identity = shape, identity_of(path)
        super().__init__(network, image_size=(shape.side, shape.side), image_channels=image_channels, **options)

    @property
    def shapes(self) -> tuple[MapShape, ...]:
        side = self.shape.side // self.shape.patch
        return (MapShape(self.shape.width, side, side),) * self.shape.blocks

    def settings(self) -> dict[str, Any]:
        return {"extractor": "mae", **self._identity, "blocks": self.shape.blocks, **self.common_settings()}

    def of_normalized(self, x: Tensor) -> list[Tensor]:
        return self.network.forward_intermediates(x, indices=self.shape.blocks, norm=False, intermediates_only=True)


class SwavFeatures(VisionFeatures):
    """What the blocks 0, 2 and 4 of layer1 to layer4 of a SwAV encoder, a ResNet-50, take; an extractor."""

    def __init__(
        self,
        path: str | Path,
        *,
        double: bool = False,
        image_size: Size = (256, 256),
        image_channels: int = 3,
        **options: Any,
    ):
        """Read a published file, {"state_dict": weights}; raises CheckpointError for another network.

        double: RN50w2, twice as wide. image_size: (height, width), any. options: as in `MaeFeatures`.
        """
        kind = f"SwAV's ResNet-50{', twice as wide (swav_w2)' if double else ' (swav)'}"
        weights = read_published(path, "state_dict", first="layer1.0.conv1.weight", kind=kind)
        with torch.device("meta"):  # its own weights are replaced
            network = _resnet50(double)
        load_strictly(network, weights, unused=("projection_head.", "prototypes."), path=path, kind=kind)
        self.double, self._identity = double, identity_of(path)
        super().__init__(network, image_size=image_size, image_channels=image_channels, **options)

    @property
    def shapes(self) -> tuple[MapShape, ...]:
        found, channels = [], SWAV_WIDTHS[0] * (1 + self.double)
        sides = [-(-side // 4) for side in self.image_size]
        for level, (width, blocks) in enumerate(zip(SWAV_WIDTHS, LAYERS, strict=True)):
            for block in range(0, blocks, 2):
                # Block 0 takes what the layer before made; the others what is made at half of its size.
                if block:
                    channels = width * (1 + self.double) * Bottleneck.expansion
                size = [-(-side // 2 ** max(0, level - (block == 0))) for side in sides]
                found.append(MapShape(channels, *size))
        return tuple(found)

    def settings(self) -> dict[str, Any]:
        name = "swav_w2" if self.double else "swav"
        return {"extractor": name, **self._identity, **self.common_settings()}

    def of_normalized(self, x: Tensor) -> list[Tensor]:
        network, found = self.network, []
        x = network.maxpool(network.act1(network.bn1(network.conv1(x))))
        for layer in (network.layer1, network.layer2, network.layer3, network.layer4):
            for number, block in enumerate(layer):
                if number % 2 == 0:
                    found.append(x)
                if len(found) == len(self.shapes):
                    break
                x = block(x)
        return found


def _resnet50(double: bool) -> ResNet:
    """Return a ResNet-50 without a classifier; double: all widths are, the stem's, too, which timm leaves at 64."""
    factor = 1 + double
    network = ResNet(Bottleneck, LAYERS, num_classes=0, channels=tuple(factor * width for width in SWAV_WIDTHS))
    if double:
        width, first = factor * SWAV_WIDTHS[0], network.layer1[0]
        network.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        network.bn1 = nn.BatchNorm2d(width)
        first.conv1 = nn.Conv2d(width, width, 1, bias=False)
        first.downsample[0] = nn.Conv2d(width, Bottleneck.expansion * width, 1, bias=False)
    return network
