"""Randomness as a function of its purpose, not of what was drawn before.

Every random draw of training and sampling comes from a generator seeded by (stream, run seed, position), so a resumed
run, another batch size or another number of processes draws the same numbers, and no generator state is saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import torch


class Stream(IntEnum):
    """The purpose of a random draw; the streams of a run are independent of each other."""

    WEIGHTS = 0
    SHUFFLE = 1
    AUGMENT = 2
    TIMESTEP = 3
    NOISE = 4
    DROP = 5
    DROPOUT = 6
    SAMPLE = 7
    MASK = 8
    DEMO = 9
    LABEL = 10
    NOISY_MASK = 11
    HOLE = 12
    WINDOW = 13
    SCENE = 14
    PAINT = 15
    EDITED_MASK = 16
    CLASS = 17
    LATENT = 18
    FEATURE = 19
    PIXEL = 20
    STYLE = 21
    LAYOUT = 22
    OPACITY = 23


def derive_seed(stream: Stream, *key: int) -> int:
    """Return a 63-bit seed that depends on `stream` and every integer of `key` (0 to 2^64 - 1)."""
    # Two words for each number, and their count: SeedSequence pads with zeros and splits large numbers, so that
    # different keys would collide.
    words = [word for number in key for word in divmod(int(number), 2**32)]
    state = np.random.SeedSequence([int(stream), len(key), *words]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def step_generators(
    stream: Stream, key: Sequence[int], batch_indices: Sequence[int], device: torch.device | str = "cpu"
) -> list[torch.Generator]:
    """Return a generator for each image; `key` of the step: run seed, epoch, batch in the epoch."""
    return [torch.Generator(device).manual_seed(derive_seed(stream, *key, index)) for index in batch_indices]
