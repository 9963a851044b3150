"""The downstream study of `evaluate`: built from the options and checked, then run with its results on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path, PurePath
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from evaluations.groups import numbered
from evaluations.metrics.base import EvaluationSets
from evaluations.metrics.segmentation import Counts
from evaluations.origins import leaked
from evaluations.segmentation.augmentation import Relabel
from evaluations.segmentation.models import InputForm, architecture_name, build_segmenter, check_size, input_form
from evaluations.segmentation.segmenter import AgreementSegmenter, trained_segmenter
from evaluations.segmentation.training import TrainingPlan
from evaluations.segmentation.weights import is_random, weights_digest
from evaluations.sets import Indices
from evaluations.study.run import Study, run_study
from evaluations.study.settings import STANDARD_AUGMENTATION, Run, StudyPlan, settings_of
from evaluations.study.summary import summarize
from evaluations.study.training_sets import StudyData, fewest_training, lacking_samples, training_sets
from guided_diffusion.config.evaluate import EvaluateConfig, StudyOptions
from guided_diffusion.data.groups import Groups, groups_of
from guided_diffusion.data.mirror import exchanged, flip_pairs
from guided_diffusion.pipelines.evaluation.data import EvaluationData
from guided_diffusion.pipelines.evaluation.results import OF, StudyResults
from guided_diffusion.pipelines.evaluation.sample_origins import ReadSamples
from guided_diffusion.runtime.checkpoint import save_checkpoint
from guided_diffusion.runtime.errors import ConfigError, DataError, UserError

FOLDER = "study"


@dataclass(frozen=True)
class StudyRun:
    """A study with its folder, after all checks of what a user can get wrong."""

    study: Study
    results: StudyResults

    def weights_of(self, run: Run) -> Path:
        """Return the path of the weights of a candidate."""
        return self.results.folder / f"{run.key}.pt"

    def train(self) -> None:
        """Train the runs without a result; UserError if the loss is not finite."""
        study = self.study
        for run in study.candidates:
            if run.key in self.results and not self.weights_of(run).exists():
                del self.results[run.key]

        def keep(run: Run, model: nn.Module) -> None:
            if run in study.candidates:
                of = self.results.identity(run.key)
                save_checkpoint(self.weights_of(run), {"model": model.state_dict(), OF: of})

        todo = [run for run in study.runs if run.key not in self.results]
        if len(todo) < len(study.runs):
            print(f"{len(study.runs) - len(todo)} of {len(study.runs)} segmentation models are trained already")
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
        """Return the trained segmenter of mask agreement; UserError if its file is damaged, or that of another."""
        study, run = self.study, self.study.segmenter_run
        path, plan = self.weights_of(run), study.plan
        model, again = plan.build(run.architecture, 0), "delete it, and the segmenter is trained again"
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            model.load_state_dict(content["model"])
        except Exception as error:
            raise UserError(f"{path}: is damaged; {again}") from error
        self.results.refuse_foreign(path, run.key, content.get(OF), again)
        return trained_segmenter(
            model,
            run.architecture,
            augmented=plan.augment_all or run.setting == STANDARD_AUGMENTATION,
            batch_size=plan.training.batch_size,
            device=plan.device,
            form=plan.training.form,
            saved=(study.data.test, Counts.from_json(self.results[run.key]["counts"])),
        )

    def summary(self, class_names: Sequence[str]) -> dict[str, Any] | None:
        """Return the study as report.json holds it; None if only one segmenter is trained."""
        return summarize(self.study, class_names, self.results.record) if self.study.compared else None


def architecture_names(given: Sequence[str]) -> tuple[str, ...]:
    """Return their names as segmentation-models-pytorch has them; ConfigError for one in two spellings."""
    names = tuple(architecture_name(name) for name in given)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ConfigError.of_keys(("architectures", f"architectures has {twice!r} twice, in two spellings: keep one"))
    return names


def prepare_study(config: EvaluateConfig, data: EvaluationData, folder: Path, device: torch.device) -> StudyRun | None:
    """Return the study that the options ask for, None for none. Each model is built once as a check.

    Raises UserError for names, sizes and weights that do not fit, for too few samples, and if samples were made from
    masks of the test images.
    """
    if not config.trains_models:
        return None
    sets, options = data.sets, config.study
    assert sets.training is not None
    architectures = architecture_names(options.architectures)
    settings = settings_of(
        options.ratios or (),
        baselines=options.baselines,
        synthetic_only=options.synthetic_only,
        augment_all=options.augment_all,
        others=tuple(data.others),
    )
    groups = groups_of(config.source.group_pattern, sets.training.names)
    results = StudyResults(folder / FOLDER, _settings(config, sets), _digests(data, groups))
    study = Study(
        StudyData(
            sets.training,
            sets.test,
            sets.samples,
            data.samples.made_from,
            {name: (other.images, other.made_from) for name, other in data.others.items()},
            groups,
        ),
        replace(make_plan(options, len(sets.class_names), device), relabel=_relabel(config, sets.class_names)),
        architectures,
        tuple(settings),
        options.seeds,
        options.study,
        config.quality.agreement and not config.segmenter.segmenter,
        results,
        groups_of(config.source.group_pattern, sets.test.names),
    )
    for name in dict.fromkeys(run.architecture for run in study.runs):
        check_size(*sets.size, study.plan.build(name, 0))
    if study.compared:
        _refuse_unfit_samples(options, data, study)
    return StudyRun(study, results)


def make_plan(options: StudyOptions, num_classes: int, device: torch.device) -> StudyPlan:
    """Return how models are built and trained."""

    def build(architecture: str, seed: int) -> nn.Module:
        encoder, weights = options.encoder, options.encoder_weights
        return build_segmenter(architecture, encoder, num_classes=num_classes, encoder_weights=weights, seed=seed)

    return StudyPlan(
        build,
        TrainingPlan(options.train_steps, options.batch_size, options.lr, form=_form(options)),
        options.validation_share,
        device,
        seed=options.seed,
        vertical_flip=options.vertical_flip,
        augment_all=options.augment_all,
    )


def _form(options: StudyOptions) -> InputForm:
    """Return how images enter the models: as the encoder's weights were trained; any form will do for random ones."""
    return "imagenet" if is_random(options.encoder_weights) else input_form(options.encoder)


