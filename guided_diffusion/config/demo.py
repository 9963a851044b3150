"""Configuration of `demo`, and those of the stages that it runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

from guided_diffusion.runtime.options import ActionConfig, option
from guided_diffusion.training.options import DeviceOptions

TRAIN_PAIRS, TEST_PAIRS, GOOD_IMAGES, FILE_SIZE = 64, 24, 24, 96
TRAIN_EPOCHS, FINETUNE_EPOCHS, BATCH_SIZE = 45, 3, 8
PLACED, SAMPLES_AT_A_TIME = 16, 40
EVALUATE_STEPS = 64


class DemoConfig(ActionConfig):
    """Keys of `demo`."""

    required: ClassVar = ("output_dir",)
    summary: ClassVar = "the whole journey on a built-in dataset of lemons, in minutes on a CPU"

    compute: DeviceOptions
    output_dir: str = option("runs/demo", "folder for the dataset, the runs and the picture", written=True)
    seed: int = option(0, "seed of the dataset and of everything random", ge=0, lt=2**63)
    max_epochs: int | None = option(
        None, "epochs of training; null: as measured to fit the quick start", ge=1, le=10_000_000
    )


def demo_stages(config: DemoConfig) -> dict[str, dict[str, Any]]:
    """Return stage -> its configuration: a small network and few steps, which take minutes on a CPU.

    A stage's name is its action, or begins with its action and `_` where an action comes twice. The dataset is in
    `dataset`, the good images in `dataset_good` of the output folder.
    """
    root = Path(config.output_dir)
    data_dir, good_dir = str(root / "dataset"), str(root / "dataset_good")
    data = {"data_dir": data_dir, "dataset_mode": "multi-class"}
    # At this scale a window shows the whole image, so that one network fills holes and samples whole lemons.
    geometry = {"image_size": 48, "image_channels": 3, "resize": "window", "scale": 48 / FILE_SIZE}
    compute = {"seed": config.seed, "device": config.compute.device}
    network = {**compute, "compile": False}  # which a few hundred steps are not worth
    epochs = config.max_epochs or TRAIN_EPOCHS
    finetune_epochs = max(1, round(epochs * FINETUNE_EPOCHS / TRAIN_EPOCHS))
    steps_an_epoch = math.ceil((TRAIN_PAIRS + GOOD_IMAGES) / BATCH_SIZE)
    training = {
        **data,
        **network,
        "good_dir": good_dir,
        # Whole images are the harder task: filling holes is learned along the way.
        "hole_shares": [0.3, 0.0, 0.7],
        "batch_size": BATCH_SIZE,
        "ema_rate": [0.99],
    }
    train = {
        **training,
        **geometry,
        "output_dir": str(root / "train"),
        "inpaint": True,
        "num_channels": 32,
        "channel_mult": [1, 2, 2],
        "num_res_blocks": 1,
        "num_head_channels": 32,
        "attention_resolutions": [12],
        "resblock_updown": False,
        "learn_sigma": False,
        "noise_schedule": "cosine",
        "lr": 6e-4,
        "lr_anneal_steps": (epochs + finetune_epochs) * steps_an_epoch,
        "max_epochs": epochs,
        "preview_interval": max(1, epochs // 2),
    }
    finetune = {
        **training,
        "output_dir": str(root / "finetune"),
        "resume_checkpoint": str(root / "train"),
        "drop_rate": 0.2,
        "lr": 1e-4,
        "lr_anneal_steps": finetune_epochs * steps_an_epoch,
        "max_epochs": finetune_epochs,
        "preview_interval": 0,
    }
    place = {
        "model_path": str(root / "finetune"),
        "data_dir": data_dir,
        "good_dir": good_dir,
        "results_path": str(root / "placed"),
        "split": "train",
        "num_samples": PLACED,
        "classes": ["blemish", "mould"],
        "hole_margin": 3,
        "feather": 2,
        "steps": 10,
        "s": 1.5,
        "batch_size": PLACED,
        **network,
    }
    sample = {
        "model_path": str(root / "finetune"),
        "data_dir": data_dir,
        "results_path": str(root / "samples"),
        "s": 1.5,
        "batch_size": TEST_PAIRS,
        **network,
    }
    # `sample` uses test masks, which training never saw. Samples that train a segmentation model may not know the test.
    synthetic = {
        **sample,
        "data_split": "train",
        "num_samples": TRAIN_PAIRS * 5 // 8,  # more than the study takes, whatever validation leaves out
        "results_path": str(root / "synthetic"),
        "batch_size": SAMPLES_AT_A_TIME,
    }
    # One seed and few steps tell little, which the report says, too. Nothing is downloaded.
    evaluate = {
        **compute,
        "data_dir": data_dir,
        "synthetic_dir": str(root / "synthetic"),
        "output_dir": str(root / "evaluate"),
        "image_size": 64,
        "resize": "squash",
        "architectures": ["fpn"],
        "encoder": "resnet18",
        "encoder_weights": "none",
        "ratios": [0.25],
        "seeds": 1,
        "train_steps": max(1, round(epochs * EVALUATE_STEPS / TRAIN_EPOCHS)),
        "batch_size": BATCH_SIZE,
        "lr": 1e-3,
        "inception_weights": "none",
        "lpips_weights": "none",
    }
    return {
        "check": {
            **data,
            **geometry,
            "good_dir": good_dir,
            "batch_size": BATCH_SIZE,
            "output_dir": str(root / "check"),
        },
        "train": train,
        "finetune": finetune,
        "place": place,
        "sample": sample,
        "sample_synthetic": synthetic,
        "evaluate": evaluate,
    }


def demo_studio(config: DemoConfig) -> dict[str, Any]:
    """Return the configuration of `studio` on what the stages have made."""
    root = Path(config.output_dir)
    return {
        "model_path": str(root / "finetune"),
        "data_dir": str(root / "dataset"),
        "good_dir": str(root / "dataset_good"),
        "evaluate_dir": str(root / "evaluate"),
        "results_path": str(root / "studio"),
        "hole_margin": 3,
        "feather": 2,
        "s": 1.5,
        "device": config.compute.device,
    }
