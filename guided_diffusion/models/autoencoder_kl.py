"""Pretrained autoencoders of images in the layout of diffusers' AutoencoderKL, as of Stable Diffusion; inference alone.

Rombach et al. 2022 (Latent Diffusion), appendix G. The architecture is read off names and shapes of the weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from guided_diffusion.models.autoencoder import Posterior, Reconstruction

GROUPS = 32
_EPSILON = 1e-6
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names of the attention's layers in older files."""


@dataclass(frozen=True)
class KLShape:
    """The architecture of an AutoencoderKL: channels of its levels from fine to coarse, residual blocks a level of the
    encoder (the decoder has one more), and whether the latents have 1x1 convolutions of their own.
    """

    image_channels: int
    latent_channels: int
    widths: tuple[int, ...]
    blocks: int
    quantized: bool
    attends: bool

    @property
    def factor(self) -> int:
        """f: the latents have sides of H / f and W / f."""
        return 2 ** (len(self.widths) - 1)


class _Resnet(nn.Module):
    def __init__(self, channels: int, outputs: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, channels, eps=_EPSILON)
        self.conv1 = nn.Conv2d(channels, outputs, 3, padding=1)
        self.norm2 = nn.GroupNorm(GROUPS, outputs, eps=_EPSILON)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.conv_shortcut = None if channels == outputs else nn.Conv2d(channels, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class _Attention(nn.Module):
    """Self-attention of one head between all pixels."""

    def __init__(self, channels: int):
        super().__init__()
        self.group_norm = nn.GroupNorm(GROUPS, channels, eps=_EPSILON)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        pixels = self.group_norm(x).flatten(2).transpose(1, 2)
        q, k, v = (layer(pixels)[:, None] for layer in (self.to_q, self.to_k, self.to_v))
        attended = self.to_out[0](F.scaled_dot_product_attention(q, k, v)[:, 0])
        return x + attended.transpose(1, 2).reshape(x.shape)


class _Resampled(nn.Module):
    """A 3x3 convolution that halves the sides, or doubles them."""

    def __init__(self, channels: int, *, up: bool):
        super().__init__()
        self.up = up
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if up else nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        if self.up:
            return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class _Level(nn.Module):
    def __init__(self, channels: int, outputs: int, blocks: int, *, resampled: str):
        super().__init__()
        self.resnets = nn.ModuleList([_Resnet(channels if i == 0 else outputs, outputs) for i in range(blocks)])
        self.downsamplers = nn.ModuleList([_Resampled(outputs, up=False)] if resampled == "down" else [])
        self.upsamplers = nn.ModuleList([_Resampled(outputs, up=True)] if resampled == "up" else [])

    def forward(self, x: Tensor) -> Tensor:
        for layer in (*self.resnets, *self.downsamplers, *self.upsamplers):
            x = layer(x)
        return x


class _Middle(nn.Module):
    def __init__(self, channels: int, attends: bool):
        super().__init__()
        self.attentions = nn.ModuleList([_Attention(channels)] if attends else [])
        self.resnets = nn.ModuleList([_Resnet(channels, channels) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.resnets[0](x)
        for layer in self.attentions:
            x = layer(x)
        return self.resnets[1](x)


class _Half(nn.Module):
    """The encoder, or the decoder, by the published names."""

    def __init__(self, shape: KLShape, *, encodes: bool):
        super().__init__()
        widths = shape.widths if encodes else shape.widths[::-1]
        levels = nn.ModuleList()
        for level, width in enumerate(widths):
            resampled = "" if level == len(widths) - 1 else "down" if encodes else "up"
            count = shape.blocks if encodes else shape.blocks + 1
            levels.append(_Level(widths[max(level - 1, 0)], width, count, resampled=resampled))
        inputs, outputs = shape.image_channels, 2 * shape.latent_channels
        if not encodes:
            inputs, outputs = shape.latent_channels, shape.image_channels
        self.conv_in = nn.Conv2d(inputs, widths[0], 3, padding=1)
        self.mid_block = _Middle(shape.widths[-1], shape.attends)
        self.conv_norm_out = nn.GroupNorm(GROUPS, widths[-1], eps=_EPSILON)
        self.conv_out = nn.Conv2d(widths[-1], outputs, 3, padding=1)
        self.encodes = encodes
        setattr(self, "down_blocks" if encodes else "up_blocks", levels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        middle = [self.mid_block]
        for layer in [*self.down_blocks, *middle] if self.encodes else [*middle, *self.up_blocks]:
            x = layer(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class AutoencoderKL(nn.Module):
    """An autoencoder of images; `load_state_dict` takes weights by the published names."""

    def __init__(self, shape: KLShape):
        super().__init__()
        self.shape = shape
        self.factor, self.latent_channels = shape.factor, shape.latent_channels
        self.encoder, self.decoder = _Half(shape, encodes=True), _Half(shape, encodes=False)
        channels = shape.latent_channels
        self.quant_conv = nn.Conv2d(2 * channels, 2 * channels, 1) if shape.quantized else nn.Identity()
        self.post_quant_conv = nn.Conv2d(channels, channels, 1) if shape.quantized else nn.Identity()

    def posterior(self, x: Tensor) -> Posterior:
        """Return the posterior of images [N, C, H, W] in [-1, 1], sides multiples of f."""
        mean, log_variance = self.quant_conv(self.encoder(x)).float().chunk(2, dim=1)
        return Posterior(mean, log_variance.clamp(-30, 20) / 2)

    def decode(self, z: Tensor) -> Reconstruction:
        """Return the images of latents [N, Z, H / f, W / f]."""
        return Reconstruction(self.decoder(self.post_quant_conv(z)).float(), None)

    def to_state(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return {**asdict(self.shape), "widths": list(self.shape.widths)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> AutoencoderKL:
        """Return the untrained autoencoder that a checkpoint describes."""
        return cls(KLShape(**{**state, "widths": tuple(state["widths"])}))


def published_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights by the names of `AutoencoderKL`; the attention of older files has others, and 1x1 convolutions."""
    renamed = {}
    for name, value in weights.items():
        parts = name.split(".")
        if "attentions" in parts:
            name = ".".join(_OLD_ATTENTION.get(part, part) for part in parts)
            if value.ndim == 4:
                value = value.flatten(1)
        renamed[name] = value
    return renamed


def infer_shape(weights: Mapping[str, Tensor]) -> KLShape:
    """Return the architecture of weights by the published names; KeyError, naming the weight, if one is missing."""
    levels = 1 + max((int(m[1]) for m in _matches(r"encoder\.down_blocks\.(\d+)\.", weights)), default=0)
    blocks = 1 + max((int(m[1]) for m in _matches(r"encoder\.down_blocks\.0\.resnets\.(\d+)\.", weights)), default=0)
    return KLShape(
        image_channels=weights["encoder.conv_in.weight"].shape[1],
        latent_channels=weights["decoder.conv_in.weight"].shape[1],
        widths=tuple(len(weights[f"encoder.down_blocks.{level}.resnets.0.conv1.weight"]) for level in range(levels)),
        blocks=blocks,
        quantized="quant_conv.weight" in weights,
        attends="encoder.mid_block.attentions.0.to_q.weight" in weights,
    )


def _matches(pattern: str, names: Mapping[str, Tensor]) -> list[re.Match]:
    return [found for found in (re.match(pattern, name) for name in names) if found]
