"""From options and a checkpoint to what reads the features of images."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from guided_diffusion.conditions.base import Condition, Size
from guided_diffusion.conditions.no_condition import NoCondition
from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.config.network import TrainedConfig
from guided_diffusion.diffusion.gaussian import build_diffusion
from guided_diffusion.features.blocks import automatic_blocks, block_shapes
from guided_diffusion.features.diffusion import DiffusionFeatures, timesteps_at
from guided_diffusion.features.extractor import MAP_TYPES, FeatureExtractor, ImageValues, JoinedFeatures
from guided_diffusion.features.options import DIFFUSION, FeatureOptions
from guided_diffusion.features.store import FeatureStore
from guided_diffusion.features.vision import MaeFeatures, SwavFeatures
from guided_diffusion.models.taps import Tap
from guided_diffusion.models.unet import UNetModel
from guided_diffusion.pipelines.build import AMP_DTYPES, network_from_checkpoint
from guided_diffusion.runtime.checkpoint import Checkpoint
from guided_diffusion.runtime.errors import ConfigError
from guided_diffusion.runtime.files import digest


def features_of_checkpoint(
    options: FeatureOptions,
    checkpoint: Checkpoint,
    trained: TrainedConfig,
    *,
    weights: str = "ema",
    device: torch.device | str = "cpu",
    precision: str = "fp32",
    seed: int = 0,
    noise: torch.Tensor | None = None,
    model: UNetModel | None = None,
) -> FeatureExtractor:
    """Return what reads the blocks of a trained diffusion model, of the weights called `weights`.

    noise: that of an earlier extractor, in place of one drawn by `seed`. model: where it is loaded already. Raises
    ConfigError for absent blocks, a decoder that never saw a dropped mask, and a model that makes masks.
    """
    if trained.generation.makes_masks:
        line = f"generates is {trained.generation.generates} in {checkpoint.path}, whose network takes masks for images"
        raise ConfigError.of_keys(("model_path", f"{line}: give a model of images"))
    if model is None:
        model = network_from_checkpoint(checkpoint, trained, weights).to(device).eval()
    model.requires_grad_(False)
    process = build_diffusion(trained.diffusion)  # with all steps, whatever is sampled with
    found = DiffusionFeatures(
        model,
        process,
        taps=chosen_taps(options, model, checkpoint, trained),
        timesteps=timesteps_at(options.feature_steps, process),
        null=no_mask(trained, model.image_size),
        image_channels=trained.geometry.image_channels,
        share_noise=options.share_noise,
        seed=seed,
        noise=noise,
        noise_draws=options.noise_draws,
        identity={"checkpoint": digest(checkpoint.path), "weights": weights},
        device=device,
        amp_dtype=AMP_DTYPES[precision],
        dtype=MAP_TYPES[options.feature_maps],
    )
    return _with_values(found, options)


def published_features(
    options: FeatureOptions,
    *,
    image_size: tuple[int, int] = (256, 256),
    image_channels: int = 3,
    device: torch.device | str = "cpu",
    precision: str = "fp32",
) -> FeatureExtractor:
    """Return what reads images by the published weights of MAE, which has a size of its own (256 px), or SwAV.

    Raises CheckpointError where `extractor_weights` is another file.
    """
    assert options.extractor != DIFFUSION
    own = {"device": device, "amp_dtype": AMP_DTYPES[precision], "dtype": MAP_TYPES[options.feature_maps]}
    own["image_channels"] = image_channels
    path = options.extractor_weights
    if options.extractor == "mae":
        return _with_values(MaeFeatures(path, **own), options)
    double = options.extractor == "swav_w2"
    return _with_values(SwavFeatures(path, double=double, image_size=image_size, **own), options)


def feature_store(
    options: FeatureOptions, extractor: FeatureExtractor, images: Sequence[str], folder: str | Path
) -> FeatureStore:
    """Return the store of the maps of `images` (see `FeatureStore`), kept where `feature_cache` says."""
    budget = {"auto": None, "memory": sys.maxsize, "disk": 0}[options.feature_cache]
    return FeatureStore(extractor, images, folder, budget=budget)


def _with_values(found: FeatureExtractor, options: FeatureOptions) -> FeatureExtractor:
    if not options.feature_rgb:
        return found
    return JoinedFeatures([found, ImageValues(found.image_size, found.image_channels, found.dtype)])


def no_mask(trained: TrainedConfig, size: Size, count: int = 1) -> Condition:
    """Return `count` conditions without a mask, of `size` (height, width)."""
    if trained.model.condition == "none":
        return NoCondition(count, size)
    classes = trained.source.num_classes
    label = torch.full((count, *size), classes, dtype=torch.uint8 if classes < 256 else torch.int16)
    edge = None if trained.geometry.no_instance else torch.zeros(label.shape, dtype=torch.bool)
    return SemanticMap(label, classes, edge)


def chosen_taps(
    options: FeatureOptions, model: UNetModel, checkpoint: Checkpoint, trained: TrainedConfig
) -> tuple[Tap, ...]:
    """Return the blocks of `model` to be read; see `features_of_checkpoint` for errors.

    The encoder never sees the mask. The decoder is read without one, which it must have learned; not without boxes.
    """
    source, dropped = options.feature_source, checkpoint.lineage.get("saw_dropped_masks")
    boxes = trained.model.condition == "boxes"
    if source == "auto":
        source = "decoder" if model.conditioner is None or (dropped and not boxes) else "encoder"
    if source == "decoder" and boxes:
        line = f"feature_source is decoder, but {checkpoint.path} draws from boxes, which its decoder needs"
        raise ConfigError.of_keys(("feature_source", f"{line}: set feature_source to encoder"))
    if source == "decoder" and model.conditioner is not None and dropped is False:
        line = (
            f"feature_source is decoder, but {checkpoint.path} never saw a dropped mask in training, so that its "
            "decoder needs a mask: finetune it with drop_rate above 0 first, or set feature_source to encoder"
        )
        raise ConfigError.of_keys(("feature_source", line))
    if options.feature_blocks is None:
        chosen = automatic_blocks(model, source)
        return tuple(tap._replace(inputs=options.feature_inputs) for tap in chosen)
    there = {tap.block for tap in block_shapes(model) if tap.part == source}
    wrong = [block for block in options.feature_blocks if block not in there]
    if wrong:
        line = f"feature_blocks has {wrong[0]}, but the {source} of {checkpoint.path} has the blocks 0 to {max(there)}"
        raise ConfigError.of_keys(("feature_blocks", f"{line}: use those"))
    return tuple(Tap(source, block, options.feature_inputs) for block in sorted(set(options.feature_blocks)))
