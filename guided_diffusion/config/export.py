"""Configuration of `export`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from guided_diffusion.config.pipeline import WeightsOptions
from guided_diffusion.data.formats.options import ExportFormat
from guided_diffusion.data.options import SourceOptions
from guided_diffusion.runtime.hub_address import SUFFIX, is_repo
from guided_diffusion.runtime.options import ActionConfig, Problem, option


class ExportConfig(ActionConfig):
    """Keys of `export`."""

    required: ClassVar = ("export_path",)
    summary: ClassVar = "write the weights of a run as .pt or .safetensors, or a dataset in the format of other tools"
    common: ClassVar = ("model_path", "weights", "data_dir", "dataset_mode", "format", "export_path")

    weights: WeightsOptions
    source: SourceOptions
    format: ExportFormat | None = option(
        None, "of a dataset that is written in place of weights; hf: an imagefolder of Hugging Face datasets"
    )
    push_to: str = option(
        "", "also upload what is exported to this repository of the Hugging Face Hub, user/name; nothing by default"
    )
    push_private: bool = option(True, "with push_to: make the repository private, and refuse one that is public")
    evaluate_dir: str = option(
        "", "of weights: output_dir of evaluate on samples of theirs, whose verdict the card then has", path=True
    )
    export_path: str = option(
        "", "weights: file to write, ending in .pt or .safetensors; a dataset: new folder", written=True
    )

    def check(self) -> Iterator[Problem]:
        yield from super().check()
        if self.push_to and not is_repo(self.push_to):
            yield ("push_to", f"push_to is {self.push_to!r}: give the name of a repository, such as user/name")
        if self.format is not None:
            if self.evaluate_dir:
                line = "evaluate_dir is given, but format is of a dataset, whose own card has its verdict: leave it out"
                yield ("evaluate_dir", line)
            if not self.source.data_dir:
                line = f"data_dir is missing, but format is {self.format}: give the dataset or the folder of results"
                yield ("data_dir", line)
            if self.weights.model_path:
                line = f"model_path is given, but format is {self.format}, of a dataset: leave one of the two out"
                yield ("model_path", line)
            return
        if self.source.data_dir and not self.weights.model_path:
            line = "format is missing: a data_dir is exported in one, such as coco; weights need a model_path"
            yield ("format", line)
            return
        if not self.weights.model_path:
            line = "model_path is missing (checkpoint or run folder, whose weights are written): give it"
            yield ("model_path", f"{line}, or format and data_dir for a dataset")
        if self.export_path and Path(self.export_path).suffix not in (".pt", ".safetensors"):
            yield ("export_path", f"export_path is {self.export_path!r}: it must end in .pt or .safetensors")
        elif self.push_to and Path(self.export_path).suffix != SUFFIX:
            line = f"export_path is {self.export_path!r}, but only {SUFFIX} is pushed, which cannot hold code: use that"
            yield ("export_path", line)
