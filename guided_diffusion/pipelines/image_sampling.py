"""`sample` from a network without a condition: a folder of images, without masks."""

from __future__ import annotations

from collections.abc import Sequence

from guided_diffusion.conditions.no_condition import NoCondition
from guided_diffusion.config.network import TrainedConfig
from guided_diffusion.config.sample import SampleConfig
from guided_diffusion.models.architecture import height_width
from guided_diffusion.pipelines.load import class_names_of, pipeline_of_config
from guided_diffusion.pipelines.sample_settings import recorded_settings
from guided_diffusion.pipelines.sampling import Progress
from guided_diffusion.pipelines.work_left import begin_output, finish_output, make_batches
from guided_diffusion.runtime.checkpoint import Checkpoint
from guided_diffusion.runtime.distributed import ProcessGroup
from guided_diffusion.samples.manifest import IMAGES_ALONE, SampleSettings
from guided_diffusion.samples.plan import PlannedSample, plan_generated
from guided_diffusion.samples.writer import SyntheticFolder


def sample_images(config: SampleConfig, checkpoint: Checkpoint, trained: TrainedConfig, world: ProcessGroup) -> None:
    """Write the images that `config` asks for and that are not there yet."""
    pipeline = pipeline_of_config(config, checkpoint, trained, class_names_of(checkpoint, trained), world.device)
    sampling = pipeline.begin(config.sampler, extrapolation=config.extrapolation)
    plan = plan_generated([None] * config.num_samples, config.seed)
    settings = SampleSettings(
        **recorded_settings(config, trained, checkpoint, sampling.num_steps), generates=IMAGES_ALONE
    )
    output = SyntheticFolder(config.results_path, config.split, None, settings, mark=config.mark)
    todo = begin_output(config, trained, checkpoint, sampling, output, plan, world, "image")
    size = height_width(trained.geometry.image_size)

    def make(batch: Sequence[PlannedSample], progress: Progress) -> None:
        images = sampling(NoCondition(len(batch), size), [sample.seed for sample in batch], progress=progress)
        for sample, image in zip(batch, images, strict=True):
            output.write(sample, image, None)

    make_batches(make, todo, config.batch_size, sampling.num_steps, output, world)
    world.barrier()
    if world.is_main:
        finish_output(config, trained, checkpoint, output, len(plan), "image")
    world.barrier()
