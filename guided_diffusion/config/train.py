"""Configuration of `train`."""

from __future__ import annotations

from typing import ClassVar

from guided_diffusion.config.label_diffusion import EtaChecks
from guided_diffusion.config.network import ArchitectureChecks
from guided_diffusion.data.options import AugmentOptions, EtaOptions, GeometryOptions, LoaderOptions, SourceOptions
from guided_diffusion.diffusion.options import DiffusionOptions, LabelDiffusionOptions
from guided_diffusion.models.architecture import attention_factors, default_channel_mult, height_width
from guided_diffusion.models.options import ModelOptions
from guided_diffusion.runtime.options import ActionConfig, option
from guided_diffusion.training.options import OptimizerOptions, PrecisionOptions, RunOptions


class TrainConfig(
    RunOptions,
    PrecisionOptions,
    OptimizerOptions,
    LabelDiffusionOptions,
    EtaOptions,
    DiffusionOptions,
    ModelOptions,
    LoaderOptions,
    AugmentOptions,
    GeometryOptions,
    SourceOptions,
    ArchitectureChecks,
    EtaChecks,
    ActionConfig,
):
    """Keys of `train`."""

    required: ClassVar = ("data_dir", "dataset_mode", "output_dir")
    summary: ClassVar = "train a semantic diffusion model on a folder of images and masks"

    resume_checkpoint: str = option(
        "auto", 'checkpoint file or run folder to go on from; "auto": this run where it stopped; "": from scratch only'
    )

    def settle(self) -> None:
        """Spell out what follows from the image size, so that a checkpoint says it."""
        short = min(height_width(self.image_size))
        self.channel_mult = tuple(self.channel_mult or default_channel_mult(short))
        if self.attention_resolutions is None:
            self.attention_resolutions = tuple(short // f for f in attention_factors(short, self.channel_mult, None))
