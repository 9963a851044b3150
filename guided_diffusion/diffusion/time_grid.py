"""Which timesteps of a noise process a sampler with few steps visits.

A grid is a rule that picks timesteps of the original process, so that a network is only ever asked about timesteps
that it was trained on. All log-SNRs here are log(abar / (1 - abar)).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from guided_diffusion.diffusion.schedule import space_timesteps
from guided_diffusion.runtime.errors import ConfigError

TIME_GRIDS = ("uniform", "logsnr", "quadratic", "trailing")

NOISIEST_LOGSNR = -12.0
"""Below this log-SNR (noise 400 times the image) the "logsnr" grid has one step alone. The coarsest component of an
image of side L, its mean, has up to L times the standard deviation of a pixel, so that nothing of images of some
hundred pixels is decided there; a cosine schedule would spend a quarter of its steps on it."""


def pick_timesteps(betas: NDArray[np.float64], grid: str, steps: int) -> list[int]:
    """Return exactly `steps` different timesteps of the process, increasing, within `0..T - 1`.

    betas: [T] float64 in (0, 1) of the original process. Raises ConfigError for an unknown grid, or more steps than the
    process has.
    """
    total = len(betas)
    if grid not in TIME_GRIDS:
        raise ConfigError(f"time_grid: {grid!r} is unknown; choose one of {', '.join(TIME_GRIDS)}")
    if steps < 1:
        raise ConfigError(f"steps is {steps}: use at least 1")
    if steps > total:
        raise ConfigError(f"steps is {steps}, but the model's noise process has {total}: use at most that")
    if grid == "uniform":  # evenly spaced from 0 to T - 1, as a count does in `timestep_respacing`
        return space_timesteps(total, steps)
    if steps == 1:
        return [total - 1]  # sampling begins with noise alone
    if grid == "trailing":  # short of timestep 0 (Lin et al. 2024, section 3.3)
        return [round((step + 1) * total / steps) - 1 for step in range(steps)]
    if grid == "quadratic":  # squares of evenly spaced numbers (Song et al. 2021, appendix D.2)
        return _distinct(np.linspace(0, (total - 1) ** 0.5, steps) ** 2)
    # "logsnr": as DPM-Solver does (Lu et al. 2022), as far as the timesteps are dense enough.
    abar = np.cumprod(1 - np.asarray(betas, dtype=np.float64))
    return _even_in_logsnr(np.log(abar) - np.log1p(-abar), steps)


def _distinct(ideal: Sequence[float] | NDArray[np.float64]) -> list[int]:
    """Round increasing numbers to different integers: where they are closer than 1, the later ones move up."""
    kept: list[int] = []
    for value in ideal:
        kept.append(max(round(float(value)), kept[-1] + 1 if kept else 0))
    return kept


def _even_in_logsnr(logsnr: NDArray[np.float64], steps: int) -> list[int]:
    """Return `steps` timesteps, at least 2, from 0 to T - 1, at the floor's jump evenly spaced in `logsnr` [T]."""
    last = len(logsnr) - 1
    end = _nearest(logsnr, max(NOISIEST_LOGSNR, float(logsnr[last])))
    # Two steps are both ends; and a floor too near to timestep 0 would leave no room for the steps before it.
    alone = [last] if end < last and steps > 2 and end >= steps - 2 else []
    if not alone:
        end = last
    kept = [0]
    for left in range(steps - len(alone) - 1, 0, -1):
        # An equal share of what is left, so that the gap where integers are too coarse is made up for by the others.
        target = logsnr[kept[-1]] + (logsnr[end] - logsnr[kept[-1]]) / left
        kept.append(min(max(_nearest(logsnr, target), kept[-1] + 1), end - (left - 1)))
    return kept + alone


def _nearest(logsnr: NDArray[np.float64], value: float) -> int:
    return int(np.abs(logsnr - value).argmin())
