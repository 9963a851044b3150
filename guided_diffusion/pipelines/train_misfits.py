"""Which keys of `train` and `finetune` go with a network without a condition: none of those about masks."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from guided_diffusion.config.train import TrainConfig
from guided_diffusion.pipelines.dataset import leaves_masks_aside
from guided_diffusion.runtime.checkpoint import LAST
from guided_diffusion.runtime.errors import ConfigError
from guided_diffusion.runtime.options import Problem

READ_WITH_MASKS = ("num_classes", "ignore_label", "flip_pairs", "mask_resize", "no_instance")
"""Keys that say how masks are read, which holes and windows lie on even without a condition."""


def refuse_idle_mask_keys(config: TrainConfig, given: Collection[str]) -> None:
    """Raise ConfigError for keys about masks, of those that the user gave, of which a new training makes no use.

    A run that was begun with them goes on.
    """
    if (Path(config.run.output_dir) / LAST).exists():
        return
    problems = list(_idle(config, given))
    if problems:
        raise ConfigError.of_keys(*problems)


def _idle(config: TrainConfig, given: Collection[str]) -> Iterator[Problem]:
    if config.model.condition != "none":
        return
    fields = config.fields()
    if "drop_rate" in given and config.optimizer.drop_rate:
        line = f'drop_rate is {config.optimizer.drop_rate:g}, but condition is "none", so no mask can be dropped: '
        yield ("drop_rate", f"{line}leave it out, or set condition to mask")
    if not leaves_masks_aside(config):
        return
    for key in READ_WITH_MASKS:
        if key in given and config.get(key) != fields[key].default:
            line = f'{key} is given, but condition is "none", so masks are not read: '
            yield (key, f"{line}leave it out, or set condition to mask")
