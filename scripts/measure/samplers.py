"""Measure how well each sampler, time grid and step count keeps the contrast of an image; print a Markdown table.

    python -m scripts.measure.samplers [--steps 10 20 50] [--std 0.05 0.2 0.5 1] [--diffusion-steps 1000]

Pixels are drawn from N(0.3, std^2) by the best network for them, which has a closed form, without clipping.
The table has the standard deviation of the samples divided by the true one, the lowest and the highest of all `--std`
and both noise schedules: 1 is correct, 0.8 means four fifths of the contrast, above 1 images are grainy. It has no
sampling error. Takes seconds on a CPU.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from guided_diffusion.diffusion.gaussian import build_diffusion
from guided_diffusion.diffusion.options import DiffusionOptions
from guided_diffusion.diffusion.samplers import SAMPLERS
from guided_diffusion.diffusion.schedule import NOISE_SCHEDULES
from guided_diffusion.diffusion.time_grid import TIME_GRIDS
from scripts.measure.gaussian_answers import sample_moments

MEAN = 0.3
# The sampler, the variance of the process, keywords of the sampler.
ROWS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "`ddpm`, variance beta (`learn_sigma` false)": ("ddpm", "fixed_large", {}),
    "`ddpm`, variance of the posterior": ("ddpm", "fixed_small", {}),
    "`ddpm`, perfectly learned variance": ("ddpm", "learned", {}),
    "`ddim`": ("ddim", "learned", {}),
    "`ddim`, `eta` 0.5": ("ddim", "learned", {"eta": 0.5}),
    "`dpm++2m`": ("dpm++2m", "learned", {}),
    "`dpm++2m-sde`": ("dpm++2m-sde", "learned", {}),
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 20, 50])
    parser.add_argument("--std", type=float, nargs="+", default=[0.05, 0.2, 0.5, 1.0])
    parser.add_argument("--diffusion-steps", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(1)  # the tensors are small
    print(f"| sampler | time grid | {' | '.join(f'{steps} steps' for steps in options.steps)} |")
    print(f"|---|---|{'---|' * len(options.steps)}")
    for title, (name, variance, keywords) in ROWS.items():
        for grid in TIME_GRIDS:
            cells = []
            for steps in options.steps:
                ratios = [
                    ratio(options.diffusion_steps, schedule, grid, steps, std, name, variance, keywords)
                    for schedule in NOISE_SCHEDULES
                    for std in options.std
                ]
                cells.append(f"{min(ratios):.3f} to {max(ratios):.3f}")
            print(f"| {title} | `{grid}` | {' | '.join(cells)} |")


def ratio(
    diffusion_steps: int,
    schedule: str,
    grid: str,
    steps: int,
    std: float,
    name: str,
    variance: str,
    keywords: dict[str, Any],
) -> float:
    """Return the standard deviation of the samples over that of the data."""
    learned = variance == "learned"
    options = DiffusionOptions(diffusion_steps=diffusion_steps, noise_schedule=schedule, learn_sigma=learned)
    diffusion = build_diffusion(options, time_grid=grid, steps=steps, sigma_small=variance == "fixed_small")
    return sample_moments(SAMPLERS[name], diffusion, MEAN, std, **keywords).std / std


if __name__ == "__main__":
    main()
