"""The report of an evaluation: one HTML page that holds its own pictures and loads nothing.

The page has no script. File names, class names and configurations are untrusted text: they are escaped, and the page's
content security policy forbids scripts and loading besides.
"""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import resources
from typing import ClassVar, Literal, get_args

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from evaluations.sets import Images, Labels

VerdictKind = Literal["helps", "hurts", "mixed", "cannot tell", "not measured"]

_PNG_START = b"\x89PNG\r\n\x1a\n"
# What XML forbids, and lone surrogates, which file names can have and UTF-8 cannot.
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
    """Rows under a header. The first column names the rows; the others hold numbers and are set to the right."""

    header: Sequence[str]
    rows: Sequence[Sequence[str | int]]
    caption: str = ""

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.header) for row in self.rows)


@dataclass(frozen=True)
class Figure:
    """A picture: an <svg> element, whose colors are the page's CSS variables, or the bytes of a PNG file.

    The title is also the alternative text.
    """

    title: str
    picture: Markup | bytes
    caption: str = ""

    def __post_init__(self) -> None:
        assert self.title, "a picture needs an alternative text"
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
        """Width and height of the PNG file, which keep the page from jumping while it loads.

        They are in its IHDR chunk, which comes first (PNG specification, 5.6 and 11.2.1).
        """
        return struct.unpack(">II", self.picture[16:24])


Tile = Images | Labels


@dataclass(frozen=True)
class Sheet:
    """A picture that the page draws: groups of tiles, each group under `titles`, two groups a row.

    A tile is an image uint8 [H, W, 3], or a label map [H, W], which gets the colors of its classes.
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

    def drawn(self, draw: SheetPainter) -> Section:
        """Return the section with its sheets drawn."""
        figures = [
            Figure(figure.title, draw(figure), figure.caption) if isinstance(figure, Sheet) else figure
            for figure in self.figures
        ]
        return replace(self, figures=figures)


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
    draw: SheetPainter = lambda sheet: b"",
) -> str:
    """Return the page; write it as UTF-8. Equal input gives an equal page. `draw` is needed if there are sheets."""
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
