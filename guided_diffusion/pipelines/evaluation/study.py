"""The downstream study of `evaluate`: made from the options and checked, then run with its results on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from evaluations.metrics.segmentation import Counts
from evaluations.segmentation.models import architecture_name, build_segmenter, check_size
from evaluations.segmentation.segmenter import AgreementSegmenter, trained_segmenter
from evaluations.segmentation.training import TrainingPlan
from evaluations.segmentation.weights import weights_digest
from evaluations.study.run import Study, run_study
from evaluations.study.settings import STANDARD_AUGMENTATION, Run, StudyPlan, settings_of
from evaluations.study.summary import summarize
from evaluations.study.training_sets import StudyData, lacking_samples, training_sets
from guided_diffusion.config.evaluate import EvaluateConfig, StudyOptions, ViewOptions
from guided_diffusion.pipelines.evaluation.data import EvaluationData
from guided_diffusion.pipelines.evaluation.results import StudyResults
from guided_diffusion.runtime.checkpoint import save_checkpoint
from guided_diffusion.runtime.errors import ConfigError, DataError, UserError

FOLDER = "study"


class StudyRun:
    """A study with its folder: everything a user can get wrong in it has been checked."""

    def __init__(self, study: Study, results: StudyResults):
        self.study = study
        self.results = results

    def weights_of(self, run: Run) -> Path:
        """Return where the weights of a candidate lie."""
        return self.results.folder / f"{run.key}.pt"

    def train(self) -> None:
        """Train what the results lack; UserError where the loss is not finite."""
        study = self.study
        for run in study.candidates:
            if run.key in self.results and not self.weights_of(run).exists():
                del self.results[run.key]

        def keep(run: Run, model: nn.Module) -> None:
            if run in study.candidates:
                save_checkpoint(self.weights_of(run), {"model": model.state_dict()})

        todo = [run for run in study.runs if run.key not in self.results]
        if len(todo) < len(study.runs):
            print(f"{len(study.runs) - len(todo)} of {len(study.runs)} segmentation models are there already")
        plan = study.plan.training
        with tqdm(total=len(todo) * plan.steps, unit="step", disable=not todo, desc="study") as bar:

            def show(run: Run) -> None:
                progress = f"{run.architecture}, {run.setting.label}, repeat {run.repeat + 1}"
                bar.set_postfix_str(progress, refresh=False)
                bar.update()

            try:
                run_study(study.data, study.plan, todo, self.results, callback=show, keep=keep)
            except FloatingPointError as error:
                raise UserError(f"lr is {plan.learning_rate:g}, and {error}: lower it") from error

    def segmenter(self) -> AgreementSegmenter:
        """Return the trained model that looks for the masks; UserError where its file is damaged."""
        study, run = self.study, self.study.segmenter_run
        return trained_segmenter(
            self._load(run),
            run.architecture,
            augmented=study.plan.augment_all or run.setting == STANDARD_AUGMENTATION,
            batch_size=study.plan.training.batch_size,
            device=study.plan.device,
            known=(study.data.test, Counts.from_json(self.results[run.key]["counts"])),
        )

    def summary(self, class_names: Sequence[str]) -> dict[str, Any] | None:
        """Return the study as report.json holds it; None where one segmenter is trained alone."""
        return summarize(self.study, class_names, self.results.record) if self.study.compared else None

    def _load(self, run: Run) -> nn.Module:
        path, plan = self.weights_of(run), self.study.plan
        model = plan.build(run.architecture, 0)
        try:
            model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["model"])
        except Exception as error:
            raise UserError(f"{path}: is damaged; delete it, and the segmenter is trained again") from error
        return model.to(plan.device).eval()


def prepare_study(config: EvaluateConfig, data: EvaluationData, folder: Path, device: torch.device) -> StudyRun | None:
    """Return what the options ask for, each model built once to see that it can be; None for nothing.

    Raises UserError for names, sizes and weights that do not fit, for too few samples, and where samples were made
    from masks of the test images.
    """
    if not config.trains_models:
        return None
    assert data.training is not None
    options, compared = config.study, config.study.study
    architectures = tuple(architecture_name(name) for name in options.architectures)
    for name in architectures:
        if architectures.count(name) > 1:
            raise ConfigError(f"architectures has {name!r} twice, in two spellings: keep one")
    settings = settings_of(
        options.ratios or (),
        baselines=options.baselines,
        synthetic_only=options.synthetic_only,
        augment_all=options.augment_all,
    )
    results = StudyResults(folder / FOLDER, _settings(options, config.view, data), _digests(data))
    study = Study(
        StudyData(data.training, data.test, data.samples, data.origin),
        make_plan(options, len(data.class_names), device),
        architectures,
        tuple(settings),
        options.seeds,
        compared,
        config.quality.agreement and not config.segmenter.segmenter,
        results,
    )
    for name in dict.fromkeys(run.architecture for run in study.runs):
        check_size(*data.scanned.view.size, study.plan.build(name, 0))
    if compared:
        _refuse_unfit_samples(options, data, study)
    return StudyRun(study, results)


def make_plan(options: StudyOptions, num_classes: int, device: torch.device) -> StudyPlan:
    """Return how models are built and trained."""

    def build(architecture: str, seed: int) -> nn.Module:
        encoder, weights = options.encoder, options.encoder_weights
        return build_segmenter(architecture, encoder, num_classes=num_classes, encoder_weights=weights, seed=seed)

    return StudyPlan(
        build,
        TrainingPlan(options.train_steps, options.batch_size, options.lr),
        options.validation_share,
        device,
        seed=options.seed,
        vertical_flip=options.vertical_flip,
        augment_all=options.augment_all,
    )


def _settings(options: StudyOptions, view: ViewOptions, data: EvaluationData) -> dict[str, Any]:
    """Return what the user chose that a result depends on beside its architecture, setting and repeat."""
    return {
        "image_channels": view.image_channels,
        "resize": view.resize,
        "encoder": options.encoder,
        "train_steps": options.train_steps,
        "batch_size": options.batch_size,
        "lr": options.lr,
        "validation_share": options.validation_share,
        "vertical_flip": options.vertical_flip,
        "augment_all": options.augment_all,
        "seed": options.seed,
        # A file is known by its contents, wherever it lies.
        "encoder_weights": weights_digest(options.encoder_weights) or options.encoder_weights,
        "image_size": list(data.scanned.view.size),
        "classes": list(data.class_names),
    }


def _digests(data: EvaluationData) -> Mapping[str, str]:
    """Return what tells whether results are of the same data."""
    assert data.training is not None
    return {
        "training images": data.training.digest,
        "test images": data.test.digest,
        "samples": data.samples.digest,
        "origin of the samples": sha256(data.origin.astype("<i8").tobytes()).hexdigest()[:16],
    }


def _refuse_unfit_samples(options: StudyOptions, data: EvaluationData, study: Study) -> None:
    folder = data.scanned.folder.folder
    if data.leaked:
        raise DataError(
            f"{folder}: {data.leaked} of {len(data.samples)} samples were made from masks of the "
            "test split, so a model trained on them has seen the test: sample from data_split train, or set study to "
            "false"
        )
    lacking = lacking_samples(study.data, study.settings, study.plan, study.seeds)
    if lacking:
        raise ConfigError(
            f"ratios is {list(options.ratios or ())}, but {folder} has {lacking} samples too few "
            "for the largest (those of validation masks do not count): sample more, or lower ratios"
        )
    for setting in study.settings:
        if setting.is_mix and not training_sets(study.data, setting, study.plan, 0).synthetic:
            raise ConfigError(f"ratios has {setting.ratio:g}, which is not one sample here: leave it out")
