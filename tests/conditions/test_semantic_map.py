"""SemanticMap: null ids, dropping, resizing and the one-hot form."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from guided_diffusion.conditions.semantic_map import SemanticMap


def random_map(n=3, size=(12, 20), classes=5, *, edges=False, dtype=torch.uint8) -> SemanticMap:
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, classes + 1, (n, *size), generator=generator).to(dtype)
    edge = torch.rand(n, *size, generator=generator) < 0.3 if edges else None
    return SemanticMap(label, classes, edge)


@pytest.mark.parametrize("edges", [False, True])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
def test_one_hot_has_a_channel_a_class_and_none_for_null(edges, dtype):
    maps = random_map(edges=edges, dtype=dtype)
    found = maps.one_hot()
    expected = F.one_hot(maps.label.long(), 6)[..., :5].permute(0, 3, 1, 2).float()
    assert found.shape[1] == maps.channels == 5 + edges
    assert torch.equal(found[:, :5], expected)
    if edges:
        assert torch.equal(found[:, 5], maps.edge.float())


@pytest.mark.parametrize("size", [(6, 10), (3, 5), (24, 40), (5, 7)])
def test_resize_is_nearest_as_in_interpolate(size):
    maps = random_map(edges=True)
    small = maps.resize(size)
    assert torch.equal(small.label.float(), F.interpolate(maps.label[:, None].float(), size, mode="nearest")[:, 0])
    assert torch.equal(small.edge.float(), F.interpolate(maps.edge[:, None].float(), size, mode="nearest")[:, 0])


def test_dropped_maps_are_null_everywhere_and_others_untouched():
    maps = random_map(edges=True)
    dropped = maps.drop(torch.tensor([True, False, True]))
    assert not dropped.one_hot()[[0, 2]].any()
    assert torch.equal(dropped.one_hot()[1], maps.one_hot()[1])
    assert not maps.null().one_hot().any()


def test_slices_and_concatenation_are_inverse():
    maps = random_map(edges=True)
    again = SemanticMap.cat([maps[:1], maps[1:]])
    assert torch.equal(again.label, maps.label)
    assert torch.equal(again.edge, maps.edge)
    assert len(maps[torch.tensor([2, 0])]) == 2
