"""SemanticMap: null ids, dropping, resizing and the one-hot form."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from guided_diffusion.conditions.semantic_map import SemanticMap, number_neighbourhoods


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


# --- neighbourhoods ----------------------------------------------------------------------------------------------


def windows(values: torch.Tensor, outside: int) -> torch.Tensor:
    """Every pixel's 5x5 window of [N, H, W], row by row: [N * H * W, 25]."""
    padded = F.pad(values, (2, 2, 2, 2), value=outside)
    return padded.unfold(1, 5, 1).unfold(2, 5, 1).reshape(-1, 25)


NUMBERED = [
    ((2, 8, 8), 3, False, 1),
    ((2, 9, 13), 3, True, 3),
    ((2, 1, 7), 3, True, 1),
    ((1, 6, 1), 2, False, 2),
    ((1, 1, 1), 2, True, 1),
    ((3, 2, 2), 40, True, 1),
    ((3, 5, 9), 200, True, 1),
    ((2, 12, 12), 65_535, True, 4),
    ((1, 40, 40), 300, False, 1),
]


@pytest.mark.parametrize(("shape", "classes", "edges", "block"), NUMBERED)
def test_neighbourhoods_are_numbered_exactly(shape, classes, edges, block):
    n, height, width = shape
    draw = torch.Generator().manual_seed(0)
    label = torch.randint(0, classes + 1, (n, -(-height // block), -(-width // block)), generator=draw)
    label = label.repeat_interleave(block, 1).repeat_interleave(block, 2)[:, :height, :width]
    edge = torch.rand(shape, generator=draw) > 0.7 if edges else None
    found = number_neighbourhoods(label, edge, classes)
    states = 2 * label + (edge if edges else 0)
    seen = windows(states, -1)
    numbers = found.index.flatten()
    distinct, expected = torch.unique(seen, dim=0, return_inverse=True)
    assert len(distinct) == len(found) == len(set(zip(expected.tolist(), numbers.tolist(), strict=True)))

    # What the numbers stand for, read back, is what every pixel sees.
    inner = found.parts[numbers].view(-1, 3, 3)
    no_label, no_edge = torch.full((1, 9), -1), torch.zeros(1, 9, dtype=torch.bool)
    labels = torch.cat([found.label, no_label])[inner].view(-1, 3, 3, 3, 3)
    drawn = torch.cat([found.edge, no_edge])[inner].view(-1, 3, 3, 3, 3) if edges else None
    seen = seen.view(-1, 5, 5)
    for row in range(3):
        for column in range(3):
            window = seen[:, row : row + 3, column : column + 3]
            inside = window[:, 1, 1] >= 0
            assert torch.equal(inner[:, row, column] < len(found.label), inside)
            wanted = torch.where(window < 0, classes, window // 2)
            assert torch.equal(labels[inside, row, column], wanted[inside])
            if edges:
                assert torch.equal(drawn[inside, row, column], ((window >= 0) & (window % 2 == 1))[inside])


def test_counting_beforehand_changes_nothing_for_any_batch_made_of_it():
    draw = torch.Generator().manual_seed(0)
    label = torch.randint(0, 4, (4, 4, 4), generator=draw).repeat_interleave(4, 1).repeat_interleave(4, 2)
    edge = torch.rand(label.shape, generator=draw) > 0.9
    plain = SemanticMap(label, 3, edge)
    counted = plain.with_numbers([(16, 16), (8, 8)])
    dropped = torch.tensor([True, False, True, False])
    for change in (
        lambda m: m,
        lambda m: m.drop(dropped),
        lambda m: m[1:3],
        lambda m: m[1:].null(),
        lambda m: m.to("cpu"),
    ):
        before, after = change(plain), change(counted)
        for size in ((16, 16), (8, 8)):
            assert size in after.numbered
            first, second = before.neighbourhoods(size), after.neighbourhoods(size)
            # The same pixels are alike, and they see the same.
            pairs = set(zip(first.index.flatten().tolist(), second.index.flatten().tolist(), strict=True))
            assert len(pairs) == len(first)
            for ours, theirs in pairs:
                for field in ("label", "edge"):
                    rest = torch.zeros(1, 9, dtype=getattr(first, field).dtype)
                    seen = [
                        torch.cat([getattr(m, field), rest])[m.parts[k]] for m, k in ((first, ours), (second, theirs))
                    ]
                    assert torch.equal(*seen)
    assert not SemanticMap.cat([counted, counted]).numbered
    assert not counted.resize((8, 8)).numbered
