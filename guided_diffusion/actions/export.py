"""`export`: the weights of a run as a file for other tools."""

from __future__ import annotations

import json
from pathlib import Path

from guided_diffusion.config.export import ExportConfig
from guided_diffusion.runtime.checkpoint import BEST, DESCRIBED, find_checkpoint, load_checkpoint, save_weights
from guided_diffusion.runtime.errors import ConfigError
from guided_diffusion.runtime.files import write_text
from guided_diffusion.runtime.logs import library_versions


def run(config: ExportConfig) -> int:
    """Write the chosen weights of `config.weights.model_path` to `config.export_path`."""
    source = find_checkpoint(config.weights.model_path, prefer=BEST)
    target = Path(config.export_path)
    if target.exists():
        line = f"export_path: {target} exists already and is not overwritten: choose another name"
        raise ConfigError.of_keys(("export_path", line))
    checkpoint = load_checkpoint(source)
    save_weights(target, checkpoint.weights(config.weights.weights), checkpoint)
    # Bare weights do not say how they were made: a file beside them does.
    record = target.with_name(target.name + ".json")
    content = {key: getattr(checkpoint, key) for key in DESCRIBED}
    content |= {"weights": config.weights.weights, "library": library_versions()}
    write_text(record, json.dumps(content, indent=2) + "\n")
    print(f"{config.weights.weights} weights of {source.absolute()}:\n  {target.absolute()}\n  {record.absolute()}")
    return 0
