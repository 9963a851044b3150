"""`segment`: masks for many images from a few labeled ones, scored on held-out images before anything is labeled."""

from __future__ import annotations

from pathlib import Path

from guided_diffusion.config.segment import SegmentConfig
from guided_diffusion.data.modes import get_mode
from guided_diffusion.pipelines.hub_weights import with_pinned_weights
from guided_diffusion.pipelines.output import (
    dataset_folders,
    image_folder,
    output_of,
    refuse_other_record,
    refuse_written_sources,
)
from guided_diffusion.pipelines.segment.plan import plan_lines
from guided_diffusion.pipelines.segment.run import FOLDS, PREDICTED, segment
from guided_diffusion.runtime.distributed import init_distributed
from guided_diffusion.samples.manifest import FOLDERS


def run(config: SegmentConfig) -> int:
    """Train the classifiers, score them, label the images; each stage goes on where it was interrupted."""
    config = with_pinned_weights(config)
    with init_distributed(config.precision.device) as world:
        folder = Path(config.output_dir)
        _refuse_own_sources(config)
        refuse_other_record("output_dir", folder, "segment")
        with output_of("segment", [folder], world):
            paths = segment(config, world)
            if world.is_main:
                for path in paths:
                    print(f"  {path.absolute()}")
    return 0


def plan(config: SegmentConfig) -> list[str]:
    """Return what a run of `config` would read and label; UserError where it could not begin."""
    _refuse_own_sources(config)
    return plan_lines(config)


def _refuse_own_sources(config: SegmentConfig) -> None:
    """Raise ConfigError where results would lie among what is read, and for an unknown dataset_mode."""
    folder = Path(config.output_dir)
    if config.source.dataset_mode:
        get_mode(config.source.dataset_mode)
    pairs = folder / config.split
    written = [folder, pairs, *(pairs / kind for kind in FOLDERS), folder / PREDICTED, folder / FOLDS]
    read = [*dataset_folders(config.source), *image_folder(config.image_dir)]
    refuse_written_sources({"output_dir": written}, read)
