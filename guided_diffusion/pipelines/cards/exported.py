"""The card of an exported dataset, which takes over what is known of the samples in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guided_diffusion import __version__
from guided_diffusion.pipelines.cards.samples import COPIES, OF_TEST, SEEN
from guided_diffusion.pipelines.export_source import PREDICTED_MASK, REAL, ExportSource
from guided_diffusion.pipelines.training_source import last_name
from guided_diffusion.runtime.card_file import DATASET_CARD, Region, plain, read_card, regions_of
from guided_diffusion.runtime.logs import read_run_record
from guided_diffusion.samples.dataset_card import (
    EVALUATION,
    LIMITS,
    ClassCounts,
    DatasetFacts,
    joined_digest,
    settings_rows,
    state_of,
    write_dataset_card,
)
from guided_diffusion.samples.manifest import MANIFEST, ManifestLine, SampleSettings, file_digest, read_manifest


@dataclass(frozen=True, eq=False)
class ExportedFacts:
    """What the export itself knows: numbers by split and by origin, what was changed, the classes."""

    format: str
    title: str
    splits: Mapping[str, int]
    origins: Mapping[str, int]
    changed: Mapping[str, int]
    classes: ClassCounts


def write_export_card(folder: Path, data_dir: str, found: ExportSource, exported: ExportedFacts) -> None:
    """Write the card of an exported dataset into the new `folder`."""
    lines = {split.split: _lines(split.folder) for split in found.splits}
    known = [line for each in lines.values() for line in each]
    synthetic = [origin for origin in exported.origins if origin not in (REAL, PREDICTED_MASK)]
    by_people = set(exported.origins) <= {REAL}
    count = sum(exported.splits.values())
    by_split = ", ".join(f"{number} in {split}" for split, number in exported.splits.items())
    masks = [entry.mask for split in found.splits for entry in split.entries]
    sources = [
        ("dataset", f"{plain(last_name(data_dir))}, digest of its masks {joined_digest(map(file_digest, masks))}"),
        *((f"checkpoint {number}", f"digest {each}") for number, each in enumerate(_checkpoints(known), 1)),
    ]
    limits = [f"The export changed something: {number} {plain(what)}." for what, number in exported.changed.items()]
    limits += [SEEN, COPIES] if synthetic else []
    limits += [OF_TEST] if synthetic and any(_is_of_test(split.folder) for split in found.splits) else []
    facts = DatasetFacts(
        title=f"Dataset as {exported.title}",
        what=f"Pairs of image and mask, {by_split}: {_in_words(exported.origins)}.",
        action="export",
        count=count,
        unit="pairs",
        synthetic=bool(synthetic),
        sources=sources,
        settings=[("`format`", exported.format), *settings_rows(_common(known))],
        limits=limits,
        use=[f"The layout is that of {exported.title}."],
        state=state_of(known),
        version=__version__,
        classes=exported.classes,
        by_people=by_people,
        tags=[] if by_people else ["pseudo-labels"] if not synthetic else ["diffusion"],
        evaluation=_NOTHING_SYNTHETIC if by_people else _NOT_EVALUATED,
    )
    write_dataset_card(folder, facts, _evaluated(found, lines))


_NOTHING_SYNTHETIC = "Nothing in it was made by a model, so there is nothing to evaluate."
_NOT_EVALUATED = "Not evaluated in this form, and no evaluation of what it was exported from is known."


def _in_words(origins: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {plain(origin)}" for origin, count in origins.items())


def _lines(folder: Path | None) -> list[ManifestLine]:
    manifest = None if folder is None else folder / MANIFEST
    if manifest is None or not manifest.is_file():
        return []
    return [line for line in read_manifest(manifest, sound_only=True) if line.mask]


def _is_of_test(folder: Path | None) -> bool:
    """Return whether the samples of a folder were made of masks of the test split."""
    record = {} if folder is None else read_run_record(folder)
    return record.get("data_split") == "test" and bool(record.get("data_dir"))


def _checkpoints(lines: list[ManifestLine]) -> list[str]:
    return sorted({line.checkpoint for line in lines if line.checkpoint is not None})


def _common(lines: list[ManifestLine]) -> dict[str, Any]:
    """Return the settings of sampling that all lines share; none where only some pairs were sampled."""
    keys = [key for key in SampleSettings.model_fields if key not in ("checkpoint", "layouts", "eta_path")]
    return {key: getattr(lines[0], key) for key in keys if len({repr(getattr(line, key)) for line in lines}) == 1}


def _evaluated(found: ExportSource, lines: Mapping[str, list[ManifestLine]]) -> dict[str, Region] | None:
    """Return what `evaluate` said of the one folder that is exported, None where it said nothing of its pairs."""
    if len(found.splits) != 1 or found.splits[0].folder is None:
        return None
    regions = regions_of(read_card(found.splits[0].folder / DATASET_CARD) or "")
    evaluated = regions.get(EVALUATION)
    if evaluated is None or evaluated.state != state_of(lines[found.splits[0].split]):
        return None
    body = f"Of the pairs that were exported, before the export:\n\n{evaluated.body}"
    return {EVALUATION: Region(body, evaluated.state), LIMITS: regions.get(LIMITS, Region(""))}
