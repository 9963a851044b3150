"""Configuration of `train`, which is also what every training runs with."""

from __future__ import annotations

from typing import ClassVar, Self

from guided_diffusion.config.network import NetworkConfig
from guided_diffusion.data.options import AugmentOptions, EtaOptions, GoodImageOptions, LoaderOptions, WindowOptions
from guided_diffusion.models.architecture import attention_factors, default_channel_mult, height_width
from guided_diffusion.runtime.options import ActionConfig, option
from guided_diffusion.training.options import OptimizerOptions, PrecisionOptions, RunOptions


class TrainConfig(NetworkConfig, ActionConfig):
    """Keys of `train`."""

    required: ClassVar = ("data_dir", "dataset_mode", "output_dir")
    instead: ClassVar = {"data_dir": "image_dir", "dataset_mode": "image_dir"}
    summary: ClassVar = "train a semantic diffusion model on a folder of images and masks"
    common: ClassVar = (
        "data_dir", "dataset_mode", "output_dir", "image_size", "image_channels",
        "resize", "num_channels", "batch_size", "max_epochs", "lr",
    )  # fmt: skip

    eta: EtaOptions
    good: GoodImageOptions
    augment: AugmentOptions
    windows: WindowOptions
    loader: LoaderOptions
    optimizer: OptimizerOptions
    precision: PrecisionOptions
    run: RunOptions
    resume_checkpoint: str = option(
        "auto",
        'checkpoint file or run folder to go on from; "auto": this run where it stopped; "": from scratch only',
        path=True,
        resume="may change",
    )

    def resolve(self) -> Self:
        """Return the configuration as its base does, the defaults that depend on the image size filled in."""
        config = super().resolve()
        short = min(height_width(config.geometry.image_size))
        mult = tuple(config.model.channel_mult or default_channel_mult(short))
        attention = config.model.attention_resolutions
        if attention is None:
            attention = tuple(short // factor for factor in attention_factors(short, mult, None))
        return config.replaced(channel_mult=mult, attention_resolutions=attention)