def _relabel(config: EvaluateConfig, names: Sequence[str]) -> Relabel | None:
    pairs = flip_pairs(names, config.source.flip_pairs)
    return partial(exchanged, pairs=pairs) if pairs else None


_SETTINGS = ("encoder", "train_steps", "batch_size", "lr", "validation_share", "vertical_flip", "augment_all", "seed")


def _settings(config: EvaluateConfig, sets: EvaluationSets) -> dict[str, Any]:
    """Return the options that a result depends on, besides its architecture, setting and repeat."""
    options, view = config.study, config.view
    pairs = flip_pairs(sets.class_names, config.source.flip_pairs)
    return {
        # Results from before this option are of classes that are not exchanged.
        **({"flip_pairs": [list(pair) for pair in pairs]} if pairs else {}),
        **({"group_pattern": config.source.group_pattern} if config.source.group_pattern else {}),
        "image_channels": view.image_channels,
        "resize": view.resize,
        **({"scale": view.scale} if view.resize == "window" else {}),
        **({"mask_resize": view.mask_resize} if view.mask_resize else {}),
        **{key: getattr(options, key) for key in _SETTINGS},
        # Results from before this entry had the statistics of ImageNet with every encoder.
        **({"input": form} if (form := _form(options)) != "imagenet" else {}),
        # A file is identified by its contents, wherever it is.
        "encoder_weights": weights_digest(options.encoder_weights) or options.encoder_weights,
        "image_size": list(sets.size),
        "classes": list(sets.class_names),
    }


def _digests(data: EvaluationData, groups: Groups) -> Mapping[str, str]:
    """Return digests by which results are recognized as those of the same data; groups: of the training images."""
    sets = data.sets
    assert sets.training is not None
    digests = {"training images": sets.training.digest, "test images": sets.test.digest}
    for samples, of in ((data.samples, ""), *((other, f" of {name}") for name, other in data.others.items())):
        digests[f"samples{of}"] = samples.images.digest
        digests[f"origin of the samples{of}"] = _digest_of(samples.made_from)
    if any(group is not None for group in groups):  # which images validate depends on them, and they on names alone
        digests["groups of the training images"] = _digest_of(numbered(groups, len(groups)))
    return digests


def _digest_of(numbers: Indices) -> str:
    return sha256(numbers.astype("<i8").tobytes()).hexdigest()[:16]


def _refuse_unfit_samples(options: StudyOptions, data: EvaluationData, study: Study) -> None:
    for samples in (data.samples, *data.others.values()):
        _refuse_leaks(samples)
    for source, lacking in lacking_samples(study.data, study.settings, study.plan, study.seeds).items():
        _refuse_few(options, (data.others[source] if source else data.samples).folder.folder, lacking)
    for setting in study.settings:
        if setting.is_mix and not training_sets(study.data, setting, study.plan, 0).synthetic:
            raise ConfigError(f"ratios has {setting.ratio:g}, which is less than one sample here: leave it out")


def _refuse_few(options: StudyOptions, folder: Path, lacking: int) -> None:
    raise ConfigError(
        f"ratios is {list(options.ratios or ())}, but {folder} has {lacking} samples too few for the largest "
        "(those of validation masks do not count): sample more, or lower ratios"
    )


def refuse_surely_few(config: EvaluateConfig, training: int, counts: Mapping[Path, int]) -> None:
    """Raise ConfigError where folders have fewer samples than `ratios` need, whatever the masks show.

    training: number of training images. counts: of the samples of each folder.
    """
    options = config.study
    if config.source.group_pattern:  # the division is one of groups
        return
    wanted = round(max(options.ratios or (), default=0.0) * fewest_training(training, options.validation_share))
    for folder, count in counts.items():
        if count < wanted:
            _refuse_few(options, folder, wanted - count)


def _refuse_leaks(samples: ReadSamples) -> None:
    """Raise DataError for samples that have something of the test images."""
    folder, count = samples.folder.folder, len(samples.images)
    if begun := [PurePath(line.image).stem for line in samples.folder.lines.values() if line.source_split == "test"]:
        named = ", ".join(begun[:3]) + (", ..." if len(begun) > 3 else "")
        raise DataError(
            f"{folder}: {len(begun)} of {count} samples were painted in the studio on masks of the test split "
            f"({named}), so a model trained on them has seen the test: discard them there, or set study to false"
        )
    if (of_test := int((samples.test_origin >= 0).sum())) and samples.folder.has_native_depth:
        raise DataError(
            f"{folder}: {of_test} of {count} samples have defects in images of the test split, defects of these, or "
            "shapes of its masks, so a model trained on them has seen the test: use defects, masks and good images of "
            "the training split, or set study to false"
        )
    if of_test := leaked(samples.origin, samples.test_origin):
        raise DataError(
            f"{folder}: {of_test} of {count} samples were made from masks of the test split, so a model trained on "
            "them has seen the test: sample from data_split train, or set study to false"
        )
