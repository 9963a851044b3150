"""Configuration of `train`, which is also what every training runs with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Self

from guided_diffusion.config.label_diffusion import check_eta
from guided_diffusion.config.network import check_network, with_size_defaults
from guided_diffusion.data.options import AugmentOptions, EtaOptions, GeometryOptions, LoaderOptions, SourceOptions
from guided_diffusion.diffusion.options import DiffusionOptions, LabelDiffusionOptions
from guided_diffusion.models.options import ModelOptions
from guided_diffusion.runtime.options import ActionConfig, Problem, option
from guided_diffusion.training.options import OptimizerOptions, PrecisionOptions, RunOptions


class TrainConfig(ActionConfig):
    """Keys of `train`."""

    required: ClassVar = ("data_dir", "dataset_mode", "output_dir")
    summary: ClassVar = "train a semantic diffusion model on a folder of images and masks"
    common: ClassVar = (
        "data_dir",
        "dataset_mode",
        "output_dir",
        "image_size",
        "image_channels",
        "resize",
        "num_channels",
        "batch_size",
        "max_epochs",
        "lr",
    )

    source: SourceOptions
    geometry: GeometryOptions
    augment: AugmentOptions
    loader: LoaderOptions
    model: ModelOptions
    diffusion: DiffusionOptions
    eta: EtaOptions
    label_diffusion: LabelDiffusionOptions
    optimizer: OptimizerOptions
    precision: PrecisionOptions
    run: RunOptions
    resume_checkpoint: str = option(
        "auto",
        'checkpoint file or run folder to go on from; "auto": this run where it stopped; "": from scratch only',
        path=True,
        resume="may change",
    )

    def check(self) -> Iterator[Problem]:
        yield from super().check()
        yield from check_network(self.model, self.geometry)
        yield from check_eta(self.label_diffusion, self.eta.eta_path, self.eta.eta_scale)
        yield from check_turns(self.augment, self.geometry)

    def resolve(self) -> Self:
        config = super().resolve()
        return config.model_copy(update={"model": with_size_defaults(config.model, config.geometry)})


def check_turns(augment: AugmentOptions, geometry: GeometryOptions) -> Iterator[Problem]:
    """Yield what keeps images from being turned by quarter turns."""
    size = geometry.image_size
    if augment.rotate90 and isinstance(size, tuple) and size[0] != size[1]:
        yield ("rotate90", f"rotate90 needs a square image_size, found {list(size)}: set rotate90 to false")
