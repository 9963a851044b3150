"""Configuration of `export`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from guided_diffusion.config.pipeline import WeightsOptions
from guided_diffusion.runtime.options import ActionConfig, Problem, option


class ExportConfig(ActionConfig):
    """Keys of `export`."""

    required: ClassVar = ("model_path", "export_path")
    summary: ClassVar = "write the weights of a run as bare .pt or .safetensors"

    weights: WeightsOptions
    export_path: str = option("", "file to write, ending in .pt or .safetensors", written=True)

    def check(self) -> Iterator[Problem]:
        yield from super().check()
        if self.export_path and Path(self.export_path).suffix not in (".pt", ".safetensors"):
            yield ("export_path", f"export_path is {self.export_path!r}: it must end in .pt or .safetensors")
