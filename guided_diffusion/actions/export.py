"""`export`: the weights of a run as a file for other tools."""

from __future__ import annotations

from pathlib import Path

from guided_diffusion.checkpoint import BEST, find_checkpoint, load_checkpoint, save_weights
from guided_diffusion.config import ExportConfig
from guided_diffusion.errors import ConfigError


def run(config: ExportConfig) -> int:
    """Write the chosen weights of `config.model_path` to `config.export_path`."""
    source = find_checkpoint(config.model_path, prefer=BEST)
    target = Path(config.export_path)
    if target.exists():
        raise ConfigError(f"export_path: {target} exists already and is not overwritten: choose another name")
    checkpoint = load_checkpoint(source)
    save_weights(target, checkpoint.weights(config.weights), checkpoint.config, checkpoint.encoding)
    print(f"{config.weights} weights of {source.absolute()}:\n  {target.absolute()}")
    return 0
