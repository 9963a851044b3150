"""Configuration of `check`."""

from __future__ import annotations

from typing import ClassVar

from guided_diffusion.data.options import EtaOptions, GeometryOptions, SourceOptions
from guided_diffusion.runtime.options import ActionConfig, option
from guided_diffusion.training.options import BatchOptions


class CheckConfig(ActionConfig):
    """Keys of `check`."""

    required: ClassVar = ("data_dir", "dataset_mode", "output_dir")
    summary: ClassVar = "scan a dataset: every pair, class shares, problems, a preview picture"

    source: SourceOptions
    geometry: GeometryOptions
    eta: EtaOptions
    batch: BatchOptions
    output_dir: str = option("runs/check", "folder for the preview pictures and the report", path=True)
    preview_images: int = option(12, "pairs in a preview picture, 0: no picture", ge=0, le=200)
