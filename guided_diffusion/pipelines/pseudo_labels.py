"""Masks that models made, where those of people are expected: what is said of them, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from guided_diffusion.data.pairing import Pair
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.samples.manifest import file_digest
from guided_diffusion.samples.reader import SampleFolder, count_pseudo_labels

_MEANING = {
    "train": "what is learned of them has their mistakes",
    "test": "scores tell how far a model agrees with the one that made them, not with people",
}
_MADE = {
    "segment": "are pseudo labels of segment",
    "generate": "are pseudo labels of generate",
    "sample": "are predicted by a model of boxes",
}


def pseudo_label_lines(data_dir: str | Path, splits: Sequence[str] = ("train", "test")) -> list[str]:
    """Return lines for each split whose masks models made, "" and cloud addresses have none."""
    counts = {split: count_pseudo_labels(data_dir, split) for split in splits} if data_dir else {}
    return [
        f"{data_dir}: {count} masks of {split} {_MADE[action]}, not drawn by people: {_MEANING[split]}"
        for split, made in counts.items()
        for action, count in made.items()
    ]


def pseudo_sample_lines(samples: SampleFolder) -> list[str]:
    """Return lines where pairs are real images, and where masks are not those that images were drawn from."""
    lines = []
    if samples.pseudo_labels:
        line = f"{samples.pseudo_labels} of its pairs are real images with pseudo labels of segment, not samples"
        lines.append(f"{line}: fidelity says nothing of them, and agreement is that with their pseudo labels")
    if samples.labeled:
        lines.append(f"{len(samples.labeled)} of its pairs are labeled images of the dataset, and left out here")
    if samples.classified:
        line = f"pixel classifiers found the masks of {samples.classified} of its pairs in the images"
        lines.append(f"{line}: agreement tells how far a segmenter finds the same, not how well images follow masks")
    if samples.predicted:
        line = f"the masks of {samples.predicted} of its pairs are predicted by the model that made the images of boxes"
        lines.append(f"{line}: agreement tells how far a segmenter finds the same, not how good they are")
    return [f"{samples.folder}: {line}" for line in lines]


def refuse_test_images(samples: SampleFolder, test: Sequence[Pair]) -> None:
    """Raise DataError where test images were labeled, or taught the classifiers: models would be trained on them."""
    labeled = {line.pseudo.digest: line.image for line in samples.lines.values() if line.pseudo is not None}
    taught = {
        digest
        for line in samples.lines.values()
        if line.classified is not None
        for digest in line.classified.labeled or ()
    }
    digests = [file_digest(pair.image) for pair in test] if labeled or taught else []
    shared = [labeled[digest] for digest in digests if digest in labeled]
    if shared:
        found = f"{len(shared)} of its images are in the test split, such as {shared[0]}"
        raise DataError.of(samples.folder, found, "label other images, without those of the test")
    learned = [pair.image for pair, digest in zip(test, digests, strict=False) if digest in taught]
    if learned:
        found = f"its pixel classifiers were trained on {len(learned)} images of the test split, such as {learned[0]}"
        raise DataError.of(samples.folder, found, "train them on others, without those of the test")
