"""From typed options and checkpoints to connected objects: network, noise process, weights."""

from __future__ import annotations

from typing import TypeVar

import torch
from pydantic import ValidationError

from guided_diffusion.config.finetune import FinetuneConfig
from guided_diffusion.config.pipeline import LoadConfig
from guided_diffusion.config.sample import SampleConfig
from guided_diffusion.config.train import TrainConfig
from guided_diffusion.config.trained import TrainedConfig
from guided_diffusion.data.modes import DatasetMode, get_mode
from guided_diffusion.data.options import GeometryOptions
from guided_diffusion.models.architecture import height_width
from guided_diffusion.models.options import ModelOptions
from guided_diffusion.models.state_dict import infer_architecture, load_weights
from guided_diffusion.models.unet import UNetModel, build_unet
from guided_diffusion.pipelines.comparison import differing_keys
from guided_diffusion.runtime.checkpoint import Checkpoint
from guided_diffusion.runtime.errors import CheckpointError, ConfigError
from guided_diffusion.runtime.options import FlatConfig

Config = TypeVar("Config", bound=FlatConfig)


def build_network(model: ModelOptions, geometry: GeometryOptions, *, num_classes: int, learn_sigma: bool) -> UNetModel:
    """Return the untrained network of resolved options, weights drawn from torch's global generator."""
    return build_unet(
        model,
        image_size=geometry.image_size,
        image_channels=geometry.image_channels,
        no_instance=geometry.no_instance,
        num_classes=num_classes,
        learn_sigma=learn_sigma,
    )


def image_shape(geometry: GeometryOptions) -> tuple[int, int, int]:
    """Return (channels, height, width) of the images the network sees."""
    return (geometry.image_channels, *height_width(geometry.image_size))


def network_from_checkpoint(checkpoint: Checkpoint, trained: TrainedConfig | TrainConfig, weights: str) -> UNetModel:
    """Return the network of `trained` with the weights called `weights` of `checkpoint`.

    Raises CheckpointError naming the option that differs where they do not fit.
    """
    model = build_network(
        trained.model,
        trained.geometry,
        num_classes=trained.source.num_classes,
        learn_sigma=trained.diffusion.learn_sigma,
    )
    chosen = checkpoint.weights(weights)
    load_weights(model, chosen, source=str(checkpoint.path))
    broken = next((name for name, value in chosen.items() if not torch.isfinite(value).all()), None)
    if broken is not None:
        raise CheckpointError(
            f"{checkpoint.path}: weight {broken} has values that are not finite: use another checkpoint of the run"
        )
    return model


def trained_config(checkpoint: Checkpoint, config: FinetuneConfig | SampleConfig | LoadConfig) -> TrainedConfig:
    """Return what `checkpoint` was trained with, or for bare weights what they and `config` tell.

    Keys that may differ from training (`sampling="free"`) are those of `config` where it sets them.
    Raises ConfigError naming each key that contradicts the checkpoint, or that bare weights leave open.
    """
    if checkpoint.is_bare:
        return _trained_with_bare_weights(checkpoint, config)
    trained = options_of_checkpoint(checkpoint)
    keys = [key for group in TrainedConfig.groups().values() for key in group.keys()]  # noqa: SIM118 - not a mapping
    asked = [key for key in keys if key in config.fields() and config.get(key) not in (None, "")]
    fixed = [key for key in asked if TrainedConfig.facts(key).sampling == "as trained"]
    clashes = differing_keys(config, trained, fixed)
    if clashes:
        raise ConfigError(
            [f"{key} differs from {checkpoint.path}: {found}; leave it out" for key, found in clashes.items()]
        )
    return trained.replaced(**{key: config.get(key) for key in asked if key not in fixed})


def options_of_checkpoint(checkpoint: Checkpoint, kind: type[Config] = TrainedConfig) -> Config:
    """Return the options that a checkpoint of ours was trained with, those of `kind`.

    One of an older version lacks keys that were added since; their defaults are what it was trained with.
    Raises CheckpointError where its options are none that a training could have had.
    """
    try:
        return kind.from_flat(checkpoint.config, ignore_unknown=True)
    except ValidationError as error:
        key = error.errors(include_url=False)[0]["loc"][-1]
        raise CheckpointError(
            f"{checkpoint.path}: its option {key} has a value that no training has: it was tampered with"
        ) from None


def _trained_with_bare_weights(
    checkpoint: Checkpoint, config: FinetuneConfig | SampleConfig | LoadConfig
) -> TrainedConfig:
    """Complete what shapes tell with published defaults and with what the config says; ask for the rest by name."""
    source = str(checkpoint.path)
    found = infer_architecture(checkpoint.model, source=source)
    mode = get_mode(config.source.dataset_mode) if config.source.dataset_mode else None
    # Published networks predict the noise; what we train by default is another matter.
    published = TrainedConfig.from_flat({"prediction": "eps", "ignore_label": None})
    known = published.updated(_published_network(mode, config.model), config)
    missing = [key for key in ("image_size", "dataset_mode") if key not in known.given]
    # The bottleneck always has attention, so that the heads always matter.
    if not {"num_heads", "num_head_channels"} & known.given:
        missing.append("num_head_channels")
    if missing:
        raise ConfigError(
            [
                f"{key} cannot be seen in the bare weights of {source}: set it as it was in their training"
                + (" (the published models have 64; or set num_heads)" if key == "num_head_channels" else "")
                for key in missing
            ]
        )
    seen = TrainedConfig.from_flat(
        found.build_options(
            image_size=known.geometry.image_size,
            no_instance=_without_edges(found.condition_channels, mode, known),
        )
    )
    shown = [key for key in (*ModelOptions.keys(), "image_channels", "num_classes", "learn_sigma") if key in seen.given]
    clashes = differing_keys(config, seen, [key for key in shown if config.get(key) not in (None, "")])
    if clashes:
        raise CheckpointError(
            [f"{key} does not fit the shapes in {source}: {found}; leave it out" for key, found in clashes.items()]
        )
    if found.condition == "mask" and mode.num_classes not in (None, seen.source.num_classes):
        raise CheckpointError(
            f"{source}: its condition has {found.condition_channels} channels, but dataset_mode {mode.name} has "
            f"{mode.num_classes} classes (and a channel for edges with no_instance=false): set dataset_mode and "
            "no_instance as they were in its training"
        )
    resize = TrainedConfig.from_flat({"resize": mode.resize})
    return known.updated(resize, config, seen)


def _published_network(mode: DatasetMode | None, model: ModelOptions) -> TrainedConfig:
    """Return what a mode's published weights were trained with, the heads only where `model` says nothing of them."""
    if mode is None or mode.published is None:
        return TrainedConfig.from_flat({})
    heads = {} if model.num_heads is not None else {"num_head_channels": mode.published.num_head_channels}
    return TrainedConfig.from_flat({"image_size": mode.published.image_size, **heads})


def _without_edges(condition_channels: int, mode: DatasetMode, known: TrainedConfig) -> bool:
    """Return `no_instance`: as given, else false where the condition has one channel more than there are classes."""
    if "no_instance" in known.given:
        return known.geometry.no_instance
    num_classes = mode.num_classes if known.source.num_classes is None else known.source.num_classes
    return num_classes is None or condition_channels != num_classes + 1


def amp_dtype(precision: str) -> torch.dtype | None:
    """Return the type that `precision` lets the network run in, None for full precision."""
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
