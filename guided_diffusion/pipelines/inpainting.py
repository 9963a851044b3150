"""Painting into holes of whole images, at their own size: windows around each hole are filled and put back.

A window has the size and scale that the network was trained with, so the work depends on the holes, not on the image.
A hole that does not fit into one window is filled core by core, from the upper left; each core sees what is painted
already beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from guided_diffusion.conditions.base import Size
from guided_diffusion.conditions.known_region import KnownRegion
from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.config.network import TrainedConfig
from guided_diffusion.config.place import PlaceConfig
from guided_diffusion.data.area import covered, reduce_label_part, reduce_part
from guided_diffusion.data.components import Box
from guided_diffusion.data.masks.encoding import edges_from_instances
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.native_image import NativeImage
from guided_diffusion.models.architecture import height_width
from guided_diffusion.pipelines.sampling import SamplingRun
from guided_diffusion.runtime.seeding import Stream, derive_seed

_CONTEXT = 4  # a core leaves this part of the window on each side to what is known


@dataclass(frozen=True)
class PaintSettings:
    """How holes are painted, beside the network and its sampler."""

    window: Size
    scale: float  # of the images that the network was trained on
    margin: int  # px of the window by which a hole is larger than its mask
    feather: int  # px of the window over which the painting sets in, outside the mask
    num_classes: int
    background: int
    with_edges: bool

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
            with_edges=not geometry.no_instance,
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
class Hole:
    """What is to be painted anew: the pixels of `mask`, [h, w] of the box, and the margin around them."""

    box: Box
    mask: NDArray[np.bool_]


class GrownHole(NamedTuple):
    """A hole as it is painted: arrays [h, w] of a box that is a pixel wider, as far as the image goes."""

    box: Box
    mask: NDArray[np.bool_]  # the hole before it was grown
    hole: NDArray[np.bool_]


@dataclass(frozen=True)
class WindowJob:
    """One window to be filled."""

    label: Tensor  # [H, W] class ids
    image: Tensor  # [C, H, W] in [-1, 1]
    hole: Tensor  # [H, W] booleans
    seed: int


Painting = Generator[WindowJob, Tensor, None]
"""Yields the windows of an image one after the other and is sent each one filled, [C, H, W]."""
_Item = TypeVar("_Item")


def paint_image(
    image: NativeImage, label: NDArray[np.integer], holes: Sequence[Hole], settings: PaintSettings, seed: int
) -> Painting:
    """Paint `holes`, which do not overlap, into `image` one after the other.

    label: class ids [H, W] of the finished image. Pixels outside the grown holes keep their samples.
    """
    for number, hole in enumerate(holes):
        yield from Patch(image, label, hole, settings).paint(derive_seed(Stream.PAINT, seed, number))


def grow_hole(hole: Hole, pixels: int, size: Size) -> GrownHole:
    """Return all within so many pixels of a hole that is not empty, in an image of `size`."""
    box = _grown_box(hole.box, pixels + 1, size)
    mask = np.zeros(box.size, dtype=bool)
    top, left = hole.box.top - box.top, hole.box.left - box.left
    mask[top : top + hole.mask.shape[0], left : left + hole.mask.shape[1]] = hole.mask
    return GrownHole(box, mask, ndimage.distance_transform_edt(~mask) <= pixels)


def feathered(grown: GrownHole, width: float) -> NDArray[np.float64]:
    """Return how much of the painting each pixel of the box gets: all on the mask, over `width` px less towards the
    hole's rim, nothing outside."""
    if not width:
        return grown.hole.astype(np.float64)
    # The rim of the image is no rim of the hole.
    inside = grown.hole
    distance = ndimage.distance_transform_edt(inside) if not inside.all() else np.full(inside.shape, np.inf)
    return np.where(grown.mask, 1.0, np.minimum(distance / (width + 1), 1.0))


