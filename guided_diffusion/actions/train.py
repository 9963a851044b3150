"""`train`: from a folder of images and masks to a trained network."""

from __future__ import annotations

from guided_diffusion.config.train import TrainConfig
from guided_diffusion.pipelines.dataset import with_mode_defaults
from guided_diffusion.pipelines.resume import find_resume_plan
from guided_diffusion.pipelines.training import train
from guided_diffusion.runtime.distributed import init_distributed


def run(config: TrainConfig) -> int:
    """Train the network of `output_dir`, or resume its training."""
    config = with_mode_defaults(config)
    world = init_distributed(config.precision.device)
    try:
        train(config, find_resume_plan(config), world, action="train")
    finally:
        world.close()
    return 0
