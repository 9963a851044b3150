"""The report of an evaluation: one HTML page that holds its own pictures and loads nothing.

The page has no script. File names, class names and configurations are untrusted text: they are escaped, and the page's
content security policy forbids scripts and loading besides.
"""

from __future__ import annotations

import base64
import math
import re
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from importlib import resources
from typing import ClassVar, Literal, get_args

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from evaluations.sets import Images, Labels

VerdictKind = Literal["helps", "hurts", "mixed", "cannot tell", "not measured"]
Cell = str | int | float | None

_PNG_START = b"\x89PNG\r\n\x1a\n"
_NOTHING = ("", "-", "–", "—", "n/a", "nan")
_NUMBER = re.compile(r"[-+−±<>≤≥≈~]?\s?\d[\d., ]*\s?(%|‰|points?|px|s|min|h)?(\s?(±|\(|\[|to |/|of |…).*)?")
# What XML forbids, and lone surrogates, which names of files can have and UTF-8 cannot.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True)
class Verdict:
    """The answer: its kind gives color and sign, `headline` is the one sentence, `lines` one for each architecture."""

    kind: VerdictKind
    headline: str
    lines: Sequence[str] = ()

    def __post_init__(self) -> None:
        assert self.kind in get_args(VerdictKind)


@dataclass(frozen=True)
class Table:
    """Rows under a header; a column of numbers is set to the right. None and NaN show as a dash."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.header) for row in self.rows)

    @cached_property
    def cells(self) -> list[list[str]]:
        """The cells as text."""
        return [[_cell_text(cell) for cell in row] for row in self.rows]

    @cached_property
    def numeric(self) -> list[bool]:
        """For each column: whether it holds numbers only."""
        columns = [[cell.strip() for cell in column] for column in zip(*self.cells, strict=True)]
        return [_are_numbers(column) for column in columns] or [False] * len(self.header)


@dataclass(frozen=True)
class Figure:
    """A picture: an <svg> element, whose colors are the page's CSS variables, or the bytes of a PNG file.

    The title also stands for the picture where the reader cannot see it.
    """

    title: str
    picture: Markup | bytes
    caption: str = ""

    def __post_init__(self) -> None:
        assert self.title, "a picture needs words that stand for it"
        assert isinstance(self.picture, Markup) or self.picture.startswith(_PNG_START), "neither an SVG nor a PNG"

    @property
    def is_chart(self) -> bool:
        return isinstance(self.picture, Markup)

    @property
    def uri(self) -> str:
        """The PNG file as an address."""
        return f"data:image/png;base64,{base64.b64encode(self.picture).decode()}"

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the PNG file, which spare the reader a page that jumps while it loads.

        They are in its IHDR chunk, which comes first (PNG specification, 5.6 and 11.2.1).
        """
        return struct.unpack(">II", self.picture[16:24])


Tile = Images | Labels


@dataclass(frozen=True)
class Sheet:
    """A picture that is still to be drawn: groups of tiles, each group under `titles`, two groups a row.

    A tile is an image uint8 [H, W, 3], or a label map [H, W], which is drawn in the colors of its classes.
    """

    title: str
    groups: Sequence[tuple[Tile, ...]]
    titles: tuple[str, ...]
    caption: str = ""

    GROUPS_IN_A_ROW: ClassVar = 2

    @property
    def rows(self) -> list[tuple[Tile, ...]]:
        """The tiles by row."""
        step = self.GROUPS_IN_A_ROW
        return [sum(self.groups[start : start + step], ()) for start in range(0, len(self.groups), step)]

    @property
    def column_titles(self) -> tuple[str, ...]:
        """A title for each column of the first row."""
        return self.titles * min(self.GROUPS_IN_A_ROW, len(self.groups))

    @property
    def labels(self) -> list[Labels]:
        """The label maps among the tiles: their classes are in the legend."""
        return [tile for group in self.groups for tile in group if tile.ndim == 2]


SheetPainter = Callable[[Sheet], bytes]
"""Draws a sheet as a PNG file."""


@dataclass(frozen=True)
class Section:
    """A part of the report, in this order: text (paragraphs), tables, figures, details.

    details: (title, preformatted text) pairs that the reader unfolds, such as a configuration.
    """

    heading: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Figure | Sheet] = ()
    details: Sequence[tuple[str, str]] = ()

    def joined(self, other: Section) -> Section:
        """Return what both show, this section's parts first, under its heading."""
        parts = ("text", "tables", "figures", "details")
        return replace(self, **{part: [*getattr(self, part), *getattr(other, part)] for part in parts})

    def drawn(self, draw: SheetPainter | None) -> Section:
        """Return the section with its sheets drawn."""
        return replace(self, figures=[_drawn(figure, draw) for figure in self.figures])


def join_sections(sections: Iterable[Section]) -> list[Section]:
    """Return one section for each heading, where its first one stands."""
    by_heading: dict[str, Section] = {}
    for section in sections:
        before = by_heading.get(section.heading)
        by_heading[section.heading] = section if before is None else before.joined(section)
    return list(by_heading.values())


def render_report(
    *,
    title: str,
    verdict: Verdict,
    facts: Sequence[tuple[str, str]] = (),
    warnings: Sequence[str] = (),
    sections: Sequence[Section] = (),
    footer: str = "",
    draw: SheetPainter | None = None,
) -> str:
    """Return the page. Equal input gives an equal page; write it as UTF-8. `draw` is needed where there are sheets."""
    drawn = [section.drawn(draw) for section in sections]
    return _template().render(
        title=title, verdict=verdict, facts=facts, warnings=warnings, sections=drawn, footer=footer
    )


def printable(text: str) -> str:
    """Return the text with a replacement character for each that neither XML nor UTF-8 can hold."""
    return _UNPRINTABLE.sub("\ufffd", text)


@lru_cache(maxsize=1)
def _template() -> Template:
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    source = resources.files("evaluations.report").joinpath("page.html.j2").read_text("utf-8")
    return environment.from_string(source)


# ------------------------------------------------------------------------------------------------------ cells


def _cell_text(cell: Cell) -> str:
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "–"
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def _are_numbers(column: Sequence[str]) -> bool:
    given = [cell for cell in column if cell.lower() not in _NOTHING]
    return bool(given) and all(_NUMBER.fullmatch(cell) for cell in given)


# --------------------------------------------------------------------------------------------------- pictures


def _drawn(figure: Figure | Sheet, draw: SheetPainter | None) -> Figure:
    if isinstance(figure, Figure):
        return figure
    assert draw is not None, "sheets take a painter"
    return Figure(figure.title, draw(figure), figure.caption)
