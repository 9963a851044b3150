"""Which labeled images are held out together, so that each is scored by classifiers that never saw it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from guided_diffusion.runtime.seeding import Stream, derive_seed


def split_folds(images: int, folds: int, seed: int, groups: Sequence[int] | None = None) -> list[list[int]]:
    """Return the held-out images of each fold, ascending: every image in one, sizes differing by at most one.

    groups: the number of the group of each image, from 0 on; these stay whole, and their numbers differ by at most one.
    folds: 2 to the number of groups, or of images where there are none.
    """
    numbers = np.arange(images) if groups is None else np.asarray(groups)
    order = np.random.default_rng(derive_seed(Stream.SHUFFLE, seed, images, folds)).permutation(1 + int(numbers.max()))
    return [np.flatnonzero(np.isin(numbers, order[first::folds])).tolist() for first in range(folds)]
