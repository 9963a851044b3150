"""Noise schedules and respacing: which betas a process has, and which of its timesteps are kept."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from guided_diffusion.runtime.errors import ConfigError

NOISE_SCHEDULES = ("linear", "cosine")


def named_betas(name: str, steps: int) -> NDArray[np.float64]:
    """Return the betas, [steps] float64 in (0, 1), of a named schedule.

    "linear": from 1e-4 to 0.02 over 1000 steps (Ho et al. 2020, section 4), scaled by 1000 / steps so
        that fewer steps end at about the same noise level.
    "cosine": from abar(t) = cos^2((t + 0.008) / 1.008 * pi / 2) with betas of at most 0.999 (Nichol &
        Dhariwal 2021, eq. 17).

    Raises ConfigError for an unknown name or a number of steps that the schedule cannot have.
    """
    if steps < 1:
        raise ConfigError(f"diffusion_steps: must be at least 1, found {steps}")
    if name == "linear":
        scale = 1000 / steps
        if scale * 0.02 >= 1:
            raise ConfigError(
                f"diffusion_steps: the linear noise_schedule needs more than 20 steps, found {steps};"
                " use more steps, or noise_schedule cosine"
            )
        return np.linspace(scale * 1e-4, scale * 0.02, steps, dtype=np.float64)
    if name == "cosine":
        time = np.arange(steps + 1, dtype=np.float64) / steps
        abar = np.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2
        return np.minimum(1 - abar[1:] / abar[:-1], 0.999)
    raise ConfigError(f"noise_schedule: {name!r} is unknown; choose one of {', '.join(NOISE_SCHEDULES)}")


def space_timesteps(num_timesteps: int, spec: str | int | Sequence[int]) -> list[int]:
    """Return the timesteps, sorted and within `0..num_timesteps - 1`, that a respacing keeps.

    num_timesteps: length of the original process.
    spec: "" or an empty sequence keeps all. "ddimN" takes N steps at a constant integer stride from 0 (Song
        et al. 2021, section 4.2). Otherwise a count (`50`, "50"), or one count a section ("10,15,20",
        `[10, 15, 20]`): the process is cut into that many nearly equal sections, and each gives its count of
        steps, evenly spaced from its first to its last.

    Raises ConfigError where `spec` cannot be read or asks for steps that are not there.
    """
    if isinstance(spec, str) and spec.strip().startswith("ddim"):
        return _strided(num_timesteps, _integers(spec.strip()[len("ddim") :], spec, limit=1)[0])
    if isinstance(spec, str):
        counts = _integers(spec, spec) if spec.strip() else []
    else:
        counts = [spec] if isinstance(spec, int) else list(spec)
    if not counts:
        return list(range(num_timesteps))
    if min(counts) < 0 or sum(counts) == 0:
        raise ConfigError(f"timestep_respacing: {spec!r} keeps no steps; give counts of at least 1")
    return _sections(num_timesteps, counts, spec)


def _integers(text: str, spec: str, limit: int | None = None) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or (limit is not None and len(numbers) > limit):
        raise ConfigError(
            f'timestep_respacing: cannot read {spec!r}; write a count ("50"), counts a section ("10,15,20"),'
            ' a DDIM stride ("ddim50") or "" for all steps'
        )
    return numbers


def _strided(num_timesteps: int, count: int) -> list[int]:
    strides = range(1, max(2, num_timesteps))
    for stride in strides:
        kept = range(0, num_timesteps, stride)
        if len(kept) == count:
            return list(kept)
    possible = {len(range(0, num_timesteps, stride)) for stride in strides}
    below, above = [n for n in possible if n < count], [n for n in possible if n > count]
    nearest = [f"ddim{n}" for n in ([max(below)] if below else []) + ([min(above)] if above else [])]
    raise ConfigError(
        f"timestep_respacing: no integer stride takes exactly {count} of {num_timesteps} steps;"
        f' use {" or ".join(nearest)}, or "{max(1, min(count, num_timesteps))}" for steps that are nearly evenly spaced'
    )


def _sections(num_timesteps: int, counts: Sequence[int], spec: str | int | Sequence[int]) -> list[int]:
    kept: list[int] = []
    start = 0
    for section, count in enumerate(counts):
        size = num_timesteps // len(counts) + (section < num_timesteps % len(counts))
        if count > size:
            raise ConfigError(
                f"timestep_respacing: {spec!r} asks for {count} steps from a section of {size}"
                f" ({num_timesteps} steps in {len(counts)} section{'s' if len(counts) > 1 else ''});"
                f" use at most {size}, or raise diffusion_steps"
            )
        stride = (size - 1) / (count - 1) if count > 1 else 1.0
        position = 0.0
        for _ in range(count):
            kept.append(start + round(position))
            # A running sum, not a product: where the two round differently, published respacings follow the sum.
            position += stride
        start += size
    return kept


def respace_betas(betas: NDArray[np.float64], kept: Sequence[int]) -> NDArray[np.float64]:
    """Return the betas, [len(kept)] float64, of the process that visits only the timesteps `kept`.

    The noise level abar at a kept timestep stays what it was (Nichol & Dhariwal 2021, eq. 19):
    beta_i = 1 - abar[kept[i]] / abar[kept[i - 1]].

    betas: [T] float64 of the original process. kept: strictly increasing indices into it.
    """
    abar = np.cumprod(1 - np.asarray(betas, dtype=np.float64))[list(kept)]
    return 1 - abar / np.append(1.0, abar[:-1])
