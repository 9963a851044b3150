"""One training from start to end: builds its objects from typed options, writes checkpoints, logs and pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.config.train import TrainConfig
from guided_diffusion.data.class_statistics import save_eta
from guided_diffusion.data.loader import (
    DistributedBatchPlan,
    TrainLoader,
    collate_examples,
    collate_holes,
    collate_inside,
)
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.scan.report import ScanReport
from guided_diffusion.data.visualize import evenly_spaced
from guided_diffusion.diffusion.gaussian import build_diffusion
from guided_diffusion.diffusion.latent import Code, LatentCode
from guided_diffusion.diffusion.options import SamplerOptions
from guided_diffusion.diffusion.timestep_sampler import TIMESTEP_SAMPLERS
from guided_diffusion.models.compilation import COMPILING, compile_network, wants_compiling
from guided_diffusion.models.state_dict import converts, load_weights, with_new_inputs
from guided_diffusion.models.unet import UNetModel
from guided_diffusion.pipelines.build import AMP_DTYPES, build_network, refuse_broken_weights
from guided_diffusion.pipelines.changed_data import fingerprint_of, refuse_other_data
from guided_diffusion.pipelines.dataset import hole_maker, shown_dataset
from guided_diffusion.pipelines.first_stage import latent_code
from guided_diffusion.pipelines.generation import (
    Generation,
    announced_code,
    generation_of_training,
    read_training_masks,
    refuse_few_pairs,
)
from guided_diffusion.pipelines.label_diffusion import ETA, changed_eta, eta_of_training, label_process
from guided_diffusion.pipelines.latent import latent_reduction
from guided_diffusion.pipelines.layout_preview import build_layout_previewer
from guided_diffusion.pipelines.resume import ResumePlan, drop_reproduced, lineage, reconcile_best, refuse_other_classes
from guided_diffusion.pipelines.sampling import NotFinite, SamplingPipeline
from guided_diffusion.pipelines.training_data import (
    default_workers,
    open_training_data,
    refuse_gray_holes,
    training_dataset,
)
from guided_diffusion.pipelines.training_source import training_source
from guided_diffusion.runtime.checkpoint import BEST, LAST
from guided_diffusion.runtime.distributed import ProcessGroup
from guided_diffusion.runtime.errors import ConfigError, UserError
from guided_diffusion.runtime.files import make_folder, remove_leftovers
from guided_diffusion.runtime.logs import RunLog, write_run_record
from guided_diffusion.runtime.seeding import Stream, derive_seed
from guided_diffusion.runtime.trackers import PACKAGES, is_installed
from guided_diffusion.runtime.units import counted
from guided_diffusion.training.ema import EMA
from guided_diffusion.training.loss_curve import loss_curve
from guided_diffusion.training.mask_supervision import MaskSupervision
from guided_diffusion.training.preview import Previewer
from guided_diffusion.training.progress import Progress
from guided_diffusion.training.target import ImageTarget
from guided_diffusion.training.trainer import Trainer

LOSS_CURVE = "loss_curve.png"
PREVIEWS = "previews"
EMA_INITIAL_STEP = 100
"""Steps that count as done for averages taken over from another run; see EMA."""


def train(config: TrainConfig, start: ResumePlan, world: ProcessGroup, *, action: str) -> None:
    """Train from `start` to the end; checkpoints, logs and pictures go to `output_dir`."""
    folder = Path(config.run.output_dir)
    if start.own and start.is_over(config.optimizer):
        if world.is_main:
            _print_finished(config, start)
        return
    wants_compiling(config.precision.compile, world.device)  # refused here, with nothing written
    _refuse_missing_trackers(config.run.trackers)
    world.run_on_main(lambda: make_folder(folder))
    report = world.run_on_main(lambda: open_training_data(config, world.size))
    refuse_other_classes(report.encoding.names, start)
    world.run_on_main(lambda: refuse_few_pairs(config, report))
    if start.checkpoint is None:
        world.run_on_main(lambda: refuse_gray_holes(config, report))
    if world.run_on_main(lambda: refuse_other_data(config, report, start)):
        start = replace(start, other_losses=True)
    config = config.replaced(num_classes=report.encoding.num_classes)
    if world.is_main:
        for place in (folder, folder / PREVIEWS):
            remove_leftovers(place)
    log = RunLog(folder, enabled=world.is_main, trackers=config.run.trackers, settings=config.to_json())
    try:
        trainer = build_trainer(config, start, world, report, log)
        if world.is_main:
            write_run_record(folder, action, config.to_json())
        start = ResumePlan() if start.in_first_phase else start
        _announce(trainer, start, report, log)
        if start.checkpoint is not None:
            start.checkpoint.forget_tensors()
        progress = trainer.fit()
        if world.is_main:
            drop_reproduced(folder)
            loss_curve(progress.history, folder / LOSS_CURVE, best_epoch=progress.best_epoch)
            log.info(f"finished after {counted(progress.step, 'step')}, in epoch {progress.epoch}")
            for path in (folder / name for name in (BEST, LAST, LOSS_CURVE, "log.txt")):
                if path.exists():
                    log.info(f"  {path.absolute()}")
        world.barrier()
    finally:
        log.close()


def _refuse_missing_trackers(names: Sequence[str]) -> None:
    # TensorBoard is on by default: whoever has not installed it has not asked for it.
    for name in names:
        if name != "tensorboard" and not is_installed(name):
            line = f"trackers has {name}, which is not installed: pip install {PACKAGES[name]}, or leave it out"
            raise ConfigError.of_keys(("trackers", line))


def build_trainer(
    config: TrainConfig, start: ResumePlan, world: ProcessGroup, report: ScanReport, log: RunLog
) -> Trainer:
    """Return the trainer of a run, with its network, data and noise process, in the state of `start`."""
    folder, source = Path(config.run.output_dir), start.checkpoint
    eta = eta_of_training(config, report, source)
    if line := changed_eta(config, report, eta):
        log.info(f"warning: {line}")
    masks = generation = None
    if config.generation.makes_masks:
        masks = read_training_masks(config, report)
        generation = generation_of_training(config, report, masks, source)
    describe = describe_run(config, report, lineage(config.optimizer, start, folder), eta, generation)
    code = None if generation is None else generation.code
    if config.latents.latent is not None:
        code, describe["latent"] = latent_code(config, start, report, masks, generation, world, log, describe)
        start = ResumePlan() if start.in_first_phase else start
        source = start.checkpoint
    model = initial_network(config, start, world.device, code)
    if wants_compiling(config.precision.compile, world.device, label_diffusion=config.label_diffusion.cond_diffuse):
        log.info(COMPILING)
        compile_network(model, failed=None if config.precision.compile is True else log.info)
    converted = not start.continues and start.checkpoint is not None and converts(start.checkpoint.model, model)
    origin = describe["lineage"] = lineage(config.optimizer, start, folder, converted=converted)
    ema = EMA(model, config.optimizer.ema_rate, initial_step=EMA_INITIAL_STEP if "started_from" in origin else 0)
    process = build_diffusion(config.diffusion)
    labels = label_process(config, process, config.source.num_classes, eta)
    dataset = training_dataset(config, report, world)
    if dataset.cache_note:
        log.info(dataset.cache_note)
    weights = None if masks is None else masks.weights(config.masks.class_balance)
    loader = TrainLoader(
        dataset,
        DistributedBatchPlan(
            len(dataset), config.optimizer.batch_size, world.size, world.rank, config.run.seed, weights
        ),
        num_workers=default_workers(config.loader, world),
        device=world.device,
        # Label diffusion changes the maps after they were loaded; generated masks are no condition.
        prepare=model.preparation(config.network_size) if labels is None and generation is None else None,
        reduce=latent_reduction(config) if generation is None else None,
    )
    target = ImageTarget(labels, code if isinstance(code, LatentCode) else None)
    if generation is not None:
        target = masks.target(config, code, model, world.device)
        for line in announced_code(config, generation, report.encoding.names):
            log.info(line)
    preview = None
    if config.run.preview_interval and generation is not None:
        from guided_diffusion.pipelines.mask_preview import build_mask_previewer  # imports the metrics: a second

        preview = build_mask_previewer(
            config, report, masks, generation, code, model, ema, world, folder / PREVIEWS, log.info
        )
    elif config.run.preview_interval and config.model.condition == "boxes":
        preview = build_layout_previewer(config, report, model, ema, world, folder / PREVIEWS)
    elif config.run.preview_interval:
        preview = build_previewer(config, report, model, ema, world, eta, code)
    trainer = Trainer(
        model=model,
        diffusion=process,
        timestep_sampler=TIMESTEP_SAMPLERS[config.optimizer.schedule_sampler](process.num_timesteps),
        loader=loader,
        optimizer=torch.optim.AdamW(
            model.parameters(),
            lr=config.optimizer.lr,
            weight_decay=config.optimizer.weight_decay,
            fused=world.device.type in ("cpu", "cuda"),
        ),
        ema=ema,
        options=config.optimizer,
        run=config.run,
        world=world,
        log=log,
        describe=describe,
        amp_dtype=AMP_DTYPES[config.precision.precision],
        target=target,
        preview=None if preview is None else _forgiving(preview, log),
        supervision=mask_supervision(config),
    )
    if eta is not None and world.is_main:
        save_eta(folder / ETA, eta)
    if start.continues:
        trainer.resume(source)
        _refuse_different_positions(trainer)
    elif source is not None:
        ema.load_state_dict({rate: with_new_inputs(average, model) for rate, average in source.ema.items()})
    aside = reconcile_best(start, folder, trainer.progress) if world.is_main else None
    if aside:
        log.info(aside)
    return trainer


def _forgiving(preview: Callable[[int], Mapping[str, float]], log: RunLog) -> Callable[[int], Mapping[str, float]]:
    """Return a preview that is left out where the network makes values that are not finite.

    Training skips steps with such values, and every start of the run would end at the same preview.
    """

    def draw(epoch: int) -> Mapping[str, float]:
        try:
            return preview(epoch)
        except NotFinite:
            log.info(f"warning: no preview of epoch {epoch}: the network makes values that are not finite")
            return {}

    return draw


def mask_supervision(config: TrainConfig) -> MaskSupervision | None:
    """Return how the masks of objects learn from true masks, None where there are none, or that is off."""
    weight = config.layouts.mask_supervision
    has_both = config.model.condition == "boxes" and get_mode(config.source.dataset_mode).masks is not None
    return MaskSupervision(weight, drawn=config.model.stage_masks) if has_both and weight else None


def describe_run(
    config: TrainConfig,
    report: ScanReport,
    origin: dict[str, Any],
    eta: ArrayLike | None,
    generation: Generation | None,
) -> dict[str, Any]:
    """Return the entries that every checkpoint of a run has beside its state."""
    described = {
        "config": {**lasting_config(config), "label_eta": None if eta is None else eta.tolist()},
        "encoding": report.encoding.to_dict(),
        "lineage": origin,
        "fingerprint": fingerprint_of(report).to_state(),
    }
    return described if generation is None else {**described, "generation": generation.to_state()}


def lasting_config(config: TrainConfig) -> dict[str, Any]:
    """Return the options for a checkpoint, without those that say where files lie: `config.json` of the run has them.

    So equal trainings in different folders have equal checkpoints.
    """
    places = [key for key in config.fields() if config.facts(key).path and config.facts(key).resume == "may change"]
    return {key: value for key, value in config.to_json().items() if key not in places}


def initial_network(
    config: TrainConfig, start: ResumePlan, device: torch.device, code: Code | None = None
) -> UNetModel:
    """Return the network on `device` with its first weights: drawn from the run's seed, or those of `start`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(Stream.WEIGHTS, config.run.seed))
        model = build_network(config, code)
    if start.checkpoint is not None:
        load_weights(model, with_new_inputs(start.checkpoint.model, model), source=str(start.checkpoint.path))
        refuse_broken_weights(start.checkpoint, start.checkpoint.model)
    return model.to(device)


