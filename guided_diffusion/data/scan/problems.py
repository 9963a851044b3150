"""What is wrong with a dataset: findings that are collected and reported together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from guided_diffusion.runtime.errors import DataError

SUMMARIZED_ABOVE = 20
SHOWN_OF_MANY = 5


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


@dataclass(frozen=True)
class Problem:
    """One finding: a file, folder or key, what was found there, what to do; not `fatal` ones are warnings."""

    path: str
    found: str
    remedy: str
    kind: Enum  # a ProblemKind, in the library
    fatal: bool = True

    @classmethod
    def of(cls, error: DataError, kind: Enum) -> Problem:
        """Return an error made by `DataError.of` as a finding."""
        assert error.path, "an error without fields"
        return cls(error.path, error.found, error.remedy, kind)

    @property
    def line(self) -> str:
        return f"{self.path}: {self.found}; {self.remedy}"


def problem_lines(problems: Iterable[Problem]) -> list[str]:
    """Return a line for each problem; of a kind with more than 20 problems, the first five and a count."""
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
