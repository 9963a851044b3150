"""What `sample`, `place` and `generate` share: what is left to do, the batches of it, and the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from tqdm import tqdm

from guided_diffusion.config.from_checkpoint import FromCheckpointConfig
from guided_diffusion.config.generate import GenerateConfig
from guided_diffusion.config.network import TrainedConfig
from guided_diffusion.config.place import PlaceConfig
from guided_diffusion.config.sample import SampleConfig
from guided_diffusion.data.options import GeometryOptions
from guided_diffusion.diffusion.options import DiffusionOptions
from guided_diffusion.models.architecture import height_width
from guided_diffusion.models.compilation import COMPILING, compile_network, wants_compiling
from guided_diffusion.pipelines.cards.samples import write_sample_card
from guided_diffusion.pipelines.sample_settings import spacing
from guided_diffusion.pipelines.sampling import Progress, SamplingRun
from guided_diffusion.runtime.checkpoint import Checkpoint
from guided_diffusion.runtime.distributed import ProcessGroup
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.runtime.hub_address import shown
from guided_diffusion.runtime.logs import read_run_record, write_run_record
from guided_diffusion.runtime.units import counted
from guided_diffusion.samples.contact_sheet import SHEET, save_contact_sheet
from guided_diffusion.samples.plan import PlannedSample
from guided_diffusion.samples.writer import SyntheticFolder

_HEADS = ("num_heads", "num_heads_upsample", "num_head_channels", "use_new_attention_order")
"""Keys of a network that its shapes do not tell, beside those of noise process and geometry."""


def begin_output(
    config: SampleConfig | PlaceConfig | GenerateConfig,
    trained: TrainedConfig,
    checkpoint: Checkpoint,
    sampling: SamplingRun,
    output: SyntheticFolder,
    plan: Sequence[PlannedSample],
    world: ProcessGroup,
    noun: str,
) -> list[PlannedSample]:
    """Prepare the folder and the network of `sampling`; return this process's share of what is not there yet.

    noun: "sample", say, for the line that is printed. Raises DataError for a folder of other samples.
    """
    world.run_on_main(lambda: _refuse_other_network(config.fill_from_checkpoint(trained), checkpoint, output))
    done = world.run_on_main(lambda: output.begin(plan))
    label_diffusion = trained.label_diffusion.cond_diffuse
    compiling = wants_compiling(config.precision.compile, world.device, label_diffusion=label_diffusion)
    if world.is_main:
        write_run_record(output.folder, output.settings.action, config.fill_from_checkpoint(trained).to_json())
        there = sum(sample.index in done for sample in plan)
        print(
            f"{output.counts(len(plan), there, noun)}; {config.sampler.sampler} in "
            f"{counted(sampling.num_steps, 'step')} ({spacing(config.sampler) or 'uniform'}), s {config.sampler.s:g}, "
            f"{config.weights.weights} weights of {shown(checkpoint.path)}"
        )
        if compiling:
            print(COMPILING)
    if compiling:
        tell = print if world.is_main else lambda line: None
        compile_network(sampling.pipeline.model, failed=None if config.precision.compile is True else tell)
    return [sample for sample in plan if sample.index not in done][world.rank :: world.size]


def _refuse_other_network(config: FromCheckpointConfig, checkpoint: Checkpoint, output: SyntheticFolder) -> None:
    """Raise DataError where the samples that are there were made with bare weights understood in another way.

    The manifest does not say how: other checkpoints know it themselves.
    """
    if not checkpoint.is_bare or not output.written():
        return
    before, now = read_run_record(output.folder), config.to_json()
    for key in (*DiffusionOptions.keys(), *GeometryOptions.keys(), *_HEADS):
        then, here = before.get(key), now[key]
        if key == "image_size" and then is not None:  # a square has two spellings
            then, here = height_width(then), height_width(here)
        # So has x0, of which `prediction` is the resolved one.
        if then is not None and key != "predict_xstart" and then != here:
            found = f"holds samples with {key} {json.dumps(before[key])}, these would have {json.dumps(now[key])}"
            raise DataError.of(output.folder, found, "choose another results_path")


def make_batches(
    make: Callable[[Sequence[PlannedSample], Progress], None],
    todo: Sequence[PlannedSample],
    batch_size: int,
    num_steps: int,
    output: SyntheticFolder,
    world: ProcessGroup,
) -> None:
    """Have `make` write each batch of `todo`, whose samples take `num_steps` steps each, under one progress bar.

    make: (samples, what it calls with the steps done of these).
    """
    output.open_part(world.rank)
    bar = tqdm(total=len(todo) * num_steps, unit="step", disable=not world.is_main, desc="sampling")
    try:
        for start in range(0, len(todo), batch_size):
            bar.set_postfix_str(f"image {start}/{len(todo)}", refresh=False)
            make(
                todo[start : start + batch_size],
                lambda done, _, start=start: bar.update(start * num_steps + done - bar.n),
            )
    finally:
        bar.close()
        output.close_part()


def finish_output(
    config: SampleConfig,
    trained: TrainedConfig,
    checkpoint: Checkpoint,
    output: SyntheticFolder,
    planned: int,
    noun: str,
    names: Sequence[str] = (),
) -> None:
    """Complete the folder when all processes are done, save its contact sheet and card, and say where everything is."""
    lines = output.finish()
    save_contact_sheet(output, lines, names)
    card = write_sample_card(config, output, lines, checkpoint, trained)
    print(f"{counted(len(lines), noun)} ({planned} asked for)")
    say_where(output, card)


def say_where(output: SyntheticFolder, card: str) -> None:
    """Print where everything is that was written."""
    for path in (*output.places, output.folder / SHEET):
        print(f"  {path.absolute()}")
    print(f"  {card}")
