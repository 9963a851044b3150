"""`train`: from a folder of images and masks to a trained network."""

from __future__ import annotations

from pathlib import Path

from guided_diffusion.config.train import TrainConfig
from guided_diffusion.pipelines.dataset import with_mode_defaults
from guided_diffusion.pipelines.hub_weights import with_pinned_weights
from guided_diffusion.pipelines.output import (
    dataset_folders,
    image_folder,
    output_of,
    refuse_other_record,
    refuse_written_sources,
)
from guided_diffusion.pipelines.plans import training_lines
from guided_diffusion.pipelines.resume import find_resume_plan
from guided_diffusion.pipelines.train_misfits import refuse_idle_keys
from guided_diffusion.pipelines.training import train
from guided_diffusion.runtime.checkpoint import LAST
from guided_diffusion.runtime.distributed import choose_device, init_distributed


def run(config: TrainConfig) -> int:
    """Train the network of `output_dir`, or resume its training."""
    config = _checked(config)
    if not (Path(config.run.output_dir) / LAST).exists():
        config = with_pinned_weights(config, "resume_checkpoint")
    with init_distributed(config.precision.device) as world:
        folder = config.run.output_dir
        refuse_written_sources(
            {"output_dir": Path(folder)}, [*dataset_folders(config.source), *image_folder(config.good.image_dir)]
        )
        refuse_other_record("output_dir", folder, "train")
        with output_of("train", [folder], world):
            train(config, find_resume_plan(config), world, action="train")
    return 0


def plan(config: TrainConfig) -> list[str]:
    """Return what a run of `config` would do; UserError where it could not begin."""
    config = _checked(config)
    refuse_written_sources(
        {"output_dir": Path(config.run.output_dir)},
        [*dataset_folders(config.source), *image_folder(config.good.image_dir)],
    )
    choose_device(config.precision.device)
    return training_lines(config, find_resume_plan(config))


def _checked(config: TrainConfig) -> TrainConfig:
    """Return the options with what the dataset_mode decides; UserError for keys that do not go together."""
    config = with_mode_defaults(config)
    refuse_idle_keys(config, config.given)
    return config
