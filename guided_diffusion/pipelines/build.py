"""From typed options and checkpoints to network, noise process and weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from pydantic import ValidationError

from guided_diffusion.config.from_checkpoint import FromCheckpointConfig
from guided_diffusion.config.network import NetworkConfig, TrainedConfig
from guided_diffusion.data.modes import IMAGES, DatasetMode, PublishedNetwork, get_mode
from guided_diffusion.diffusion.latent import Code, LatentCode
from guided_diffusion.diffusion.pair_code import PairCode
from guided_diffusion.models.architecture import GROUPS, default_channel_mult, level_channels
from guided_diffusion.models.options import ModelOptions
from guided_diffusion.models.state_dict import InferredArchitecture, infer_architecture, load_weights
from guided_diffusion.models.unet import UNetModel, build_unet
from guided_diffusion.pipelines.comparison import differences
from guided_diffusion.runtime.checkpoint import Checkpoint
from guided_diffusion.runtime.errors import CheckpointError, ConfigError
from guided_diffusion.runtime.options import FlatConfig

Config = TypeVar("Config", bound=FlatConfig)


AMP_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""precision -> the type that the network runs in, None for full precision."""


PUBLISHED_UNCONDITIONAL = {
    InferredArchitecture(
        inpaint=False,
        num_channels=256,
        channel_mult=(1, 1, 2, 2, 4, 4),
        num_res_blocks=2,
        image_channels=3,
        condition_channels=0,
        attention=(8, 16, 32),
        learn_sigma=True,
        use_scale_shift_norm=True,
        resblock_updown=True,
    ): PublishedNetwork(image_size=256, num_head_channels=64)
}
"""What the shapes of published networks without a condition do not tell: 256x256_diffusion_uncond.pt of
guided-diffusion, and lsun_bedroom, lsun_cat, lsun_horse and ffhq of ddpm-segmentation."""
PUBLISHED_CHANNELS = 256
"""num_channels of all published networks."""
PUBLISHED_PREDICTION = ' (the published models predict "eps"; default diffusion_steps and noise_schedule: 1000, linear)'
ABOUT_MASKS = ("condition", "class_cond", "dataset_mode", "num_classes", "no_instance")
"""Keys that a network without a condition gets where it begins to learn masks."""


def build_network(config: NetworkConfig, code: Code | None = None) -> UNetModel:
    """Return the untrained network of resolved options, weights drawn from torch's global generator.

    code: of a model of masks or of latents, whose first stage becomes part of the network. Raises ConfigError where a
    code of masks needs more channels than the network has.
    """
    if isinstance(code, PairCode):
        refuse_narrow_network(config, code)
    model = build_unet(
        config.model,
        image_size=config.network_size,
        image_channels=config.geometry.image_channels if code is None else code.channels,
        no_instance=config.geometry.no_instance,
        num_classes=config.source.num_classes,
        learn_sigma=config.diffusion.learn_sigma,
    )
    if isinstance(code, LatentCode):
        model.first_stage = code.stage
    return model


def refuse_narrow_network(config: NetworkConfig, code: PairCode) -> None:
    """Raise ConfigError where the first level of the network has fewer channels than the code of masks and images."""
    mult = config.model.channel_mult or default_channel_mult(min(config.network_size))
    width = level_channels(config.model.num_channels, mult)[0]
    if width >= code.channels:
        return
    needed = math.ceil(code.channels / mult[0] / GROUPS) * GROUPS
    line = (
        f"num_channels is {config.model.num_channels}, which makes a first level of {width}, but the mask code needs "
        f"{code.channels} ({code.image_channels} of the image and {code.label_channels} of the mask, times "
        f"{code.folding**2}): use at least {needed}, or a smaller space_to_depth"
    )
    raise ConfigError.of_keys(("num_channels", line))


def network_from_checkpoint(
    checkpoint: Checkpoint, trained: NetworkConfig, weights: str, code: Code | None = None
) -> UNetModel:
    """Return the network of `trained` with the weights called `weights` of `checkpoint`.

    Raises CheckpointError where they do not fit, naming the option that differs, or are not finite.
    """
    chosen = checkpoint.weights(weights)
    model = build_network(trained, code)
    load_weights(model, chosen, source=str(checkpoint.path))
    refuse_broken_weights(checkpoint, chosen)
    return model


