"""Patches: exact numbers, and counted ones that stay right while conditions are sliced and dropped."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from guided_diffusion.conditions.patches import Patches, number_patches, precompute_patches
from guided_diffusion.conditions.semantic_map import SemanticMap


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
def test_patches_are_numbered_exactly(shape, classes, edges, block):
    n, height, width = shape
    draw = torch.Generator().manual_seed(0)
    label = torch.randint(0, classes + 1, (n, -(-height // block), -(-width // block)), generator=draw)
    label = label.repeat_interleave(block, 1).repeat_interleave(block, 2)[:, :height, :width]
    edge = torch.rand(shape, generator=draw) > 0.7 if edges else None
    found = number_patches(SemanticMap(label, classes, edge), (height, width))
    states = 2 * label + (edge if edges else 0)
    seen = windows(states, -1)
    numbers = found.index.flatten()
    distinct, expected = torch.unique(seen, dim=0, return_inverse=True)
    assert len(distinct) == len(found) == len(set(zip(expected.tolist(), numbers.tolist(), strict=True)))

    # What the numbers stand for, read back, is what every pixel sees.
    inner = found.patches_5x5[numbers].view(-1, 3, 3)
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


def same_patches(first: Patches, second: Patches) -> bool:
    """Whether the same pixels have equal patches, whatever their numbers; `second` may know more patches."""
    pairs = set(zip(first.index.flatten().tolist(), second.index.flatten().tolist(), strict=True))
    if len(pairs) != len(first):
        return False
    for name in ("label", "edge"):
        rest = torch.zeros(1, 9, dtype=getattr(first, name).dtype)
        ours, theirs = (torch.cat([getattr(patches, name), rest]) for patches in (first, second))
        for one, other in pairs:
            if not torch.equal(ours[first.patches_5x5[one]], theirs[second.patches_5x5[other]]):
                return False
    return True


def test_what_was_counted_beforehand_is_right_for_any_batch_made_of_it():
    draw = torch.Generator().manual_seed(0)
    label = torch.randint(0, 4, (4, 4, 4), generator=draw).repeat_interleave(4, 1).repeat_interleave(4, 2)
    maps = SemanticMap(label, 3, torch.rand(label.shape, generator=draw) > 0.9)
    cache = precompute_patches(maps, [(16, 16), (8, 8)])
    assert len(cache) == 4
    dropped = torch.tensor([True, False, True, False])
    for change in (
        lambda m: m,
        lambda m: m.drop(dropped),
        lambda m: m[1:3],
        lambda m: m[torch.tensor([3, 0])],
        lambda m: m[1:].drop(torch.ones(3, dtype=torch.bool)),
        lambda m: m.drop(dropped)[:2],
        lambda m: m.to("cpu"),
    ):
        changed, counted = change(maps), change(cache)
        assert len(counted) == len(changed)
        for size in ((16, 16), (8, 8)):
            assert same_patches(number_patches(changed, size), counted.at(size))
    assert cache.at((4, 4)) is None
