"""Configuration of `train`, which is also what every training runs with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Self

from guided_diffusion.config.network import NetworkConfig
from guided_diffusion.data.options import AugmentOptions, EtaOptions, GoodImageOptions, LoaderOptions, WindowOptions
from guided_diffusion.models.architecture import attention_factors, default_channel_mult
from guided_diffusion.runtime.options import ActionConfig, Problem, option
from guided_diffusion.training.options import GeneratedMaskOptions, OptimizerOptions, PrecisionOptions, RunOptions

GENERATING_DEFAULTS = {
    "learn_sigma": False,
    "min_snr_gamma": 5.0,
    "drop_rate": 0.1,
    "ema_rate": (0.999,),
    "max_epochs": 2000,  # as many times each image is seen; beyond, models of few images copy them
}
"""Defaults of a training with `generates` mask or pair, where they differ from those of images."""
MOST_PASSES = GENERATING_DEFAULTS["max_epochs"]


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
    masks: GeneratedMaskOptions
    precision: PrecisionOptions
    run: RunOptions
    resume_checkpoint: str = option(
        "auto",
        'checkpoint file or run folder to go on from; "auto": this run where it stopped; "": from scratch only',
        path=True,
        resume="may change",
    )

    def check(self) -> Iterator[Problem]:
        config = self._with_generating_defaults()
        yield from super(TrainConfig, config).check()
        if not config.generation.makes_masks:
            for key, field in GeneratedMaskOptions.model_fields.items():
                if config.get(key) != field.default:
                    line = f'{key} is {config.get(key)}, but generates is "image", which makes no masks: '
                    yield (key, f"{line}leave it out, or set generates to mask or pair")

    def _with_generating_defaults(self) -> Self:
        if not self.generation.makes_masks:
            return self
        return self.replaced(**{key: value for key, value in GENERATING_DEFAULTS.items() if key not in self.given})

    def resolve(self) -> Self:
        """Return the configuration as its base does, the defaults that depend on the image size filled in."""
        config = super(TrainConfig, self._with_generating_defaults()).resolve()
        short = min(config.network_size)
        mult = tuple(config.model.channel_mult or default_channel_mult(short))
        attention = config.model.attention_resolutions
        if attention is None:
            attention = tuple(short // factor for factor in attention_factors(short, mult, None))
        return config.replaced(channel_mult=mult, attention_resolutions=attention)
