"""`sample` from a model that makes masks: a folder of pairs, or of masks alone, cleaned, and checked one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor
from tqdm import tqdm

from guided_diffusion.config.network import TrainedConfig
from guided_diffusion.config.sample import SampleConfig
from guided_diffusion.pipelines.cards.samples import write_sample_card
from guided_diffusion.pipelines.generation import GenerationPipeline, generation_of_checkpoint
from guided_diffusion.pipelines.load import encoding_of_checkpoint, pipeline_of_config
from guided_diffusion.pipelines.sample_settings import recorded_settings
from guided_diffusion.pipelines.sampling import SamplingRun
from guided_diffusion.pipelines.work_left import begin_output, say_where
from guided_diffusion.runtime.checkpoint import Checkpoint
from guided_diffusion.runtime.distributed import ProcessGroup
from guided_diffusion.runtime.seeding import Stream, derive_seed
from guided_diffusion.samples.contact_sheet import save_contact_sheet
from guided_diffusion.samples.manifest import GeneratedMask, ManifestLine, SampleSettings
from guided_diffusion.samples.plan import AskedClass, PlannedSample, plan_generated
from guided_diffusion.samples.writer import SyntheticFolder
from guided_diffusion.training.mask_preview import spread_classes

ATTEMPTS = 5
"""Masks drawn for one sample, of which the first without faults is taken, or else the one with the fewest."""


def generate(config: SampleConfig, checkpoint: Checkpoint, trained: TrainedConfig, world: ProcessGroup) -> None:
    """Write the pairs or masks that `config` asks for and that are not there yet."""
    encoding = encoding_of_checkpoint(checkpoint)
    trained = trained.replaced(num_classes=encoding.num_classes)
    sampling = pipeline_of_config(config, checkpoint, trained, encoding.names, world.device)
    pipeline = GenerationPipeline(sampling, generation_of_checkpoint(checkpoint).rules)
    run = sampling.begin(config.sampler, extrapolation=config.extrapolation)
    makes = trained.generation.generates
    plan = plan_generated(_asked(config, pipeline), config.seed, with_images=makes == "pair")
    settings = SampleSettings(
        **recorded_settings(config, trained, checkpoint, run.num_steps),
        generates=makes,
        class_names=None if config.class_names is None else list(config.class_names),
    )
    output = SyntheticFolder(config.results_path, config.split, encoding, settings, mark=config.mark)
    todo = begin_output(config, trained, checkpoint, run, output, plan, world, makes)
    output.open_part(world.rank)
    bar = tqdm(total=len(todo), unit=makes, disable=not world.is_main, desc="sampling")
    try:
        for sample, made in accepted_masks(pipeline, run, todo, config.batch_size):
            output.write_generated(sample, made.image, made.label, made.note(sample.source.name))
            bar.update()
    finally:
        bar.close()
        output.close_part()
    world.barrier()
    if world.is_main:
        lines = output.finish()
        save_contact_sheet(output, lines, encoding.names)
        _say(output, lines, write_sample_card(config, output, lines, checkpoint, trained))
    world.barrier()


def _asked(config: SampleConfig, pipeline: GenerationPipeline) -> list[AskedClass]:
    """Return the class of each sample: those of `class_names` in turn, else as often as each is stated in training."""
    names, count = pipeline.sampling.class_names, config.num_samples
    if config.class_names is not None:
        chosen = [pipeline.class_of(name) for name in config.class_names]
        classes = [chosen[index % len(chosen)] for index in range(count)]
    else:
        offset = derive_seed(Stream.CLASS, config.seed) / 2**63
        classes = spread_classes(pipeline.rules.class_mix, count, offset)
    return [AskedClass(index, names[index]) for index in classes]


@dataclass(frozen=True, eq=False)
class MadeMask:
    """A mask as it was decoded and cleaned, [H, W], and its image [C, H, W] in [-1, 1], None for masks alone."""

    image: Tensor | None
    label: np.ndarray
    changed: float
    margin: float
    faults: tuple[str, ...]
    attempts: int

    def note(self, asked: str) -> GeneratedMask:
        """Return what the manifest says of it; asked: the name of the class that it should have."""
        return GeneratedMask(
            name=asked,
            cleaned=round(self.changed, 6),
            margin=round(self.margin, 4),
            attempts=self.attempts,
            faults=list(self.faults),
        )


def accepted_masks(
    pipeline: GenerationPipeline, run: SamplingRun, samples: Sequence[PlannedSample], batch_size: int
) -> Iterator[tuple[PlannedSample, MadeMask]]:
    """Yield each sample of an `AskedClass` with its mask, as soon as it is accepted or given up.

    A mask with faults is drawn anew, at most `ATTEMPTS` times in all; the noise of an attempt depends on the sample and
    its number alone. Of masks with faults the one with the fewest is taken, the first of several.
    """
    waiting = [(sample, 1, None) for sample in reversed(samples)]
    while waiting:
        batch = [waiting.pop() for _ in range(min(batch_size, len(waiting)))]
        classes = [sample.source.class_id for sample, _, _ in batch]
        seeds = [_seed_of(sample, attempt) for sample, attempt, _ in batch]
        made = pipeline.draw(run, classes, seeds)
        again = []
        for row, (sample, attempt, best) in enumerate(batch):
            image = None if made.image is None else made.image[row]
            mask = _checked(pipeline, image, made.label[row], made.margin[row], sample.source.class_id, attempt)
            if best is not None and len(best.faults) <= len(mask.faults):
                mask = best
            if mask.faults and attempt < ATTEMPTS:
                again.append((sample, attempt + 1, mask))
            else:
                yield sample, replace(mask, attempts=attempt)
        waiting += reversed(again)


def _seed_of(sample: PlannedSample, attempt: int) -> int:
    return sample.seed if attempt == 1 else derive_seed(Stream.SAMPLE, sample.seed, attempt)


def _checked(
    pipeline: GenerationPipeline, image: Tensor | None, label: Tensor, margin: Tensor, asked: int, attempt: int
) -> MadeMask:
    cleaned, changed = pipeline.rules.cleaned(label.numpy())
    faults = pipeline.rules.faults(cleaned, changed, asked)
    return MadeMask(image, cleaned, changed, float(margin.mean()), faults, attempt)


def _say(output: SyntheticFolder, lines: Sequence[ManifestLine], card: str) -> None:
    """Print how the masks came out, and where everything is."""
    made = [line.generated for line in lines if line.generated is not None]
    redrawn = sum(each.attempts - 1 for each in made)
    kept = [each for each in made if each.faults]
    what = output.settings.generates
    print(
        f"{len(lines)} {what}s; {redrawn} masks were rejected and drawn anew; cleaning changed "
        f"{np.mean([each.cleaned for each in made] or [0]):.2%} of the pixels"
    )
    if kept:
        counts = {fault: sum(fault in each.faults for each in kept) for each in kept for fault in each.faults}
        shown = ", ".join(f"{fault} {count}" for fault, count in sorted(counts.items()))
        print(
            f"warning: {output.folder}: {len(kept)} of {len(made)} masks have faults after {ATTEMPTS} attempts "
            f"({shown}): their lines in the manifest name them; train for longer"
        )
    say_where(output, card)
