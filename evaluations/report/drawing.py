"""What all charts share: the style, the SVG element, shortened text, and the handling of missing values."""

from __future__ import annotations

import io
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, Concatenate, ParamSpec

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from evaluations.report.page import printable

P = ParamSpec("P")

TEXT = 10.0  # points; still 10 CSS pixels high where the chart is shown 340 pixels wide
_WIDTH = 4.6  # inches; 442 CSS pixels
_LEGEND_WIDTH = 58  # characters
# Charts are drawn in these placeholder colors. In the SVG each becomes a CSS variable of the page, light or dark.
_VARIABLES = ("ink", "muted", "line", *(f"series-{number}" for number in range(1, 7)))
INK, MUTED, GRID, *SERIES = (f"#c0de0{index}" for index in range(len(_VARIABLES)))
BETTER, WORSE = SERIES[2], SERIES[1]

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # labels stay text: a tenth of the size of drawn glyphs
    "svg.hashsalt": "isdm",
    "text.parse_math": False,  # a class may be named "$x$"
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib; wider than most, so nothing is cut off
    "font.size": TEXT,
    "text.color": INK,
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.labelsize": TEXT,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "grid.color": GRID,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": TEXT - 0.5,
    "legend.handlelength": 1.6,
    "legend.columnspacing": 1.4,
    "legend.borderpad": 0.1,
    "lines.linewidth": 1.8,
}


LIGHT = ("#1b2430", "#566172", "#dbe1e8", "#0072b2", "#c04a00", "#00805c", "#a8478a", "#8c6500", "#2f3e9e")
"""The colors of _VARIABLES on a light page, as page.html.j2 has them."""


def chart(draw: Callable[Concatenate[Axes, P], None]) -> Callable[P, Markup]:
    """Make a function that draws on axes return its drawing instead, as an SVG element for the page.

    Equal input gives equal text, whatever the settings of the user's matplotlib.
    """

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Markup:
        with _styled():
            figure = Figure(figsize=(_WIDTH, 2.9), layout="constrained")
            FigureCanvasSVG(figure)
            draw(figure.add_subplot(), *args, **kwargs)
            buffer = io.StringIO()
            no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
            figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
        return _element(buffer.getvalue())

    return drawn


def chart_png(drawn: Callable[P, Markup], *args: P.args, **kwargs: P.kwargs) -> bytes:
    """Return a chart (a function that `chart` made) on white as a PNG file, for pages that show no SVG."""
    # A name of a color may be any text: for a moment the placeholders are names.
    names = matplotlib.colors.get_named_colors_mapping()
    placeholders = dict(zip((INK, MUTED, GRID, *SERIES), LIGHT, strict=True))
    with _styled():
        names.update(placeholders)
        names.cache.clear()
        try:
            figure = Figure(figsize=(_WIDTH, 2.9), layout="constrained", facecolor="white")
            FigureCanvasAgg(figure)
            drawn.__wrapped__(figure.add_subplot(), *args, **kwargs)  # type: ignore[attr-defined]
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=200, metadata={"Software": None})
        finally:
            for placeholder in placeholders:
                del names[placeholder]
            names.cache.clear()
    return buffer.getvalue()


@contextmanager
def _styled() -> Iterator[None]:
    """Have the style of the charts, whatever the settings of the user's matplotlib."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        # Matplotlib only lays the text out; the reader's fonts draw it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support .* natively")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def _element(document: str) -> Markup:
    """Return the <svg> of matplotlib's document, in the page's colors, and with its style rule limited to charts."""
    svg = document[document.index("<svg") :].replace(">*{", ">.chart *{", 1)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)  # unused, and not unique in the page
    svg = re.sub(": #c0de0([0-8])", lambda color: f": var(--{_VARIABLES[int(color[1])]})", svg)
    return Markup(svg.replace("'DejaVu Sans', sans-serif", "var(--font)"))


def add_legend(axes: Axes) -> None:
    """Put the legend above the axes, where it hides no data, in as many columns as fit."""
    handles, labels = axes.get_legend_handles_labels()
    if any(labels):
        longest = max(len(label) for label in labels) + 6  # characters, with the handle
        columns = max(1, min(len(labels), _LEGEND_WIDTH // longest))
        axes.figure.legend(handles, labels, loc="outside upper left", ncols=columns)


def wrapped(text: str, width: int, lines: int = 1) -> str:
    """Return the text in at most `lines` lines of `width` characters, shortened with an ellipsis."""
    wrapped = textwrap.wrap(printable(text), width) or [""]
    if len(wrapped) > lines:
        wrapped = [*wrapped[: lines - 1], wrapped[lines - 1][: width - 1] + "…"]
    return "\n".join(wrapped)


def numbers_of(values: ArrayLike) -> NDArray[np.float64]:
    """Return the values as a vector, with NaN for None and the infinite."""
    numbers = np.asarray(values, float).ravel()
    return np.where(np.isfinite(numbers), numbers, np.nan)


def finite(values: ArrayLike) -> NDArray[np.float64]:
    """Return the values that are neither None, NaN nor infinite."""
    numbers = numbers_of(values)
    return numbers[np.isfinite(numbers)]
