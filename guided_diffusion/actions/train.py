"""`train`: from a folder of images and masks to a trained network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from guided_diffusion.config.train import TrainConfig
from guided_diffusion.data import visualize
from guided_diffusion.data.class_statistics import save_eta
from guided_diffusion.data.datasets import SegmentationDataset
from guided_diffusion.data.loader import EpochBatches, TrainLoader, stack_examples
from guided_diffusion.data.scan.report import ScanReport
from guided_diffusion.data.transforms import JointTransform
from guided_diffusion.diffusion.timestep_sampler import build_timestep_sampler
from guided_diffusion.models.architecture import height_width
from guided_diffusion.models.compilation import COMPILING, compile_network, wants_compiling
from guided_diffusion.models.state_dict import load_weights
from guided_diffusion.pipelines.build import autocast_type, model_from_options, process_from_options
from guided_diffusion.pipelines.dataset import default_workers, open_training_data, take_mode_defaults
from guided_diffusion.pipelines.label_diffusion import ETA, STORED, eta_of_training, label_process
from guided_diffusion.pipelines.resume import Start, lineage, refuse_other_classes, settle_best, start_of_training
from guided_diffusion.runtime.checkpoint import BEST, LAST
from guided_diffusion.runtime.distributed import World, join
from guided_diffusion.runtime.errors import UserError
from guided_diffusion.runtime.files import make_folder, remove_leftovers
from guided_diffusion.runtime.logs import RunLog, write_run_record
from guided_diffusion.runtime.memory import keep_freed_memory
from guided_diffusion.runtime.seeding import Stream, derive_seed
from guided_diffusion.training.ema import Ema
from guided_diffusion.training.preview import Previewer
from guided_diffusion.training.trainer import Trainer, TrainingOptions

LOSS_CURVE = "loss_curve.png"
EMA_HEAD_START = 100
"""Steps that averages taken over from another run stand for; see Ema."""


def run(config: TrainConfig) -> int:
    """Train, or continue, the run of `config.output_dir`."""
    take_mode_defaults(config)
    world = join(config.device)
    try:
        train(config.to_json(), start_of_training(config), world, action="train")
    finally:
        world.close()
    return 0


def train(options: dict[str, Any], start: Start, world: World, *, action: str) -> None:
    """Train with resolved `options` from `start` to the end, and leave checkpoints, logs and pictures behind."""
    folder = Path(options["output_dir"])
    if start.own and start.is_over(options):
        if world.is_main:
            _say_finished(options, start.checkpoint.progress)
        return
    if world.device.type == "cpu":
        keep_freed_memory()
    wants_compiling(options["compile"], world.device)  # refused here, where it cannot be done, with nothing written
    world.on_main(lambda: make_folder(folder))
    report = world.on_main(lambda: open_training_data(options, world.size))
    refuse_other_classes(report.encoding, start)
    options = {**options, "num_classes": report.encoding.num_classes}
    if world.is_main:
        for name in (LAST, BEST):
            remove_leftovers(folder / name)
    log = RunLog(folder, enabled=world.is_main, tensorboard=options["tensorboard"])
    try:
        trainer = build_trainer(options, start, world, report, log)
        if world.is_main:
            write_run_record(folder, action, options)
        _announce(trainer, start, report, log)
        if start.checkpoint is not None:
            start.checkpoint.forget_tensors()
        progress = trainer.fit()
        if world.is_main:
            visualize.loss_curve(progress.history, folder / LOSS_CURVE, best_epoch=progress.best_epoch)
            log.say(f"finished after {progress.epoch} epochs, {progress.step} steps")
            for path in (folder / name for name in (BEST, LAST, LOSS_CURVE, "log.txt")):
                if path.exists():
                    log.say(f"  {path.absolute()}")
        world.barrier()
    finally:
        log.close()


def build_trainer(options: dict[str, Any], start: Start, world: World, report: ScanReport, log: RunLog) -> Trainer:
    """Return the trainer of a run, with its network, data and noise process built and `start` taken over."""
    folder, source = Path(options["output_dir"]), start.checkpoint
    eta = eta_of_training(options, report, source)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(Stream.WEIGHTS, options["seed"]))
        model = model_from_options(options)
    if source is not None:
        load_weights(model, source.model, source=str(source.path))
    model.to(world.device)
    if wants_compiling(options["compile"], world.device, label_diffusion=options["cond_diffuse"]):
        log.say(COMPILING)
        compile_network(model)
    origin = lineage(options, start)
    ema = Ema(model, options["ema_rate"], head_start=EMA_HEAD_START if "started_from" in origin else 0)
    process = process_from_options(options)
    labels = label_process(options, process, eta)
    dataset = training_dataset(options, report, world)
    batches = EpochBatches(len(dataset), options["batch_size"], world.size, world.rank, options["seed"])
    trainer = Trainer(
        model=model,
        diffusion=process,
        timestep_sampler=build_timestep_sampler(options["schedule_sampler"], process.num_timesteps),
        loader=TrainLoader(
            dataset,
            batches,
            num_workers=default_workers(options, world),
            device=world.device,
            # With label diffusion the maps that the network sees are others.
            count_at=() if labels else model.lookup_sizes(height_width(options["image_size"])),
        ),
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
        describe={
            "config": {**options, STORED: None if eta is None else eta.tolist()},
            "encoding": report.encoding.to_dict(),
            "lineage": origin,
        },
        autocast=autocast_type(options["precision"]),
        label_diffusion=labels,
        preview=previewer(options, report, model, ema, world, eta) if options["preview_interval"] else None,
    )
    if eta is not None and world.is_main:
        save_eta(folder / ETA, eta)
    if start.continues:
        trainer.resume(source)
        _refuse_different_positions(trainer)
    elif source is not None:
        ema.load_state_dict(source.ema)
    said = settle_best(start, folder, trainer.progress) if world.is_main else None
    if said:
        log.say(said)
    return trainer


def _refuse_different_positions(trainer: Trainer) -> None:
    """Raise UserError where the processes, each reading its own disk, do not continue the same state."""
    progress = trainer.progress
    positions = trainer.world.gather((progress.epoch, progress.batch, progress.step))
    if len(set(positions)) > 1:
        raise UserError(
            f"resume_checkpoint: the processes found different states (epoch, batch, step: {positions}): "
            "put output_dir on a disk that all of them share",
            everywhere=True,
            told=not trainer.world.is_main,
        )


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
        num_workers=max(1, default_workers(options, world)) * world.size,
        with_edges=not options["no_instance"],
    )


def previewer(
    options: Mapping[str, Any],
    report: ScanReport,
    model: Any,
    ema: Ema,
    world: World,
    eta: NDArray[np.float64] | None = None,
) -> Previewer:
    """Return what draws the previews, on pairs spread over the training set."""
    chosen = visualize.spread(report.pairs, options["preview_images"])
    shown = SegmentationDataset(
        chosen,
        report.encoding,
        JointTransform(height_width(options["image_size"]), resize=options["resize"], train=False),
        image_channels=options["image_channels"],
        with_edges=not options["no_instance"],
    )
    image, condition = stack_examples(shown, range(len(chosen)))
    steps = min(options["preview_steps"], options["diffusion_steps"])
    process = process_from_options(options, steps=steps, time_grid="logsnr")
    return Previewer(
        model,
        ema,
        process,
        image=image,
        condition=condition,
        class_names=report.encoding.names,
        folder=Path(options["output_dir"]) / "previews",
        seed=options["seed"],
        device=world.device,
        autocast=autocast_type(options["precision"]),
        label_diffusion=label_process(options, process, eta),
    )


def _say_finished(options: Mapping[str, Any], progress: Mapping[str, Any]) -> None:
    folder = Path(options["output_dir"])
    if not (folder / LOSS_CURVE).exists():
        visualize.loss_curve(progress["history"], folder / LOSS_CURVE, best_epoch=progress["best_epoch"])
    annealed = "its learning rate has fallen to 0 (lr_anneal_steps)"
    way_on = annealed if progress["epoch"] < options["max_epochs"] else "raise max_epochs to train on"
    print(
        f"{folder.absolute()}: this run is finished ({progress['epoch']} epochs, best loss "
        f"{progress['best_loss']:.5f} in epoch {progress['best_epoch']}); {way_on}, or choose another output_dir for a "
        "new run"
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