class Patch:
    """The surroundings of one hole, reduced to the scale of the network.

    known: [C, *] float64 of `frame`, what the image has there. unpainted: [1, *], where the hole is.
    """

    def __init__(self, image: NativeImage, label: NDArray[np.integer], hole: Hole, settings: PaintSettings):
        self.image, self.label, self.settings = image, label, settings
        size = image.size
        self.reduced = tuple(max(1, round(side * settings.scale)) for side in size)
        self.grown = grow_hole(hole, settings.native_margin, size)
        self.native, self.hole = self.grown.box, self.grown.hole
        # Where the hole lies in the reduced image: a pixel that it covers in part is painted, too.
        rows, columns = (
            (first * new // old, -(-last * new // old))
            for first, last, new, old in (
                (self.native.top, self.native.bottom, self.reduced[0], size[0]),
                (self.native.left, self.native.right, self.reduced[1], size[1]),
            )
        )
        self.frame = _framed(Box(rows[0], columns[0], rows[1], columns[1]), settings.window, self.reduced)
        self.shown = _inside(self.frame, self.reduced)
        self.known = self._reduced(self._stored)
        self.unpainted = self._reduced(self._hole_in) > 0

    def paint(self, seed: int) -> Painting:
        """Fill the hole window by window."""
        canvas, unpainted = self.known.clone(), self.unpainted.clone()
        window = self.settings.window
        for number, (core, box) in enumerate(cores(unpainted[0].numpy(), window)):
            part = (slice(box.top, box.bottom), slice(box.left, box.right))
            label, hole = self.label_of(box), unpainted[0][part]
            filled = yield WindowJob(label, canvas[:, *part].float(), hole, derive_seed(Stream.PAINT, seed, number))
            inner = torch.zeros_like(hole)
            inner[core.top - box.top : core.bottom - box.top, core.left - box.left : core.right - box.left] = True
            inner &= hole
            canvas[:, *part][:, inner] = filled.double()[:, inner]
            unpainted[0][part] &= ~inner
        self.put(canvas)

    def put(self, painted: Tensor) -> None:
        """Put a painting of `frame`, [C, *], into the image: below full scale as a change, so that the grain stays."""
        box, (top, left) = self.native, (self.shown.top, self.shown.left)
        before = self.image.region(box).double()
        offset = (self.shown.top - self.frame.top, self.shown.left - self.frame.left)
        if self.reduced == self.image.size:
            rows, columns = (box.top - top + offset[0], box.left - left + offset[1])
            after = painted[:, rows : rows + box.size[0], columns : columns + box.size[1]]
        else:
            after = before + self._enlarged(painted - self.known)
        alpha = torch.from_numpy(feathered(self.grown, self.settings.native_feather))
        self.image.put(box, before + alpha * (after - before), self.hole)

    def _enlarged(self, change: Tensor) -> Tensor:
        """Return a change [C, h, w] in the reduced frame, at the pixels of `native`, bilinear."""
        where = []
        for axis, (first, length) in enumerate(
            ((self.native.top, self.native.size[0]), (self.native.left, self.native.size[1]))
        ):
            ratio = self.reduced[axis] / self.image.size[axis]
            start = (self.frame.top, self.frame.left)[axis]
            where.append((np.arange(first, first + length) + 0.5) * ratio - 0.5 - start)
        grid = np.meshgrid(*where, indexing="ij")
        planes = [ndimage.map_coordinates(plane, grid, order=1, mode="nearest") for plane in change.numpy()]
        return torch.from_numpy(np.stack(planes))

    def _reduced(self, read: Callable[[Box], Tensor]) -> Tensor:
        """Return what `read` gives of the image, [C, *] float64 of the frame; black where that is outside the image."""
        spans = (self.shown.top, self.shown.bottom), (self.shown.left, self.shown.right)
        box = covered(self.image.size, self.reduced, *spans)
        part = read(box)
        if self.reduced != self.image.size:
            part = reduce_part(part, self.image.size, self.reduced, *spans)
        return _padded(part.double(), self.shown, self.frame, -1.0 if read == self._stored else 0.0)

    def _stored(self, box: Box) -> Tensor:
        return self.image.region(box)

    def _hole_in(self, box: Box) -> Tensor:
        """Return the hole in a box of the image, [1, h, w] of 0 and 1."""
        hole = torch.zeros(1, *box.size, dtype=torch.float64)
        rows, columns = (
            (max(a, c), min(b, d))
            for a, b, c, d in (
                (box.top, box.bottom, self.native.top, self.native.bottom),
                (box.left, box.right, self.native.left, self.native.right),
            )
        )
        own = self.hole[
            rows[0] - self.native.top : rows[1] - self.native.top,
            columns[0] - self.native.left : columns[1] - self.native.left,
        ]
        hole[0, rows[0] - box.top : rows[1] - box.top, columns[0] - box.left : columns[1] - box.left] = (
            torch.from_numpy(own.astype(np.float64))
        )
        return hole

    def label_of(self, window: Box) -> Tensor:
        """Return the class ids of a window of the frame, null outside the image."""
        box = Box(
            window.top + self.frame.top,
            window.left + self.frame.left,
            window.bottom + self.frame.top,
            window.right + self.frame.left,
        )
        shown = _inside(box, self.reduced)
        spans = (shown.top, shown.bottom), (shown.left, shown.right)
        part = torch.from_numpy(self.label[covered(self.image.size, self.reduced, *spans).slices].astype(np.int64))
        ids = {"background": self.settings.background, "null_id": self.settings.num_classes}
        if self.reduced != self.image.size:
            part = reduce_label_part(part, self.image.size, self.reduced, *spans, **ids)
        return _padded(part[None], shown, box, self.settings.num_classes)[0]


def _grown_box(box: Box, pixels: int, size: Size) -> Box:
    return Box(
        max(0, box.top - pixels),
        max(0, box.left - pixels),
        min(size[0], box.bottom + pixels),
        min(size[1], box.right + pixels),
    )


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


def _inside(box: Box, size: Size) -> Box:
    return Box(max(0, box.top), max(0, box.left), min(size[0], box.bottom), min(size[1], box.right))


def _padded(values: Tensor, shown: Box, frame: Box, border: float) -> Tensor:
    """Return `values` [C, h, w] of the box `shown` in the larger box `frame`."""
    padding = (shown.left - frame.left, frame.right - shown.right, shown.top - frame.top, frame.bottom - shown.bottom)
    return torch.nn.functional.pad(values, padding, value=border)


def cores(hole: NDArray[np.bool_], window: Size) -> Iterator[tuple[Box, Box]]:
    """Yield (core, window) in a frame whose `hole` [h, w] is to be filled: one window where it fits, else a raster."""
    rows, columns = (np.flatnonzero(hole.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return
    spans = [
        list(_steps(int(index[0]), int(index[-1]) + 1, length, full))
        for index, length, full in zip((rows, columns), window, hole.shape, strict=True)
    ]
    for (core_top, core_bottom), top in spans[0]:
        for (core_left, core_right), left in spans[1]:
            core = Box(core_top, core_left, core_bottom, core_right)
            if hole[core.slices].any():
                yield core, Box(top, left, top + window[0], left + window[1])


def _steps(first: int, last: int, length: int, full: int) -> Iterator[tuple[Size, int]]:
    """Yield ((start, end) of a core, start of its window) along one axis, so that the cores cover first..last."""
    context = length // _CONTEXT
    count = 1 if last - first <= length - context else -(-(last - first) // (length - 2 * context))
    for number in range(count):
        start, end = (first + (last - first) * step // count for step in (number, number + 1))
        yield (start, end), min(max(0, (start + end - length) // 2), full - length)


def fill_windows(
    run: SamplingRun,
    settings: PaintSettings,
    paintings: Iterable[tuple[_Item, Painting]],
    batch_size: int,
    progress: Callable[[], None],
) -> Iterator[_Item]:
    """Fill the windows of many paintings, `batch_size` at a time, and yield the item of each one that is finished.

    A window is the same whatever other windows are filled with it. progress: called after each batch.
    """
    rest, active = iter(paintings), []
    while True:
        while len(active) < batch_size and (entry := next(rest, None)) is not None:
            job = next(entry[1], None)
            if job is None:
                yield entry[0]
            else:
                active.append((*entry, job))
        if not active:
            return
        jobs = [job for _, _, job in active]
        label = torch.stack([job.label for job in jobs])
        edge = torch.stack([edges_from_instances(job.label.int()) for job in jobs]) if settings.with_edges else None
        kind = torch.uint8 if settings.num_classes < 256 else torch.int16
        known = KnownRegion(torch.stack([job.image for job in jobs]), torch.stack([job.hole for job in jobs]))
        filled = run(SemanticMap(label.to(kind), settings.num_classes, edge), [job.seed for job in jobs], known=known)
        progress()
        waiting = []
        for (item, painting, _), window in zip(active, filled, strict=True):
            try:
                waiting.append((item, painting, painting.send(window)))
            except StopIteration:
                yield item
        active = waiting
