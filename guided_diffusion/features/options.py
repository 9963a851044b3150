"""Options of features: which network reads images, and where in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from guided_diffusion.runtime.options import IntTuple, OptionGroup, Problem, option

DIFFUSION = "diffusion"
MAE_SIDE = 256
"""Of the images that the published MAE reads, in pixels."""


class FeatureOptions(OptionGroup):
    """What images are read by."""

    title: ClassVar = "features"
    extractor: Literal["diffusion", "mae", "swav", "swav_w2"] = option(
        DIFFUSION, "network that reads images: the diffusion model of model_path, or published MAE or SwAV weights"
    )
    extractor_weights: str = option("", "published file of the weights of mae, swav or swav_w2", path=True)
    feature_steps: IntTuple = option(
        (50, 150, 250),
        "noise levels at which a diffusion model is read: timesteps of the published 1000 linear steps, whatever "
        "process the model has",
    )
    feature_blocks: IntTuple = option(
        None, "blocks that are read, by their published numbers; null: those of the published strides"
    )
    feature_source: Literal["auto", "encoder", "decoder"] = option(
        "auto",
        "half of the network whose blocks are read; auto: decoder, or encoder where dropped masks were never learned",
    )
    feature_inputs: bool = option(False, "read what the blocks take in place of what they make")
    feature_rgb: bool = option(True, "the values of the pixel itself are features, too")
    share_noise: bool = option(True, "all images and steps are read under one noise, drawn by the seed")
    noise_draws: int = option(
        1,
        "noises that an image is read under, to average what is said of it; labeled images have each in turn",
        ge=1,
        le=100,
    )
    feature_maps: Literal["fp16", "fp32"] = option("fp16", "type in which features are kept")
    feature_cache: Literal["auto", "memory", "disk"] = option(
        "auto", "where features are kept; auto: in memory, or on disk where they need over a third of what is free"
    )

    def check(self) -> Iterator[Problem]:
        if self.extractor != DIFFUSION and not self.extractor_weights:
            line = f"extractor is {self.extractor}, which needs its published file: set extractor_weights"
            yield ("extractor_weights", line)
        if self.extractor == DIFFUSION and self.extractor_weights:
            line = "extractor_weights is set, but extractor is diffusion: leave it out, or set extractor"
            yield ("extractor_weights", line)
        if not self.feature_steps or not all(0 <= step < 1000 for step in self.feature_steps):
            found = list(self.feature_steps or ())
            yield ("feature_steps", f"feature_steps is {found}: use one or more numbers from 0 to 999")
        if self.feature_blocks is not None and not self.feature_blocks:
            yield ("feature_blocks", "feature_blocks is empty: name blocks, or leave it out")
        of_diffusion = (
            "feature_steps",
            "feature_blocks",
            "feature_source",
            "feature_inputs",
            "share_noise",
            "noise_draws",
        )
        for key in () if self.extractor == DIFFUSION else self.changed(*of_diffusion):
            yield (key, f"{key} belongs to a diffusion model, but extractor is {self.extractor}: leave it out")
