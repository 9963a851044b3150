"""The network as the published code runs it, with our weights: the reference of `run.py`.

Every normalization of the decoder brings the one-hot map to its size and runs three convolutions over all pixels, in
every step; guidance is two passes of the whole network; attention forms its matrix of weights, and again in the
backward pass; tensors lie contiguously. Wang et al., "Semantic Image Synthesis via Diffusion Models", 2022.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from guided_diffusion.models.blocks import ConditionedResBlock, ResidualBlock
from guided_diffusion.models.layers import AttentionBlock, GroupNorm32, timestep_embedding
from guided_diffusion.models.spade.norm import SPADEGroupNorm
from guided_diffusion.models.unet import UNetModel


class PublishedUNet(nn.Module):
    """A copy of `model` whose forward pass does what the published one does."""

    def __init__(self, model: UNetModel):
        super().__init__()
        self.network = copy.deepcopy(model).to(memory_format=torch.contiguous_format)

    def forward(self, x: Tensor, t: Tensor, one_hot: Tensor) -> Tensor:
        """Return the output [N, out_channels, H, W] for x [N, C, H, W], t [N] and the map [N, channels, H, W]."""
        network = self.network
        emb = network.time_embed(timestep_embedding(t, network.time_embed[0].in_features))
        h, skips = x, []
        for layers in network.input_blocks:
            h = _run(layers, h, emb, one_hot)
            skips.append(h)
        h = _run(network.middle_block, h, emb, one_hot)
        for layers in network.output_blocks:
            h = _run(layers, torch.cat([h, skips.pop()], dim=1), emb, one_hot)
        return network.out[2](F.silu(_group_norm(network.out[0], h)))


def guided(model: PublishedUNet, x: Tensor, t: Tensor, one_hot: Tensor, scale: float) -> Tensor:
    """Return the guided output: mean channels mixed from two passes, the conditional one's variance channels."""
    cond, null = model(x, t, one_hot), model(x, t, torch.zeros_like(one_hot))
    channels = x.shape[1]
    mean = null[:, :channels] + scale * (cond[:, :channels] - null[:, :channels])
    return torch.cat([mean, cond[:, channels:]], dim=1)


def _run(layers: nn.ModuleList, h: Tensor, emb: Tensor, one_hot: Tensor) -> Tensor:
    for layer in layers:
        if isinstance(layer, ResidualBlock):
            h = _block(layer, h, emb, one_hot)
        elif isinstance(layer, AttentionBlock):
            # The published block computes this again in the backward pass, whatever `use_checkpoint` says.
            h = checkpoint(_attention, layer, h, use_reentrant=False)
        else:
            h = layer(h)
    return h


def _block(block: ResidualBlock, x: Tensor, emb: Tensor, one_hot: Tensor) -> Tensor:
    def norm(layer: nn.Module, h: Tensor) -> Tensor:
        return _spade(layer, h, one_hot) if isinstance(block, ConditionedResBlock) else _group_norm(layer, h)

    h = F.silu(norm(block.in_norm, x))
    h = block.in_layers[-1](block.resample(h))
    shift = block.emb_layers(emb)[:, :, None, None]
    if block.use_scale_shift_norm:
        scale, shift = shift.chunk(2, dim=1)
        h = norm(block.out_norm, h) * (1 + scale) + shift
    else:
        h = norm(block.out_norm, h + shift)
    h = block.out_layers[-1](block.out_layers[-2](F.silu(h)))
    return block.skip_connection(block.resample(x)) + h


def _spade(layer: SPADEGroupNorm, x: Tensor, one_hot: Tensor) -> Tensor:
    hidden = layer.mlp_shared(F.interpolate(one_hot, size=x.shape[2:], mode="nearest"))
    return F.group_norm(x, 32) * (1 + layer.mlp_gamma(hidden)) + layer.mlp_beta(hidden)


def _group_norm(layer: GroupNorm32, x: Tensor) -> Tensor:
    return F.group_norm(x, layer.num_groups, layer.weight, layer.bias, layer.eps)


def _attention(layer: AttentionBlock, x: Tensor) -> Tensor:
    n, channels, *size = x.shape
    flat = x.reshape(n, channels, -1)
    qkv = layer.qkv(_group_norm(layer.norm, flat))
    if layer.use_new_attention_order:
        q, k, v = qkv.view(n, 3, layer.num_heads, -1, flat.shape[2]).transpose(0, 1)
    else:
        q, k, v = qkv.view(n, layer.num_heads, 3, -1, flat.shape[2]).permute(2, 0, 1, 3, 4)
    factor = 1 / math.sqrt(math.sqrt(q.shape[2]))
    weight = torch.einsum("nhct,nhcs->nhts", q * factor, k * factor).softmax(dim=-1)
    attended = torch.einsum("nhts,nhcs->nhct", weight, v).reshape(n, channels, -1)
    return (flat + layer.proj_out(attended)).reshape(n, channels, *size)
