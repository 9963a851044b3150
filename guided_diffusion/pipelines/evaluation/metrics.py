"""The metrics of `evaluate`. A new one is a file in evaluations/metrics/ and a line in METRICS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import torch

from evaluations.metrics import agreement
from evaluations.metrics.adherence import AdherenceMetric
from evaluations.metrics.agreement import AgreementMetric
from evaluations.metrics.base import NO_MASKS, FeatureExtractor, LeftOut, Metric, Skipped, load_optional
from evaluations.metrics.box_precision import BoxPrecisionMetric
from evaluations.metrics.crop_classes import CropClassesMetric, CropPlan, build_classifier
from evaluations.metrics.deeplab import DeepLabMetric
from evaluations.metrics.drift import DriftMetric
from evaluations.metrics.fidelity import FidelityMetric
from evaluations.metrics.inception import load_inception
from evaluations.metrics.lpips_diversity import DiversityMetric, PerceptualDistance, load_lpips
from evaluations.metrics.masks import MasksMetric
from evaluations.metrics.near_duplicates import NearDuplicatesMetric
from evaluations.metrics.object_masks import ObjectMasksMetric
from evaluations.segmentation.deeplab import DeepLab, backbone_weights
from guided_diffusion.config.evaluate import DeepLabOptions, ObjectOptions, QualityOptions
from guided_diffusion.pipelines.evaluation.deeplab import train_deeplab


@dataclass(frozen=True)
class MetricContext:
    """What metrics are made from; networks are loaded when the first metric asks for them.

    Reading one raises EvaluationError for a file of weights that is missing or does not fit.
    """

    quality: QualityOptions
    seed: int
    device: torch.device
    deeplab: DeepLabOptions = field(default_factory=DeepLabOptions)
    folder: Path = Path()
    """Where trainings go on."""
    objects: ObjectOptions = field(default_factory=ObjectOptions)
    has_masks: bool = True
    """Whether the real dataset has masks."""

    @cached_property
    def inception(self) -> FeatureExtractor | Skipped:
        """The network of FID."""
        weights = self.quality.inception_weights
        return load_optional("inception_weights", weights, lambda weights: load_inception(weights, self.device))

    @cached_property
    def lpips(self) -> PerceptualDistance | Skipped:
        """The network of LPIPS."""
        net, weights = self.quality.lpips_net, self.quality.lpips_weights
        return load_optional("lpips_weights", weights, lambda weights: load_lpips(net, weights, self.device))

    @property
    def notes(self) -> list[str]:
        """A line for each network that was asked for and could not be downloaded."""
        networks = (self.inception, self.lpips)
        return [network.reason for network in networks if isinstance(network, Skipped) and network.wanted]


def _agreement(context: MetricContext) -> Metric | None:
    quality = context.quality
    if not context.has_masks:
        return LeftOut(AgreementMetric.key, agreement.HEADING, "Mask agreement", NO_MASKS)
    return AgreementMetric(quality.filter_below, quality.report_images) if quality.agreement else None


def _near_duplicates(context: MetricContext) -> Metric | None:
    quality = context.quality
    if not quality.near_duplicates:
        return None
    return NearDuplicatesMetric(context.inception, context.device, quality.report_images)


def _crops(context: MetricContext) -> Metric | None:
    options = context.objects
    if not options.objects or not options.crop_steps:
        return None
    build_classifier(options.crop_net, 2, context.seed)  # a mistake is found before anything is trained
    plan = CropPlan(options.crop_net, options.crop_steps, options.crop_seeds)
    return CropClassesMetric(plan, context.seed, context.device)


def _detector(context: MetricContext) -> Metric | None:
    options = context.objects
    if not options.objects or not options.detector_steps:
        return None
    return BoxPrecisionMetric(options.detector_steps, context.seed, context.device)


def _deeplab(context: MetricContext) -> Metric | None:
    options = context.deeplab
    if not options.deeplab:
        return None
    backbone = backbone_weights(options.deeplab_weights)
    DeepLab(2, backbone, context.seed)  # a mistake is found before anything is trained
    own = {"folder": context.folder, "epochs": options.deeplab_epochs, "backbone": backbone}
    return DeepLabMetric(partial(train_deeplab, **own, seed=context.seed, device=context.device))


METRICS: list[Callable[[MetricContext], Metric | None]] = [
    _agreement,
    lambda context: FidelityMetric(context.inception, context.quality.compare_with, context.seed),
    lambda context: DiversityMetric(context.lpips, context.inception),
    _near_duplicates,
    lambda context: DriftMetric(),
    lambda context: MasksMetric(context.seed),
    _deeplab,
    lambda context: ObjectMasksMetric(context.quality.report_images) if context.objects.objects else None,
    lambda context: AdherenceMetric(context.quality.report_images) if context.objects.objects else None,
    _crops,
    _detector,
]
"""What makes each metric, or None if it is not asked for; report.json and report.html have them in this order."""


def make_metrics(context: MetricContext) -> list[Metric]:
    """Return the metrics that are asked for."""
    return [metric for make in METRICS if (metric := make(context)) is not None]
