"""`place`: defects painted into good images, at their own size, as image/mask pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from tqdm import tqdm

from guided_diffusion.config.network import TrainedConfig
from guided_diffusion.config.place import PlaceConfig
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.native_image import NativeImage
from guided_diffusion.data.options import BoxOptions
from guided_diffusion.pipelines.build import trained_config
from guided_diffusion.pipelines.cards.samples import write_sample_card
from guided_diffusion.pipelines.hub_weights import with_pinned_weights
from guided_diffusion.pipelines.inpainting import Painting, PaintSettings, fill_windows, paint_image
from guided_diffusion.pipelines.load import encoding_of_checkpoint, pipeline_of_config, warn_of_untrained_guidance
from guided_diffusion.pipelines.looks import compare_looks
from guided_diffusion.pipelines.output import (
    ReadFolder,
    dataset_folders,
    named_folders,
    output_of,
    refuse_other_record,
    refuse_written_sources,
    written_by_sample,
)
from guided_diffusion.pipelines.placing.erasing import plan_erasing
from guided_diffusion.pipelines.placing.plan import Finished, PlacePlan, painting_misfit, plan_placing
from guided_diffusion.pipelines.placing.scenes import defect_lines, recorded_defects, save_scene_sheet, scene_settings
from guided_diffusion.pipelines.plans import good_lines
from guided_diffusion.pipelines.sample_misfits import refuse_idle
from guided_diffusion.pipelines.sample_settings import recorded_settings
from guided_diffusion.pipelines.sampling import SamplingRun
from guided_diffusion.pipelines.work_left import begin_output, say_where
from guided_diffusion.runtime.checkpoint import BEST, Checkpoint, find_checkpoint, load_checkpoint
from guided_diffusion.runtime.distributed import ProcessGroup, choose_device, init_distributed
from guided_diffusion.runtime.errors import ConfigError
from guided_diffusion.runtime.hub_address import shown
from guided_diffusion.samples.manifest import PlaceSettings
from guided_diffusion.samples.plan import PlannedSample, plan_samples
from guided_diffusion.samples.writer import SyntheticFolder


def run(config: PlaceConfig) -> int:
    """Write the pairs that `config` asks for and that are not there yet."""
    config = with_pinned_weights(config)
    path = find_checkpoint(config.weights.model_path, prefer=BEST)
    with init_distributed(config.precision.device) as world:
        checkpoint = load_checkpoint(path)
        trained = _checked(config, checkpoint)
        folder = Path(config.results_path) / config.split
        refuse_other_record("results_path", folder, "place")
        with output_of("place", [folder], world):
            _place(config, checkpoint, trained, world)
    return 0


def plan(config: PlaceConfig) -> list[str]:
    """Return what a run of `config` would make; UserError where it could not begin."""
    path = find_checkpoint(config.weights.model_path, prefer=BEST)
    choose_device(config.precision.device)
    checkpoint = load_checkpoint(path, lazily=True)
    _checked(config, checkpoint)
    encoding = encoding_of_checkpoint(checkpoint)
    assert encoding is not None
    return [f"weights of {shown(path)}", *good_lines(config, encoding.names)]


def _checked(config: PlaceConfig, checkpoint: Checkpoint) -> TrainedConfig:
    """Return the options of the network; UserError where it paints no defects, or results would lie among sources."""
    trained = trained_config(checkpoint, config)
    checkpoint.weights(config.weights.weights)  # refuses a name that it does not have
    _refuse_other_networks(config, checkpoint, trained)
    refuse_written_sources(
        {"results_path": written_by_sample(config.results_path, config.split)},
        [*dataset_folders(trained.source), *_read_folders(config)],
    )
    return trained


def _read_folders(config: PlaceConfig) -> list[ReadFolder]:
    """Return the folders that are read beside the dataset."""
    named = {"good_dir": config.good_dir, "region": config.region, "bank_dir": config.placing.bank_dir}
    return named_folders({**named, "placed_masks": config.placing.placed_masks})


def _refuse_other_networks(config: PlaceConfig, checkpoint: Checkpoint, trained: TrainedConfig) -> None:
    """Raise ConfigError for a network that fills no holes, or that saw whole images instead of windows, and for keys
    that this does not use.
    """
    if found := painting_misfit(checkpoint, trained, erases=config.erase):
        raise ConfigError.of_keys(("model_path", f"model_path is {checkpoint.path}, {found}"))
    reasons = {"resize": "windows are painted, whatever it is", "flip_pairs": "nothing is mirrored"}
    reasons |= dict.fromkeys(BoxOptions.keys(), f"{checkpoint.path} takes no boxes")
    refuse_idle(config, checkpoint, reasons)


def _place(config: PlaceConfig, checkpoint: Checkpoint, trained: TrainedConfig, world: ProcessGroup) -> None:
    encoding = encoding_of_checkpoint(checkpoint)
    assert encoding is not None
    encoding = encoding.ignoring(config.source.ignore_label)
    plan = _plan(config, trained, encoding, world)
    if world.is_main:
        warn_of_untrained_guidance(checkpoint, config.sampler.s)
    network = trained.replaced(num_classes=encoding.num_classes)
    pipeline = pipeline_of_config(config, checkpoint, network, encoding.names, world.device)
    sampling = pipeline.begin(config.sampler, extrapolation=config.extrapolation, start_level=config.paste_noise)
    samples = plan_samples(plan.images, config.num_samples, config.seed)
    output = SyntheticFolder(
        config.results_path,
        config.split,
        encoding,
        PlaceSettings(
            **recorded_settings(config, trained, checkpoint, sampling.num_steps),
            scale=trained.geometry.scale,
            hole_margin=config.hole_margin,
            feather=float(config.feather),
            paste_noise=config.paste_noise,
            opacity=list(config.opacity) if config.opacity else None,
            **scene_settings(config.placing, plan) | ({"mask_source": "erase"} if config.erase else {}),
        ),
        mark=config.mark,
    )
    todo = begin_output(config, trained, checkpoint, sampling, output, samples, world, "image")
    _paint(config, trained, sampling, plan, todo, output, world)
    world.barrier()
    if world.is_main:
        _finish(config, checkpoint, trained, output, len(samples))
    world.barrier()


def _plan(config: PlaceConfig, trained: TrainedConfig, encoding: LabelEncoding, world: ProcessGroup) -> PlacePlan:
    plan = world.run_everywhere(partial(plan_erasing if config.erase else plan_placing, config, trained, encoding))
    for line in plan.notes if world.is_main else ():
        print(line)
    return plan


def _paint(
    config: PlaceConfig,
    trained: TrainedConfig,
    sampling: SamplingRun,
    plan: PlacePlan,
    todo: Sequence[PlannedSample],
    output: SyntheticFolder,
    world: ProcessGroup,
) -> None:
    """Paint the images of `todo`, several at a time, and write each when it is done."""
    geometry = trained.geometry
    settings = PaintSettings.of(config, trained, output.encoding.num_classes)

    def paintings() -> Iterator[tuple[tuple[PlannedSample, NativeImage, Finished], Painting]]:
        for sample in todo:
            good = sample.source
            image = NativeImage.read(good.image, geometry.image_channels, geometry.image_range, upright=good.upright)
            finished = plan.finished(good, image, sample.index)
            begun = plan.pasted(image, finished.defects, good.stem)
            holes, kept = finished.holes, finished.kept
            painting = paint_image(image, finished.label, holes, settings, sample.seed, begun, kept)
            yield (sample, image, finished), painting

    output.open_part(world.rank)
    bar = tqdm(total=len(todo), unit="image", disable=not world.is_main, desc="painting")
    windows = 0

    def count() -> None:
        nonlocal windows
        windows += 1
        bar.set_postfix_str(f"batch {windows}")

    try:
        for sample, image, finished in fill_windows(sampling, settings, paintings(), config.batch_size, count):
            output.write_placed(
                sample,
                image.save,
                finished.label,
                *recorded_defects(finished, output.encoding.names),
                plan.lineage_of(finished.defects),
            )
            bar.update()
    finally:
        bar.close()
        output.close_part()


def _finish(
    config: PlaceConfig, checkpoint: Checkpoint, trained: TrainedConfig, output: SyntheticFolder, planned: int
) -> None:
    lines = output.finish()
    save_scene_sheet(output, lines, trained)
    looks = None if config.erase else compare_looks(config, trained, output.encoding, output.folder, lines)
    card = write_sample_card(config, output, lines, checkpoint, trained, looks)
    for line in defect_lines(lines, planned, "painted over" if config.erase else "painted"):
        print(line)
    for line in looks.warnings(config.sampler.s) if looks else ():
        print(f"warning: {line}")
    say_where(output, card)
