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
from tqdm import tqdm

from evaluations.metrics.near_duplicates import SYMMETRIES, apply_symmetry
from evaluations.sets import ImageSet
from guided_diffusion.config.evaluate import EvaluateConfig
from guided_diffusion.config.load import load_config
from guided_diffusion.data.arrays import load_arrays
from guided_diffusion.data.files import open_mask
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.options import GeometryOptions
from guided_diffusion.data.pairing import Pair
from guided_diffusion.data.scan.problems import problem_lines
from guided_diffusion.data.scan.report import ScanReport
from guided_diffusion.data.scan.scan import scan_dataset
from guided_diffusion.data.transforms import JointTransform
from guided_diffusion.models.architecture import height_width
from guided_diffusion.runtime.errors import ConfigError, DataError
from guided_diffusion.samples.reader import SampleFolder, find_samples, mask_digests, open_samples

_ENOUGH = {"data_dir": "-", "dataset_mode": "-", "output_dir": "-"}  # for a check of one key by itself
FROM_SAMPLES = ("dataset_mode", "num_classes", "ignore_label", "image_size", "image_channels", "resize")
SIDE = 32  # image sides of the segmentation models are multiples of it
PUBLISHED_SAMPLES = 10  # of a mask, in the protocol of SDM


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
class ScannedData:
    """The pairs of everything that is compared, scanned and not yet read.

    training: None where nothing that is asked for needs it, as a published dataset has gigabytes of it.
    several: the samples whose diversity is asked for.
    warnings: lines for the report.
    """

    options: dict[str, Any]
    encoding: LabelEncoding
    training: tuple[Pair, ...] | None
    test: tuple[Pair, ...]
    synthetic: tuple[Pair, ...]
    several: tuple[Pair, ...]
    samples: SampleFolder
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class EvaluationData:
    """Everything that is compared, at one size.

    training: None where nothing that is asked for needs it.
    origin: of each sample the index of the training pair whose mask it was made from, -1 where nobody knows.
    test_origin: the same of the test pairs.
    several: the samples whose diversity is asked for, read when it is measured.
    warnings: lines for the report.
    """

    options: dict[str, Any]
    encoding: LabelEncoding
    training: Split | None
    test: Split
    synthetic: Split
    several: tuple[Pair, ...]
    samples: SampleFolder
    origin: np.ndarray
    test_origin: np.ndarray
    warnings: tuple[str, ...]

    @property
    def leaked(self) -> int:
        """How many samples were made from masks of the test split."""
        return int(((self.origin < 0) & (self.test_origin >= 0)).sum())

    @property
    def size(self) -> tuple[int, int]:
        """Height and width at which everything is compared."""
        return height_width(self.options["image_size"])


def needs_training(options: Mapping[str, Any]) -> bool:
    """Tell whether anything that `options` ask for looks at the training images."""
    return trains_models(options) or options["memorisation"] or options["compare_with"] == "training"


def trains_models(options: Mapping[str, Any]) -> bool:
    """Tell whether `options` ask for segmentation models to be trained."""
    return options["study"] or (options["agreement"] and not options["segmenter"])


def resolve_options(config: EvaluateConfig, samples: SampleFolder) -> dict[str, Any]:
    """Return the options with what is left open taken from the run that made the samples.

    Raises ConfigError for what neither of them says.
    """
    options = config.to_json()
    for key in FROM_SAMPLES:
        if options[key] in (None, ""):
            options[key] = samples.config.get(key)
    if config.view.image_size is None and options["image_size"] is not None:
        load_config("check", {"image_size": options["image_size"], **_ENOUGH})
        if trains_models(options):
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


def scan(options: Mapping[str, Any], split: str, encoding: LabelEncoding | None = None) -> ScanReport:
    """Return what a scan of every pair of a split finds."""
    return scan_dataset(
        options["data_dir"],
        get_mode(options["dataset_mode"]),
        split,
        num_classes=options["num_classes"],
        image_channels=options["image_channels"],
        batch_size=options["batch_size"],
        ignore_label=options["ignore_label"],
        encoding=encoding,
        with_instances=False,
    )


