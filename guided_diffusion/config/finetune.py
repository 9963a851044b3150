"""Configuration of `finetune`."""

from __future__ import annotations

from typing import ClassVar

from guided_diffusion.config.from_checkpoint import (
    DiffusionFromCheckpoint,
    EtaFromCheckpoint,
    GeometryFromCheckpoint,
    LabelDiffusionFromCheckpoint,
    ModelFromCheckpoint,
)
from guided_diffusion.config.label_diffusion import EtaChecks
from guided_diffusion.config.network import ArchitectureChecks
from guided_diffusion.data.options import AugmentOptions, LoaderOptions, SourceOptions
from guided_diffusion.runtime.options import ActionConfig, option
from guided_diffusion.training.options import OptimizerOptions, PrecisionOptions, RunOptions


class FinetuneConfig(
    RunOptions,
    PrecisionOptions,
    OptimizerOptions,
    LabelDiffusionFromCheckpoint,
    EtaFromCheckpoint,
    DiffusionFromCheckpoint,
    ModelFromCheckpoint,
    LoaderOptions,
    AugmentOptions,
    GeometryFromCheckpoint,
    SourceOptions,
    ArchitectureChecks,
    EtaChecks,
    ActionConfig,
):
    """Keys of `finetune`."""

    required: ClassVar = ("data_dir", "resume_checkpoint", "output_dir")
    summary: ClassVar = "train on with dropped masks, so that sampling can be guided (s above 1)"

    resume_checkpoint: str = option("", "checkpoint file or run folder of the trained model")
    drop_rate: float = option(0.2, OptimizerOptions.model_fields["drop_rate"].description, ge=0, le=1)
    lr: float = option(2e-5, OptimizerOptions.model_fields["lr"].description, gt=0)
    max_epochs: int = option(100, OptimizerOptions.model_fields["max_epochs"].description, ge=1)
