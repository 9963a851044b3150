"""Masks of objects: pasted into the image, and made into the shares of objects in pixels."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from guided_diffusion.conditions.layout import from_small_to_large
from guided_diffusion.models.layout.masks import MaskHead, object_weights
from guided_diffusion.models.layout.pasting import CELLS, paste, pixel_shares


def box(*corners: float) -> torch.Tensor:
    return torch.tensor(corners, dtype=torch.float64)[None, None]


def test_pasting_is_the_mean_of_a_finely_sampled_mask():
    torch.manual_seed(0)
    mask = torch.rand(1, 1, CELLS, CELLS, dtype=torch.float64)
    x0, y0, x1, y1 = corners = (0.13, -0.2, 0.58, 0.71)
    fine, (height, width) = 160, (6, 10)
    y, x = ((torch.arange(n * fine, dtype=torch.float64) + 0.5) / (n * fine) for n in (height, width))
    u, v = (x - x0) / (x1 - x0), (y - y0) / (y1 - y0)
    grid = torch.stack(torch.meshgrid(v, u, indexing="ij")[::-1], dim=-1)[None] * 2 - 1
    sampled = F.grid_sample(mask, grid, mode="bilinear", padding_mode="border", align_corners=False)
    within = ((v >= 0) & (v <= 1))[:, None] & ((u >= 0) & (u <= 1))
    pasted, inside = paste(mask, box(*corners), (height, width))
    torch.testing.assert_close(pasted, F.avg_pool2d(sampled * within, fine), atol=3e-3, rtol=0)
    torch.testing.assert_close(inside, F.avg_pool2d(within.double()[None, None], fine), atol=2e-2, rtol=0)


def test_coarse_maps_are_means_of_fine_ones():
    torch.manual_seed(0)
    mask = torch.rand(1, 1, CELLS, CELLS)
    corners = box(0.3, 0.42, 0.36, 0.9).float()
    for fine, coarse in zip(paste(mask, corners, (32, 48)), paste(mask, corners, (8, 12)), strict=True):
        torch.testing.assert_close(F.avg_pool2d(fine, 4), coarse, atol=1e-6, rtol=0)


def test_nothing_leaks_out_of_a_box_and_its_border_is_whole():
    pasted, inside = paste(torch.ones(1, 1, CELLS, CELLS), box(0.25, 0.5, 0.75, 1.0).float(), (8, 8))
    expected = torch.zeros(8, 8)
    expected[4:, 2:6] = 1
    torch.testing.assert_close(pasted[0, 0], expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(inside[0, 0], expected, atol=1e-6, rtol=0)
    assert not pasted[0, 0][expected == 0].any()


def test_an_object_smaller_than_a_pixel_keeps_its_area():
    _, inside = paste(torch.ones(1, 1, CELLS, CELLS), box(0.51, 0.51, 0.53, 0.52), (4, 4))
    assert float(inside.mean()) == pytest.approx(0.02 * 0.01, rel=1e-4)
    assert float(inside[0, 0, 2, 2]) == pytest.approx(16 * 0.02 * 0.01, rel=1e-4)


def test_boxes_without_area_or_outside_have_finite_shares():
    for low, high in ((0.5, 0.5), (-1.0, -0.5), (1.5, 2.0), (0.0, 1.0)):
        shares = pixel_shares(torch.tensor([[low]]), torch.tensor([[high]]), 16)
        assert shares.cells.isfinite().all()
        assert shares.inside.min() >= 0
        assert shares.inside.max() <= 1 + 1e-6
        if low != 0:
            assert shares.inside.sum() <= 1e-3


def test_mean_of_overlapping_objects():
    masks = torch.tensor([[[0.5, 0.0, 1.0], [0.25, 0.0, 1.0]]])
    torch.testing.assert_close(
        object_weights(masks, None), torch.tensor([[[2 / 3, 0, 0.5], [1 / 3, 0, 0.5]]]), atol=1e-5, rtol=0
    )


def test_the_smallest_object_covers_the_others_as_far_as_its_mask_goes():
    boxes = torch.tensor([[[0, 0, 1, 1], [0, 0, 0.5, 0.5], [0.2, 0.2, 0.3, 0.4], [0, 0, 1, 0.001]]])
    last = torch.tensor([[False, False, False, True]])
    front = from_small_to_large(boxes, last)
    assert front.tolist() == [[2, 1, 0, 3]]
    masks = torch.tensor([[[1.0, 1.0, 1.0], [1.0, 0.5, 0.0], [1.0, 0.5, 0.0], [1.0, 1.0, 1.0]]])
    expected = torch.tensor([[[0, 0.25, 1], [0, 0.25, 0], [1, 0.5, 0], [0, 0, 0]]])
    torch.testing.assert_close(object_weights(masks, front), expected)
    torch.manual_seed(0)
    masks = torch.rand(1, 4, 50)
    masks[:, 0] = 1
    torch.testing.assert_close(object_weights(masks, front).sum(1), torch.ones(1, 50))


@torch.no_grad()
def test_a_head_computes_the_rows_of_the_classes():
    torch.manual_seed(0)
    head, h = MaskHead(8, 6), torch.randn(2, 8, 5, 7).to(memory_format=torch.channels_last)
    label = torch.tensor([[5, 0, 0], [2, 2, 4]])
    everything = head.out(F.relu(head.norm(head.conv(h))))
    torch.testing.assert_close(head(h, label), torch.stack([everything[i, label[i]] for i in range(2)]))
