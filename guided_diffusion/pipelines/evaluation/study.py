"""The downstream study of `evaluate`: which models are trained on what, and what their scores say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from evaluations.metrics.segmentation import SUMMARIES, Counts, plain, scores
from evaluations.segmentation.models import architecture_name, build_segmenter, check_size, weights_digest
from evaluations.segmentation.training import TrainingPlan
from evaluations.study.comparison import bootstrap_difference, judge_architecture, overall
from evaluations.study.run import (
    BASELINE,
    USUAL,
    Arm,
    Run,
    StudyData,
    StudyOptions,
    arms_of,
    counts_of,
    lacking_samples,
    material_of,
    run_study,
    runs_of,
)
from guided_diffusion.models.architecture import height_width
from guided_diffusion.pipelines.evaluation.data import EvaluationData
from guided_diffusion.pipelines.evaluation.results import StudyResults
from guided_diffusion.runtime.checkpoint import save_checkpoint
from guided_diffusion.runtime.errors import ConfigError, DataError, UserError

FOLDER = "study"


@dataclass(frozen=True)
class Study:
    """Trainings that are ready to run: everything a user can get wrong in them has been checked.

    compared: whether arms are compared, or one segmenter trained alone.
    with_agreement: whether a segmenter is trained to look for the masks; none is where one is given.
    """

    data: StudyData
    options: StudyOptions
    architectures: tuple[str, ...]
    arms: tuple[Arm, ...]
    seeds: int
    compared: bool
    with_agreement: bool
    results: StudyResults

    @property
    def candidates(self) -> list[Run]:
        """The runs whose models can look for the masks in the samples: trained on real images alone.

        Of these the validation images choose: the usual augmentation helps, unless training is short.
        """
        arms = [BASELINE] if self.options.augment_all else [BASELINE, USUAL]
        return [Run(self.architectures[0], arm, 0) for arm in arms] if self.with_agreement else []

    @property
    def segmenter_run(self) -> Run:
        """The candidate of the best validation score, once all are trained."""
        return max(self.candidates, key=lambda run: self.results[run.key]["validation_miou"])

    @property
    def runs(self) -> list[Run]:
        """All trainings, the candidates first."""
        compared = runs_of(self.architectures, self.arms, self.seeds) if self.compared else []
        return [*self.candidates, *(run for run in compared if run not in self.candidates)]

    def weights_of(self, run: Run) -> Path:
        """Return where the weights of a candidate lie."""
        return self.results.folder / f"{run.key}.pt"


def prepare_study(data: EvaluationData, folder: Path, device: torch.device) -> Study | None:
    """Return what the options of `data` ask for, each model built once to see that it can be; None for nothing.

    Raises UserError for names, sizes and weights that do not fit, for too few samples, and where samples were made
    from masks of the test images.
    """
    options = data.options
    trains_judge = options["agreement"] and not options["segmenter"]
    if not options["study"] and not trains_judge:
        return None
    assert data.training is not None
    architectures = tuple(architecture_name(name) for name in options["architectures"])
    for name in architectures:
        if architectures.count(name) > 1:
            raise ConfigError(f"architectures has {name!r} twice, in two spellings: keep one")
    arms = arms_of(
        options["ratios"] or (),
        rivals=options["rivals"],
        synthetic_only=options["synthetic_only"],
        augment_all=options["augment_all"],
    )
    study = Study(
        StudyData(data.training.images, data.test.images, data.synthetic.images, data.origin),
        study_options(data, device),
        architectures,
        tuple(arms),
        options["seeds"],
        options["study"],
        trains_judge,
        StudyResults(folder / FOLDER, study_settings(data)),
    )
    height, width = height_width(options["image_size"])
    for name in dict.fromkeys(run.architecture for run in study.runs):
        check_size(height, width, study.options.build(name, 0))
    if study.compared:
        _refuse_unfit_samples(data, study)
    return study


def study_options(data: EvaluationData, device: torch.device) -> StudyOptions:
    """Return how models are built and trained."""
    options = data.options

    def build(architecture: str, seed: int) -> nn.Module:
        return build_segmenter(
            architecture,
            options["encoder"],
            num_classes=data.encoding.num_classes,
            encoder_weights=options["encoder_weights"],
            seed=seed,
        )

    plan = TrainingPlan(options["train_steps"], options["batch_size"], options["lr"])
    more = {key: options[key] for key in ("seed", "vertical_flip", "augment_all")}
    return StudyOptions(build, plan, options["validation_share"], device, **more)


def study_settings(data: EvaluationData) -> dict[str, Any]:
    """Return all that a result depends on beside its architecture, arm and repeat."""
    assert data.training is not None
    options = data.options
    keys = ("image_channels", "resize", "encoder", "train_steps", "batch_size", "lr", "validation_share")
    return {
        **{key: options[key] for key in (*keys, "vertical_flip", "augment_all", "seed")},
        # A file is known by its contents, wherever it lies.
        "encoder_weights": weights_digest(options["encoder_weights"]) or options["encoder_weights"],
        "image_size": list(height_width(options["image_size"])),
        "classes": list(data.encoding.names),
        "training images": data.training.digest,
        "test images": data.test.digest,
        "samples": data.synthetic.digest,
        "origin of the samples": sha256(data.origin.astype("<i8").tobytes()).hexdigest()[:16],
    }


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
            f"ratios is {list(data.options['ratios'] or ())}, but {data.samples.folder} has {lacking} samples too few "
            "for the largest (those of validation masks do not count): sample more, or lower ratios"
        )
    for arm in study.arms:
        if arm.is_mix and not material_of(study.data, arm, study.options, 0).synthetic:
            raise ConfigError(f"ratios has {arm.ratio:g}, which is not one sample here: leave it out")


def train_models(study: Study) -> None:
    """Train what the results lack."""
    for run in study.candidates:
        if run.key in study.results and not study.weights_of(run).exists():
            del study.results[run.key]

    def keep(run: Run, model: nn.Module) -> None:
        if run in study.candidates:
            save_checkpoint(study.weights_of(run), {"model": model.state_dict()})

    todo = [run for run in study.runs if run.key not in study.results]
    if len(todo) < len(study.runs):
        print(f"{len(study.runs) - len(todo)} of {len(study.runs)} segmentation models are there already")
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
    path = study.weights_of(study.segmenter_run)
    model = study.options.build(study.architectures[0], 0)
    try:
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["model"])
    except Exception as error:
        raise UserError(f"{path}: is damaged; delete it, and the segmenter is trained again") from error
    return model.to(study.options.device).eval()


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
            entry["rivals"] = _against_rivals(study, name, counts, confidence)
        entry["arms"] = [_summary_of(study, name, arm, counts, class_names, confidence) for arm in study.arms]
        architectures[name] = entry
    kind, headline = overall(verdicts)
    beaten = [
        entry
        for entry in architectures.values()
        if (entry.get("rivals") or {"difference": {"kind": ""}})["difference"]["kind"] == "hurts"
    ]
    if beaten:
        headline += f"; a cheap rival is better for {len(beaten)}"
    first = counts_of(study.results, study.architectures[0], BASELINE, study.seeds)[0]
    return {
        "kind": kind,
        "headline": headline,
        "score": "miou",
        "seeds": study.seeds,
        "test_images": len(first),
        "absent_classes": scores(first).absent(class_names),
        "warnings": _signs_of_short_training(architectures, study.options.plan.steps),
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
            "mean": plain(values.mean()),
            "std": plain(values.std(ddof=1)) if len(values) > 1 else None,
            "by_seed": [plain(value) for value in values],
        }
    entry = {
        "name": arm.name,
        "label": arm.label,
        "real": results[0]["real"],
        "synthetic": results[0]["synthetic"],
        "best_step": [result["best_step"] for result in results],
        "scores": summaries,
        "classes": {
            key: dict(zip(class_names, map(plain, values), strict=True))
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


def _signs_of_short_training(architectures: Mapping[str, Any], steps: int) -> list[str]:
    """Return a line where the usual augmentation hurts, which says more of the training than of augmentation."""
    hurt = [
        name
        for name, entry in architectures.items()
        for arm in entry["arms"]
        if arm["name"] == USUAL.name and arm["difference"]["kind"] == "hurts"
    ]
    if not hurt:
        return []
    return [
        f"the usual augmentation hurts {', '.join(hurt)}, which it rarely does where training is long enough: "
        f"train_steps {steps} is probably too short to learn from varied images, and favours the arm that has the "
        "fewest; raise it, or start from encoder_weights"
    ]


def _against_rivals(
    study: Study, architecture: str, counts: Mapping[str, Sequence[Counts]], confidence: float
) -> dict[str, Any] | None:
    """Return the best mix against the best cheap rival, None without a rival.

    Which are best is told by the validation images, so that the test images do not choose what they judge.
    """
    rivals = [arm for arm in study.arms if arm.augmentation != "none"]
    if not rivals:
        return None

    def validated(arm: Arm) -> float:
        keys = [Run(architecture, arm, repeat).key for repeat in range(study.seeds)]
        return float(np.mean([study.results[key]["validation_miou"] for key in keys]))

    mix, rival = max((arm for arm in study.arms if arm.is_mix), key=validated), max(rivals, key=validated)
    difference = bootstrap_difference(
        counts[rival.name], counts[mix.name], confidence=confidence, seed=study.options.seed
    )
    mean, low, high = (f"{100 * value:+.1f}" for value in (difference.mean, difference.low, difference.high))
    best, cheap = f"its best mix ({mix.label})", f"its best cheap rival ({rival.label})"
    opening = {
        "helps": f"{best} is better than {cheap}",
        "hurts": f"{cheap} is better than {best}",
        "cannot tell": f"cannot tell whether {best} or {cheap} is better",
    }[difference.kind]
    line = f"{architecture}: {opening}: mIoU of the mix {mean} points ({low} to {high}) against the rival"
    return {"mix": mix.label, "rival": rival.label, "line": line, "difference": difference.to_json()}
