"""Configuration of `check`."""

from __future__ import annotations

from typing import ClassVar

from guided_diffusion.data.options import (
    BoxOptions,
    EtaOptions,
    GeometryOptions,
    GoodImageOptions,
    SourceOptions,
    WindowOptions,
)
from guided_diffusion.diffusion.options import CLASSWISE, LabelDiffusionOptions
from guided_diffusion.models.options import ConditionKindOptions, LatentFactorOptions
from guided_diffusion.runtime.options import ActionConfig, option
from guided_diffusion.training.options import BatchOptions, ThinClassOptions


class CheckConfig(ActionConfig):
    """Keys of `check`."""

    required: ClassVar = ("data_dir", "dataset_mode", "output_dir")
    instead: ClassVar = {"data_dir": "image_dir", "dataset_mode": "image_dir"}
    summary: ClassVar = "scan a dataset: every pair, class shares, problems, a preview picture"
    common: ClassVar = (
        "data_dir", "dataset_mode", "num_classes", "ignore_label", "exif", "image_size", "image_channels",
        "image_range", "resize", "batch_size", "output_dir", "preview_images",
    )  # fmt: skip

    source: SourceOptions
    geometry: GeometryOptions
    network: ConditionKindOptions
    boxes: BoxOptions
    good: GoodImageOptions
    windows: WindowOptions
    eta: EtaOptions
    label_diffusion: LabelDiffusionOptions
    batch: BatchOptions
    latents: LatentFactorOptions
    thin: ThinClassOptions
    output_dir: str = option("runs/check", "folder for the preview pictures and the report", written=True)
    preview_images: int = option(12, "pairs in a preview picture, 0: no picture", ge=0, le=200)

    @property
    def shows_eta(self) -> bool:
        """Whether the report has a column of eta, as class-wise label diffusion would train with."""
        options = self.label_diffusion
        return (options.cond_diffuse and options.cond_opt == CLASSWISE) or bool({"eta_path", "eta_scale"} & self.given)
