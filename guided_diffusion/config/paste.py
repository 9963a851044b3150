"""Configuration of `paste`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from guided_diffusion.config.pipeline import MarkedConfig
from guided_diffusion.config.scenes import ScenesConfig
from guided_diffusion.data.options import Channels, GeometryOptions, ImageRangeOption
from guided_diffusion.runtime.options import ActionConfig, Problem, option

_CHANNELS = GeometryOptions.model_fields["image_channels"].description

Blend = Literal["match", "poisson", "none"]


class PasteConfig(ScenesConfig, MarkedConfig, ActionConfig):
    """Keys of `paste`."""

    required: ClassVar = ("data_dir", "dataset_mode", "good_dir", "results_path")
    summary: ClassVar = "paste training defects into good images, without a model: image/mask pairs of whole images"
    common: ClassVar = (
        "data_dir", "dataset_mode", "good_dir", "results_path", "num_samples", "image_channels", "blend",
        "mask_source", "defects_per_image", "classes",
    )  # fmt: skip

    blend: Blend = option(
        "match",
        "match: the mean brightness at the rim of the defect becomes that of the good image; poisson: its gradients "
        "are pasted, so that the rim has no edge; none: as it is",
    )
    gap: int = option(6, "pixels of the good image between two defects, at least; for mask_source bank", ge=0, le=4096)
    image_channels: Channels | None = option(None, f"{_CHANNELS}; null: as the good images")
    image_range: ImageRangeOption = option(
        "auto",
        "values that are black and white in the contact sheet, as in training; what is pasted has the values of the "
        "files, whatever this is",
    )

    @property
    def takes_pixels(self) -> bool:
        return True

    @property
    def has_network(self) -> bool:
        return False

    def space_between(self, scale: float) -> int:
        return self.gap

    def check(self) -> Iterator[Problem]:
        yield from super().check()
        yield from self.region_problem()
        if self.placing.mask_source == "file" and self.changed("gap"):
            yield ("gap", "gap is given, but placements says where defects go: leave one of the two out")
        for key, given in (("bank_dir", self.placing.bank_dir), ("mask_source", self.placing.mask_source == "dir")):
            if given:
                line = f"{key} is given: its masks are not those of training defects, so there is nothing to paste"
                yield (key, f"{line}; leave it out, or paint into them with place")
