"""Measure whether pairs that `segment` labels make a model that takes masks better, at equal steps of training.

    python -m scripts.measure.pseudo_pairs RESULTS --data-dir data/magnetic_tile --model-path runs/images \
        --encoder-weights weights/tf_efficientnet_lite0.safetensors [--amount 60] [--steps 1500] [--seeds 3]

For each seed, `--amount` training pairs are labeled, with each class as often as in all of them. `segment` labels the
other training images by the features of the model in `--model-path`, which has seen images alone; how right the pixels
are that it did not ignore is measured by their true masks. Then the network in `--config` is trained twice: "real" on
the labeled pairs, "pseudo" on these and the labeled ones that were certain. Both draw images of the test masks, in
which a segmenter (U-Net) that was trained on all real training pairs looks for the masks.

It goes on where it was stopped. Writes results.jsonl and results.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from guided_diffusion.actions import segment, train
from guided_diffusion.config.load import load_config, parse_overrides, read_config_file
from guided_diffusion.config.segment import SegmentConfig
from guided_diffusion.config.train import TrainConfig
from guided_diffusion.data.datasets import read_mask
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.options import GeometryOptions, SourceOptions
from guided_diffusion.data.pairing import Pair
from guided_diffusion.pipelines.dataset import scan_split
from guided_diffusion.pipelines.load import load_pipeline
from guided_diffusion.pipelines.study.amounts import nested_order, read_presence, subset_of, write_subset
from guided_diffusion.runtime.checkpoint import LAST
from guided_diffusion.runtime.files import write_text
from guided_diffusion.samples.pseudo_folder import PSEUDO
from scripts.measure.augment import losses
from scripts.measure.mask_agreement import Real, add_segmenter_options, read_real, real_segmenter, sampled, scored

RESULTS, TABLE = "results.jsonl", "results.md"
_, WITH_PSEUDO = ARMS = ("real", "pseudo")
DROPPED = 0.1
"""Share of dropped masks in training, so that guidance can be measured."""


class Data(NamedTuple):
    """Training pairs of the dataset, and the order in which each seed labels them."""

    pairs: Sequence[Pair]
    orders: Sequence[np.ndarray]
    encoding: LabelEncoding
    background: int


class Masked(NamedTuple):
    """The data_dir of `segment`, how many pairs it labeled, and how right these masks are where they say something."""

    data_dir: Path
    pairs: int
    iou: dict[str, float | None]
    said: float


def train_config(arguments: argparse.Namespace, data_dir: Path, folder: Path, seed: int) -> TrainConfig:
    """Return the configuration of a training on `data_dir` for `--steps` steps."""
    shown = {"data_dir": str(data_dir), "output_dir": str(folder), "seed": seed, "drop_rate": DROPPED}
    shown |= {"preview_interval": 0, "tensorboard": False, "resume_checkpoint": "auto", "max_epochs": 1_000_000}
    shown |= {"lr_anneal_steps": arguments.steps}
    values = {key: value for key, value in read_config_file(arguments.config).items() if key != "$schema"}
    return load_config("train", {**values, **shown, **parse_overrides(arguments.set, TrainConfig)})


def read_data(config: TrainConfig, seeds: int) -> Data:
    """Return the training pairs that `config` names, and how each seed labels them."""
    report = scan_split(config.source, config.geometry, "train")
    encoding, background = report.raise_if_fatal(), get_mode(config.source.dataset_mode).background
    presence = read_presence(report.pairs, encoding, background)
    orders = [nested_order(presence, seed) for seed in range(seeds)]
    return Data(report.pairs, orders, encoding, background)


def label(arguments: argparse.Namespace, data: Data, seed: int) -> Masked:
    """Label the pairs that `--amount` leaves over, by `segment` on the others, and compare with their true masks."""
    chosen = subset_of(data.pairs, data.orders[seed], arguments.amount)
    rest = [pair for pair in data.pairs if pair not in chosen]
    unlabeled = write_subset(rest, arguments.data_dir, arguments.results / f"unlabeled-{seed}")
    values = {
        "data_dir": str(write_subset(chosen, arguments.data_dir, arguments.results / f"labeled-{seed}")),
        "dataset_mode": "multi-class",
        "image_dir": str(unlabeled / "train" / "images"),
        "model_path": arguments.model_path,
        "output_dir": str(arguments.results / f"segment-{seed}"),
        "seed": seed,
    }
    config = load_config("segment", {**values, **parse_overrides(arguments.set_segment, SegmentConfig)})
    segment.run(config)
    return compare(Path(config.output_dir), rest, data)


def compare(data_dir: Path, true_pairs: Sequence[Pair], data: Data) -> Masked:
    """Return the IoU of each class over the pixels that the masks of `segment` do not ignore, and their share."""
    source = SourceOptions(data_dir=str(data_dir), dataset_mode="multi-class")
    report = scan_split(source, GeometryOptions(image_size=64, image_channels=1), "train")
    encoding = report.raise_if_fatal()
    truth = {pair.stem: pair for pair in true_pairs}
    found = [pair for pair in report.pairs if pair.stem.startswith(f"{PSEUDO}/")]
    classes = data.encoding.num_classes
    counts, pixels = np.zeros((classes, classes), np.int64), 0
    for pair in found:
        true_pair = truth[pair.stem.removeprefix(f"{PSEUDO}/")]
        true = read_mask(true_pair.mask, data.encoding, upright=true_pair.upright).numpy()
        said = read_mask(pair.mask, encoding, upright=pair.upright).numpy()
        valid = (said < encoding.num_classes) & (true < classes)
        counts += np.bincount(true[valid] * classes + said[valid], minlength=classes**2).reshape(classes, classes)
        pixels += true.size
    union = counts.sum(0) + counts.sum(1) - np.diag(counts)
    iou = {
        name: float(counts[index, index] / union[index]) if union[index] else None
        for index, name in enumerate(data.encoding.names)
        if index != data.background
    }
    return Masked(data_dir, len(found), iou, float(counts.sum() / pixels) if pixels else 0.0)


def measure(arguments: argparse.Namespace, real: Real, data_dir: Path, arm: str, seed: int) -> dict[str, Any]:
    """Train on `data_dir` for all steps and return what the images of the test masks are worth."""
    folder = arguments.results / f"{arm}-{seed}"
    train.run(train_config(arguments, data_dir, folder, seed))
    pipeline = load_pipeline(folder / LAST, device="cpu")
    segmenter = real_segmenter(arguments, real)
    record: dict[str, Any] = {"arm": arm, "seed": seed, "steps": arguments.steps, "test": losses(pipeline, real.shown)}
    record["real"] = scored(segmenter, real.test)
    for scale in (1.0, arguments.guidance):
        record[f"s {scale:g}"] = scored(segmenter, sampled(pipeline, real, scale, seed))
    return record


def _mean(values: Sequence[float]) -> str:
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.1f}{spread}"


def table(records: Sequence[dict[str, Any]]) -> str:
    """Return a Markdown table in percent, means and deviations over the seeds, and what the masks were like."""
    scales = sorted({key for record in records for key in record if key.startswith("s ")})
    titles = [
        "trained on",
        "seeds",
        "pairs",
        *(f"{name}, {scale}" for scale in scales for name in ("agreement", "mIoU")),
    ]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for arm in ARMS:
        group = [record for record in records if record["arm"] == arm]
        if group:
            cells = [arm, str(len(group)), f"{statistics.fmean(record['pairs'] for record in group):.0f}"]
            cells += [
                _mean([record[scale][key] for record in group]) for scale in scales for key in ("agreement", "miou")
            ]
            lines.append(f"| {' | '.join(cells)} |")
    if records:
        real = records[0]["real"]
        lines += ["", f"real test images: agreement {100 * real['agreement']:.1f}, mIoU {100 * real['miou']:.1f}"]
    for record in (record for record in records if record["arm"] == WITH_PSEUDO):
        shares = ", ".join(
            f"{name} {'-' if iou is None else f'{100 * iou:.0f}'}" for name, iou in record["iou"].items()
        )
        said = f"{record['labeled']} images, {100 * record['said']:.0f} % of their pixels"
        lines.append(f"masks of seed {record['seed']}: {said}; IoU {shares}")
    return "\n".join(lines)


def main(given: Sequence[str] | None = None) -> None:
    """Label, train and measure what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("results", type=Path, help="folder of the trainings, results.jsonl and results.md")
    add("--data-dir", required=True)
    add("--model-path", required=True, help="the model of images alone, whose features segment reads")
    add("--config", default="configs/magnetic_tile/train.json", help="of the training with masks")
    add("--set", action="append", default=[], metavar="key=value", help="another value of --config")
    add("--set-segment", action="append", default=[], metavar="key=value", help="a value of segment")
    add("--amount", type=int, default=60, help="of labeled pairs")
    add("--steps", type=int, default=1500, help="of each training")
    add("--seeds", type=int, default=3)
    add("--guidance", type=float, default=1.5)
    add_segmenter_options(parser)
    arguments = parser.parse_args(given)
    arguments.results.mkdir(parents=True, exist_ok=True)
    path = arguments.results / RESULTS
    records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(record["arm"], record["seed"]) for record in records}
    config = train_config(arguments, Path(arguments.data_dir), arguments.results, 0)
    data, real = read_data(config, arguments.seeds), read_real(config)
    for seed in range(arguments.seeds):
        if all((arm, seed) in done for arm in ARMS):
            continue
        masked = label(arguments, data, seed)
        for arm in ARMS:
            if (arm, seed) in done:
                continue
            data_dir = masked.data_dir if arm == WITH_PSEUDO else arguments.results / f"labeled-{seed}"
            record = measure(arguments, real, data_dir, arm, seed)
            record["pairs"] = arguments.amount + (masked.pairs if arm == WITH_PSEUDO else 0)
            if arm == WITH_PSEUDO:
                record |= {"labeled": masked.pairs, "said": masked.said, "iou": masked.iou}
            records.append(record)
            with path.open("a") as file:
                file.write(json.dumps(record) + "\n")
    write_text(arguments.results / TABLE, table(records) + "\n")
    print(table(records))


if __name__ == "__main__":
    main()
