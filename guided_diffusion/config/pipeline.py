"""What can be said to the sampling pipeline from Python, checked as in a config file."""

from __future__ import annotations

from collections.abc import Iterator

from guided_diffusion.config.from_checkpoint import (
    DiffusionFromCheckpoint,
    GeometryFromCheckpoint,
    LabelDiffusionFromCheckpoint,
    ModelFromCheckpoint,
)
from guided_diffusion.config.label_diffusion import SampledLabelOptions, check_eta
from guided_diffusion.config.network import check_network
from guided_diffusion.config.weights import WeightsOptions
from guided_diffusion.data.options import SourceOptions
from guided_diffusion.diffusion.options import SamplerOptions
from guided_diffusion.runtime.options import FlatConfig, Problem, option
from guided_diffusion.training.options import PrecisionOptions

_SAMPLED_LABELS = SampledLabelOptions.model_fields


class LoadConfig(FlatConfig):
    """Keys of `load_pipeline`: the weights, and what bare ones do not tell."""

    weights: WeightsOptions
    source: SourceOptions
    geometry: GeometryFromCheckpoint
    model: ModelFromCheckpoint
    diffusion: DiffusionFromCheckpoint
    label_diffusion: LabelDiffusionFromCheckpoint
    precision: PrecisionOptions
    eta_path: str = option("", _SAMPLED_LABELS["eta_path"].description, path=True)

    def check(self) -> Iterator[Problem]:
        yield from super().check()
        yield from check_network(self.model, self.geometry)
        yield from check_eta(self.label_diffusion, self.eta_path)


class SamplingConfig(FlatConfig):
    """Keys of a call of the pipeline."""

    sampler: SamplerOptions
    extrapolation: float | None = option(None, _SAMPLED_LABELS["extrapolation"].description, ge=0)