def refuse_broken_weights(checkpoint: Checkpoint, weights: Mapping[str, torch.Tensor]) -> None:
    """Raise CheckpointError where a weight of `checkpoint` is not finite."""
    broken = next((name for name, value in weights.items() if not torch.isfinite(value).all()), None)
    if broken is not None:
        raise CheckpointError(
            f"{checkpoint.path}: weight {broken} has values that are not finite: use another checkpoint of the run"
        )


def trained_config(checkpoint: Checkpoint, config: FromCheckpointConfig, *, takes_masks: bool = False) -> TrainedConfig:
    """Return the options that `checkpoint` was trained with; those of bare weights come from shapes and `config`.

    Keys that may differ from training (`sampling="free"`) are as in `config` where it sets them; with takes_masks and
    condition mask, those about masks are, too, of a network without a condition, which begins to learn masks.
    Raises ConfigError naming each key that contradicts the checkpoint, or that bare weights leave open.
    """
    asked = takes_masks and config.model.condition == "mask"
    if checkpoint.is_bare:
        return _trained_with_bare_weights(checkpoint, config, takes_masks=asked)
    trained = options_of_checkpoint(checkpoint)
    if asked and trained.model.condition == "none":
        trained = with_masks(trained, config)
    given = _given(config)
    fixed = [key for key in given if _is_fixed(key)]
    if trained.model.inpaint and "inpaint" in given:  # it can be learned, but not taken back
        fixed.append("inpaint")
    problems = differences(config, trained, fixed, source=checkpoint.path, remedy="leave it out")
    mode = config.source.dataset_mode
    has_masks = not mode or get_mode(mode).masks is not None
    if takes_masks and has_masks and config.model.condition is None and trained.model.condition == "none":
        hint = ", or set condition to mask to have it learn masks"
        problems = [(key, f"{line}{hint if key in ABOUT_MASKS else ''}") for key, line in problems]
    if problems:
        raise ConfigError.of_keys(*problems)
    return with_free_keys(trained, config)


def with_free_keys(trained: TrainedConfig, config: FromCheckpointConfig) -> TrainedConfig:
    """Return these options with the keys of `config` that may differ from training, where it sets them."""
    return trained.replaced(**{key: config.get(key) for key in _given(config) if not _is_fixed(key)})


def _given(config: FromCheckpointConfig) -> list[str]:
    """Return the options of a training that `config` sets."""
    keys = [key for group in TrainedConfig.groups().values() for key in group.keys()]  # noqa: SIM118 - not a mapping
    return [key for key in keys if key in config.fields() and config.get(key) not in (None, "")]


def _is_fixed(key: str) -> bool:
    return TrainedConfig.facts(key).sampling == "as trained"


def refuse_lost_code(config: NetworkConfig, checkpoint: Checkpoint) -> None:
    """Raise ConfigError where bare weights are to make masks, whose code they do not keep."""
    if checkpoint.is_bare and config.generation.makes_masks:
        makes = config.generation.generates
        line = f"generates is {makes}, but the bare weights of {checkpoint.path} keep no mask code: "
        raise ConfigError.of_keys(("generates", f"{line}use a run folder or a checkpoint, or leave generates out"))


def options_of_checkpoint(checkpoint: Checkpoint, kind: type[Config] = TrainedConfig) -> Config:
    """Return the options of `kind` that a checkpoint of ours was trained with.

    A checkpoint of an older version lacks keys that were added since: it was trained with their defaults.
    Raises CheckpointError for values that no training can have had.
    """
    try:
        return kind.from_flat(checkpoint.config, ignore_unknown=True)
    except ValidationError as error:
        key = error.errors(include_url=False)[0]["loc"][-1]
        raise CheckpointError(
            f"{checkpoint.path}: its option {key} has a value that no training has: it was tampered with"
        ) from None


def with_masks(trained: TrainedConfig, config: FromCheckpointConfig) -> TrainedConfig:
    """Return the options of a network without a condition with what `config` says of masks, else the defaults."""
    given = {key: config.get(key) for key in ABOUT_MASKS if config.get(key) not in (None, "")}
    return trained.replaced(
        **{"num_classes": None, "no_instance": True, **given, "condition": "mask", "class_cond": True}
    )


