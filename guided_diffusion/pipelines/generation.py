"""Models that make masks, alone or in pairs with images: their code and rules, of a training or of a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from guided_diffusion.config.check import CheckConfig
from guided_diffusion.config.network import NetworkConfig
from guided_diffusion.config.train import MOST_PASSES, TrainConfig
from guided_diffusion.data.datasets import read_condition, read_mask
from guided_diffusion.data.mask_rules import MaskCounts, MaskRules, count_masks, image_weights
from guided_diffusion.data.mirror import flip_pairs
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.pairing import GoodImage, MaskEntry
from guided_diffusion.data.scan.report import ScanReport
from guided_diffusion.data.scan.threads import in_threads
from guided_diffusion.diffusion.latent import Code
from guided_diffusion.diffusion.options import SamplerOptions
from guided_diffusion.diffusion.pair_code import Decoded, PairCode, adjacency_codes, one_hot_codes
from guided_diffusion.models.architecture import height_width
from guided_diffusion.models.unet import UNetModel
from guided_diffusion.pipelines.dataset import plain_transform
from guided_diffusion.pipelines.sampling import SamplingPipeline, SamplingRun
from guided_diffusion.runtime.checkpoint import Checkpoint
from guided_diffusion.runtime.errors import CheckpointError, ConfigError, DataError
from guided_diffusion.runtime.options import Problem
from guided_diffusion.training.target import MaskTarget, class_condition

LEAST_PAIRS, FEW_PAIRS = 50, 100
"""Pairs below which such a training is refused, and below which it is warned of."""
WIDE = 2
"""How many times as many channels as x0 the first level should have."""


@dataclass(frozen=True)
class Generation:
    """What a model that makes masks needs beside its weights."""

    code: PairCode
    rules: MaskRules

    def to_state(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return {"code": self.code.to_state(), "rules": self.rules.to_state()}


@dataclass(frozen=True, eq=False)
class TrainedMasks:
    """The masks of a training at the size of the model: label maps uint8 or int16 [N, H, W], pairs before good images,
    and what is counted in them.
    """

    labels: NDArray[np.integer]
    counts: MaskCounts

    def weights(self, balance: float) -> tuple[float, ...]:
        """Return how often each of the N images is drawn, on average once."""
        return tuple(image_weights(self.counts, balance).tolist())

    def target(self, config: TrainConfig, code: Code, model: UNetModel, device: torch.device) -> MaskTarget:
        """Return what the network of `config` learns of a batch."""
        return MaskTarget(
            code,
            frequency=torch.from_numpy(self.counts.frequency),
            background=self.counts.background,
            balance=config.masks.class_balance,
            mask_weight=config.masks.mask_weight,
            size=config.network_size,
            prepare=model.preparation(config.network_size),
            device=device,
        )


def generation_of_checkpoint(checkpoint: Checkpoint) -> Generation | None:
    """Return code and rules of a model that makes masks, None for a model of images.

    Raises CheckpointError where they are not those of a training.
    """
    if not checkpoint.generation:
        return None
    try:
        state = checkpoint.generation
        return Generation(PairCode.from_state(state["code"]), MaskRules.from_state(state["rules"]))
    except (AssertionError, KeyError, TypeError, ValueError):
        found = "its code of masks is not that of a training"
        raise CheckpointError.of(checkpoint.path, found, "it was tampered with: copy it again") from None


def read_training_labels(config: TrainConfig | CheckConfig, report: ScanReport) -> NDArray[np.integer]:
    """Read every mask of a training as the model sees it, without augmentation: [N, H, W], pairs before good images."""
    transform, encoding = plain_transform(config.geometry, get_mode(config.source.dataset_mode)), report.encoding
    assert encoding is not None

    def read(entry: Any) -> NDArray[np.integer]:
        if entry.mask is None:  # a good image, or an image alone
            kind = np.uint8 if encoding.num_classes < 256 else np.int16
            return np.full(transform.image_size, transform.background, kind)
        if isinstance(entry, GoodImage):
            entry = MaskEntry(entry.stem, entry.mask, upright=entry.upright)
        return read_condition(entry, encoding, transform).label.numpy()

    labels = in_threads(read, [*report.pairs, *report.good_images], "reading masks", progress=len(report.pairs) > 500)
    return np.stack(labels)


def read_training_masks(config: TrainConfig, report: ScanReport) -> TrainedMasks:
    """Read every mask of a training as the model sees it, and count what is in them."""
    labels = read_training_labels(config, report)
    background = get_mode(config.source.dataset_mode).background
    assert report.encoding is not None
    return TrainedMasks(labels, count_masks(labels, report.encoding.num_classes, background))


def generation_of_training(
    config: TrainConfig, report: ScanReport, masks: TrainedMasks, source: Checkpoint | None
) -> Generation:
    """Return code and rules of a training; the code is that of `source`, the checkpoint it begins with, if any."""
    assert report.encoding is not None
    num_classes = report.encoding.num_classes
    before = None if source is None else generation_of_checkpoint(source)
    flips = config.augment.random_flip or config.augment.vertical_flip
    rules = masks.counts.rules(flip_pairs(report.encoding.names, config.source.flip_pairs) if flips else ())
    with_null = masks.counts.has_null or config.geometry.resize == "pad" or _crops_show_ignored(config, report)
    if before is not None:
        if with_null and not before.code.has_null:
            found = "masks have ignored pixels, for which the mask code of the checkpoint has no value"
            raise DataError.of(config.source.data_dir, found, "train anew on these masks")
        return Generation(before.code, rules)
    if num_classes < 2 and not with_null:
        raise DataError.of(config.source.data_dir, "one class alone", "generates mask or pair needs at least two")
    count = num_classes + with_null
    touching = torch.from_numpy(masks.counts.touching[:count, :count])
    bits = config.generation.mask_code == "bits"
    codes = adjacency_codes(touching, masks.counts.background) if bits else one_hot_codes(count)
    pair, latent = config.generation.generates == "pair", config.latents.latent
    code = PairCode(
        codes,
        num_classes,
        image_channels=config.geometry.image_channels if pair else 0,
        # An autoencoder sees every pixel, and its latents are standardized.
        scale=config.generation.mask_scale if latent is None else 1.0,
        folding=config.generation.folding(min(height_width(config.geometry.image_size))) if latent is None else 1,
    )
    return Generation(code, rules)


def _crops_show_ignored(config: TrainConfig, report: ScanReport) -> bool:
    """Return whether a random crop of training may show ignored pixels, of which the one in the middle shows none."""
    if config.geometry.resize != "crop":
        return False
    encoding = report.encoding
    assert encoding is not None
    null = encoding.num_classes

    def has_ignored(mask: tuple[str, bool]) -> bool:
        path, upright = mask
        return bool((read_mask(path, encoding, upright=upright) == null).any())

    if report.ignored_share:
        return True
    masks = [(good.mask, good.upright) for good in report.good_images if good.mask is not None]
    return any(in_threads(has_ignored, masks, "reading masks", progress=len(masks) > 500))


# --- before training ---------------------------------------------------------------------------------------------


def refuse_few_pairs(config: TrainConfig, report: ScanReport) -> None:
    """Raise DataError for too few pairs to learn masks from; warn of few ones, and of so many passes that models copy.

    Raises ConfigError for options that do not go with `generates`, which a finetuning may have.
    """
    problems: list[Problem] = [*config.generation_problems(), *config.latent_problems()]
    if problems:
        raise ConfigError.of_keys(*problems)
    if not config.generation.makes_masks:
        return
    pairs, makes = len(report.pairs), config.generation.generates
    way_out = "python main.py masks makes new masks of these by editing, without training, and sample takes its images"
    if pairs < LEAST_PAIRS:
        found = f"has {pairs} pairs, and with generates {makes} a model of fewer than {LEAST_PAIRS} copies them"
        raise DataError.of(config.source.data_dir, found, way_out)
    if pairs < FEW_PAIRS:
        print(
            f"warning: {config.source.data_dir}: {pairs} pairs are few for generates {makes}: watch in the log how new "
            f"the masks are; {way_out}"
        )
    options = config.optimizer
    passes = float(options.max_epochs)
    if options.lr_anneal_steps:
        images = pairs + len(report.good_images)
        passes = min(passes, options.lr_anneal_steps * options.batch_size / images)
    if passes > MOST_PASSES:
        print(
            f"warning: max_epochs: each image is seen {passes:.0f} times; beyond {MOST_PASSES} times, models of few "
            "images copy them while the loss still falls: watch in the log how new the masks are"
        )


def announced_code(config: NetworkConfig, generation: Generation, names: Sequence[str]) -> list[str]:
    """Return lines for the log: the channels of the network, its codes, and a warning where it is narrow."""
    code, latent = generation.code, config.latents.latent
    channels = (
        f"{code.image_channels} of the image and {code.label_channels} of the mask, {config.generation.mask_code}"
    )
    size = " x ".join(map(str, config.network_size))
    lines = [f"generates {config.generation.generates}: {code.channels} channels of {size} ({channels}, times "]
    lines[0] += f"{code.folding**2})"
    if latent is not None:
        lines = [
            f"generates {config.generation.generates}: latents of {size}, made of {code.channels} channels ({channels})"
        ]
    if config.generation.mask_code == "bits":
        shown = [*names, "no class"][: len(code.codes)]
        bits = ["".join("1" if bit > 0 else "0" for bit in row) for row in code.codes.tolist()]
        lines.append("codes: " + ", ".join(f"{name} {text}" for name, text in zip(shown, bits, strict=True)))
    if latent is None and config.model.num_channels < WIDE * code.channels:
        lines.append(
            f"warning: num_channels is {config.model.num_channels}, less than {WIDE} times the {code.channels} "
            "channels of the image and its mask: use more, or a smaller space_to_depth"
        )
    return lines


# --- sampling ----------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class GenerationPipeline:
    """A trained model that makes masks, or pairs of image and mask; called many times, with different settings."""

    sampling: SamplingPipeline
    rules: MaskRules

    @property
    def code(self) -> Code:
        """How images and masks are written in what the network makes."""
        assert self.sampling.code is not None
        return self.sampling.code

    def __call__(
        self, classes: Sequence[str | int | None], seeds: Sequence[int], *, clean: bool = True, **settings: Any
    ) -> Decoded:
        """Return images [N, C, H, W] in [-1, 1] (None for masks alone), label maps [N, H, W] and margins, on the CPU.

        classes: what each mask should contain, by name or number; None: anything. clean: without specks. settings: as
        `SamplingPipeline` takes them (s, steps, batch_size, progress, …). Raises UserError for misfits.
        """
        condition = class_condition(
            torch.tensor([self.class_of(each) for each in classes], dtype=torch.int64),
            self.sampling.num_classes,
            self.sampling.image_shape[1:],
        )
        made = self.code.decode(self.sampling(condition, seeds, **settings))
        if not clean or not len(seeds):
            return made
        return made._replace(
            label=torch.stack([torch.from_numpy(self.rules.cleaned(m)[0]) for m in made.label.numpy()])
        )

    def class_of(self, name: str | int | None) -> int:
        """Return the number of a class, `num_classes` for None; ConfigError for one that the model was never told."""
        names = self.sampling.class_names
        if name is None:
            return len(names)
        stated = [index for index, share in enumerate(self.rules.class_mix) if share > 0]
        index = names.index(name) if name in names else name
        if isinstance(index, bool) or index not in stated:
            known = ", ".join(names[index] for index in stated)
            line = f"class_names has {name!r}, of which the model makes no masks: use some of {known}"
            raise ConfigError.of_keys(("class_names", line))
        return int(index)

    def draw(self, run: SamplingRun, classes: Sequence[int], seeds: Sequence[int], **settings: Any) -> Decoded:
        """Return one batch of `run`, not cleaned; classes by number."""
        size = self.sampling.image_shape[1:]
        condition = class_condition(torch.tensor(classes, dtype=torch.int64), self.sampling.num_classes, size)
        return self.code.decode(run(condition, seeds, **settings))


def preview_draw(
    pipeline: GenerationPipeline, steps: int, batch_size: int
) -> Callable[[Sequence[int], Sequence[int]], Decoded]:
    """Return what draws the samples of previews, in batches, with the weights as they are; noise from the CPU."""

    def draw(classes: Sequence[int], seeds: Sequence[int]) -> Decoded:
        # A new run each time, as the weights have changed.
        run = pipeline.sampling.begin(SamplerOptions(steps=steps, time_grid="logsnr"), noise_device="cpu")
        parts = [slice(start, start + batch_size) for start in range(0, len(seeds), batch_size)]
        made = [pipeline.draw(run, classes[part], seeds[part]) for part in parts]
        images = [part.image for part in made if part.image is not None]
        image = torch.cat(images) if images else None
        return Decoded(image, torch.cat([part.label for part in made]), torch.cat([part.margin for part in made]))

    return draw
