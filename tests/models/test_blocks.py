from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from guided_diffusion.models.blocks import ConditionedResBlock, ResBlock
from guided_diffusion.models.spade.norm import SPADEGroupNorm, SpadeLevelCache


@pytest.mark.parametrize("scale_shift", [False, True])
@pytest.mark.parametrize("resample", ["", "down", "up"])
def test_plain_block_is_the_published_formula(fill, noise, scale_shift, resample):
    block = fill(
        ResBlock(32, 64, 16, use_scale_shift_norm=scale_shift, **({resample: True} if resample else {}))
    ).eval()
    x, emb = noise(2, 32, 8, 8), noise(2, 16, seed=1)
    resized = {
        "": lambda y: y,
        "down": lambda y: F.avg_pool2d(y, 2),
        "up": lambda y: F.interpolate(y, scale_factor=2, mode="nearest"),
    }[resample]
    h = block.in_layers[2](resized(F.silu(block.in_layers[0](x))))
    e = block.emb_layers[1](F.silu(emb))[:, :, None, None]
    norm = block.out_layers[0]
    h = norm(h) * (1 + e[:, :64]) + e[:, 64:] if scale_shift else norm(h + e)
    expected = block.skip_connection(resized(x)) + block.out_layers[3](F.silu(h))
    torch.testing.assert_close(block(x, emb), expected)


@pytest.mark.parametrize("scale_shift", [False, True])
def test_upsampling_block_modulates_before_and_after(fill, noise, label_map, scale_shift):
    condition = label_map()
    norm = partial(SPADEGroupNorm, condition_channels=condition.channels)
    block = ConditionedResBlock(32, 32, 16, norm=norm, level=1, use_scale_shift_norm=scale_shift, up=True)
    fill(block).eval()
    assert block.norms == ((block.in_norm, 1), (block.out_norm, 0))
    x, emb = noise(2, 32, 8, 8), noise(2, 16, seed=1)
    before = block.in_norm.modulate(SpadeLevelCache(condition, (8, 8), "dense"))
    after = block.out_norm.modulate(SpadeLevelCache(condition, (16, 16), "dense"))
    h = F.silu(F.group_norm(x, 32) * before.scale + before.shift)
    h = block.in_layers[1](F.interpolate(h, scale_factor=2))
    e = block.emb_layers[1](F.silu(emb))[:, :, None, None]
    if scale_shift:
        h = (F.group_norm(h, 32) * after.scale + after.shift) * (1 + e[:, :32]) + e[:, 32:]
    else:
        h = F.group_norm(h + e, 32) * after.scale + after.shift
    expected = F.interpolate(x, scale_factor=2) + block.out_layers[2](F.silu(h))
    torch.testing.assert_close(block(x, emb, before, after), expected)


def test_blocks_start_as_the_identity(noise, label_map):
    x, emb = noise(2, 32, 16, 16), noise(2, 16)
    assert torch.equal(ResBlock(32, 32, 16)(x, emb), x)
    block = ConditionedResBlock(32, 32, 16, norm=partial(SPADEGroupNorm, condition_channels=4), level=0)
    level = SpadeLevelCache(label_map(), (16, 16), "auto")
    assert torch.equal(block(x, emb, block.in_norm.modulate(level), block.out_norm.modulate(level)), x)
