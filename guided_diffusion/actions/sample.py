"""`sample`: synthetic image/mask pairs from a trained network and masks, or what the network makes without them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from guided_diffusion.config.network import TrainedConfig
from guided_diffusion.config.sample import SampleConfig
from guided_diffusion.data.mirror import flip_pairs
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.pairing import MaskEntry, Pair
from guided_diffusion.data.scan.lost_classes import written_losses
from guided_diffusion.models.architecture import height_width
from guided_diffusion.pipelines.build import trained_config
from guided_diffusion.pipelines.dataset import plain_transform
from guided_diffusion.pipelines.hub_weights import with_pinned_weights
from guided_diffusion.pipelines.image_sampling import sample_images
from guided_diffusion.pipelines.label_diffusion import classes_to_null
from guided_diffusion.pipelines.layout_sampling import sample_layouts
from guided_diffusion.pipelines.load import encoding_of_checkpoint, pipeline_of_config, warn_of_untrained_guidance
from guided_diffusion.pipelines.mask_generation import generate
from guided_diffusion.pipelines.masks import find_masks, known_lineages, read_otherwise
from guided_diffusion.pipelines.output import (
    dataset_folders,
    mask_folder,
    output_of,
    refuse_other_record,
    refuse_written_sources,
    written_by_sample,
)
from guided_diffusion.pipelines.plans import made_lines, masks_lines
from guided_diffusion.pipelines.sample_misfits import refuse_misfits
from guided_diffusion.pipelines.sample_settings import recorded_settings
from guided_diffusion.pipelines.sampling import Progress
from guided_diffusion.pipelines.work_left import begin_output, finish_output, make_batches
from guided_diffusion.runtime.checkpoint import BEST, Checkpoint, find_checkpoint, load_checkpoint
from guided_diffusion.runtime.distributed import ProcessGroup, choose_device, init_distributed
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.runtime.hub_address import shown
from guided_diffusion.runtime.logs import read_run_record
from guided_diffusion.samples.manifest import SampleSettings
from guided_diffusion.samples.plan import PlannedSample, plan_samples
from guided_diffusion.samples.reader import GeneratedMasks, find_generated_masks
from guided_diffusion.samples.writer import SyntheticFolder, read_conditions


def run(config: SampleConfig) -> int:
    """Write the samples that `config` asks for and that are not there yet."""
    config = with_pinned_weights(config)
    path = find_checkpoint(config.weights.model_path, prefer=BEST)
    with init_distributed(config.precision.device) as world:
        checkpoint = load_checkpoint(path)
        trained = _checked(config, checkpoint)
        folder = Path(config.results_path) / config.split
        refuse_other_record("results_path", folder, "sample")
        with output_of("sample", [folder], world):
            if world.is_main:
                warn_of_untrained_guidance(checkpoint, config.sampler.s)
                if line := config.idle_split:
                    print(f"note: {line}")
            work = _work_of(trained)
            work(config, checkpoint, trained, world)
    return 0


def plan(config: SampleConfig) -> list[str]:
    """Return what a run of `config` would make; UserError where it could not begin."""
    path = find_checkpoint(config.weights.model_path, prefer=BEST)
    choose_device(config.precision.device)
    trained = _checked(config, load_checkpoint(path, lazily=True))
    height, width = height_width(trained.geometry.image_size)
    head = f"{width} x {height} px, weights of {shown(path)}"
    if trained.model.condition == "mask" and not trained.generation.makes_masks:
        return [head, *masks_lines(config, trained.source)]
    return [head, *made_lines(config, config.num_samples)]


def _checked(config: SampleConfig, checkpoint: Checkpoint) -> TrainedConfig:
    """Return the options of the network; UserError where `config` does not go with them."""
    trained = trained_config(checkpoint, config)
    checkpoint.weights(config.weights.weights)  # refuses a name that it does not have
    refuse_misfits(config, trained, checkpoint)
    if trained.model.condition == "mask" and (encoding := encoding_of_checkpoint(checkpoint)) is not None:
        flip_pairs(encoding.names, trained.source.flip_pairs)  # before masks are read: it refuses unknown names
    refuse_written_sources(
        {"results_path": written_by_sample(config.results_path, config.split)},
        dataset_folders(trained.source) if config.source.data_dir else mask_folder(config.mask_dir),
    )
    return trained


def _work_of(trained: TrainedConfig) -> Callable[[SampleConfig, Checkpoint, TrainedConfig, ProcessGroup], None]:
    """Return what samples from such a network."""
    if trained.model.condition == "none":
        return sample_images
    if trained.model.condition == "boxes":
        return sample_layouts
    return generate if trained.generation.makes_masks else _sample


def _ignored(config: SampleConfig, made: GeneratedMasks | None) -> int | None:
    """Return one more mask value that is ignored: as given, or as pixel classifiers left it in their masks."""
    given = config.source.ignore_label
    return made.ignored if given is None and made is not None else given


def _refuse_other_reading(
    config: SampleConfig,
    trained: TrainedConfig,
    output: SyntheticFolder,
    names: Sequence[str],
    masks: Sequence[Pair | MaskEntry],
) -> None:
    """Raise DataError where the run's record says that the masks there were read or mirrored in another way."""
    record = read_run_record(output.folder) if output.written() else {}
    if record and (found := read_otherwise(record, trained.source, names, masks, mirrors=config.augment_masks)):
        raise DataError.of(output.folder, found, "choose another results_path")


