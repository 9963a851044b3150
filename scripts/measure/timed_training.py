"""Trainings that end after a time instead of a number of epochs, so that settings of unequal speed can be compared."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import torch

from guided_diffusion.actions import train
from guided_diffusion.config.train import TrainConfig
from guided_diffusion.runtime.logs import read_json_lines

TURNS = "turns.jsonl"


def train_for(minutes: float, config_of: Callable[[int], TrainConfig], *, every: int) -> tuple[int, float]:
    """Train in turns of `every` epochs until `minutes` are over; return the epochs and the seconds that they took.

    config_of: the config that ends after so many epochs. On a CPU it is processor time, which other work hardly
    changes, else time by the clock. It goes on where it was stopped.
    """
    folder = Path(config_of(every).run.output_dir)
    path = folder / TURNS
    turns = read_json_lines(path) if path.exists() else []
    while sum(turn["seconds"] for turn in turns) < 60 * minutes:
        epochs = (turns[-1]["epochs"] if turns else 0) + every
        clock = time.monotonic if torch.cuda.is_available() else time.process_time
        started = clock()
        train.run(config_of(epochs))
        turns.append({"epochs": epochs, "seconds": clock() - started})
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(turns[-1]) + "\n")
        spent = sum(turn["seconds"] for turn in turns) / 60
        print(f"{folder.name}: {epochs} epochs, {spent:.1f} of {minutes:g} minutes", flush=True)
    return turns[-1]["epochs"], sum(turn["seconds"] for turn in turns)
