"""`sample`: synthetic image/mask pairs from a trained network and masks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from guided_diffusion.config.sample import SampleConfig
from guided_diffusion.config.trained import TrainedConfig
from guided_diffusion.data import visualize
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.masks.inference import LabelOptions, resolve_encoding
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.options import SourceOptions
from guided_diffusion.data.pairing import MaskEntry, Pair
from guided_diffusion.data.scan.problems import problem_lines
from guided_diffusion.data.scan.scan import scan_masks
from guided_diffusion.diffusion.gaussian import DenoisedFn, GaussianDiffusion
from guided_diffusion.diffusion.guidance import GuidedDenoiser, guided_steps
from guided_diffusion.diffusion.label_diffusion import LabelDiffusion, label_generators
from guided_diffusion.diffusion.options import SAMPLER_DEFAULTS, DiffusionOptions, SamplerOptions
from guided_diffusion.diffusion.samplers import SAMPLERS, draw_noise
from guided_diffusion.diffusion.thresholding import dynamic_threshold, extrapolation, in_turn
from guided_diffusion.models.compilation import COMPILING, compile_network, wants_compiling
from guided_diffusion.models.unet import UNetModel
from guided_diffusion.pipelines.build import (
    amp_dtype,
    build_process,
    image_shape,
    network_from_checkpoint,
    trained_config,
)
from guided_diffusion.pipelines.dataset import plain_transform, scan_split
from guided_diffusion.pipelines.label_diffusion import classes_to_null, eta_of_sampling, label_process
from guided_diffusion.runtime.checkpoint import BEST, Checkpoint, find_checkpoint, load_checkpoint
from guided_diffusion.runtime.distributed import World, join
from guided_diffusion.runtime.errors import ConfigError, DataError
from guided_diffusion.runtime.files import digest
from guided_diffusion.runtime.logs import write_run_record
from guided_diffusion.runtime.memory import keep_freed_memory
from guided_diffusion.samples.manifest import SampleSettings
from guided_diffusion.samples.writer import PlannedSample, SyntheticFolder, plan_samples, read_conditions

SHEET = "contact_sheet.png"
SHEET_SAMPLES = 32


def run(config: SampleConfig) -> int:
    """Write the samples that `config` asks for, as far as they are not there yet."""
    path = find_checkpoint(config.weights.model_path, prefer=BEST)
    world = join(config.precision.device)
    if world.device.type == "cpu":
        keep_freed_memory()
    try:
        checkpoint = load_checkpoint(path)
        trained = trained_config(checkpoint, config)
        sources, encoding = world.on_main(lambda: find_masks(config, checkpoint, trained))
        trained = trained.replaced(num_classes=encoding.num_classes)
        _warn_if_never_dropped(config, checkpoint, world)
        # Built before anything is written, so that a mistake in the options leaves nothing behind.
        process = sampling_process(config.sampler, trained.diffusion)
        guided_steps(process, config.sampler.guidance_interval)
        eta = eta_of_sampling(trained, config.sampled_labels.eta_path, encoding.names)
        labels = label_process(trained.label_diffusion, process, encoding.num_classes, eta)
        classes_to_null(config.sampled_labels.unlabeled_to_zero, encoding.names)
        compiling = wants_compiling(config.precision.compile, world.device, label_diffusion=labels is not None)
        model = network_from_checkpoint(checkpoint, trained, config.weights.weights).to(world.device).eval()
        plan = plan_samples(sources, config.num_samples, config.seed)
        output = SyntheticFolder(config.results_path, config.split, encoding, _settings(config, trained, path, process))
        done = world.on_main(lambda: output.begin(plan))
        if world.is_main:
            write_run_record(output.folder, "sample", config.filled(trained).to_json())
            _announce(config, path, plan, done, process)
            if compiling:
                print(COMPILING)
        if compiling:
            compile_network(model)
        todo = [sample for sample in plan if sample.index not in done][world.rank :: world.size]
        _sample(config, trained, model, process, labels, todo, output, world)
        world.barrier()
        if world.is_main:
            _finish(output, len(plan), encoding)
        world.barrier()
    finally:
        world.close()
    return 0


def find_masks(
    config: SampleConfig, checkpoint: Checkpoint, trained: TrainedConfig
) -> tuple[Sequence[Pair | MaskEntry], LabelEncoding]:
    """Return the masks to sample from, scanned, and what their values mean.

    Raises DataError with a line for everything that is wrong with them.
    """
    known = LabelEncoding.from_dict(checkpoint.encoding) if checkpoint.encoding else None
    if known is None and config.mask_dir:
        if trained.source.num_classes is None:
            raise ConfigError("num_classes is missing: bare weights do not say what mask values mean; set it")
        known = _encoding_of_mode(trained.source)
    if known is not None and config.source.ignore_label is not None:
        known = known.ignoring(config.source.ignore_label)
    if config.mask_dir:
        report = scan_masks(
            config.mask_dir,
            known,
            mode=get_mode(trained.source.dataset_mode),
            with_instances=not trained.geometry.no_instance,
        )
        _warn_of_missing_instances(config.mask_dir, report.pairs, trained)
    else:
        report = scan_split(
            trained.source.model_copy(update={"data_dir": config.source.data_dir}),
            config.data_split,
            image_channels=trained.geometry.image_channels,
            with_instances=not trained.geometry.no_instance,
            encoding=known,
        )
    encoding = report.raise_if_fatal()
    for line in problem_lines(problem for problem in report.warnings if "empty class" not in problem.kind):
        print(f"warning: {line}")
    if trained.geometry.resize == "pad":
        encoding = encoding.with_ignore()
    return report.pairs, encoding


def _warn_of_missing_instances(mask_dir: str, entries: Sequence[Pair | MaskEntry], trained: TrainedConfig) -> None:
    """Say where the network sees other edges than in training: those of the labels."""
    mode = get_mode(trained.source.dataset_mode)
    without = sum(entry.instance is None for entry in entries)
    if without and mode.instances is not None and not trained.geometry.no_instance:
        print(
            f"warning: {mask_dir}: {without} of {len(entries)} masks have no instance map, so that their edges are "
            f"those of the labels; dataset_mode {mode.name} has instance maps in a data_dir"
        )


def _encoding_of_mode(source: SourceOptions) -> LabelEncoding:
    """Return what masks mean by the dataset_mode alone; those of a binary mode hold 0 and 1 then.

    Raises DataError where the options contradict it.
    """
    mode = get_mode(source.dataset_mode)
    if mode.binary:
        return LabelEncoding.identity(source.num_classes)
    said = LabelOptions(source.num_classes, source.ignore_label)
    encoding, problems = resolve_encoding(mode, None, (), said)
    if encoding is None:
        raise DataError(problem_lines(problems))
    return encoding


def _warn_if_never_dropped(config: SampleConfig, checkpoint: Checkpoint, world: World) -> None:
    if config.sampler.s != 1 and checkpoint.lineage.get("saw_dropped_masks") is False and world.is_main:
        print(
            f"warning: s is {config.sampler.s:g}, but {checkpoint.path} never saw a dropped mask in training, so "
            "that guidance pulls from an untrained branch; finetune it first, or set s to 1"
        )


def sampling_process(sampler: SamplerOptions, diffusion: DiffusionOptions) -> GaussianDiffusion:
    """Return the noise process with the steps that are asked for, or as many as the sampler has by default.

    Raises ConfigError where there are fewer steps in the noise process.
    """
    if sampler.timestep_respacing != "":
        return build_process(diffusion, sampler.timestep_respacing)
    steps = sampler.steps or min(SAMPLER_DEFAULTS[sampler.sampler].steps, diffusion.diffusion_steps)
    return build_process(diffusion, steps=steps, time_grid=sampler.time_grid)


def spacing(sampler: SamplerOptions) -> str | None:
    """Return what, beside their number, tells which timesteps are visited: None where they are evenly spaced.

    None is also what a folder says that was begun before there was a choice, so that it can be gone on with.
    """
    respacing = str(sampler.timestep_respacing).replace(" ", "")
    named = sampler.time_grid if respacing == "" else respacing
    return None if named == "uniform" or respacing.isdecimal() else named


def _settings(config: SampleConfig, trained: TrainedConfig, path: Path, process: GaussianDiffusion) -> SampleSettings:
    """Return what all samples of this run have in common, as the manifest records it.

    What is off is None where the key was added later, as it is for folders that were begun before.
    """
    sampler, labels = config.sampler, trained.label_diffusion
    eta_path = config.sampled_labels.eta_path
    return SampleSettings(
        run_seed=config.seed,
        sampler=sampler.sampler,
        steps=process.num_timesteps,
        time_grid=spacing(sampler),
        eta=sampler.eta,
        s=sampler.s,
        guidance_interval=list(sampler.guidance_interval) if sampler.guidance_interval else None,
        clip_denoised=sampler.clip_denoised,
        dynamic_threshold=sampler.dynamic_threshold,
        extrapolation=config.sampled_labels.extrapolation,
        cond_diffuse=labels.cond_diffuse or None,
        cond_opt=labels.cond_opt if labels.cond_diffuse else None,
        eta_path=digest(Path(eta_path)) if eta_path else None,
        unlabeled_to_zero=config.sampled_labels.unlabeled_to_zero or None,
        weights=config.weights.weights,
        augment_masks=config.augment_masks,
        precision=config.precision.precision,
        checkpoint=digest(path),
    )


def _announce(
    config: SampleConfig, path: Path, plan: Sequence[PlannedSample], done: Mapping[int, Any], process: GaussianDiffusion
) -> None:
    there = sum(sample.index in done for sample in plan)
    state = f", {there} are there already" if there else ""
    steps = f"{process.num_timesteps} steps ({spacing(config.sampler) or 'uniform'})"
    print(
        f"{len(plan)} samples{state}; {config.sampler.sampler} in {steps}, s {config.sampler.s:g}, "
        f"{config.weights.weights} weights of {path.absolute()}"
    )


def _sample(
    config: SampleConfig,
    trained: TrainedConfig,
    model: UNetModel,
    process: GaussianDiffusion,
    labels: LabelDiffusion | None,
    todo: Sequence[PlannedSample],
    output: SyntheticFolder,
    world: World,
) -> None:
    """Make the samples of `todo` batch by batch and write each as soon as it is done."""
    transform, with_edges = plain_transform(trained.geometry), not trained.geometry.no_instance
    batches = [todo[start : start + config.batch_size] for start in range(0, len(todo), config.batch_size)]
    sampler = SAMPLERS[config.sampler.sampler]
    extra = {"eta": config.sampler.eta} if config.sampler.sampler == "ddim" else {}
    nulled = classes_to_null(config.sampled_labels.unlabeled_to_zero, output.encoding.names)
    denoised_fn = _denoised_fn(config)
    denoise: GuidedDenoiser | None = None
    output.open_part(world.rank)
    bar = tqdm(total=len(todo) * process.num_timesteps, unit="step", disable=not world.is_main, desc="sampling")
    try:
        for number, batch in enumerate(batches):
            bar.set_postfix_str(f"image {number * config.batch_size}/{len(todo)}", refresh=False)
            condition = read_conditions(
                batch,
                output.encoding,
                transform,
                augment=config.augment_masks,
                with_edges=with_edges,
            )
            count = len(batch)
            generators = [torch.Generator(world.device).manual_seed(sample.seed) for sample in batch]
            with torch.inference_mode():
                maps = condition.without(nulled).to(world.device)
                vanishing = labels and labels.at_each_step(
                    label_generators([sample.seed for sample in batch], world.device)
                )
                if denoise is None:
                    denoise = GuidedDenoiser(
                        model,
                        process,
                        maps,
                        scale=config.sampler.s,
                        interval=config.sampler.guidance_interval,
                        autocast=amp_dtype(config.precision.precision),
                        condition_at=vanishing,
                    )
                else:
                    denoise = denoise.with_condition(maps, vanishing)
                images = sampler(
                    denoise,
                    process,
                    draw_noise(generators, image_shape(trained.geometry), world.device),
                    generators=generators,
                    callback=lambda *_, count=count: bar.update(count),
                    clip_denoised=config.sampler.clip_denoised,
                    denoised_fn=denoised_fn,
                    **extra,
                )
            for sample, image, label in zip(batch, images, condition.label, strict=True):
                output.write(sample, image, label)
    finally:
        bar.close()
        output.close_part()


def _denoised_fn(config: SampleConfig) -> DenoisedFn | None:
    """Return what is done to the predicted images, in the published order."""
    functions = []
    if config.sampled_labels.extrapolation is not None:
        functions.append(extrapolation(config.sampled_labels.extrapolation))
    if config.sampler.dynamic_threshold is not None:
        functions.append(dynamic_threshold(config.sampler.dynamic_threshold))
    return in_turn(functions)


def _finish(output: SyntheticFolder, planned: int, encoding: LabelEncoding) -> None:
    lines = output.finish()
    if lines:
        palette = visualize.class_palette(encoding.num_classes)
        tiles: list[np.ndarray] = []
        labels: list[np.ndarray] = []
        for image, label in output.tiles(visualize.spread(lines, SHEET_SAMPLES)):
            labels.append(label)
            tiles += [visualize.colorize(label, palette), visualize.to_rgb(image)]
        columns = 2 * max(1, math.ceil(math.sqrt(len(tiles) / 4)))
        sheet = visualize.contact_sheet(
            tiles, columns, scale=None, legend=visualize.legend_of(encoding.names, labels), title="mask | sample"
        )
        visualize.save(sheet, output.folder / SHEET)
    print(f"{len(lines)} pairs ({planned} asked for)")
    for path in (output.folder / "images", output.folder / "masks", output.manifest, output.folder / SHEET):
        print(f"  {path.absolute()}")
