"""The random numbers of a training step: a function of its position and the image's, as in `seeding`."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from guided_diffusion.seeding import Stream, derive_seed


def step_generators(
    stream: Stream, key: Sequence[int], slots: Sequence[int], device: torch.device | str = "cpu"
) -> list[torch.Generator]:
    """Return one generator an image, for the images at `slots` of the global batch.

    key: of the step: run seed, epoch, batch in the epoch.
    """
    return [torch.Generator(device).manual_seed(derive_seed(stream, *key, slot)) for slot in slots]
