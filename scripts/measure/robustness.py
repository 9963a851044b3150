"""Measure robustness to noisy masks: SDM and SCDM, trained alike on clean masks, sampled from clean and noisy masks.

    python -m scripts.measure.robustness [--output runs/robustness] [--systems sdm scdm] [--epochs 120] [--seeds 0 1]

Makes the dataset of the quick start in a larger size, trains each system on it with the same options but for label
diffusion, and samples the test masks as they are and with the three kinds of noise of `make_noisy_masks.py`, from the
same noise images. A segmenter trained on other real images looks for the *clean* masks in all samples. Prints tables in
Markdown, also written to `robustness.md`, and draws `robustness.png`; `robustness.json` has every number.

Systems: `sdm`, no label diffusion; `scdm`, class-wise, with eta computed from the training masks; `scdm_uniform`.
Noise has the size that the published one has by the side of the network's image: `downsample` leaves a quarter of the
network's rows and columns, `edge` and `random` are made on masks of 256 px.

A drop is the clean masks' mIoU less the noisy ones'; intervals hold 95 % of 2,000 resamples of the test masks, drawn
alike for all systems. They do not include the variance between trainings: the drop of each seed is given, too.

Running it again resumes. Once the data exist (`--until data`), systems can be trained by several commands at a time
(`--systems sdm --until sample`).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from tqdm import tqdm

from evaluations.metrics.segmentation import Counts, count, scores
from evaluations.segmentation.models import build_segmenter
from evaluations.segmentation.training import TrainingPlan, predict, train_segmenter
from evaluations.sets import ImageSet
from evaluations.study.comparison import draw_weights, weighted_score
from guided_diffusion.config.load import load_config
from guided_diffusion.data import visualize
from guided_diffusion.data.arrays import load_arrays
from guided_diffusion.data.lemons import CLASSES, write_demo_dataset
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.scan.scan import scan_dataset
from guided_diffusion.data.transforms import JointTransform
from guided_diffusion.runtime.errors import Interrupted
from guided_diffusion.runtime.files import atomic_write, write_text
from guided_diffusion.runtime.memory import keep_freed_memory
from guided_diffusion.samples.reader import SampleFolder, find_samples
from scripts.benchmark.run import positive
from scripts.benchmark.tables import cpu_model
from scripts.dataset_folders import mistakes_in_lines

SYSTEMS: dict[str, dict[str, Any]] = {
    "sdm": {},
    "scdm": {"cond_diffuse": True, "cond_opt": "discrete_zero_classwise"},
    "scdm_uniform": {"cond_diffuse": True, "cond_opt": "discrete_zero_uniform"},
}
REFERENCE = "sdm"
CLEAN = "clean"
NOISE = {
    "downsample": ["--size", "16"],
    "edge": ["--distance", "2"],
    "random": ["--share", "0.1"],
}
MODE = "lemon-multi-class"
TRAIN_PAIRS, TEST_PAIRS, FILE_SIZE = 128, 64, 256
JUDGE_PAIRS = 400
IMAGE_SIZE = 64
SAMPLES_PER_MASK = 1
NULL_VALUE = 255  # the ignore value of noisy masks
BATCH_SIZE = 8
GUIDANCE = 1.5
RESAMPLES = 2000
SHOWN = 3


def train(root: Path, system: str, seed: int, epochs: int) -> Path:
    """Train `system` from `seed` and return its run folder; a finished one is not trained again."""
    folder = root / f"{system}_{seed}"
    values = {
        "data_dir": str(root / "dataset"),
        "dataset_mode": MODE,
        "ignore_label": NULL_VALUE,
        "output_dir": str(folder),
        "image_size": IMAGE_SIZE,
        "resize": "squash",
        "random_flip": True,
        "num_channels": 32,
        "channel_mult": [1, 2, 2],
        "num_res_blocks": 1,
        "num_head_channels": 32,
        "attention_resolutions": [16],
        "resblock_updown": False,
        "learn_sigma": False,
        "noise_schedule": "cosine",
        "drop_rate": 0.1,
        "batch_size": BATCH_SIZE,
        "lr": 5e-4,
        "lr_anneal_steps": epochs * TRAIN_PAIRS // BATCH_SIZE,
        "ema_rate": [0.995],
        "max_epochs": epochs,
        "preview_interval": max(1, epochs // 4),
        "seed": seed,
        **SYSTEMS[system],
    }
    _run("train", values)
    return folder


def _run(action: str, values: Mapping[str, Any]) -> None:
    import_module(f"guided_diffusion.actions.{action}").run(load_config(action, values))


def make_masks(root: Path) -> dict[str, Path]:
    """Write the dataset and its noisy test masks if they do not exist yet; return the folder of each kind."""
    dataset = root / "dataset"
    write_demo_dataset(dataset, num_train=TRAIN_PAIRS, num_test=TEST_PAIRS, size=FILE_SIZE, seed=0)
    folders = {CLEAN: dataset / "test" / "masks"}
    for kind, options in NOISE.items():
        folders[kind] = root / "masks" / kind
        if not folders[kind].exists():
            begun = root / "masks" / f"{kind}.begun"
            shutil.rmtree(begun, ignore_errors=True)
            source = ["--data-dir", str(dataset), "--dataset-mode", MODE, "--ignore-label", str(NULL_VALUE)]
            script = Path(__file__).parents[1] / "make_noisy_masks.py"
            command = [kind, *source, *options, "--masks-only", "--output", str(begun)]
            path = os.pathsep.join([str(script.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
            environment = {**os.environ, "PYTHONPATH": path}
            subprocess.run([sys.executable, str(script), *command], check=True, env=environment)
            begun.rename(folders[kind])
    return folders


def sample(root: Path, run: Path, kind: str, masks: Path) -> SampleFolder:
    """Return the samples of a run from the masks of `kind`; the same images of noise whatever the run and the masks."""
    folder = root / "samples" / f"{run.name}_{kind}"
    values = {
        "model_path": str(run),
        "mask_dir": str(masks),
        "results_path": str(folder),
        "num_samples": SAMPLES_PER_MASK * TEST_PAIRS,
        "s": GUIDANCE,
        "batch_size": 32,
    }
    _run("sample", values)
    return find_samples(folder)


# --------------------------------------------------------------------------------------------------- judging


def real_images(folder: Path, split: str) -> ImageSet:
    """Return a split of a dataset at the size of the networks."""
    report = scan_dataset(folder, get_mode(MODE), split)
    encoding = report.raise_if_fatal()
    transform = JointTransform((IMAGE_SIZE, IMAGE_SIZE), resize="squash", train=False)
    images, labels = load_arrays(report.pairs, encoding, transform, 3, progress=f"reading {folder.name} {split}")
    return ImageSet(images, labels, tuple(pair.stem for pair in report.pairs), encoding.num_classes)


def load_segmenter(root: Path, steps: int) -> nn.Module:
    """Return a segmenter trained on other real images than those of training and test; a saved one is loaded."""
    path, dataset = root / f"segmenter_{steps}.pt", root / "segmenter"
    write_demo_dataset(dataset, num_train=JUDGE_PAIRS, num_test=TEST_PAIRS, size=FILE_SIZE, seed=1)
    classes = len(CLASSES)
    model = build_segmenter("fpn", "resnet18", num_classes=classes, seed=0)
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()
    plan = TrainingPlan(steps, 16, 1e-3)
    with tqdm(total=steps, desc="segmenter", unit="step") as bar:
        found = train_segmenter(
            model,
            real_images(dataset, "train"),
            real_images(dataset, "test"),
            plan,
            seed=0,
            device=torch.device("cpu"),
            callback=bar.update,
        )
    with atomic_write(path) as temporary:
        torch.save(found.model.state_dict(), temporary)
    return found.model


def segmenter_counts(segmenter: nn.Module, samples: SampleFolder, truth: ImageSet) -> Counts:
    """Return the counts of the predictions of the segmenter on samples against the clean masks, [masks, C], by mask."""
    place = {name: index for index, name in enumerate(truth.names)}
    images, owner = [], []
    for line in samples.lines.values():
        with Image.open(samples.folder / line.image) as image:
            images.append(np.asarray(image.convert("RGB")))
        owner.append(place[Path(line.source_mask).stem])
    found = count(truth.labels[owner], predict(segmenter, np.stack(images), 64, torch.device("cpu")), truth.num_classes)
    assert np.bincount(owner, minlength=len(truth)).min() == SAMPLES_PER_MASK
    rows = np.zeros((3, len(truth), truth.num_classes), dtype=np.int64)
    for summed, pixels in zip(rows, found.columns, strict=True):
        np.add.at(summed, owner, pixels)
    return Counts(*rows)


def weights_of_resamples(masks: int) -> NDArray[np.float64]:
    """Return [1 + RESAMPLES, masks]: ones, then how often each mask is drawn in a resample."""
    return np.concatenate([np.ones((1, masks)), draw_weights(np.random.default_rng(0), RESAMPLES, masks)])


def measure(root: Path, samples: Mapping[tuple[str, int, str], SampleFolder], steps: int) -> dict[str, Any]:
    """Measure the samples of each system, seed and kind of mask; return all numbers."""
    truth = real_images(root / "dataset", "test")
    segmenter = load_segmenter(root, steps)
    counts = {key: segmenter_counts(segmenter, found, truth) for key, found in samples.items()}
    real = count(truth.labels, predict(segmenter, truth.images, 64, torch.device("cpu")), truth.num_classes)
    draw_picture(root, truth, samples)
    weights = weights_of_resamples(len(truth))
    systems, seeds, kinds = (list(dict.fromkeys(key[part] for key in samples)) for part in range(3))

    def drops_of(system: str) -> dict[str, NDArray[np.float64]]:
        """Return kind of noise -> the drop of each seed and resample, [seeds, 1 + R]."""
        return {kind: miou[system][CLEAN] - miou[system][kind] for kind in NOISE}

    miou = {
        system: {
            kind: np.stack([weighted_score(counts[system, seed, kind], "miou", weights) for seed in seeds])
            for kind in kinds
        }
        for system in systems
    }
    return {
        "seeds": seeds,
        "real_miou": scores(real).miou,
        "real_classes": by_class(scores(real).class_iou),
        "systems": {
            system: {
                "miou": {kind: interval(values) for kind, values in miou[system].items()},
                "drop": {kind: interval(values) for kind, values in drops_of(system).items()},
                "classes": {
                    kind: by_class(np.mean([scores(counts[system, seed, kind]).class_iou for seed in seeds], axis=0))
                    for kind in kinds
                },
            }
            for system in systems
        },
        "saved": {
            system: {kind: interval(drops_of(REFERENCE)[kind] - drop) for kind, drop in drops_of(system).items()}
            for system in systems
            if system != REFERENCE in systems
        },
        "machine": {"cpu": cpu_model(), "torch": torch.__version__, "date": str(date.today())},
    }


def by_class(values: Sequence[float]) -> dict[str, float]:
    """Return class name -> value."""
    return dict(zip(CLASSES, map(float, values), strict=True))


def interval(values: NDArray[np.float64]) -> dict[str, Any]:
    """Return the mean over seeds of `values` [seeds, 1 + R], its interval over resamples, and each seed's own."""
    low, high = np.quantile(values[:, 1:].mean(axis=0), [0.025, 0.975])
    return {"mean": values[:, 0].mean(), "low": low, "high": high, "by_seed": values[:, 0].tolist()}


