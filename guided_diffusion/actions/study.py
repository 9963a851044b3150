"""`study`: do defects pasted or painted into good images make a segmentation model better?"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from guided_diffusion.config.study import StudyConfig
from guided_diffusion.pipelines.study.study import plan_lines, study
from guided_diffusion.runtime.distributed import choose_device, init_distributed


def run(config: StudyConfig) -> int:
    """Train generators and segmentation models and write the report; what is there already is not made again."""
    with init_distributed(config.compute.device) as world:
        world.refuse_others("study")
    study(config, world.device, _run_action)  # outside: the actions of the generators join anew
    return 0


def _run_action(action: str, config: Any) -> None:
    import_module(f"guided_diffusion.actions.{action}").run(config)


def plan(config: StudyConfig) -> list[str]:
    """Return what a run of `config` would train and compare; UserError where it could not begin."""
    choose_device(config.compute.device)
    return plan_lines(config)
