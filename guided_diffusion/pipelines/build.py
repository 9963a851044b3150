"""From options and checkpoints to objects; shared by the actions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from guided_diffusion.config.load import differing_keys
from guided_diffusion.config.network import ArchitectureChecks
from guided_diffusion.data.modes import DatasetMode, get_mode
from guided_diffusion.data.options import EtaOptions, GeometryOptions
from guided_diffusion.diffusion.gaussian import GaussianDiffusion, build_diffusion
from guided_diffusion.diffusion.options import DiffusionOptions, LabelDiffusionOptions
from guided_diffusion.models.architecture import height_width
from guided_diffusion.models.options import ModelOptions
from guided_diffusion.models.state_dict import infer_architecture, load_weights
from guided_diffusion.models.unet import UNetModel, build_unet
from guided_diffusion.runtime.checkpoint import Checkpoint
from guided_diffusion.runtime.errors import CheckpointError, ConfigError
from guided_diffusion.runtime.options import ActionConfig

MODEL_KEYS = tuple(key for key in ModelOptions.model_fields if key != "class_cond")
PROCESS_KEYS = tuple(key for key in DiffusionOptions.model_fields if key != "predict_xstart")
GEOMETRY_KEYS = tuple(GeometryOptions.model_fields)
LABEL_DIFFUSION_KEYS = (*LabelDiffusionOptions.model_fields, *EtaOptions.model_fields)
LABEL_KEYS = ("dataset_mode", "num_classes", "ignore_label")
FREE_KEYS = ("dropout", "use_checkpoint", "spade", "resize", "ignore_label")
"""Keys that do not change what the weights mean: how the network runs, which part of a picture it sees, and which mask
value is of no class."""


def model_from_options(options: Mapping[str, Any]) -> UNetModel:
    """Return the untrained network of resolved training options, weights drawn from torch's global generator."""
    keys = (*MODEL_KEYS, "image_size", "image_channels", "no_instance", "num_classes", "learn_sigma")
    return build_unet(**{key: options[key] for key in keys})


def process_from_options(
    options: Mapping[str, Any],
    timestep_respacing: str | int = "",
    *,
    steps: int | None = None,
    time_grid: str = "uniform",
) -> GaussianDiffusion:
    """Return the noise process of resolved training options; for sampling, with fewer steps (see `build_diffusion`)."""
    return build_diffusion(
        timestep_respacing=timestep_respacing,
        steps=steps,
        time_grid=time_grid,
        **{key: options[key] for key in PROCESS_KEYS},
    )


