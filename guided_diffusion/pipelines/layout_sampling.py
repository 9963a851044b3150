"""`sample` from a model of boxes: a folder of images with the masks that the model says of them, and their objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from guided_diffusion.config.network import TrainedConfig
from guided_diffusion.config.sample import SampleConfig
from guided_diffusion.data.boxes.asked import AskedLayout, condition_of_layouts, inside_of
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.modes import get_mode
from guided_diffusion.models.architecture import height_width
from guided_diffusion.pipelines.layout_drawing import MASK_STEPS, draw_layouts
from guided_diffusion.pipelines.layout_sources import LayoutSource, find_layouts
from guided_diffusion.pipelines.load import encoding_of_checkpoint, pipeline_of_config
from guided_diffusion.pipelines.sample_settings import recorded_settings
from guided_diffusion.pipelines.sampling import Progress, SamplingRun
from guided_diffusion.pipelines.work_left import begin_output, finish_output, make_batches
from guided_diffusion.runtime.checkpoint import Checkpoint
from guided_diffusion.runtime.distributed import ProcessGroup
from guided_diffusion.runtime.errors import CheckpointError
from guided_diffusion.samples.manifest import PredictedMask, SampleSettings
from guided_diffusion.samples.plan import PlannedSample, plan_samples
from guided_diffusion.samples.predicted import predicted_of, save_objects
from guided_diffusion.samples.writer import SyntheticFolder


@dataclass(frozen=True)
class LayoutWork:
    """What draws the planned samples of layouts and writes them."""

    config: SampleConfig
    trained: TrainedConfig
    source: LayoutSource
    sampling: SamplingRun
    output: SyntheticFolder

    def make(self, batch: Sequence[PlannedSample], progress: Progress) -> None:
        """Draw and write one batch."""
        size, boxes = height_width(self.trained.geometry.image_size), self.trained.boxes
        layouts = [self.styled(sample) for sample in batch]
        condition = condition_of_layouts(
            layouts,
            num_classes=self.source.encoding.num_classes,
            size=size,
            slots=self.source.slots,
            style_dim=self.trained.model.style_dim,
            background=boxes.background,
        )
        inside = inside_of(layouts, size)
        images, labels = draw_layouts(
            self.sampling,
            condition,
            [sample.seed for sample in batch],
            background=get_mode(self.trained.source.dataset_mode).background,
            inside=inside if self.trained.geometry.resize == "window" else None,
            progress=progress,
        )
        if inside is not None:
            labels = labels.masked_fill(~inside, self.source.encoding.num_classes)
        for sample, layout, image, label in zip(batch, layouts, images, labels, strict=True):
            self.output.write_predicted(sample, image, label, self.note(layout), layout.lineage)

    def styled(self, sample: PlannedSample) -> AskedLayout:
        """Return the layout of a sample with the seeds of its styles."""
        assert isinstance(sample.source, AskedLayout)
        given = self.config.layouts.style_seed
        return sample.source.with_styles(self.config.seed if given is None else given, sample.index)

    def note(self, layout: AskedLayout) -> PredictedMask:
        """Return what the manifest says of an image."""
        steps, size = min(MASK_STEPS, self.sampling.num_steps), height_width(self.trained.geometry.image_size)
        return predicted_of(layout, self.source.encoding.names, steps, size)


def sample_layouts(config: SampleConfig, checkpoint: Checkpoint, trained: TrainedConfig, world: ProcessGroup) -> None:
    """Write the images and predicted masks that `config` asks for and that are not there yet."""
    encoding = encoding_of_checkpoint(checkpoint)
    if encoding is None:
        found = "bare weights of a model of boxes, which do not say what its classes are"
        raise CheckpointError.of(checkpoint.path, found, "use a run folder or a checkpoint")
    trained = trained.replaced(num_classes=encoding.num_classes)
    source, plan = world.run_on_main(lambda: _plan(config, trained, encoding))
    pipeline = pipeline_of_config(config, checkpoint, trained, encoding.names, world.device)
    sampling = pipeline.begin(config.sampler, extrapolation=config.extrapolation)
    settings = SampleSettings(
        **recorded_settings(config, trained, checkpoint, sampling.num_steps),
        layout_source=config.layouts.layout_source,
        layouts=source.digest,
        style_seed=config.layouts.style_seed,
    )
    output = SyntheticFolder(config.results_path, config.split, source.encoding, settings, mark=config.mark)
    todo = begin_output(config, trained, checkpoint, sampling, output, plan, world, "sample of layouts")
    work = LayoutWork(config, trained, source, sampling, output)
    make_batches(work.make, todo, config.batch_size, sampling.num_steps, output, world)
    world.barrier()
    if world.is_main:
        objects = save_objects(output)
        noun = "image with predicted masks"
        finish_output(config, trained, checkpoint, output, len(plan), noun, encoding.names)
        print(f"  {objects.absolute()}")
        print("the masks are predicted: what the model says of where it drew the objects, not drawn by people")
    world.barrier()


def _plan(
    config: SampleConfig, trained: TrainedConfig, encoding: LabelEncoding
) -> tuple[LayoutSource, list[PlannedSample]]:
    source = find_layouts(config, trained, encoding)
    plan = plan_samples(source.planned(config.num_samples, config.seed), config.num_samples, config.seed)
    if config.source.data_dir and config.data_split == "test" and config.layouts.layout_source == "recombine":
        print("warning: data_split is test: a model trained on samples of these layouts has seen the test")
    return source._replace(make=None), plan  # functions are not sent to other processes
