"""Infers the LabelEncoding of a dataset from its masks, the mode, classes.json and the options."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from guided_diffusion.data.formats.annotated import is_background
from guided_diffusion.data.masks.advice import advise_colors, describe_colors, describe_values, suggest_fix
from guided_diffusion.data.masks.classes_file import FILE_NAME, ClassesFile
from guided_diffusion.data.masks.encoding import MAX_CLASSES, Color, LabelEncoding, default_names
from guided_diffusion.data.masks.palettes import (
    MaskFacts,
    black_at_an_index,
    contradicted_indices,
    merged_palette,
    palette_conflict,
    two_colors,
    values_of_grays,
    with_white_as_255,
)
from guided_diffusion.data.modes import DatasetMode
from guided_diffusion.data.scan.problems import Problem, ProblemKind

Groups = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class ClassOptions:
    """The user's options: number of classes, and one more mask value to ignore."""

    num_classes: int | None = None
    ignore_label: int | None = None


def present_values(masks: Iterable[MaskFacts]) -> np.ndarray:
    """Return the sorted distinct values of all masks that hold values (not colors)."""
    present = [values for mask in masks if (values := mask.raw.class_values) is not None]
    return np.unique(np.concatenate(present)) if present else np.zeros(0, np.int64)


def infer_encoding(
    mode: DatasetMode, classes: ClassesFile | None, masks: Sequence[MaskFacts], options: ClassOptions
) -> tuple[LabelEncoding | None, list[Problem]]:
    """Return the encoding of a dataset, or None and the fatal problems that leave it undetermined.

    The masks tell the second value of the binary mode, and the form in which masks are written.
    """
    masks = with_white_as_255(masks, [value for group in (classes.values if classes else ()) for value in group])
    colors = classes.colors if classes and any(classes.colors) else ()
    warnings: list[Problem] = []
    if not colors:
        values_given = classes is not None and any(classes.values)
        conflict = palette_conflict(masks, () if values_given else values_of_grays(masks))
        inverted = black_at_an_index(masks)
        if mode.binary and not values_given and (conflict or inverted):
            colors = two_colors(masks)
            warnings += [inverted] if colors and inverted and not conflict else []
        if conflict and not colors:
            return None, [conflict]
    if not colors and (colored := [mask for mask in masks if mask.raw.class_values is None]):
        return None, [_colors_without_map(colored, len(masks))]
    colors_only = bool(colors) and not (classes and any(classes.values))
    problems: list[Problem] = []
    ignore = [*mode.ignore, *(classes.ignore_values if classes else ())]
    if (label := options.ignore_label) is not None and not 0 <= label <= 65535:
        remedy = "set it to the mask value of ignored pixels (0..65535), or remove it"
        problems.append(Problem("ignore_label", f"{label} found", remedy, ProblemKind.IGNORE_LABEL))
    elif label is not None and colors_only:
        remedy = f'add "ignore": {{"color": [r, g, b]}} to {FILE_NAME} instead'
        found = f"{label} is a value, but the classes are colors"
        problems.append(Problem("ignore_label", found, remedy, ProblemKind.IGNORE_LABEL))
    elif label is not None:
        ignore.append(label)
    ignore_values = tuple(dict.fromkeys(ignore))
    count = _class_count(mode, classes, options.num_classes, masks, problems)
    values: Groups = ()
    if count is not None and not problems and not colors_only:
        values = _class_values(mode, classes, masks, count, ignore_values, problems)
    if count is None or problems:
        return None, problems
    encoding = LabelEncoding(
        count,
        _names(mode, classes, count),
        values,
        colors,
        ignore_values,
        classes.ignore_colors if classes else (),
        kind="grey16" if _largest(values) > 255 else "rgb" if colors_only else "grey8",
        binary=mode.binary,
    )
    encoding = _in_form_of(masks, encoding)
    warnings += _other_background(classes, encoding, mode.background)
    return encoding, [*warnings, *contradicted_indices(masks, encoding)]


