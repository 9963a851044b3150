"""`dataset_card.md`: what a folder of pairs is, how it was made, and what is known of its worth."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from guided_diffusion.data.counting import value_counts
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.runtime.card_file import (
    DATASET_CARD,
    Region,
    plain,
    read_card,
    regions_of,
    write_card,
)
from guided_diffusion.samples.manifest import ManifestLine

SEGMENTATION, UNCONDITIONAL = "image-segmentation", "unconditional-image-generation"
EVALUATION, LIMITS = "evaluation", "limits"
"""Names of the regions that `evaluate` writes."""
_MANY = 2.0  # seconds from which on counting shows a progress bar
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))
NOT_EVALUATED = (
    "Nothing of it was evaluated: not whether images follow their masks, not whether images of the source are copied, "
    "and not whether a segmentation model becomes better with these pairs. `evaluate` measures all three, and writes "
    "its verdict here."
)
NO_IMAGES = "Nothing of it was evaluated: `evaluate` needs pairs of image and mask."
CHANGED = "Not evaluated in this state: the last evaluation was of other pairs, before some were added or made anew."
LICENSE = (
    "Nothing here says under which license these files are: that of the source decides, and whoever passes them on. "
    "Add `license:` to the head of this file."
)


class ClassCounts:
    """The classes of masks: of each what stands for it, in how many masks it is, and how many pixels."""

    def __init__(self, names: Sequence[str], written: Sequence[str], title: str = "mask value"):
        """Take the names of the classes and what stands for each in the files, of which `title` is the name."""
        self.names, self.written, self.title = tuple(names), tuple(written), title
        self.masks, self.pixels = (np.zeros(len(self.names), np.int64) for _ in range(2))
        self.ignored = 0

    @classmethod
    def of_masks(cls, labels: Iterable[NDArray[np.integer]], encoding: LabelEncoding, count: int) -> ClassCounts:
        """Count `count` label maps [H, W] in 0..num_classes, of which the last is ignored; shows progress."""
        values = [str(group[0]) for group in encoding.values] or [str(list(color)) for color in encoding.colors]
        counts = cls(encoding.names, values)
        for label in tqdm(labels, "counting classes", count, unit="mask", delay=_MANY):
            counts.add(label)
        return counts

    def add(self, label: NDArray[np.integer]) -> None:
        """Count a label map [H, W]; what is no class is ignored."""
        count = len(self.names)
        found = value_counts(np.where((label < 0) | (label > count), count, label), count + 1)
        self.masks += found[:count] > 0
        self.pixels += found[:count]
        self.ignored += int(found[count])

    def table(self) -> list[str]:
        """Return the lines of the table."""
        whole = max(1, int(self.pixels.sum()) + self.ignored)
        lines = [f"| {self.title} | class | masks with it | share of the pixels |", "|---|---|---:|---:|"]
        for name, value, masks, pixels in zip(self.names, self.written, self.masks, self.pixels, strict=True):
            lines.append(f"| {value} | {plain(name)} | {masks} | {pixels / whole:.3%} |")
        if self.ignored:
            lines.append(f"| (ignored) | no class | | {self.ignored / whole:.3%} |")
        return lines


@dataclass(frozen=True, eq=False)
class DatasetFacts:
    """What a card says. Texts of users are Markdown already, see `plain`.

    title: without the number of pairs. what: the sentence that says what the pairs are. sources, settings: a name and
    its value each. limits: sentences. state: digest of the pairs, see `state_of`.
    """

    title: str
    what: str
    action: str
    count: int
    unit: str
    synthetic: bool
    sources: Sequence[tuple[str, str]]
    settings: Sequence[tuple[str, str]]
    limits: Sequence[str]
    use: Sequence[str]
    state: str
    version: str
    classes: ClassCounts | None = None
    task: str = SEGMENTATION
    tags: Sequence[str] = ()
    by_people: bool = False
    """Whether people drew every mask."""
    evaluation: str = NOT_EVALUATED
    extra: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Further sections: heading -> lines."""


