"""Measure the masks that a model of boxes predicts for real images, against their true masks; print a Markdown table.

    python -m scripts.measure.seen_masks MODEL... --data-dir data/magnetic_tile [--split test] [--steps 20]

`evaluate` compares the masks of samples with those of the real images whose boxes they have; but an object that the
model drew is another one than the real one. Here the model sees the real image instead: with the noise of the last
three steps of sampling, averaged over these as in `sample`. So the IoU tells whether its masks fit an image. Pixels of
the class of an object in its box, summed over all objects; beside it boxes full of their class.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evaluations.metrics.object_masks import ObjectScores, object_scores
from evaluations.objects import ImageObjects, filled_boxes
from guided_diffusion.conditions.layout import LayoutCondition
from guided_diffusion.conditions.object_map import label_map_of
from guided_diffusion.config.train import TrainConfig
from guided_diffusion.data.datasets import SegmentationDataset
from guided_diffusion.data.loader import collate_examples, collate_labels
from guided_diffusion.data.modes import get_mode
from guided_diffusion.diffusion.options import SamplerOptions
from guided_diffusion.pipelines.build import options_of_checkpoint
from guided_diffusion.pipelines.dataset import scan_split, shown_dataset
from guided_diffusion.pipelines.layout_drawing import MASK_STEPS
from guided_diffusion.pipelines.load import encoding_of_checkpoint, load_pipeline
from guided_diffusion.pipelines.sampling import SamplingPipeline
from guided_diffusion.pipelines.training_data import condition_maker
from guided_diffusion.runtime.checkpoint import BEST, find_checkpoint, load_checkpoint

BATCH = 16


def real_images(arguments: argparse.Namespace, path: str) -> tuple[SegmentationDataset, TrainConfig]:
    """Return the images of a split as the model of `path` sees them, with their layouts and masks, and its options."""
    checkpoint = load_checkpoint(find_checkpoint(path, prefer=BEST))
    config, encoding = options_of_checkpoint(checkpoint, TrainConfig), encoding_of_checkpoint(checkpoint)
    source = config.source.model_copy(update={"data_dir": arguments.data_dir})
    report = scan_split(source, config.geometry, arguments.split, encoding=encoding)
    report.raise_if_fatal()
    maker = condition_maker(config, encoding)
    mode = get_mode(source.dataset_mode)
    return shown_dataset(report.pairs, encoding, config.geometry, mode, conditions=maker), config


@torch.inference_mode()
def seen_masks(pipeline: SamplingPipeline, images: Tensor, layouts: LayoutCondition, steps: int) -> Tensor:
    """Return the masks [N, O, H, W] in 0..1 of the objects of real images [N, C, H, W] in [-1, 1]."""
    process = pipeline.begin(SamplerOptions(steps=steps, time_grid="logsnr")).process
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    modulations = pipeline.model.modulate(layouts)
    last = [torch.full((len(images),), index) for index in range(min(MASK_STEPS, process.num_timesteps))]
    masks = [
        pipeline.model.object_masks(process.q_sample(images, t, noise), process.model_t(t), modulations) for t in last
    ]
    return torch.stack(masks).mean(0)


def measure(arguments: argparse.Namespace, path: str) -> tuple[tuple[str, ...], ObjectScores, ObjectScores]:
    """Return the names of the classes, the scores of the predicted masks, and those of whole boxes."""
    dataset, config = real_images(arguments, path)
    pipeline = load_pipeline(path, device="cpu", compile=False)
    background = get_mode(config.source.dataset_mode).background
    predicted: list[Any] = []
    filled: list[Any] = []
    true: list[Any] = []
    objects: list[ImageObjects] = []
    for start in range(0, len(dataset), BATCH):
        rows = range(start, min(start + BATCH, len(dataset)))
        images, layouts = collate_examples(dataset, rows)
        masks = seen_masks(pipeline, images, layouts, arguments.steps)
        predicted += list(label_map_of(masks, layouts, background=background).numpy())
        true += list(collate_labels(dataset, rows).numpy())
        for label, box, present in zip(layouts.label, layouts.box, layouts.present, strict=True):
            shown = present.clone()
            shown[0] &= not layouts.background
            objects.append(ImageObjects(label[shown].numpy().astype(np.int64), box[shown].numpy().astype(np.float64)))
    size = true[0].shape
    filled = [filled_boxes(each, size, background) for each in objects]
    classes = dataset.encoding.num_classes
    scores = (object_scores(maps, true, objects, classes) for maps in (predicted, filled))
    return dataset.encoding.names, *scores


def table(arguments: argparse.Namespace) -> str:
    """Return the rows of all models, in percent, and one of whole boxes."""
    lines, boxes = [], None
    for path in arguments.models:
        names, scores, boxes = measure(arguments, path)
        lines.append(row(path, names, scores))
    present = [name for index, name in enumerate(names) if (boxes.classes == index).any()]
    head = ["", "mean", *present]
    return "\n".join([_line(head), "|---" * len(head) + "|", *lines, row("whole boxes", names, boxes)])


def row(title: str, names: Sequence[str], scores: ObjectScores) -> str:
    """Return a row: the mean over the classes that have objects, and each of them."""
    found = [scores.of_class(index)["iou"] for index in range(len(names)) if (scores.classes == index).any()]
    known = [value for value in found if value is not None]
    return _line([title, *(f"{100 * value:.0f}" for value in (sum(known) / len(known), *known))])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("models", nargs="+", help="run folders or checkpoints of models of boxes, of one dataset")
    add("--data-dir", required=True)
    add("--split", default="test")
    add("--steps", type=int, default=20, help="of the sampling whose last three are taken")
    print(table(parser.parse_args(argv)))


if __name__ == "__main__":
    main()