def draw_picture(root: Path, truth: ImageSet, samples: Mapping[tuple[str, int, str], SampleFolder]) -> None:
    """Draw the samples of each system for a few test masks, clean and noisy."""
    systems, seeds, kinds = (list(dict.fromkeys(key[part] for key in samples)) for part in range(3))
    palette = visualize.class_palette(truth.num_classes)
    rows = []
    for kind in kinds:
        row = []
        for name in truth.names[:SHOWN]:
            found = {system: samples[system, seeds[0], kind] for system in systems}
            row.append(visualize.colorize(_mask_of(next(iter(found.values())), name, truth.num_classes), palette))
            row += [_picture(folder, "image", name) for folder in found.values()]
        rows.append(row)
    sheet = visualize.grid(
        rows,
        column_titles=["mask given", *(name.upper().replace("_", " ") for name in systems)] * SHOWN,
        row_titles=kinds,
        legend=visualize.legend_of(CLASSES, truth.labels),
        scale=1,
    )
    visualize.save(sheet, root / "robustness.png")


def _picture(folder: SampleFolder, kind: str, name: str) -> NDArray[np.uint8]:
    line = next(line for line in folder.lines.values() if Path(line.source_mask).stem == name)
    with Image.open(folder.folder / getattr(line, kind)) as picture:
        return np.asarray(picture)


