"""Models of latents: what of them lies in a checkpoint, and which classes are too thin for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from guided_diffusion.config.network import NetworkConfig
from guided_diffusion.data.area import AreaReduction
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.thickness import LATENTS, class_thickness, fitting_factor, too_thin
from guided_diffusion.diffusion.latent import Code, LatentCode
from guided_diffusion.diffusion.pair_code import PairCode
from guided_diffusion.models.autoencoder_kl import AutoencoderKL, infer_shape, published_names
from guided_diffusion.models.first_stage import FirstStage
from guided_diffusion.runtime.checkpoint import Checkpoint
from guided_diffusion.runtime.errors import CheckpointError, DataError


def first_stage_of_checkpoint(checkpoint: Checkpoint, latent: int | None) -> FirstStage | None:
    """Return the first stage of a model of latents, its weights not yet loaded, None for models of pixels.

    latent: the option. Raises CheckpointError where there is none, or none of a training.
    """
    if latent is None:
        return None
    if not checkpoint.latent:
        found = f"latent is {latent}, but this file has no autoencoder"
        raise CheckpointError.of(checkpoint.path, found, "leave latent out, or use a checkpoint of a latent model")
    try:
        return FirstStage.from_state(checkpoint.latent)
    except (AssertionError, AttributeError, KeyError, RuntimeError, TypeError, ValueError):
        found = "its autoencoder is not that of a training"
        raise CheckpointError.of(checkpoint.path, found, "it was tampered with: copy it again") from None


def code_of(pixels: PairCode | None, stage: FirstStage | None) -> Code | None:
    """Return how what a model makes becomes its x0, None where x0 is the image; pixels: of a model that makes masks."""
    return pixels if stage is None else LatentCode(stage, pixels)


def latent_reduction(config: NetworkConfig) -> AreaReduction | None:
    """Return what makes the label maps of images those of their latents, None for models of pixels."""
    if config.latents.latent is None:
        return None
    return AreaReduction(config.latents.latent, get_mode(config.source.dataset_mode).background)


def read_autoencoder_kl(path: str | Path, image_channels: int, factor: int, latent_channels: int | None) -> FirstStage:
    """Return a pretrained autoencoder of images from a `.safetensors` file in the layout of diffusers' AutoencoderKL.

    Raises DataError where the file is another one, or has other channels or another factor than asked for.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    remedy = "give the .safetensors file of a diffusers AutoencoderKL"
    try:
        weights = published_names(load_file(path))
    except OSError as error:
        raise DataError.of(path, f"cannot be read ({error.strerror or error})", remedy) from None
    except SafetensorError as error:
        raise DataError.of(path, f"not a readable .safetensors file ({error})", remedy) from None
    try:
        shape = infer_shape(weights)
        model = AutoencoderKL(shape)
        model.load_state_dict({name: value.float() for name, value in weights.items()})
    except (KeyError, IndexError, ValueError, RuntimeError) as error:
        missing = f"{error.args[0]} is missing" if isinstance(error, KeyError) else "other names or shapes of weights"
        raise DataError.of(path, f"not an AutoencoderKL ({missing})", remedy) from None
    asked = {
        "image_channels": (shape.image_channels, image_channels),
        "latent": (shape.factor, factor),
        "latent_channels": (shape.latent_channels, latent_channels or shape.latent_channels),
    }
    for key, (found, wanted) in asked.items():
        if found != wanted:
            raise DataError.of(path, f"its {key} is {found}, but {key} is {wanted}", f"set {key} to {found}")
    if not all(torch.isfinite(value).all() for value in weights.values()):
        raise DataError.of(path, "has weights that are not finite", "use another file")
    return FirstStage(model)


# --- thin classes ------------------------------------------------------------------------------------------------


def thickness_lines(
    labels: Iterable[NDArray[np.integer]], names: Sequence[str], latent: int, background: int, allow: bool
) -> list[str]:
    """Return the thickness of each class in training masks [H, W] at the size of the model, and what is too thin: as an
    error, or as a warning where that is allowed.
    """
    thickness = class_thickness(labels, len(names))
    shown = ", ".join(
        f"{name} {value:.1f}" for index, (name, value) in enumerate(zip(names, thickness, strict=True))
        if index != background and not np.isnan(value)
    )  # fmt: skip
    lines = [f"thickness, the median of the parts of each class in pixels at image_size: {shown}"]
    if thin := too_thin(thickness, latent, background):
        found = ": ".join(_thin(thickness, thin, names, latent, background))
        lines.append(f"{'warning' if allow else 'error'}: {found}")
    return lines


def refuse_thin_classes(
    source: str, labels: Iterable[NDArray[np.integer]], names: Sequence[str], latent: int, background: int, allow: bool
) -> None:
    """Raise DataError where a class is thinner than two latents in the median; warn of it where that is allowed.

    labels: the training masks [H, W] at the size of the model. source: their folder.
    """
    thickness = class_thickness(labels, len(names))
    thin = too_thin(thickness, latent, background)
    if not thin:
        return
    found, remedy = _thin(thickness, thin, names, latent, background)
    if not allow:
        raise DataError.of(source, found, f"{remedy}; allow_thin true trains all the same")
    print(f"warning: {source}: {found}: {remedy}")


def _thin(
    thickness: Sequence[float], thin: Sequence[int], names: Sequence[str], latent: int, background: int
) -> tuple[str, str]:
    """Return what is too thin, and what to do."""
    least = LATENTS * latent
    listed = ", ".join(f"{names[index]} ({thickness[index]:.1f} px)" for index in thin)
    fitting = fitting_factor(thickness, background)
    larger = least / min(thickness[index] for index in thin)
    remedy = f"an image_size {larger:.1f} times as large" if fitting is None else f"latent {fitting}"
    return (
        f"with latent {latent} parts of a class must be {least} px thick in the median, but thinner are {listed}",
        f"use {remedy}, or latent null",
    )
