"""Measurements of `run.py`: training of latents beside that of pixels, time of a step and memory.

A step of latents encodes the images and trains the network of the latents' size; the maps were reduced by the loader.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

import torch

from guided_diffusion.data.area import AreaReduction
from guided_diffusion.models.autoencoder import Autoencoder, AutoencoderShape
from guided_diffusion.models.first_stage import FirstStage
from scripts.benchmark.cases import Case, make_batch
from scripts.benchmark.timing import Ratio, interleaved, memory_of_steps, peak_training_memory, ratio
from scripts.benchmark.variants import Ours, Step, training_step

LATENT_SIZES = ("256:64:6", "512:64:6")
FACTORS = {"pixels": 1, "latent 4": 4, "latent 8": 8}
WIDTH = 64
"""Channels of the autoencoder's first level, as by default."""


@dataclass(frozen=True)
class LatentRow:
    """What was measured of one case, by the names in `FACTORS`. ratios: of the times, those of pixels above them."""

    case: Case
    seconds: Mapping[str, Sequence[float]]
    ratios: Mapping[str, Ratio]
    memory: Mapping[str, float]


def latent_cases(cases: Sequence[Case]) -> list[Case]:
    """Return cases with a batch that fits a small GPU."""
    return [replace(case, batch=min(4, max(1, 4 * 256**2 // case.size**2))) for case in cases]


def latent_step(case: Case, factor: int) -> Step:
    """Return a step of training of `case`, in pixels (`factor` 1) or in latents."""
    batch = make_batch(case)
    if factor == 1:
        return training_step(Ours(case), batch)
    torch.manual_seed(0)
    shape = AutoencoderShape(3, 0, 0, factor, factor, WIDTH)
    stage = FirstStage(Autoencoder(shape)).to(case.device)
    kind = type("Latents", (Ours,), {"image_channels": factor})
    batch = replace(batch, condition=AreaReduction(factor, 0)(batch.condition))
    return training_step(kind(replace(case, size=case.size // factor)), batch, encode=stage.encode)


def latent_memory(case: Case, name: str) -> float:
    """Return the most memory in GiB of training steps of `case` in this process; name: of `FACTORS`."""
    return memory_of_steps(case, lambda: latent_step(case, FACTORS[name]))


def measure_latent(case: Case, rounds: int, done: Callable[[float], None]) -> LatentRow:
    """Return time and memory of training steps of `case`; done: called with the guessed seconds of a forward pass."""
    steps = {name: latent_step(case, factor) for name, factor in FACTORS.items()}

    def count(name: str) -> None:
        done(case.forward_seconds / FACTORS[name] ** 2)

    seconds = interleaved(steps, rounds, case.device, count)
    del steps
    memory = {name: peak_training_memory(case, name, latent_memory) for name in FACTORS}
    done(6 * case.forward_seconds)
    ratios = {name: ratio(seconds["pixels"], seconds[name]) for name in FACTORS if name != "pixels"}
    return LatentRow(case, seconds, ratios, memory)


def latent_lines(rows: Sequence[LatentRow]) -> list[str]:
    """Return the Markdown table."""
    names = list(FACTORS)
    heads = ["size / channels / classes", "batch", *(f"{name}, ms" for name in names)]
    heads += [*(f"pixels / {name}" for name in names[1:]), *(f"{name}, GiB" for name in names)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        cells = [row.case.title, str(row.case.batch)]
        cells += [f"{1000 * median(row.seconds[name]):.4g}" for name in names]
        cells += [str(row.ratios[name]) for name in names[1:]]
        cells += [f"{row.memory[name]:.2f}" for name in names]
        lines.append(f"| {' | '.join(cells)} |")
    return lines
