"""Masks that `segment` made, where masks of people are expected: what is said of them, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from guided_diffusion.data.pairing import Pair
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.samples.manifest import file_digest
from guided_diffusion.samples.reader import SampleFolder, count_pseudo_labels

_MEANING = {
    "train": "what is learned of them has their mistakes",
    "test": "scores tell how far a model agrees with pixel classifiers, not with people",
}


def pseudo_label_lines(data_dir: str | Path, splits: Sequence[str] = ("train", "test")) -> list[str]:
    """Return a line for each split of a dataset that has pseudo labels, "" and cloud addresses have none."""
    counts = {split: count_pseudo_labels(data_dir, split) for split in splits} if data_dir else {}
    return [
        f"{data_dir}: {count} masks of {split} are pseudo labels of segment, not drawn by people: {_MEANING[split]}"
        for split, count in counts.items()
        if count
    ]


def pseudo_sample_lines(samples: SampleFolder) -> list[str]:
    """Return a line where pairs that are taken for samples are real images with pseudo labels."""
    count = samples.pseudo_labels
    if not count:
        return []
    line = f"{samples.folder}: {count} of its pairs are real images with pseudo labels of segment, not samples"
    return [f"{line}: fidelity says nothing of them, and agreement is that with their pseudo labels"]


def refuse_test_images(samples: SampleFolder, test: Sequence[Pair]) -> None:
    """Raise DataError where images of the test split were labeled, so that models would be trained on them."""
    labeled = {line.pseudo.digest: line.image for line in samples.lines.values() if line.pseudo is not None}
    if not labeled:
        return
    shared = [labeled[digest] for pair in test if (digest := file_digest(pair.image)) in labeled]
    if shared:
        found = f"{len(shared)} of its images are in the test split, such as {shared[0]}"
        raise DataError.of(samples.folder, found, "label other images, without those of the test")