def _trained_with_bare_weights(
    checkpoint: Checkpoint, config: FromCheckpointConfig, *, takes_masks: bool = False
) -> TrainedConfig:
    """Return what the shapes of bare weights tell, `config` says, and the published training of its mode had.

    Raises ConfigError for keys that are still missing, CheckpointError where the shapes contradict `config`.
    """
    refuse_lost_code(config, checkpoint)
    source = str(checkpoint.path)
    architecture = infer_architecture(checkpoint.model, source=source)
    takes_masks = takes_masks and architecture.condition == "none"
    if architecture.condition == "none" and not takes_masks and not config.source.dataset_mode:
        config = config.replaced(dataset_mode=IMAGES)
    mode = get_mode(config.source.dataset_mode) if config.source.dataset_mode else None
    published: dict[str, Any] = {"ignore_label": None}
    known = PUBLISHED_UNCONDITIONAL.get(architecture) or (mode.published if mode is not None else None)
    if known is not None:
        published["image_size"] = known.image_size
        if config.model.num_heads is None:
            published["num_head_channels"] = known.num_head_channels
        if architecture.num_channels == PUBLISHED_CHANNELS:  # these predict the noise, whatever is the default here
            published["prediction"] = "eps"
    options = TrainedConfig.from_flat(published).updated(config)
    required = {"image_size": "", "dataset_mode": ""}
    if not {"prediction", "predict_xstart"} & options.given:
        required["prediction"] = PUBLISHED_PREDICTION
    reads_masks = architecture.condition == "mask" and mode is not None and mode.num_classes is None
    if reads_masks and not {"num_classes", "no_instance"} & options.given:
        required["num_classes"] = " (or set no_instance: edges of instances have a channel beside those of the classes)"
    if "num_heads" not in options.given:  # the middle block always has attention, so the heads matter
        required["num_head_channels"] = " (the published models have 64; or set num_heads)"
    missing = [
        (key, f"{key} cannot be seen in the bare weights of {source}: set it as it was in their training{hint}")
        for key, hint in required.items()
        if key not in options.given
    ]
    if missing:
        raise ConfigError.of_keys(*missing)
    seen = TrainedConfig.from_flat(
        architecture.build_options(
            image_size=options.geometry.image_size,
            no_instance=_without_edges(architecture.condition_channels, mode, options),
        )
    )
    seen = seen.replaced(class_cond=architecture.condition != "none")
    shown = [key for key in (*ModelOptions.keys(), "image_channels", "num_classes", "learn_sigma") if key in seen.given]
    given = [key for key in shown if config.get(key) not in (None, "")]
    if config.model.inpaint and not architecture.inpaint:  # finetuning may begin to fill holes
        seen, given = seen.replaced(inpaint=True), [key for key in given if key != "inpaint"]
    if takes_masks:
        seen, given = with_masks(seen, config), [key for key in given if key not in ABOUT_MASKS]
    problems = differences(config, seen, given, source=f"the shapes in {source}", remedy="leave it out")
    if problems:
        raise CheckpointError([line for _, line in problems])
    if architecture.condition == "mask" and mode.num_classes not in (None, seen.source.num_classes):
        raise CheckpointError(
            f"{source}: its condition has {architecture.condition_channels} channels, but dataset_mode {mode.name} has "
            f"{mode.num_classes} classes (and a channel for edges with no_instance=false): set dataset_mode and "
            "no_instance as they were in its training"
        )
    trained = options.updated(TrainedConfig.from_flat({"resize": mode.resize}), config, seen)
    if takes_masks:  # a null number of classes, found in the data, is no change to `updated`
        trained = with_masks(trained, config)
    problems = list(trained.check())
    if problems:
        raise ConfigError.of_keys(*problems)
    return trained


def _without_edges(condition_channels: int, mode: DatasetMode, options: TrainedConfig) -> bool:
    """Return `no_instance`: as given, else false where the condition has one channel more than there are classes."""
    if "no_instance" in options.given:
        return options.geometry.no_instance
    num_classes = mode.num_classes if options.source.num_classes is None else options.source.num_classes
    return num_classes is None or condition_channels != num_classes + 1
