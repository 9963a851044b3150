"""What `evaluate` compares: the real dataset and the samples, scanned and as arrays, and where each sample is from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from math import ceil
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from evaluations.sets import ImageSet
from guided_diffusion.actions.dataset import scan
from guided_diffusion.architecture import height_width
from guided_diffusion.config import EvaluateConfig
from guided_diffusion.data.arrays import load_arrays
from guided_diffusion.data.labels import LabelEncoding
from guided_diffusion.data.pairing import Pair
from guided_diffusion.data.problems import problem_lines
from guided_diffusion.data.samples import SampleFolder, find_samples, mask_digests, open_samples
from guided_diffusion.data.transforms import JointTransform
from guided_diffusion.errors import ConfigError, DataError
from guided_diffusion.options import GeometryOptions

FROM_SAMPLES = ("dataset_mode", "num_classes", "ignore_label", "image_size", "image_channels", "resize")
SIDE = 32  # image sides of the segmentation models are multiples of it


@dataclass(frozen=True)
class Split:
    """The pairs of one split and their arrays."""

    pairs: tuple[Pair, ...]
    images: ImageSet

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits of the SHA-256 of all pixels and labels: what results were computed on."""
        content = sha256(self.images.images.tobytes())
        content.update(self.images.labels.astype(np.int32).tobytes())
        return content.hexdigest()[:16]


@dataclass(frozen=True)
class EvaluationData:
    """Everything that is compared, at one size.

    origin: of each sample the index of the training pair whose mask it was made from, -1 where nobody knows.
    leaked: samples made from masks of the test split.
    warnings: lines for the report.
    """

    options: dict[str, Any]
    encoding: LabelEncoding
    training: Split
    test: Split
    synthetic: Split
    samples: SampleFolder
    origin: np.ndarray
    leaked: int
    warnings: tuple[str, ...]


def resolve_options(config: EvaluateConfig, samples: SampleFolder) -> dict[str, Any]:
    """Return the options with what is left open taken from the run that made the samples.

    Raises ConfigError for what neither of them says.
    """
    options = config.to_json()
    for key in FROM_SAMPLES:
        if options[key] in (None, ""):
            options[key] = samples.config.get(key)
    if config.image_size is None and options["image_size"] is not None:
        sides = [SIDE * ceil(side / SIDE) for side in height_width(options["image_size"])]
        options["image_size"] = sides[0] if sides[0] == sides[1] else sides
    missing = [key for key in ("dataset_mode", "image_size") if options[key] in (None, "")]
    if missing:
        raise ConfigError(
            [f"{key} is missing, and {samples.folder} has no config.json of sample: set it" for key in missing]
        )
    for key in ("image_channels", "resize"):
        if options[key] is None:
            options[key] = GeometryOptions.model_fields[key].default
    if not options["encoder_weights"]:
        options["encoder_weights"] = "none"
    return options


def open_data(config: EvaluateConfig) -> EvaluationData:
    """Scan the real dataset and the samples and return them as arrays.

    Raises DataError with a line for everything that keeps them from being compared.
    """
    samples = find_samples(config.synthetic_dir)
    options = resolve_options(config, samples)
    training, test = scan(options, "train"), None
    encoding = training.raise_if_fatal()
    test = scan(options, "test", encoding=encoding)
    test.raise_if_fatal()
    warnings = problem_lines(problem for problem in training.warnings if problem.kind != "short batch")
    pairs = open_samples(samples, encoding, options["image_channels"])
    for found, folder, least in ((training.pairs, "train", 4), (test.pairs, "test", 2), (pairs, "samples", 2)):
        if len(found) < least:
            where = samples.folder if folder == "samples" else Path(options["data_dir"]) / folder
            raise DataError(f"{where}: has {len(found)} pair(s), and a comparison needs at least {least}: add some")
    if options["resize"] == "pad":
        encoding = encoding.with_ignore()
    origin, leaked = _origins(samples, pairs, training.pairs, test.pairs)
    if (origin < 0).any():
        warnings.append(
            f"{samples.folder}: of {int((origin < 0).sum())} of {len(pairs)} samples nobody knows which training mask "
            "they were made from; where it is one that chooses the best state, their arms look a little too good"
        )
    transform = JointTransform(height_width(options["image_size"]), resize=options["resize"], train=False)
    splits = [
        _load(found, encoding, transform, options, name)
        for found, name in ((training.pairs, "training"), (test.pairs, "test"), (pairs, "samples"))
    ]
    return EvaluationData(options, encoding, *splits, samples, origin, leaked, tuple(warnings))


def _load(
    pairs: Sequence[Pair], encoding: LabelEncoding, transform: JointTransform, options: Mapping[str, Any], name: str
) -> Split:
    images, labels = load_arrays(pairs, encoding, transform, options["image_channels"], progress=f"reading {name}")
    return Split(tuple(pairs), ImageSet(images, labels, tuple(pair.stem for pair in pairs), encoding.num_classes))


def _origins(
    samples: SampleFolder, pairs: Sequence[Pair], training: Sequence[Pair], test: Sequence[Pair]
) -> tuple[np.ndarray, int]:
    """Return of each sample the training pair of its mask, -1 where unknown, and how many masks are of the test split.

    Masks are told by their contents, so that a dataset that was moved is recognised; of equal ones by their names.
    """
    origin, leaked = np.full(len(pairs), -1, np.int64), 0
    if not samples.lines:
        return origin, leaked
    known: dict[str, list[int]] = {}
    for index, digest in enumerate(mask_digests(training)):
        known.setdefault(digest, []).append(index)
    held_out = set(mask_digests(test)) - known.keys()
    for index, pair in enumerate(pairs):
        line = samples.line_of(pair) or {}
        name = PurePath(line.get("source_mask", "").replace("\\", "/")).name
        alike = known.get(line.get("source_digest", ""), [])
        named = [number for number in alike if PurePath(training[number].mask).name == name]
        origin[index] = next(iter([*named, *alike]), -1)
        leaked += line.get("source_digest") in held_out
    return origin, leaked
