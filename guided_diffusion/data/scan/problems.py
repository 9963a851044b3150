"""What is wrong with a dataset: findings that are collected and reported together."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from guided_diffusion.runtime.errors import DataError, one_line

SUMMARIZED_ABOVE = 20
SHOWN_OF_MANY = 5
ALIKE_SHOWN = 3
_PARTICULAR = re.compile(r"\S*[/\\]\S*|\S*\.(?:png|jpe?g)\b|\d+")  # paths, file names and numbers


class ProblemKind(Enum):
    """What a finding is about; the value is printed before the number of findings that are not shown."""

    FOLDER = "folder"
    DUPLICATE = "duplicate"
    OTHER_FORMATS = "other formats"
    IMAGE_WITHOUT_MASK = "image without mask"
    MASK_WITHOUT_IMAGE = "mask without image"
    MASK_WITHOUT_INSTANCES = "mask without instance map"
    UNREADABLE = "unreadable files"
    SIZES = "sizes that differ"
    PALETTES = "palettes that differ"
    ORIENTATION = "EXIF orientations"
    PAGES = "files of several pages"
    CLASSES_FILE = "classes.json"
    NUM_CLASSES = "num_classes"
    IGNORE_LABEL = "ignore_label"
    BINARY_VALUES = "values"
    UNMAPPED_COLORS = "colors without a map"
    UNKNOWN_VALUES = "mask values outside the classes"
    SHORT_BATCH = "short batch"
    IMAGE_COLORS = "colors"
    IMAGE_DEPTH = "depth"
    EMPTY_CLASS = "empty classes"
    BACKGROUND = "background"
    REPEATED_IMAGE = "images that are there twice"
    TWO_MASKS = "images with two masks"
    LOOK_ALIKE = "images that look alike"
    TEST_IN_TRAIN = "test images in train"
    LOOK_ALIKE_IN_TRAIN = "test images that look like images in train"
    GROUP_IN_TRAIN = "test images of groups in train"
    LOST_BY_SCALING = "classes lost by scaling"
    LOST_BY_CROPPING = "classes lost by cropping"
    TRANSPARENCY = "transparent images"
    BLANK_IMAGES = "blank images"
    MIXED_SCALES = "images of another scale"
    ANNOTATION_FILE = "annotation files"
    ANNOTATION = "annotations"
    BOX = "boxes"
    LOST_BOXES = "boxes that the model does not see"


UNSEEN = frozenset(
    (
        ProblemKind.LOST_BY_SCALING,
        ProblemKind.LOST_BY_CROPPING,
        ProblemKind.TRANSPARENCY,
        ProblemKind.BLANK_IMAGES,
        ProblemKind.IMAGE_DEPTH,
        ProblemKind.MIXED_SCALES,
    )
)
"""Kinds of warnings about what is in the files and not in what the model sees."""


@dataclass(frozen=True)
class Problem:
    """One finding: a file, folder or key, what was found there, what to do; not `fatal` ones are warnings."""

    path: str
    found: str
    remedy: str
    kind: Enum  # a ProblemKind, in the library
    fatal: bool = True
    like: str = ""  # the file that the one at `path` repeats, if that is the finding

    @classmethod
    def of(cls, error: DataError, kind: Enum) -> Problem:
        """Return an error made by `DataError.of` as a finding."""
        assert error.path, "an error without fields"
        return cls(error.path, error.found, error.remedy, kind)

    @property
    def line(self) -> str:
        """The finding as one line of text."""
        return one_line(f"{self.path}: {self.found}; {self.remedy}")

    @property
    def cause(self) -> tuple[Enum, str, str]:
        """What findings of one cause have in common: kind, folder, and the text without its names and numbers."""
        folder = os.path.dirname(self.path)
        return self.kind, folder, _PARTICULAR.sub("#", f"{self.found}; {self.remedy}")


def problem_lines(problems: Iterable[Problem]) -> list[str]:
    """Return a line for each cause: of more than 3 alike findings in a folder the first one, and the others' names.

    Of repeated files so from 2 on. Of more than 20 lines of a kind the first five and a count.
    """
    by_cause: dict[object, list[Problem]] = {}
    for problem in problems:
        by_cause.setdefault(problem.cause, []).append(problem)
    merged: list[Problem] = []
    for alike in by_cause.values():
        # Other findings have sizes or values of their own, which a few lines keep.
        separate = 1 if all(problem.like for problem in alike) else ALIKE_SHOWN
        merged += alike if len(alike) <= separate else [_merged(alike)]
    return _counted(merged)


def _merged(alike: Sequence[Problem]) -> Problem:
    """Return the first of several findings of one cause, which names the next ones and says how many there are."""
    first = alike[0]
    names = [
        " like ".join(os.path.basename(path) for path in (problem.path, problem.like) if path)
        for problem in alike[1 : 1 + ALIKE_SHOWN]
    ]
    more = ", ..." if len(names) < len(alike) - 1 else ""
    return replace(first, remedy=f"{first.remedy} (and {len(alike) - 1} more like it: {', '.join(names)}{more})")


def _counted(problems: Iterable[Problem]) -> list[str]:
    by_kind: dict[Enum, list[Problem]] = {}
    for problem in problems:
        by_kind.setdefault(problem.kind, []).append(problem)
    lines = []
    for kind, alike in by_kind.items():
        shown = alike if len(alike) <= SUMMARIZED_ABOVE else alike[:SHOWN_OF_MANY]
        lines += [problem.line for problem in shown]
        if len(shown) < len(alike):
            lines.append(f"{kind.value}: {len(alike) - len(shown)} more findings like the {len(shown)} above")
    return lines


def refuse_fatal(problems: Iterable[Problem]) -> None:
    """Raise DataError with the lines of the fatal problems, if there are any; with its fields where it is one."""
    fatal = [problem for problem in problems if problem.fatal]
    if len(fatal) == 1:
        raise DataError.of(fatal[0].path, fatal[0].found, fatal[0].remedy)
    if fatal:
        raise DataError(problem_lines(fatal))
