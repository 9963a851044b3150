"""Which keys of `sample` go with which network: with one that takes masks, makes them, or knows of none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from guided_diffusion.config.from_checkpoint import FromCheckpointConfig
from guided_diffusion.config.network import TrainedConfig
from guided_diffusion.config.sample import SampleConfig
from guided_diffusion.data.options import BoxOptions, LayoutOptions
from guided_diffusion.pipelines.build import options_of_checkpoint
from guided_diffusion.runtime.checkpoint import Checkpoint
from guided_diffusion.runtime.errors import ConfigError
from guided_diffusion.runtime.options import Problem

READ_WITH_MASKS = ("ignore_label", "exif", "flip_pairs", "mask_resize")
"""Keys that say how masks are read, and may differ from training."""
SHOWN = ("resize", "scale")
"""Keys that say which part of a mask or image the model sees, and may differ from training, too."""


def refuse_misfits(config: SampleConfig, trained: TrainedConfig, checkpoint: Checkpoint) -> None:
    """Raise ConfigError for keys of `sample` that do not go with what the model of `checkpoint` takes and makes."""
    # What `config` leaves to its checkpoint was not known when it was checked.
    problems = [*_misfits(config, trained, checkpoint.path), *_idle(config, trained, checkpoint)]
    named = {key for key, _ in problems}
    problems += [(key, line) for key, line in trained.geometry.check() if key in config.given - named]
    if problems:
        raise ConfigError.of_keys(*problems)


def _misfits(config: SampleConfig, trained: TrainedConfig, path: Path) -> Iterator[Problem]:
    yield from trained.generation_problems()
    if trained.model.condition == "boxes":
        yield from _misfits_of_boxes(config, path)
        return
    for key in config.changed(*LayoutOptions.keys()):
        yield (key, f"{key} is given, but {path} takes no boxes: leave it out, or use one with condition boxes")
    unconditional = trained.model.condition == "none"
    if not unconditional and not trained.generation.makes_masks:
        if not config.source.data_dir and not config.mask_dir:
            line = f"data_dir and mask_dir say where the masks come from, and neither is given, but {path} makes none: "
            yield ("data_dir", f"{line}give one of them")
        if config.class_names is not None:
            line = f"class_names is given, but {path} makes images of given masks, whose classes they have: "
            yield ("class_names", f"{line}leave it out")
        return
    why, remedy = f"{path} was trained with generates {trained.generation.generates} and makes its own masks", ""
    taken = {"data_dir": config.source.data_dir, "mask_dir": config.mask_dir}
    taken |= {"augment_masks": config.augment_masks, "unlabeled_to_zero": config.unlabeled_to_zero}
    if unconditional:
        why = f"{path} has no condition, so its images follow no mask"
        remedy = ", or use a model trained with condition mask"
        taken |= {"class_names": config.class_names}
    for key, value in taken.items():
        if value:
            yield (key, f"{key} is given, but {why}: leave it out{remedy}")
    if config.num_samples is None:
        yield ("num_samples", f"num_samples is missing: {why}; say how many samples to make")
    if unconditional and config.sampler.s != 1:
        yield ("s", f"s is {config.sampler.s:g}, but {path} has no condition to guide towards: set s to 1")


def idle_keys(config: FromCheckpointConfig, checkpoint: Checkpoint, reasons: Mapping[str, str]) -> Iterator[Problem]:
    """Yield the keys of `reasons`, key -> why nothing uses it, that are given otherwise than in the training."""
    before = None if checkpoint.is_bare else options_of_checkpoint(checkpoint)
    for key, why in reasons.items():
        if config.get(key) not in (None, None if before is None else before.get(key)):
            yield (key, f"{key} is given, but {why}: leave it out")


def refuse_idle(config: FromCheckpointConfig, checkpoint: Checkpoint, reasons: Mapping[str, str]) -> None:
    """Raise ConfigError for `idle_keys`."""
    if problems := list(idle_keys(config, checkpoint, reasons)):
        raise ConfigError.of_keys(*problems)


def _idle(config: SampleConfig, trained: TrainedConfig, checkpoint: Checkpoint) -> Iterator[Problem]:
    """Yield the keys about masks and boxes of which the model makes no use, unless they are as in its training."""
    condition, path = trained.model.condition, checkpoint.path
    takes_masks = condition != "none" and not trained.generation.makes_masks
    reasons = {} if takes_masks else dict.fromkeys((*READ_WITH_MASKS, *SHOWN), f"{path} reads no masks")
    if condition == "boxes" and config.layouts.layout_source == "file":
        reasons = dict.fromkeys((*READ_WITH_MASKS, "min_object_size"), "the objects are those of layout_file")
    if condition != "mask":
        reasons["spade"] = f"{path} has no masks that modulate"
    if condition != "boxes":
        reasons |= dict.fromkeys(BoxOptions.keys(), f"{path} takes no boxes")
    yield from idle_keys(config, checkpoint, reasons)


def _misfits_of_boxes(config: SampleConfig, path: Path) -> Iterator[Problem]:
    if not (config.source.data_dir or config.mask_dir or config.layouts.layout_file):
        line = f"data_dir is missing: {path} takes boxes; give it, or mask_dir, or layout_file with layout_source file"
        yield ("data_dir", line)
    taken = {"class_names": config.class_names, "unlabeled_to_zero": config.unlabeled_to_zero}
    for key, value in {**taken, "augment_masks": config.augment_masks}.items():
        if value:
            yield (key, f"{key} is given, but {path} takes boxes, not masks: leave it out")
