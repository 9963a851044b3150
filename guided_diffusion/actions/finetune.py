"""`finetune`: further training with dropped masks, for classifier-free guidance."""

from __future__ import annotations

from pathlib import Path

from guided_diffusion.config.finetune import FinetuneConfig
from guided_diffusion.config.train import TrainConfig
from guided_diffusion.pipelines.build import options_of_checkpoint, trained_config
from guided_diffusion.pipelines.dataset import refuse_missing_condition
from guided_diffusion.pipelines.hub_weights import with_pinned_weights
from guided_diffusion.pipelines.output import (
    dataset_folders,
    image_folder,
    output_of,
    refuse_other_record,
    refuse_written_sources,
)
from guided_diffusion.pipelines.plans import training_lines
from guided_diffusion.pipelines.resume import ResumePlan, check_same_run, find_resume_state
from guided_diffusion.pipelines.train_misfits import refuse_idle_keys
from guided_diffusion.pipelines.training import train
from guided_diffusion.runtime.checkpoint import BEST, LAST, Checkpoint, find_checkpoint, load_checkpoint
from guided_diffusion.runtime.distributed import choose_device, init_distributed
from guided_diffusion.runtime.errors import ConfigError
from guided_diffusion.runtime.hub_address import is_address


def run(config: FinetuneConfig) -> int:
    """Finetune the model of `resume_checkpoint` in `output_dir`, or resume doing so."""
    _refuse_own_source(config)
    output_dir = config.run.output_dir
    if not (Path(output_dir) / LAST).exists():  # an interrupted finetuning needs its source no more
        config = with_pinned_weights(config, "resume_checkpoint")
    with init_distributed(config.precision.device) as world:
        refuse_other_record("output_dir", output_dir, "finetune")
        with output_of("finetune", [output_dir], world):
            own = find_resume_state(output_dir)
            source = own or load_checkpoint(find_checkpoint(config.resume_checkpoint, prefer=BEST))
            options = _training_options(config, source)
            if own is not None:
                check_same_run(options, own)
            train(options, ResumePlan(source, continues=own is not None, own=own is not None), world, action="finetune")
    return 0


def plan(config: FinetuneConfig) -> list[str]:
    """Return what a run of `config` would do; UserError where it could not begin."""
    _refuse_own_source(config)
    choose_device(config.precision.device)
    own = find_resume_state(config.run.output_dir)
    source = own or load_checkpoint(find_checkpoint(config.resume_checkpoint, prefer=BEST), lazily=True)
    options = _training_options(config, source)
    if own is not None:
        check_same_run(options, own)
    return training_lines(options, ResumePlan(source, continues=own is not None, own=own is not None))


def _refuse_own_source(config: FinetuneConfig) -> None:
    path, output_dir = Path(config.resume_checkpoint), config.run.output_dir
    if is_address(path):
        return
    if Path(output_dir).resolve() in (path.resolve(), path.resolve().parent):
        line = f"output_dir is the folder of resume_checkpoint ({output_dir}): the finetuned model would replace the "
        raise ConfigError.of_keys(("output_dir", f"{line}trained one; choose another output_dir"))


def _training_options(config: FinetuneConfig, source: Checkpoint) -> TrainConfig:
    """Return the options of the further training of `source`; UserError where it could not begin."""
    before = options_of_checkpoint(source, TrainConfig)
    options = config.as_training(trained_config(source, config, takes_masks=True), before)
    refuse_missing_condition(options)
    refuse_idle_keys(options, config.given)
    refuse_written_sources(
        {"output_dir": Path(config.run.output_dir)},
        [*dataset_folders(options.source), *image_folder(options.good.image_dir)],
    )
    return options
