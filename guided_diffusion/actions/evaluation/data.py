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

from evaluations.memorisation import SYMMETRIES, apply_symmetry
from evaluations.sets import ImageSet
from guided_diffusion.actions.dataset import scan
from guided_diffusion.architecture import height_width
from guided_diffusion.config import EvaluateConfig, load_config
from guided_diffusion.data.arrays import load_arrays
from guided_diffusion.data.files import open_mask
from guided_diffusion.data.labels import LabelEncoding
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.pairing import Pair
from guided_diffusion.data.problems import problem_lines
from guided_diffusion.data.samples import SampleFolder, find_samples, mask_digests, open_samples
from guided_diffusion.data.transforms import JointTransform
from guided_diffusion.errors import ConfigError, DataError
from guided_diffusion.options import GeometryOptions

_ENOUGH = {"data_dir": "-", "dataset_mode": "-", "output_dir": "-"}  # for a check of one key by itself
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
    diverse: the samples whose diversity is asked for.
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
    diverse: ImageSet
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
        load_config("check", {"image_size": options["image_size"], **_ENOUGH})
        sides = [SIDE * ceil(side / SIDE) for side in height_width(options["image_size"])]
        options["image_size"] = sides[0] if sides[0] == sides[1] else sides
    missing = [key for key in ("dataset_mode", "image_size") if options[key] in (None, "")]
    if missing:
        raise ConfigError(
            [f"{key} is missing, and {samples.folder} has no config.json of sample: set it" for key in missing]
        )
    if options["image_channels"] is None:
        options["image_channels"] = GeometryOptions.model_fields["image_channels"].default
    if not options["encoder_weights"]:
        options["encoder_weights"] = "none"
    # Also what the samples say is only text in a file.
    options = load_config("evaluate", options).to_json()
    if options["resize"] is None:
        options["resize"] = get_mode(options["dataset_mode"]).resize
    return options


def open_data(config: EvaluateConfig) -> EvaluationData:
    """Scan the real dataset and the samples and return them as arrays.

    Raises DataError with a line for everything that keeps them from being compared.
    """
    samples = find_samples(config.synthetic_dir)
    options = resolve_options(config, samples)
    training = scan(options, "train")
    encoding = training.raise_if_fatal()
    test = scan(options, "test", encoding=encoding)
    test.raise_if_fatal()
    warnings = problem_lines(problem for problem in training.warnings if "empty class" in problem.kind)
    if options["resize"] == "pad":
        # Borders are of no class, and samples were written with them.
        encoding = encoding.with_ignore()
    pairs = open_samples(samples, encoding, options["image_channels"])
    for found, folder, least in ((training.pairs, "train", 4), (test.pairs, "test", 2), (pairs, "samples", 2)):
        if len(found) < least:
            where = samples.folder if folder == "samples" else Path(options["data_dir"]) / folder
            raise DataError(f"{where}: has {len(found)} pair(s), and a comparison needs at least {least}: add some")
    splits = [
        load_split(found, encoding, options, name)
        for found, name in ((training.pairs, "training"), (test.pairs, "test"), (pairs, "samples"))
    ]
    diverse = splits[2].images
    if options["diversity_dir"]:
        several = open_samples(find_samples(options["diversity_dir"]), encoding, options["image_channels"])
        diverse = load_split(several, encoding, options, "diversity_dir").images
    origin, leaked, unknown = find_origins(samples, *splits)
    warnings += [*_unknown_line(samples, unknown, len(pairs)), *_size_line(samples, pairs, options)]
    return EvaluationData(options, encoding, *splits, samples, origin, leaked, diverse, tuple(warnings))


def _unknown_line(samples: SampleFolder, unknown: int, count: int) -> list[str]:
    if not unknown:
        return []
    return [
        f"{samples.folder}: of {unknown} of {count} samples nobody knows which mask they were made from; where it is a "
        "test image's, the study is worth nothing, and where it is one that chooses the best state, their arms look a "
        "little too good"
    ]


def _size_line(samples: SampleFolder, pairs: Sequence[Pair], options: Mapping[str, Any]) -> list[str]:
    width, height = open_mask(pairs[0].mask).size
    wanted = height_width(options["image_size"])
    if height >= wanted[0] and width >= wanted[1]:
        return []
    return [
        f"{samples.folder}: the samples have {width}x{height} pixels and are enlarged to {wanted[1]}x{wanted[0]}, real "
        "images are not: some of their blur comes from that"
    ]


def load_split(pairs: Sequence[Pair], encoding: LabelEncoding, options: Mapping[str, Any], name: str) -> Split:
    """Return scanned pairs as arrays, brought to the size of the comparison."""
    transform = JointTransform(height_width(options["image_size"]), resize=options["resize"], train=False)
    images, labels = load_arrays(pairs, encoding, transform, options["image_channels"], progress=f"reading {name}")
    return Split(tuple(pairs), ImageSet(images, labels, tuple(pair.stem for pair in pairs), encoding.num_classes))


def find_origins(samples: SampleFolder, training: Split, test: Split, synthetic: Split) -> tuple[np.ndarray, int, int]:
    """Return of each sample the training pair of its mask (-1 where unknown), and how many are of the test or unknown.

    The manifest tells by a digest of the mask file, and of equal files by their name. Where it does not, the label map
    is looked for among those of the training and the test images, flips and turns included. A map that is all one class
    tells nothing, and neither does it give anything away: it counts as unknown in `origin` alone.
    """
    origin, leaked, unknown = np.full(len(synthetic.pairs), -1, np.int64), 0, 0
    by_digest = [_indices_by(mask_digests(split.pairs)) if samples.lines else {} for split in (training, test)]
    by_map = [_indices_by_map(split.images.labels) for split in (training, test)]
    for index, (pair, label) in enumerate(zip(synthetic.pairs, synthetic.images.labels, strict=True)):
        line = samples.line_of(pair) or {}
        digest, name = line.get("source_digest", ""), PurePath(line.get("source_mask", "").replace("\\", "/")).name
        own, others = by_digest[0].get(digest, []), by_digest[1].get(digest, [])
        if not own and not others:
            own, others = (found.get(label.tobytes(), []) for found in by_map)
        named = [number for number in own if PurePath(training.pairs[number].mask).name == name]
        origin[index] = next(iter([*named, *own]), -1)
        leaked += not own and bool(others)
        unknown += not own and not others and bool((label != label.flat[0]).any())
    return origin, leaked, unknown


def _indices_by(keys: Sequence[Any]) -> dict[Any, list[int]]:
    found: dict[Any, list[int]] = {}
    for index, key in enumerate(keys):
        found.setdefault(key, []).append(index)
    return found


def _indices_by_map(labels: np.ndarray) -> dict[bytes, list[int]]:
    """Return label map, in any flip or turn -> indices; without maps of one class alone."""
    found: dict[bytes, list[int]] = {}
    for index, label in enumerate(labels):
        if (label != label.flat[0]).any():
            for symmetry in range(len(SYMMETRIES)):
                turned = np.ascontiguousarray(apply_symmetry(label[..., None], symmetry)[..., 0])
                if turned.shape == label.shape and index not in found.setdefault(turned.tobytes(), []):
                    found[turned.tobytes()].append(index)
    return found
