"""What masks of objects learn from true masks: what is cut out by the boxes, what counts, and the loss."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from guided_diffusion.conditions.layout import EMPTY_BOX, LayoutCondition
from guided_diffusion.models.layout.pasting import CELLS, paste
from guided_diffusion.training.mask_supervision import (
    MaskSupervision,
    cell_shares,
    counted_objects,
    drawn_losses,
    masks_in_boxes,
    masks_in_pixels,
    regressed_losses,
)

CLASSES = 4
EMPTY = CLASSES


def layout(*objects: tuple[int, tuple[float, ...]], size: tuple[int, int], background: bool = False) -> LayoutCondition:
    """One layout of classes and boxes in pixels of the image."""
    height, width = size
    scale = torch.tensor([width, height, width, height])
    box = torch.stack([torch.tensor(each[1]) / scale for each in objects])
    label = torch.tensor([[each[0] for each in objects]])
    return LayoutCondition(label, box[None].float(), torch.zeros(1, len(objects), 1), CLASSES, size, background)


def random_label(height: int, width: int, seed: int = 0, classes: int = CLASSES) -> Tensor:
    return torch.randint(0, classes, (1, height, width), generator=torch.Generator().manual_seed(seed))


def test_a_box_of_as_many_pixels_as_cells_is_cut_out_as_it_is():
    label = random_label(40, 30)
    true = masks_in_boxes(layout((2, (7, 13, 23, 29)), (3, (0, 0, 16, 16)), size=(40, 30)), label, 16)
    assert torch.allclose(true.mask[0, 0], (label[0, 13:29, 7:23] == 2).float(), atol=1e-5)
    assert torch.allclose(true.mask[0, 1], (label[0, :16, :16] == 3).float(), atol=1e-5)
    assert torch.allclose(true.weight, torch.ones(1, 2, 16, 16), atol=1e-5)


@pytest.mark.parametrize("box", [(1.3, 2.8, 9.6, 11.1), (4.25, 0.5, 5.75, 12.0), (0.0, 0.0, 12.0, 13.0)])
def test_cells_have_the_mean_of_what_they_cover(box):
    """Against a map of 400 points a pixel, which is an integral of about 3 digits."""
    label = random_label(13, 12, seed=1)
    true = masks_in_boxes(layout((1, box), size=(13, 12)), label, 4)
    x0, y0, x1, y1 = box
    shares = (torch.arange(4 * 80) + 0.5) / (4 * 80)
    rows, columns = (y0 + (y1 - y0) * shares).long(), (x0 + (x1 - x0) * shares).long()
    dense = (label[0][rows][:, columns] == 1).float().unflatten(0, (4, 80)).unflatten(2, (4, 80)).mean((1, 3))
    assert torch.allclose(true.mask[0, 0], dense, atol=0.02)


def test_shares_of_a_cell_add_up_to_what_is_in_the_image():
    shares = cell_shares(torch.tensor([2.3, -4.0]), torch.tensor([7.9, 4.0]), 8, 12)
    assert torch.allclose(shares[0].sum(1), torch.ones(8), atol=1e-5)
    assert torch.allclose(shares[1].sum(1), torch.tensor([0.0] * 4 + [1.0] * 4))


def test_which_objects_count():
    label = torch.zeros(1, 16, 16, dtype=torch.uint8)
    label[0, 4:8, 4:8] = 1
    label[0, 10:14] = EMPTY  # ignored
    label[0, 10, 0] = 2
    objects = [
        (0, (0, 0, 16, 16)),  # the background
        (1, (3, 3, 9, 9)),
        (EMPTY, tuple(16 * value for value in EMPTY_BOX)),
        (1, (4, 4, 4.9, 8)),  # thinner than a pixel
        (2, (8, 0, 12, 4)),  # the map shows nothing of it
        (2, (0, 9.5, 4, 14)),  # mostly ignored
        (1, (-12, 4, 6, 8)),  # mostly out of the image
    ]
    condition = layout(*objects, size=(16, 16), background=True)
    assert counted_objects(condition, label).tolist() == [[False, True, False, False, False, False, False]]
    loss, images = MaskSupervision(1.0)(torch.zeros(1, 7, 16, 16), torch.full((1, 7, 16, 16), 0.5), condition, label)
    one = layout(objects[1], size=(16, 16))
    alone, _ = MaskSupervision(1.0)(torch.zeros(1, 1, 16, 16), torch.full((1, 1, 16, 16), 0.5), one, label)
    assert images.tolist() == [1.0]
    assert torch.allclose(loss, alone)


def test_images_without_objects_have_no_loss_and_finite_gradients():
    objects = (0, (0, 0, 16, 16)), (EMPTY, (-16, -16, -8, -8))
    condition = layout(*objects, size=(16, 16), background=True)
    logits, drawn = torch.full((1, 2, 16, 16), 50.0, requires_grad=True), torch.ones(1, 2, 16, 16, requires_grad=True)
    loss, images = MaskSupervision(1.0)(logits, drawn, condition, torch.zeros(1, 16, 16, dtype=torch.uint8))
    loss.sum().backward()
    assert (loss.tolist(), images.tolist()) == ([0.0], [0.0])
    assert not logits.grad.any()
    assert not drawn.grad.any()


def test_the_loss_of_known_masks():
    """Half of the cells are the object: all logits 0 have an entropy of log 2, and 1 - Dice = 1 - 2/3."""
    label = torch.zeros(1, 16, 16, dtype=torch.uint8)
    label[0, :8] = 1
    condition = layout((1, (0, 0, 16, 16)), size=(16, 16))
    undecided = regressed_losses(torch.zeros(1, 1, 16, 16), condition, label)
    assert undecided.item() == pytest.approx(math.log(2) + 1 - 2 * 0.25 / (0.25 + 0.5), rel=1e-5)
    same = drawn_losses(torch.full((1, 1, 16, 16), 0.5), condition, label)
    assert same.item() == pytest.approx(undecided.item(), rel=1e-5)
    right = torch.where(label[:, None] == 1, 20.0, -20.0)
    assert regressed_losses(right, condition, label).item() == pytest.approx(0, abs=1e-5)
    assert drawn_losses((label[:, None] == 1).float(), condition, label).item() == pytest.approx(0, abs=1e-5)
    assert regressed_losses(-right, condition, label).item() > 20


def test_what_is_pasted_into_a_box_is_all_of_it_at_its_border_too():
    """A mask of ones, pasted by the network's own rule, is the box: no pixel of its border is an error."""
    condition = layout((1, (2.3, 1.6, 9.2, 10.5)), size=(12, 14))
    drawn, _ = paste(torch.ones(1, 1, CELLS, CELLS), condition.box, (12, 14))
    label = torch.ones(1, 12, 14, dtype=torch.uint8)
    assert torch.allclose(drawn, masks_in_pixels(condition, label).weight, atol=1e-5)
    assert drawn_losses(drawn, condition, label).item() == pytest.approx(0, abs=1e-4)
