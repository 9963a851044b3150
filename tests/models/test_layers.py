from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from guided_diffusion.models.layers import AttentionBlock, Downsample, GroupNorm32, Upsample, timestep_embedding


@pytest.mark.parametrize("new_order", [False, True])
def test_attention_is_softmax_attention_in_both_head_orders(fill, noise, new_order):
    heads, width, length = 3, 32, 4 * 6
    block = fill(AttentionBlock(heads * width, heads, use_new_attention_order=new_order))
    x = noise(2, heads * width, 4, 6)
    flat = x.flatten(2)
    qkv = F.conv1d(F.group_norm(flat, 32, block.norm.weight, block.norm.bias), block.qkv.weight, block.qkv.bias)
    attended = torch.empty_like(flat)
    for h in range(heads):
        starts = [(3 * h + i) * width for i in range(3)]
        if new_order:
            starts = [(i * heads + h) * width for i in range(3)]
        q, k, v = (qkv[:, start : start + width] for start in starts)
        weights = (q.transpose(1, 2) @ k / math.sqrt(width)).softmax(dim=-1)
        assert weights.shape == (2, length, length)
        attended[:, h * width : (h + 1) * width] = v @ weights.transpose(1, 2)
    expected = flat + F.conv1d(attended, block.proj_out.weight, block.proj_out.bias)
    torch.testing.assert_close(block(x).flatten(2), expected, rtol=1e-5, atol=1e-5)


def test_head_orders_differ_unless_there_is_one_head(fill, noise):
    x = noise(1, 64, 4, 4)
    for heads, same in ((1, True), (2, False)):
        old, new = (fill(AttentionBlock(64, heads, use_new_attention_order=order))(x) for order in (False, True))
        assert torch.allclose(old, new, atol=1e-5) is same


def test_attention_starts_as_the_identity(noise):
    x = noise(2, 32, 4, 4)
    assert torch.equal(AttentionBlock(32, 4)(x), x)


def test_timestep_embedding_of_fractional_times():
    t = torch.tensor([0.0, 0.5, 999.0])
    embedding = timestep_embedding(t, 8)
    for row, time in zip(embedding, t.tolist(), strict=True):
        angles = [time * 10_000 ** (-k / 4) for k in range(4)]
        expected = [math.cos(a) for a in angles] + [math.sin(a) for a in angles]
        torch.testing.assert_close(row, torch.tensor(expected), atol=1e-4, rtol=0)
    assert torch.equal(timestep_embedding(t.double(), 8), embedding)
    odd = timestep_embedding(torch.tensor([3]), 9)
    assert odd.shape == (1, 9)
    assert odd[0, -1] == 0


def test_group_norm_statistics_are_float32(noise):
    norm = GroupNorm32(32)
    x = (noise(1, 32, 16, 16) + 100).bfloat16()
    y = norm(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, F.group_norm(x.float(), 32).bfloat16())
    assert norm.double()(x.double()).dtype == torch.float64


def test_resampling_changes_size_only_as_said(noise):
    x = noise(2, 32, 4, 6)
    up = Upsample(32, use_conv=False)(x)
    assert up.shape == (2, 32, 8, 12)
    torch.testing.assert_close(Downsample(32, use_conv=False)(up), x)
    assert Upsample(32, use_conv=True)(x).shape == (2, 32, 8, 12)
    assert Downsample(32, use_conv=True)(x).shape == (2, 32, 2, 3)
