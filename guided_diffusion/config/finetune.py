"""Configuration of `finetune`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from guided_diffusion.config.from_checkpoint import (
    DiffusionFromCheckpoint,
    EtaFromCheckpoint,
    GeometryFromCheckpoint,
    LabelDiffusionFromCheckpoint,
    ModelFromCheckpoint,
    fill_from_checkpoint,
)
from guided_diffusion.config.label_diffusion import check_eta
from guided_diffusion.config.network import check_network
from guided_diffusion.config.train import TrainConfig, check_turns
from guided_diffusion.config.trained import TrainedConfig
from guided_diffusion.data.options import AugmentOptions, LoaderOptions, SourceOptions
from guided_diffusion.runtime.options import ActionConfig, Problem, option
from guided_diffusion.training.options import OptimizerOptions, PrecisionOptions, RunOptions


class FinetuneOptimizerOptions(OptimizerOptions):
    """Fewer and smaller steps, with dropped masks."""

    lr: float = option(2e-5, OptimizerOptions.model_fields["lr"].description, gt=0)
    max_epochs: int = option(
        100, OptimizerOptions.model_fields["max_epochs"].description, resume="may change", ge=1, le=10_000_000
    )
    drop_rate: float = option(0.2, OptimizerOptions.model_fields["drop_rate"].description, ge=0, le=1)


class FinetuneConfig(ActionConfig):
    """Keys of `finetune`."""

    required: ClassVar = ("data_dir", "resume_checkpoint", "output_dir")
    summary: ClassVar = "train on with dropped masks, so that sampling can be guided (s above 1)"
    common: ClassVar = (
        "data_dir",
        "resume_checkpoint",
        "output_dir",
        "drop_rate",
        "batch_size",
        "max_epochs",
        "lr",
        "lr_anneal_steps",
        "precision",
        "seed",
    )

    source: SourceOptions
    geometry: GeometryFromCheckpoint
    augment: AugmentOptions
    loader: LoaderOptions
    model: ModelFromCheckpoint
    diffusion: DiffusionFromCheckpoint
    eta: EtaFromCheckpoint
    label_diffusion: LabelDiffusionFromCheckpoint
    optimizer: FinetuneOptimizerOptions
    precision: PrecisionOptions
    run: RunOptions
    resume_checkpoint: str = option("", "checkpoint file or run folder of the trained model", path=True)

    def check(self) -> Iterator[Problem]:
        yield from super().check()
        yield from check_network(self.model, self.geometry)
        yield from check_eta(self.label_diffusion, self.eta.eta_path, self.eta.eta_scale)
        yield from check_turns(self.augment, self.geometry)

    def as_training(self, trained: TrainedConfig) -> TrainConfig:
        """Return what the training runs with: the keys of this configuration, and where they are open the trained."""
        groups = {name: getattr(self, name) for name in ("augment", "loader", "optimizer", "precision", "run")}
        return TrainConfig.model_construct(
            source=fill_from_checkpoint(self.source, trained.source),
            geometry=fill_from_checkpoint(self.geometry, trained.geometry),
            model=fill_from_checkpoint(self.model, trained.model),
            diffusion=fill_from_checkpoint(self.diffusion, trained.diffusion),
            eta=fill_from_checkpoint(self.eta, trained.eta),
            label_diffusion=fill_from_checkpoint(self.label_diffusion, trained.label_diffusion),
            resume_checkpoint=self.resume_checkpoint,
            **groups,
        )
