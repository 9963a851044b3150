"""The numbers of the ablation of pairs on masks whose answer is known; its trainings are those of `train`."""

from __future__ import annotations

import json

import numpy as np

from evaluations.mask_statistics import MaskReference
from guided_diffusion.data.mask_rules import count_masks
from scripts.measure.pair_ablation import Setting, real_numbers, statistics_of, table_of


def squares(count: int, seed: int) -> np.ndarray:
    """Return masks [N, 24, 24] with a square of class 1, and of class 2 in every other."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((count, 24, 24), np.uint8)
    for number, label in enumerate(labels):
        for kind, (top, left) in ((1, rng.integers(1, 8, 2)), (2, rng.integers(14, 18, 2))):
            if kind == 1 or number % 2 == 0:
                side = int(rng.integers(3, 6))
                label[top : top + side, left : left + side] = kind
    return labels


def test_masks_of_the_same_kind_and_noise():
    training = squares(40, 0)
    rules = count_masks(training, 3, 0).rules()
    reference = MaskReference.of(list(training), ["background", "one", "two"])
    noise = np.random.default_rng(2).integers(0, 3, (24, 24, 24)).astype(np.uint8)
    new, copies, noisy = (
        statistics_of(labels, [1] * len(labels), rules, reference) for labels in (squares(24, 1), training[:24], noise)
    )
    assert new["obeyed"] == copies["obeyed"] == 1
    assert new["unseen"] == copies["unseen"] == new["specks"] == 0
    assert copies["near_copies"] == 1 > new["near_copies"]
    assert new["far_out"] <= 1
    assert noisy["specks"] > 20
    assert noisy["far_out"] > 10
    record = {
        "setting": Setting.of("x0:bits:1").name,
        "epochs": 3,
        "decoded": noisy,
        "written": new,
        "attempts": 2.0,
        "with_faults": 0.25,
        "training": real_numbers(training, rules, reference),
    }
    head, _, row, *_ = table_of([json.loads(json.dumps(record))]).splitlines()
    assert head.count("|") == row.count("|")
    assert row.startswith("| x0_bits_1 | 3 | ")
