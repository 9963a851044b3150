"""Configuration of `place`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from guided_diffusion.config.pipeline import LoadConfig, MarkedConfig, SamplingConfig
from guided_diffusion.config.scenes import ScenesConfig
from guided_diffusion.runtime.options import ActionConfig, FloatTuple, Problem, option


class PlaceConfig(LoadConfig, SamplingConfig, ScenesConfig, MarkedConfig, ActionConfig):
    """Keys of `place`."""

    required: ClassVar = ("model_path", "results_path")
    summary: ClassVar = "paint defects into good images, at their own size: image/mask pairs of whole images"
    common: ClassVar = (
        "model_path", "data_dir", "good_dir", "results_path", "num_samples",
        "mask_source", "defects_per_image", "classes", "s", "steps",
    )  # fmt: skip

    erase: bool = option(False, "paint over the defects of data_dir's own images, in place of good_dir")
    hole_margin: int = option(6, "pixels, as the model sees them, by which a hole is larger than its mask", ge=2, le=64)
    feather: int = option(3, "pixels from the rim of a hole over which the painting sets in; 0: none", ge=0, le=64)
    opacity: FloatTuple = option(
        None,
        "[least, most]: each painted hole is mixed into the good image by a random share between these, so that some "
        "defects are fainter; null: as painted",
    )
    paste_noise: float | None = option(
        None,
        "noise level (noise / image) at which painting begins with the pixels of the training defect, pasted under its "
        "mask: the lower, the more of it stays; null: begin with noise alone",
        gt=0,
    )
    batch_size: int = option(8, "windows painted at a time", ge=1, le=65536)

    @property
    def takes_pixels(self) -> bool:
        return self.paste_noise is not None

    def space_between(self, scale: float) -> int:
        return 2 * round(self.hole_margin / scale) + 1  # a pixel between the holes: those that meet are one

    def check(self) -> Iterator[Problem]:
        yield from super().check()
        if self.erase and self.good_dir:
            yield ("erase", "erase is true, but good_dir is given: leave one of the two out")
        if not self.erase and not self.good_dir:
            yield ("good_dir", "good_dir is missing: give the folder of good images, or set erase to true")
        if self.erase and self.region:
            yield ("region", "region is given, but erase paints where the defects are: leave it out")
        if not self.erase:
            yield from self.region_problem()
        if self.erase and self.placing.mask_source != "bank":
            line = f"mask_source is {self.placing.mask_source}, but erase paints where the defects are: leave it out"
            yield ("mask_source", line)
        if self.placing.bank_dir:
            for key in ("erase", "data_dir"):
                if self.get(key):
                    where = "the defects painted over are those of data_dir" if key == "erase" else "it has the shapes"
                    yield (key, f"{key} is given, but so is bank_dir, and {where}: leave one of the two out")
        elif not self.source.data_dir and (self.erase or self.placing.mask_source != "dir"):
            yield ("data_dir", "data_dir is missing: give the dataset whose training masks have the defects")
        if self.paste_noise is not None:
            what = f"paste_noise is {self.paste_noise:g}, but there is no training defect to paste"
            if self.erase:
                yield ("paste_noise", f"{what} where erase is true: leave it out")
            elif self.placing.bank_dir or self.placing.mask_source == "dir":
                key = "bank_dir" if self.placing.bank_dir else "mask_source dir"
                yield ("paste_noise", f"{what} with {key}: leave one of the two out")
        yield from self._opacity_problems()
        if self.feather > self.hole_margin:
            line = f"feather is {self.feather}, but hole_margin is {self.hole_margin}: the painting sets in outside of "
            yield ("feather", f"{line}the mask, so use at most {self.hole_margin}")

    def _opacity_problems(self) -> Iterator[Problem]:
        if self.opacity is None:
            return
        if len(self.opacity) != 2 or not 0 < self.opacity[0] <= self.opacity[1] <= 1:
            found = f"opacity is {list(self.opacity)}"
            yield ("opacity", f"{found}: expected [least, most] with 0 < least <= most <= 1, such as [0.4, 1]")
        elif self.erase:
            yield ("opacity", "opacity is given, but erase is true, and the defects would show through: leave it out")