def scan_data(options: dict[str, Any], samples: SampleFolder) -> ScannedData:
    """Scan the splits of the real dataset that `options` (resolved) need, and the samples.

    Raises DataError with a line for everything that keeps them from being compared.
    """
    training, encoding, warnings = None, None, []
    if needs_training(options):
        report = scan(options, "train")
        encoding, training = report.raise_if_fatal(), report.pairs
        warnings = problem_lines(problem for problem in report.warnings if "empty class" in problem.kind)
    report = scan(options, "test", encoding=encoding)
    encoding, test = report.raise_if_fatal(), report.pairs
    if options["resize"] == "pad":
        # Borders are of no class, and samples were written with them.
        encoding = encoding.with_ignore()
    pairs = open_samples(samples, encoding, options["image_channels"])
    for found, folder, least in ((training, "train", 4), (test, "test", 2), (pairs, "samples", 2)):
        if found is not None and len(found) < least:
            where = samples.folder if folder == "samples" else Path(options["data_dir"]) / folder
            raise DataError(f"{where}: has {len(found)} pair(s), and a comparison needs at least {least}: add some")
    several = pairs
    if options["diversity_dir"]:
        several = open_samples(find_samples(options["diversity_dir"]), encoding, options["image_channels"])
    warnings += _size_line(samples, pairs, options)
    return ScannedData(options, encoding, training, test, pairs, several, samples, tuple(warnings))


def load_data(scanned: ScannedData) -> EvaluationData:
    """Read what was scanned into memory; DataError for files that changed since."""
    options, encoding = scanned.options, scanned.encoding
    training = None if scanned.training is None else load_split(scanned.training, encoding, options, "training")
    test = load_split(scanned.test, encoding, options, "test")
    synthetic = load_split(scanned.synthetic, encoding, options, "samples")
    origin, test_origin = find_origins(scanned.samples, training, test, synthetic)
    warnings = [*_origin_lines(scanned, synthetic, origin, test_origin), *scanned.warnings]
    return EvaluationData(
        options,
        encoding,
        training,
        test,
        synthetic,
        scanned.several,
        scanned.samples,
        origin,
        test_origin,
        tuple(warnings),
    )


def groups_of_one_mask(pairs: Sequence[Pair], encoding: LabelEncoding) -> tuple[tuple[Pair, ...], ...]:
    """Return, for each mask that has several samples, at most 10 of them: as many as in the published protocol."""
    by_mask: dict[bytes, list[Pair]] = {}
    for pair in tqdm(pairs, desc="reading masks", unit="mask"):
        label = encoding.decode(open_mask(pair.mask), pair.mask)
        by_mask.setdefault(_map_key(label), []).append(pair)
    return tuple(tuple(group[:PUBLISHED_SAMPLES]) for group in by_mask.values() if len(group) > 1)


def _origin_lines(scanned: ScannedData, synthetic: Split, origin: np.ndarray, test_origin: np.ndarray) -> list[str]:
    # Labels of one class alone tell nothing, and neither do they give anything away.
    varied = np.array([bool((label != label.flat[0]).any()) for label in synthetic.images.labels])
    folder, count = scanned.samples.folder, len(origin)
    others = int((varied & (test_origin < 0)).sum()) if scanned.options["compare_with"] == "test" else 0
    unknown = int((varied & (origin < 0) & (test_origin < 0)).sum()) if scanned.training is not None else 0
    lines = []
    if others:
        lines.append(
            f"{folder}: {others} of {count} samples were not made from masks of the test images, with which they are "
            "compared; published numbers are of such samples: sample with data_split test"
        )
    if unknown:
        lines.append(
            f"{folder}: of {unknown} of {count} samples nobody knows which mask they were made from; where it is a "
            "test image's, the study is worth nothing, and where it is one that chooses the best state, their arms "
            "look a little too good"
        )
    return lines


