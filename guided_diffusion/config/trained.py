"""The options of a training that say what its weights mean: read from a checkpoint, or pieced together."""

from __future__ import annotations

from typing import Self

from guided_diffusion.data.options import EtaOptions, GeometryOptions, SourceOptions
from guided_diffusion.diffusion.options import DiffusionOptions, LabelDiffusionOptions
from guided_diffusion.models.options import ModelOptions
from guided_diffusion.runtime.options import FlatConfig, FloatTuple, option


class TrainedConfig(FlatConfig):
    """The options of a training that its weights depend on.

    label_eta: the eta of class-wise label diffusion, one number a class; no option, as it may have been computed.
    """

    source: SourceOptions
    geometry: GeometryOptions
    model: ModelOptions
    diffusion: DiffusionOptions
    eta: EtaOptions
    label_diffusion: LabelDiffusionOptions
    label_eta: FloatTuple = option(None, "eta of each class")

    def updated(self, *layers: FlatConfig) -> Self:
        """Return these options with what each of `layers` has given; null and empty values stand for nothing."""
        changes = {
            key: layer.get(key)
            for layer in layers
            for key in sorted(layer.given & self.fields().keys())
            if layer.get(key) not in (None, "")
        }
        return self.replaced(**changes)
