"""What all charts share: two themes, the SVG document, text that fits, and what becomes of a missing value."""

from __future__ import annotations

import io
import math
import textwrap
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from numpy.typing import ArrayLike, NDArray

from evaluations.report.page import printable

_WIDTH = 4.6  # inches; 442 CSS pixels
TEXT = 10.0  # points; still 10 CSS pixels high where the chart is shown 340 pixels wide
_LEGEND_WIDTH = 58  # characters
_FONTS = "system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


@dataclass(frozen=True)
class Chart:
    """The same chart for a light and for a dark page."""

    light_svg: str
    dark_svg: str


@dataclass(frozen=True)
class Theme:
    """Colors that stay apart for color-blind readers (after Okabe and Ito 2008), 3:1 or more against the page."""

    ink: str
    muted: str
    grid: str
    better: str
    worse: str
    series: tuple[str, ...]


_LIGHT = Theme(
    ink="#1b2430",
    muted="#5a6675",
    grid="#dde2e8",
    better="#00734f",
    worse="#c04a00",
    series=("#0072b2", "#c04a00", "#00805c", "#a8478a", "#8c6500", "#2f3e9e", "#5a6675"),
)
_DARK = Theme(
    ink="#e8ecf1",
    muted="#a3adba",
    grid="#353d49",
    better="#3fcf9b",
    worse="#ff9455",
    series=("#5cb8f0", "#ff9455", "#3fcf9b", "#e89ccb", "#ecc452", "#a9b4ff", "#a3adba"),
)


def draw_chart(draw: Callable[[Axes, Theme], None], height: float, title: str) -> Chart:
    """Return what `draw(axes, theme)` draws, in both themes; `height` in inches, without that of the title."""
    return Chart(*(_svg(draw, theme, height, title) for theme in (_LIGHT, _DARK)))


def _svg(draw: Callable[[Axes, Theme], None], theme: Theme, height: float, title: str) -> str:
    """Return the chart as SVG; equal input gives equal text, whatever the settings of the user's matplotlib."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        # Matplotlib only lays the text out; a sign that its font lacks is in one of the reader's.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support .* natively")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_settings(theme))
        figure = Figure(figsize=(_WIDTH, height + (0.3 if title else 0)), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        if title:
            figure.suptitle(wrapped(title, 44, 2), x=0.01, ha="left", fontsize=TEXT + 1.5, weight="bold")
        draw(axes, theme)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue().replace("'DejaVu Sans', sans-serif", _FONTS)
    return svg[svg.index("<svg") :]  # neither the XML declaration nor the document type is of use in a page


def _settings(theme: Theme) -> dict[str, object]:
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": "isdm",
        "text.parse_math": False,  # a class may be named "$x$"
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib; wider than most, so nothing is cut off
        "font.size": TEXT,
        "text.color": theme.ink,
        "axes.edgecolor": theme.muted,
        "axes.labelsize": TEXT,
        "axes.linewidth": 0.8,
        "axes.grid": True,
        "grid.color": theme.grid,
        "grid.linewidth": 0.8,
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "xtick.labelcolor": theme.ink,
        "ytick.labelcolor": theme.ink,
        "legend.frameon": False,
        "hatch.linewidth": 1.0,
    }


def add_legend(axes: Axes, theme: Theme) -> None:
    """Put the legend above the axes, where it hides no data, in as many columns as fit."""
    handles, labels = axes.get_legend_handles_labels()
    if any(labels):
        longest = max(len(label) for label in labels) + 6  # characters, with the handle
        columns = max(1, min(len(labels), _LEGEND_WIDTH // longest))
        axes.figure.legend(
            handles,
            labels,
            loc="outside upper left",
            ncols=columns,
            labelcolor=theme.ink,
            fontsize=TEXT - 0.5,
            handlelength=1.6,
            columnspacing=1.4,
            borderpad=0.1,
        )


def log_axis(axes: Axes, which: str) -> None:
    """Make the axis logarithmic, with plain numbers: matplotlib's own need its mathematics parser.

    A y axis whose values lie within a factor of 5 stays linear: it would have a single power of ten, or none.
    """
    low, high = axes.dataLim.intervaly
    if which == "y" and 0 < low <= high < 5 * low:
        return
    axes.set(**{f"{which}scale": "log"})
    axes.tick_params(axis=which, which="minor", length=0)
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(FuncFormatter(lambda value, _: _decimal(value)))
    few_decades = which == "y" and high < 30 * low
    label = FuncFormatter(lambda value, _: _decimal(value) if _leads(value) else "")
    axis.set_minor_formatter(label if few_decades else NullFormatter())


def _leads(value: float) -> bool:
    return round(value / 10.0 ** math.floor(math.log10(value))) in (2, 5)


def _decimal(value: float) -> str:
    """Return a number as 0.02, 300 or 10⁻⁵."""
    if 1e-4 < value < 1e5:
        return f"{value:g}"
    mantissa, exponent = f"{value:.0e}".split("e")
    power = "10" + str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return power if mantissa == "1" else f"{mantissa}·{power}"


def wrapped(text: str, width: int, lines: int) -> str:
    """Return the text in at most `lines` lines of `width` characters; what is left out shows as an ellipsis."""
    wrapped = textwrap.wrap(printable(text), width) or [""]
    if len(wrapped) > lines:
        wrapped = [*wrapped[: lines - 1], wrapped[lines - 1][: width - 1] + "…"]
    return "\n".join(wrapped)


def is_known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def numbers_of(values: ArrayLike) -> NDArray[np.float64]:
    """Return the values as a vector, with NaN for None and the infinite."""
    numbers = np.array([np.nan if value is None else value for value in np.ravel(np.asarray(values, object))], float)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def finite(values: ArrayLike) -> NDArray[np.float64]:
    numbers = numbers_of(values)
    return numbers[np.isfinite(numbers)]
