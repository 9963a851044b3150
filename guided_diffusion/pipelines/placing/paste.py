"""What `paste` needs before it begins: the training defects, and where they go in which good images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from guided_diffusion.config.network import TrainedConfig
from guided_diffusion.config.paste import PasteConfig
from guided_diffusion.data.files import open_image
from guided_diffusion.data.intensity import stored_samples
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.native_image import has_no_colors
from guided_diffusion.data.pairing import list_good_images
from guided_diffusion.data.scan.problems import ProblemKind, problem_lines
from guided_diffusion.pipelines.dataset import scan_split
from guided_diffusion.pipelines.placing.good_images import has_gray_mode
from guided_diffusion.pipelines.placing.plan import PlacePlan, defects_of, plan_placing
from guided_diffusion.runtime.errors import ConfigError


@dataclass(frozen=True)
class PasteSource:
    """A training split and good images, and which of its defects go where in these."""

    config: PasteConfig  # with image_channels
    trained: TrainedConfig
    """Dataset and geometry as a network of whole images at their own size would have them; there is none."""
    encoding: LabelEncoding
    plan: PlacePlan
    warnings: tuple[str, ...]
    """Of the training split, one line each."""


def open_paste(config: PasteConfig) -> PasteSource:
    """Scan the training split and list the good images; UserError for what is missing or cannot be used."""
    mode = get_mode(config.source.dataset_mode)
    if mode.masks is None:
        line = f"dataset_mode is {config.source.dataset_mode}, which has no masks, so no defects to paste: use another"
        raise ConfigError.of_keys(("dataset_mode", line))
    if config.image_channels is None:
        config = config.replaced(image_channels=_channels_of_good(config))
    trained = _as_trained(config)
    report = scan_split(trained.source, trained.geometry, "train")
    encoding = report.raise_if_fatal()
    training = defects_of(report, config, trained, encoding)
    plan = plan_placing(config, trained, encoding, training)
    warnings = [problem for problem in report.warnings if problem.kind != ProblemKind.IMAGE_COLORS]  # about training
    return PasteSource(config, trained, encoding, plan, tuple(problem_lines(warnings)))


def _as_trained(config: PasteConfig) -> TrainedConfig:
    seen = {"image_channels": config.image_channels, "image_range": config.image_range, "resize": "window"}
    # Windows of the smallest size: no image is refused for being smaller than one.
    return TrainedConfig.from_flat({**seen, "image_size": 8}).model_copy(update={"source": config.source})


def _channels_of_good(config: PasteConfig) -> Literal[1, 3]:
    """Return 3 where a good image has colors, else 1. Of files that can hold colors all are read until one has some."""
    for good in list_good_images(config.good_dir):
        if not has_gray_mode(good.image) and not has_no_colors(stored_samples(open_image(good.image), good.image)[0]):
            return 3
    return 1
