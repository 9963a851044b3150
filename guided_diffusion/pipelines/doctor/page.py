"""The page of `doctor`: parts of tables and notes, as Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from guided_diffusion.runtime.errors import one_line


@dataclass(frozen=True)
class Part:
    """A part of the page. rows: of a table with the columns `head`. record: the same for doctor.json.

    failed: a line for everything that should work and does not, with what it means.
    """

    title: str
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()
    record: Any = None
    failed: tuple[str, ...] = ()

    def to_markdown(self) -> str:
        """Return the part as Markdown, whose table is readable as plain text, too."""
        blocks = [f"## {self.title}"]
        if self.rows:
            blocks.append(_table(self.head, self.rows))
        if self.notes or self.failed:
            lines = [*self.notes, *(f"**failed**: {line}" for line in self.failed)]
            blocks.append("\n".join(f"- {one_line(line)}" for line in lines))
        return "\n\n".join(blocks)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [[_cell(text) for text in row] for row in (head, *rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(head))]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def _cell(text: str) -> str:
    return one_line(text).replace("|", "\\|")


def page(title: str, parts: Sequence[Part]) -> str:
    """Return the page: its verdict first, then the parts."""
    failed = [line for part in parts for line in part.failed]
    verdict = "Nothing failed." if not failed else f"**{len(failed)} failed**, see below."
    return "\n\n".join([f"# {title}", verdict, *(part.to_markdown() for part in parts)]) + "\n"


def record(parts: Sequence[Part]) -> dict[str, Any]:
    """Return the page for doctor.json: what failed, and the record of each part by its title."""
    return {
        "failed": [line for part in parts for line in part.failed],
        **{part.title: part.record for part in parts},
    }
