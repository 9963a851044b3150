"""Unconditioned layers: normalization, resampling, attention, timestep embedding."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from guided_diffusion.models.architecture import GROUPS
from guided_diffusion.models.group_norm import modulated_norm, normalize


class GroupNorm32(nn.GroupNorm):
    """Group normalization with 32 groups and float32 statistics for every input precision."""

    def __init__(self, channels: int):
        super().__init__(GROUPS, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x [N, C, ...] in its dtype."""
        return normalize(x, self.weight, self.bias)

    def norm_silu(self, x: Tensor, time_scale: Tensor | None = None, time_shift: Tensor | None = None) -> Tensor:
        """Return SiLU(self(x) * (1 + time_scale) + time_shift) for x [N, C, H, W]; times [N, C], or None for 0."""
        if time_scale is None:
            return F.silu(self(x))
        if torch.compiler.is_compiling():  # a compiler fuses these operations itself
            return F.silu(self(x) * (1 + time_scale[:, :, None, None]) + time_shift[:, :, None, None])
        times = 1 + time_scale
        return modulated_norm(x, self.weight * times, self.bias * times + time_shift, None)


class Upsample(nn.Module):
    """Doubles height and width by repetition, then applies a 3x3 convolution if `use_conv`."""

    def __init__(self, channels: int, *, use_conv: bool):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if use_conv else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, H, W] to [N, C, 2H, 2W]."""
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Downsample(nn.Module):
    """Halves height and width by a 3x3 convolution of stride 2 if `use_conv`, else by the mean of 2x2 pixels."""

    def __init__(self, channels: int, *, use_conv: bool):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1) if use_conv else nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, H, W] with even H and W to [N, C, H/2, W/2]."""
        return self.op(x)


class AttentionBlock(nn.Module):
    """Residual self-attention between all pixels (Vaswani et al. 2017, equation 1).

    use_new_attention_order: the layout of the 3C channels of `qkv`: [3, heads, C/heads], or if false
    [heads, 3, C/heads], as in the published weights. The shapes are the same.
    """

    def __init__(self, channels: int, num_heads: int, *, use_new_attention_order: bool = False):
        super().__init__()
        assert channels % num_heads == 0, f"{num_heads} heads do not divide {channels} channels"
        self.num_heads = num_heads
        self.use_new_attention_order = use_new_attention_order
        self.norm = GroupNorm32(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zero_initialized(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, H, W] to [N, C, H, W]."""
        n, channels, height, width = x.shape
        # The published weights are for one-dimensional convolutions, which would lose the memory format.
        qkv = F.conv2d(self.norm(x), self.qkv.weight[..., None], self.qkv.bias)
        q, k, v = self._heads(qkv.permute(0, 2, 3, 1).reshape(n, height * width, -1))
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        attended = attended.reshape(n, height, width, channels).permute(0, 3, 1, 2)
        return x + F.conv2d(attended, self.proj_out.weight[..., None], self.proj_out.bias)

    def _heads(self, qkv: Tensor) -> tuple[Tensor, ...]:
        """Return q, k and v of qkv [N, T, 3C], each as [N, heads, T, C/heads]."""
        n, length, _ = qkv.shape
        if self.use_new_attention_order:
            return qkv.view(n, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind()
        return qkv.view(n, length, self.num_heads, 3, -1).permute(3, 0, 2, 1, 4).unbind()


def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """Return the sinusoidal embedding [N, dim] float32 of real t [N], cosines first, zeros last for an odd `dim`.

    Frequencies fall geometrically from 1 to 1/10,000 (Vaswani et al. 2017, section 3.5; Ho et al. 2020).
    """
    half = dim // 2
    position = torch.arange(half, dtype=torch.float32, device=t.device)
    angles = t.float()[:, None] * torch.exp(-math.log(10_000) / max(half, 1) * position)
    embedding = torch.cat([angles.cos(), angles.sin()], dim=1)
    return F.pad(embedding, (0, dim % 2))


def zero_initialized(layer: nn.Conv1d | nn.Conv2d) -> nn.Conv1d | nn.Conv2d:
    """Set weight and bias of `layer` to zero, so that its residual block starts as the identity; return it."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
