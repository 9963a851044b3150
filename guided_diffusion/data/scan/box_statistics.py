"""How many objects of which size the layouts of a split have, and which of them the model does not see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from guided_diffusion.data.boxes.layouts import LEAST_LEFT, LayoutRules, PictureObjects, place_objects
from guided_diffusion.data.scan.problems import Problem, ProblemKind
from guided_diffusion.data.transforms import JointTransform

LEAST_PIXELS = 2
"""Of the shorter side of a box on the finest feature map; with less, nothing can be drawn in it."""
_MUCH = 0.05  # share of the objects of a class from which a loss is a warning


@dataclass(frozen=True)
class BoxClass:
    """The objects of one class. Sides are those of boxes at the size that the model sees, in its pixels."""

    name: str
    objects: int = 0
    images: int = 0
    share: float = 0.0  # median of the share of the picture
    shorter: tuple[float, float, float] = (0.0, 0.0, 0.0)  # sides: least, median, largest
    longer: tuple[float, float, float] = (0.0, 0.0, 0.0)
    small: int = 0  # left out by min_object_size
    cropped: int = 0
    beyond: int = 0  # more than max_objects
    thin: int = 0  # under LEAST_PIXELS feature pixels


@dataclass(frozen=True)
class BoxStatistics:
    """The layouts of a split."""

    classes: tuple[BoxClass, ...]
    per_image: tuple[int, ...]  # [n]: images that have n objects
    backgrounds: tuple[tuple[str, int], ...] = ()  # (class, images) of the pictures as a whole
    feature_pixel: int = 1  # pixels of a side

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as a JSON object."""
        classes = [asdict(each) for each in self.classes]
        return {
            "classes": classes,
            "objects_per_image": {str(count): images for count, images in enumerate(self.per_image) if images},
            "backgrounds": dict(self.backgrounds),
            "feature_pixel": self.feature_pixel,
        }

    def lines(self) -> list[str]:
        """Return a table of the classes and the numbers of objects, as text."""
        header = ("class", "objects", "images", "share (median)", "shorter side", "longer side")
        header += ("left out", "by cropping", "by number", f"under {LEAST_PIXELS} px")
        rows = [header, *(_row(each) for each in self.classes if each.objects)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for first, *others in rows:
            cells = [f"{value:>{width}}" for value, width in zip(others, widths[1:], strict=True)]
            lines.append("  ".join([f"{first:<{widths[0]}}", *cells]))
        pixels = "pixels of the model" if self.feature_pixel == 1 else f"its feature pixels ({self.feature_pixel} px)"
        lines.append(f"(sides at the model's size: least, median, largest; under {LEAST_PIXELS} px: {pixels})")
        counts = ", ".join(f"{count}: {images}" for count, images in enumerate(self.per_image) if images)
        lines.append(f"images by number of objects: {counts}")
        if len(self.backgrounds) > 1 or any(name != self.classes[0].name for name, _ in self.backgrounds):
            lines.append("pictures as a whole: " + ", ".join(f"{name} ({count})" for name, count in self.backgrounds))
        return lines


def _row(each: BoxClass) -> tuple[str, ...]:
    sides = (f"{low:.3g} / {middle:.3g} / {high:.3g}" for low, middle, high in (each.shorter, each.longer))
    counts = (str(count) for count in (each.small, each.cropped, each.beyond, each.thin))
    return (each.name, str(each.objects), str(each.images), f"{100 * each.share:.3g} %", *sides, *counts)


def measure_boxes(
    pictures: Sequence[PictureObjects],
    names: Sequence[str],
    transform: JointTransform,
    rules: LayoutRules,
    feature_pixel: int = 1,
) -> BoxStatistics:
    """Return the statistics of pictures as `transform`, without augmentation, shows them.

    feature_pixel: side in pixels of what the network works on, more than 1 for latents.
    """
    found = [[] for _ in names]  # of each class: share, shorter and longer side
    images, lost, backgrounds = Counter(), Counter(), Counter()
    per_image = Counter()
    for objects in pictures:
        placement = transform.place(objects.size)
        if transform.resize == "window":  # they lie anywhere, so they cut nothing off
            placement = replace(placement, offset=(0, 0), size=placement.scaled)
        placed = place_objects(objects, placement, rules)
        per_image[len(placed.number)] += 1
        backgrounds[names[objects.background]] += 1
        images.update(set(objects.label.tolist()))
        classes = objects.label.tolist()
        for what in ("small", "cropped", "beyond"):
            lost.update((what, classes[number]) for number in getattr(placed, what).tolist())
        height, width = objects.size
        for class_id, (x0, y0, x1, y1) in zip(classes, objects.box.tolist(), strict=True):
            sides = (x1 - x0) * placement.scaled[1] / width, (y1 - y0) * placement.scaled[0] / height
            found[class_id].append(((x1 - x0) * (y1 - y0) / (width * height), min(sides), max(sides)))
    classes = []
    for class_id, name in enumerate(names):
        if not found[class_id]:
            classes.append(BoxClass(name))
            continue
        shares, shorter, longer = np.array(found[class_id]).T
        counts = {what: lost[what, class_id] for what in ("small", "cropped", "beyond")}
        thin = int((shorter < LEAST_PIXELS * feature_pixel).sum())
        sides = (_spread(shorter), _spread(longer))
        classes.append(
            BoxClass(name, len(shares), images[class_id], float(np.median(shares)), *sides, **counts, thin=thin)
        )
    most = max(per_image, default=0)
    numbers = tuple(per_image[count] for count in range(most + 1))
    return BoxStatistics(tuple(classes), numbers, tuple(backgrounds.most_common()), feature_pixel)


def _spread(values: np.ndarray) -> tuple[float, float, float]:
    return float(values.min()), float(np.median(values)), float(values.max())


def box_problems(
    statistics: BoxStatistics, transform: JointTransform, rules: LayoutRules, *, all_classes: bool = True
) -> list[Problem]:
    """Return the warnings about classes without objects, unless `all_classes` is False, and about objects not seen."""
    problems = []
    for index, each in enumerate(statistics.classes):
        where = f"class {index}"
        if not each.objects:
            if index and all_classes:
                remedy = "the model cannot learn it; add images that have it, or remove the class"
                problems.append((where, f"{each.name!r} is in no image", remedy, ProblemKind.EMPTY_CLASS))
            continue
        losses = _losses(each, statistics, transform, rules)
        problems += [(where, *loss, ProblemKind.LOST_BOXES) for loss in losses]
    return [Problem(*problem, fatal=False) for problem in problems]


def _losses(
    each: BoxClass, statistics: BoxStatistics, transform: JointTransform, rules: LayoutRules
) -> Iterator[tuple[str, str]]:
    least = max(1, _MUCH * each.objects)
    of = f"of the {each.objects} objects {each.name!r}"
    if each.thin >= least:
        height, width = transform.image_size
        needed = LEAST_PIXELS * statistics.feature_pixel
        found = f"{each.thin} {of} are under {needed} px high or wide at image_size {[height, width]}"
        larger = "a larger scale" if transform.resize == "window" else "a larger image_size, or resize window"
        yield found, f"the model can hardly draw them: use {larger}"
    if each.cropped >= least:
        found = f"{each.cropped} {of} have less than {LEAST_LEFT:.0%} of their area in the window of resize crop"
        yield found, "set resize to pad or squash, which show whole images"
    if each.beyond:
        yield (
            f"{each.beyond} {of} are left out, as their images have more than {rules.max_objects}",
            "raise max_objects",
        )
    if each.small >= least:
        found = f"{each.small} {of} have at most {rules.min_object_size:g} of the image"
        yield found, "lower min_object_size, which leaves them out"
