"""`paste`: training defects pasted into good images, without a model, as image/mask pairs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tqdm import tqdm

from guided_diffusion.config.paste import PasteConfig
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.native_image import NativeImage
from guided_diffusion.data.pairing import count_pairs
from guided_diffusion.pipelines.cards.samples import write_sample_card
from guided_diffusion.pipelines.known_classes import known_classes
from guided_diffusion.pipelines.output import (
    dataset_folders,
    named_folders,
    output_of,
    refuse_other_record,
    refuse_written_sources,
    written_by_sample,
)
from guided_diffusion.pipelines.placing.paste import PasteSource, open_paste
from guided_diffusion.pipelines.placing.scenes import defect_lines, recorded_defects, save_scene_sheet, scene_settings
from guided_diffusion.pipelines.plans import good_lines
from guided_diffusion.pipelines.work_left import say_where
from guided_diffusion.runtime.distributed import ProcessGroup, init_distributed
from guided_diffusion.runtime.logs import write_run_record
from guided_diffusion.samples.manifest import PasteSettings
from guided_diffusion.samples.plan import PlannedSample, plan_samples
from guided_diffusion.samples.writer import SyntheticFolder


def run(config: PasteConfig) -> int:
    """Write the pairs that `config` asks for and that are not there yet."""
    with init_distributed("cpu") as world:
        _refuse_sources(config)
        folder = Path(config.results_path) / config.split
        refuse_other_record("results_path", folder, PasteSettings.action)
        with output_of(PasteSettings.action, [folder], world):
            _paste(config, world)
    return 0


def plan(config: PasteConfig) -> list[str]:
    """Return what a run of `config` would make; UserError where it could not begin."""
    _refuse_sources(config)
    count_pairs(config.source.data_dir, get_mode(config.source.dataset_mode), "train")
    return good_lines(config, known_classes(config.source))


def _refuse_sources(config: PasteConfig) -> None:
    """Raise ConfigError where results would lie among what is read."""
    refuse_written_sources(
        {"results_path": written_by_sample(config.results_path, config.split)},
        [*dataset_folders(config.source), *named_folders({"good_dir": config.good_dir, "region": config.region})],
    )


def _paste(config: PasteConfig, world: ProcessGroup) -> None:
    source = world.run_everywhere(partial(open_paste, config))
    samples = plan_samples(source.plan.images, config.num_samples, config.seed)
    own = {"blend": config.blend, "gap": config.gap, "image_channels": source.config.image_channels}
    settings = PasteSettings(run_seed=config.seed, **own, **scene_settings(config.placing, source.plan))
    output = SyntheticFolder(config.results_path, config.split, source.encoding, settings, mark=config.mark)
    done = world.run_on_main(lambda: output.begin(samples))
    if world.is_main:
        write_run_record(output.folder, settings.action, source.config.to_json())
        for line in (*(f"warning: {each}" for each in source.warnings), *source.plan.notes):
            print(line)
        print(output.counts(len(samples), sum(sample.index in done for sample in samples), "image"))
    todo = [sample for sample in samples if sample.index not in done][world.rank :: world.size]
    _write(source, todo, output, world)
    world.barrier()
    if world.is_main:
        _finish(source, output, len(samples))
    world.barrier()


def _write(source: PasteSource, todo: Sequence[PlannedSample], output: SyntheticFolder, world: ProcessGroup) -> None:
    """Write the pairs of `todo`, one after the other."""
    config, plan, names = source.config, source.plan, source.encoding.names
    assert config.image_channels is not None
    output.open_part(world.rank)
    try:
        for sample in tqdm(todo, "pasting", unit="image", disable=not world.is_main):
            good = sample.source
            image = NativeImage.read(good.image, config.image_channels, config.image_range, upright=good.upright)
            finished = plan.finished(good, image, sample.index)
            result = plan.pasted(image, finished.defects, good.stem, config.blend)
            assert result is not None
            output.write_placed(sample, result.save, finished.label, *recorded_defects(finished, names))
    finally:
        output.close_part()


def _finish(source: PasteSource, output: SyntheticFolder, planned: int) -> None:
    lines = output.finish()
    save_scene_sheet(output, lines, source.trained)
    card = write_sample_card(source.config, output, lines, None, source.trained)
    for line in defect_lines(lines, planned, "pasted"):
        print(line)
    say_where(output, card)