def image_shape(options: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return (channels, height, width) of the images the network sees."""
    return (options["image_channels"], *height_width(options["image_size"]))


def model_from_checkpoint(checkpoint: Checkpoint, options: Mapping[str, Any], weights: str) -> UNetModel:
    """Return the network of `options` with the weights called `weights` of `checkpoint`.

    Raises CheckpointError naming the option that differs where they do not fit.
    """
    model = model_from_options(options)
    chosen = checkpoint.weights(weights)
    load_weights(model, chosen, source=str(checkpoint.path))
    broken = next((name for name, value in chosen.items() if not torch.isfinite(value).all()), None)
    if broken is not None:
        raise CheckpointError(
            f"{checkpoint.path}: weight {broken} has values that are not finite: use another checkpoint of the run"
        )
    return model


def options_of_checkpoint(checkpoint: Checkpoint, config: ArchitectureChecks) -> dict[str, Any]:
    """Return the options that `checkpoint` was trained with, or for bare weights what they and `config` tell.

    config: a finetune or sample configuration, whose keys of geometry, network and noise process are null where
        they are left to the checkpoint.

    Raises ConfigError naming each key that contradicts the checkpoint, or that bare weights leave open.
    """
    given = {key: value for key, value in config.to_json().items() if value not in (None, "")}
    if checkpoint.is_bare:
        return _options_of_bare_weights(checkpoint, given)
    keys = (*GEOMETRY_KEYS, *MODEL_KEYS, *PROCESS_KEYS, *LABEL_DIFFUSION_KEYS, *LABEL_KEYS)
    trained = trained_options(checkpoint)
    clashes = differing_keys(comparable(given), comparable(trained), [key for key in keys if key not in FREE_KEYS])
    if clashes:
        raise ConfigError(
            [f"{key} differs from {checkpoint.path}: {said}; leave it out" for key, said in clashes.items()]
        )
    return {**trained, **{key: given[key] for key in FREE_KEYS if key in given}}


def trained_options(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the options that a checkpoint of ours was trained with."""
    # One of an older version lacks keys that were added since; their defaults are what it was trained with.
    return {**_defaults(), **checkpoint.config}


def completed(config: ActionConfig, trained: Mapping[str, Any]) -> dict[str, Any]:
    """Return the resolved keys of `config`: its own, and those of `trained` where they are left to the checkpoint."""
    return {key: trained.get(key) if value in (None, "") else value for key, value in config.to_json().items()}


def comparable(options: Mapping[str, Any]) -> dict[str, Any]:
    """Bring spellings that mean the same to one form."""
    same = {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}
    if "image_size" in same:
        same["image_size"] = list(height_width(same["image_size"]))
    if same.get("dataset_mode"):
        same["dataset_mode"] = get_mode(same["dataset_mode"]).name
    return same


def _options_of_bare_weights(checkpoint: Checkpoint, given: Mapping[str, Any]) -> dict[str, Any]:
    """Complete what shapes tell with published defaults and with what the config says; ask for the rest by name."""
    source = str(checkpoint.path)
    found = infer_architecture(checkpoint.model, source=source)
    if "dataset_mode" in given:
        given = {**_published_network(get_mode(given["dataset_mode"]), given), **given}
    missing = [key for key in ("image_size", "dataset_mode") if key not in given]
    # The bottleneck always has attention, so that the heads always matter.
    if not {"num_heads", "num_head_channels"} & set(given):
        missing.append("num_head_channels")
    if missing:
        raise ConfigError(
            [
                f"{key} cannot be seen in the bare weights of {source}: set it as it was in their training"
                + (" (the published models have 64; or set num_heads)" if key == "num_head_channels" else "")
                for key in missing
            ]
        )
    mode = get_mode(given["dataset_mode"])
    seen = found.build_options(
        image_size=given["image_size"], no_instance=_without_edges(found.condition_channels, mode, given)
    )
    clashes = differing_keys(
        comparable(given), comparable(seen), [*MODEL_KEYS, "image_channels", "num_classes", "learn_sigma"]
    )
    if clashes:
        raise CheckpointError(
            [f"{key} does not fit the shapes in {source}: {said}; leave it out" for key, said in clashes.items()]
        )
    if mode.num_classes not in (None, seen["num_classes"]):
        raise CheckpointError(
            f"{source}: its condition has {found.condition_channels} channels, but dataset_mode {mode.name} has "
            f"{mode.num_classes} classes (and a channel for edges with no_instance=false): set dataset_mode and "
            "no_instance as they were in its training"
        )
    # Published networks predict the noise; what we train by default is another matter.
    published = {"prediction": "eps", "ignore_label": None, "resize": mode.resize}
    return {**_defaults(), **published, **given, **seen}


def _published_network(mode: DatasetMode, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a mode's published weights were trained with, the heads only where `given` says nothing of them."""
    if mode.published is None:
        return {}
    heads = {} if "num_heads" in given else {"num_head_channels": mode.published.num_head_channels}
    return {"image_size": mode.published.image_size, **heads}


def _without_edges(condition_channels: int, mode: DatasetMode, given: Mapping[str, Any]) -> bool:
    """Return `no_instance`: as `given` says, else false where the condition has one channel more than classes."""
    if "no_instance" in given:
        return given["no_instance"]
    num_classes = given.get("num_classes", mode.num_classes)
    return num_classes is None or condition_channels != num_classes + 1


def _defaults() -> dict[str, Any]:
    groups = (GeometryOptions, ModelOptions, DiffusionOptions, LabelDiffusionOptions, EtaOptions)
    return {key: field.default for group in groups for key, field in group.model_fields.items()}


def autocast_type(precision: str) -> torch.dtype | None:
    """Return the type that `precision` lets the network run in, None for full precision."""
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
