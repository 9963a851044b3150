"""Which labeled images are held out together, so that each is scored by classifiers that never saw it."""

from __future__ import annotations

import numpy as np

from guided_diffusion.runtime.seeding import Stream, derive_seed


def split_folds(images: int, folds: int, seed: int) -> list[list[int]]:
    """Return the held-out images of each fold, ascending: every image in one, sizes differing by at most one.

    folds: 2 to `images`.
    """
    order = np.random.default_rng(derive_seed(Stream.SHUFFLE, seed, images, folds)).permutation(images)
    return [sorted(order[first::folds].tolist()) for first in range(folds)]
