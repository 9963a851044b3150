"""`export` of a dataset: from masks to the format of another tool, whole or not at all."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from guided_diffusion.config.export import ExportConfig
from guided_diffusion.data.datasets import read_mask
from guided_diffusion.data.deep_color import is_gray
from guided_diffusion.data.formats.annotated import IGNORED_ID
from guided_diffusion.data.formats.exported import ExportedClasses, ExportedImage, ExportedPair
from guided_diffusion.data.formats.names import safe_names
from guided_diffusion.data.formats.writers.nnunet import NnunetWriter
from guided_diffusion.data.formats.writing import WRITERS
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.pairing import Pair, count_pairs
from guided_diffusion.pipelines.cards.exported import ExportedFacts, write_export_card
from guided_diffusion.pipelines.export_source import (
    REAL,
    ExportSource,
    find_export_source,
    mode_with_masks,
    refuse_unknown_layout,
    splits_there,
)
from guided_diffusion.pipelines.known_classes import known_classes
from guided_diffusion.pipelines.output import dataset_folders, refuse_written_sources
from guided_diffusion.runtime.card_file import DATASET_CARD
from guided_diffusion.runtime.errors import ConfigError, DataError
from guided_diffusion.runtime.files import write_text
from guided_diffusion.runtime.logs import library_versions, read_run_record
from guided_diffusion.runtime.whole_folder import new_folder, refuse_filled
from guided_diffusion.samples.dataset_card import ClassCounts

RECORD = "export.json"


@dataclass(frozen=True)
class Exported:
    """A dataset that `export_dataset` has written."""

    folder: Path
    title: str
    names: tuple[str, ...]
    splits: dict[str, int]
    origins: dict[str, int]
    counts: dict[str, int]
    """What was changed or lost, and how often."""

    def lines(self) -> list[str]:
        """Return what was written, for people."""
        counted = ", ".join(f"{count} {split}" for split, count in self.splits.items())
        lines = [f"{self.title}: {sum(self.splits.values())} pairs ({counted}), {len(self.names)} classes"]
        lines += [f"  {count} {origin}" for origin, count in self.origins.items() if origin != REAL]
        return lines + [f"note: {count} {what}" for what, count in self.counts.items()]


def class_order(encoding: LabelEncoding, background: int) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    """Return the names of the classes with the background first, and the new id of each id, the null id last.

    background: its id in the dataset.
    """
    order = [background, *(index for index in range(encoding.num_classes) if index != background)]
    lookup = np.full(encoding.num_classes + 1, IGNORED_ID, np.int32)
    lookup[order] = np.arange(encoding.num_classes)
    return tuple(encoding.names[index] for index in order), lookup


def exported_before(config: ExportConfig) -> Path | None:
    """Return the folder of `export_path` where the same command has written it, to be pushed as it is; None if not.

    Raises DataError where data_dir has other files now.
    """
    folder, source = Path(os.path.abspath(config.export_path)), Path(config.source.data_dir).absolute()
    record = read_run_record(folder, RECORD)
    if (record.get("format"), record.get("source")) != (config.format, str(source)):
        return None
    found = find_export_source(config.source)
    if "inputs" in record:
        same = record["inputs"] == found.inputs
    else:  # of an earlier version, which kept paths and names alone
        names, _ = class_order(found.encoding, found.background)
        entries = [entry for split in found.splits for entry in split.entries]
        paths = [entry.image if isinstance(entry, Pair) else entry.mask for entry in entries]
        before = [pair["source"] for pair in record["pairs"]], list(record["classes"].values())
        same = before == (paths, list(names))
    if not same:
        line = f"is an export of other files, classes or options than {source} gives now"
        raise DataError.of(folder, line, "delete it, or choose another export_path")
    return folder


def files_below(folder: Path) -> list[str]:
    """Return the paths of all files of a folder, relative to it, with slashes."""
    return [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]


def pushed_files(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Return the files of an export by their names in a repository, and those of others, which are not pushed.

    Tools leave files beside what they read, such as the caches of Ultralytics. DataError where a file is missing.
    """
    # The record has paths of this machine; the card gets another name.
    there = [name for name in files_below(folder) if name not in (RECORD, DATASET_CARD)]
    written = read_run_record(folder, RECORD).get("files", there)  # former versions did not list them
    missing = next((name for name in written if not (folder / name).is_file()), None)
    if missing is not None:
        line = "was exported and is gone"
        raise DataError.of(folder / missing, line, "delete the export, and run the same command again")
    return {name: folder / name for name in written}, [name for name in there if name not in set(written)]


