"""The downstream study of `evaluate`: which models are trained on what, and what their scores say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from evaluations.agreement import Agreement, agreement
from evaluations.comparison import bootstrap_difference, judge_architecture, overall
from evaluations.scores import SUMMARIES, Counts, scores
from evaluations.segmenters import architecture_name, build_segmenter, check_size, weights_digest
from evaluations.study import (
    BASELINE,
    USUAL,
    Arm,
    Run,
    StudyData,
    StudyOptions,
    arms_of,
    counts_of,
    lacking_samples,
    run_study,
    runs_of,
)
from evaluations.training import TrainingPlan, evaluate_segmenter
from guided_diffusion.actions.evaluation.data import EvaluationData
from guided_diffusion.actions.evaluation.results import StudyResults
from guided_diffusion.architecture import height_width
from guided_diffusion.checkpoint import save_checkpoint
from guided_diffusion.errors import ConfigError, DataError, UserError

FOLDER = "study"


@dataclass(frozen=True)
class Study:
    """A study that is ready to run: everything a user can get wrong in it has been checked."""

    data: StudyData
    options: StudyOptions
    architectures: tuple[str, ...]
    arms: tuple[Arm, ...]
    seeds: int
    results: StudyResults

    @property
    def segmenter_run(self) -> Run:
        """The run whose model looks for the masks in the samples: real images with the usual augmentation."""
        return Run(self.architectures[0], USUAL, 0)

    @property
    def segmenter_path(self) -> Path:
        """Where that model's weights lie."""
        return self.results.folder / f"{self.segmenter_run.key}.pt"


def prepare_study(data: EvaluationData, folder: Path, device: torch.device) -> Study:
    """Return the study that the options of `data` ask for, with every model built once to see that it can be.

    Raises UserError for names, sizes and weights that do not fit, for too few samples, and where samples were made
    from masks of the test images.
    """
    options = data.options
    architectures = tuple(architecture_name(name) for name in options["architectures"])
    for name in architectures:
        if architectures.count(name) > 1:
            raise ConfigError(f"architectures has {name!r} twice, in two spellings: keep one")
    height, width = height_width(options["image_size"])
    settings = {
        **{key: options[key] for key in ("image_channels", "resize", "encoder", "encoder_weights")},
        **{key: options[key] for key in ("train_steps", "batch_size", "lr", "validation_share", "vertical_flip")},
        "image_size": [height, width],
        "seed": options["seed"],
        "encoder_digest": weights_digest(options["encoder_weights"]),
        "classes": list(data.encoding.names),
        "training images": data.training.digest,
        "test images": data.test.digest,
        "samples": data.synthetic.digest,
    }

    def build(architecture: str, seed: int) -> nn.Module:
        return build_segmenter(
            architecture,
            options["encoder"],
            num_classes=data.encoding.num_classes,
            encoder_weights=options["encoder_weights"],
            seed=seed,
        )

    for name in architectures:
        check_size(height, width, build(name, 0))
    arms = arms_of(options["ratios"] or (), rivals=options["rivals"], synthetic_only=options["synthetic_only"])
    study = Study(
        StudyData(data.training.images, data.test.images, data.synthetic.images, data.origin),
        StudyOptions(
            build,
            TrainingPlan(options["train_steps"], options["batch_size"], options["lr"]),
            options["validation_share"],
            device,
            options["seed"],
            options["vertical_flip"],
        ),
        architectures,
        tuple(arms),
        options["seeds"],
        StudyResults(folder / FOLDER, settings),
    )
    if options["study"]:
        _refuse_unfit_samples(data, study)
    return study


def _refuse_unfit_samples(data: EvaluationData, study: Study) -> None:
    if data.leaked:
        raise DataError(
            f"{data.samples.folder}: {data.leaked} of {len(data.synthetic.pairs)} samples were made from masks of the "
            "test split, so a model trained on them has seen the test: sample from data_split train, or set study to "
            "false"
        )
    lacking = lacking_samples(study.data, study.arms, study.options, study.seeds)
    if lacking:
        raise ConfigError(
            f"ratios is {list(data.options['ratios'])}, but {data.samples.folder} has {lacking} samples too few for "
            "the largest (those of validation masks do not count): sample more, or lower ratios"
        )


def train_models(study: Study, *, whole: bool) -> None:
    """Train what the results lack: all runs, or (`whole` False) only the segmenter's."""
    first = study.segmenter_run
    runs = [first]
    if whole:
        runs += [run for run in runs_of(study.architectures, study.arms, study.seeds) if run != first]
    study.results.begin()
    if first.key in study.results and not study.segmenter_path.exists():
        del study.results[first.key]

    def keep(run: Run, model: nn.Module) -> None:
        if run == first:
            save_checkpoint(study.segmenter_path, {"model": model.state_dict()})

    todo = [run for run in runs if run.key not in study.results]
    if len(todo) < len(runs):
        print(f"{len(runs) - len(todo)} of {len(runs)} segmentation models are there already")
    with tqdm(total=len(todo) * study.options.plan.steps, unit="step", disable=not todo, desc="study") as bar:

        def show(run: Run) -> None:
            bar.set_postfix_str(f"{run.architecture}, {run.arm.label}, repeat {run.repeat + 1}", refresh=False)
            bar.update()

        try:
            run_study(study.data, study.options, todo, study.results, callback=show, keep=keep)
        except FloatingPointError as error:
            raise UserError(f"lr is {study.options.plan.learning_rate:g}, and {error}: lower it") from error


