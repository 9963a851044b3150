"""Configuration of `studio`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from guided_diffusion.config.evaluate import SegmenterOptions
from guided_diffusion.config.pipeline import LoadConfig, MarkedConfig, SamplingConfig
from guided_diffusion.runtime.options import ActionConfig, Problem, option, split_problem


class StudioConfig(LoadConfig, SamplingConfig, MarkedConfig, ActionConfig):
    """Keys of `studio`."""

    required: ClassVar = ("model_path", "results_path")
    summary: ClassVar = "a page on this machine: paint a mask, see the images, keep the good ones as pairs"
    common: ClassVar = (
        "model_path", "results_path", "data_dir", "good_dir", "evaluate_dir", "split", "s", "steps", "port",
    )  # fmt: skip

    segmenter: SegmenterOptions
    data_split: Literal["train", "test"] = option(
        "train", "split of data_dir that the page opens with, and whose masks a batch is sampled from"
    )
    good_dir: str = option("", "folder of good images, for models that fill holes; as good_dir of place", cloud=True)
    evaluate_dir: str = option(
        "", "output_dir of evaluate: its report, and its segmenter, which looks for the mask in each image", path=True
    )
    hole_margin: int = option(6, "pixels, as the model sees them, by which a hole is larger than its mask", ge=2, le=64)
    feather: int = option(3, "pixels from the rim of a hole over which the painting sets in; 0: none", ge=0, le=64)
    results_path: str = option("", "folder for the accepted pairs, and jobs/ for batches of samples", written=True)
    split: str = option("train", "write pairs into this sub-folder, so that results_path is itself a data_dir")
    seed: int = option(0, "seed that the page begins with", ge=0, lt=2**53)
    port: int = option(0, "port on 127.0.0.1; 0: a free one", ge=0, le=65535)
    open_browser: bool = option(True, "open the page in the browser; its address is printed in any case")

    def check(self) -> Iterator[Problem]:
        yield from super().check()
        if self.feather > self.hole_margin:
            line = f"feather is {self.feather}, but hole_margin is {self.hole_margin}: the painting sets in outside of "
            yield ("feather", f"{line}the mask, so use at most {self.hole_margin}")
        if self.split == "jobs":
            yield ("split", "split is 'jobs', where batches of samples go: choose another name, such as train")
        yield from split_problem(self.split)
