"""The first phase of a run with `latent`: its autoencoder, trained or pretrained, gated, its latents standardized."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluations.groups import numbered
from guided_diffusion.config.train import TrainConfig
from guided_diffusion.data.datasets import SegmentationDataset
from guided_diffusion.data.groups import groups_of
from guided_diffusion.data.loader import DistributedBatchPlan, TrainLoader, collate_examples
from guided_diffusion.data.mask_rules import count_masks, image_weights
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.scan.report import ScanReport
from guided_diffusion.diffusion.latent import LatentCode
from guided_diffusion.diffusion.pair_code import PairCode
from guided_diffusion.models.architecture import height_width
from guided_diffusion.models.autoencoder import Autoencoder, AutoencoderShape
from guided_diffusion.models.first_stage import FirstStage
from guided_diffusion.pipelines.build import AMP_DTYPES
from guided_diffusion.pipelines.dataset import plain_transform
from guided_diffusion.pipelines.generation import Generation, TrainedMasks, read_training_masks
from guided_diffusion.pipelines.latent import first_stage_of_checkpoint, read_autoencoder_kl, refuse_thin_classes
from guided_diffusion.pipelines.resume import ResumePlan
from guided_diffusion.pipelines.training_data import default_workers, training_dataset
from guided_diffusion.runtime.checkpoint import LAST, save_checkpoint
from guided_diffusion.runtime.distributed import ProcessGroup
from guided_diffusion.runtime.errors import ConfigError, DataError
from guided_diffusion.runtime.logs import RunLog
from guided_diffusion.runtime.seeding import Stream, derive_seed
from guided_diffusion.training.first_stage import FirstStageTrainer, class_weights
from guided_diffusion.training.gate import Gate, GateCounts
from guided_diffusion.training.progress import Progress

HELD_OUT = 10
"""One of so many images is held out from the autoencoder's training, for the gate."""
_CROP = 128
_AT_A_TIME = 8


