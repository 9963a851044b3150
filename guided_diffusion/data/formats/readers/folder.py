"""One folder with images and masks side by side: `a.png` and `a_mask.png`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from guided_diffusion.data.files import open_mask
from guided_diffusion.data.formats.annotated import (
    BACKGROUND,
    IGNORED_ID,
    Annotated,
    Loss,
    LossKind,
    Picture,
    class_names,
    is_background,
    names_by_value,
)
from guided_diffusion.data.formats.source_files import SourceFiles, first_names, folder_of, split_of
from guided_diffusion.data.masks.advice import describe_colors, describe_values
from guided_diffusion.data.masks.classes_file import FILE_NAME, read_classes
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.masks.inference import ClassOptions, infer_encoding
from guided_diffusion.data.masks.palettes import MaskFacts, palette_conflict, values_of_grays
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.scan.problems import problem_lines
from guided_diffusion.data.scan.threads import in_threads
from guided_diffusion.runtime.errors import DataError

FORM = "images and masks in one folder"
SUFFIXES = ("_mask", "_masks", "_label", "_labels", "_gt", "_seg")


def pairs_of(names: Sequence[str]) -> dict[str, str]:
    """Return mask by image, of the names that differ in a suffix and the extension alone.

    DataError for an image of two masks, and for a mask that may be of two images. Case counts between these.
    """
    by_stem: dict[str, list[str]] = {}
    for name in names:
        by_stem.setdefault(_stem(name).lower(), []).append(name)
    pairs: dict[str, str] = {}
    for name in names:
        stem = _stem(name)
        for suffix in SUFFIXES:
            images = by_stem.get(stem[: -len(suffix)].lower(), []) if stem.lower().endswith(suffix) else []
            images = [image for image in images if _stem(image) == stem[: -len(suffix)]] or images
            if len(images) > 1:
                raise DataError.of(name, f"may be the mask of {' or of '.join(images)}", "take the others away")
            image = images[0] if images else None
            if image is not None and image in pairs:
                raise DataError.of(image, f"has two masks, {pairs[image]} and {name}", "take one of them away")
            if image is not None:
                pairs[image] = name
    return pairs


def read_folder(files: SourceFiles, classes: Sequence[str] = ()) -> Annotated:
    """Return the pictures that have a mask of their name beside them.

    What mask values mean is said by classes.json, or by `classes` in the order of the values, background first; of
    two values, 0 is the background.
    """
    names = sorted(files.pictures)
    pairs = pairs_of(names)
    if not pairs:
        found = f"has no image with a mask of its name and {', '.join(SUFFIXES[:4])} ..."
        raise DataError.of(files.image_root, found, "name the masks a_mask.png where the image is a.png")
    masks = set(pairs.values())
    orphans = [n for n in names if n not in masks and _has_suffix(n)]
    if orphans:
        found = f"{first_names(orphans)}: a mask without an image of its name"
        raise DataError.of(files.image_root, found, "add the image, or take the mask away")
    facts = in_threads(lambda name: MaskFacts.of_file(files.pictures[name]), sorted(masks), "reading masks", True)
    encoding = _encoding(files, facts, classes)
    pictures = [
        Picture(
            image,
            files.pictures[image],
            labels=partial(_labels, files.pictures[mask], encoding),
            split=split_of(folder_of(image)),
            file=files.pictures[mask],
        )
        for image, mask in pairs.items()
    ]
    losses = [Loss(LossKind.UNLISTED, files.pictures[n], n) for n in names if n not in pairs and n not in masks]
    return Annotated(FORM, encoding.names, tuple(pictures), tuple(losses), complete=True)


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _has_suffix(name: str) -> bool:
    return _stem(name).lower().endswith(SUFFIXES)


def _encoding(files: SourceFiles, facts: Sequence[MaskFacts], classes: Sequence[str]) -> LabelEncoding:
    """Return what the mask values mean; DataError where that would be a guess."""
    described, problems = read_classes(files.root)
    if problems:
        raise DataError(problem_lines(problems))
    if described is not None:
        return _inferred("multi-class", facts, described)
    by_value = all(each.raw.class_values is not None for each in facts)
    if not by_value:
        codes = sorted({code for each in facts if each.raw.colors is not None for code in each.raw.colors.tolist()})
        remedy = f'add {FILE_NAME} with lines such as "1": {{"name": "scratch", "color": [255, 0, 0]}}'
        raise DataError.of(files.root, f"masks have the colors {describe_colors(codes)}", remedy)
    values = sorted({value for each in facts for value in each.raw.class_values.tolist()})
    if len(values) <= 2 and 0 in values:
        encoding = _inferred("binary", facts, None)
        names = class_names(classes, ()) if classes else encoding.names
        if len(names) != 2:
            found = f"has {len(names) - 1} classes beside the background, but masks hold {describe_values(values)}"
            raise DataError.of("classes", found, "name the one class that they have")
        if not is_background(names_by_value(classes)[0] if classes else BACKGROUND):
            found = f"has the background last, but of {describe_values(values)} it is 0"
            raise DataError.of("classes", found, f"name it first, or say in {FILE_NAME} what the values mean")
        return replace(encoding, names=names)
    if conflict := palette_conflict(facts, values_of_grays(facts)):
        raise DataError([conflict.line])
    names = names_by_value(classes)
    if len(names) != len(values):
        known = f"; now there are {len(names)}" if names else ""
        remedy = f"set classes to a name for each, in this order, with {BACKGROUND!r} for the background{known}"
        raise DataError.of(files.root, f"masks hold the values {describe_values(values)}", remedy)
    return LabelEncoding(len(names), names, tuple((value,) for value in values), kind="grey16")


def _inferred(mode: str, facts: Sequence[MaskFacts], described: object) -> LabelEncoding:
    encoding, problems = infer_encoding(get_mode(mode), described, facts, ClassOptions())
    fatal = [problem for problem in problems if problem.fatal]
    if fatal or encoding is None:
        raise DataError(problem_lines(fatal))
    return encoding


def _labels(path: str, encoding: LabelEncoding) -> NDArray[np.int32]:
    label = encoding.decode(open_mask(Path(path)), path).astype(np.int32)
    return np.where(label == encoding.num_classes, IGNORED_ID, label)
