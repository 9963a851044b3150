"""`export`: the weights of a run, or a dataset, for other tools."""

from __future__ import annotations

import json
from pathlib import Path

from guided_diffusion.config.export import ExportConfig
from guided_diffusion.pipelines.dataset_export import RECORD, export_dataset
from guided_diffusion.runtime.card_file import DATASET_CARD
from guided_diffusion.runtime.checkpoint import BEST, DESCRIBED, find_checkpoint, load_checkpoint, save_weights
from guided_diffusion.runtime.errors import ConfigError
from guided_diffusion.runtime.files import write_text
from guided_diffusion.runtime.lock import file_lock
from guided_diffusion.runtime.logs import library_versions


def run(config: ExportConfig) -> int:
    """Write a dataset in `config.format`, or weights where there is none."""
    if config.format is None:
        return _export_weights(config)
    exported = export_dataset(config)
    print("\n".join(exported.lines()))
    for path in (exported.folder, exported.folder / RECORD, exported.folder / DATASET_CARD):
        print(f"  {path}")
    return 0


def _export_weights(config: ExportConfig) -> int:
    """Write the chosen weights of `config.weights.model_path` to `config.export_path`."""
    source = find_checkpoint(config.weights.model_path, prefer=BEST)
    target = Path(config.export_path)
    # Bare weights do not say how they were made: a file beside them does.
    record = target.with_name(target.name + ".json")
    with file_lock(target, "export"):
        for path in (target, record):
            if path.exists():
                line = f"export_path: {path} exists already and is not overwritten: choose another name"
                raise ConfigError.of_keys(("export_path", line))
        checkpoint = load_checkpoint(source)
        if (checkpoint.generation or checkpoint.latent) and target.suffix == ".pt":
            what = "mask code of a model that makes masks" if checkpoint.generation else "autoencoder of a latent model"
            line = f"export_path ends in .pt, which does not keep the {what}: use "
            raise ConfigError.of_keys(("export_path", f"{line}.safetensors"))
        content = {key: getattr(checkpoint, key) for key in DESCRIBED}
        content |= {"weights": config.weights.weights, "library": library_versions()}
        save_weights(target, checkpoint.weights(config.weights.weights), checkpoint)
        try:
            write_text(record, json.dumps(content, indent=2) + "\n")
        except BaseException:  # both or none: one of them alone would stop the same command
            target.unlink()
            raise
    print(f"{config.weights.weights} weights of {source.absolute()}:\n  {target.absolute()}\n  {record.absolute()}")
    return 0