def load_segmenter(study: Study) -> nn.Module:
    """Return the trained segmenter of the study, in evaluation mode; UserError where its file is damaged."""
    path = study.segmenter_path
    model = study.options.build(study.architectures[0], 0)
    try:
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["model"])
    except Exception as error:
        raise UserError(f"{path}: is damaged; delete it, and the segmenter is trained again") from error
    return model.to(study.options.device).eval()


def measure_agreement(study: Study, segmenter: nn.Module) -> tuple[Agreement, Agreement]:
    """Return the agreement of the samples with their masks, and of the real test images with theirs: the yardstick."""
    counts = evaluate_segmenter(segmenter, study.data.synthetic, study.options.plan.batch_size, study.options.device)
    real = Counts.from_json(study.results[study.segmenter_run.key]["counts"])
    return agreement(counts), agreement(real)


def summarise(study: Study, class_names: Sequence[str], confidence: float = 0.95) -> dict[str, Any]:
    """Return the study as report.json holds it: verdicts first, then every arm of every architecture."""
    architectures, verdicts = {}, {}
    for name in study.architectures:
        counts = {arm.name: counts_of(study.results, name, arm, study.seeds) for arm in study.arms}
        mixes = {f"{arm.ratio:g}": counts[arm.name] for arm in study.arms if arm.is_mix}
        entry: dict[str, Any] = {}
        if mixes:
            verdicts[name] = judge_architecture(
                counts[BASELINE.name], mixes, architecture=name, confidence=confidence, seed=study.options.seed
            )
            entry["verdict"] = verdicts[name].to_json()
            entry["rivals"] = _against_rivals(study, counts, confidence)
        entry["arms"] = [_summary_of(study, name, arm, counts, class_names, confidence) for arm in study.arms]
        architectures[name] = entry
    kind, headline = overall(verdicts)
    first = counts_of(study.results, study.architectures[0], BASELINE, study.seeds)[0]
    return {
        "kind": kind,
        "headline": headline,
        "score": "miou",
        "seeds": study.seeds,
        "test_images": len(first),
        "absent_classes": scores(first).absent(class_names),
        "settings": study.results.settings,
        "architectures": architectures,
    }


def _summary_of(
    study: Study,
    architecture: str,
    arm: Arm,
    counts: Mapping[str, Sequence[Counts]],
    class_names: Sequence[str],
    confidence: float,
) -> dict[str, Any]:
    found = [scores(each) for each in counts[arm.name]]
    results = [study.results[Run(architecture, arm, repeat).key] for repeat in range(study.seeds)]
    summaries = {}
    for key in SUMMARIES:
        values = np.array([getattr(each, key) for each in found])
        summaries[key] = {
            "mean": _plain(values.mean()),
            "std": _plain(values.std(ddof=1)) if len(values) > 1 else None,
            "by_seed": [_plain(value) for value in values],
        }
    entry = {
        "name": arm.name,
        "label": arm.label,
        "real": results[0]["real"],
        "synthetic": results[0]["synthetic"],
        "best_step": [result["best_step"] for result in results],
        "scores": summaries,
        "classes": {
            key: dict(zip(class_names, map(_plain, values), strict=True))
            for key, values in _mean_per_class(found).items()
        },
    }
    if arm != BASELINE:
        difference = bootstrap_difference(
            counts[BASELINE.name], counts[arm.name], confidence=confidence, seed=study.options.seed
        )
        entry["difference"] = difference.to_json()
    return entry


def _mean_per_class(found: Sequence[Any]) -> dict[str, np.ndarray]:
    per_seed = [each.per_class() for each in found]
    return {key: np.mean([values[key] for values in per_seed], axis=0) for key in per_seed[0]}


def _against_rivals(study: Study, counts: Mapping[str, Sequence[Counts]], confidence: float) -> dict[str, Any] | None:
    """Return the best mix against the best cheap rival, None without a rival; best by the mean over the seeds."""
    rivals = [arm for arm in study.arms if arm.augmentation != "none"]
    if not rivals:
        return None

    def mean(arm: Arm) -> float:
        return float(np.nanmean([scores(each).miou for each in counts[arm.name]]))

    mix, rival = max((arm for arm in study.arms if arm.is_mix), key=mean), max(rivals, key=mean)
    difference = bootstrap_difference(
        counts[rival.name], counts[mix.name], confidence=confidence, seed=study.options.seed
    )
    return {"mix": mix.label, "rival": rival.label, "difference": difference.to_json()}


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
