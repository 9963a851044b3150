"""`sample`: synthetic image/mask pairs from a trained network and masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from guided_diffusion.config.network import TrainedConfig
from guided_diffusion.config.sample import SampleConfig
from guided_diffusion.data import visualize
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.mirror import flip_pairs
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.scan.lost_classes import written_losses
from guided_diffusion.data.transforms import JointTransform
from guided_diffusion.models.compilation import COMPILING, compile_network, wants_compiling
from guided_diffusion.pipelines.build import trained_config
from guided_diffusion.pipelines.dataset import plain_transform
from guided_diffusion.pipelines.image_sampling import refuse_masks, sample_images
from guided_diffusion.pipelines.label_diffusion import classes_to_null
from guided_diffusion.pipelines.load import encoding_of_checkpoint, pipeline_of_checkpoint, warn_of_untrained_guidance
from guided_diffusion.pipelines.masks import find_masks
from guided_diffusion.pipelines.output import (
    dataset_folders,
    mask_folder,
    output_of,
    refuse_other_record,
    refuse_written_sources,
    written_by_sample,
)
from guided_diffusion.pipelines.sampling import SamplingRun, recorded_settings, spacing
from guided_diffusion.runtime.checkpoint import BEST, Checkpoint, find_checkpoint, load_checkpoint
from guided_diffusion.runtime.distributed import ProcessGroup, init_distributed
from guided_diffusion.runtime.errors import ConfigError
from guided_diffusion.runtime.logs import write_run_record
from guided_diffusion.runtime.memory import keep_freed_memory
from guided_diffusion.samples.manifest import SampleSettings
from guided_diffusion.samples.writer import PlannedSample, SyntheticFolder, plan_samples, read_conditions

SHEET = "contact_sheet.png"
SHEET_SAMPLES = 32


def run(config: SampleConfig) -> int:
    """Write the samples that `config` asks for and that are not there yet."""
    path = find_checkpoint(config.weights.model_path, prefer=BEST)
    world = init_distributed(config.precision.device)
    if world.device.type == "cpu":
        keep_freed_memory()
    try:
        checkpoint = load_checkpoint(path)
        trained = trained_config(checkpoint, config)
        conditional = trained.model.condition != "none"
        if not conditional:
            refuse_masks(config, path)
        elif not config.source.data_dir and not config.mask_dir:
            line = f"data_dir and mask_dir say where the masks come from, and neither is given, but {path} makes none: "
            raise ConfigError.of_keys(("data_dir", f"{line}give one of them"))
        folder = Path(config.results_path) / config.split
        refuse_written_sources(
            {"results_path": written_by_sample(config.results_path, config.split)},
            dataset_folders(trained.source) if config.source.data_dir else mask_folder(config.mask_dir),
        )
        refuse_other_record("results_path", folder, "sample")
        with output_of("sample", [folder], world):
            work = _sample if conditional else sample_images
            work(config, checkpoint, trained, world)
    finally:
        world.close()
    return 0


def _sample(config: SampleConfig, checkpoint: Checkpoint, trained: TrainedConfig, world: ProcessGroup) -> None:
    path = checkpoint.path
    sources, encoding, losses = world.run_on_main(
        lambda: find_masks(
            trained.source,
            trained.geometry,
            split=config.data_split,
            mask_dir=config.mask_dir,
            encoding=encoding_of_checkpoint(checkpoint),
            also_ignored=config.source.ignore_label,
        )
    )
    trained = trained.replaced(num_classes=encoding.num_classes)
    if world.is_main:
        warn_of_untrained_guidance(checkpoint, config.sampler.s)
    # Built before anything is written, so that a mistake in the options leaves no files.
    mode = get_mode(trained.source.dataset_mode)
    exchanged = flip_pairs(encoding.names, trained.source.flip_pairs)
    transform = replace(plain_transform(trained.geometry, mode), flip_pairs=exchanged)
    nulled = classes_to_null(config.unlabeled_to_zero, mode, encoding.names)
    pipeline = pipeline_of_checkpoint(
        checkpoint,
        trained,
        encoding.names,
        weights=config.weights.weights,
        device=world.device,
        precision=config.precision.precision,
        eta_path=config.eta_path,
    )
    sampling = pipeline.begin(config.sampler, extrapolation=config.extrapolation)
    label_diffusion = trained.label_diffusion.cond_diffuse
    compiling = wants_compiling(config.precision.compile, world.device, label_diffusion=label_diffusion)
    plan = plan_samples(sources, config.num_samples, config.seed)
    settings = SampleSettings(
        **recorded_settings(config, trained, path, sampling.num_steps),
        unlabeled_to_zero=config.unlabeled_to_zero or None,
        augment_masks=config.augment_masks,
    )
    output = SyntheticFolder(config.results_path, config.split, encoding, settings)
    done = world.run_on_main(lambda: output.begin(plan))
    if world.is_main:
        write_run_record(output.folder, "sample", config.fill_from_checkpoint(trained).to_json())
        there = sum(sample.index in done for sample in plan)
        print(
            f"{len(plan)} samples{f', {there} are there already' if there else ''}; {config.sampler.sampler} in "
            f"{sampling.num_steps} steps ({spacing(config.sampler) or 'uniform'}), s {config.sampler.s:g}, "
            f"{config.weights.weights} weights of {path.absolute()}"
        )
        if compiling:
            print(COMPILING)
    if compiling:
        compile_network(pipeline.model)
    todo = [sample for sample in plan if sample.index not in done][world.rank :: world.size]
    _sample_batches(config, trained, transform, sampling, todo, output, nulled, world)
    world.barrier()
    if world.is_main:
        _finish(output, len(plan), encoding)
        if lost := written_losses([sample.source.mask for sample in plan], losses, encoding.names):
            print(f"warning: {output.folder}: {lost}")
    world.barrier()


def _sample_batches(
    config: SampleConfig,
    trained: TrainedConfig,
    transform: JointTransform,
    sampling: SamplingRun,
    todo: Sequence[PlannedSample],
    output: SyntheticFolder,
    nulled: Sequence[int],
    world: ProcessGroup,
) -> None:
    """Make the samples of `todo` batch by batch and write each batch when it is done.

    nulled: classes that are null in the condition.
    """
    with_edges = not trained.geometry.no_instance
    output.open_part(world.rank)
    bar = tqdm(total=len(todo) * sampling.num_steps, unit="step", disable=not world.is_main, desc="sampling")
    try:
        for start in range(0, len(todo), config.batch_size):
            bar.set_postfix_str(f"image {start}/{len(todo)}", refresh=False)
            batch = todo[start : start + config.batch_size]
            condition, inside = read_conditions(
                batch, output.encoding, transform, augment=config.augment_masks, with_edges=with_edges
            )
            images = sampling(
                condition.without(nulled),
                [sample.seed for sample in batch],
                inside=inside,
                progress=lambda done, _, start=start: bar.update(start * sampling.num_steps + done - bar.n),
            )
            for sample, image, label in zip(batch, images, condition.label, strict=True):
                output.write(sample, image, label)
    finally:
        bar.close()
        output.close_part()


def _finish(output: SyntheticFolder, planned: int, encoding: LabelEncoding) -> None:
    lines = output.finish()
    if lines:
        palette = visualize.class_palette(encoding.num_classes)
        tiles: list[np.ndarray] = []
        labels: list[np.ndarray] = []
        for image, label in output.tiles(visualize.evenly_spaced(lines, SHEET_SAMPLES)):
            labels.append(label)
            tiles += [visualize.colorize(label, palette), visualize.to_rgb(image)]
        columns = 2 * max(1, math.ceil(math.sqrt(len(tiles) / 4)))
        rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
        sheet = visualize.grid(rows, legend=visualize.legend_of(encoding.names, labels), title="mask | sample")
        visualize.save(sheet, output.folder / SHEET)
    print(f"{len(lines)} pairs ({planned} asked for)")
    for path in (output.folder / "images", output.folder / "masks", output.manifest, output.folder / SHEET):
        print(f"  {path.absolute()}")
