"""Novelty of masks against IoU counted pixel by pixel."""

from __future__ import annotations

import numpy as np
import torch

from guided_diffusion.data.novelty import novelty


def counted(first: np.ndarray, second: np.ndarray, background: int) -> float:
    union = ((first != background) | (second != background)).sum()
    return ((first == second) & (first != background)).sum() / union if union else 1.0


def masks(count: int, seed: int) -> torch.Tensor:
    return torch.randint(0, 4, (count, 6, 5), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_it_is_the_iou_to_the_nearest():
    made, training = masks(5, 0), masks(7, 1)
    for background in (0, 2):
        expected = [1 - max(counted(m, t, background) for t in training.numpy()) for m in made.numpy()]
        assert np.allclose(novelty(made, training, background), expected)


def test_flipped_masks_are_found_where_flips_are_allowed():
    training = masks(7, 1)
    for dimension in (1, 2):
        flipped = training.flip(dimension)
        assert (novelty(flipped, training, 0, flips=[dimension]) == 0).all()
        assert (novelty(flipped, training, 0) > 0.2).all()
    assert (novelty(training.flip(1).flip(2), training, 0, flips=[1, 2]) == 0).all()


def test_training_masks_are_compared_with_the_others():
    training = masks(7, 1)
    assert (novelty(training, training, 0) == 0).all()
    assert (novelty(training, training, 0, leave_one_out=True) > 0.2).all()
    twice = torch.cat([training, training[:1]])
    assert (novelty(twice, twice, 0, leave_one_out=True) == 0).tolist() == [True, *[False] * 6, True]


def test_empty_masks_are_alike():
    empty = torch.zeros(2, 4, 4, dtype=torch.uint8)
    full = torch.ones(1, 4, 4, dtype=torch.uint8)
    assert novelty(empty, empty[:1], 0).tolist() == [0.0, 0.0]
    assert novelty(full, empty, 0).tolist() == [1.0]
