"""`export` of weights: the file, a record of what it is, and its card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from guided_diffusion.config.export import ExportConfig
from guided_diffusion.config.train import TrainConfig
from guided_diffusion.pipelines.cards.model import card_path, evaluation_of, write_model_card
from guided_diffusion.pipelines.training_source import last_name, training_source
from guided_diffusion.runtime.card_file import Region
from guided_diffusion.runtime.checkpoint import (
    BEST,
    DESCRIBED,
    Checkpoint,
    find_checkpoint,
    load_checkpoint,
    record_path,
    save_weights,
)
from guided_diffusion.runtime.errors import ConfigError
from guided_diffusion.runtime.files import digest, write_text
from guided_diffusion.runtime.hub_address import is_address, shown
from guided_diffusion.runtime.lock import file_lock
from guided_diffusion.runtime.logs import library_versions


@dataclass(frozen=True)
class ExportedWeights:
    """The files of one export. there: whether they were there already, as the same command wrote them."""

    weights: Path
    record: Path
    card: Path
    there: bool
    card_is_edited: bool
    source: Path

    def lines(self, name: str) -> list[str]:
        """Return what is printed; name: of the weights."""
        note = " (edited, so it is left as it is)" if self.card_is_edited else ""
        there = " were there already" if self.there else ""
        paths = [self.weights.absolute(), self.record.absolute(), f"{self.card.absolute()}{note}"]
        head = f"{name} weights of {shown(self.source)}{there}:"
        return [head, *(f"  {path}" for path in paths)]


def export_weights(config: ExportConfig) -> ExportedWeights:
    """Write the chosen weights of `config.weights.model_path` to `config.export_path`, whole or not at all.

    Nothing is overwritten. What the same command wrote is taken as it is where it is to be pushed.
    """
    source, target = find_checkpoint(config.weights.model_path, prefer=BEST), Path(config.export_path)
    record = record_path(target)
    with file_lock(target, "export"):
        checkpoint, there = _opened(config, source)
        made_of = digest(source)
        regions = evaluation_of(config.evaluate_dir, made_of, card_path(target))
        published = _without_places(checkpoint)
        weights = checkpoint.weights(config.weights.weights)
        content = {key: getattr(published, key) for key in DESCRIBED}
        content |= {"weights": config.weights.weights, "library": library_versions(), "checkpoint": made_of}
        content["parameters"] = sum(weight.numel() for weight in weights.values())
        if there:
            _refuse_other_export(target, record, content)
            content["digest"] = digest(target)
            written = _write_card(target, checkpoint, content, regions)
        else:
            save_weights(target, weights, published)
            content["digest"] = digest(target)
            try:
                # The card first: what has a record is whole.
                written = _write_card(target, checkpoint, content, regions)
                write_text(record, json.dumps(content, indent=2) + "\n")
            except BaseException:  # all or none: some of them alone would stop the same command
                target.unlink()
                raise
    return ExportedWeights(target, record, written[0], there, not written[1], source)


def planned_weights(config: ExportConfig) -> list[str]:
    """Return which weights would be exported; UserError where they cannot be, or something is there already."""
    source = find_checkpoint(config.weights.model_path, prefer=BEST)
    checkpoint, there = _opened(config, source, lazily=True)
    checkpoint.weights(config.weights.weights)
    return [f"{config.weights.weights} weights of {shown(source)}{', which are there already' if there else ''}"]


def _opened(config: ExportConfig, source: Path, *, lazily: bool = False) -> tuple[Checkpoint, bool]:
    """Return the checkpoint, and whether its export is there and only to be pushed. UserError as `planned_weights`."""
    target = Path(config.export_path)
    record = record_path(target)
    there = target.exists() and record.exists() and bool(config.push_to)
    if not there:
        _refuse_existing(target, record)
    checkpoint = load_checkpoint(source, lazily=lazily)
    _refuse_lost_parts(checkpoint, target)
    return checkpoint, there


def _write_card(
    target: Path, checkpoint: Checkpoint, content: Mapping[str, Any], regions: Mapping[str, Region]
) -> tuple[Path, bool]:
    """Write the card and return its path, and whether it is as it was written: nobody has edited it."""
    path = card_path(target)
    return path, write_model_card(path, target, checkpoint, content, regions)


def _refuse_existing(target: Path, record: Path) -> None:
    # Bare weights do not say how they were made: a file beside them does.
    for path in (target, record):
        if path.exists():
            line = f"export_path: {path} exists already and is not overwritten: choose another name"
            raise ConfigError.of_keys(("export_path", line))


def _refuse_lost_parts(checkpoint: Checkpoint, target: Path) -> None:
    if (checkpoint.generation or checkpoint.latent) and target.suffix == ".pt":
        what = "mask code of a model that makes masks" if checkpoint.generation else "autoencoder of a latent model"
        line = f"export_path ends in .pt, which does not keep the {what}: use .safetensors"
        raise ConfigError.of_keys(("export_path", line))


def _refuse_other_export(target: Path, record: Path, content: Mapping[str, Any]) -> None:
    """Raise ConfigError where the files are not what the same command wrote."""
    try:
        before = json.loads(record.read_text(encoding="utf-8"))
        same = all(before[key] == json.loads(json.dumps(content[key])) for key in ("checkpoint", "weights", "config"))
        same = same and before["digest"] == digest(target)
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same:
        line = f"export_path: {target} exists already, and is no export of these weights: choose another name"
        raise ConfigError.of_keys(("export_path", line))


def _without_places(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint as it may be published: of paths the last names, and what it was trained on in words."""
    config, lineage = dict(checkpoint.config), dict(checkpoint.lineage)
    for key in config.keys() & TrainConfig.fields().keys():
        if TrainConfig.facts(key).path and isinstance(config[key], str):
            config[key] = last_name(config[key])
    for key, value in lineage.items():
        if isinstance(value, dict) and isinstance(value.get("path"), str):
            path = value["path"]
            lineage[key] = {**value, "path": path if is_address(path) else last_name(path)}
    return replace(checkpoint, config=config, lineage=lineage, trained_on=training_source(checkpoint))
