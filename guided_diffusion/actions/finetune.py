"""`finetune`: further training with dropped masks, for classifier-free guidance."""

from __future__ import annotations

from pathlib import Path

from guided_diffusion.config.finetune import FinetuneConfig
from guided_diffusion.pipelines.build import trained_config
from guided_diffusion.pipelines.dataset import refuse_missing_condition
from guided_diffusion.pipelines.output import (
    dataset_folders,
    image_folder,
    output_of,
    refuse_other_record,
    refuse_written_sources,
)
from guided_diffusion.pipelines.resume import ResumePlan, check_same_run, find_resume_state
from guided_diffusion.pipelines.training import train
from guided_diffusion.runtime.checkpoint import BEST, find_checkpoint, load_checkpoint
from guided_diffusion.runtime.distributed import init_distributed
from guided_diffusion.runtime.errors import ConfigError


def run(config: FinetuneConfig) -> int:
    """Finetune the model of `resume_checkpoint` in `output_dir`, or resume doing so."""
    path, output_dir = Path(config.resume_checkpoint), config.run.output_dir
    if Path(output_dir).resolve() in (path.resolve(), path.resolve().parent):
        line = f"output_dir is the folder of resume_checkpoint ({output_dir}): the finetuned model would replace the "
        raise ConfigError.of_keys(("output_dir", f"{line}trained one; choose another output_dir"))
    world = init_distributed(config.precision.device)
    try:
        refuse_other_record("output_dir", output_dir, "finetune")
        with output_of("finetune", [output_dir], world):
            own = find_resume_state(output_dir)
            # An interrupted finetuning needs its source no more.
            source = own or load_checkpoint(find_checkpoint(path, prefer=BEST))
            options = config.as_training(trained_config(source, config, takes_masks=True))
            refuse_missing_condition(options)
            refuse_written_sources(
                {"output_dir": Path(output_dir)},
                [*dataset_folders(options.source), *image_folder(options.good.image_dir)],
            )
            if own is not None:
                check_same_run(options, own)
            train(options, ResumePlan(source, continues=own is not None, own=own is not None), world, action="finetune")
    finally:
        world.close()
    return 0
