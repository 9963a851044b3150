"""Noise schedules and respacing: the betas of a process, and which of its timesteps are visited."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from guided_diffusion.runtime.errors import ConfigError

NOISE_SCHEDULES = ("linear", "cosine")


def named_betas(name: str, steps: int) -> NDArray[np.float64]:
    """Return the betas, [steps] float64 in (0, 1), of a schedule in `NOISE_SCHEDULES`.

    "linear": Ho et al. 2020, section 4, scaled by 1000 / steps so that fewer steps end at about the same noise level;
    ConfigError for 20 steps or fewer. "cosine": Nichol & Dhariwal 2021, eq. 17, with betas of at most 0.999.
    """
    assert name in NOISE_SCHEDULES, name
    if name == "cosine":
        time = np.arange(steps + 1, dtype=np.float64) / steps
        abar = np.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2
        return np.minimum(1 - abar[1:] / abar[:-1], 0.999)
    scale = 1000 / steps
    if scale * 0.02 >= 1:
        raise ConfigError(
            f"diffusion_steps: the linear noise_schedule needs more than 20 steps, found {steps}; use more steps, or "
            "noise_schedule cosine"
        )
    return np.linspace(scale * 1e-4, scale * 0.02, steps, dtype=np.float64)


def space_timesteps(num_timesteps: int, spec: str | int) -> list[int]:
    """Return the timesteps that a respacing visits, sorted and within `0..num_timesteps - 1`.

    spec: "" for all; "ddimN" for N steps at a constant integer stride (Song et al. 2021, section 4.2); else one count
    for each of nearly equal sections ("10,15,20", 50), evenly spaced from the section's first to its last timestep.
    Raises ConfigError where the process does not have such steps.
    """
    text = str(spec).replace(" ", "")
    if not text:
        return list(range(num_timesteps))
    if text.startswith("ddim"):
        return _strided(num_timesteps, int(text.removeprefix("ddim")))
    return _sections(num_timesteps, [int(count) for count in text.split(",")])


def _strided(num_timesteps: int, count: int) -> list[int]:
    # Several strides can give one count; the published code takes the smallest.
    strides = {len(range(0, num_timesteps, stride)): stride for stride in range(max(1, num_timesteps - 1), 0, -1)}
    if count in strides:
        return list(range(0, num_timesteps, strides[count]))
    nearest = " or ".join(f"ddim{n}" for n in sorted(sorted(strides, key=lambda n: abs(n - count))[:2]))
    raise ConfigError(
        f"timestep_respacing: no integer stride gives exactly {count} of {num_timesteps} steps; use {nearest}, or "
        f'"{min(count, num_timesteps)}" for nearly even spacing'
    )


def _sections(num_timesteps: int, counts: Sequence[int]) -> list[int]:
    timesteps: list[int] = []
    start = 0
    for section, count in enumerate(counts):
        size = num_timesteps // len(counts) + (section < num_timesteps % len(counts))
        if count > size:
            raise ConfigError(
                f"timestep_respacing: {count} steps are asked of a section of {size} ({num_timesteps} steps in "
                f"{len(counts)} section{'s' if len(counts) > 1 else ''}); use at most {size}, or raise diffusion_steps"
            )
        stride = (size - 1) / (count - 1) if count > 1 else 1.0
        position = 0.0
        for _ in range(count):
            timesteps.append(start + round(position))
            # Published respacings come from a running sum, which can round differently from a product.
            position += stride
        start += size
    return timesteps


def respace_betas(betas: NDArray[np.float64], timesteps: Sequence[int]) -> NDArray[np.float64]:
    """Return the betas, [len(timesteps)] float64, of the process that visits only `timesteps`, strictly increasing.

    betas: [T] float64 of the original process. The noise level abar at a visited timestep does not change
    (Nichol & Dhariwal 2021, eq. 19): beta_i = 1 - abar[timesteps[i]] / abar[timesteps[i - 1]].
    """
    abar = np.cumprod(1 - np.asarray(betas, dtype=np.float64))[list(timesteps)]
    return 1 - abar / np.append(1.0, abar[:-1])
