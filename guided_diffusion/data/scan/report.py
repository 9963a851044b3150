"""The result of a scan, and its table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from guided_diffusion.conditions.base import Size
from guided_diffusion.data.fingerprint import PairPrint
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.pairing import GoodImage, MaskEntry, Pair
from guided_diffusion.data.scan.box_statistics import BoxStatistics
from guided_diffusion.data.scan.brightness import Brightness
from guided_diffusion.data.scan.lost_classes import MaskLoss
from guided_diffusion.data.scan.problems import Problem, problem_lines
from guided_diffusion.runtime.errors import DataError


@dataclass(frozen=True)
class ClassStats:
    """How often a class occurs."""

    name: str
    pixel_share: float  # of all pixels, 0..1
    images: int  # masks that have it
    lost_by_scaling: int = 0  # masks that have it, of which the model sees no pixel of it
    lost_by_cropping: int = 0


@dataclass(frozen=True)
class ScanReport:
    """The pairs of a split (or masks or images alone), their encoding and everything that is wrong with them."""

    pairs: tuple[Pair, ...] | tuple[MaskEntry, ...]
    encoding: LabelEncoding | None  # None only if there are fatal problems
    problems: tuple[Problem, ...]
    classes: tuple[ClassStats, ...] = ()
    ignored_share: float = 0.0  # of all pixels, 0..1
    all_background: int = 0  # masks that have only class 0 and ignored pixels
    sizes: tuple[Size, ...] = ()  # of the masks, or of images alone
    image_modes: tuple[str, ...] = ()  # PIL modes of the images
    brightness: tuple[Brightness, ...] = ()  # of the images
    losses: tuple[MaskLoss, ...] = ()  # of the masks that lose a class by resizing
    prints: tuple[PairPrint | None, ...] = ()  # of each pair, None where a file cannot be read; () for masks alone
    good_images: tuple[GoodImage, ...] = ()  # beside the pairs
    good_prints: tuple[PairPrint, ...] = ()
    beside: int = 0  # images in `image_dir`
    notes: tuple[str, ...] = ()  # on classes that few masks lose, or on what was read of annotations
    boxes: BoxStatistics | None = None  # of the layouts, where boxes are the condition

    @property
    def noun(self) -> str:
        """What `pairs` are, in words."""
        if self.pairs and isinstance(self.pairs[0], MaskEntry):
            return "masks"
        if self.pairs and self.pairs[0].boxes is not None:
            return "images with boxes"
        return "images" if self.pairs and self.pairs[0].mask is None else "pairs"

    @property
    def image_sizes(self) -> tuple[Size, ...]:
        """Height and width of the images, good ones included."""
        return (*self.sizes, *(each.shape for each in self.good_prints))

    @property
    def fatal(self) -> tuple[Problem, ...]:
        """The problems that have to be corrected before training or sampling."""
        return tuple(problem for problem in self.problems if problem.fatal)

    @property
    def warnings(self) -> tuple[Problem, ...]:
        return tuple(problem for problem in self.problems if not problem.fatal)

    def raise_if_fatal(self) -> LabelEncoding:
        """Return the encoding; DataError with the lines of all fatal problems."""
        if self.fatal:
            raise DataError(problem_lines(self.fatal))
        assert self.encoding is not None
        return self.encoding

    def table(self, eta: Sequence[float] | None = None) -> str:
        """Return for each class its pixel share, images and (if given) eta, then sizes and problems, as text."""
        lines = self._class_lines(eta) + self._picture_lines() + list(self.notes)
        lines += [] if self.boxes is None else self.boxes.lines()
        for title, problems in (("error", self.fatal), ("warning", self.warnings)):
            lines += [f"{title}: {line}" for line in problem_lines(problems)]
        if not self.problems:
            lines.append("no problems found")
        return "\n".join(lines)

    def _class_lines(self, eta: Sequence[float] | None) -> list[str]:
        if not self.classes:
            return []
        rows = [(str(index), c.name, _percent(c.pixel_share), str(c.images)) for index, c in enumerate(self.classes)]
        header = ("", "class", "pixels", "images")
        if any(c.lost_by_scaling or c.lost_by_cropping for c in self.classes):
            lost = [(str(c.lost_by_scaling), str(c.lost_by_cropping)) for c in self.classes]
            rows = [(*row, *counts) for row, counts in zip(rows, lost, strict=True)]
            header = (*header, "lost by scaling", "by cropping")
        if self.ignored_share:
            rows.append(("", "(ignored)", _percent(self.ignored_share), *[""] * (len(header) - 3)))
        rows.insert(0, header)
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
        if self.sizes:
            heights, widths = zip(*self.sizes, strict=True)
            (((height, width), count),) = Counter(self.sizes).most_common(1)
            lines.append(
                f"{len(self.pairs)} {self.noun}, width {_span(widths)}, height {_span(heights)} pixels; "
                f"commonest {width}x{height} ({count})"
            )
        if self.good_images:
            heights, widths = zip(*(each.shape for each in self.good_prints), strict=True)
            lines.append(f"{len(self.good_images)} good images, width {_span(widths)}, height {_span(heights)} pixels")
        if self.beside:
            lines.append(f"{self.beside} images without masks in image_dir")
        if self.image_modes:
            modes = ", ".join(f"{mode} ({count})" for mode, count in Counter(self.image_modes).most_common())
            lines.append(f"image formats: {modes}")
        if self.encoding is not None and self.classes:
            share = _percent(self.all_background / len(self.pairs))
            lines.append(
                f"mask format: {self.encoding.kind}; all {self.classes[0].name}: {self.all_background} ({share})"
            )
        return lines


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _span(lengths: Sequence[int]) -> str:
    low, high = min(lengths), max(lengths)
    return str(low) if low == high else f"{low} to {high}"
