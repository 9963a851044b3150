"""What `check` says of windows: whether they fit the images, and how often each defect will be seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from guided_diffusion.conditions.base import Size
from guided_diffusion.data.area import reduced_size
from guided_diffusion.data.scan.problems import Problem, ProblemKind
from guided_diffusion.data.transforms import JointTransform
from guided_diffusion.data.windows import WindowPlan


def window_problems(sizes: Sequence[Size], transform: JointTransform) -> list[Problem]:
    """Return an error where windows are higher and wider than every image at `scale`: they would show no part of one.

    sizes: height and width of all images of a training set.
    """
    if transform.resize != "window" or not sizes:
        return []
    scaled = [reduced_size(size, transform.scale) for size in sizes]
    (height, width), largest = transform.image_size, max(scaled, key=lambda size: size[0] * size[1])
    if any(size[0] >= height or size[1] >= width for size in scaled):
        return []
    found = f"windows of {width}x{height} px are larger than every image at scale {transform.scale:.4g}"
    found += f" (the largest has {largest[1]}x{largest[0]} px)"
    higher = " or a larger scale" if transform.scale < 1 else ""
    remedy = f"use a smaller image_size{higher}, or resize pad or squash, which show whole images"
    return [Problem("image_size", found, remedy, ProblemKind.SIZES)]


def window_lines(
    plan: WindowPlan, sizes: Sequence[Size], transform: JointTransform, names: Sequence[str], examples: int
) -> list[str]:
    """Return lines on the windows of an epoch of `examples`: sizes, and for each class how often it is shown.

    sizes: as of `window_problems`.
    """
    height, width = transform.image_size
    lines = [
        f"windows of {width}x{height} px at scale {transform.scale:.4g}, {examples} an epoch, "
        f"{plan.focus:.0%} of them on a defect, the others anywhere"
    ]
    scaled = (reduced_size(size, transform.scale) for size in sizes)
    small = sum(size[0] < height or size[1] < width for size in scaled)
    if small:
        lines.append(f"{small} of {len(sizes)} images are smaller than a window at that scale: they get a border")
    header = ("class", "components", "windows an epoch", "for each", "side (median)", "largest", "do not fit")
    rows = [header]
    for class_id, (count, each) in sorted(plan.expected(examples).items()):
        # The longer side in windows: 1 just fits.
        sides = np.array([_side(box.size, transform) for _, box in plan.components[class_id]])
        shown = f"{count * each:.1f}", f"{each:.3g}", f"{np.median(sides):.2f}", f"{sides.max():.2f}"
        rows.append((names[class_id], str(count), *shown, str(int((sides > 1).sum()))))
    if len(rows) == 1:
        return [*lines, "no defects: all windows lie anywhere"]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = [f"{value:>{length}}" for value, length in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([f"{first:<{widths[0]}}", *cells]))
    return [
        *lines,
        "(sides of components in windows: what is above 1 is shown in part; others are seen by chance, too)",
    ]


def _side(size: Size, transform: JointTransform) -> float:
    """Return how large a component is in windows, by the side that fits worse."""
    return max(side * transform.scale / length for side, length in zip(size, transform.image_size, strict=True))
