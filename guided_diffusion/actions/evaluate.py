"""`evaluate`: the quality of the samples, and whether they make a segmentation model better, in a report."""

from __future__ import annotations

from guided_diffusion.config.evaluate import EvaluateConfig
from guided_diffusion.pipelines.evaluation.evaluate import evaluate, plan_lines
from guided_diffusion.runtime.distributed import choose_device, init_distributed


def run(config: EvaluateConfig) -> int:
    """Measure the samples and write the report; results of an earlier start are not computed again."""
    with init_distributed(config.compute.device) as world:
        world.refuse_others("evaluate")
        evaluate(config, world)
    return 0


def plan(config: EvaluateConfig) -> list[str]:
    """Return what a run of `config` would compare; UserError where it could not begin."""
    choose_device(config.compute.device)
    return plan_lines(config)
