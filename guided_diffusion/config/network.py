"""The options that decide what a network is and what its weights mean, and what these demand of each other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Self

from guided_diffusion.data.options import DEFAULT_ETA_SCALE, BoxOptions, EtaOptions, GeometryOptions, SourceOptions
from guided_diffusion.diffusion.options import (
    CLASSWISE,
    UNIFORM,
    DiffusionOptions,
    GenerationOptions,
    LabelDiffusionOptions,
)
from guided_diffusion.models.architecture import architecture_problems, height_width
from guided_diffusion.models.options import LatentOptions, ModelOptions
from guided_diffusion.runtime.options import FlatConfig, FloatTuple, Problem, option


class NetworkConfig(FlatConfig):
    """The options that training, finetuning and sampling have in common. Null leaves a key to the checkpoint."""

    source: SourceOptions
    geometry: GeometryOptions
    boxes: BoxOptions
    model: ModelOptions
    diffusion: DiffusionOptions
    generation: GenerationOptions
    latents: LatentOptions
    label_diffusion: LabelDiffusionOptions

    @property
    def network_size(self) -> tuple[int, int]:
        """Height and width that the network sees: those of the image, or less where squares of it become channels, or
        an autoencoder makes it smaller.
        """
        height, width = height_width(self.geometry.image_size)
        factor = self.latents.latent or self.generation.folding(min(height, width))
        return height // factor, width // factor

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
            yield from self._size_problems()
        yield from self.generation_problems()
        yield from self.latent_problems()
        yield from self.box_problems()
        if self._value("rotate90") and isinstance(size, tuple) and size[0] != size[1]:
            yield ("rotate90", f"rotate90 needs a square image_size, found {list(size)}: set rotate90 to false")
        if self.label_diffusion.cond_diffuse and (model.condition == "none" or model.class_cond is False):
            yield (
                "cond_diffuse",
                'cond_diffuse is true, but condition is "none", so there are no masks to diffuse: set cond_diffuse to '
                "false",
            )
        yield from self._eta_problems()

    def _size_problems(self) -> Iterator[Problem]:
        size = height_width(self.geometry.image_size)
        key = "space_to_depth" if self.latents.latent is None else "latent"
        factor = self.latents.latent or self.generation.folding(min(size))
        if any(side % factor for side in size):
            line = f"image_size is {json.dumps(self.geometry.image_size)}, which {key} {factor} does not divide: "
            yield ("image_size", f"{line}use a multiple of {factor}, or another {key}")
            return
        yield from architecture_problems(self.model, self.network_size, reduced=(key, factor))

    def generation_problems(self) -> Iterator[Problem]:
        """Yield what does not go with a model that makes its own masks."""
        if not self.generation.makes_masks:
            return
        misfits = {
            "prediction": (self.diffusion.prediction == "eps", "eps leaves specks in masks", "v or x0"),
            "learn_sigma": (self.diffusion.learn_sigma, "variances are learned for 8-bit images, not masks", "false"),
            "use_kl": (self.diffusion.use_kl, "the bound is one of 8-bit images, not of masks", "false"),
            "condition": (
                self.model.condition in ("none", "boxes"),
                "the class that a mask has is the condition",
                "mask",
            ),
            "inpaint": (self.model.inpaint, "holes are filled by models of images", "false"),
            "augment": (self.model.augment, "its shifts and scales would cut generated masks off", "0"),
            "cond_diffuse": (self.label_diffusion.cond_diffuse, "there is no given mask to diffuse", "false"),
            "no_instance": (self.geometry.no_instance is False, "there are no edges before there is a mask", "true"),
            "resize": (self.geometry.resize == "window", "windows show parts of masks", "crop, squash or pad"),
        }
        for key, (wrong, reason, remedy) in misfits.items():
            if wrong:
                yield self._misfit(key, f"generates is {self.generation.generates}", reason, remedy)

    def latent_problems(self) -> Iterator[Problem]:
        """Yield what does not go with a model of latents."""
        latent, generation = self.latents.latent, GenerationOptions.model_fields
        if latent is None:
            return
        scale = self.generation.mask_scale not in (None, generation["mask_scale"].default)
        misfits = {
            "learn_sigma": (self.diffusion.learn_sigma, "variances are learned for 8-bit images, not latents", "false"),
            "use_kl": (self.diffusion.use_kl, "the bound is one of 8-bit images, not of latents", "false"),
            "inpaint": (self.model.inpaint, "holes are filled in pixels", "false"),
            "augment": (self.model.augment, "its borders are pixels that have no loss", "0"),
            "resize": (self.geometry.resize == "window", "borders of windows have no loss", "crop, squash or pad"),
            "mask_scale": (scale, "latents are standardized", str(generation["mask_scale"].default)),
            "space_to_depth": (self.generation.space_to_depth, "the autoencoder makes the sides smaller", "null"),
        }
        for key, (wrong, reason, remedy) in misfits.items():
            if wrong:
                yield self._misfit(key, f"latent is {latent}", reason, remedy)

    def box_problems(self) -> Iterator[Problem]:
        """Yield what does not go with a network that is conditioned on boxes."""
        if self.model.condition != "boxes":
            return
        misfits = {
            "latent": (self.latents.latent, "masks of objects would be as coarse as latents", "null"),
            "inpaint": (self.model.inpaint, "holes are filled by models of masks", "false"),
            "cond_diffuse": (self.label_diffusion.cond_diffuse, "there are no masks to diffuse", "false"),
        }
        for key, (wrong, reason, remedy) in misfits.items():
            if wrong:
                yield self._misfit(key, "condition is boxes", reason, remedy)

    def _misfit(self, key: str, but: str, reason: str, remedy: str) -> Problem:
        return key, f"{key} is {self._shown(key)}, but {but}: {reason}; set {key} to {remedy}"

    def _shown(self, key: str) -> str:
        """Return the value of `key` as a config has it."""
        return json.dumps(self.get(key)).strip('"')

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
