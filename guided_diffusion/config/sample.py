"""Configuration of `sample`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal, Self

from guided_diffusion.config.pipeline import LoadConfig, MarkedConfig, SamplingConfig
from guided_diffusion.data.options import LayoutOptions
from guided_diffusion.runtime.options import ActionConfig, NameList, Problem, option, split_problem


class SampleConfig(LoadConfig, SamplingConfig, MarkedConfig, ActionConfig):
    """Keys of `sample`."""

    required: ClassVar = ("model_path", "results_path")
    summary: ClassVar = "write synthetic image/mask pairs in the layout of the real dataset"
    common: ClassVar = (
        "model_path", "results_path", "data_dir", "data_split", "mask_dir",
        "num_samples", "s", "sampler", "steps", "split",
    )  # fmt: skip

    layouts: LayoutOptions
    unlabeled_to_zero: bool = option(False, "pixels of the class `unlabelled` carry no condition")
    mask_dir: str = option("", "folder of masks alone, in place of data_dir", cloud=True)
    data_split: Literal["train", "test"] | None = option(
        None, "split of data_dir whose masks or boxes are used; null: test, train with layout_source recombine"
    )
    results_path: str = option("", "folder for images/, masks/, manifest.jsonl and contact_sheet.png", written=True)
    split: str = option("", "write into this sub-folder, such as train, so that results_path is itself a data_dir")
    num_samples: int | None = option(
        None, "samples to write, masks are used in turn; null: one for each mask", ge=1, le=1_000_000
    )
    class_names: NameList | None = option(
        None, "classes that masks should have, in turn, for models that make masks; null: as often as in training"
    )
    augment_masks: bool = option(False, "flip and turn the masks at random from their second use on")
    batch_size: int = option(8, "images made at a time", ge=1, le=65536)
    seed: int = option(0, "seed of the samples", ge=0, lt=2**63)

    def check(self) -> Iterator[Problem]:
        yield from super().check()
        both = "data_dir and mask_dir say where the masks come from, and"
        if self.layouts.layout_source == "file" and self.layouts.layout_file:
            for key, value in (("data_dir", self.source.data_dir), ("mask_dir", self.mask_dir)):
                if value:
                    yield (key, f"{key} is given, but the layouts are those of layout_file: leave one of the two out")
        if self.source.data_dir and self.mask_dir:
            yield ("data_dir", f"{both} both are given: give one of them")
        elsewhere = self.source.data_dir or self.mask_dir or self.layouts.layout_file
        if not elsewhere and self.num_samples is None:
            line = f"{both} neither is given: give one of them, or num_samples for a model that takes no masks"
            yield ("data_dir", line)
        if self.class_names == ():
            yield ("class_names", "class_names is empty: name some classes, or leave it out")
        yield from split_problem(self.split)

    @property
    def idle_split(self) -> str:
        """What to say of a `data_split` that means nothing, as of a config whose data_dir is replaced; else ""."""
        if self.source.data_dir or self.data_split in (None, self._default_split):
            return ""
        elsewhere = {"mask_dir": self.mask_dir, "layout_file": self.layouts.layout_file}
        given = next((f"{key} is given" for key, value in elsewhere.items() if value), "data_dir is not given")
        return f"data_split {self.data_split} is left aside, as {given}"

    @property
    def _default_split(self) -> Literal["train", "test"]:
        return "train" if self.layouts.layout_source == "recombine" else "test"

    def resolve(self) -> Self:
        config = super().resolve()
        return config if self.data_split is not None else config.replaced(data_split=self._default_split)
