"""Which keys of `train` and `finetune` go with a network and its condition."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from guided_diffusion.config.train import TrainConfig
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.options import BoxOptions
from guided_diffusion.pipelines.dataset import leaves_masks_aside
from guided_diffusion.runtime.checkpoint import LAST
from guided_diffusion.runtime.errors import ConfigError
from guided_diffusion.runtime.options import Problem

READ_WITH_MASKS = ("num_classes", "ignore_label", "flip_pairs", "mask_resize", "no_instance")
"""Keys that say how masks are read, which holes and windows lie on even without a condition."""

OF_BOXES = (*BoxOptions.keys(), "stage_masks", "overlap", "style_dim", "label_dim")
"""Keys that say which objects there are, and what a network makes of them."""
_OF_VALUES = ("ignore_label", "mask_resize")
OF_TRAINED_AUTOENCODER = (
    "autoencoder_steps", "autoencoder_batch_size", "autoencoder_crop", "autoencoder_lr", "autoencoder_channels",
)  # fmt: skip
"""Keys that say how an autoencoder is trained, and how large it is."""


def refuse_idle_keys(config: TrainConfig, given: Collection[str]) -> None:
    """Raise ConfigError for keys, of those that the user gave, which a new training does not use.

    A run that was begun with them goes on.
    """
    if (Path(config.run.output_dir) / LAST).exists():
        return
    # Those of `finetune` were checked before they met the options of its checkpoint.
    problems = [*_idle(config, given), *(problem for problem in config.check_all() if problem[0] in given)]
    if problems:
        raise ConfigError.of_keys(*problems)


def _idle(config: TrainConfig, given: Collection[str]) -> Iterator[Problem]:
    condition, mode = config.model.condition, get_mode(config.source.dataset_mode)

    def changed(keys: Collection[str]) -> list[str]:
        return [key for key in config.changed(*keys) if key in given]

    if condition != "boxes":
        for key in changed(OF_BOXES):
            line = f'{key} is given, but condition is "{condition}", which has no boxes: '
            yield (key, f"{line}leave it out, or set condition to boxes")
    elif mode.masks is None:
        for key in changed(_OF_VALUES):
            line = f"{key} is given, but dataset_mode {config.source.dataset_mode} has boxes and no masks: leave it out"
            yield (key, line)
    for key in changed(OF_TRAINED_AUTOENCODER) if config.first_stage.autoencoder else ():
        line = f"{key} is given, but autoencoder is a pretrained one, so none is trained here: "
        yield (key, f"{line}leave one of the two out")
    for key in changed(["spade"]) if condition != "mask" else ():
        line = f'spade is {config.model.spade}, but condition is "{condition}", so no mask modulates: '
        yield (key, f"{line}leave it out, or set condition to mask")
    if condition == "boxes" and mode.masks and mode.instances is None and changed(["no_instance"]):
        line = f"no_instance is false, but condition is boxes and dataset_mode {mode.name} has no instance maps: "
        yield ("no_instance", f"{line}leave it out, or set condition to mask for edges of the labels")
    for key in changed(("mask_weight", "brightness")) if config.generation.generates == "mask" else ():
        line = f"{key} is given, but generates is mask, so there is no image beside the mask: "
        yield (key, f"{line}leave it out, or set generates to pair")
    if changed(["rescale_learned_sigmas"]) and not config.diffusion.learn_sigma:
        line = "rescale_learned_sigmas is true, but learn_sigma is false, so no variances are learned: "
        yield ("rescale_learned_sigmas", f"{line}leave it out, or set learn_sigma to true")
    if changed(["window_focus"]) and mode.masks is None and mode.boxes is None:
        line = f"window_focus is {config.windows.window_focus:g}, but dataset_mode {mode.name} has no masks that show "
        yield ("window_focus", f"{line}defects: leave it out")
    if condition != "none":
        return
    if "drop_rate" in given and config.optimizer.drop_rate:
        line = f'drop_rate is {config.optimizer.drop_rate:g}, but condition is "none", so no mask can be dropped: '
        yield ("drop_rate", f"{line}leave it out, or set condition to mask")
    if not leaves_masks_aside(config):
        return
    for key in changed(READ_WITH_MASKS):
        line = f'{key} is given, but condition is "none", so masks are not read: '
        yield (key, f"{line}leave it out, or set condition to mask")
