"""What is wrong with a dataset, as data: found, collected and only then reported."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from guided_diffusion.runtime.errors import DataError

SUMMARIZED_ABOVE = 20
SHOWN_OF_MANY = 5


@dataclass(frozen=True)
class Problem:
    """One finding: the file, folder or key, what was found there and what to do; `kind` groups alike findings."""

    path: str
    found: str
    remedy: str
    kind: str
    fatal: bool = True

    @classmethod
    def of(cls, error: DataError, kind: str) -> Problem:
        """Return an error about a file as a finding; its message reads `path: what was found; remedy`."""
        said, _, remedy = error.messages[0].rpartition("; ")
        path, _, found = said.partition(": ")
        return cls(path, found, remedy, kind)

    @property
    def line(self) -> str:
        """The finding as one line of text."""
        return f"{self.path}: {self.found}; {self.remedy}"


def problem_lines(problems: Iterable[Problem]) -> list[str]:
    """Return a line for each problem; of more than 20 of a kind the first five lines and a count."""
    by_kind: dict[str, list[Problem]] = {}
    for problem in problems:
        by_kind.setdefault(problem.kind, []).append(problem)
    lines = []
    for kind, alike in by_kind.items():
        shown = alike if len(alike) <= SUMMARIZED_ABOVE else alike[:SHOWN_OF_MANY]
        lines += [problem.line for problem in shown]
        if len(shown) < len(alike):
            lines.append(f"{kind}: {len(alike) - len(shown)} more findings like the {len(shown)} above")
    return lines