def _refuse_different_positions(trainer: Trainer) -> None:
    """Raise UserError where the processes, which may read different disks, do not resume the same state."""
    progress = trainer.progress
    positions = trainer.world.gather((progress.epoch, progress.batch, progress.step))
    if len(set(positions)) > 1:
        raise UserError(
            f"resume_checkpoint: the processes read different states (epoch, batch, step: {positions}): "
            "put output_dir on a disk that all of them share",
            collective=True,
            already_printed=not trainer.world.is_main,
        )


def build_previewer(
    config: TrainConfig,
    report: ScanReport,
    model: UNetModel,
    ema: EMA,
    world: ProcessGroup,
    eta: ArrayLike | None,
    code: LatentCode | None = None,
) -> Previewer:
    """Return the previewer of pairs spread over the training set."""
    chosen = evenly_spaced(report.pairs, config.run.preview_images)
    mode = get_mode(config.source.dataset_mode)
    shown = shown_dataset(chosen, report.encoding, config.geometry, mode, holes=hole_maker(config, report.encoding))
    image, condition = collate_examples(shown, range(len(chosen)))
    known, inside = (collate(shown, range(len(chosen))) for collate in (collate_holes, collate_inside))
    num_steps = min(config.run.preview_steps, config.diffusion.diffusion_steps)
    setting = SamplerOptions(steps=num_steps, time_grid="logsnr")
    dtype = AMP_DTYPES[config.precision.precision]
    pipeline = SamplingPipeline(model, config, report.encoding.names, world.device, dtype, eta, code)

    def draw(condition: SemanticMap, seeds: Sequence[int]) -> Tensor:
        # A new run each time, as the weights have changed; noise from the CPU is the same on every device.
        return pipeline.begin(setting, noise_device="cpu")(condition, seeds, known=known, inside=inside)

    return Previewer(
        draw,
        ema,
        image=image,
        condition=condition,
        class_names=() if config.model.condition == "none" else report.encoding.names,
        folder=Path(config.run.output_dir) / PREVIEWS,
        seeds=[derive_seed(Stream.SAMPLE, config.run.seed, index) for index in range(len(chosen))],
        num_steps=num_steps,
        known=known,
    )


