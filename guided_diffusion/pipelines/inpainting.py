"""Painting into holes of whole images, at their own size: windows around each hole are filled and put back.

A window has the size and scale that the network was trained with, so the work depends on the holes, not on the image.
A hole that does not fit into one window is filled in many at once (`averaging.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from guided_diffusion.conditions.base import Size
from guided_diffusion.conditions.known_region import KnownRegion
from guided_diffusion.config.network import TrainedConfig
from guided_diffusion.config.place import PlaceConfig
from guided_diffusion.data.area import covered, enlarge_part, reduce_label_part, reduce_part, reduced_size
from guided_diffusion.data.components import Box
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.native_image import NativeImage
from guided_diffusion.models.architecture import height_width
from guided_diffusion.pipelines.averaging import fill_frame
from guided_diffusion.pipelines.holes import GrownHole, Hole, grow_holes, part_of
from guided_diffusion.pipelines.sampling import Progress, SamplingRun
from guided_diffusion.runtime.seeding import Stream, derive_seed

_CONTEXT = 4  # this part of the window, on each side of a hole, is left to what is known


@dataclass(frozen=True)
class PaintSettings:
    """How holes are painted, beside the network and its sampler."""

    window: Size
    scale: float  # of the images that the network was trained on
    margin: int  # px of the window by which a hole is larger than its mask
    feather: int  # px of the window over which the painting sets in, outside the mask
    num_classes: int
    background: int
    label_by_area: bool = True  # masks are reduced by the area rule, not by nearest neighbor
    opacity: tuple[float, float] = (1.0, 1.0)  # each hole's painting is mixed in by a random share between these
    keep_grain: bool = True  # below full scale: what the reduced image does not show stays; false to paint over defects

    @classmethod
    def of(cls, config: PlaceConfig, trained: TrainedConfig, num_classes: int) -> Self:
        geometry = trained.geometry
        return cls(
            window=height_width(geometry.image_size),
            scale=geometry.scale,
            margin=config.hole_margin,
            feather=config.feather,
            num_classes=num_classes,
            background=get_mode(trained.source.dataset_mode).background,
            label_by_area=geometry.mask_resize != "nearest",
            opacity=config.opacity or (1.0, 1.0),
            keep_grain=not config.erase,
        )

    @property
    def native_margin(self) -> int:
        """Pixels of the images by which a hole is larger than its mask."""
        return max(1, round(self.margin / self.scale))

    @property
    def native_feather(self) -> float:
        """Pixels of the images over which the painting sets in."""
        return self.feather / self.scale


@dataclass(frozen=True)
class FillJob:
    """A window to be filled, or a frame of several windows around a larger hole."""

    label: Tensor  # [H, W] class ids
    image: Tensor  # [C, H, W] in [-1, 1]
    hole: Tensor  # [H, W] booleans
    seed: int
    start: Tensor | None = None  # [C, H, W], what sampling begins with, for a run with a `start_level`


Painting = Generator[FillJob, Tensor, None]
"""Yields what is to be filled in an image, one after the other, and is sent each filled, [C, H, W]."""
_Item = TypeVar("_Item")


def paint_image(
    image: NativeImage,
    label: NDArray[np.integer],
    holes: Sequence[Hole],
    settings: PaintSettings,
    seed: int,
    begun: NativeImage | None = None,
    kept: NDArray[np.bool_] | None = None,
) -> Painting:
    """Paint `holes` into `image` one after the other; those that meet when they have grown are one.

    label: class ids [H, W] of the finished image. Pixels outside the grown holes keep their samples, and so do those
    that are `kept`, [H, W]. begun: the image that sampling begins with, for a run with a `start_level`.
    """
    grown = grow_holes(holes, settings.native_margin, image.size)
    if kept is not None:
        grown = [each._replace(hole=each.hole & (each.mask | ~kept[each.box.slices])) for each in grown]
    for number, hole in enumerate(grown):
        patch = Patch(image, label, hole, grown[number + 1 :], settings, begun)
        yield from patch.paint(derive_seed(Stream.PAINT, seed, number))


def feathered(own: GrownHole, width: float) -> NDArray[np.float64]:
    """Return how much of the painting each pixel of a hole gets, [h, w]: all on the mask, less towards the rim.

    width: px over which it sets in. What it has outside the hole is of no use.
    """
    if not width or own.hole.all():  # the rim of the image is no rim of the hole
        return np.ones(own.hole.shape)
    return np.where(own.mask, 1.0, np.minimum(ndimage.distance_transform_edt(own.hole) / (width + 1), 1.0))


class Patch:
    """The surroundings of one hole, reduced to the scale of the network."""

    def __init__(
        self,
        image: NativeImage,
        label: NDArray[np.integer],
        own: GrownHole,
        others: Sequence[GrownHole],
        settings: PaintSettings,
        begun: NativeImage | None = None,
    ):
        """others: holes that are painted later; what they have in a window is not known yet."""
        self.image, self.label, self.settings, self.begun = image, label, settings, begun
        self.own, self.others = own, tuple(others)
        size, box = image.size, own.box
        self.reduced = reduced_size(size, settings.scale)
        # Where the hole lies in the reduced image: a pixel that it covers in part is painted, too.
        rows, columns = (
            (first * new // old, -(-last * new // old))
            for first, last, new, old in (
                (box.top, box.bottom, self.reduced[0], size[0]),
                (box.left, box.right, self.reduced[1], size[1]),
            )
        )
        self.frame = _framed(Box(rows[0], columns[0], rows[1], columns[1]), settings.window, self.reduced)
        self.shown = self.frame.inside(self.reduced)

    def paint(self, seed: int) -> Painting:
        """Fill the hole, in one window if it fits."""
        known, hole, unpainted = self.surroundings()
        if not hole.any():
            return
        box = _one_window(hole.numpy(), self.settings.window) or Box(0, 0, *hole.shape)
        start = None if self.begun is None else self._reduced(self.begun.region, border=-1.0)[:, *box.slices].float()
        filled = yield FillJob(self.label_of(box), known[:, *box.slices].float(), unpainted[box.slices], seed, start)
        painted = known.clone()
        painted[:, *box.slices] = torch.where(hole[box.slices], filled.double(), known[:, *box.slices])
        self.put(known, painted, self._opacity(seed))

    def _opacity(self, seed: int) -> float:
        """Return the share by which the painting is mixed in, a function of the seed of the hole."""
        return np.random.default_rng(derive_seed(Stream.OPACITY, seed)).uniform(*self.settings.opacity)

    def surroundings(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the image has in the frame, [C, h, w] float64, where the hole is, and this with later holes."""
        known = self._reduced(self.image.region, border=-1.0)
        hole = self._reduced(lambda box: part_of([self.own], box), border=0.0)[0] > 0
        unpainted = self._reduced(lambda box: part_of([self.own, *self.others], box), border=0.0)[0] > 0
        return known, hole, unpainted

    def put(self, known: Tensor, painted: Tensor, opacity: float = 1.0) -> None:
        """Mix the painting into the image: at full scale as it is, below it enlarged, by default as a change."""
        box = self.own.box
        before = self.image.region(box).double()
        if self.reduced == self.image.size:
            after = painted[:, *box.within(self.frame).slices]
        elif self.settings.keep_grain:
            after = before + self._enlarged(painted - known)
        else:
            after = self._enlarged(painted)
        alpha = opacity * torch.from_numpy(feathered(self.own, self.settings.native_feather))
        self.image.put(box, before + alpha * (after - before), self.own.hole)

    def _enlarged(self, values: Tensor) -> Tensor:
        """Return values [C, h, w] of the reduced frame at the pixels of the hole's box: the network would see them."""
        frame, shown, box = self.frame, self.shown, self.own.box
        # Of the border around small images nothing is mixed in.
        part = values[:, *shown.within(frame).slices]
        spans = (shown.top, shown.bottom), (shown.left, shown.right)
        whole = covered(self.image.size, self.reduced, *spans)
        enlarged = enlarge_part(part, self.image.size, self.reduced, *spans)
        return enlarged[:, *box.within(whole).slices]

    def _reduced(self, read: Callable[[Box], Tensor], *, border: float) -> Tensor:
        """Return what `read` gives of the image, [C, *] float64 of the frame; `border` outside the image."""
        spans = (self.shown.top, self.shown.bottom), (self.shown.left, self.shown.right)
        part = read(covered(self.image.size, self.reduced, *spans))
        if self.reduced != self.image.size:
            part = reduce_part(part, self.image.size, self.reduced, *spans)
        return _padded(part.double(), self.shown, self.frame, border)

    def label_of(self, window: Box) -> Tensor:
        """Return the class ids of a window of the frame, null outside the image."""
        box = window.moved(self.frame.top, self.frame.left)
        shown = box.inside(self.reduced)
        part = reduced_label(
            self.label,
            self.reduced,
            shown,
            background=self.settings.background,
            null_id=self.settings.num_classes,
            by_area=self.settings.label_by_area,
        )
        return _padded(part[None], shown, box, self.settings.num_classes)[0]


