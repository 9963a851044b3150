"""`sample` from a network without a condition: a folder of images, without masks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from guided_diffusion.conditions.no_condition import NoCondition
from guided_diffusion.config.network import TrainedConfig
from guided_diffusion.config.sample import SampleConfig
from guided_diffusion.data import visualize
from guided_diffusion.models.architecture import height_width
from guided_diffusion.models.compilation import COMPILING, compile_network, wants_compiling
from guided_diffusion.pipelines.load import class_names_of, pipeline_of_checkpoint
from guided_diffusion.pipelines.sampling import SamplingRun, recorded_settings, spacing
from guided_diffusion.runtime.checkpoint import Checkpoint
from guided_diffusion.runtime.distributed import ProcessGroup
from guided_diffusion.runtime.errors import ConfigError
from guided_diffusion.runtime.logs import write_run_record
from guided_diffusion.runtime.options import Problem
from guided_diffusion.samples.manifest import IMAGES_ALONE, SampleSettings
from guided_diffusion.samples.writer import PlannedSample, SyntheticFolder, plan_images

SHEET, SHEET_SAMPLES = "contact_sheet.png", 64


def refuse_masks(config: SampleConfig, path: Path) -> None:
    """Raise ConfigError for keys of `sample` about masks, and where there is no number of images to make.

    path: of the network, which has no condition.
    """
    problems = list(_misfits(config, path))
    if problems:
        raise ConfigError.of_keys(*problems)


def _misfits(config: SampleConfig, path: Path) -> Iterator[Problem]:
    why = f"{path} has no condition, so its images follow no mask"
    given = {"data_dir": config.source.data_dir, "mask_dir": config.mask_dir}
    given |= {"augment_masks": config.augment_masks, "unlabeled_to_zero": config.unlabeled_to_zero}
    for key, value in given.items():
        if value:
            yield (key, f"{key} is given, but {why}: leave it out, or use a model trained with condition mask")
    if config.num_samples is None:
        yield ("num_samples", f"num_samples is missing: {why}; say how many images to make")
    if config.sampler.s != 1:
        yield ("s", f"s is {config.sampler.s:g}, but {path} has no condition to guide towards: set s to 1")


def sample_images(config: SampleConfig, checkpoint: Checkpoint, trained: TrainedConfig, world: ProcessGroup) -> None:
    """Write the images that `config` asks for and that are not there yet."""
    pipeline = pipeline_of_checkpoint(
        checkpoint,
        trained,
        class_names_of(checkpoint, trained),
        weights=config.weights.weights,
        device=world.device,
        precision=config.precision.precision,
    )
    sampling = pipeline.begin(config.sampler, extrapolation=config.extrapolation)
    plan = plan_images(config.num_samples, config.seed)
    settings = SampleSettings(
        **recorded_settings(config, trained, checkpoint.path, sampling.num_steps), generates=IMAGES_ALONE
    )
    output = SyntheticFolder(config.results_path, config.split, None, settings)
    done = world.run_on_main(lambda: output.begin(plan))
    compiling = wants_compiling(config.precision.compile, world.device)
    if world.is_main:
        write_run_record(output.folder, "sample", config.fill_from_checkpoint(trained).to_json())
        there = sum(sample.index in done for sample in plan)
        print(
            f"{len(plan)} images{f', {there} are there already' if there else ''}; {config.sampler.sampler} in "
            f"{sampling.num_steps} steps ({spacing(config.sampler) or 'uniform'}), {config.weights.weights} weights of "
            f"{checkpoint.path.absolute()}"
        )
        if compiling:
            print(COMPILING)
    if compiling:
        compile_network(pipeline.model)
    todo = [sample for sample in plan if sample.index not in done][world.rank :: world.size]
    _sample_batches(config, height_width(trained.geometry.image_size), sampling, todo, output, world)
    world.barrier()
    if world.is_main:
        _finish(output, len(plan))
    world.barrier()


def _sample_batches(
    config: SampleConfig,
    size: tuple[int, int],
    sampling: SamplingRun,
    todo: Sequence[PlannedSample],
    output: SyntheticFolder,
    world: ProcessGroup,
) -> None:
    """Make the images of `todo`, of `size` (height, width), batch by batch and write each batch when it is done."""
    output.open_part(world.rank)
    bar = tqdm(total=len(todo) * sampling.num_steps, unit="step", disable=not world.is_main, desc="sampling")
    try:
        for start in range(0, len(todo), config.batch_size):
            bar.set_postfix_str(f"image {start}/{len(todo)}", refresh=False)
            batch = todo[start : start + config.batch_size]
            images = sampling(
                NoCondition(len(batch), size),
                [sample.seed for sample in batch],
                progress=lambda done, _, start=start: bar.update(start * sampling.num_steps + done - bar.n),
            )
            for sample, image in zip(batch, images, strict=True):
                output.write_image(sample, image)
    finally:
        bar.close()
        output.close_part()


def _finish(output: SyntheticFolder, planned: int) -> None:
    lines = output.finish()
    if lines:
        shown = visualize.evenly_spaced(lines, SHEET_SAMPLES)
        tiles = [visualize.to_rgb(image) for image in output.images(shown)]
        columns = max(1, math.ceil(math.sqrt(len(tiles))))
        rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
        visualize.save(visualize.grid(rows, title="samples"), output.folder / SHEET)
    print(f"{len(lines)} images ({planned} asked for)")
    for path in (output.folder / "images", output.manifest, output.folder / SHEET):
        print(f"  {path.absolute()}")
