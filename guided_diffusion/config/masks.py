"""Configuration of `masks`."""

from __future__ import annotations

from typing import ClassVar, Literal

from guided_diffusion.data.options import SourceOptions
from guided_diffusion.data.placing.options import MaskOptions
from guided_diffusion.runtime.options import ActionConfig, option


class MasksConfig(ActionConfig):
    """Keys of `masks`."""

    required: ClassVar = ("data_dir", "dataset_mode", "results_path")
    summary: ClassVar = "make new masks of those of a dataset, without training, and compare them with it"
    common: ClassVar = (
        "data_dir", "dataset_mode", "num_classes", "results_path", "num_masks", "seed", "place", "movable",
        "class_balance", "random_flip", "vertical_flip",
    )  # fmt: skip

    source: SourceOptions
    masks: MaskOptions
    data_split: Literal["train", "test"] = option("train", "split of data_dir whose masks are taken apart")
    results_path: str = option(
        "", "folder for masks/, manifest.jsonl, classes.json, statistics.json and contact_sheet.png", path=True
    )
    num_masks: int | None = option(None, "masks to make; null: as many as the split has", ge=1, le=1_000_000)
    seed: int = option(0, "seed of the masks", ge=0, lt=2**63)