def reduced_label(
    label: NDArray[np.integer], reduced: Size, box: Box, *, background: int, null_id: int, by_area: bool
) -> Tensor:
    """Return a box of class ids [H, W] reduced to the size `reduced`, int64; only what the box shows is read."""
    size = (label.shape[0], label.shape[1])
    spans = (box.top, box.bottom), (box.left, box.right)
    if size == reduced:
        return torch.from_numpy(label[box.slices].astype(np.int64))
    if by_area:
        part = torch.from_numpy(label[covered(size, reduced, *spans).slices].astype(np.int64))
        return reduce_label_part(part, size, reduced, *spans, background=background, null_id=null_id)
    rows, columns = (
        (2 * np.arange(*span) + 1) * old // (2 * new) for span, old, new in zip(spans, size, reduced, strict=True)
    )
    return torch.from_numpy(label[rows[:, None], columns].astype(np.int64))


def _framed(box: Box, window: Size, size: Size) -> Box:
    """Return a box around `box` that holds whole windows, inside the reduced image where that is larger."""
    spans = []
    for first, last, length, full in zip((box.top, box.left), (box.bottom, box.right), window, size, strict=True):
        # So much that every core has its context on both sides, as far as the image reaches.
        context = length // _CONTEXT
        wanted = max(length, last - first + 2 * context)
        if full <= length:
            start, wanted = (full - length) // 2, length
        else:
            wanted = min(wanted, full)
            start = min(max(0, (first + last - wanted) // 2), full - wanted)
        spans.append((start, start + wanted))
    return Box(spans[0][0], spans[1][0], spans[0][1], spans[1][1])


def _padded(values: Tensor, shown: Box, frame: Box, border: float) -> Tensor:
    """Return `values` [C, h, w] of the box `shown` in the larger box `frame`."""
    padding = (shown.left - frame.left, frame.right - shown.right, shown.top - frame.top, frame.bottom - shown.bottom)
    return torch.nn.functional.pad(values, padding, value=border)


def _one_window(hole: NDArray[np.bool_], window: Size) -> Box | None:
    """Return the window in a frame that shows the whole `hole` [h, w], with some of what is known; None: none does."""
    box = Box.around(hole)
    for length, full, needed in zip(window, hole.shape, box.size, strict=True):
        if full > length and needed > length - length // _CONTEXT:
            return None
    return box.framed(window, hole.shape)


def fill_windows(
    run: SamplingRun,
    settings: PaintSettings,
    paintings: Iterable[tuple[_Item, Painting]],
    batch_size: int,
    progress: Callable[[], None],
    *,
    steps: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Iterator[_Item]:
    """Fill the windows of many paintings, `batch_size` at a time, and yield the item of each one that is finished.

    A window is the same whatever other windows are filled with it. progress: called after each batch, and each frame.
    steps: called after each step of a batch. Raises Cancelled where `cancelled()` is true.
    """
    rest, active = iter(paintings), []
    while True:
        while len(active) < batch_size and (entry := next(rest, None)) is not None:
            job = _next_window(entry[1], None, run, settings, batch_size, progress)
            if job is None:
                yield entry[0]
            else:
                active.append((*entry, job))
        if not active:
            return
        jobs = [job for _, _, job in active]
        condition = run.pipeline.condition_of(torch.stack([job.label for job in jobs]))
        known = KnownRegion(torch.stack([job.image for job in jobs]), torch.stack([job.hole for job in jobs]))
        starts = [job.start for job in jobs if job.start is not None]
        filled = run(
            condition,
            [job.seed for job in jobs],
            known=known,
            start=torch.stack(starts) if starts else None,
            progress=steps,
            cancelled=cancelled,
        )
        progress()
        waiting = []
        for (item, painting, _), window in zip(active, filled, strict=True):
            job = _next_window(painting, window, run, settings, batch_size, progress)
            if job is None:
                yield item
            else:
                waiting.append((item, painting, job))
        active = waiting


def _next_window(
    painting: Painting,
    filled: Tensor | None,
    run: SamplingRun,
    settings: PaintSettings,
    batch_size: int,
    progress: Callable[[], None],
) -> FillJob | None:
    """Send a painting what is filled, and fill its frames; return its next window, None if it is finished."""
    try:
        job = next(painting) if filled is None else painting.send(filled)
        while tuple(job.hole.shape) != settings.window:
            frame = fill_frame(
                run,
                job.label,
                KnownRegion(job.image[None], job.hole[None]),
                seed=job.seed,
                batch_size=batch_size,
                start=job.start,
            )
            progress()
            job = painting.send(frame)
    except StopIteration:
        return None
    return job