def _mask_of(folder: SampleFolder, name: str, null: int) -> NDArray[np.int64]:
    mask = _picture(folder, "mask", name).astype(np.int64)
    return np.where(mask == NULL_VALUE, null, mask)


# --------------------------------------------------------------------------------------------------- tables


def tables(found: Mapping[str, Any]) -> list[str]:
    """Return the Markdown of what `measure` found, in percent and points."""
    kinds = list(NOISE)
    lines = [
        f"{found['machine']['cpu']}, PyTorch {found['machine']['torch']}, {found['machine']['date']}; seeds "
        f"{', '.join(map(str, found['seeds']))}. mIoU of the segmenter on real test images: "
        f"{100 * found['real_miou']:.1f} %.",
        "",
        f"| system | {CLEAN}, mIoU | {' | '.join(f'{kind}, mIoU (drop)' for kind in kinds)} |",
        "|---" * (2 + len(kinds)) + "|",
    ]
    for system, record in found["systems"].items():
        cells = [f"{100 * record['miou'][CLEAN]['mean']:.1f}"]
        for kind in kinds:
            cells.append(f"{100 * record['miou'][kind]['mean']:.1f} ({_points(record['drop'][kind])})")
        lines.append(f"| {system} | {' | '.join(cells)} |")
    for system, saved in found["saved"].items():
        cells = [_points(saved[kind]) for kind in kinds]
        lines.append(f"| drop of sdm less that of {system} | | {' | '.join(cells)} |")
    return lines


