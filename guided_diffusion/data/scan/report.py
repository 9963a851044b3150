"""What a scan of a dataset found, and how it is shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from guided_diffusion.data.fingerprint import PairPrint
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.pairing import MaskEntry, Pair
from guided_diffusion.data.scan.problems import Problem, problem_lines
from guided_diffusion.runtime.errors import DataError

Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class ClassStats:
    """A class: its share of all pixels (0..1) and the number of masks that have it."""

    name: str
    pixel_share: float
    images: int


@dataclass(frozen=True)
class SizeStats:
    """Sizes (height, width): smallest and largest by each side, the commonest and how many have it."""

    smallest: Size
    largest: Size
    commonest: Size
    commonest_count: int

    @classmethod
    def of(cls, sizes: Sequence[Size]) -> SizeStats:
        """Return the statistics of at least one size."""
        heights, widths = zip(*sizes, strict=True)
        ((commonest, count),) = Counter(sizes).most_common(1)
        return cls((min(heights), min(widths)), (max(heights), max(widths)), commonest, count)


@dataclass(frozen=True)
class ScanReport:
    """The pairs of a split (or masks alone), their encoding and everything that is wrong with them.

    encoding: None only if there are fatal problems.
    ignored_share: share of pixels that are of no class (0..1).
    all_background: number of masks with nothing but class 0 and ignored pixels.
    image_modes: PIL mode of the image files and how many have it.
    prints: of each pair, None where a file cannot be read; empty for masks alone.
    """

    pairs: tuple[Pair, ...] | tuple[MaskEntry, ...]
    encoding: LabelEncoding | None
    problems: tuple[Problem, ...]
    classes: tuple[ClassStats, ...] = ()
    ignored_share: float = 0.0
    all_background: int = 0
    sizes: SizeStats | None = None
    image_modes: dict[str, int] | None = None
    prints: tuple[PairPrint | None, ...] = ()

    @property
    def background_share(self) -> float:
        """Share of the pairs whose mask has nothing but class 0 and ignored pixels (0..1)."""
        return self.all_background / len(self.pairs) if self.pairs else 0.0

    @property
    def fatal(self) -> tuple[Problem, ...]:
        """The problems that keep the dataset from being used."""
        return tuple(problem for problem in self.problems if problem.fatal)

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """The problems with which the dataset can be used."""
        return tuple(problem for problem in self.problems if not problem.fatal)

    def raise_if_fatal(self) -> LabelEncoding:
        """Return the encoding; DataError with a line for every fatal problem (many of a kind are summarized)."""
        if self.fatal:
            raise DataError(problem_lines(self.fatal))
        assert self.encoding is not None
        return self.encoding

    def table(self, eta: Sequence[float] | None = None) -> str:
        """Return the one table: per class its pixel share and the images that have it; sizes; problems.

        eta: one number a class, how long it stays in class-wise label diffusion; None leaves it out.
        """
        lines = self._class_lines(eta) + self._picture_lines()
        for title, problems in (("error", self.fatal), ("warning", self.warnings)):
            lines += [f"{title}: {line}" for line in problem_lines(problems)]
        if not self.problems:
            lines.append("no problems found")
        return "\n".join(lines)

    @property
    def _noun(self) -> str:
        return "masks" if self.pairs and isinstance(self.pairs[0], MaskEntry) else "pairs"

    def _class_lines(self, eta: Sequence[float] | None) -> list[str]:
        if not self.classes:
            return []
        rows = [(str(index), c.name, _percent(c.pixel_share), str(c.images)) for index, c in enumerate(self.classes)]
        if self.ignored_share:
            rows.append(("", "(ignored)", _percent(self.ignored_share), ""))
        rows.insert(0, ("", "class", "pixels", "images"))
        if eta is not None:
            column = ["eta", *(f"{value:.4g}" for value in eta), *[""] * (len(rows) - 1 - len(eta))]
            rows = [(*row, value) for row, value in zip(rows, column, strict=True)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        return [
            f"{row[0]:>{widths[0]}} {row[1]:<{widths[1]}}"
            + "".join(f"  {value:>{width}}" for value, width in zip(row[2:], widths[2:], strict=True))
            for row in rows
        ]

    def _picture_lines(self) -> list[str]:
        lines = []
        if self.sizes is not None:
            common, count = self.sizes.commonest, self.sizes.commonest_count
            lines.append(
                f"{len(self.pairs)} {self._noun}, width {_span(self.sizes, 1)}, height {_span(self.sizes, 0)} pixels; "
                f"commonest {common[1]}x{common[0]} ({count})"
            )
        if self.image_modes:
            modes = ", ".join(f"{mode} ({count})" for mode, count in self.image_modes.items())
            lines.append(f"image formats: {modes}")
        if self.encoding is not None and self.classes:
            share = _percent(self.background_share)
            lines.append(
                f"mask format: {self.encoding.kind}; all {self.classes[0].name}: {self.all_background} ({share})"
            )
        return lines


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _span(sizes: SizeStats, side: int) -> str:
    low, high = sizes.smallest[side], sizes.largest[side]
    return str(low) if low == high else f"{low} to {high}"
