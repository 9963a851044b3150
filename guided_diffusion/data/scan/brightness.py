"""What the model sees of the images: pictures that come out black, blank, transparent or on another scale.

Judged by quantiles over each image and over the set, so that a single bright pixel hides nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from statistics import median

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from guided_diffusion.data.deep_color import stored_mode
from guided_diffusion.data.intensity import ImageRange, color_and_alpha
from guided_diffusion.data.scan.problems import Problem, ProblemKind

HISTOGRAM_BINS = 64  # of 4 of the values 0..255 that the model sees
_JUDGED_PIXELS = 1 << 16  # of a large image, evenly spaced
_LOW, _HIGH = 0.001, 0.999  # quantiles that stand for the darkest and the brightest values
_HOT_SHARE, _HOT_FACTOR = 0.05, 4  # hot pixels: so many at most, and so many times brighter than all others
_DARK = {8: 32, 16: 16384}  # brightest values below which an image of so many bits looks black
_NARROW = {8: 1 / 16, 16: 1 / 8}  # share of the values of the type below which it looks gray
_DEPTHS = (1, 2, 3, 4, 8, 10, 12, 14, 16)  # bits that cameras and converters use
_OTHER_SCALE = 8  # times darker or brighter than the others
_TRANSPARENT = 0.5  # opacity below which an image is mostly transparent
_KEYED = 0.01  # share of pixels of a transparent color from which it is a loss
_NAMES = 12


@dataclass(frozen=True)
class Brightness:
    """The values of one image: in the file, and as the model sees them."""

    path: str
    bits: int  # 8 or 16, per channel
    low: int  # quantile of the values in the file, without hot pixels and what is transparent
    high: int
    seen: tuple[int, int, int]  # quantiles of what the model sees, 0..255: low, median, high
    histogram: NDArray[np.float32]  # [HISTOGRAM_BINS], of what the model sees; sums to 1
    opacity: float = 1.0  # mean alpha, 0..1
    hidden: float = 0.0  # share of pixels of a transparent color (tRNS) that are not black in the file
    blank: bool = False  # one value everywhere


def measure_brightness(path: str, image: Image.Image, seen: Tensor, image_range: ImageRange) -> Brightness:
    """Return the values of a decoded picture that the model sees as `seen`, uint8 [C, H, W]."""
    step = max(1, ceil(sqrt(seen[0].numel() / _JUDGED_PIXELS)))
    shown = seen[:, ::step, ::step].numpy()
    counts = np.bincount(shown.reshape(-1), minlength=256)
    flat = not np.ptp(shown, axis=(1, 2)).any() and bool((seen == seen[:, :1, :1]).all())
    facts = {
        "path": path,
        "seen": _quantiles_of_counts(counts),
        "histogram": (counts.reshape(HISTOGRAM_BINS, -1).sum(axis=1) / counts.sum()).astype(np.float32),
    }
    deep = image.mode.startswith("I") or ";16" in stored_mode(image)
    if image_range in ("auto", "full") and not deep and not image.has_transparency_data:
        return Brightness(bits=8, low=facts["seen"][0], high=facts["seen"][2], blank=flat, **facts)
    color, alpha = color_and_alpha(image, path)
    values, hidden, opacity = color[::step, ::step], 0.0, 1.0
    if alpha is not None:
        opacity = float(alpha.mean() / 255)
        judged = alpha[::step, ::step]
        if "transparency" in image.info:
            hidden = float(((judged == 0) & values.any(axis=-1)).mean())
        values = values[judged > 0] if judged.any() else values
    low, high = _file_limits(values.reshape(-1))
    bits = 8 if color.dtype == np.uint8 else 16
    # An image may have contrast and be black to the model alone, as its range is another.
    blank = flat and not np.ptp(color, axis=(0, 1)).any()
    return Brightness(bits=bits, low=low, high=high, opacity=opacity, hidden=hidden, blank=blank, **facts)


def _quantiles_of_counts(counts: NDArray[np.int64]) -> tuple[int, int, int]:
    cumulated = counts.cumsum()
    low, middle, high = (int(np.searchsorted(cumulated, q * cumulated[-1])) for q in (_LOW, 0.5, _HIGH))
    return low, middle, high


def _file_limits(values: NDArray[np.integer]) -> tuple[int, int]:
    """Return the darkest and the brightest values [N] of a file but for a few, and without those of hot pixels.

    Hot: at most a twentieth of the pixels (a row, a burned-in mark), all about as bright, and far above all others.
    """
    ordered = np.sort(values)
    start = int(len(ordered) * (1 - _HOT_SHARE))
    tail = ordered[start:].astype(np.int64)
    jumps = np.flatnonzero(tail[1:] > _HOT_FACTOR * np.maximum(tail[:-1], 1))
    if values.dtype != np.uint8 and jumps.size:
        last = start + int(jumps[0])
        # What is below must be a picture of its own, not a flat background.
        if ordered[last + 1] > 0.9 * ordered[-1] and ordered[last] > ordered[0]:
            ordered = ordered[: last + 1]
    low, high = (int(ordered[int(q * (len(ordered) - 1))]) for q in (_LOW, _HIGH))
    return low, high


def brightness_problems(images: Sequence[Brightness], image_range: ImageRange) -> list[Problem]:
    """Return the warnings about what the model sees of a set of images."""
    transparent = [image for image in images if image.opacity < _TRANSPARENT]
    opaque = [image for image in images if image.opacity >= _TRANSPARENT]
    blank = [image for image in opaque if image.blank]
    problems = [*_transparency(transparent, len(images)), *_hidden(opaque, len(images))]
    if blank:
        found = f"{len(blank)} of {len(images)} images have one value everywhere: {_names(blank)}"
        remedy = "export these again, or leave them out: the model would learn blank pictures"
        problems.append((blank[0].path, found, remedy, ProblemKind.BLANK_IMAGES))
    judged = [image for image in opaque if image.high > 0]
    if image_range == "auto":
        problems += _small_ranges(judged)
    elif isinstance(image_range, tuple):
        problems += _given_range(judged, image_range)
    if image_range != "percentile":
        pictures = [image for image in judged if not image.blank]
        problems += _mixed_scales(pictures, image_range)
    return [Problem(*problem, fatal=False) for problem in problems]


_Found = tuple[str, str, str, ProblemKind]


def _names(images: Sequence[Brightness]) -> str:
    names = [os.path.basename(image.path) for image in images[:_NAMES]]
    return ", ".join(names) + (f", ... ({len(images)} in all)" if len(images) > len(names) else "")


def _transparency(transparent: Sequence[Brightness], total: int) -> Iterator[_Found]:
    if not transparent:
        return
    fully = sum(image.opacity == 0 for image in transparent)
    found = (
        f"{len(transparent)} of {total} images are mostly transparent ({fully} of them everywhere), and transparent "
    )
    found += f"pixels are black to the model: {_names(transparent)}"
    remedy = "save them without alpha channel or transparent color, if their colors are the picture"
    yield transparent[0].path, found, remedy, ProblemKind.TRANSPARENCY


def _hidden(opaque: Sequence[Brightness], total: int) -> Iterator[_Found]:
    keyed = [image for image in opaque if image.hidden >= _KEYED]
    if keyed:
        largest = max(image.hidden for image in keyed)
        found = (
            f"{len(keyed)} of {total} images have a transparent color (tRNS), on up to {100 * largest:.0f} % of their "
        )
        found += f"pixels, which are black to the model: {_names(keyed)}"
        remedy = "save them without it, if it belongs to the picture"
        yield keyed[0].path, found, remedy, ProblemKind.TRANSPARENCY


def _small_ranges(images: Sequence[Brightness]) -> Iterator[_Found]:
    """Yield what is said of 8-bit and of 16-bit images that use a small part of the values of their type."""
    depths = {image.bits for image in images}
    for bits in sorted(depths):
        group = [image for image in images if image.bits == bits]
        largest = 2**bits - 1
        low, high = min(image.low for image in group), max(image.high for image in group)
        if median(image.high for image in group) < _DARK[bits]:
            found = f"{bits}-bit images use values up to {high} of {largest}, so they are almost black to the model"
            wanted = [0, next(2**depth - 1 for depth in _DEPTHS if high < 2**depth)]
        elif median(image.high - image.low for image in group) < _NARROW[bits] * largest:
            found = f"{bits}-bit images use values from {low} to {high} of {largest}, so the model sees little contrast"
            wanted = [low, high]
        else:
            continue
        remedy = f"set image_range to {wanted}, or to percentile, or to full if this is as it should be"
        if len(depths) > 1:
            remedy = "save all images with the same bits and scale, or set image_range to percentile"
            found += f" ({len(group)} of {len(images)} images have {bits} bits)"
        yield "images", found, remedy, ProblemKind.IMAGE_DEPTH


def _given_range(images: Sequence[Brightness], image_range: tuple[int, int]) -> Iterator[_Found]:
    """Yield what is said of a range that leaves most images black, white or without contrast."""
    if not images:
        return
    low, high = (round(median(values)) for values in zip(*((image.low, image.high) for image in images), strict=True))
    depths = {image.bits for image in images}
    span = image_range[1] - image_range[0]
    dark, white = high - image_range[0] < span / 8, image_range[1] - low < span / 8
    if dark or white:
        found = f"is {list(image_range)}, but most images have values from {low} to {high}, so they are almost "
        found += "black" if dark else "white"
        remedy = f"set it to [{low}, {max(high, low + 1)}] or to auto"
        yield "image_range", found, remedy, ProblemKind.IMAGE_DEPTH
    if len(depths) > 1:
        count = sum(image.bits == 16 for image in images)
        found = f"is {list(image_range)}, but {count} of {len(images)} images have 16 bits and the others 8"
        yield "image_range", found, "save all with the same bits and scale, or set it to auto", ProblemKind.IMAGE_DEPTH


def _level(image: Brightness, image_range: ImageRange) -> float:
    """Return the brightest value of an image as a share of the range, at least half a step of 255."""
    low, high = image_range if isinstance(image_range, tuple) else (0, 2**image.bits - 1)
    return max(0.5 / 255, (image.high - low) / max(1, high - low))


def _mixed_scales(images: Sequence[Brightness], image_range: ImageRange) -> Iterator[_Found]:
    """Yield the images whose brightest values are far from the median of those of the others."""
    levels = np.array([_level(image, image_range) for image in images])
    if len(levels) < 2:
        return
    ordered = np.sort(levels)
    ranks = np.searchsorted(ordered, levels)
    half = (len(levels) - 1) // 2
    # The median of all but the value of a rank: that value moves the ones above it down by one.
    middle = [half] if len(levels) % 2 == 0 else [half - 1, half]
    typical = np.mean([ordered[np.where(ranks <= rank, rank + 1, rank)] for rank in middle], axis=0)
    darker, brighter = levels * _OTHER_SCALE < typical, levels > typical * _OTHER_SCALE
    # Where half of the set is dark, each half is far from the other; one line says it.
    word, apart = ("darker", darker) if darker.any() else ("brighter", brighter)
    odd = [image for image, is_apart in zip(images, apart, strict=True) if is_apart]
    if odd:
        found = f"{len(odd)} of {len(images)} images are more than {_OTHER_SCALE} times {word} than the others: "
        remedy = "give all images one scale, set image_range to percentile, or leave these out"
        yield odd[0].path, found + _names(odd), remedy, ProblemKind.MIXED_SCALES
