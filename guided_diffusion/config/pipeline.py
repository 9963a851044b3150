"""What the sampling pipeline takes, from Python or from a config file."""

from __future__ import annotations

from typing import ClassVar

from guided_diffusion.config.from_checkpoint import FromCheckpointConfig
from guided_diffusion.data.options import ETA_FILE
from guided_diffusion.diffusion.options import SamplerOptions
from guided_diffusion.runtime.options import FlatConfig, OptionGroup, option
from guided_diffusion.training.options import PrecisionOptions


class WeightsOptions(OptionGroup):
    """Weights of a trained network."""

    title: ClassVar = "weights"
    model_path: str = option(
        "",
        "checkpoint file, run folder, or published weights (.pt, .safetensors); hf:user/repo[@revision][/file]: from "
        "the Hugging Face Hub",
        hub=True,
    )
    weights: str = option("ema", 'which weights: ema, raw, or one of several EMA rates such as "0.999"')


class LoadConfig(FromCheckpointConfig):
    """Keys of `load_pipeline`: the weights, and what bare ones do not tell."""

    weights: WeightsOptions
    precision: PrecisionOptions
    eta_path: str = option("", f"{ETA_FILE}; for bare weights, other checkpoints have theirs", path=True)


class SamplingConfig(FlatConfig):
    """Keys of a call of the pipeline."""

    sampler: SamplerOptions
    extrapolation: float | None = option(
        None, "x0 + this * (x0 - that of the step before), 0.8 is published for 25 steps; null: off", ge=0
    )


class MarkedConfig(FlatConfig):
    """The key of what is written into synthetic images."""

    mark: bool = option(True, "write into each image file that it is synthetic: IPTC digital source type and settings")
