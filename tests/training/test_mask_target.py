"""What a model of masks is trained on: x0, the class that is stated, and their draws."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from guided_diffusion.conditions.patches import precompute_patches
from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.data.loader import TrainBatch
from guided_diffusion.diffusion.pair_code import PairCode, one_hot_codes
from guided_diffusion.training.mask_preview import rows_of_classes, spread_classes
from guided_diffusion.training.target import MaskTarget, class_condition

FREQUENCY = torch.tensor([1.0, 0.5, 0.25, 0.1])


def prepare(condition):
    return precompute_patches(condition, [condition.size])


def target(balance: float = 0.0) -> MaskTarget:
    code = PairCode(one_hot_codes(5), 4, 3, 0.5, 2)
    return MaskTarget(
        code, frequency=FREQUENCY, background=0, balance=balance, mask_weight=2.0, size=(4, 4), prepare=prepare
    )


def batch_of(labels: torch.Tensor) -> TrainBatch:
    count = len(labels)
    image = torch.rand(count, 3, *labels.shape[1:], generator=torch.Generator().manual_seed(0)) * 2 - 1
    condition = SemanticMap(labels, 4)
    return TrainBatch(image, condition, torch.arange(count), torch.ones(count), count)


def labels_with(*classes: int) -> torch.Tensor:
    label = torch.zeros(8, 8, dtype=torch.uint8)
    for row, kind in enumerate(classes):
        label[row] = kind
    return label


def test_the_goal_is_image_and_mask_and_the_condition_one_of_its_classes():
    made = target()
    batch = batch_of(torch.stack([labels_with(1, 3), labels_with(0), labels_with(2, 4), labels_with(4)]))
    goal = made(batch, slice(1, 4), torch.zeros(3), (0, 1, 2))
    assert goal.x0.shape == (3, 32, 4, 4)
    code = PairCode(one_hot_codes(5), 4, 3, 0.5, 2)
    decoded = code.decode(goal.x0)
    assert torch.equal(decoded.label, batch.condition.label[1:].long())
    assert torch.equal(decoded.image, batch.image[1:])
    stated = goal.condition.label[:, 0, 0]
    assert stated.tolist() == [0, 2, 0]  # never null, which is no class
    assert torch.equal(goal.condition.label, stated[:, None, None].expand(3, 4, 4))
    # The prepared patches are those of the same maps, whatever their numbers: their middle pixels are the labels.
    patches = goal.prepared.at((4, 4))
    middle = patches.label[patches.patches_5x5[patches.index][..., 4]][..., 4]
    assert torch.equal(middle, goal.condition.label.long())
    assert goal.weight.flatten().tolist() == pytest.approx([8 / 3] * 12 + [2 * 8 / 5] * 20)


@pytest.mark.parametrize("balance", [0.0, 0.5])
def test_rare_classes_are_stated_more_often(balance):
    made = target(balance)
    label = labels_with(1, 2, 3).repeat(500, 1, 1)
    drawn = torch.cat([made.draw_classes(label, (0, 0, step), list(range(500))) for step in range(8)])
    expected = FREQUENCY[1:] ** (-0.5 - balance)
    counts = torch.tensor([int((drawn == kind).sum()) for kind in (1, 2, 3)]) / len(drawn)
    assert torch.allclose(counts, expected / expected.sum(), atol=0.03)


def test_draws_depend_on_step_and_position_alone():
    made = target()
    label = labels_with(1, 2, 3).repeat(64, 1, 1)
    whole = made.draw_classes(label, (0, 3, 4), list(range(64)))
    halves = [made.draw_classes(label[:32], (0, 3, 4), list(range(start, start + 32))) for start in (0, 32)]
    assert torch.equal(whole, torch.cat(halves))
    assert not torch.equal(whole, made.draw_classes(label, (0, 3, 5), list(range(64))))


@pytest.mark.slow
def test_a_trainer_with_weights_learns_pairs(trainer_for):
    """The loss of a few steps on the same small dataset falls, and nothing of it is null or non-finite."""
    trainer = trainer_for(generates="pair", batch_size=8, max_epochs=30, lr=2e-3)
    progress = trainer.fit()
    losses = [line["loss"] for line in progress.history]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    assert progress.history[-1]["bad_steps"] == 0


def test_class_conditions_are_constant_maps():
    condition = class_condition(torch.tensor([3, 0, 4]), 4, (2, 3))
    assert condition.label.tolist() == [[[kind] * 3] * 2 for kind in (3, 0, 4)]
    assert torch.equal(condition[2:].label, condition[2:].null().label)
    assert class_condition(torch.tensor([300]), 300, (2, 2)).label.unique().tolist() == [300]


def test_any_number_of_samples_has_about_the_mix():
    mix = [0.0, 0.4, 0.3, 0.2, 0.1]
    for offset in (0.0, 0.37, 0.99):
        classes = spread_classes(mix, 1000, offset)
        for count in (10, 50, 333, 1000):
            found = Counter(classes[:count])
            assert 0 not in found
            assert all(abs(found[kind] - count * share) <= 2.5 for kind, share in enumerate(mix))
        assert spread_classes(mix, 10, offset) == classes[:10]
    assert rows_of_classes(mix, 6) == [1, 2, 3, 4, 1, 2]
