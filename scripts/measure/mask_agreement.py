"""Whether a segmenter finds in samples the masks that they were made of: what several scripts measure models by."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch

from evaluations.metrics.agreement import agreement
from evaluations.segmentation.models import build_segmenter
from evaluations.segmentation.training import TrainingPlan, evaluate_segmenter, train_segmenter
from evaluations.sets import ImageSet
from evaluations.study.training_sets import split_validation
from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.config.train import TrainConfig
from guided_diffusion.data.datasets import SegmentationDataset
from guided_diffusion.data.loader import collate_examples
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.modes import get_mode
from guided_diffusion.pipelines.dataset import scan_split, shown_dataset
from guided_diffusion.pipelines.sampling import SamplingPipeline
from guided_diffusion.runtime.seeding import Stream, derive_seed
from scripts.measure.augment import pixels_of

VALIDATION = 0.2  # of the training pairs, for the segmenter


def add_segmenter_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `real_segmenter` reads, but for the folder `results`."""
    parser.add_argument("--encoder", default="tu-tf_efficientnet_lite0", help="of the segmenter")
    parser.add_argument("--encoder-weights", default="none")
    parser.add_argument("--segmenter-steps", type=int, default=1000)


@dataclass(frozen=True)
class Real:
    """The pairs of both splits at the size of the network."""

    encoding: LabelEncoding
    training: ImageSet
    test: ImageSet
    shown: SegmentationDataset


def read_real(config: TrainConfig) -> Real:
    """Return the real images as the network of `config` sees them."""
    mode, sets, shown, encoding = get_mode(config.source.dataset_mode), [], None, None
    for split in ("train", "test"):
        report = scan_split(config.source, config.geometry, split, encoding=encoding)
        encoding = report.raise_if_fatal()
        shown = shown_dataset(report.pairs, encoding, config.geometry, mode)
        images, condition = collate_examples(shown, range(len(report.pairs)))
        names = tuple(pair.stem for pair in report.pairs)
        sets.append(ImageSet(pixels_of(images), condition.label.numpy(), names, encoding.num_classes))
    return Real(encoding, *sets, shown)


def real_segmenter(arguments: argparse.Namespace, real: Real) -> torch.nn.Module:
    """Return the segmenter trained on the real training pairs, which is kept in RESULTS."""
    path, device = Path(arguments.results) / "segmenter.pt", torch.device("cpu")
    count = real.encoding.num_classes
    weights = "none" if path.exists() else arguments.encoder_weights
    model = build_segmenter("unet", arguments.encoder, num_classes=count, seed=0, encoder_weights=weights)
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()
    chosen, held = split_validation(real.training.labels, count, VALIDATION, 0)
    plan = TrainingPlan(steps=arguments.segmenter_steps, batch_size=16, learning_rate=1e-3)
    found = train_segmenter(
        model, real.training.subset(chosen), real.training.subset(held), plan, seed=0, device=device
    )
    torch.save(found.model.state_dict(), path)
    return found.model


def scored(segmenter: torch.nn.Module, images: ImageSet) -> dict[str, float]:
    """Return the mean mask agreement of a set of images, and the mIoU of all their pixels."""
    found = agreement(evaluate_segmenter(segmenter, images, 16, torch.device("cpu")))
    return {"agreement": found.summary()["mean"], "miou": float(found.scores.miou)}


def sampled(pipeline: SamplingPipeline, real: Real, scale: float, seed: int) -> ImageSet:
    """Return an image of each test mask."""
    condition = SemanticMap(torch.from_numpy(real.test.labels), real.encoding.num_classes)
    seeds = [derive_seed(Stream.SAMPLE, seed, index) for index in range(len(condition))]
    images = pipeline(condition, seeds, s=scale, steps=20, batch_size=16)
    return ImageSet(pixels_of(images), real.test.labels, real.test.names, real.test.num_classes)
