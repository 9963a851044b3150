"""Time grids: which timesteps of the original noise process a sampler with few steps visits.

A grid picks timesteps that the network was trained on. A log-SNR is log(abar / (1 - abar)).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from guided_diffusion.diffusion.schedule import space_timesteps
from guided_diffusion.runtime.errors import ConfigError

TIME_GRIDS = ("uniform", "logsnr", "quadratic", "trailing")

NOISIEST_LOGSNR = -12.0
"""Below this log-SNR (noise 400 times the image) the "logsnr" grid has a single step. Nothing of an image of some
hundred pixels is decided there: even its mean has at most L times the standard deviation of a pixel, for a side of L
pixels. A cosine schedule would spend a quarter of its steps there."""


def pick_timesteps(betas: NDArray[np.float64], grid: str, steps: int) -> list[int]:
    """Return exactly `steps` different timesteps of the process, increasing, within `0..T - 1`.

    betas: [T] float64 in (0, 1) of the original process. grid: one of `TIME_GRIDS`. Raises ConfigError for more steps
    than the process has.
    """
    total = len(betas)
    assert grid in TIME_GRIDS, grid
    assert steps >= 1
    if steps > total:
        raise ConfigError(f"steps is {steps}, but the model's noise process has {total}: use at most {total}")
    if steps == 1:
        return [total - 1]  # sampling begins with pure noise
    if grid == "uniform":  # evenly spaced from 0 to T - 1, like a count in `timestep_respacing`
        return space_timesteps(total, steps)
    if grid == "trailing":  # Lin et al. 2024, section 3.3; it does not visit timestep 0
        return [round((step + 1) * total / steps) - 1 for step in range(steps)]
    if grid == "quadratic":  # squares of evenly spaced numbers (Song et al. 2021, appendix D.2)
        return _distinct(np.linspace(0, (total - 1) ** 0.5, steps) ** 2)
    # "logsnr": as in DPM-Solver (Lu et al. 2022), where the timesteps are dense enough.
    abar = np.cumprod(1 - np.asarray(betas, dtype=np.float64))
    return _even_in_logsnr(np.log(abar) - np.log1p(-abar), steps)


def _distinct(ideal: Sequence[float] | NDArray[np.float64]) -> list[int]:
    """Round increasing numbers to different integers: where they are closer than 1, the later ones move up."""
    timesteps: list[int] = []
    for value in ideal:
        timesteps.append(max(round(float(value)), timesteps[-1] + 1 if timesteps else 0))
    return timesteps


def _even_in_logsnr(logsnr: NDArray[np.float64], steps: int) -> list[int]:
    """Return at least 2 timesteps from 0 to T - 1, evenly spaced in `logsnr` [T] down to `NOISIEST_LOGSNR`."""
    last = len(logsnr) - 1
    end = _nearest(logsnr, max(NOISIEST_LOGSNR, float(logsnr[last])))
    # The single step below the floor. It is left out where the floor leaves too few timesteps for the other steps.
    single = [last] if end < last and steps > 2 and end >= steps - 2 else []
    if not single:
        end = last
    timesteps = [0]
    for left in range(steps - len(single) - 1, 0, -1):
        # Each step takes an equal share of the rest, so that later steps make up for gaps of the integers.
        target = logsnr[timesteps[-1]] + (logsnr[end] - logsnr[timesteps[-1]]) / left
        timesteps.append(min(max(_nearest(logsnr, target), timesteps[-1] + 1), end - (left - 1)))
    return timesteps + single


def _nearest(logsnr: NDArray[np.float64], value: float) -> int:
    return int(np.abs(logsnr - value).argmin())
