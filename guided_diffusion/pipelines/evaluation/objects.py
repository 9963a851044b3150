"""The objects of `evaluate`: those of real images and of samples, groups of one layout, samples without objects."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from evaluations.objects import ImageObjects
from guided_diffusion.config.evaluate import EvaluateConfig
from guided_diffusion.data.boxes.layouts import LayoutMaker, LayoutRules
from guided_diffusion.data.boxes.records import BoxedImage, ObjectBox
from guided_diffusion.data.files import open_mask
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.options import BoxOptions
from guided_diffusion.data.pairing import Pair
from guided_diffusion.pipelines.layouts import object_classes
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.samples.manifest import ManifestLine, PredictedObject
from guided_diffusion.samples.reader import SampleFolder, find_samples

ALL = LayoutRules(max_objects=1024, min_object_size=0.0, background=False)
"""All objects, as those of a sample are all that it was made of."""
_COMPARED = (
    "checkpoint", "run_seed", "sampler", "steps", "time_grid", "eta", "weights", "precision", "extrapolation",
    "clip_denoised", "dynamic_threshold", "seed",
)  # fmt: skip
"""Settings that have to be equal for two samples to differ by their objects alone."""


@dataclass(frozen=True)
class ObjectReader:
    """How the objects of pictures are found: annotated ones, those of the layout of a sample, or parts of masks."""

    maker: LayoutMaker
    names: tuple[str, ...]

    @classmethod
    def of(cls, config: EvaluateConfig, encoding: LabelEncoding, *, with_instances: bool) -> ObjectReader:
        """Return that of a (resolved) configuration."""
        mode, options = get_mode(config.source.dataset_mode), config.objects
        most, least = options.max_objects, options.min_object_size
        rules = LayoutRules(
            ALL.max_objects if most is None else most,
            BoxOptions.model_fields["min_object_size"].default if least is None else least,
            background=False,
        )
        maker = LayoutMaker(
            encoding.num_classes,
            object_classes(mode, encoding),
            style_dim=1,
            rules=rules,
            background_class=mode.background,
            with_instances=with_instances,
        )
        return cls(maker, tuple(encoding.names))

    def maker_of(self, samples: SampleFolder | None) -> LayoutMaker:
        """Return what finds the objects of real images, or of samples."""
        return self.maker if samples is None or not samples.predicted else replace(self.maker, rules=ALL)

    def with_layouts(self, pairs: Sequence[Pair], samples: SampleFolder | None) -> tuple[Pair, ...]:
        """Return pairs with the boxes that their samples were made of, where the manifest says them."""
        if samples is None or not samples.predicted:
            return tuple(pairs)
        return tuple(self._boxed(pair, samples) for pair in pairs)

    def _boxed(self, pair: Pair, samples: SampleFolder) -> Pair:
        line = samples.line_of(pair)
        if line is None or line.predicted is None:
            found = f"{pair.image} has no layout in the manifest, but others have"
            raise DataError.of(samples.folder, found, "give samples of one kind, or set objects to false")
        width, height = open_mask(pair.mask, upright=pair.upright).size
        objects = [
            ObjectBox(
                self._class_of(each, samples),
                tuple(share * side for share, side in zip(each.box, (width, height) * 2, strict=True)),
            )
            for each in line.predicted.objects
            if each.box is not None
        ]
        return replace(pair, boxes=BoxedImage(pair.image, tuple(objects), (height, width)))

    def _class_of(self, each: PredictedObject, samples: SampleFolder) -> int:
        if each.name not in self.names:
            found = f"has objects of the class {each.name!r}, which the real dataset has not"
            raise DataError.of(samples.folder, found, "give samples of the real dataset")
        return self.names.index(each.name)


def as_objects(found: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[ImageObjects, ...]:
    """Return the objects of images from classes [K] and boxes [K, 4] each."""
    return tuple(ImageObjects(classes.astype(np.int64), boxes.astype(np.float64)) for classes, boxes in found)


def layout_key(line: ManifestLine) -> str:
    """Return what two samples of one layout have in common: background, classes and boxes, not styles."""
    assert line.predicted is not None
    background = None if line.predicted.background is None else line.predicted.background.name
    return json.dumps([background, [[each.name, each.box] for each in line.predicted.objects]])


def find_null(null_dir: str, samples: SampleFolder) -> tuple[SampleFolder, str]:
    """Return the folder of the samples drawn without their objects, and in words how.

    Raises DataError where these are not the same samples but for their objects.
    """
    null = find_samples(null_dir)
    if null.folder == samples.folder:
        raise DataError.of(null_dir, "is synthetic_dir, which has objects", _REMEDY)
    missing = [image for image in samples.lines if image not in null.lines]
    if not samples.lines or missing:
        found = f"has no sample {missing[0] if missing else 'with a manifest'}"
        raise DataError.of(null_dir, found, _REMEDY)
    kinds = set()
    for image, line in samples.lines.items():
        other = null.lines[image]
        changed = [key for key in _COMPARED if getattr(line, key) != getattr(other, key)]
        if changed:
            found = f"{image} was drawn with another {changed[0]} than in {samples.folder}"
            raise DataError.of(null_dir, found, _REMEDY)
        kinds.add(_null_kind(line, other, null_dir))
    return null, " and ".join(sorted(kinds))


def _null_kind(line: ManifestLine, other: ManifestLine, null_dir: str) -> str:
    """Return in words how `other` was drawn without the objects of `line`; DataError where it was not."""
    if other.s == 0 and other.guidance_interval is None:
        return "without any condition (s 0)"
    if other.predicted is None or other.predicted.objects:
        raise DataError.of(null_dir, f"{other.image} has objects", _REMEDY)
    if (other.s, other.guidance_interval) != (line.s, line.guidance_interval):
        raise DataError.of(null_dir, f"{other.image} was drawn with another s or guidance_interval", _REMEDY)
    if line.predicted is None or other.predicted.background != line.predicted.background:
        raise DataError.of(null_dir, f"{other.image} has another background", _REMEDY)
    return "of the background alone"


_REMEDY = "repeat the command of these samples with only_background true, or with s 0, and another results_path"


def null_pairs(pairs: Sequence[Pair], samples: SampleFolder, null: SampleFolder) -> list[Pair]:
    """Return the pairs of `null` in the order of those of `samples`."""
    found = []
    for pair in pairs:
        image, mask = (null.folder / Path(path).relative_to(samples.folder) for path in (pair.image, pair.mask))
        found.append(replace(pair, image=str(image), mask=str(mask), boxes=None))
    return found