def state_of(lines: Iterable[ManifestLine]) -> str:
    """Return a digest of the pairs of a manifest that does not depend on where their sources lie."""
    known = [
        [
            line.image,
            line.mask,
            line.source[1],
            line.seed,
            line.checkpoint,
            None if line.pseudo is None else [line.pseudo.digest, line.pseudo.classifier],
            None if line.generated is None else line.generated.name,
            line.layouts,
        ]
        for line in lines
    ]
    return sha256(json.dumps(known).encode()).hexdigest()[:16]


def joined_digest(digests: Iterable[str]) -> str:
    """Return one digest of those of several files, in any order."""
    return sha256("\n".join(sorted(digests)).encode()).hexdigest()[:16]


def size_category(count: int) -> str:
    """Return the size of a dataset as the metadata of the Hub have it."""
    return next((name for limit, name in _SIZES if count < limit), "1M<n<10M")


def settings_rows(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the rows of settings that are on; one that is null is off, or not recorded."""
    return [(f"`{key}`", plain(json.dumps(value))) for key, value in settings.items() if value is not None]


def card_text(facts: DatasetFacts, regions: Mapping[str, Region]) -> str:
    """Return the card without its seal, its metadata made by huggingface_hub."""
    from huggingface_hub import DatasetCard, DatasetCardData

    title = f"{facts.title}: {facts.count} {facts.unit}"
    data = DatasetCardData(
        pretty_name=title,
        annotations_creators=None if facts.by_people else ["machine-generated"],
        task_categories=[facts.task],
        size_categories=[size_category(facts.count)],
        tags=[*(["synthetic"] if facts.synthetic else []), "isdm", *facts.tags],
    )
    return str(DatasetCard(f"---\n{data.to_yaml()}\n---\n\n{_body(facts, title, regions)}"))


def _body(facts: DatasetFacts, title: str, regions: Mapping[str, Region]) -> str:
    sections = {
        "Source": table("made of", facts.sources),
        "Settings": table("setting", facts.settings),
        "Classes": [] if facts.classes is None else facts.classes.table(),
        **facts.extra,
        "How to use": facts.use,
    }
    lines = [f"# {title}", "", facts.what, "", f"Written by `{facts.action}` of ISDM {facts.version}."]
    for heading, content in sections.items():
        if content:
            lines += ["", f"## {heading}", "", *content]
    limits = "".join(f"- {line}\n" for line in facts.limits)
    return (
        "\n".join(lines)
        + f"\n\n## Evaluation\n\n{regions[EVALUATION].text(EVALUATION)}"
        + f"\n## Limits\n\n{limits}\n{regions[LIMITS].text(LIMITS)}"
        + f"\n## License\n\n{LICENSE}\n"
    )


def table(title: str, rows: Sequence[tuple[str, str]]) -> list[str]:
    """Return the lines of a table of names and values, none without rows."""
    return [f"| {title} | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)] if rows else []


def default_regions(facts: DatasetFacts) -> dict[str, Region]:
    """Return the regions of a card whose pairs were not evaluated."""
    return {EVALUATION: Region(f"{facts.evaluation}\n"), LIMITS: Region("")}


def write_dataset_card(folder: Path, facts: DatasetFacts, evaluated: Mapping[str, Region] | None = None) -> str:
    """Write the card of a folder and return what is printed of it: its path, and whether it was left as it is.

    What `evaluate` said of these very pairs stays. evaluated: what it said, where the card is not there yet.
    UserError where it cannot be written.
    """
    path = folder / DATASET_CARD
    regions = _regions_now(evaluated or regions_of(read_card(path) or ""), facts)
    written = write_card(path, card_text(facts, regions), regions)
    return str(path.absolute()) + ("" if written else " (edited, so it is left as it is)")


def _regions_now(before: Mapping[str, Region], facts: DatasetFacts) -> dict[str, Region]:
    """Return the regions of a card, those that were there where they are of the pairs of `facts`."""
    evaluated = before.get(EVALUATION, Region(""))
    if evaluated.state == "none":
        return default_regions(facts)
    if evaluated.state == facts.state:
        return {**default_regions(facts), **before}
    return {EVALUATION: Region(f"{CHANGED}\n"), LIMITS: Region("")}
