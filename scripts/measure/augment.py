"""Measure whether augmentation that does not leak helps a small dataset: `augment` of `train`, on and off.

    python -m scripts.measure.augment RESULTS --data-dir data/magnetic_tile [--augment 0 0.15] [--epochs 400]

Trains the same small network on `--images` pairs spread over the training split with each value of `augment`, in turns
of `--every` epochs, and after each turn measures the averaged weights on the test pairs, each as the window around its
largest component: the mean squared error of the prediction at fixed timesteps with fixed noise. At the end of each
training, and wherever `--copies-every` turns are done, it samples the masks of the training windows and tells which
share of the samples is a near-duplicate of one (evaluations/README.md has the rule).

It goes on where it was stopped; trainings are resumed, and what is measured is not measured again. With `--until`
minutes it stops by itself after the turn in which they are over.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evaluations.metrics.near_duplicates import flag_near_duplicates
from evaluations.metrics.nearest import nearest
from guided_diffusion.actions import train
from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.config.load import load_config
from guided_diffusion.config.train import TrainConfig
from guided_diffusion.data import visualize
from guided_diffusion.data.loader import DistributedBatchPlan, TrainBatch, TrainLoader
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.pairing import index_pairs
from guided_diffusion.diffusion.gaussian import build_diffusion
from guided_diffusion.diffusion.pixel_weights import pixel_weights
from guided_diffusion.pipelines.build import options_of_checkpoint
from guided_diffusion.pipelines.dataset import scan_split, shown_dataset
from guided_diffusion.pipelines.load import encoding_of_checkpoint, pipeline_of_checkpoint
from guided_diffusion.pipelines.sampling import SamplingPipeline
from guided_diffusion.runtime.checkpoint import LAST, load_checkpoint
from guided_diffusion.runtime.seeding import Stream, derive_seed

NETWORK = {
    "dataset_mode": "multi-class",
    "image_size": 32,
    "image_channels": 1,
    "resize": "window",
    "vertical_flip": True,
    "num_channels": 32,
    "channel_mult": "1,1,2",
    "num_res_blocks": 1,
    "num_head_channels": 32,
    "attention_resolutions": "8",
    "learn_sigma": False,
    "noise_schedule": "cosine",
    "prediction": "v",
    "batch_size": 8,
    "lr": 4e-4,
    "ema_rate": "0.999",
    "preview_interval": 0,
    "tensorboard": False,
}
TIMESTEPS = (50, 150, 300, 450, 600, 750, 900)
RESULTS = "results.jsonl"


@dataclass(frozen=True)
class Setting:
    """One training."""

    augment: float
    seed: int

    @property
    def name(self) -> str:
        return f"augment_{self.augment:g}_seed_{self.seed}"


def copy_of_some(data_dir: Path, target: Path, images: int) -> Path:
    """Write a dataset of `images` training pairs spread over those of `data_dir`, and all its test pairs."""
    if not target.exists():
        part = target.with_name(target.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        for split in ("train", "test"):
            pairs, _ = index_pairs(str(data_dir), get_mode(NETWORK["dataset_mode"]), split)
            for pair in visualize.evenly_spaced(pairs, images if split == "train" else len(pairs)):
                for kind, path in (("images", pair.image), ("masks", pair.mask)):
                    (part / split / kind).mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, part / split / kind)
        shutil.copy(data_dir / "classes.json", part)
        part.rename(target)
    return target


def config_of(arguments: argparse.Namespace, data: Path, setting: Setting, epochs: int) -> TrainConfig:
    own = {"augment": setting.augment, "seed": setting.seed, "max_epochs": epochs, "scale": arguments.scale}
    folder = Path(arguments.results) / setting.name
    return load_config("train", {**NETWORK, **own, "data_dir": str(data), "output_dir": str(folder)})


def held_out(config: TrainConfig, split: str) -> Any:
    """Return the pairs of a split as the network sees them, each as one window."""
    report = scan_split(config.source, config.geometry, split, batch_size=1, look_alikes=False)
    encoding = report.raise_if_fatal().with_ignore()
    return shown_dataset(report.pairs, encoding, config.geometry, get_mode(config.source.dataset_mode))


def batches(dataset: Any, size: int) -> Iterator[TrainBatch]:
    """Yield all pairs of a dataset in an order that is always the same."""
    yield from TrainLoader(dataset, DistributedBatchPlan(len(dataset), size)).epoch(0)


@torch.no_grad()
def losses(pipeline: SamplingPipeline, dataset: Any) -> list[float]:
    """Return the mean squared error at each of `TIMESTEPS` over the pixels of the pictures, with fixed noise."""
    process = build_diffusion(pipeline.options.diffusion)
    sums, count = np.zeros(len(TIMESTEPS)), 0
    for batch in batches(dataset, 16):
        n = len(batch)
        for row, step in enumerate(TIMESTEPS):
            seeds = [derive_seed(Stream.NOISE, step, count + index) for index in range(n)]
            noise = torch.stack(
                [torch.randn(batch.image.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
            )
            t = torch.full((n,), step)
            x_t = process.q_sample(batch.image, t, noise)
            output = pipeline.model(x_t, process.model_t(t), batch.condition)
            weight = pixel_weights(batch.inside, None)
            found = process.training_losses(output, batch.image, x_t, t, noise, weight)
            sums[row] += float(found["mse"].sum())
        count += n
    return (sums / count).tolist()


def copies(pipeline: SamplingPipeline, training: Any, test: Any) -> dict[str, float]:
    """Return the share of near-duplicates among samples of the masks of the training windows, and of real ones."""
    shown = [list(batches(dataset, 16)) for dataset in (training, test)]
    real = [np.concatenate([pixels_of(batch.image) for batch in part]) for part in shown]
    condition = SemanticMap.cat([batch.condition for batch in shown[0]])
    seeds = [derive_seed(Stream.SAMPLE, 0, index) for index in range(len(condition))]
    samples = pixels_of(pipeline(condition, seeds, steps=20, batch_size=16))
    result = flag_near_duplicates(
        nearest(samples, real[0]), nearest(real[0], real[0], leave_one_out=True), nearest(real[1], real[0])
    )
    return {"copies": result.share, "copies_real": result.real_share}


def pixels_of(images: torch.Tensor) -> np.ndarray:
    """Return images [N, 1 or 3, H, W] in [-1, 1] as uint8 [N, H, W, 3]."""
    return np.stack([visualize.to_rgb(image) for image in visualize.quantize(images.numpy())])


def measure(arguments: argparse.Namespace, data: Path, setting: Setting, epochs: int) -> dict[str, Any]:
    """Return the record of a training after `epochs`."""
    config = config_of(arguments, data, setting, epochs)
    checkpoint = load_checkpoint(Path(config.run.output_dir) / LAST)
    trained, names = options_of_checkpoint(checkpoint), encoding_of_checkpoint(checkpoint).names
    pipeline = pipeline_of_checkpoint(checkpoint, trained, names, weights="ema", device=torch.device("cpu"))
    test, training = held_out(config, "test"), held_out(config, "train")
    record: dict[str, Any] = {"setting": setting.name, "augment": setting.augment, "seed": setting.seed}
    record |= {"epochs": epochs, "test": losses(pipeline, test), "train": losses(pipeline, training)}
    turn = epochs // arguments.every
    if epochs >= arguments.epochs or (arguments.copies_every and turn % arguments.copies_every == 0):
        record |= copies(pipeline, training, test)
    return record


def table(records: Sequence[dict[str, Any]]) -> str:
    """Return the measurements, means over the seeds, and for each setting the epoch of its lowest loss."""
    lines = ["| epochs | augment | seeds | test loss | training loss | copies | of real |", "|" + "---|" * 7]
    groups: dict[tuple[int, float], list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault((record["epochs"], record["augment"]), []).append(record)
    lowest: dict[float, tuple[float, int]] = {}
    for (epochs, augment), group in sorted(groups.items()):
        test, train_loss = (np.mean([record[key] for record in group]) for key in ("test", "train"))
        lowest[augment] = min(lowest.get(augment, (np.inf, 0)), (float(test), epochs))
        shares = [
            f"{100 * np.mean([record[key] for record in group]):.0f} %" if all(key in r for r in group) else ""
            for key in ("copies", "copies_real")
        ]
        cells = [epochs, f"{augment:g}", len(group), f"{test:.5f}", f"{train_loss:.5f}", *shares]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += [f"augment {key:g}: lowest test loss {loss:.5f} after {at} epochs" for key, (loss, at) in lowest.items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", help="folder of the trainings and results.jsonl")
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--scale", type=float, default=0.25)
    parser.add_argument("--augment", type=float, nargs="+", default=[0.0, 0.15])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=400)
    parser.add_argument("--every", type=int, default=20, help="epochs of a turn")
    parser.add_argument("--copies-every", type=int, default=0, help="turns; 0: at the end only")
    parser.add_argument("--until", type=float, default=float("inf"), help="minutes")
    arguments = parser.parse_args()
    folder, started = Path(arguments.results), time.monotonic()
    data = copy_of_some(Path(arguments.data_dir), folder / f"data_{arguments.images}", arguments.images)
    path = folder / RESULTS
    records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(record["setting"], record["epochs"]) for record in records}
    settings = [Setting(augment, seed) for seed in range(arguments.seeds) for augment in arguments.augment]
    for epochs in range(arguments.every, arguments.epochs + 1, arguments.every):
        for setting in settings:
            if (setting.name, epochs) in done:
                continue
            train.run(config_of(arguments, data, setting, epochs))
            records.append(measure(arguments, data, setting, epochs))
            with path.open("a") as file:
                file.write(json.dumps(records[-1]) + "\n")
        if time.monotonic() - started > 60 * arguments.until:
            break
    print(table(records))


if __name__ == "__main__":
    main()
