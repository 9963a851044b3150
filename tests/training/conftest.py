"""A trainer on tiny real objects, built by the same code as a user's run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import TINY

from guided_diffusion.config.load import load_config
from guided_diffusion.pipelines.resume import find_resume_plan
from guided_diffusion.pipelines.training import build_trainer
from guided_diffusion.pipelines.training_data import open_training_data
from guided_diffusion.runtime.distributed import ProcessGroup
from guided_diffusion.runtime.logs import RunLog
from guided_diffusion.training.trainer import Trainer


@pytest.fixture
def trainer_for(lemons: Path, tmp_path: Path) -> Callable[..., Trainer]:
    """Return a function from options to a trainer in `<tmp_path>/<name>`, continuing what is there."""

    def build(name: str = "run", **values: Any) -> Trainer:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        given = {**TINY, "data_dir": str(lemons), "output_dir": str(folder), "max_epochs": 4, **values}
        config = load_config("train", given)
        report = open_training_data(config)
        start = find_resume_plan(config)
        config = config.replaced(num_classes=report.encoding.num_classes)
        world = ProcessGroup(0, 1, torch.device("cpu"))
        return build_trainer(config, start, world, report, RunLog(folder, enabled=False))

    return build
