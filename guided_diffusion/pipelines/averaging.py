"""Filling a hole that is larger than a window: all its windows at once, averaged where they overlap.

At every sampling step the network's predictions of x0 are averaged where windows overlap, by half (MultiDiffusion,
Bar-Tal et al. 2023). Windows filled one after the other leave more seams: `scripts/measure/large_defects.py`.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from guided_diffusion.conditions.base import Size
from guided_diffusion.conditions.known_region import KnownRegion
from guided_diffusion.data.components import Box
from guided_diffusion.diffusion.denoiser import Denoiser
from guided_diffusion.pipelines.sampling import NotFinite, SamplingRun

_KEPT = 32  # batches of windows whose modulations are kept for all steps; those of more are computed at every step


def windows_of(hole: Tensor, window: Size) -> list[Box]:
    """Return the windows that cover a hole, booleans [h, w], and overlap by half; they lie in its frame."""
    starts = (_starts(full, length) for full, length in zip(hole.shape, window, strict=True))
    boxes = (Box(top, left, top + window[0], left + window[1]) for top, left in product(*starts))
    return [box for box in boxes if hole[box.slices].any()]


def _starts(full: int, length: int) -> list[int]:
    count = -(-(full - length) // max(1, length // 2)) + 1
    return [round(number * (full - length) / max(1, count - 1)) for number in range(count)]


class AveragedDenoiser:
    """The x0 of a frame: the mean of what the network predicts in the windows of its hole."""

    def __init__(self, run: SamplingRun, label: Tensor, known: KnownRegion, *, seed: int, batch_size: int):
        """Take a frame of at least one window: its label [h, w], and what is known of it (a batch of one).

        batch_size: windows that the network sees at a time.
        """
        self.windows = windows_of(known.hole[0], run.pipeline.image_shape[1:])
        self._run, self._label, self._known, self._seed = run, label, known, seed
        parts = range(0, len(self.windows), batch_size)
        self._batches = [self.windows[start : start + batch_size] for start in parts]
        self._hooks = [run.x0_hooks() for _ in self._batches]
        keep = len(self._batches) <= _KEPT or run.draws_labels  # which has no modulations to keep
        self._denoisers = [self._of(index) for index in range(len(self._batches))] if keep else None

    def _of(self, index: int) -> Denoiser:
        boxes = self._batches[index]
        pipeline = self._run.pipeline
        condition = pipeline.condition_of(torch.stack([self._label[box.slices] for box in boxes]))
        parts = [(0, ..., *box.slices) for box in boxes]
        known = KnownRegion(
            torch.stack([self._known.image[part] for part in parts]),
            torch.stack([self._known.hole[part] for part in parts]),
        )
        # Windows share their seed, by which label diffusion, if any, draws.
        seeds = [self._seed] * len(boxes)
        return self._run.denoiser(condition.to(pipeline.device), seeds, known.to(pipeline.device), self._hooks[index])

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the predicted x0 [1, C, h, w] of `x` at `t` [1], with the known pixels in place."""
        return self.with_variance(x, t)[0]

    def with_variance(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return x0 and the log-variance of p(x_{t-1} | x_t), [1, C, h, w] each."""
        x0, variance, count = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x[:, :1])
        for index, boxes in enumerate(self._batches):
            denoise = self._of(index) if self._denoisers is None else self._denoisers[index]
            seen = torch.stack([x[(0, slice(None), *box.slices)] for box in boxes])
            found, log_variance = denoise.with_variance(seen, t.expand(len(boxes)))
            for box, of_x0, of_variance in zip(boxes, found, log_variance, strict=True):
                part = (0, slice(None), *box.slices)
                x0[part] += of_x0
                variance[part] += of_variance
                count[part] += 1
        count = count.clamp(min=1)
        return self._known.to(x.device).keep(x0 / count, x, t), variance / count


def fill_frame(
    run: SamplingRun, label: Tensor, known: KnownRegion, *, seed: int, batch_size: int, start: Tensor | None = None
) -> Tensor:
    """Return a frame with its hole filled, [C, h, w] float32 on the CPU; arguments as `AveragedDenoiser` takes them.

    start: [C, h, w], what a run with a `start_level` begins with.
    """
    with torch.inference_mode():
        denoise = AveragedDenoiser(run, label, known, seed=seed, batch_size=batch_size)
        begun = None if start is None else start[None]
        image = run.sample(denoise, known.image.shape[1:], [seed], start=begun)[0].cpu()
    if not torch.isfinite(image).all():
        raise NotFinite("sampling: the images have values that are not finite; lower s, or set precision to fp32")
    return image
