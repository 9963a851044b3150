"""Configuration of `finetune`."""

from __future__ import annotations

from typing import ClassVar

from guided_diffusion.config.from_checkpoint import (
    AugmentFromCheckpoint,
    EtaFromCheckpoint,
    FromCheckpointConfig,
    GeneratedMasksFromCheckpoint,
    LayoutTrainingFromCheckpoint,
    WindowsFromCheckpoint,
)
from guided_diffusion.config.network import TrainedConfig
from guided_diffusion.config.train import TrainConfig
from guided_diffusion.data.options import GoodImageOptions, LoaderOptions
from guided_diffusion.runtime.options import ActionConfig, option
from guided_diffusion.training.options import (
    FirstStageOptions,
    OptimizerOptions,
    PrecisionOptions,
    RunOptions,
)

_OPTIMIZER = OptimizerOptions.model_fields


class FinetuneOptimizerOptions(OptimizerOptions):
    """Fewer and smaller steps, with dropped masks."""

    lr: float = option(2e-5, _OPTIMIZER["lr"].description, gt=0)
    max_epochs: int = option(100, _OPTIMIZER["max_epochs"].description, resume="may change", ge=1, le=10_000_000)
    drop_rate: float = option(0.2, _OPTIMIZER["drop_rate"].description, ge=0, le=1)


class FinetuneConfig(FromCheckpointConfig, ActionConfig):
    """Keys of `finetune`."""

    required: ClassVar = ("data_dir", "resume_checkpoint", "output_dir")
    instead: ClassVar = {"data_dir": "image_dir"}
    summary: ClassVar = "train on with dropped masks, so that sampling can be guided (s above 1)"
    common: ClassVar = (
        "data_dir", "resume_checkpoint", "output_dir", "drop_rate", "batch_size",
        "max_epochs", "lr", "lr_anneal_steps", "precision", "seed",
    )  # fmt: skip

    eta: EtaFromCheckpoint
    good: GoodImageOptions
    augment: AugmentFromCheckpoint
    windows: WindowsFromCheckpoint
    loader: LoaderOptions
    optimizer: FinetuneOptimizerOptions
    masks: GeneratedMasksFromCheckpoint
    layouts: LayoutTrainingFromCheckpoint
    precision: PrecisionOptions
    run: RunOptions
    resume_checkpoint: str = option("", "checkpoint file or run folder of the trained model; or hf:user/repo", hub=True)

    def as_training(self, trained: TrainedConfig, before: TrainConfig) -> TrainConfig:
        """Return the configuration of the training: this one, with its open keys as in `trained` and `before`.

        before: how that was trained. The autoencoder of a model of latents stays as it is.
        """
        filled = dict(self.fill_from_checkpoint(trained))
        for name in ("augment", "windows", "masks", "layouts"):
            given = {key: value for key, value in getattr(self, name) if value is not None}
            filled[name] = getattr(before, name).model_copy(update=given)
        return TrainConfig.model_construct(**filled, first_stage=FirstStageOptions())