def stated_names(
    mode: DatasetMode, classes: ClassesFile | None, asked: int | None
) -> tuple[tuple[str, ...] | None, list[Problem]]:
    """Return the names of the classes, or None and the problems that `infer_encoding` has with any masks.

    asked: the option num_classes.
    """
    problems: list[Problem] = []
    count = _class_count(mode, classes, asked, (), problems)
    return None if count is None or problems else _names(mode, classes, count), problems


def _names(mode: DatasetMode, classes: ClassesFile | None, count: int) -> tuple[str, ...]:
    return classes.names if classes else mode.names or default_names(count)


def _other_background(classes: ClassesFile | None, encoding: LabelEncoding, background: int) -> list[Problem]:
    """Return a warning where another class than the background is named so, as it would be learned as a defect."""
    names = encoding.names
    named = next((index for index, name in enumerate(names) if is_background(name)), background)
    if classes is None or is_background(names[background]) or named == background:
        return []
    found = f"class {named} is called {names[named]!r}, but class {background}, {names[background]!r}, is taken for it"
    remedy = 'exchange their numbers, and give each its mask value by "value", which need not be its number'
    return [Problem(classes.path, found, remedy, ProblemKind.CLASSES_FILE, fatal=False)]


def _colors_without_map(colored: Sequence[MaskFacts], total: int) -> Problem:
    """Return the problem of colored masks without a color map; the remedy is the map to write."""
    pixels: Counter[int] = Counter()
    for mask in colored:
        pixels.update(dict(zip(mask.raw.values.tolist(), mask.counts.tolist(), strict=True)))
    colors = [color for color, _ in pixels.most_common()]
    found = f"RGB mask without a color map ({len(colored)} of {total} masks); the colors are {describe_colors(colors)}"
    return Problem(colored[0].path, found, advise_colors(colors, mapped=False), ProblemKind.UNMAPPED_COLORS)


def _class_count(
    mode: DatasetMode,
    classes: ClassesFile | None,
    asked: int | None,
    masks: Sequence[MaskFacts],
    problems: list[Problem],
) -> int | None:
    """Return the number of classes; adds a problem if mode, classes.json and option do not agree on one."""
    listed = len(classes.names) if classes else None
    if classes and mode.num_classes not in (None, listed):
        remedy = "list these, or use dataset_mode multi-class" if mode.binary else "list these"
        found = f"{listed} classes, but dataset_mode {mode.name} has {mode.num_classes}"
        problems.append(Problem(classes.path, found, remedy, ProblemKind.CLASSES_FILE))
    count = mode.num_classes or listed or asked
    if count is None:
        found, remedy = f"not set, and there is no {FILE_NAME}", "set it"
        if (present := present_values(masks)).size:
            # Those past a gap, if there are any: a slip in one mask is no class.
            odd = [value for index, value in enumerate(present.tolist()) if value != index] or [int(present[-1])]
            value, holders = _rarest(masks, odd[::-1])
            found += f"; the masks have values {describe_values(present)} ({value} in {len(holders)} of {len(masks)} "
            found += f"masks, first in {holders[0]})"
            remedy = suggest_fix(present, None, binary=False)
        problems.append(Problem("num_classes", found, remedy, ProblemKind.NUM_CLASSES))
    elif asked not in (None, count):
        source = f"dataset_mode {mode.name} has" if mode.num_classes else f"{FILE_NAME} lists"
        remedy = "remove num_classes" if mode.num_classes else "correct one of the two"
        remedy = f"use dataset_mode multi-class, or {remedy}" if mode.binary else remedy
        problems.append(Problem("num_classes", f"{asked} found, but {source} {count}", remedy, ProblemKind.NUM_CLASSES))
    if count is not None and not 0 < count <= MAX_CLASSES:
        remedy = f"use 1 to {MAX_CLASSES} classes"
        problems.append(Problem("num_classes", f"{count} found", remedy, ProblemKind.NUM_CLASSES))
    return count


