"""What is wrong with a dataset, as data: found, collected and only then reported."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from guided_diffusion.runtime.errors import DataError

SUMMARIZED_ABOVE = 20
SHOWN_OF_MANY = 5


class ProblemKind(Enum):
    """What a finding is about; the value stands before the number of those that are not shown."""

    FOLDER = "folder"
    DUPLICATE = "duplicate"
    OTHER_FORMATS = "other formats"
    IMAGE_WITHOUT_MASK = "image without mask"
    MASK_WITHOUT_IMAGE = "mask without image"
    MASK_WITHOUT_INSTANCES = "mask without instance map"
    UNREADABLE = "unreadable files"
    SIZES = "sizes that differ"
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


@dataclass(frozen=True)
class Problem:
    """One finding: the file, folder or key, what was found there and what to do; `kind` groups alike findings."""

    path: str
    found: str
    remedy: str
    kind: Enum  # a ProblemKind, in the library
    fatal: bool = True

    @classmethod
    def of(cls, error: DataError, kind: Enum) -> Problem:
        """Return an error that has fields (`DataError.of`) as a finding."""
        assert error.path, "an error without fields"
        return cls(error.path, error.found, error.remedy, kind)

    @property
    def line(self) -> str:
        """The finding as one line of text."""
        return f"{self.path}: {self.found}; {self.remedy}"


def problem_lines(problems: Iterable[Problem]) -> list[str]:
    """Return a line for each problem; of more than 20 of a kind the first five lines and a count."""
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
