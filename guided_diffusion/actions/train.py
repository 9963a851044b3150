"""`train`: from a folder of images and masks to a trained network."""

from __future__ import annotations

from guided_diffusion.config.train import TrainConfig
from guided_diffusion.pipelines.dataset import with_mode_defaults
from guided_diffusion.pipelines.resume import start_of_training
from guided_diffusion.pipelines.training import train
from guided_diffusion.runtime.distributed import join


def run(config: TrainConfig) -> int:
    """Train, or continue, the run of `output_dir`."""
    config = with_mode_defaults(config)
    world = join(config.precision.device)
    try:
        train(config, start_of_training(config), world, action="train")
    finally:
        world.close()
    return 0
