"""The options that decide what a network is and what its weights mean, and what these demand of each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

from guided_diffusion.data.options import DEFAULT_ETA_SCALE, EtaOptions, GeometryOptions, SourceOptions
from guided_diffusion.diffusion.options import CLASSWISE, UNIFORM, DiffusionOptions, LabelDiffusionOptions
from guided_diffusion.models.architecture import architecture_problems
from guided_diffusion.models.options import ModelOptions
from guided_diffusion.runtime.options import FlatConfig, FloatTuple, Problem, option


class NetworkConfig(FlatConfig):
    """The options that training, finetuning and sampling have in common. Null leaves a key to the checkpoint."""

    source: SourceOptions
    geometry: GeometryOptions
    model: ModelOptions
    diffusion: DiffusionOptions
    label_diffusion: LabelDiffusionOptions

    def check(self) -> Iterator[Problem]:
        yield from super().check()
        size, model = self.geometry.image_size, self.model
        sizes = (
            model.num_channels,
            model.num_res_blocks,
            model.num_heads,
            model.num_heads_upsample,
            model.num_head_channels,
        )
        if None not in (size, *sizes):  # None: left to the checkpoint
            yield from architecture_problems(model, size)
        if self._value("rotate90") and isinstance(size, tuple) and size[0] != size[1]:
            yield ("rotate90", f"rotate90 needs a square image_size, found {list(size)}: set rotate90 to false")
        if self.label_diffusion.cond_diffuse and (model.condition == "none" or model.class_cond is False):
            yield (
                "cond_diffuse",
                'cond_diffuse is true, but condition is "none", so there are no masks to diffuse: set cond_diffuse to '
                "false",
            )
        yield from self._eta_problems()

    def _eta_problems(self) -> Iterator[Problem]:
        given = {"eta_path": self._value("eta_path"), "eta_scale": self._value("eta_scale")}
        key = next((key for key, value in given.items() if value not in (None, "", DEFAULT_ETA_SCALE)), None)
        options = self.label_diffusion
        if key and (options.cond_diffuse is False or options.cond_opt == UNIFORM):
            found = "cond_diffuse is false" if options.cond_diffuse is False else f'cond_opt is "{options.cond_opt}"'
            yield (
                key,
                f'{key} is given, but {found}: eta belongs to cond_opt "{CLASSWISE}" with cond_diffuse true; '
                "set these, or leave it out",
            )

    def _value(self, key: str) -> Any:
        """Return the value of a key that not every one of these configurations has, None where this one lacks it."""
        return self.get(key) if key in self.fields() else None


class TrainedConfig(NetworkConfig):
    """The options of a training that its weights depend on, read from a checkpoint or pieced together.

    label_eta: the eta of class-wise label diffusion, one number a class; not an option, as it may be computed.
    """

    eta: EtaOptions
    label_eta: FloatTuple = option(None, "eta of each class")

    def updated(self, *layers: FlatConfig) -> Self:
        """Return these options with the keys that each of `layers` was given; null and empty values are skipped."""
        changes = {
            key: layer.get(key)
            for layer in layers
            for key in layer.given & self.fields().keys()
            if layer.get(key) not in (None, "")
        }
        return self.replaced(**changes)