def _size_line(samples: SampleFolder, pairs: Sequence[Pair], options: Mapping[str, Any]) -> list[str]:
    width, height = open_mask(pairs[0].mask).size
    wanted = height_width(options["image_size"])
    if height >= wanted[0] and width >= wanted[1]:
        return []
    return [
        f"{samples.folder}: the samples have {width}x{height} pixels and are enlarged to {wanted[1]}x{wanted[0]}, real "
        "images are not: some of their blur comes from that"
    ]


def load_split(pairs: Sequence[Pair], encoding: LabelEncoding, options: Mapping[str, Any], name: str = "") -> Split:
    """Return scanned pairs as arrays, brought to the size of the comparison; a progress bar shows their `name`."""
    transform = JointTransform(height_width(options["image_size"]), resize=options["resize"], train=False)
    images, labels = load_arrays(
        pairs, encoding, transform, options["image_channels"], progress=name and f"reading {name}"
    )
    return Split(tuple(pairs), ImageSet(images, labels, tuple(pair.stem for pair in pairs), encoding.num_classes))


def find_origins(
    samples: SampleFolder, training: Split | None, test: Split, synthetic: Split
) -> tuple[np.ndarray, np.ndarray]:
    """Return of each sample the training pair and the test pair of its mask, -1 where there is none or nobody knows.

    The manifest tells by a digest of the mask file, and of equal files by their name. Where it does not, the label map
    is looked for among those of the training and the test images, flips and turns included. A map that is all one class
    tells nothing.
    """
    splits = {row: split for row, split in enumerate((training, test)) if split is not None}
    by_digest = {row: _indices_by(mask_digests(split.pairs)) if samples.lines else {} for row, split in splits.items()}
    by_map: dict[int, dict[bytes, list[int]]] = {}
    found = np.full((2, len(synthetic.pairs)), -1, np.int64)
    for index, (pair, label) in enumerate(zip(synthetic.pairs, synthetic.images.labels, strict=True)):
        line = samples.line_of(pair)
        digest, source = (line.source_digest, line.source_mask) if line else ("", "")
        name = PurePath(source.replace("\\", "/")).name
        matches = {row: known.get(digest, []) for row, known in by_digest.items()}
        if not any(matches.values()):
            # The views of every mask are only made where a sample needs them.
            by_map = by_map or {row: _indices_by_map(split.images.labels) for row, split in splits.items()}
            matches = {row: known.get(_map_key(label), []) for row, known in by_map.items()}
        for row, numbers in matches.items():
            named = [number for number in numbers if PurePath(splits[row].pairs[number].mask).name == name]
            found[row, index] = next(iter([*named, *numbers]), -1)
    return found[0], found[1]


def _indices_by(keys: Sequence[Any]) -> dict[Any, list[int]]:
    found: dict[Any, list[int]] = {}
    for index, key in enumerate(keys):
        found.setdefault(key, []).append(index)
    return found


def _indices_by_map(labels: np.ndarray) -> dict[bytes, list[int]]:
    """Return the key of a label map, in any flip or turn -> indices; without maps of one class alone."""
    found: dict[bytes, list[int]] = {}
    for index, label in enumerate(labels):
        if (label != label.flat[0]).any():
            for symmetry in range(len(SYMMETRIES)):
                turned = np.ascontiguousarray(apply_symmetry(label[..., None], symmetry)[..., 0])
                if turned.shape == label.shape and index not in found.setdefault(_map_key(turned), []):
                    found[_map_key(turned)].append(index)
    return found


def _map_key(label: np.ndarray) -> bytes:
    """Return what tells a label map from others in a few bytes: thousands of them are compared."""
    return sha256(repr(label.shape).encode() + label.astype(np.int32).tobytes()).digest()