def _class_values(
    mode: DatasetMode,
    classes: ClassesFile | None,
    masks: Sequence[MaskFacts],
    count: int,
    ignore: tuple[int, ...],
    problems: list[Problem],
) -> Groups:
    """Return the values of each class: of classes.json, else of the mode, else its index."""
    given = classes.values if classes else ((),) * count
    if mode.binary and not given[1]:
        default: Groups = ((0,), (_binary_value(masks, given[0] or (0,), ignore, problems),))
    else:
        default = mode.values or tuple((index,) for index in range(count))
    values = tuple(own or standard for own, standard in zip(given, default, strict=True))
    owner: dict[int, str] = {}
    for group, name in zip((*values, ignore), (*(f"class {index}" for index in range(count)), "ignore"), strict=True):
        for value in group:
            if value in owner:
                where = classes.path if classes else "ignore_label"
                found = f"mask value {value} stands for {owner[value]} and for {name}"
                remedy = f"give {owner[value]} another value in {FILE_NAME}"
                problems.append(Problem(where, found, remedy, ProblemKind.CLASSES_FILE))
            owner[value] = name
    return values


def _binary_value(
    masks: Sequence[MaskFacts], background: Sequence[int], ignore: Sequence[int], problems: list[Problem]
) -> int:
    """Return the one value that binary masks hold beside background and ignored ones; 255 if they hold none."""
    present, taken = present_values(masks).tolist(), {*background, *ignore}
    others = [value for value in present if value not in taken]
    if not others and (hidden := [value for value in present if value in ignore]):
        found = f"{hidden[0]} is ignored, but binary masks have no other value beside the background: nothing is left"
        remedy = f"to learn; leave it out, here or under 'ignore' in {FILE_NAME}"
        problems.append(Problem("ignore_label", found, remedy, ProblemKind.IGNORE_LABEL))
    if not others:
        return 255 if 255 not in taken else 1
    if len(others) > 1:
        rarest, holders = _rarest(masks, others)
        remaining = [value for value in present if value == 0 or value in others]
        found = f"binary masks have the values {describe_values(remaining)}"
        found += f" ({rarest} in {len(holders)} of {len(masks)} masks)"
        remedy = suggest_fix(remaining, 2, binary=True)
        problems.append(Problem(holders[0], found, remedy, ProblemKind.BINARY_VALUES))
    return others[0]


def _rarest(masks: Sequence[MaskFacts], values: Sequence[int]) -> tuple[int, list[str]]:
    """Return the one of `values` that the fewest masks have, the first of several, and the paths of these masks."""
    shown = [(mask.path, set(present_values([mask]).tolist())) for mask in masks]
    counts = Counter(value for _, present in shown for value in present)
    rarest = min(values, key=lambda value: counts[value])
    return rarest, [path for path, present in shown if rarest in present]


def _largest(values: Groups) -> int:
    return max((group[0] for group in values), default=0)


def _in_form_of(masks: Sequence[MaskFacts], encoding: LabelEncoding) -> LabelEncoding:
    """Return the encoding written in the commonest form of the masks, unchanged if that cannot hold its classes."""
    kinds = Counter(mask.raw.kind for mask in masks)
    kind = kinds.most_common(1)[0][0] if kinds else "grey8"
    if kind == "rgb" and encoding.colors:
        return replace(encoding, kind="rgb") if all(encoding.colors) else encoding
    largest = _largest((*encoding.values, encoding.ignore_values[:1] or (0,)))
    if not encoding.values or (kind != "grey16" and largest > 255):
        return encoding
    if kind == "rgb":
        # RGB files whose channels agree: gray values that are written as they were read.
        colors = tuple(_grays(group) for group in encoding.values)
        return replace(encoding, kind="rgb", colors=colors, ignore_colors=_grays(encoding.ignore_values))
    written = replace(encoding, kind=kind, palette=merged_palette(masks) if kind == "palette" else None)
    # The palette is kept for reading; where it has another class's color at an index, masks are written as gray.
    return written if kind != "palette" or written.reads_back else replace(written, kind="grey8")


def _grays(values: Iterable[int]) -> tuple[Color, ...]:
    return tuple((value, value, value) for value in values if value <= 255)
