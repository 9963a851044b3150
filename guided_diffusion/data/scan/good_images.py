"""The scan of images without defects, which are trained on beside the pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from PIL import Image

from guided_diffusion.data.datasets import image_tensor, read_mask
from guided_diffusion.data.deep_color import is_gray, stored_mode
from guided_diffusion.data.files import UNREADABLE, check_sizes, open_image, orientation, read_bytes
from guided_diffusion.data.fingerprint import PairPrint, content_digest, pixel_digest
from guided_diffusion.data.intensity import ImageRange
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.pairing import GoodImage, Pair, list_good_images
from guided_diffusion.data.scan.images import page_problems
from guided_diffusion.data.scan.orientation import Exif, Turned, orientation_problems, turned
from guided_diffusion.data.scan.problems import Problem, ProblemKind, refuse_fatal
from guided_diffusion.data.scan.threads import in_threads
from guided_diffusion.runtime.errors import DataError


def scan_good_images(
    folder: str,
    image_channels: Literal[1, 3],
    image_range: ImageRange,
    *,
    encoding: LabelEncoding | None = None,
    pair_modes: Sequence[str] = (),
    exif: Exif = None,
    pairs: Sequence[Pair] = (),
    progress: bool = True,
) -> tuple[list[GoodImage], list[PairPrint], list[Problem]]:
    """Open every image below `folder`; return those that can be read, their prints and what is wrong.

    encoding: of their masks, None if it is not known. pair_modes: PIL modes of the images with masks. exif, pairs: see
    `list_upright`. Raises DataError where there are none.
    """
    images, problems = _turned(list_good_images(folder, upright=exif != "ignore"), exif, pairs)

    def scan(good: GoodImage) -> tuple[PairPrint, str, list[Problem]] | Problem:
        removed = "the image" if good.mask is None else "the pair"
        try:
            content = read_bytes(good.image, removed=removed)
            image = open_image(good.image, content, upright=good.upright, removed=removed)
            pixels = image_tensor(image, image_channels, good.image, image_range).numpy()
            of_mask = b"" if good.mask is None else content_digest(read_bytes(good.mask, removed=removed))
            if good.mask is not None and encoding is not None:
                size = read_mask(good.mask, encoding, upright=good.upright).shape
                check_sizes(good.image, pixels.shape[1:], good.mask, size)
        except DataError as error:
            return Problem.of(error, ProblemKind.UNREADABLE)
        digests = content_digest(content), of_mask, b"", pixel_digest(pixels)
        colors = "gray" if is_gray(stored_mode(image)) else "none" if (pixels == pixels[0]).all() else "color"
        return PairPrint(*digests, len(content), pixels.shape[1:]), colors, page_problems(good.image, image)

    found = in_threads(scan, images, "scanning good images", progress)
    problems += [each for each in found if isinstance(each, Problem)]
    sound = [(good, *each) for good, each in zip(images, found, strict=True) if not isinstance(each, Problem)]
    problems += [problem for *_, pages in sound for problem in pages]
    problems += _color_problems(folder, image_channels, pair_modes, [colors for _, _, colors, _ in sound])
    return [good for good, *_ in sound], [each for _, each, *_ in sound], problems


def list_upright(folder: str, exif: Exif, pairs: Sequence[Pair] = ()) -> list[GoodImage]:
    """Return the good images of a folder, each to be read upright or as stored, as the headers of local files tell.

    pairs: of the training, which images without a mask follow. Raises DataError for what `exif` has to decide, and as
    `list_good_images` does.
    """
    images, problems = _turned(list_good_images(folder, upright=exif != "ignore"), exif, pairs)
    refuse_fatal(problems)
    return images


def orientation_of_both(image: str, mask: str | Path | None, exif: Exif = None) -> Turned | None:
    """Return how the tags of two local files are read, by their headers; `turned` says it. None where nothing does.

    mask: None for an image alone, whose tag nothing decides.
    """
    try:
        with Image.open(image) as picture:
            if mask is None:
                return Turned(True, "nothing") if orientation(picture) != 1 else None
            with Image.open(mask) as label:
                return turned(picture, label, exif)
    except UNREADABLE:
        return None  # in the cloud, or damaged: reading it says so


def as_turned(pair: Pair, exif: Exif) -> Pair:
    """Return a pair that is to be read as the headers of its files and the option tell."""
    how = None if pair.mask is None else orientation_of_both(pair.image, pair.mask, exif)
    return replace(pair, upright=exif != "ignore" if how is None else how.upright)


def _turned(images: Sequence[GoodImage], exif: Exif, pairs: Sequence[Pair]) -> tuple[list[GoodImage], list[Problem]]:
    """Return the good images with `upright` as their tags are to be read, and what is said of those with a tag."""
    if exif is not None:
        return list(images), []
    # Images alone are as those of the pairs are, unless a tag of these is left aside: it fits no mask.
    stored = next((pair for pair in pairs if not pair.upright), None)

    def tell(good: GoodImage) -> Turned | None:
        asked = good.mask is not None or stored is not None
        return orientation_of_both(good.image, good.mask) if asked else None

    how = in_threads(tell, images, "reading orientations", progress=False)
    found = [
        replace(good, upright=each.upright) if each is not None else good
        for good, each in zip(images, how, strict=True)
    ]
    tagged = [(good, each) for good, each in zip(images, how, strict=True) if each is not None]
    problems = orientation_problems([(good.mask, each) for good, each in tagged if good.mask is not None])
    alone = [good.image for good, _ in tagged if good.mask is None]
    if alone and stored is not None:
        says = (
            f"{len(alone)} good images have an EXIF orientation, and that of {stored.image} is ignored, as sizes tell"
        )
        remedy = "set exif to ignore (all images as they are stored) or to apply (all as viewers show them)"
        problems.append(Problem(alone[0], says, remedy, ProblemKind.ORIENTATION))
    return found, problems


def _color_problems(
    folder: str, image_channels: Literal[1, 3], pair_modes: Sequence[str], colors: Sequence[str]
) -> list[Problem]:
    """Return a warning where good images are in colors and the others gray, or the other way round."""
    if image_channels == 1 or not pair_modes or not colors:
        return []
    gray_pairs = sum(is_gray(mode) for mode in pair_modes)
    if gray_pairs == len(pair_modes) and "color" in colors:
        found = (
            f"{colors.count('color')} of {len(colors)} good images are in colors, but the images with masks are gray"
        )
    elif gray_pairs == 0 and colors.count("gray") == len(colors):
        found = "the good images are gray files, but the images with masks are stored in colors"
    else:
        return []
    remedy = "the model would tell good images by that: set image_channels to 1, or give good images of the same camera"
    return [Problem(folder, found, remedy, ProblemKind.IMAGE_COLORS, fatal=False)]


def good_images_with_masks(
    images: Sequence[GoodImage],
    prints: Sequence[PairPrint],
    pairs: Sequence[Pair],
    of_pairs: Sequence[PairPrint | None],
) -> list[Problem]:
    """Return a problem for each good image that is also the image of a pair, whose mask or boxes say otherwise."""
    defective = [
        (pair, each)
        for pair, each in zip(pairs, of_pairs, strict=True)
        if each is not None and (pair.boxes is None or pair.boxes.objects)
    ]
    masks = {each.pixels: pair.mask or f"{pair.image}, which has boxes" for pair, each in defective}
    return [
        Problem(
            good.image,
            f"is a good image and, of the same pixels, the image of {masks[each.pixels]}",
            "leave it out of one of the two",
            ProblemKind.TWO_MASKS,
        )
        for good, each in zip(images, prints, strict=True)
        if each.pixels in masks
    ]
