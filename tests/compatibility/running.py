"""Tiny runs of the command line in this process: their options, their dataset, one thread."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from guided_diffusion import cli

Values = Mapping[str, Any]

TRAIN: Values = {
    "dataset_mode": "multi-class",
    "image_size": 16,
    "num_channels": 32,
    "channel_mult": [1, 2],
    "num_res_blocks": 1,
    "attention_resolutions": [8],
    "diffusion_steps": 50,
    "learn_sigma": True,
    "batch_size": 4,
    "lr": 1e-3,
    "ema_rate": [0.5],
    "max_epochs": 3,
    "preview_interval": 0,
    "tensorboard": False,
    "device": "cpu",
    "seed": 3,
}
RUNS: Mapping[str, tuple[str, Values]] = {
    "train": (
        "train",
        {**TRAIN, "drop_rate": 0.2, "ema_rate": [0.4, 0.9], "preview_interval": 3, "preview_steps": 2},
    ),
    # With this seed the second epoch is the best, so that best.pt is not last.pt.
    "labels": (
        "train",
        {**TRAIN, "cond_diffuse": True, "cond_opt": "discrete_zero_classwise", "drop_rate": 0.2, "seed": 5},
    ),
    "finetune": (
        "finetune",
        {
            "resume_checkpoint": "train",
            "max_epochs": 1,
            "batch_size": 4,
            "lr": 1e-3,
            # Slow enough to tell what the average began with, and with how much weight.
            "ema_rate": [0.95],
            "preview_interval": 0,
            "tensorboard": False,
            "device": "cpu",
            "seed": 4,
        },
    ),
    # What the others leave out, so that each path is taken once.
    "others": (
        "train",
        {
            **TRAIN,
            "image_channels": 1,
            "no_instance": False,
            "resize": "pad",
            "rotate90": True,
            "vertical_flip": True,
            "schedule_sampler": "loss-second-moment",
            "microbatch": 3,
            "noise_schedule": "cosine",
            "prediction": "eps",
            "min_snr_gamma": 5.0,
            "dropout": 0.1,
            "weight_decay": 1.0,
            "lr_anneal_steps": 8,
            "spade": "dense",
        },
    ),
}

SAMPLE: Values = {"steps": 4, "num_samples": 6, "batch_size": 4, "device": "cpu", "seed": 5, "s": 1.5}
SAMPLERS = ("ddpm", "ddim", "dpm++2m", "dpm++2m-sde")
SAMPLES: Mapping[str, tuple[str, Values]] = {
    **{f"{sampler} s {s}": ("train", {"sampler": sampler, "s": s}) for sampler in SAMPLERS for s in (1, 1.5)},
    "dynamic_threshold": ("train", {"dynamic_threshold": 0.8}),
    "guidance_interval": ("train", {"guidance_interval": [0.1, 2.0]}),
    "timestep_respacing": ("train", {"timestep_respacing": "ddim4", "steps": None}),
    "time_grid": ("train", {"sampler": "ddim", "time_grid": "trailing"}),
    "eta": ("train", {"sampler": "ddim", "eta": 0.5}),
    "augment_masks": ("train", {"augment_masks": True, "num_samples": 14}),
    "raw": ("train", {"weights": "raw"}),
    "finetuned": ("finetune", {"s": 2.0}),
    "labels": ("labels", {}),
    "extrapolation": ("labels", {"sampler": "ddim", "extrapolation": 0.8, "s": 1}),
    "others": ("others", {"sampler": "dpm++2m-sde", "s": 1}),
}

EVALUATED: Values = {**SAMPLE, "data_split": "train", "split": "train", "num_samples": 24, "batch_size": 24}
EVALUATE: Values = {
    "image_size": 32,
    "architectures": "fpn",
    "encoder": "resnet18",
    "encoder_weights": "none",
    "ratios": [1],
    "seeds": 1,
    "train_steps": 12,
    "batch_size": 4,
    "lr": 2e-3,
    "inception_weights": "none",
    "lpips_weights": "none",
    "filter_below": 0.001,
    "report_images": 2,
    "device": "cpu",
    "seed": 6,
}


# ------------------------------------------------------------------------------------------------ running things


def run_command(action: str, config: str | Path | None = None, /, **values: Any) -> tuple[int, str]:
    """Run the command line in this process and return its exit code and what it printed."""
    arguments = [action, *(["-c", str(config)] if config else [])]
    arguments += [f"--set={key}={json.dumps(value)}" for key, value in values.items()]
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        code = cli.main(arguments)
    return code, output.getvalue()


def isdm(action: str, config: str | Path | None = None, /, **values: Any) -> str:
    """Run the command line in this process and return what it printed; RuntimeError where it failed."""
    code, shown = run_command(action, config, **values)
    if code:
        raise RuntimeError(f"{action} {config or ''} {values}: exit code {code}\n{shown}")
    return shown


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread while the block runs: how a sum is split over several changes its last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def make_dataset(folder: Path, *, train: int = 12, test: int = 6, height: int = 20, width: int = 24) -> None:
    """Write a dataset of three classes: blobs and spots, whose mask values are not their class indices."""
    draw = np.random.RandomState(7)  # its streams are the same in all versions of numpy
    rows, columns = np.mgrid[:height, :width]
    for split, count in (("train", train), ("test", test)):
        for kind in ("images", "masks"):
            (folder / split / kind).mkdir(parents=True)
        for number in range(count):
            y, x, radius = draw.randint(5, height - 5), draw.randint(6, width - 6), draw.randint(4, 7)
            distance = np.hypot(rows - y, columns - x)
            label = np.where(distance < radius, 1, 0)
            label[y - 1 : y + 2, x - 2 : x + 1] = 2 if number % 3 else 1
            colors = np.array([[40, 60, 90], [200, 180, 60], [120, 30, 30]])[label]
            pixels = colors + 2 * rows[..., None] + draw.randint(-12, 13, (height, width, 3))
            image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
            image.save(folder / split / "images" / f"pair_{number:02d}.png")
            values = np.array([0, 128, 255], np.uint8)[label]
            Image.fromarray(values).save(folder / split / "masks" / f"pair_{number:02d}.png")
    classes = {"0": "background", "1": {"name": "blob", "values": [128]}, "2": {"name": "spot", "values": [255]}}
    (folder / "classes.json").write_text(json.dumps(classes), encoding="utf-8")
