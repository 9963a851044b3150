"""`demo`: the whole journey on a built-in dataset, from check to evaluate, through the same code as a user's run."""

from __future__ import annotations

import json
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from guided_diffusion.config.demo import DemoConfig
from guided_diffusion.config.load import load_config
from guided_diffusion.data import visualize
from guided_diffusion.data.datasets import SegmentationDataset
from guided_diffusion.data.lemons import write_demo_dataset
from guided_diffusion.data.loader import stack_examples
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.pairing import index_pairs
from guided_diffusion.data.transforms import JointTransform
from guided_diffusion.models.architecture import height_width
from guided_diffusion.runtime.files import write_text

TRAIN_PAIRS, TEST_PAIRS, FILE_SIZE = 64, 24, 96
SHOWN = 8
TRAIN_EPOCHS, FINETUNE_EPOCHS, BATCH_SIZE = 66, 8, 8
SAMPLES_AT_A_TIME = 32
EVALUATE_STEPS = 150


def run(config: DemoConfig) -> int:
    """Make the dataset and take it through every stage; a stage that is done already is not repeated."""
    started = time.monotonic()
    root = Path(config.output_dir)
    data_dir = root / "dataset"
    write_demo_dataset(data_dir, num_train=TRAIN_PAIRS, num_test=TEST_PAIRS, size=FILE_SIZE, seed=config.seed)
    stages = demo_stages(config, data_dir)
    for stage, values in stages.items():
        action = stage.partition("_")[0]
        path = root / "configs" / f"{stage}.json"
        write_text(path, json.dumps(values, indent=2) + "\n")
        print(f"\n--- {stage}: main.py {action} -c {path}", flush=True)
        import_module(f"guided_diffusion.actions.{action}").run(load_config(action, values))
    picture = root / "demo.png"
    visualize.save(comparison(stages, data_dir), picture)
    print(f"\nfinished in {(time.monotonic() - started) / 60:.1f} minutes")
    for name, path in {
        "dataset": data_dir,
        "configs": root / "configs",
        "trained model": root / "train",
        "finetuned model": root / "finetune",
        "synthetic pairs": root / "synthetic",
        "picture": picture,
        "report": root / "evaluate" / "report.html",
    }.items():
        print(f"  {name:16} {path.absolute()}")
    return 0


def demo_stages(config: DemoConfig, data_dir: Path) -> dict[str, dict[str, Any]]:
    """Return the configuration of each stage: a small network and few steps, so that a CPU does it in minutes.

    A stage is called like its action, or like that with `_` and more where an action comes twice.
    """
    root = Path(config.output_dir)
    data = {"data_dir": str(data_dir), "dataset_mode": "lemon-multi-class"}
    geometry = {"image_size": 48, "image_channels": 3, "resize": "crop"}
    epochs = config.max_epochs or TRAIN_EPOCHS
    finetune_epochs = max(1, round(epochs * FINETUNE_EPOCHS / TRAIN_EPOCHS))
    steps_an_epoch = TRAIN_PAIRS // BATCH_SIZE
    common = {"batch_size": BATCH_SIZE, "seed": config.seed, "device": config.compute.device}
    train = {
        **data,
        **geometry,
        **common,
        "output_dir": str(root / "train"),
        "num_channels": 32,
        "channel_mult": [1, 2, 2],
        "num_res_blocks": 1,
        "num_head_channels": 32,
        "attention_resolutions": [12],
        "resblock_updown": False,
        "learn_sigma": False,
        "noise_schedule": "cosine",
        "lr": 6e-4,
        "lr_anneal_steps": epochs * steps_an_epoch + finetune_epochs * steps_an_epoch,
        "ema_rate": [0.99],
        "max_epochs": epochs,
        "preview_interval": max(1, epochs // 2),
    }
    finetune = {
        **data,
        **common,
        "output_dir": str(root / "finetune"),
        "resume_checkpoint": str(root / "train"),
        "drop_rate": 0.2,
        "lr": 1e-4,
        "lr_anneal_steps": finetune_epochs * steps_an_epoch,
        "ema_rate": [0.99],
        "max_epochs": finetune_epochs,
        "preview_interval": 0,
    }
    sample = {
        "model_path": str(root / "finetune"),
        "data_dir": str(data_dir),
        "results_path": str(root / "samples"),
        "s": 1.5,
        "batch_size": TEST_PAIRS,
        "seed": config.seed,
        "device": config.compute.device,
    }
    # The picture shows masks that training never saw; what is to train a segmentation model may not know the test.
    more = {"data_split": "train", "num_samples": TRAIN_PAIRS}
    synthetic = {**sample, **more, "results_path": str(root / "synthetic"), "batch_size": SAMPLES_AT_A_TIME}
    # One seed and few steps tell little, which the report says, too. Nothing is downloaded.
    evaluate = {
        "data_dir": str(data_dir),
        "synthetic_dir": str(root / "synthetic"),
        "output_dir": str(root / "evaluate"),
        "image_size": 64,
        "architectures": ["fpn"],
        "encoder": "resnet18",
        "encoder_weights": "none",
        "ratios": [0.5, 1],
        "seeds": 1,
        "train_steps": max(1, round(epochs * EVALUATE_STEPS / TRAIN_EPOCHS)),
        "batch_size": BATCH_SIZE,
        "lr": 1e-3,
        "inception_weights": "none",
        "lpips_weights": "none",
        "seed": config.seed,
        "device": config.compute.device,
    }
    check = {**data, **geometry, "batch_size": BATCH_SIZE, "output_dir": str(root / "check")}
    stages = {"check": check, "train": train, "finetune": finetune, "sample": sample}
    return {**stages, "sample_synthetic": synthetic, "evaluate": evaluate}


def comparison(stages: dict[str, dict[str, Any]], data_dir: Path) -> Image.Image:
    """Return the picture real | mask | sample of the first test pairs."""
    options = stages["train"]
    pairs, _ = index_pairs(data_dir, get_mode(options["dataset_mode"]), "test")
    names = json.loads((data_dir / "classes.json").read_text(encoding="utf-8"))
    encoding = LabelEncoding.identity(len(names), tuple(names.values()))
    transform = JointTransform(height_width(options["image_size"]), resize=options["resize"], train=False)
    dataset = SegmentationDataset(pairs[:SHOWN], encoding, transform)
    images, condition = stack_examples(dataset, range(SHOWN))
    palette = visualize.class_palette(encoding.num_classes)
    rows = []
    samples = Path(stages["sample"]["results_path"]) / "images"
    for pair, real, label in zip(pairs, visualize.to_pixels(images.numpy()), condition.label.numpy(), strict=False):
        with Image.open(samples / f"{pair.stem}.png") as sample:
            rows.append((real, visualize.colorize(label, palette), visualize.to_rgb(np.asarray(sample))))
    half = len(rows) // 2
    return visualize.grid(
        [left + right for left, right in zip(rows[:half], rows[half:], strict=True)],
        column_titles=("real", "mask", "sample") * 2,
        legend=visualize.legend_of(encoding.names, condition.label),
        title="drawn from masks of the test split",
    )
