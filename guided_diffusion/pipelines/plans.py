"""What actions tell before they begin, without opening an image: pairs, steps, parameters, bytes."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from guided_diffusion.config.paste import PasteConfig
from guided_diffusion.config.place import PlaceConfig
from guided_diffusion.config.sample import SampleConfig
from guided_diffusion.config.train import TrainConfig
from guided_diffusion.data.masks.classes_file import read_classes
from guided_diffusion.data.mirror import flip_pairs
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.options import SourceOptions
from guided_diffusion.data.pairing import index_images, index_masks, index_pairs, list_good_images
from guided_diffusion.data.placing.bank import class_ids
from guided_diffusion.data.scan.problems import refuse_fatal
from guided_diffusion.pipelines.build import build_network
from guided_diffusion.pipelines.dataset import good_folder, leaves_masks_aside
from guided_diffusion.pipelines.known_classes import known_classes
from guided_diffusion.pipelines.masks import folder_of_masks
from guided_diffusion.pipelines.resume import ResumePlan, refuse_other_classes
from guided_diffusion.pipelines.training_data import refuse_unmatched_groups
from guided_diffusion.runtime.hub_address import shown
from guided_diffusion.runtime.logs import read_json_lines
from guided_diffusion.runtime.units import counted, size_in_words
from guided_diffusion.samples.manifest import MANIFEST, PART

_GUESSED_CLASSES = 8
_BYTES = 4  # of a weight in a checkpoint


def training_lines(config: TrainConfig, start: ResumePlan) -> list[str]:
    """Return what a training would do: its examples and steps, and the sizes of network and checkpoints.

    Raises UserError where files lack their partners, folders are missing, or the classes are not those of `start`.
    """
    lines = []
    if (examples := _examples(config)) is not None:
        count, what = examples
        options = config.optimizer
        each = -(-count // options.batch_size)
        total = min(options.max_epochs * each, options.lr_anneal_steps or options.max_epochs * each)
        lines.append(f"{what}: {counted(each, 'step')} an epoch in one process, {counted(total, 'step')} in all")
    names = None
    if not (_knows_no_classes(config) or (start.own and start.is_over(config.optimizer))):
        names = known_classes(config.source)
        flip_pairs(names, config.source.flip_pairs)  # refuses unknown ones
        refuse_other_classes(names, start)
    if start.continues and start.own:
        done = start.checkpoint.progress
        over = ", which is finished" if start.is_over(config.optimizer) else ""
        lines.append(f"goes on after epoch {done.get('epoch', 0)}, step {done.get('step', 0)}{over}")
    elif start.checkpoint is not None:
        lines.append(f"begins with the weights of {shown(start.checkpoint.path)}")
    return [*lines, *_network_lines(config, names)]


def _knows_no_classes(config: TrainConfig) -> bool:
    """Return whether masks are not read, or only annotations tell the classes."""
    return leaves_masks_aside(config) or get_mode(config.source.dataset_mode).boxes is not None


def _examples(config: TrainConfig) -> tuple[int, str] | None:
    """Return the number of examples of an epoch, and in words; None where only the annotations tell it."""
    source, mode = config.source, get_mode(config.source.dataset_mode)
    if mode.boxes is not None:
        return None
    if leaves_masks_aside(config):
        images, problems = index_images(source.data_dir, mode, "train", config.good.image_dir)
        what = "images"
    else:
        images, problems = index_pairs(source.data_dir, mode, "train", with_instances=not config.geometry.no_instance)
        what = "pairs"
    refuse_fatal(problems)
    good = list_good_images(folder) if (folder := good_folder(config)) else []
    refuse_unmatched_groups(config, (*images, *good))
    beside = f" and {len(good)} good images" if good else ""
    return len(images) + len(good), f"{len(images)} {what}{beside}"


def _network_lines(config: TrainConfig, names: Sequence[str] | None) -> list[str]:
    """Return parameters and bytes of checkpoints; what a code of masks or latents adds is known only in training."""
    if config.generation.makes_masks or config.latents.latent is not None:
        return []
    known = len(names) if names else _num_classes(config.source)
    with torch.device("meta"):  # shapes alone
        model = build_network(config.replaced(num_classes=known or _GUESSED_CLASSES))
    parameters = sum(weight.numel() for weight in model.parameters())
    about = "" if known or config.model.condition == "none" else "about "
    weights = _BYTES * parameters * (1 + len(config.optimizer.ema_rate))
    last = weights + 2 * _BYTES * parameters
    lines = [
        f"network of {about}{parameters / 1e6:.1f} million parameters; best.pt {size_in_words(weights)}, last.pt "
        f"{size_in_words(last)}"
    ]
    folder = Path(config.run.output_dir).absolute()
    above = next(path for path in (folder, *folder.parents) if path.exists())
    if (free := shutil.disk_usage(above).free) < 2 * weights + last:  # one more while a file is replaced
        lines.append(f"warning: only {size_in_words(free)} are free for them, in {above}")
    return lines


def _num_classes(source: SourceOptions) -> int | None:
    """Return the number of classes where it can be told without opening masks."""
    mode = get_mode(source.dataset_mode)
    if source.num_classes or mode.num_classes:
        return source.num_classes or mode.num_classes
    classes, problems = read_classes(source.data_dir) if source.data_dir else (None, [])
    refuse_fatal(problems)
    return None if classes is None else len(classes.names)


# ------------------------------------------------------------------------------------------------- new pairs


def masks_lines(config: SampleConfig, source: SourceOptions) -> list[str]:
    """Return how many samples there will be of which masks. source: the dataset, as the network was trained with it."""
    mode = get_mode(source.dataset_mode)
    if config.mask_dir:
        masks, problems = index_masks(folder_of_masks(config.mask_dir), mode, key="mask_dir")
        what = "masks of mask_dir"
    elif source.data_dir and mode.masks is not None:
        masks, problems = index_pairs(source.data_dir, mode, config.data_split, with_instances=False)
        what = f"masks of data_split {config.data_split}"
    else:
        return made_lines(config, config.num_samples)
    refuse_fatal(problems)
    return [f"{len(masks)} {what}", *made_lines(config, config.num_samples or len(masks))]


def good_lines(config: PlaceConfig | PasteConfig, names: Sequence[str]) -> list[str]:
    """Return how many pairs there will be of which good images, or of the defects that are painted over.

    names: of the classes. Raises UserError for others that are to be placed, and where good images are missing.
    """
    if isinstance(config, PlaceConfig) and config.erase:
        return made_lines(config, config.num_samples)
    for key in ("defect_classes", "classes"):
        class_ids(key, getattr(config.placing, key), names)
    good = list_good_images(config.good_dir)
    return [f"{len(good)} good images", *made_lines(config, config.num_samples or len(good))]


def made_lines(config: SampleConfig | PlaceConfig | PasteConfig, count: int | None) -> list[str]:
    """Return how many of `count` samples are there already; None: as many as there turn out to be."""
    folder = Path(config.results_path) / config.split
    files = [folder / MANIFEST, *folder.glob(PART.format("*"))] if folder.is_dir() else []
    there = sum(len(read_json_lines(path)) for path in files if path.exists())
    asked = "one for each" if count is None else f"{count} asked for"
    at_once = "" if isinstance(config, PasteConfig) else f"; {config.batch_size} at a time"
    return [f"{asked}, {there} in the manifest already{at_once}"]
