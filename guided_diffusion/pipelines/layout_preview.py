"""The previewer of a training on boxes: which layouts it shows, and how images and masks are made of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from guided_diffusion.conditions.layout import LayoutCondition
from guided_diffusion.config.train import TrainConfig
from guided_diffusion.data.loader import collate_examples, collate_inside, collate_labels
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.scan.report import ScanReport
from guided_diffusion.data.visualize import evenly_spaced
from guided_diffusion.diffusion.options import SamplerOptions
from guided_diffusion.models.unet import UNetModel
from guided_diffusion.pipelines.build import AMP_DTYPES
from guided_diffusion.pipelines.dataset import shown_dataset
from guided_diffusion.pipelines.layout_drawing import draw_layouts
from guided_diffusion.pipelines.sampling import SamplingPipeline
from guided_diffusion.pipelines.training_data import condition_maker
from guided_diffusion.runtime.distributed import ProcessGroup
from guided_diffusion.runtime.seeding import Stream, derive_seed
from guided_diffusion.training.ema import EMA
from guided_diffusion.training.layout_preview import LayoutPreviewer


def build_layout_previewer(
    config: TrainConfig, report: ScanReport, model: UNetModel, ema: EMA, world: ProcessGroup, folder: Path
) -> LayoutPreviewer:
    """Return the previewer of layouts spread over the training set."""
    chosen = evenly_spaced(report.pairs, config.run.preview_images)
    mode, encoding = get_mode(config.source.dataset_mode), report.encoding
    shown = shown_dataset(chosen, encoding, config.geometry, mode, conditions=condition_maker(config, encoding))
    indices = range(len(chosen))
    (image, condition), inside = collate_examples(shown, indices), collate_inside(shown, indices)
    num_steps = min(config.run.preview_steps, config.diffusion.diffusion_steps)
    setting = SamplerOptions(steps=num_steps, time_grid="logsnr")
    dtype = AMP_DTYPES[config.precision.precision]
    pipeline = SamplingPipeline(model, config, encoding.names, world.device, dtype, None)

    def draw(condition: LayoutCondition, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        # A new run each time, as the weights have changed; noise from the CPU is the same on every device.
        run = pipeline.begin(setting, noise_device="cpu")
        return draw_layouts(run, condition, list(seeds), background=mode.background, inside=inside)

    return LayoutPreviewer(
        draw,
        ema,
        image=image,
        condition=condition,
        label=collate_labels(shown, indices),
        class_names=encoding.names,
        folder=folder,
        seeds=[derive_seed(Stream.SAMPLE, config.run.seed, index) for index in indices],
        num_steps=num_steps,
    )
