from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from guided_diffusion.models.conditioning import Modulation, ResizedCondition, SPADEGroupNorm


@pytest.mark.parametrize("edges", [False, True])
def test_spade_is_the_published_formula(fill, noise, label_map, edges):
    condition, x = label_map(edges=edges), noise(2, 64, 8, 8)
    layer = fill(SPADEGroupNorm(64, condition.channels, hidden=16))
    segmap = F.interpolate(condition.one_hot(), size=(8, 8), mode="nearest")
    hidden = layer.mlp_shared(segmap)
    expected = F.group_norm(x, 32) * (1 + layer.mlp_gamma(hidden)) + layer.mlp_beta(hidden)
    torch.testing.assert_close(layer(x, layer.modulate(ResizedCondition(condition, (8, 8)))), expected)


def test_one_hot_is_made_once_for_all_layers_of_a_level(label_map):
    condition = ResizedCondition(label_map(), (8, 8))
    assert condition.one_hot is condition.one_hot
    assert condition.one_hot.shape == (2, 4, 8, 8)


def test_modulation_of_one_map_stands_for_many(noise):
    one = Modulation(noise(1, 3, 4, 4), noise(1, 3, 4, 4, seed=1))
    x = noise(5, 3, 4, 4, seed=2)
    many = one.expand(5)
    assert len(many) == 5
    assert many.gamma.data_ptr() == one.gamma.data_ptr()
    assert torch.equal(many.apply(x), torch.cat([one.apply(row) for row in x.split(1)]))


def test_modulations_concatenate_along_the_batch(noise):
    parts = [Modulation(noise(n, 3, 4, 4), noise(n, 3, 4, 4, seed=n)) for n in (2, 1)]
    x = noise(5, 3, 4, 4)
    joint = Modulation.cat([*parts, parts[1].expand(2)])
    assert len(joint) == 5
    expected = [parts[0].apply(x[:2]), parts[1].apply(x[2:3]), parts[1].expand(2).apply(x[3:])]
    assert torch.equal(joint.apply(x), torch.cat(expected))
