"""`train`: from a folder of images and masks to a trained network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from guided_diffusion import pictures
from guided_diffusion.actions.assemble import (
    MODEL_KEYS,
    PROCESS_KEYS,
    autocast_type,
    model_from_options,
    process_from_options,
)
from guided_diffusion.actions.dataset import default_workers, open_training_data
from guided_diffusion.architecture import height_width
from guided_diffusion.checkpoint import BEST, LAST, Checkpoint, find_checkpoint, load_checkpoint
from guided_diffusion.config import TrainConfig, differing_keys
from guided_diffusion.data.datasets import SegmentationDataset
from guided_diffusion.data.loader import EpochBatches, make_loader, stack_examples
from guided_diffusion.data.scan_report import ScanReport
from guided_diffusion.data.transforms import JointTransform
from guided_diffusion.diffusion.timestep_sampler import build_timestep_sampler
from guided_diffusion.distributed import World, join
from guided_diffusion.errors import ConfigError
from guided_diffusion.logs import RunLog, write_run_record
from guided_diffusion.models.state_dict import load_weights
from guided_diffusion.seeding import Stream, derive_seed
from guided_diffusion.training.ema import Ema
from guided_diffusion.training.preview import Previewer
from guided_diffusion.training.trainer import Trainer, TrainingOptions
from guided_diffusion.writing import digest, remove_leftovers

MAY_CHANGE = {
    "max_epochs",
    "device",
    "num_workers",
    "cache_images",
    "data_dir",
    "output_dir",
    "resume_checkpoint",
    "preview_interval",
    "preview_images",
    "preview_steps",
    "tensorboard",
    "use_checkpoint",
    "max_bad_steps",
}
"""Keys that a continued run may set differently: they do not change what is learned, or only for how long."""


@dataclass(frozen=True)
class Start:
    """What a run begins with: nothing, weights to start from, or a state to continue."""

    checkpoint: Checkpoint | None = None
    continues: bool = False


def run(config: TrainConfig) -> int:
    """Train, or continue, the run of `config.output_dir`."""
    world = join(config.device)
    try:
        train(config.to_json(), find_start(config.to_json()), world, action="train")
    finally:
        world.close()
    return 0


def find_start(options: Mapping[str, Any]) -> Start:
    """Return what the run described by resolved training options begins with.

    A run that was interrupted in `output_dir` is continued, whatever it had started from.

    Raises ConfigError where that folder holds a run with other options.
    """
    own = own_state(options)
    if own is not None:
        return Start(own, continues=True)
    asked = options["resume_checkpoint"]
    if asked in ("", "auto"):
        return Start()
    source = load_checkpoint(find_checkpoint(asked, prefer=LAST))
    if source.is_bare:
        return Start(source)
    clashes = differing_keys(options, source.config, [*MODEL_KEYS, *PROCESS_KEYS, "image_channels", "no_instance"])
    if clashes:
        raise ConfigError([f"{clash.partition(' ')[0]} differs from {source.path}: {clash}" for clash in clashes])
    return Start(source, continues=source.resumable)


def own_state(options: Mapping[str, Any]) -> Checkpoint | None:
    """Return the state of an earlier start of the same run in `output_dir`, None where there is none."""
    last = Path(options["output_dir"]) / LAST
    if not last.exists():
        return None
    if options["resume_checkpoint"] == "":
        raise ConfigError(
            f'resume_checkpoint is "", but {last.parent} already holds a run: set it to "auto" to continue, '
            "or choose another output_dir"
        )
    state = load_checkpoint(last)
    clashes = differing_keys(options, state.config, [key for key in options if key not in MAY_CHANGE])
    # null stands for what the masks told, which the checkpoint has resolved.
    clashes = [clash for clash in clashes if not (clash.startswith("num_classes ") and options["num_classes"] is None)]
    if clashes:
        raise ConfigError(
            [f"{clash.partition(' ')[0]} differs from the run in {last.parent}: {clash}; set it back, or choose "
             "another output_dir" for clash in clashes]
        )  # fmt: skip
    return state


def train(options: dict[str, Any], start: Start, world: World, *, action: str) -> None:
    """Train with resolved `options` from `start` to the end, and leave checkpoints, logs and pictures behind."""
    folder = Path(options["output_dir"])
    if start.continues and start.checkpoint.path == folder / LAST and _is_over(options, start.checkpoint):
        if world.is_main:
            _say_finished(folder, start.checkpoint)
        return
    report = world.on_main(lambda: open_training_data(options))
    options = {**options, "num_classes": report.encoding.num_classes}
    if world.is_main:
        for name in (LAST, BEST):
            remove_leftovers(folder / name)
        write_run_record(folder, action, options)
    log = RunLog(folder, enabled=world.is_main, tensorboard=options["tensorboard"])
    try:
        trainer = build_trainer(options, start, world, report, log)
        _announce(trainer, start, report, log)
        progress = trainer.fit()
        if world.is_main:
            pictures.loss_curve(progress.history, folder / "loss_curve.png", best_epoch=progress.best_epoch)
            log.say(f"finished after {progress.epoch} epochs, {progress.step} steps")
            for name in (BEST, LAST, "loss_curve.png", "log.txt"):
                log.say(f"  {(folder / name).absolute()}")
        world.barrier()
    finally:
        log.close()


def build_trainer(options: dict[str, Any], start: Start, world: World, report: ScanReport, log: RunLog) -> Trainer:
    """Return the trainer of a run, with its network, data and noise process built and `start` taken over."""
    folder, source = Path(options["output_dir"]), start.checkpoint
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(Stream.WEIGHTS, options["seed"]))
        model = model_from_options(options)
    if source is not None:
        load_weights(model, source.model, source=str(source.path))
    model.to(world.device)
    ema = Ema(model, options["ema_rate"])
    process = process_from_options(options)
    dataset = training_dataset(options, report, world)
    batches = EpochBatches(len(dataset), options["batch_size"], world.size, world.rank, options["seed"])
    trainer = Trainer(
        model=model,
        diffusion=process,
        timestep_sampler=build_timestep_sampler(options["schedule_sampler"], process.num_timesteps),
        loader=make_loader(dataset, batches, num_workers=default_workers(options, world), device=world.device),
        optimizer=torch.optim.AdamW(
            model.parameters(),
            lr=options["lr"],
            weight_decay=options["weight_decay"],
            fused=world.device.type in ("cpu", "cuda"),
        ),
        ema=ema,
        options=TrainingOptions(**{key: options[key] for key in TrainingOptions.__dataclass_fields__}),
        world=world,
        log=log,
        folder=folder,
        describe={"config": options, "encoding": report.encoding.to_dict(), "lineage": _lineage(options, start)},
        preview=previewer(options, report, model, ema, world) if options["preview_interval"] else None,
    )
    if start.continues:
        trainer.resume(source)
    elif source is not None:
        ema.load_state_dict(source.ema)
    return trainer


def training_dataset(options: Mapping[str, Any], report: ScanReport, world: World) -> SegmentationDataset:
    """Return the training pairs with random augmentation."""
    transform = JointTransform(
        height_width(options["image_size"]),
        resize=options["resize"],
        train=True,
        random_flip=options["random_flip"],
        vertical_flip=options["vertical_flip"],
        rotate90=options["rotate90"],
    )
    return SegmentationDataset(
        report.pairs,
        report.encoding,
        transform,
        image_channels=options["image_channels"],
        seed=options["seed"],
        cache_images=options["cache_images"],
        num_workers=default_workers(options, world),
        with_edges=not options["no_instance"],
    )


def previewer(options: Mapping[str, Any], report: ScanReport, model: Any, ema: Ema, world: World) -> Previewer:
    """Return what draws the previews, on pairs spread over the training set."""
    count = min(options["preview_images"], len(report.pairs))
    chosen = [report.pairs[index * len(report.pairs) // count] for index in range(count)]
    shown = SegmentationDataset(
        chosen,
        report.encoding,
        JointTransform(height_width(options["image_size"]), resize=options["resize"], train=False),
        image_channels=options["image_channels"],
        with_edges=not options["no_instance"],
    )
    image, condition = stack_examples(shown, range(count))
    steps = min(options["preview_steps"], options["diffusion_steps"])
    return Previewer(
        model,
        ema,
        process_from_options(options, steps),
        image=image,
        condition=condition,
        class_names=report.encoding.names,
        folder=Path(options["output_dir"]) / "previews",
        seed=options["seed"],
        device=world.device,
        autocast=autocast_type(options["precision"]),
    )


def _lineage(options: Mapping[str, Any], start: Start) -> dict[str, Any]:
    """Return where the weights come from, and whether they ever saw a dropped mask (None: nobody knows)."""
    dropped = options["drop_rate"] > 0
    if start.checkpoint is None:
        return {"saw_dropped_masks": dropped}
    if start.continues:
        known = start.checkpoint.lineage
        return {**known, "saw_dropped_masks": dropped or known.get("saw_dropped_masks")}
    before = start.checkpoint.lineage.get("saw_dropped_masks")
    source = {"path": str(start.checkpoint.path), "digest": digest(start.checkpoint.path)}
    return {"started_from": source, "saw_dropped_masks": dropped or before}


def _is_over(options: Mapping[str, Any], checkpoint: Checkpoint) -> bool:
    progress = checkpoint.progress
    annealed = 0 < options["lr_anneal_steps"] <= progress["step"]
    return progress["epoch"] >= options["max_epochs"] or annealed


def _say_finished(folder: Path, checkpoint: Checkpoint) -> None:
    progress = checkpoint.progress
    print(
        f"{folder.absolute()}: this run is finished ({progress['epoch']} epochs, best loss "
        f"{progress['best_loss']:.5f} in epoch {progress['best_epoch']}); raise max_epochs to train on, "
        "or choose another output_dir for a new run"
    )


def _announce(trainer: Trainer, start: Start, report: ScanReport, log: RunLog) -> None:
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    log.say(
        f"{len(report.pairs)} pairs, {report.encoding.num_classes} classes, {parameters / 1e6:.2f} M parameters, "
        f"{trainer.world.size} process{'es' if trainer.world.size > 1 else ''} on {trainer.world.device}; "
        f"run folder {trainer.folder.absolute()}"
    )
    if start.continues:
        log.say(
            f"going on after {trainer.progress.epoch} epochs, {trainer.progress.step} steps: {start.checkpoint.path}"
        )
    elif start.checkpoint is not None:
        log.say(f"starting from the weights of {start.checkpoint.path}")
    log.say(json.dumps({"seed": trainer.options.seed, "batches an epoch": trainer.loader.epoch_batches.num_batches}))
