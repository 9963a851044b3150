"""The scan of images alone, and what is said of the images of pairs, too: colors, a short batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from PIL import Image

from guided_diffusion.data.datasets import image_tensor
from guided_diffusion.data.deep_color import is_gray, stored_mode
from guided_diffusion.data.files import open_image, orientation, pages_of, read_bytes, turn_upright
from guided_diffusion.data.fingerprint import PairPrint, content_digest, pixel_digest
from guided_diffusion.data.intensity import ImageRange
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.pairing import Pair
from guided_diffusion.data.scan.brightness import Brightness, brightness_problems, measure_brightness
from guided_diffusion.data.scan.duplicates import (
    MOST_COMPARED,
    find_twins,
    thumbnail,
    twin_problems,
    uncompared_problem,
)
from guided_diffusion.data.scan.orientation import Exif, Turned, tagged_files
from guided_diffusion.data.scan.problems import Problem, ProblemKind
from guided_diffusion.data.scan.report import ScanReport
from guided_diffusion.data.scan.threads import in_threads
from guided_diffusion.runtime.errors import DataError

NO_CLASSES = LabelEncoding.identity(1, ("image",))
"""The encoding of images without masks: one class, which covers all of them."""


@dataclass(frozen=True)
class ImageFacts:
    """What the scan learned of one image; all None where it cannot be read."""

    problems: list[Problem] = field(default_factory=list)
    prints: PairPrint | None = None
    brightness: Brightness | None = None
    mode: str = ""
    tagged: bool = False
    turned: Turned | None = None  # what was decided on its EXIF orientation


def scan_images(
    images: Sequence[Pair],
    problems: Iterable[Problem],
    *,
    where: str,
    image_channels: Literal[1, 3] = 3,
    image_range: ImageRange = "auto",
    exif: Exif = None,
    batch_size: int | None = None,
    look_alikes: bool = False,
    progress: bool = True,
) -> ScanReport:
    """Open every image that `index_images` found, with its `problems`; mistakes are not raised but reported.

    where: the folder that is named in what concerns all of them. Other arguments: see `scan_dataset`.
    """
    problems = list(problems)
    if look_alikes and len(images) > MOST_COMPARED:
        look_alikes = False
        problems.append(uncompared_problem(where, len(images)))
    images = [replace(entry, upright=exif != "ignore") for entry in images]

    def scan(entry: Pair) -> ImageFacts:
        return scan_image(entry, image_channels, image_range, with_thumbnail=look_alikes)

    facts = in_threads(scan, images, "scanning images", progress)
    problems += [problem for fact in facts for problem in fact.problems]
    if exif is None:
        tagged = [entry.image for entry, fact in zip(images, facts, strict=True) if fact.tagged]
        problems += tagged_files("images", tagged)
    brightness = tuple(fact.brightness for fact in facts if fact.brightness is not None)
    modes = tuple(fact.mode for fact in facts if fact.mode)
    prints = tuple(fact.prints for fact in facts)
    problems += color_problems(modes, image_channels)
    problems += brightness_problems(brightness, image_range)
    problems += short_batch_problems(where, len(images), batch_size, "images")
    problems += twin_problems(find_twins(images, prints), len(images))
    return ScanReport(
        tuple(images),
        NO_CLASSES,
        tuple(problems),
        sizes=tuple(each.shape for each in prints if each is not None),
        image_modes=modes,
        brightness=brightness,
        prints=prints,
    )


def scan_image(
    entry: Pair,
    channels: Literal[1, 3],
    image_range: ImageRange,
    *,
    with_thumbnail: bool,
    decide: Callable[[Image.Image], Turned | None] = lambda _: None,
) -> ImageFacts:
    """Open one image. decide: what is done about its EXIF orientation, None as `entry.upright` says."""
    try:
        content = read_bytes(entry.image, removed="the image")
        image = open_image(entry.image, content, upright=False, removed="the image")
        tagged, turned = orientation(image) != 1, decide(image)
        if entry.upright if turned is None else turned.upright:
            turn_upright(image)
        seen = image_tensor(image, channels, entry.image, image_range)
        brightness = measure_brightness(entry.image, image, seen, image_range)
    except DataError as error:
        return ImageFacts([Problem.of(error, ProblemKind.UNREADABLE)])
    pixels = seen.numpy()
    small = thumbnail(pixels) if with_thumbnail else None
    prints = PairPrint(content_digest(content), b"", b"", pixel_digest(pixels), len(content), pixels.shape[1:], small)
    pages = page_problems(entry.image, image)
    return ImageFacts(pages, prints, brightness, stored_mode(image), tagged, turned)


def page_problems(path: str, image: Image.Image) -> list[Problem]:
    """Return the warning that a decoded picture is the first of several pages."""
    if pages_of(image) == 1:
        return []
    found = f"has {pages_of(image)} pages or frames, of which only the first is read"
    remedy = "save the one that counts, or each one, as a file of its own"
    return [Problem(path, found, remedy, ProblemKind.PAGES, fatal=False)]


def color_problems(image_modes: Sequence[str], channels: int) -> list[Problem]:
    """Return warnings about colors of images, whose PIL modes are given."""
    modes = Counter(image_modes)
    gray = sum(count for mode, count in modes.items() if is_gray(mode))
    problems = []
    if channels == 3 and modes and gray == modes.total():
        remedy = "set image_channels to 1 for a smaller, faster model; place puts into gray images with no other"
        problems.append(("image_channels", "3, but all images are gray", remedy, ProblemKind.IMAGE_COLORS))
    if channels == 1 and gray < modes.total():
        found = f"1, but {modes.total() - gray} of {modes.total()} images have colors"
        remedy = "they are turned gray; set it to 3 to keep the colors"
        problems.append(("image_channels", found, remedy, ProblemKind.IMAGE_COLORS))
    return [Problem(*problem, fatal=False) for problem in problems]


def short_batch_problems(where: str, count: int, batch_size: int | None, noun: str) -> list[Problem]:
    """Return the warning about fewer pairs or images (`noun`) than a batch has, over all processes."""
    if batch_size is None or not 0 < count < batch_size:
        return []
    found = f"{count} {noun} are fewer than a batch of {batch_size}"
    advice = f"training works, with one short batch an epoch; batch_size {count} would say the same"
    return [Problem(where, found, advice, ProblemKind.SHORT_BATCH, fatal=False)]