def planned_export(config: ExportConfig) -> list[str]:
    """Return how many pairs would be exported, where that shows without opening them; UserError where none could be."""
    target = _refuse_among_sources(config)
    if not (config.push_to and read_run_record(target, RECORD)):  # what was exported before is pushed as it is
        refuse_filled("export_path", target)
    if not config.source.dataset_mode:
        refuse_unknown_layout(config.source)
        return []
    source, mode = config.source, mode_with_masks(config.source)
    counts = [f"{count_pairs(source.data_dir, mode, split)} {split}" for split in splits_there(source, mode)]
    known_classes(source)
    return [f"{', '.join(counts)} pairs, in {config.format}"]


def _refuse_among_sources(config: ExportConfig) -> Path:
    """Return the folder of the export; ConfigError where it would lie among what is read."""
    target = Path(os.path.abspath(config.export_path))
    refuse_written_sources({"export_path": target}, dataset_folders(config.source))
    return target


def export_dataset(config: ExportConfig) -> Exported:
    """Scan the dataset, and write it to `export_path` in `config.format`."""
    source = config.source
    target = _refuse_among_sources(config)
    kind = WRITERS[config.format]
    with new_folder("export_path", target, "export") as folder:
        found = find_export_source(source)
        names, lookup = class_order(found.encoding, found.background)
        classes = ExportedClasses(names, any(split.report.ignored_share for split in found.splits))
        writer = kind(folder, classes, target.name)
        writer.check()
        alone = any(not isinstance(split.entries[0], Pair) for split in found.splits if split.entries)
        if alone and not kind.with_masks_alone:
            line = f"format is {config.format}, which needs images, but data_dir has masks alone: choose another one"
            raise ConfigError.of_keys(("format", line))
        if isinstance(writer, NnunetWriter):
            modes = {mode for split in found.splits for mode in split.report.image_modes}
            writer.channels = 1 if all(map(is_gray, modes)) else 3
        counted = ClassCounts(names, [str(index) for index in range(len(names))], title="class id")
        record, origins, splits = _write(found, lookup, writer, counted)
        writer.finish()
        counts = {what: count for what, count in writer.counts.items() if count}
        exported = Exported(target, kind.title, names, splits, origins, counts)
        content = {
            "format": config.format,
            "source": str(Path(source.data_dir).absolute()),
            "classes": {str(index): name for index, name in enumerate(names)},
            "splits": splits,
            "origins": origins,
            "changed": counts,
            "inputs": found.inputs,
            "library": library_versions(),
            "pairs": record,
            "files": files_below(folder),
        }
        write_text(folder / RECORD, json.dumps(content, indent=1) + "\n")
        facts = ExportedFacts(str(config.format), kind.title, splits, origins, counts, counted)
        write_export_card(folder, source.data_dir, found, facts)
    return exported


def _write(
    found: ExportSource, lookup: NDArray[np.int32], writer: Any, counted: ClassCounts
) -> tuple[list[dict[str, str]], dict[str, int], dict[str, int]]:
    entries = [(split, entry) for split in found.splits for entry in split.entries]
    names = safe_names([f"{split.split}/{entry.stem}.png" for split, entry in entries])
    record: list[dict[str, str]] = []
    origins: Counter[str] = Counter()
    splits: Counter[str] = Counter()
    for (split, entry), name in zip(tqdm(entries, desc="exporting", unit="pair"), names, strict=True):
        label = lookup[read_mask(entry.mask, found.encoding, upright=entry.upright).numpy()]
        counted.add(label)
        image = ExportedImage(entry.image, entry.upright) if isinstance(entry, Pair) else None
        pair = ExportedPair(name, split.split, label, image, split.origin(entry))
        writer.add(pair)
        if writer.lost_class:
            writer.counts[f"pixels of {writer.lost_class}"] += int((label == 0).sum())
        splits[split.split] += 1
        origins[pair.origin] += 1
        path = entry.mask if image is None else image.path
        record.append({"name": name, "split": split.split, "origin": pair.origin, "source": path})
    return record, dict(origins), dict(splits)
