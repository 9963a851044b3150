"""The segmenter of an evaluation, or one from a file, that looks for the mask in single images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from evaluations.errors import EvaluationError
from evaluations.metrics.agreement import Agreement, agreement
from evaluations.metrics.segmentation import Counts, plain
from evaluations.segmentation.models import architecture_name
from evaluations.segmentation.segmenter import AgreementSegmenter, trained_segmenter
from evaluations.sets import ImageSet
from evaluations.study.run import candidates_of
from evaluations.study.settings import STANDARD_AUGMENTATION
from guided_diffusion.conditions.base import Size
from guided_diffusion.config.evaluate import EvaluateConfig, SegmenterOptions
from guided_diffusion.config.load import load_config
from guided_diffusion.data.visualize import Pixels, to_rgb
from guided_diffusion.models.architecture import height_width
from guided_diffusion.pipelines.evaluation.data import squashed
from guided_diffusion.pipelines.evaluation.results import OF, SETTINGS, StudyResults
from guided_diffusion.pipelines.evaluation.segmenter import read_segmenter_options
from guided_diffusion.pipelines.evaluation.study import FOLDER, make_plan
from guided_diffusion.runtime.checkpoint import read_content
from guided_diffusion.runtime.errors import DataError, UserError
from guided_diffusion.runtime.logs import read_run_record

IMAGES_AT_A_TIME = 8


@dataclass(frozen=True)
class Figures:
    """Agreement in 0..1: of each class by its name (None: neither in the mask nor predicted), and the score.

    mean: None where the segmenter knows none of the classes that it would be of.
    """

    classes: Mapping[str, float | None]
    mean: float | None

    def to_json(self) -> dict[str, Any]:
        return {"classes": dict(self.classes), "mean": self.mean}


@dataclass(eq=False)
class Judge:
    """A segmenter and the size (height, width) at which it sees images; `real`: what it finds in real test images."""

    segmenter: AgreementSegmenter
    size: Size
    class_names: tuple[str, ...]
    background: int
    real: Figures | None = None

    @classmethod
    def of_evaluation(
        cls, folder: str | Path, class_names: Sequence[str], background: int, device: torch.device
    ) -> Self:
        """Return the segmenter that `evaluate` trained, from its output_dir.

        Raises UserError where there is none, where it is damaged, or of other classes.
        """
        folder, names = Path(folder), tuple(class_names)
        config = _config_of(folder)
        size = height_width(config.view.image_size)
        settings = read_run_record(folder / FOLDER, SETTINGS)
        results = StudyResults(folder / FOLDER, settings, {})
        runs = candidates_of(architecture_name(config.study.architectures[0]), augment_all=config.study.augment_all)
        done = [run for run in runs if run.key in results and (results.folder / f"{run.key}.pt").is_file()]
        if not done:
            found = "has no trained segmenter"
            raise DataError.of(folder, found, "run evaluate with agreement true, or give segmenter, the file of one")
        classes = settings.get("classes")
        if classes != list(names):
            found = f"is of other classes ({', '.join(map(str, classes or ()))})"
            raise DataError.of(folder, found, "give the evaluation of this dataset")
        run = max(done, key=lambda run: results[run.key]["validation_miou"])
        # Only the weights are loaded, whatever the encoder began with.
        model = make_plan(config.study.model_copy(update={"encoder_weights": "none"}), len(names), device).build(
            run.architecture, 0
        )
        path = results.folder / f"{run.key}.pt"
        try:
            content = read_content(path)
            model.load_state_dict(content["model"])
            counts = Counts.from_json(results[run.key]["counts"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise DataError.of(path, "is damaged", "delete it, and evaluate again") from error
        results.refuse_foreign(path, run.key, content.get(OF), "delete it, and evaluate again")
        segmenter = trained_segmenter(
            model.to(device).eval(),
            run.architecture,
            augmented=config.study.augment_all or run.setting == STANDARD_AUGMENTATION,
            batch_size=IMAGES_AT_A_TIME,
            device=device,
            form=settings.get("input", "imagenet"),
            saved=(_no_images(size, len(names)), counts),
        )
        return cls(segmenter, size, names, background, _mean_figures(agreement(counts, background), counts, names))

    @classmethod
    def of_file(
        cls, options: SegmenterOptions, size: Size, class_names: Sequence[str], background: int, device: torch.device
    ) -> Self:
        """Return the segmenter of a file; UserError where it cannot be used. size: unless it has its own."""
        try:
            make = read_segmenter_options(options, size, IMAGES_AT_A_TIME, device)
            assert make is not None, "no file given"
            segmenter = make(class_names)
        except EvaluationError as error:
            raise UserError(str(error)) from error
        seen = height_width(options.segmenter_size) if options.segmenter_size else size
        return cls(segmenter, seen, tuple(class_names), background)

    def look(self, image: Pixels, label: NDArray[np.integer]) -> tuple[NDArray[np.integer], Figures]:
        """Return what it sees in an image [H, W, 1 or 3], as class ids [H, W], and how far that is the mask `label`."""
        images, labels = self._squashed(image, label)
        predicted = self.segmenter.predict(images)
        counts = self.segmenter.counts(ImageSet(images, labels, ("image",), len(self.class_names)))
        found = agreement(counts, self.background, labels)
        rows, columns = (
            (2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip(label.shape, self.size, strict=True)
        )
        return predicted[0][rows[:, None], columns].astype(label.dtype), self._figures(found)

    def measure(self, images: Sequence[Pixels], labels: Sequence[NDArray[np.integer]]) -> None:
        """Take what it finds in real images as its yardstick, `real`."""
        pairs = [self._squashed(image, label) for image, label in zip(images, labels, strict=True)]
        whole = ImageSet(
            np.concatenate([image for image, _ in pairs]),
            np.concatenate([label for _, label in pairs]),
            tuple(str(number) for number in range(len(pairs))),
            len(self.class_names),
        )
        counts = self.segmenter.counts(whole)
        self.real = _mean_figures(agreement(counts, self.background, whole.labels), counts, self.class_names)

    def _squashed(self, image: Pixels, label: NDArray[np.integer]) -> tuple[Pixels, NDArray[np.integer]]:
        images, labels = to_rgb(image).copy()[None], label[None]
        return (images, labels) if label.shape == self.size else squashed(images, labels, self.size)

    def _figures(self, found: Agreement) -> Figures:
        classes = {name: plain(iou) for name, iou in zip(self.class_names, found.by_class[0], strict=True)}
        return Figures(classes, plain(found.score[0]))


def _mean_figures(found: Agreement, counts: Counts, class_names: Sequence[str]) -> Figures:
    """Return the means over images: of each class those whose masks have it, of the score as reports have it."""
    classes = {}
    for index, name in enumerate(class_names):
        shown = counts.truth[:, index] > 0
        classes[name] = float(found.by_class[shown, index].mean()) if shown.any() else None
    return Figures(classes, found.summary()["mean"])


def _config_of(folder: Path) -> EvaluateConfig:
    """Return the resolved options of an evaluation; UserError where its record is missing, or somebody changed it."""
    if read_run_record(folder, "environment.json").get("action") != "evaluate":
        raise DataError.of(folder, "is not the output_dir of evaluate", "check evaluate_dir")
    config: EvaluateConfig = load_config("evaluate", read_run_record(folder))
    if config.segmenter.segmenter:
        found = "used a segmenter from a file"
        raise DataError.of(folder, found, f"give that file as segmenter, too ({config.segmenter.segmenter})")
    if config.view.image_size is None or not config.study.architectures:
        raise DataError.of(folder, "its config.json says not how its segmenter was trained", "evaluate again")
    return config


def _no_images(size: Size, num_classes: int) -> ImageSet:
    return ImageSet(np.zeros((0, *size, 3), np.uint8), np.zeros((0, *size), np.uint8), (), num_classes)
