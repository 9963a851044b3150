"""The scan of annotated pictures: every box against its picture, and what the model sees of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from guided_diffusion.conditions.base import Size
from guided_diffusion.data.boxes.borders import Fitted, fit_boxes, format_problems
from guided_diffusion.data.boxes.index import BoxIndex, index_boxes
from guided_diffusion.data.boxes.records import BoxedImage
from guided_diffusion.data.fingerprint import content_digest
from guided_diffusion.data.intensity import ImageRange
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.modes import DatasetMode
from guided_diffusion.data.pairing import Pair
from guided_diffusion.data.scan.brightness import brightness_problems
from guided_diffusion.data.scan.duplicates import MOST_COMPARED, find_twins, twin_problems, uncompared_problem
from guided_diffusion.data.scan.images import ImageFacts, color_problems, scan_image, short_batch_problems
from guided_diffusion.data.scan.orientation import Exif, turned_boxes_problems, turned_by_size
from guided_diffusion.data.scan.problems import Problem, ProblemKind
from guided_diffusion.data.scan.report import ScanReport
from guided_diffusion.data.scan.threads import in_threads


@dataclass(frozen=True)
class _Facts:
    """What the scan learned of one annotated picture."""

    pair: Pair
    image: ImageFacts
    fitted: Fitted | None = None  # None where the picture cannot be read
    problems: tuple[Problem, ...] = ()


def scan_boxes(
    data_dir: str | Path,
    mode: DatasetMode,
    split: str,
    *,
    num_classes: int | None = None,
    encoding: LabelEncoding | None = None,
    image_channels: Literal[1, 3] = 3,
    image_range: ImageRange = "auto",
    exif: Exif = None,
    batch_size: int | None = None,
    look_alikes: bool = False,
    progress: bool = True,
) -> ScanReport:
    """Open every annotated picture of a split; mistakes are not raised but reported. The pairs have boxes that fit.

    encoding: of the training, whose classes the boxes have to have. Other arguments: see `scan_dataset`.
    """
    names = None if encoding is None else encoding.names
    index = index_boxes(data_dir, mode, split, names=names, num_classes=num_classes)
    problems = list(index.problems)
    if index.file is None:
        return ScanReport((), None, tuple(problems))
    if look_alikes and len(index.pairs) > MOST_COMPARED:
        look_alikes = False
        problems.append(uncompared_problem(str(data_dir), len(index.pairs)))

    def scan(pair: Pair) -> _Facts:
        return _scan(index, pair, image_channels, image_range, exif, with_thumbnail=look_alikes)

    facts = in_threads(scan, index.pairs, "scanning images", progress)
    problems += [problem for fact in facts for problem in (*fact.image.problems, *fact.problems)]
    known = [fact for fact in facts if fact.fitted is not None]
    if wrong_format := _format_problems(index, known):  # which explains what is wrong with each
        problems = [problem for problem in problems if problem.kind is not ProblemKind.BOX] + wrong_format
    tagged = [(fact.pair.image, fact.image.turned) for fact in facts if fact.image.turned is not None]
    problems += turned_boxes_problems(tagged)
    problems += color_problems([fact.image.mode for fact in known], image_channels)
    problems += brightness_problems([fact.image.brightness for fact in known], image_range)
    problems += short_batch_problems(str(data_dir), len(facts), batch_size, "images")
    prints = tuple(fact.image.prints for fact in facts)
    pairs = tuple(fact.pair for fact in facts)
    problems += twin_problems(find_twins(pairs, prints), len(pairs))
    problems += [*_unused(index, mode, data_dir, split), *_several_whole(known, mode)]
    return ScanReport(
        pairs,
        LabelEncoding.identity(len(index.file.names), index.file.names) if index.file.names else None,
        tuple(problems),
        sizes=tuple(fact.image.prints.shape for fact in known),
        image_modes=tuple(fact.image.mode for fact in known),
        brightness=tuple(fact.image.brightness for fact in known),
        prints=prints,
        notes=tuple(_notes(index, known)),
    )


def _scan(
    index: BoxIndex,
    pair: Pair,
    channels: Literal[1, 3],
    image_range: ImageRange,
    exif: Exif,
    *,
    with_thumbnail: bool,
) -> _Facts:
    stated = pair.boxes.size
    entry = replace(pair, upright=exif != "ignore")
    facts = scan_image(
        entry,
        channels,
        image_range,
        with_thumbnail=with_thumbnail,
        decide=lambda image: turned_by_size(image, stated, exif),
    )
    if facts.prints is None:
        return _Facts(entry, facts)
    height, width = facts.prints.shape
    problems = []
    if stated is not None and stated != (height, width):
        found = f"{width}x{height} px, but {index.file.path} says {stated[1]}x{stated[0]}"
        if stated == (width, height):
            found += " (sides exchanged: is it stored turned, and its EXIF orientation missing or ignored?)"
        remedy = "give the picture that was annotated, or correct its size there and its boxes"
        problems.append(Problem(pair.image, found, remedy, ProblemKind.SIZES))
        fitted = Fitted(replace(pair.boxes, objects=()))
    else:
        fitted = fit_boxes(index.file.path, pair.boxes, (height, width))
    upright = entry.upright if facts.turned is None else facts.turned.upright
    entry = replace(entry, boxes=fitted.image, upright=upright)
    facts = replace(facts, prints=replace(facts.prints, mask=content_digest(_text(fitted.image).encode())))
    return _Facts(entry, facts, fitted, (*problems, *fitted.problems))


def _text(boxes: BoxedImage) -> str:
    """Return what makes two annotations of a picture the same."""
    return repr((boxes.background, sorted((each.class_id, each.box) for each in boxes.objects)))


def _format_problems(index: BoxIndex, known: Sequence[_Facts]) -> list[Problem]:
    annotated = {pair.image: pair.boxes for pair in index.pairs}
    images = tuple(annotated[fact.pair.image] for fact in known)
    sizes: list[Size] = [fact.image.prints.shape for fact in known]
    return format_problems(replace(index.file, images=images), [fact.fitted for fact in known], sizes)


def _unused(index: BoxIndex, mode: DatasetMode, data_dir: str | Path, split: str) -> list[Problem]:
    """Return the warning about pictures that nothing is said of; where the mode chooses images, that is as it is."""
    if not index.unlisted or not index.pairs or mode.num_classes is not None:
        return []
    folder = mode.folder(mode.images, data_dir, split)
    found = f"{index.unlisted} pictures have no entry in {index.file.path.rpartition('/')[2]}, and are not used"
    remedy = "label them; those without any object may go to train/good/images, which is trained on as background"
    return [Problem(folder, found, remedy, ProblemKind.ANNOTATION, fatal=False)]


def _several_whole(known: Sequence[_Facts], mode: DatasetMode) -> list[Problem]:
    """Return the warning about images with several boxes around all of them; published annotations are as they are."""
    images = [fact.pair.image for fact in known if fact.fitted.more_whole]
    if not images or mode.num_classes is not None:
        return []
    found = (
        f"{len(images)} images have several boxes around the whole image: the first is the class of its background, "
    )
    remedy = "remove all but one of them if they are no objects"
    return [Problem(images[0], f"{found}and the others are objects", remedy, ProblemKind.BOX, fatal=False)]


def _notes(index: BoxIndex, known: Sequence[_Facts]) -> list[str]:
    """Return what was read of the annotations, and what not."""
    objects = sum(len(fact.fitted.image.objects) for fact in known)
    without = sum(not fact.fitted.image.objects for fact in known)
    lines = [
        f"boxes: {index.file.form}; {objects} objects in {len(known)} images, {without} of them without any",
    ]
    lines += [f"{count} {what}" for what, count in index.file.left_out.items()]
    clipped = sum(fact.fitted.clipped for fact in known)
    if clipped:
        lines.append(f"{clipped} boxes stick out of their picture a little, and are cut off at its border")
    return lines
