"""From what the masks hold, the mode, classes.json and the options: the one LabelEncoding of the dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from guided_diffusion.data.masks.advice import advise_colors, describe_colors, describe_values, suggest_fix
from guided_diffusion.data.masks.classes_file import FILE_NAME, ClassesFile
from guided_diffusion.data.masks.encoding import MAX_CLASSES, Color, LabelEncoding, MaskFormat, RawMask
from guided_diffusion.data.modes import DatasetMode
from guided_diffusion.data.scan.problems import Problem, ProblemKind

Groups = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class MaskFacts:
    """What the scan keeps of one mask: its distinct codes (`raw.values`, sorted, [K]) and their pixel counts [K]."""

    path: str
    raw: RawMask
    counts: np.ndarray


@dataclass(frozen=True)
class ClassOptions:
    """What the user says of the labels: number of classes, and one more mask value that stands for no class."""

    num_classes: int | None = None
    ignore_label: int | None = None


def present_values(masks: Iterable[MaskFacts]) -> np.ndarray:
    """Return the sorted distinct values of all masks that hold values (not colors)."""
    found = [values for mask in masks if (values := mask.raw.class_values) is not None]
    return np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)


def infer_encoding(
    mode: DatasetMode, classes: ClassesFile | None, masks: Sequence[MaskFacts], options: ClassOptions
) -> tuple[LabelEncoding | None, list[Problem]]:
    """Return the encoding of a dataset, or None and the fatal problems that leave it undetermined.

    `masks` tells the binary mode its second value, and every mode the form in which masks are written.
    """
    colors_only = classes is not None and any(classes.colors) and not any(classes.values)
    if (problem := _colors_without_map(classes, masks)) is not None:
        return None, [problem]
    ignore, problems = _ignore_values(mode, classes, options, colors_only=colors_only)
    count, found = _class_count(mode, classes, options, present_values(masks))
    problems += found
    if count is None or problems:
        return None, problems
    values: Groups = ()
    if not colors_only:
        values, problems = _class_values(mode, classes, masks, count, ignore)
        if problems:
            return None, problems
    names = classes.names if classes else mode.names or _default_names(count)
    kind, palette = _written_form(masks, values)
    plain = LabelEncoding(
        count,
        names,
        values,
        classes.colors if classes and any(classes.colors) else (),
        ignore,
        classes.ignore_colors if classes else (),
        kind="grey16" if _largest(values) > 255 else "rgb" if colors_only else "grey8",
        binary=mode.binary,
    )
    return _with_form(plain, kind, palette), []


def _default_names(count: int) -> tuple[str, ...]:
    return tuple(f"class {index}" for index in range(count))


def _colors_without_map(classes: ClassesFile | None, masks: Sequence[MaskFacts]) -> Problem | None:
    """Return the one problem of a dataset with colored masks and no color map, with the map to write."""
    if classes is not None and any(classes.colors):
        return None
    colored = [mask for mask in masks if mask.raw.class_values is None]
    if not colored:
        return None
    pixels: Counter[int] = Counter()
    for mask in colored:
        pixels.update(dict(zip(mask.raw.values.tolist(), mask.counts.tolist(), strict=True)))
    colors = [color for color, _ in pixels.most_common()]
    found = (
        f"RGB mask without a color map ({len(colored)} of {len(masks)} masks); the colors are {describe_colors(colors)}"
    )
    return Problem(colored[0].path, found, advise_colors(colors, mapped=False), ProblemKind.UNMAPPED_COLORS)


def _ignore_values(
    mode: DatasetMode, classes: ClassesFile | None, options: ClassOptions, *, colors_only: bool
) -> tuple[tuple[int, ...], list[Problem]]:
    """Return the values that stand for no class, from the mode, classes.json and the option."""
    values = [*mode.ignore, *(classes.ignore_values if classes else ())]
    label = options.ignore_label
    if label is None:
        return tuple(dict.fromkeys(values)), []
    if not 0 <= label <= 65535:
        remedy = "set it to the mask value that marks ignored pixels (0..65535), or remove it"
        return (), [Problem("ignore_label", f"{label} found", remedy, ProblemKind.IGNORE_LABEL)]
    if colors_only:
        remedy = f'add "ignore": {{"color": [r, g, b]}} to {FILE_NAME} instead'
        return (), [
            Problem("ignore_label", f"{label} is a value, but the classes are colors", remedy, ProblemKind.IGNORE_LABEL)
        ]
    return tuple(dict.fromkeys([*values, label])), []


def _class_count(
    mode: DatasetMode, classes: ClassesFile | None, options: ClassOptions, present: np.ndarray
) -> tuple[int | None, list[Problem]]:
    """Return the number of classes on which mode, classes.json and option agree."""
    asked, listed = options.num_classes, len(classes.names) if classes else None
    problems = []
    if mode.num_classes is not None and listed not in (None, mode.num_classes):
        assert classes is not None
        remedy = "list these, or use dataset_mode multi-class" if mode.binary else "list these"
        found = f"{listed} classes, but dataset_mode {mode.name} has {mode.num_classes}"
        problems.append(Problem(classes.path, found, remedy, ProblemKind.CLASSES_FILE))
    count = mode.num_classes or listed or asked
    if asked is not None and asked != count:
        source = f"dataset_mode {mode.name} has" if mode.num_classes else f"{FILE_NAME} lists"
        remedy = "remove num_classes" if mode.num_classes else "correct one of the two"
        remedy = f"use dataset_mode multi-class, or {remedy}" if mode.binary else remedy
        problems.append(Problem("num_classes", f"{asked} found, but {source} {count}", remedy, ProblemKind.NUM_CLASSES))
    if count is None:
        found = f"not set, and there is no {FILE_NAME}"
        if present.size:
            found += f"; the masks have values {describe_values(present)}"
        remedy = suggest_fix(present, None, binary=False) if present.size else "set it"
        problems.append(Problem("num_classes", found, remedy, ProblemKind.NUM_CLASSES))
    elif not 0 < count <= MAX_CLASSES:
        problems.append(
            Problem("num_classes", f"{count} found", f"use 1 to {MAX_CLASSES} classes", ProblemKind.NUM_CLASSES)
        )
    return count, problems


def _class_values(
    mode: DatasetMode, classes: ClassesFile | None, masks: Sequence[MaskFacts], count: int, ignore: tuple[int, ...]
) -> tuple[Groups, list[Problem]]:
    """Return the values of each class: by classes.json, else the mode, else what the masks show or its index."""
    given = classes.values if classes else ((),) * count
    if mode.binary and not given[1]:
        other, problem = _binary_value(masks, {*(given[0] or (0,)), *ignore})
        if problem is not None:
            return (), [problem]
        default: Groups = ((0,), (other,))
    else:
        default = mode.values or tuple((index,) for index in range(count))
    values = tuple(own or standard for own, standard in zip(given, default, strict=True))
    owner: dict[int, str] = {}
    problems = []
    for group, name in zip((*values, ignore), (*(f"class {index}" for index in range(count)), "ignore"), strict=True):
        for value in group:
            if value in owner:
                where = classes.path if classes else "ignore_label"
                found = f"mask value {value} stands for {owner[value]} and for {name}"
                problems.append(
                    Problem(where, found, f"give {owner[value]} another value in {FILE_NAME}", ProblemKind.CLASSES_FILE)
                )
            owner[value] = name
    return values, problems


def _binary_value(masks: Sequence[MaskFacts], taken: set[int]) -> tuple[int, Problem | None]:
    """Return the one value that binary masks hold beside `taken` (the background, 0 as a rule, and ignored values).

    Masks of background alone show none; the usual one is taken then.
    """
    present = present_values(masks)
    others = [int(value) for value in present if int(value) not in taken]
    if len(others) <= 1:
        return (others or [255 if 255 not in taken else 1])[0], None
    counts = Counter(value for mask in masks for value in set(_values_list(mask)) & set(others))
    rarest = min(others, key=lambda value: counts[value])
    example = next(mask.path for mask in masks if rarest in _values_list(mask))
    remaining = [int(value) for value in present if value == 0 or int(value) in others]
    found = f"binary masks have the values {describe_values(remaining)} ({rarest} in {counts[rarest]} masks)"
    return 0, Problem(example, found, suggest_fix(remaining, 2, binary=True), ProblemKind.BINARY_VALUES)


def _values_list(mask: MaskFacts) -> list[int]:
    values = mask.raw.class_values
    return [] if values is None else values.tolist()


def _largest(values: Groups) -> int:
    return max((group[0] for group in values), default=0)


def _written_form(masks: Sequence[MaskFacts], values: Groups) -> tuple[MaskFormat, bytes | None]:
    """Return the commonest form of the masks, and the palette of the first that has one if that is the form."""
    kinds = Counter(mask.raw.kind for mask in masks)
    kind: MaskFormat = kinds.most_common(1)[0][0] if kinds else "grey8"
    palette = next((mask.raw.palette for mask in masks if mask.raw.kind == "palette"), None)
    return kind, palette if kind == "palette" else None


def _with_form(encoding: LabelEncoding, kind: MaskFormat, palette: bytes | None) -> LabelEncoding:
    """Return the encoding written in the form `kind`, or unchanged where that form cannot hold its classes."""
    if kind == "rgb" and encoding.colors:
        return replace(encoding, kind="rgb") if all(encoding.colors) else encoding
    if not encoding.values or (
        kind != "grey16" and _largest((*encoding.values, encoding.ignore_values[:1] or (0,))) > 255
    ):
        return encoding
    if kind == "rgb":
        # RGB files whose channels agree: gray values that are written as they were read.
        colors = tuple(_grays(group) for group in encoding.values)
        return replace(encoding, kind="rgb", colors=colors, ignore_colors=_grays(encoding.ignore_values))
    return replace(encoding, kind=kind, palette=palette)


def _grays(values: Iterable[int]) -> tuple[Color, ...]:
    return tuple((value, value, value) for value in values if value <= 255)
