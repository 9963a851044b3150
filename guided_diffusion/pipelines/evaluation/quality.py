"""The quality of the samples in `evaluate`: distances, diversity, mask agreement, copies, drift."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from evaluations.errors import EvaluationError
from evaluations.metrics.agreement import Agreement, agreement
from evaluations.metrics.drift import Drift, compare_sets
from evaluations.metrics.fidelity import frechet_distance, kernel_distance, precision_recall
from evaluations.metrics.inception import InceptionFeatures, load_inception
from evaluations.metrics.lpips_diversity import PerceptualDistance, load_lpips, pairwise_diversity
from evaluations.metrics.near_duplicates import (
    Memorisation,
    Nearest,
    judge_copies,
    nearest,
    nearest_features,
    nearest_other,
    nearest_other_features,
    views,
)
from evaluations.metrics.segmentation import plain
from evaluations.sets import Pixels
from guided_diffusion.data.modes import get_mode
from guided_diffusion.pipelines.evaluation.data import EvaluationData, groups_of_one_mask, load_split
from guided_diffusion.pipelines.evaluation.judge import BATCH, Judge

ENOUGH_FOR_FID = 2048  # images: with fewer than it has dimensions the covariance has no full rank


@dataclass(frozen=True)
class Networks:
    """The networks of published metrics, None where they are left out.

    skipped: why, by metric. notes: the same of those that were wanted.
    """

    inception: InceptionFeatures | None
    lpips: PerceptualDistance | None
    skipped: dict[str, str]
    notes: list[str]


@dataclass
class Quality:
    """What was measured on the samples.

    record: as report.json holds it. findings, warnings: lines for people.
    """

    record: dict[str, Any] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    agreement: Agreement | None = None
    memorisation: Memorisation | None = None
    neighbours: tuple[dict[str, Nearest], dict[str, Nearest]] | None = None
    drift: Drift | None = None


def load_networks(options: Mapping[str, Any], device: torch.device) -> Networks:
    """Return the networks that `options` ask for; "auto" ones that cannot be downloaded are left out.

    Raises EvaluationError for a file that is missing or does not fit.
    """
    skipped: dict[str, str] = {}
    notes: list[str] = []

    def load(metric: str, key: str, loader: Callable[[str], Any]) -> Any:
        if options[key] in ("", "none"):
            skipped[metric] = f'not measured: {key} is "none"'
            return None
        try:
            return loader(options[key])
        except EvaluationError as error:
            if options[key] != "auto":
                raise
            skipped[metric] = f"not measured: {error}"
            notes.append(skipped[metric])
            return None

    inception = load("distances", "inception_weights", lambda weights: load_inception(weights, device))
    lpips = load("diversity", "lpips_weights", lambda weights: load_lpips(options["lpips_net"], weights, device))
    return Networks(inception, lpips, skipped, notes)


def measure_quality(data: EvaluationData, judge: Judge | None, networks: Networks, device: torch.device) -> Quality:
    """Measure everything but the downstream study; `judge` is the segmenter that agreement needs, None without."""
    quality = Quality()
    if judge is not None:
        _agreement(quality, data, judge)
    features = None
    if networks.inception is not None or data.options["memorisation"]:
        features = _features(data, networks, judge)
    _distances(quality, data, networks, features)
    _diversity(quality, data, networks)
    if data.options["memorisation"]:
        _memorisation(quality, data, features, device)
    _drift(quality, data)
    return quality


def _agreement(quality: Quality, data: EvaluationData, judge: Judge) -> None:
    background = get_mode(data.options["dataset_mode"]).background
    found, real = (agreement(judge.counts(images), background) for images in (data.synthetic.images, data.test.images))
    names = data.encoding.names
    quality.agreement = found
    quality.record["agreement"] = {
        **judge.record,
        "samples": {**found.summary(), **found.scores.to_json(names)},
        "real_test_images": {**real.summary(), **real.scores.to_json(names)},
        "by_sample": {
            name: {"score": float(score), "iou": dict(zip(names, map(plain, by_class), strict=True))}
            for name, score, by_class in zip(data.synthetic.images.names, found.score, found.by_class, strict=True)
        },
    }
    ours, theirs = found.summary(), real.summary()
    quality.findings.append(
        f"mask agreement of {ours['counted']} samples: mean {ours['mean']:.2f}, median {ours['median']:.2f} (of real "
        f"test images: {theirs['mean']:.2f}, {theirs['median']:.2f}); mIoU of all pixels together "
        f"{100 * found.scores.miou:.1f} % ({100 * real.scores.miou:.1f} %)"
    )
    if judge.left_out:
        quality.warnings.append(
            f"the segmenter does not know {len(judge.left_out)} of {len(names)} classes, which are left out of its "
            f"scores: {', '.join(judge.left_out)}"
        )
    # The mean: where most defects are tiny, both medians are 0.
    if ours["mean"] < 0.5 * theirs["mean"]:
        quality.warnings.append(
            f"a segmenter finds the masks in the samples less than half as well (mean {ours['mean']:.2f}) as in real "
            f"test images ({theirs['mean']:.2f}): sample with a larger s, train longer, or look at the worst ones"
        )


def _distances(quality: Quality, data: EvaluationData, networks: Networks, features: FeatureSets | None) -> None:
    if networks.inception is None:
        quality.record["distances"] = {"skipped": networks.skipped["distances"]}
        return
    assert features is not None
    compared_with = data.options["compare_with"]
    real = features.test if compared_with == "test" else features.training
    assert real is not None
    record: dict[str, Any] = {
        "features": networks.inception.description,
        "image_size": list(data.size),
        "resampling": _resampling(data),
        "compared_with": compared_with,
        "samples": _distance(features.samples, real, data),
    }
    yardstick = ""
    if features.training is not None:
        record["test"] = _distance(features.test, features.training, data)
        yardstick = f" (the test against the training images: KID {record['test']['kid']['mean']:.4f})"
    quality.record["distances"] = record
    kid, fid = record["samples"]["kid"]["mean"], record["samples"]["fid"]
    quality.findings.append(
        f"KID {kid:.4f}, FID {fid:.1f} of {len(features.samples)} samples against {len(real)} {compared_with} images"
        f"{yardstick}"
    )
    fewest = min(len(features.samples), len(real))
    if fewest < ENOUGH_FOR_FID:
        quality.warnings.append(
            f"FID is of {fewest} images where it needs {ENOUGH_FOR_FID}: it is biased upwards and only to be compared "
            "with one of as many images; read KID first"
        )


def _distance(found: np.ndarray, real: np.ndarray, data: EvaluationData) -> dict[str, Any]:
    return {
        "images": len(found),
        "against": len(real),
        "kid": kernel_distance(found, real, seed=data.options["seed"] % 2**32)._asdict(),
        "fid": frechet_distance(found, real),
        **precision_recall(found, real)._asdict(),
    }


def _resampling(data: EvaluationData) -> str:
    return f"images brought to that size ({data.options['resize']}, bicubic, antialiased)"


def _diversity(quality: Quality, data: EvaluationData, networks: Networks) -> None:
    if networks.lpips is None:
        quality.record["diversity"] = {"skipped": networks.skipped["diversity"]}
        return
    groups = groups_of_one_mask(data.several, data.encoding)
    if not groups:
        quality.record["diversity"] = {
            "skipped": "not measured: no mask has two samples; sample with num_samples 10 times the number of masks "
            "and augment_masks false, and give its results_path as diversity_dir"
        }
        return
    bar = tqdm(groups, desc="diversity", unit="mask")
    images = (load_split(group, data.encoding, data.options).images.images for group in bar)
    found = pairwise_diversity(networks.lpips, images, batch_size=BATCH)
    quality.record["diversity"] = {
        **found._asdict(),
        "images": sum(map(len, groups)),
        "folder": data.options["diversity_dir"] or str(data.samples.folder),
        "network": networks.lpips.description,
        "image_size": list(data.size),
        "resampling": _resampling(data),
    }
    quality.findings.append(
        f"LPIPS diversity {found.mean:.3f} over {found.masks} masks, at least {found.samples_per_mask} samples of each"
    )


@dataclass(frozen=True)
class FeatureSets:
    """Features [N, D] of the samples and test images, and [V, T, D] of all views of the training images, if any."""

    name: str
    samples: np.ndarray
    test: np.ndarray
    views: np.ndarray | None

    @property
    def training(self) -> np.ndarray | None:
        """[T, D], of the training images as they are."""
        return None if self.views is None else self.views[0]


def _features(data: EvaluationData, networks: Networks, judge: Judge | None) -> FeatureSets | None:
    """Return the features of Inception, or else of the segmenter's encoder; None without either.

    The views of training images are of flips and turns; without a search for copies there is only the first.
    """
    if networks.inception is not None:
        name, compute = networks.inception.description, _inception_features(networks.inception)
    elif judge is not None and judge.features is not None:
        origin = "trained elsewhere" if judge.given else "trained on the real images"
        name = f"encoder of the segmenter {origin}, averaged over pixels"
        compute = _encoder_features(judge.features)
    else:
        return None
    training = None
    if data.training is not None:
        images = data.training.images.images
        turned = views(images) if data.options["memorisation"] else [images]
        training = np.stack([compute(np.ascontiguousarray(view), "features of training images") for view in turned])
    return FeatureSets(
        name,
        compute(data.synthetic.images.images, "features of samples"),
        compute(data.test.images.images, "features of test images"),
        training,
    )


def _inception_features(inception: InceptionFeatures) -> Callable[[Pixels, str], np.ndarray]:
    def compute(images: Pixels, progress: str) -> np.ndarray:
        with tqdm(total=len(images), desc=progress, unit="image") as bar:
            return inception.features(images, BATCH, lambda done, total: bar.update(done - bar.n))

    return compute


def _encoder_features(features: Callable[[Pixels], np.ndarray]) -> Callable[[Pixels, str], np.ndarray]:
    def compute(images: Pixels, _progress: str) -> np.ndarray:
        return features(images)

    return compute


def _memorisation(quality: Quality, data: EvaluationData, features: FeatureSets | None, device: torch.device) -> None:
    # Pixel distances are computed in float64, which MPS lacks.
    assert data.training is not None
    pixel_device = device if device.type == "cuda" else torch.device("cpu")
    samples, training, test = (part.images.images for part in (data.synthetic, data.training, data.test))
    print(f"looking for {len(training)} training images among {len(samples)} samples", flush=True)
    found = nearest(samples, training, device=pixel_device)
    yardstick = nearest_other(training, device=pixel_device)
    held_out = nearest(test, training, device=pixel_device)
    if features is not None:
        found |= nearest_features(features.samples, features.views)
        yardstick |= nearest_other_features(features.views)
        held_out |= nearest_features(features.test, features.views)
    result = judge_copies(found, yardstick, held_out)
    quality.memorisation, quality.neighbours = result, (found, yardstick)
    quality.record["memorisation"] = {"features": features.name if features else "none", **result.to_json()}
    for entry, sample in zip(quality.record["memorisation"]["samples"], data.synthetic.images.names, strict=True):
        entry["image"], entry["training_image"] = sample, data.training.images.names[entry["training_index"]]
    count = int(result.suspected.sum())
    real = result.real_suspects or 0.0
    quality.findings.append(
        f"suspected copies of training images: {count} of {len(samples)} samples ({100 * result.share:.1f} %; of the "
        f"real test images the same rule flags {100 * real:.1f} %)"
    )
    if result.training_suspects > 0.5:
        quality.warnings.append("most training images nearly repeat another one: the rule for copies is of no use here")
    elif count and result.share > real:
        quality.warnings.append(
            f"{count} samples are suspected copies of training images: look at the closest pairs in the report"
        )


def _drift(quality: Quality, data: EvaluationData) -> None:
    real = data.test.images if data.training is None else data.training.images.joined(data.test.images)
    drift = compare_sets(real, data.synthetic.images)
    quality.drift = drift
    quality.record["drift"] = drift.to_json()
    quality.warnings += drift.warnings(data.encoding.names)
