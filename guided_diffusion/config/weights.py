"""Which weights an action works with."""

from __future__ import annotations

from typing import ClassVar

from guided_diffusion.runtime.options import OptionGroup, option


class WeightsOptions(OptionGroup):
    """Weights of a trained network."""

    title: ClassVar = "weights"
    model_path: str = option("", "checkpoint file, run folder, or published weights (.pt, .safetensors)", path=True)
    weights: str = option("ema", 'which weights: ema, raw, or one of several EMA rates such as "0.999"')
