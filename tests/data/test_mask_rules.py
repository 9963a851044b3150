"""Rules of training masks, cleaning by them, and how classes are drawn: checked on masks whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest

from guided_diffusion.data.loader import DistributedBatchPlan
from guided_diffusion.data.mask_rules import (
    LEAST_AREA,
    MaskRules,
    count_masks,
    image_weights,
    stated_classes,
)

BACKGROUND, PLATE, SPOT, CRACK, NULL = range(5)


def plate(*parts: tuple[int, int, int, int, int], size: int = 32) -> np.ndarray:
    """Return a plate on a background with parts (class, top, left, height, width)."""
    label = np.full((size, size), BACKGROUND, np.uint8)
    label[4:28, 4:28] = PLATE
    for class_id, top, left, height, width in parts:
        label[top : top + height, left : left + width] = class_id
    return label


MASKS = [
    plate(),
    plate((SPOT, 8, 8, 3, 3)),
    plate((SPOT, 10, 10, 4, 4)),
    plate((CRACK, 6, 6, 1, 8)),
    plate((SPOT, 20, 9, 3, 4), (SPOT, 8, 8, 3, 3)),
]


@pytest.fixture(scope="module")
def rules() -> MaskRules:
    return count_masks(MASKS, 4, BACKGROUND).rules()


def test_rules_are_those_of_the_masks(rules):
    assert rules.least_area[SPOT] == 9
    assert rules.least_area[CRACK] == 8
    assert rules.least_area[NULL] == LEAST_AREA
    assert rules.class_sets is None  # three sets in five masks: each mask may as well have its own
    assert sum(rules.class_mix) == pytest.approx(1)
    assert rules.class_mix[BACKGROUND] == 0  # it never is all that there is
    assert MaskRules.from_state(rules.to_state()) == rules


def test_sets_are_judged_where_masks_share_them():
    rules = count_masks(MASKS * 3, 4, BACKGROUND).rules()
    assert rules.class_sets == {(0, 1), (0, 1, 2), (0, 1, 3)}
    both = plate((SPOT, 8, 8, 3, 3), (CRACK, 20, 6, 1, 8))
    assert rules.is_unseen(both)
    assert not any(rules.is_unseen(label) for label in MASKS)


def test_training_masks_stay_as_they_are(rules):
    for label in MASKS:
        cleaned, changed = rules.cleaned(label)
        assert np.array_equal(cleaned, label)
        assert changed == 0


def test_specks_take_the_label_around_them(rules):
    clean = plate((SPOT, 8, 8, 4, 4))
    dirty = clean.copy()
    dirty[20, 20] = SPOT
    dirty[24, 10:13] = CRACK
    dirty[1, 1] = PLATE  # on the background
    dirty[10, 10] = BACKGROUND  # a hole
    dirty[14, 20] = NULL
    before = dirty.copy()
    cleaned, changed = rules.cleaned(dirty)
    assert np.array_equal(cleaned, clean)
    assert changed == pytest.approx(7 / 32**2)
    assert np.array_equal(dirty, before)
    assert rules.count_specks(dirty) == 5
    assert rules.count_specks(cleaned) == 0


def test_specks_side_by_side_vanish(rules):
    dirty = plate()
    dirty[10:13, 10:13] = [[SPOT, CRACK, SPOT], [CRACK, SPOT, CRACK], [SPOT, CRACK, SPOT]]
    assert np.array_equal(rules.cleaned(dirty)[0], plate())


def test_background_at_the_border_is_no_hole(rules):
    label = np.full((32, 32), PLATE, np.uint8)
    label[0, 0] = BACKGROUND
    assert np.array_equal(rules.cleaned(label)[0], label)


def test_faults_name_what_is_wrong():
    rules = count_masks(MASKS * 3, 4, BACKGROUND).rules()
    spot = plate((SPOT, 8, 8, 4, 4))
    assert rules.faults(spot, 0.0, SPOT) == ()
    assert rules.faults(spot, 0.03, SPOT) == ("specks",)
    assert rules.faults(spot, 0.0, CRACK) == ("class missing",)
    assert rules.faults(plate((SPOT, 8, 8, 3, 3), (CRACK, 20, 6, 1, 8)), 0.0, CRACK) == ("unseen set",)


def test_the_background_is_asked_for_where_there_is_nothing_else():
    empty = np.zeros((32, 32), np.uint8)
    rules = count_masks([*MASKS, empty, empty], 4, BACKGROUND).rules()
    assert rules.class_mix[BACKGROUND] == pytest.approx(2 / 7)
    assert rules.obeys(empty, BACKGROUND)
    assert not rules.obeys(plate(), BACKGROUND)


def test_neighbors_are_counted():
    label = np.array([[0, 0, 1], [0, 2, 1]])
    touching = count_masks([label], 3, 0).touching
    assert np.array_equal(touching, touching.T)
    assert (touching[0, 1], touching[0, 2], touching[1, 2], touching[0, 3]) == (1, 2, 1, 0)


def test_sampling_by_the_mix_undoes_the_balance():
    """The joint of image and stated class, balanced, has the same images for each class as the plain one."""
    rng = np.random.default_rng(0)
    present = rng.random((400, 5)) < [1, 0.9, 0.5, 0.1, 0.02]
    present[:, 0] = True
    counts = count_masks([np.flatnonzero(row)[None] for row in present], 5, 0)
    assert np.array_equal(counts.present, present)
    plain = stated_classes(present, counts.frequency, 0)
    for balance in (0.0, 0.5, 1.0):
        drawn = image_weights(counts, balance)[:, None] * stated_classes(
            present, counts.frequency, 0, power=-0.5 - balance
        )
        of_class = [joint / joint.sum(0) for joint in (drawn[:, 1:], plain[:, 1:])]
        assert np.allclose(*of_class)
        shares = drawn.sum(0) / plain.sum(0)
        assert np.allclose(shares[1:] * counts.frequency[1:] ** balance, shares[1] * counts.frequency[1] ** balance)


def test_weighted_epochs_draw_as_often_as_the_weights_say():
    weights = (0.25, 0.5, 1.0, 2.25, 1.0)
    plans = [DistributedBatchPlan(5, 2, 2, rank, 3, weights) for rank in (0, 1)]
    drawn = np.zeros(5)
    for epoch in range(200):
        batches = [plan.batches(epoch) for plan in plans]
        keys = [key for both in zip(*batches, strict=True) for keys in both for key in keys if key.weight]
        assert len(keys) == 5
        counts = np.bincount([key.index for key in keys], minlength=5)
        assert all(int(w) <= count <= int(w) + 1 for w, count in zip(weights, counts, strict=True))
        drawn += counts
    assert np.allclose(drawn / 200, weights, atol=0.1)
    whole, resumed = plans[0].batches(7), plans[0].batches(7, start_item=4)
    assert whole[1:] == resumed


def test_mirrored_masks_of_classes_called_left_and_right_are_seen_in_training():
    """Training shows each mask mirrored, with the two exchanged: what it makes likewise is neither unseen nor rare."""
    label = np.zeros((12, 16), np.uint8)
    label[3:6, 2:5] = 1  # the left one, and there is no right one
    other = np.zeros_like(label)
    other[8:10, 6:12] = 3
    counts = count_masks([label, label, label, other], 4, 0)
    mirrored = np.where(label == 1, 2, label)[:, ::-1]
    alone, both = counts.rules(), counts.rules(((1, 2),))
    assert alone.faults(mirrored, 0.0, 2) == ("unseen set",)
    assert both.faults(mirrored, 0.0, 2) == ()
    assert both.class_mix == pytest.approx((0, 0.375, 0.375, 0.25))
    assert both.least_area[1] == both.least_area[2] == 9
    assert counts.rules(()) == alone
