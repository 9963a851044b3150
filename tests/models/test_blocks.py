from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from guided_diffusion.models.blocks import ConditionedResBlock, ResBlock
from guided_diffusion.models.spade.norm import LevelCondition


@pytest.mark.parametrize("scale_shift", [False, True])
@pytest.mark.parametrize("down", [False, True])
def test_plain_block_is_the_published_formula(fill, noise, scale_shift, down):
    block = fill(ResBlock(32, 64, 16, use_scale_shift_norm=scale_shift, down=down)).eval()
    x, emb = noise(2, 32, 8, 8), noise(2, 16, seed=1)
    shrink = (lambda y: F.avg_pool2d(y, 2)) if down else (lambda y: y)
    h = block.in_layers[2](shrink(F.silu(block.in_layers[0](x))))
    e = block.emb_layers[1](F.silu(emb))[:, :, None, None]
    norm = block.out_layers[0]
    h = norm(h) * (1 + e[:, :64]) + e[:, 64:] if scale_shift else norm(h + e)
    expected = block.skip_connection(shrink(x)) + block.out_layers[3](F.silu(h))
    torch.testing.assert_close(block(x, emb), expected)


@pytest.mark.parametrize("scale_shift", [False, True])
def test_upsampling_block_modulates_before_and_after(fill, noise, label_map, scale_shift):
    condition = label_map()
    block = fill(ConditionedResBlock(32, 32, 16, condition.channels, use_scale_shift_norm=scale_shift, up=True)).eval()
    x, emb = noise(2, 32, 8, 8), noise(2, 16, seed=1)
    before = block.in_norm.modulate(LevelCondition(condition, (8, 8), "dense"))
    after = block.out_norm.modulate(LevelCondition(condition, (16, 16), "dense"))
    h = F.silu(F.group_norm(x, 32) * before.factor + before.beta)
    h = block.in_layers[1](F.interpolate(h, scale_factor=2))
    e = block.emb_layers[1](F.silu(emb))[:, :, None, None]
    if scale_shift:
        h = (F.group_norm(h, 32) * after.factor + after.beta) * (1 + e[:, :32]) + e[:, 32:]
    else:
        h = F.group_norm(h + e, 32) * after.factor + after.beta
    expected = F.interpolate(x, scale_factor=2) + block.out_layers[2](F.silu(h))
    torch.testing.assert_close(block(x, emb, before, after), expected)


def test_blocks_start_as_the_identity(noise, label_map):
    x, emb = noise(2, 32, 16, 16), noise(2, 16)
    assert torch.equal(ResBlock(32, 32, 16)(x, emb), x)
    block, level = ConditionedResBlock(32, 32, 16, 4), LevelCondition(label_map(), (16, 16), "auto")
    assert torch.equal(block(x, emb, block.in_norm.modulate(level), block.out_norm.modulate(level)), x)