def _print_finished(config: TrainConfig, start: ResumePlan) -> None:
    progress = Progress.from_state(start.checkpoint.progress)
    folder = Path(config.run.output_dir)
    if not (folder / LOSS_CURVE).exists():
        loss_curve(progress.history, folder / LOSS_CURVE, best_epoch=progress.best_epoch)
    annealed = "its learning rate has fallen to 0 (lr_anneal_steps)"
    remedy = annealed if progress.epoch < config.optimizer.max_epochs else "raise max_epochs to train on"
    done = f"{counted(progress.epoch, 'epoch')}, best mean loss {progress.best_loss:.5f} in epoch {progress.best_epoch}"
    print(f"{folder.absolute()}: this run is finished ({done}); {remedy}, or choose another output_dir for a new run")


def _announce(trainer: Trainer, start: ResumePlan, report: ScanReport, log: RunLog) -> None:
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    good = f" and {len(report.good_images)} good images" if report.good_images else ""
    classes = "" if report.noun == "images" else f"{report.encoding.num_classes} classes, "
    log.info(
        f"{len(report.pairs)} {report.noun}{good}, {classes}{parameters / 1e6:.2f} M parameters, "
        f"{trainer.world.size} process{'es' if trainer.world.size > 1 else ''} on {trainer.world.device}; "
        f"run folder {trainer.folder.absolute()}"
    )
    if start.continues:
        progress = trainer.progress
        done = f"{counted(progress.epoch, 'epoch')}, {counted(progress.step, 'step')}"
        log.info(f"resuming after {done}: {start.checkpoint.path}")
    elif start.checkpoint is not None:
        log.info(f"starting from the weights of {start.checkpoint.path}")
        before = training_source(start.checkpoint).get("good_images")
        if before and not report.good_images:
            log.info(
                f"warning: good_dir: these weights know {counted(before, 'good image', 'good images')} beside their "
                "pairs, and now there is none: give good_dir unless they are to forget what good surfaces look like"
            )
        if "converted" in trainer.describe["lineage"]:
            log.info(
                "converted from condition none to mask: the network makes the same of every mask until it has learned "
                f"them; new are the weights for masks of {report.encoding.num_classes} classes"
            )
    batches = counted(trainer.loader.batch_plan.num_batches, "batch", "batches")
    log.info(f"an epoch has {batches}; the seed is {trainer.run.seed}")
    options = trainer.options
    last, annealed = trainer.progress.last_step(options, trainer.loader.batch_plan.num_batches), options.lr_anneal_steps
    if last < annealed:
        log.info(
            f"note: max_epochs {options.max_epochs} ends the training after {last} steps, when the learning rate is "
            f"still {1 - last / annealed:.0%} of lr: it falls to 0 in {annealed} (lr_anneal_steps)"
        )
