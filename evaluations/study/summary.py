"""The summary of a study: the verdicts and every score, as report.json has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from evaluations.groups import numbered
from evaluations.metrics.segmentation import SUMMARIES, Counts, plain, scores
from evaluations.study.comparison import (
    ArchitectureVerdict,
    Difference,
    augmentation_warning,
    bootstrap_difference,
    few_groups_warning,
    judge_architecture,
    overall,
)
from evaluations.study.run import Study, counts_of
from evaluations.study.settings import REAL_ONLY, STANDARD_AUGMENTATION, Run, Setting
from evaluations.study.training_chance import TrainingChance

CountsBySetting = Mapping[str, Sequence[Counts]]
"""Name of a setting -> counts on the test images, one entry a seed."""


def summarize(study: Study, class_names: Sequence[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the study as report.json holds it: verdicts first, then every setting of every architecture.

    settings: the options that the results depend on, copied into the record.
    """
    architectures, verdicts = {}, {}
    for name in study.architectures:
        counts = {setting.name: counts_of(study.results, name, setting, study.seeds) for setting in study.settings}
        mixes = {f"{setting.ratio:g}": counts[setting.name] for setting in study.settings if setting.is_mix}
        options = {"groups": study.test_groups, "seed": study.plan.seed, "chance": _training_chance(study, counts)}
        compare = partial(bootstrap_difference, **options)
        entry: dict[str, Any] = {}
        if mixes:
            verdicts[name] = judge_architecture(counts[REAL_ONLY.name], mixes, architecture=name, **options)
            entry["verdict"] = verdicts[name].to_json()
            entry["rivals"] = _against_baselines(study, name, counts, compare) if verdicts[name].learned else None
        entry["arms"] = [
            _setting_entry(study, name, setting, counts, class_names, compare) for setting in study.settings
        ]
        architectures[name] = entry
    kind, headline = overall(verdicts)
    rivals = [entry["rivals"] for entry in architectures.values() if entry.get("rivals")]
    beaten = [each for each in rivals if each["difference"]["kind"] == "hurts"]
    if beaten:
        headline += f"; a cheap rival is better for {len(beaten)}"
    first = counts_of(study.results, study.architectures[0], REAL_ONLY, study.seeds)[0]
    return {
        "kind": kind,
        "headline": headline,
        "score": "miou",
        "seeds": study.seeds,
        "test_images": len(first),
        "absent_classes": scores(first).absent(class_names),
        "warnings": [
            *few_groups_warning(len(set(numbered(study.test_groups, len(first)))), len(first)),
            *_signs_of_short_training(architectures, verdicts, study.plan.training.steps),
        ],
        "settings": dict(settings),
        "architectures": architectures,
    }


def _training_chance(study: Study, counts: CountsBySetting) -> TrainingChance | None:
    """Return how far trainings lie apart by chance, from all settings with real images; None with one seed."""
    once = [[scores(each).miou for each in counts[setting.name]] for setting in study.settings if setting.real]
    return TrainingChance.of(dict(enumerate(by_seed)) for by_seed in once)


def _setting_entry(
    study: Study,
    architecture: str,
    setting: Setting,
    counts: CountsBySetting,
    class_names: Sequence[str],
    compare: Callable[..., Difference],
) -> dict[str, Any]:
    by_seed = [scores(each) for each in counts[setting.name]]
    results = [study.results[Run(architecture, setting, repeat).key] for repeat in range(study.seeds)]
    per_class = {key: np.mean([each.per_class()[key] for each in by_seed], axis=0) for key in by_seed[0].per_class()}
    entry = {
        "name": setting.name,
        "label": setting.label,
        "real": results[0]["real"],
        "synthetic": results[0]["synthetic"],
        "best_step": [result["best_step"] for result in results],
        "scores": {key: _over_seeds([getattr(each, key) for each in by_seed]) for key in SUMMARIES},
        "classes": {key: dict(zip(class_names, map(plain, ious), strict=True)) for key, ious in per_class.items()},
    }
    if setting != REAL_ONLY:
        pair = counts[REAL_ONLY.name], counts[setting.name]
        # Without real images trainings may lie further apart than all others.
        alone = {} if setting.real else {"chance": None}
        entry["difference"] = compare(*pair, **alone).to_json()
    if setting.source:
        (judged,) = (each for each in study.settings if each.is_mix and each.ratio == setting.ratio)
        pair = counts[judged.name], counts[setting.name]
        entry["to_judged"] = compare(*pair).to_json()
    return entry


def _over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """Return mean, standard deviation (n - 1; None for one seed) and each value, None for NaN."""
    std = plain(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": plain(np.mean(values)), "std": std, "by_seed": [plain(value) for value in values]}


def _signs_of_short_training(
    architectures: Mapping[str, Any], verdicts: Mapping[str, ArchitectureVerdict], steps: int
) -> list[str]:
    """Return a line where nothing was learned, or where the standard augmentation hurts."""
    unlearned = [name for name, verdict in verdicts.items() if not verdict.learned]
    if unlearned:
        return [
            f"{', '.join(unlearned)} learned nothing: train_steps {steps} is too short, or lr does not fit; raise "
            "train_steps, or start from encoder_weights"
        ]
    hurt = [
        name
        for name, entry in architectures.items()
        for each in entry["arms"]
        if each["name"] == STANDARD_AUGMENTATION.name and each["difference"]["kind"] == "hurts"
    ]
    if not hurt:
        return []
    return [augmentation_warning(", ".join(hurt), "train_steps", steps)]


def _against_baselines(
    study: Study, architecture: str, counts: CountsBySetting, compare: Callable[..., Difference]
) -> dict[str, Any] | None:
    """Return the best mix against the best cheap baseline, None without a baseline.

    The validation images tell which are best, so that the test images do not choose what they judge.
    """
    baselines = [setting for setting in study.settings if setting.augmentation != "none"]
    if not baselines:
        return None

    def validated(setting: Setting) -> float:
        keys = [Run(architecture, setting, repeat).key for repeat in range(study.seeds)]
        return float(np.mean([study.results[key]["validation_miou"] for key in keys]))

    mixes = [setting for setting in study.settings if setting.is_mix]
    mix, baseline = max(mixes, key=validated), max(baselines, key=validated)
    difference = compare(counts[baseline.name], counts[mix.name])
    best, cheap = f"its best mix ({mix.label})", f"its best cheap rival ({baseline.label})"
    opening = {
        "helps": f"{best} is better than {cheap}",
        "hurts": f"{cheap} is better than {best}",
        "cannot tell": f"cannot tell whether {best} or {cheap} is better",
    }[difference.kind]
    mean, interval = difference.points
    line = f"{architecture}: {opening}: mIoU of the mix {mean} points ({interval}) against the rival"
    return {"mix": mix.label, "rival": baseline.label, "line": line, "difference": difference.to_json()}
