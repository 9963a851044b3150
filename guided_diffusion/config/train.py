"""Configuration of `train`, which is also what every training runs with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import ClassVar, Self

from guided_diffusion.config.network import NetworkConfig
from guided_diffusion.data.options import AugmentOptions, EtaOptions, GoodImageOptions, LoaderOptions, WindowOptions
from guided_diffusion.models.architecture import attention_factors, default_channel_mult, height_width
from guided_diffusion.runtime.options import ActionConfig, OptionGroup, Problem, option
from guided_diffusion.training.options import (
    FirstStageOptions,
    GeneratedMaskOptions,
    LayoutTrainingOptions,
    OptimizerOptions,
    PrecisionOptions,
    RunOptions,
)

GENERATING_DEFAULTS = {
    "learn_sigma": False,
    "min_snr_gamma": 5.0,
    "drop_rate": 0.1,
    "ema_rate": (0.999,),
    "max_epochs": 2000,  # as many times each image is seen; beyond, models of few images copy them
}
"""Defaults of a training with `generates` mask or pair, where they differ from those of images."""
LATENT_DEFAULTS = {"learn_sigma": False, "min_snr_gamma": 5.0}
"""The same of a training with `latent`."""
_SWITCHES = {
    "generates": "set generates to mask or pair",
    "latent": "set latent to 4 or 8",
    "resize": "set resize to window",
}
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
    layouts: LayoutTrainingOptions
    first_stage: FirstStageOptions
    precision: PrecisionOptions
    run: RunOptions
    resume_checkpoint: str = option(
        "auto",
        'checkpoint file or run folder to go on from; "auto": this run where it stopped; "": from scratch only',
        words=True,
        hub=True,
        resume="may change",
    )

    def check(self) -> Iterator[Problem]:
        config = self._with_own_defaults()
        yield from super(TrainConfig, config).check()
        if not config.generation.makes_masks:
            yield from config._idle(GeneratedMaskOptions, 'generates is "image", which makes no masks', "generates")
        elif config.latents.latent is not None and config.masks.mask_weight != 1:
            line = (
                f"mask_weight is {config.masks.mask_weight:g}, but latent is {config.latents.latent}, whose channels "
            )
            yield ("mask_weight", f"{line}are image and mask in one: leave it out")
        if config.geometry.resize != "window":
            yield from config._idle(WindowOptions, f"resize is {config.geometry.resize}, without windows", "resize")
        elif not config.model.inpaint and config.windows.hole_shares != WindowOptions().hole_shares:
            found = list(config.windows.hole_shares)
            line = f"hole_shares is {found}, but inpaint is false, so there are no holes: leave it out, or "
            yield ("hole_shares", f"{line}set inpaint to true")
        if config.latents.latent is None:
            yield from config._idle(FirstStageOptions, "latent is null, so there is no autoencoder", "latent")
        else:
            yield from config._first_stage_problems()

    def _idle(self, group: type[OptionGroup], reason: str, switch: str) -> Iterator[Problem]:
        """Yield the keys of `group` that are set, although `switch` makes no use of them."""
        remedy = _SWITCHES[switch]
        for key in self.changed(*group.model_fields):
            yield (key, f"{key} is {self._shown(key)}, but {reason}: leave it out, or {remedy}")

    def _first_stage_problems(self) -> Iterator[Problem]:
        crop, latent = self.first_stage.autoencoder_crop, self.latents.latent
        size, least = json.dumps(self.geometry.image_size), 2 * latent
        short = min(height_width(self.geometry.image_size))
        if crop is not None and (crop % latent or crop < least or crop > short >= least):
            line = f"autoencoder_crop is {crop}, but latent is {latent} and image_size {size}: use a "
            yield ("autoencoder_crop", f"{line}multiple of {latent} from {least} on that is not above image_size")
        if short < least and not self.first_stage.autoencoder:
            # The noise on latents is measured by how they differ from place to place.
            line = f"image_size is {size}, but latent {latent} makes a single place of such a side: "
            yield ("image_size", f"{line}use sides of at least {least}, or latent {'4 or ' * (latent > 4)}null")
        if self.first_stage.autoencoder and self.generation.makes_masks:
            line = (
                f"autoencoder is given, but generates is {self.generation.generates}: an autoencoder of images loses "
            )
            yield ("autoencoder", f"{line}masks; leave it out, or set generates to image")

    def _with_own_defaults(self) -> Self:
        defaults = dict(GENERATING_DEFAULTS) if self.generation.makes_masks else {}
        if self.latents.latent is not None:
            defaults |= LATENT_DEFAULTS
        return self.replaced(**{key: value for key, value in defaults.items() if key not in self.given})

    def resolve(self) -> Self:
        """Return the configuration as its base does, the defaults that depend on the image size filled in."""
        config = super(TrainConfig, self._with_own_defaults()).resolve()
        short = min(config.network_size)
        mult = tuple(config.model.channel_mult or default_channel_mult(short))
        attention = config.model.attention_resolutions
        if attention is None:
            attention = tuple(short // factor for factor in attention_factors(short, mult, None))
        return config.replaced(channel_mult=mult, attention_resolutions=attention)
