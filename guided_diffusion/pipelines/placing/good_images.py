"""Checks of good images before anything is painted into them: sizes, channels and masks by headers, then defects."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import TypeVar

from PIL import Image

from guided_diffusion.conditions.base import Size
from guided_diffusion.config.network import TrainedConfig
from guided_diffusion.config.scenes import ScenesConfig
from guided_diffusion.data.area import reduced_size
from guided_diffusion.data.deep_color import is_gray
from guided_diffusion.data.files import UNREADABLE, check_sizes, full_pages, open_image, orientation, stored_size
from guided_diffusion.data.intensity import ImageRange, color_and_alpha, limits
from guided_diffusion.data.native_image import NativeImage
from guided_diffusion.data.pairing import GoodImage, Pair
from guided_diffusion.data.scan.good_images import orientation_of_both
from guided_diffusion.data.scan.orientation import Exif
from guided_diffusion.data.visualize import evenly_spaced
from guided_diffusion.models.architecture import height_width
from guided_diffusion.runtime.errors import ConfigError, DataError
from guided_diffusion.samples.manifest import file_digest

_RANGES, _NARROW = 16, 0.75  # images that are read for their ranges, and how much narrower those may be
_OTHER_SCALE = 3  # times darker or brighter than other camera settings or goods make images
_BLACK = 0.5 / 255  # share of the range below which all is black
_GLANCED = 4096  # bytes from the middle of a file


T = TypeVar("T")


def _by_header(path: str | Path, ask: Callable[[Image.Image], T], unknown: T) -> T:
    """Return what the header of a picture says; `unknown` in the cloud, or where it is damaged: reading it says so."""
    try:
        with Image.open(path) as picture:
            return ask(picture)
    except UNREADABLE:
        return unknown


def header_size(path: str | Path, *, upright: bool = True) -> Size | None:
    """Return height and width of a local picture by its header; None for what has to be read to know it.

    upright: turned as its EXIF orientation says.
    """

    def size(picture: Image.Image) -> Size:
        width, height = stored_size(picture)
        return (width, height) if upright and orientation(picture) > 4 else (height, width)

    return _by_header(path, size, None)


def check_good_images(
    images: Sequence[GoodImage],
    trained: TrainedConfig,
    files: Callable[[GoodImage], Iterable[str | Path | None]],
    *,
    has_network: bool = True,
) -> tuple[str, ...]:
    """Raise UserError for other channels than the model's, masks of other sizes, and images that are all too small.

    Returns a warning where files have several pages.

    files: masks that belong to a good image, beside its own. The first image is read, of the others the header, and
    those that may have colors where the model has none.
    has_network: whether windows of a network have to fit into the images.
    """
    geometry = trained.geometry
    NativeImage.read(images[0].image, geometry.image_channels, geometry.image_range, upright=images[0].upright)
    sizes = []
    for good in images:
        if (has_gray_mode if geometry.image_channels == 3 else _may_have_colors)(good.image):
            # It says what is wrong.
            NativeImage.read(good.image, geometry.image_channels, geometry.image_range, upright=good.upright)
        size = header_size(good.image, upright=good.upright)
        sizes.append(size)
        for file in (good.mask, *files(good)):
            of_mask = None if file is None or size is None else header_size(file, upright=good.upright)
            if of_mask is not None:
                check_sizes(str(file), of_mask, good.image, size)
        for file in files(good):
            _refuse_turned(good, file, trained.source.exif)
    if has_network:
        _refuse_small(sizes, geometry.scale, height_width(geometry.image_size))
    paged = [good.image for good in images if _has_pages(good.image)]
    if not paged:
        return ()
    found = f"has several pages or frames, of which only the first is read ({len(paged)} good images)"
    return (f"warning: {paged[0]}: {found}; save the one that counts, or each one, as a file of its own",)


def _has_pages(path: str) -> bool:
    """Return whether a local picture is the first of several pages."""
    return _by_header(path, lambda picture: full_pages(picture) > 1, False)


def check_beside_training(
    images: Sequence[GoodImage], training: Sequence[Pair], config: ScenesConfig, image_range: ImageRange
) -> tuple[str, ...]:
    """Return warnings about good images beside training images with defects; DataError for one that is such."""
    if config.placing.mask_source != "dir":
        refuse_defective(images, training)
    # What is pasted has the values of the files, whatever is black and white to the network.
    notes = other_scale(images, training, "auto" if config.takes_pixels else image_range)
    return notes + narrower_range(images, training, image_range) if config.has_network else notes


def other_scale(images: Sequence[GoodImage], training: Sequence[Pair], image_range: ImageRange) -> tuple[str, ...]:
    """Return a warning where good images are several times darker or brighter than training images with defects.

    As those of 12 bits in files of 16 are beside those of 8 bits. Reads a few of each.
    """
    if image_range == "percentile" or not training:
        return ()
    shares, found = [], []
    for chosen in (images, training):
        read = [_values(each.image, image_range) for each in evenly_spaced(chosen, _RANGES)]
        shares.append(max(median(share for share, *_ in read), _BLACK))
        bits = " or ".join(str(bits) for bits in sorted({bits for *_, bits in read}))
        found.append(
            f"values from {min(low for _, low, *_ in read)} to {max(high for *_, high, _ in read)} ({bits} bits)"
        )
    times = shares[0] / shares[1]
    if 1 / _OTHER_SCALE < times < _OTHER_SCALE:
        return ()
    apart = f"{max(times, 1 / times):.0f} times {'brighter' if times > 1 else 'darker'}"
    line = (
        f"warning: {images[0].image}: good images have {found[0]}, training images with defects such as "
        f"{training[0].image} {found[1]}, so good ones are {apart}, and defects get the wrong contrast; save "
        "all with the same bits and scale"
    )
    return (line,)


def _values(path: str, image_range: ImageRange) -> tuple[float, int, int, int]:
    """Return the mean value of an image as a share of the range, its darkest and brightest values, and its bits."""
    color, alpha = color_and_alpha(open_image(path), path)
    low, high = limits(color, alpha, image_range)
    visible = color if alpha is None or not alpha.any() else color[alpha > 0]
    share = float(visible.mean() - low) / max(high - low, 1)
    return share, *limits(color, alpha, "percentile"), 8 * color.dtype.itemsize


def narrower_range(images: Sequence[GoodImage], training: Sequence[Pair], image_range: ImageRange) -> tuple[str, ...]:
    """Return a warning where percentiles of good images are much closer than those of training images with defects.

    The network then sees good ground at another brightness than in training. Reads a few of each, of one depth.
    """
    if image_range != "percentile" or not training:
        return ()
    widths, kinds = [], set()
    for chosen in (images, training):
        spans = []
        for each in evenly_spaced(chosen, _RANGES):
            color, alpha = color_and_alpha(open_image(each.image), each.image)
            low, high = limits(color, alpha, image_range)
            spans.append(high - low)
            kinds.add(color.dtype)
        widths.append(median(spans))
    good, real = widths
    if len(kinds) > 1 or good >= _NARROW * real:
        return ()
    line = (
        f"warning: image_range is percentile, and good images span {good:g} values (median), training images with "
        f"defects {real:g}: the network sees good ground at another brightness than in training, and cannot paint "
        "beyond a good image's own range; train with a fixed image_range, [black, white]"
    )
    return (line,)


def _refuse_turned(good: GoodImage, file: str | Path | None, exif: Exif) -> None:
    """Raise DataError for a mask whose EXIF orientation is not that of its good image, where nothing decides."""
    how = None if file is None or exif is not None else orientation_of_both(good.image, file)
    if how is not None and how.decided_by == "nothing":
        found = f"has another EXIF orientation than {good.image}, and their sizes tell nothing"
        raise DataError.of(file, found, "save it with that of the image, or set exif to apply or to ignore")


def refuse_defective(images: Sequence[GoodImage], training: Sequence[Pair]) -> None:
    """Raise DataError for a good image without a mask whose file is that of one of the training images with defects."""
    by_glance: dict[tuple[int, bytes], list[Pair]] = {}
    for pair in training:
        if (glance := _glance(pair.image)) is not None:
            by_glance.setdefault(glance, []).append(pair)
    for good in images:
        glance = None if good.mask else _glance(good.image)
        for pair in by_glance.get(glance, ()) if glance is not None else ():
            if file_digest(pair.image) == file_digest(good.image):
                found = f"is the training image {pair.image}, which has defects: they would be background"
                raise DataError.of(good.image, found, "take it out of good_dir")


def _glance(path: str) -> tuple[int, bytes] | None:
    """Return size and a part of a local file, to tell most files apart unread; None in the cloud or where it fails."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(size // 2)
            return size, file.read(_GLANCED)
    except OSError:
        return None


def may_be_transparent(path: str) -> bool:
    """Return whether a picture may have transparent pixels, by its header if it is a local one."""
    return _by_header(path, lambda picture: picture.has_transparency_data, True)


def has_gray_mode(path: str) -> bool:
    """Return whether a local picture is gray by its header."""
    return _by_header(path, lambda picture: is_gray(picture.mode), False)


def _may_have_colors(path: str) -> bool:
    """Return whether a local picture may have colors by its header."""
    return _by_header(path, lambda picture: not is_gray(picture.mode), False)


def _refuse_small(sizes: Sequence[Size | None], scale: float, window: Size) -> None:
    """Raise ConfigError where every image, as the model sees it, is smaller than a window."""
    if None in sizes:
        return
    seen = [reduced_size(size, scale) for size in sizes if size is not None]
    if all(size[0] < window[0] and size[1] < window[1] for size in seen):
        largest = max(seen)
        line = (
            f"good_dir: at scale {scale:g} its images have at most {largest[1]}x{largest[0]} pixels, less than a "
            f"window of {window[1]}x{window[0]}: use larger images, or a model of smaller windows"
        )
        raise ConfigError.of_keys(("good_dir", line))
