"""Configuration of `segment`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from guided_diffusion.config.from_checkpoint import FromCheckpointConfig
from guided_diffusion.config.pipeline import WeightsOptions
from guided_diffusion.data.options import SourceOptions
from guided_diffusion.features.options import DIFFUSION, MAE_SIDE, FeatureOptions
from guided_diffusion.labeling.options import ClassifierOptions, UncertaintyOptions
from guided_diffusion.models.architecture import height_width
from guided_diffusion.runtime.options import ActionConfig, Problem, option, split_problem
from guided_diffusion.training.options import ArithmeticOptions

_OWN_FOLDERS = ("predicted", "folds", "features", "test_scores")
"""Folders of output_dir that `segment` fills, or empties, by itself."""


class PseudoLabelOptions(UncertaintyOptions):
    """What is scored before anything is labeled, and what becomes of what the classifiers are unsure of."""

    title: ClassVar = "scores and uncertainty"
    folds: int = option(
        5, "parts of the labeled images, each scored by classifiers trained on the others; 0: no score", ge=0, le=1000
    )
    min_region: int | None = option(
        None, "a class with fewer pixels in a labeled image is not learned there; null: 0, or 20 as published", ge=0
    )
    allow_absent: bool = option(False, "go on although a class is in no labeled image: it is never predicted")

    def check(self) -> Iterator[Problem]:
        if self.folds == 1:
            yield ("folds", "folds is 1, which would leave nothing to train on: use 2 or more, or 0 for no score")


class SegmentConfig(FromCheckpointConfig, ActionConfig):
    """Keys of `segment`."""

    required: ClassVar = ("data_dir", "dataset_mode", "output_dir")
    instead: ClassVar = {"data_dir": "classifier_path", "dataset_mode": "classifier_path"}
    summary: ClassVar = "label many images from a few labeled ones, by the features of a network, with scores"
    common: ClassVar = (
        "model_path", "extractor", "data_dir", "dataset_mode", "num_classes", "image_dir", "output_dir", "folds",
        "members", "ignore_above", "drop_uncertain", "seed",
    )  # fmt: skip

    source: SourceOptions
    weights: WeightsOptions
    features: FeatureOptions
    classifier: ClassifierOptions
    labels: PseudoLabelOptions
    precision: ArithmeticOptions
    data_split: Literal["train", "test"] = option("train", "split of data_dir whose pairs are learned from")
    score_test: bool = option(False, "score the classifiers on the split test of data_dir, too")
    max_test: int | None = option(
        None, "test images that are used, the first ones by name; null: all", ge=1, le=1_000_000
    )
    max_labeled: int | None = option(
        None, "labeled images that are used, the first ones by name; null: all", ge=1, le=1_000_000
    )
    image_dir: str = option(
        "", "folder of the images to label; empty: the labeled ones are scored and the classifiers kept", cloud=True
    )
    classifier_path: str = option(
        "", "classifier.pt of an earlier segment, or a folder of published ones, in place of training", path=True
    )
    output_dir: str = option(
        "", "folder for the data_dir of pairs, the report of the folds, and classifier.pt", written=True
    )
    split: str = option("train", "sub-folder for the pairs, so that output_dir is itself a data_dir")
    add_labeled: bool = option(True, "put the labeled pairs beside the new ones")
    seed: int = option(0, "seed of noise, folds and classifiers", ge=0, lt=2**63)

    def check(self) -> Iterator[Problem]:
        yield from super().check()
        if self.features.extractor == DIFFUSION and not self.weights.model_path:
            line = "model_path is missing: give the diffusion model that reads the images, or set extractor to mae or "
            yield ("model_path", f"{line}swav")
        if self.features.extractor != DIFFUSION:
            yield from self._not_of_published()
        if self.classifier_path and not self.image_dir:
            line = "classifier_path is given, but image_dir is not: there is nothing to label; give it"
            yield ("image_dir", line)
        if self.classifier_path and self.source.data_dir:
            line = "data_dir is given, but classifier_path is already trained: leave one of the two out"
            yield ("data_dir", line)
        if self.classifier_path:
            yield from self._idle_keys()
        if self.score_test and self.classifier_path:
            line = "score_test is true, but classifier_path is given, and no data_dir with it: leave one of the two out"
            yield ("score_test", line)
        if self.score_test and self.data_split == "test":
            yield (
                "score_test",
                "score_test is true, but data_split is test, so that test images are learned: set it to train",
            )
        if not self.split:
            yield ("split", "split is empty: name the sub-folder for the pairs, such as train")
        if self.split.casefold() in _OWN_FOLDERS:
            line = f"split is {self.split}, a folder of output_dir that is no split: name another, such as train"
            yield ("split", line)
        yield from split_problem(self.split)

    def _idle_keys(self) -> Iterator[Problem]:
        """Yield keys that belong to classifiers, and might be taken for those of their use."""
        for key in ("favor_rare", "vote"):
            if self.get(key) is not None:
                yield (key, f"{key} is given, but classifier_path is trained already: leave one of the two out")

    def _not_of_published(self) -> Iterator[Problem]:
        """Yield keys of a diffusion model, where another network reads the images."""
        for group in ("weights", "model", "diffusion", "generation", "latents", "label_diffusion"):
            for key in sorted(getattr(self, group).model_fields_set):
                if self.get(key) not in (None, ""):
                    line = f"{key} belongs to a diffusion model, but extractor is {self.features.extractor}"
                    yield (key, f"{line}: leave it out")
        size = self.geometry.image_size
        if self.features.extractor == "mae" and size and height_width(size) != (MAE_SIDE, MAE_SIDE):
            line = f"image_size is {size}, but mae reads images of {MAE_SIDE} x {MAE_SIDE} px"
            yield ("image_size", f"{line}: leave it out")
