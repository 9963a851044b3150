"""Configuration of `doctor`."""

from __future__ import annotations

from typing import ClassVar

from guided_diffusion.runtime.options import ActionConfig, option
from guided_diffusion.training.options import DeviceOptions


class DoctorConfig(ActionConfig):
    """Keys of `doctor`, none of which is needed."""

    summary: ClassVar = "one page on this machine: versions, devices, a self-test, step times; for bug reports"

    compute: DeviceOptions
    output_dir: str = option("", "folder for doctor.md and doctor.json; empty: nothing is written", written=True)
    train_config: str = option(
        "",
        "config of train: three of its steps are measured, for times, memory, and which batch fits; nothing is written",
        path=True,
    )
    time_limit: int = option(
        120,
        "seconds after which no more self-test and step times are begun; 0: none of them",
        ge=0,
        le=86400,
    )