@dataclass(frozen=True, eq=False)
class FirstPhase:
    """What the first phase of a run works with. describe: entries of every checkpoint of the run."""

    config: TrainConfig
    report: ScanReport
    masks: TrainedMasks
    generation: Generation | None
    world: ProcessGroup
    log: RunLog
    describe: Mapping[str, Any]

    @property
    def _path(self) -> Path:
        return Path(self.config.run.output_dir) / LAST

    @property
    def pixels(self) -> PairCode | None:
        """The code of the masks that the autoencoder sees, None for images alone."""
        return None if self.generation is None else self.generation.code

    def encode(self, image: Tensor, label: Tensor) -> Tensor:
        """Return what the autoencoder sees of images [N, C, H, W] and label maps [N, H, W]."""
        return image if self.pixels is None else self.pixels.encode(image, label)

    def run(self, state: Mapping[str, Any]) -> tuple[FirstStage, dict[str, Any]]:
        """Return the trained first stage, and its entry in checkpoints. state: of an interrupted first phase, or {}.

        Raises DataError where the gate is not passed, naming the class and what to do.
        """
        config, world = self.config, self.world
        names, background = self.report.encoding.names, self.masks.counts.background
        world.run_on_main(
            lambda: refuse_thin_classes(
                config.source.data_dir,
                self.masks.labels[: len(self.report.pairs)],
                names,
                config.latents.latent,
                background,
                config.first_stage.allow_thin,
            )
        )
        held_out = world.run_on_main(self._held_out)
        if config.first_stage.autoencoder:
            stage = world.run_on_main(self._pretrained).to(world.device)
        else:
            stage = FirstStage(self._trained(state, held_out)).to(world.device)
        measured = world.run_on_main(lambda: self._gate(stage, held_out))
        mean, std = world.run_on_main(lambda: self._statistics(stage))
        stage.standardize(mean.to(world.device), std.to(world.device))
        shown = ", ".join(f"{value:.2f}" for value in stage.std.tolist())
        self.log.info(f"latents of {stage.latent_channels} channels, standard deviations {shown}")
        return stage, {**stage.to_state(), "gate": measured.to_state()}

    @cached_property
    def _groups(self) -> NDArray[np.int64]:
        """Which object each image shows, pairs before good images: images of one object are no test of each other."""
        stems = [entry.stem for entry in (*self.report.pairs, *self.report.good_images)]
        return numbered(groups_of(self.config.source.group_pattern, stems), len(stems))

    def _held_out(self) -> list[int]:
        pairs = len(self.report.pairs)
        counts = self.masks.counts
        return held_out_pairs(counts.present[:pairs], self.config.run.seed, counts.background, self._groups[:pairs])

    def _pretrained(self) -> FirstStage:
        config = self.config
        path = config.first_stage.autoencoder
        stage = read_autoencoder_kl(
            path, config.geometry.image_channels, config.latents.latent, config.latents.latent_channels
        )
        self.log.info(f"autoencoder of {Path(path).absolute()}")
        return stage

    def _trained(self, state: Mapping[str, Any], held_out: Sequence[int]) -> Autoencoder:
        """Return the trained autoencoder, on the device."""
        config, world = self.config, self.world
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(Stream.LATENT, config.run.seed))
            autoencoder = Autoencoder(self._shape()).to(world.device)
        pairs, good = self.report.pairs, self.report.good_images
        rows = np.flatnonzero(~np.isin(self._groups, self._groups[held_out])).tolist()
        kept = [index for index in rows if index < len(pairs)]
        if not kept:
            raise DataError.of(config.source.data_dir, "one pair alone", "give more, or latent null")
        counts = count_masks(self.masks.labels[rows], len(self.report.encoding.names), self.masks.counts.background)
        report = replace(
            self.report,
            pairs=[pairs[index] for index in kept],
            good_images=[good[index - len(pairs)] for index in rows[len(kept) :]],
        )
        dataset = training_dataset(config, report, world)
        options = config.first_stage
        weights = tuple(image_weights(counts, config.masks.class_balance).tolist())
        plan = DistributedBatchPlan(
            len(dataset), options.autoencoder_batch_size, world.size, world.rank, config.run.seed, weights
        )
        # fp16 would need its gradients scaled.
        dtype = torch.bfloat16 if config.precision.precision == "bf16" else AMP_DTYPES["fp32"]
        trainer = FirstStageTrainer(
            autoencoder=autoencoder,
            loader=TrainLoader(dataset, plan, num_workers=default_workers(config.loader, world), device=world.device),
            encode=self.encode,
            class_weight=class_weights(self._pixel_shares(rows)),
            background=self.masks.counts.background,
            crop=self._crop(),
            options=options,
            seed=config.run.seed,
            world=world,
            log=self.log,
            amp_dtype=dtype,
            path=self._path,
            save=lambda now: self._save({**now, "held_out": list(held_out)}),
        )
        if state:
            if state.get("held_out", held_out) != held_out:
                found = f"is {config.source.group_pattern!r}, by which images that it has learned measure the gate"
                remedy = "set it back, or choose another output_dir"
                raise ConfigError.of_keys(("group_pattern", f"group_pattern {found}: {remedy}"))
            trainer.resume(state)
        size = sum(parameter.numel() for parameter in autoencoder.parameters()) / 1e6
        self.log.info(
            f"latent {config.latents.latent}: autoencoder of {size:.2f} M parameters, {len(rows)} images to train on, "
            f"{len(held_out)} to measure it, from step {trainer.step} of {options.autoencoder_steps}"
        )
        trainer.fit()
        return autoencoder

    def _shape(self) -> AutoencoderShape:
        config, pixels = self.config, self.pixels
        return AutoencoderShape(
            image_channels=config.geometry.image_channels if pixels is None else pixels.image_channels,
            label_channels=0 if pixels is None else pixels.label_channels,
            classes=0 if pixels is None else len(pixels.codes),
            factor=config.latents.latent,
            latent_channels=config.latents.channels,
            width=config.latents.width,
        )

    def _crop(self) -> int:
        short, factor = min(height_width(self.config.geometry.image_size)), self.config.latents.latent
        return self.config.first_stage.autoencoder_crop or min(_CROP, short // factor * factor)

    def _pixel_shares(self, rows: Sequence[int]) -> Tensor:
        """Return the classes' shares of the pixels of the training masks, [classes of the scores]."""
        if self.pixels is None:
            return torch.ones(1)
        counts = np.bincount(self.masks.labels[rows].ravel(), minlength=len(self.pixels.codes))
        return torch.from_numpy(counts[: len(self.pixels.codes)] / counts.sum())

    def _save(self, state: Mapping[str, Any]) -> None:
        """Write the state of the first phase as the run's checkpoint; nothing of the second has begun."""
        progress = Progress().state_dict()
        content = {"model": {}, "ema": {}, "progress": progress, "optimizer": {}, "first_stage": dict(state)}
        save_checkpoint(self._path, {**self.describe, **content})

    # --- measured ------------------------------------------------------------------------------------------------

    def _gate(self, stage: FirstStage, held_out: Sequence[int]) -> Gate:
        """Return what comes through; DataError where that is too little."""
        names, config = self.report.encoding.names, self.config
        counts = GateCounts(names, self.masks.counts.background)
        pixels, device = self.pixels, self.world.device
        for image, label in self._shown([self.report.pairs[index] for index in held_out]):
            image, label = image.to(device), label.to(device).long()
            made = stage.decode(stage.encode(self.encode(image, label)))
            decoded = None if made.scores is None else made.scores.argmax(1)
            shown = image if pixels is None or pixels.image_channels else None
            counts.add(label, shown, decoded, made.image)
        gate = counts.gate()
        self.log.info(gate.line())
        if unknown := [name for name in self._shown_classes() if name not in gate.kept]:
            self.log.info(f"warning: gate: no pair that is held out measures {', '.join(unknown)}, so it may be lost")
        least = config.first_stage.gate
        if failed := gate.failed(least):
            listed = "; ".join(gate.of_class(name) for name in failed)
            means = f"mIoU {gate.mean_iou:.3f}, " if gate.iou else ""
            train = "latent 4" if config.latents.latent == 8 else "a larger image_size"
            longer = "" if config.first_stage.autoencoder else "more autoencoder_steps, "
            raise DataError.of(
                config.run.output_dir,
                f"the autoencoder does not keep every class at gate {least:g}: {means}{listed}",
                f"use {longer}{train} or latent null, or lower gate, and start the same command again",
            )
        return gate

    def _shown_classes(self) -> list[str]:
        """Return the names of the classes that pairs show, but for the background."""
        counts = self.masks.counts
        shown = np.flatnonzero(counts.present[: len(self.report.pairs)].any(0)).tolist()
        return [self.report.encoding.names[index] for index in shown if index != counts.background]

    def _statistics(self, stage: FirstStage) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of each latent channel over the training images, float32 on the CPU."""
        total = squares = torch.zeros(stage.latent_channels, dtype=torch.float64)
        count = 0
        device = self.world.device
        for image, label in self._shown(self.report.pairs, self.report.good_images):
            z = stage.encode(self.encode(image.to(device), label.to(device).long())).cpu().double()
            total, squares = total + z.sum((0, 2, 3)), squares + z.square().sum((0, 2, 3))
            count += z.numel() // z.shape[1]
        mean = total / count
        return mean.float(), (squares / count - mean.square()).clamp(min=0).sqrt().float()

    def _shown(self, pairs: Sequence[Any], good: Sequence[Any] = ()) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images and label maps of pairs and good images as the model sees them, a few at a time."""
        geometry = self.config.geometry
        shown = SegmentationDataset(
            pairs,
            self.report.encoding,
            plain_transform(geometry, get_mode(self.config.source.dataset_mode)),
            image_channels=geometry.image_channels,
            image_range=geometry.image_range,
            cache_images=False,
            with_edges=False,
            good_images=good,
        )
        for start in range(0, len(shown), _AT_A_TIME):
            image, condition = collate_examples(shown, range(start, min(start + _AT_A_TIME, len(shown))))
            yield image, condition.label


def held_out_pairs(
    present: NDArray[np.bool_], seed: int, background: int, groups: NDArray[np.integer] | None = None
) -> list[int]:
    """Return about one of `HELD_OUT` pairs, sorted, with at least one of each class that several pairs have.

    present: [N, K], the classes of each pair. groups: [N], which object it shows (None: its own); these are held out as
    a whole. A class that one pair or object has is measured in none: it stays in training.
    """
    of_pair = np.arange(len(present)) if groups is None else groups
    sizes = np.bincount(of_pair)
    shown = np.zeros((len(sizes), present.shape[1]), bool)
    np.logical_or.at(shown, of_pair, present)
    order = np.random.default_rng(derive_seed(Stream.LATENT, seed, 1)).permutation(len(shown)).tolist()
    chosen = _first_that_fit(order, sizes, max(1, len(present) // HELD_OUT)) if len(shown) > 1 else []
    for class_id in np.argsort(shown.sum(0), kind="stable").tolist():
        rows = [index for index in order if shown[index, class_id]]
        if class_id != background and len(rows) > 1 and not set(rows) & set(chosen):
            chosen.append(rows[0])
        if len(rows) > 1 and set(rows) <= set(chosen):  # all of them are held out: training needs one
            chosen.remove(rows[-1])
    # The only pair of a class is for training.
    alone = {int(np.flatnonzero(shown[:, k])[0]) for k in range(shown.shape[1]) if shown[:, k].sum() == 1}
    return np.flatnonzero(np.isin(of_pair, [*set(chosen) - alone])).tolist()


def _first_that_fit(order: Sequence[int], sizes: NDArray[np.integer], most: int) -> list[int]:
    """Return the first groups of `order` with at most `most` images in all; the smallest one where none has as few."""
    chosen: list[int] = []
    for group in order:
        if sizes[group] <= most:
            chosen.append(group)
            most -= int(sizes[group])
    return chosen or [min(order, key=lambda group: sizes[group])]


def latent_code(
    config: TrainConfig,
    start: ResumePlan,
    report: ScanReport,
    masks: TrainedMasks | None,
    generation: Generation | None,
    world: ProcessGroup,
    log: RunLog,
    describe: Mapping[str, Any],
) -> tuple[LatentCode, dict[str, Any]]:
    """Return the code of a run with `latent` and its entry in checkpoints: those of the checkpoint that it begins with,
    or else of its first phase, which is run here, or goes on.

    describe: the entries of every checkpoint of the run.
    """
    pixels, source = None if generation is None else generation.code, start.checkpoint
    if source is not None and not (start.own and start.in_first_phase):
        source.weights("raw")  # there are none where its autoencoder is still in training
        return LatentCode(first_stage_of_checkpoint(source, config.latents.latent), pixels), source.latent
    masks = read_training_masks(config, report) if masks is None else masks
    phase = FirstPhase(config, report, masks, generation, world, log, describe)
    stage, entry = phase.run({} if source is None else source.first_stage)
    return LatentCode(stage, pixels), entry