def _points(value: Mapping[str, Any]) -> str:
    seeds = value["by_seed"]
    each = f"; seeds {', '.join(f'{100 * seed:.1f}' for seed in seeds)}" if len(seeds) > 1 else ""
    return f"{100 * value['mean']:.1f}, {100 * value['low']:.1f} to {100 * value['high']:.1f}{each}"


def main(argv: Sequence[str] | None = None) -> None:
    """Train, sample, measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/robustness"))
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=["sdm", "scdm"])
    parser.add_argument("--epochs", type=positive, default=120)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of training, each a network of its own")
    parser.add_argument("--segmenter-steps", type=positive, default=800, help="of the segmenter's training")
    parser.add_argument("--until", choices=["data", "train", "sample", "measure"], default="measure")
    arguments = parser.parse_args(argv)
    keep_freed_memory()
    root = arguments.output
    try:
        with mistakes_in_lines():
            masks = make_masks(root)
            if arguments.until == "data":
                return
            runs = {
                (name, seed): train(root, name, seed, arguments.epochs)
                for seed in arguments.seeds
                for name in arguments.systems
            }
            if arguments.until == "train":
                return
            samples = {
                (system, seed, kind): sample(root, run, kind, folder)
                for (system, seed), run in runs.items()
                for kind, folder in masks.items()
            }
            if arguments.until == "sample":
                return
            found = measure(root, samples, arguments.segmenter_steps)
    except Interrupted as stopped:
        raise SystemExit(str(stopped)) from None
    found["options"] = {key: str(value) if key == "output" else value for key, value in vars(arguments).items()}
    write_text(root / "robustness.json", json.dumps(found, indent=1) + "\n")
    lines = tables(found)
    write_text(root / "robustness.md", "\n".join(lines) + "\n")
    print(*lines, sep="\n")
    for name in ("robustness.md", "robustness.json", "robustness.png"):
        print(f"  {(root / name).absolute()}")


if __name__ == "__main__":
    main()
