"""Configuration of `demo`."""

from __future__ import annotations

from typing import ClassVar

from guided_diffusion.runtime.options import ActionConfig, option
from guided_diffusion.training.options import DeviceOptions


class DemoConfig(ActionConfig):
    """Keys of `demo`."""

    required: ClassVar = ("output_dir",)
    summary: ClassVar = "the whole journey on a built-in dataset of lemons, in minutes on a CPU"

    compute: DeviceOptions
    output_dir: str = option("runs/demo", "folder for the dataset, the runs and the picture", path=True)
    seed: int = option(0, "seed of the dataset and of everything random", ge=0, lt=2**63)
    max_epochs: int | None = option(None, "epochs of training; null: as measured to fit the quick start", ge=1)
