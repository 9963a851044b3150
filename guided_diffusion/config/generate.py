"""Configuration of `generate`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from guided_diffusion.config.pipeline import LoadConfig, MarkedConfig, SamplingConfig
from guided_diffusion.features.options import FeatureOptions
from guided_diffusion.labeling.options import UncertaintyOptions
from guided_diffusion.runtime.options import ActionConfig, Problem, option, split_problem

_PUBLISHED_LEFT = 30
"""The published filter drops this many of the most certain images, and keeps none where no more are dropped."""


class GenerateConfig(LoadConfig, SamplingConfig, MarkedConfig, ActionConfig):
    """Keys of `generate`."""

    required: ClassVar = ("model_path", "classifier_path", "num_samples", "results_path")
    instead: ClassVar = dict.fromkeys(("model_path", "classifier_path", "num_samples"), "read_npz")
    summary: ClassVar = "draw images without masks and label them by pixel classifiers: pairs with new masks"
    common: ClassVar = (
        "model_path", "classifier_path", "num_samples", "results_path", "split", "drop_uncertain", "ignore_above",
        "sampler", "steps", "batch_size", "seed",
    )  # fmt: skip

    features: FeatureOptions
    labels: UncertaintyOptions
    classifier_path: str = option(
        "", "classifier.pt that segment wrote for this model, or a folder of published model_0.pth, ...", path=True
    )
    num_samples: int | None = option(
        None, "pairs to write; more images are drawn, as uncertain ones are dropped", ge=1, le=1_000_000
    )
    results_path: str = option("", "folder for images/, masks/, manifest.jsonl and contact_sheet.png", written=True)
    split: str = option("train", "write into this sub-folder, so that results_path is itself a data_dir")
    batch_size: int = option(8, "images drawn at a time", ge=1, le=65536)
    seed: int = option(0, "seed of the images; that of the features is the classifier's", ge=0, lt=2**63)
    published_filter: bool = option(
        False, "num_samples are drawn, and dropped as published, with the 30 most certain ones: for comparison alone"
    )
    write_npz: bool = option(False, "write images, masks and scores as one .npz in the published format, too")
    read_npz: str = option(
        "", "published .npz of images, labels and scores, in place of drawing and labeling", path=True
    )

    def check(self) -> Iterator[Problem]:
        yield from super().check()
        if self.source.data_dir:
            yield ("data_dir", "data_dir is given, but images are drawn without masks: leave it out")
        if self.read_npz:
            for key in self.changed("model_path", "classifier_path", "ignore_above", "flip"):
                yield (key, f"{key} is given, but read_npz has images and masks already: leave one of the two out")
        if self.sampler.s != 1:
            yield ("s", f"s is {self.sampler.s:g}, but without a mask there is nothing to guide towards: set s to 1")
        dropped = int(self.labels.drop_uncertain * (self.num_samples or 0))
        if self.published_filter and self.num_samples is not None and dropped <= _PUBLISHED_LEFT:
            line = (
                f"published_filter is true, which keeps nothing where no more than {_PUBLISHED_LEFT} images are "
                f"dropped, and drop_uncertain {self.labels.drop_uncertain:g} of {self.num_samples} are {dropped}: set "
                "it to false"
            )
            yield ("published_filter", line)
        yield from split_problem(self.split)
