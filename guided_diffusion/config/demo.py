"""Configuration of `demo`, and those of the stages that it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from guided_diffusion.runtime.options import ActionConfig, option
from guided_diffusion.training.options import DeviceOptions

TRAIN_PAIRS, TEST_PAIRS, FILE_SIZE = 64, 24, 96
TRAIN_EPOCHS, FINETUNE_EPOCHS, BATCH_SIZE = 66, 8, 8
SAMPLES_AT_A_TIME = 32
EVALUATE_STEPS = 150


class DemoConfig(ActionConfig):
    """Keys of `demo`."""

    required: ClassVar = ("output_dir",)
    summary: ClassVar = "the whole journey on a built-in dataset of lemons, in minutes on a CPU"

    compute: DeviceOptions
    output_dir: str = option("runs/demo", "folder for the dataset, the runs and the picture", path=True)
    seed: int = option(0, "seed of the dataset and of everything random", ge=0, lt=2**63)
    max_epochs: int | None = option(
        None, "epochs of training; null: as measured to fit the quick start", ge=1, le=10_000_000
    )


def demo_stages(config: DemoConfig, data_dir: Path) -> dict[str, dict[str, Any]]:
    """Return stage -> its configuration: a small network and few steps, which take minutes on a CPU.

    A stage's name is its action, or begins with its action and `_` where an action comes twice.
    """
    root = Path(config.output_dir)
    data = {"data_dir": str(data_dir), "dataset_mode": "lemon-multi-class"}
    geometry = {"image_size": 48, "image_channels": 3, "resize": "crop"}
    compute = {"seed": config.seed, "device": config.compute.device}
    epochs = config.max_epochs or TRAIN_EPOCHS
    finetune_epochs = max(1, round(epochs * FINETUNE_EPOCHS / TRAIN_EPOCHS))
    steps_an_epoch = TRAIN_PAIRS // BATCH_SIZE
    training = {**data, **compute, "batch_size": BATCH_SIZE, "ema_rate": [0.99]}
    train = {
        **training,
        **geometry,
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
    sample = {
        "model_path": str(root / "finetune"),
        "data_dir": str(data_dir),
        "results_path": str(root / "samples"),
        "s": 1.5,
        "batch_size": TEST_PAIRS,
        **compute,
    }
    # `sample` uses test masks, which training never saw. Samples that train a segmentation model may not know the test.
    synthetic = {
        **sample,
        "data_split": "train",
        "num_samples": TRAIN_PAIRS,
        "results_path": str(root / "synthetic"),
        "batch_size": SAMPLES_AT_A_TIME,
    }
    # One seed and few steps tell little, which the report says, too. Nothing is downloaded.
    evaluate = {
        **compute,
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
    }
    return {
        "check": {**data, **geometry, "batch_size": BATCH_SIZE, "output_dir": str(root / "check")},
        "train": train,
        "finetune": finetune,
        "sample": sample,
        "sample_synthetic": synthetic,
        "evaluate": evaluate,
    }