def _sample(config: SampleConfig, checkpoint: Checkpoint, trained: TrainedConfig, world: ProcessGroup) -> None:
    made = world.run_on_main(lambda: find_generated_masks(config.mask_dir))
    found = world.run_on_main(
        lambda: find_masks(
            trained.source,
            trained.geometry,
            split=config.data_split,
            mask_dir=config.mask_dir if made is None else str(made.folder),
            encoding=encoding_of_checkpoint(checkpoint),
            also_ignored=_ignored(config, made),
        )
    )
    sources, encoding, lineages = found.entries, found.encoding, found.lineages
    trained = trained.replaced(num_classes=encoding.num_classes)
    # Built before anything is written, so that a mistake in the options leaves no files.
    mode = get_mode(trained.source.dataset_mode)
    exchanged = flip_pairs(encoding.names, trained.source.flip_pairs)
    transform = replace(plain_transform(trained.geometry, mode), flip_pairs=exchanged)
    nulled = classes_to_null(config.unlabeled_to_zero, mode, encoding.names)
    pipeline = pipeline_of_config(config, checkpoint, trained, encoding.names, world.device)
    sampling = pipeline.begin(config.sampler, extrapolation=config.extrapolation)
    plan = plan_samples(sources, config.num_samples, config.seed)
    if world.is_main and (line := found.left_out(len(plan))):
        print(f"warning: {line}")
    if world.is_main and config.augment_masks and not any(sample.repeat for sample in plan):
        used = f"each of the {len(sources)} masks is used once at most"
        print(f"note: augment_masks changes masks from their second use on, but {used}: raise num_samples")
    settings = SampleSettings(
        **recorded_settings(config, trained, checkpoint, sampling.num_steps),
        unlabeled_to_zero=config.unlabeled_to_zero or None,
        augment_masks=config.augment_masks,
        mask_checkpoint=None if made is None else made.checkpoint,
    )
    if made is not None:
        lineages = {**lineages, **known_lineages(sources, made.lineages)}
    with_edges = not trained.geometry.no_instance
    output = SyntheticFolder(
        config.results_path, config.split, encoding, settings, lineages, mark=config.mark, with_edges=with_edges
    )
    world.run_on_main(lambda: _refuse_other_reading(config, trained, output, encoding.names, sources))
    todo = begin_output(config, trained, checkpoint, sampling, output, plan, world, "sample")

    def make(batch: Sequence[PlannedSample], progress: Progress) -> None:
        condition, inside = read_conditions(
            batch, encoding, transform, augment=config.augment_masks, with_edges=with_edges
        )
        seeds = [sample.seed for sample in batch]
        images = sampling(condition.without(nulled), seeds, inside=inside, progress=progress)
        for sample, image, label in zip(batch, images, condition.label, strict=True):
            output.write(sample, image, label)

    make_batches(make, todo, config.batch_size, sampling.num_steps, output, world)
    world.barrier()
    if world.is_main:
        finish_output(config, trained, checkpoint, output, len(plan), "pair", encoding.names)
        if lost := written_losses([sample.source.mask for sample in plan], found.losses, encoding.names):
            print(f"warning: {output.folder}: {lost}")
    world.barrier()
