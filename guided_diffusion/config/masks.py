"""Configuration of `masks`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from guided_diffusion.config.pipeline import WeightsOptions
from guided_diffusion.data.options import ImageSize, SourceOptions
from guided_diffusion.data.placing.options import MaskOptions
from guided_diffusion.runtime.options import ActionConfig, Problem, option

_EDITING = ("place", "movable", "scaling", "rotation", "bending", "donor_scale", "class_balance")
"""Keys that `method` boxes makes no use of."""


class MasksConfig(ActionConfig):
    """Keys of `masks`."""

    required: ClassVar = ("data_dir", "dataset_mode", "results_path")
    summary: ClassVar = "make new masks of those of a dataset, edited or drawn in their boxes, and compare them with it"
    common: ClassVar = (
        "data_dir", "dataset_mode", "num_classes", "results_path", "num_masks", "seed", "place", "movable",
        "class_balance", "random_flip", "vertical_flip",
    )  # fmt: skip

    source: SourceOptions
    masks: MaskOptions
    weights: WeightsOptions
    method: Literal["edit", "boxes"] = option(
        "edit",
        "edit: shapes of the masks, edited; boxes: shapes that the model of boxes in model_path draws into their boxes",
    )
    layout_source: Literal["data", "recombine"] = option(
        "data", "for method boxes; data: the boxes of a mask, recombine: boxes of several masks (docs/boxes.md)"
    )
    mask_size: ImageSize | None = option(
        None,
        "for method boxes: size of the masks, such as the image_size of the model that is to draw them; null: that of "
        "the model of boxes",
    )
    data_split: Literal["train", "test"] = option("train", "split of data_dir whose masks are taken apart")
    results_path: str = option(
        "", "folder for masks/, manifest.jsonl, classes.json, statistics.json and contact_sheet.png", written=True
    )
    num_masks: int | None = option(None, "masks to make; null: as many as the split has", ge=1, le=1_000_000)
    seed: int = option(0, "seed of the masks", ge=0, lt=2**63)

    def check(self) -> Iterator[Problem]:
        yield from super().check()
        if self.method == "boxes":
            if not self.weights.model_path:
                yield ("model_path", "model_path is missing, but method is boxes: name a model of boxes")
            for key in self.changed(*_EDITING):
                yield (key, f"{key} is given, but method is boxes, which edits no shapes: leave it out")
            return
        for key in self.changed("model_path", "weights", "layout_source", "mask_size"):
            yield (key, f"{key} is given, but method is edit: leave it out, or set method to boxes")
