"""`generate`: image/mask pairs whose images are drawn without a mask, and whose masks pixel classifiers find."""

from __future__ import annotations

from pathlib import Path

from guided_diffusion.config.generate import GenerateConfig
from guided_diffusion.pipelines.classified import generate_labeled, plan_lines
from guided_diffusion.pipelines.hub_weights import with_pinned_weights
from guided_diffusion.pipelines.output import (
    ReadFolder,
    output_of,
    refuse_other_record,
    refuse_written_sources,
    written_by_sample,
)
from guided_diffusion.runtime.distributed import init_distributed


def run(config: GenerateConfig) -> int:
    """Write the pairs that `config` asks for and that are not there yet."""
    config = with_pinned_weights(config)
    with init_distributed(config.precision.device) as world:
        folder = Path(config.results_path) / config.split
        _refuse_own_sources(config)
        refuse_other_record("results_path", folder, "generate")
        with output_of("generate", [folder], world):
            generate_labeled(config, world)
    return 0


def plan(config: GenerateConfig) -> list[str]:
    """Return what a run of `config` would draw and label; UserError where it could not begin."""
    _refuse_own_sources(config)
    return plan_lines(config)


def _refuse_own_sources(config: GenerateConfig) -> None:
    """Raise ConfigError where results would lie among what is read."""
    read = [
        ReadFolder(key, path.absolute(), path.absolute())
        for key in ("model_path", "classifier_path")
        if (path := Path(config.get(key))).is_dir() and config.get(key)
    ]
    refuse_written_sources({"results_path": written_by_sample(config.results_path, config.split)}, read)
