"""The scan of images without defects, which are trained on beside the pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from guided_diffusion.data.datasets import read_image
from guided_diffusion.data.files import read_bytes
from guided_diffusion.data.fingerprint import PairPrint, content_digest, pixel_digest
from guided_diffusion.data.intensity import ImageRange
from guided_diffusion.data.pairing import GoodImage, Pair, list_good_images
from guided_diffusion.data.scan.problems import Problem, ProblemKind
from guided_diffusion.data.scan.threads import in_threads
from guided_diffusion.runtime.errors import DataError


def scan_good_images(
    folder: str,
    image_channels: Literal[1, 3],
    image_range: ImageRange,
    *,
    upright: bool = True,
    progress: bool = True,
) -> tuple[list[GoodImage], list[PairPrint], list[Problem]]:
    """Open every image below `folder`; return those that can be read, their prints and what is wrong.

    upright: turn them as their EXIF orientations say. Raises DataError where there are none.
    """
    images = list_good_images(folder, upright=upright)

    def scan(good: GoodImage) -> PairPrint | Problem:
        try:
            content = read_bytes(good.image)
            pixels = read_image(good.image, image_channels, upright=upright, image_range=image_range).numpy()
        except DataError as error:
            return Problem.of(error, ProblemKind.UNREADABLE)
        of_mask = b"" if good.mask is None else content_digest(read_bytes(good.mask))
        return PairPrint(content_digest(content), of_mask, b"", pixel_digest(pixels), len(content), pixels.shape[1:])

    found = in_threads(scan, images, "scanning good images", progress)
    problems = [each for each in found if isinstance(each, Problem)]
    sound = [(good, each) for good, each in zip(images, found, strict=True) if isinstance(each, PairPrint)]
    return [good for good, _ in sound], [each for _, each in sound], problems


def good_images_with_masks(
    images: Sequence[GoodImage],
    prints: Sequence[PairPrint],
    pairs: Sequence[Pair],
    of_pairs: Sequence[PairPrint | None],
) -> list[Problem]:
    """Return a problem for each good image that is also the image of a pair, whose mask says otherwise."""
    masks = {each.pixels: pair.mask for pair, each in zip(pairs, of_pairs, strict=True) if each is not None}
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
