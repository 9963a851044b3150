"""Compare the seams of painted defects with those of the same defects pasted and Poisson-blended.

For each hole, the rim jump is how much larger the steps across the rim of the hole are than in the untouched image
(`evaluations/seams.py`); 1 is no seam. Besides what was painted, each hole is filled with the pixels of the training
image that its mask came from: copied, copied with the brightness matched at the rim, and Poisson-blended
(`evaluations/blending.py`).

The pastes fill the whole hole, so that all rims are the same pixels, away from the edges of the defect. `under="mask"`
lets them replace the mask alone, as copy-paste usually does; their rim is then that of the mask, where the defect's own
edge is, and the jump says less.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from evaluations.blending import paste, poisson_blend
from evaluations.seams import RimJumps, rim_jump
from guided_diffusion.data import visualize

Image = NDArray[Any]  # uint8 or uint16, [H, W] or [H, W, C]
Mask = NDArray[np.bool_]
Under = Literal["hole", "mask"]

METHODS = ("ours", "pasted", "pasted, matched", "Poisson-blended")
ALL_CLASSES = "all"
MOST_JUMP = 1.25  # the median that painted defects have to keep to
LEAST_SURROUNDINGS = 8  # pixels around a hole in the picture
TILE = 192  # pixels


@dataclass(frozen=True, eq=False)
class Placement:
    """A defect in a good image: arrays of a box inside it, one pixel wider than the hole where the image allows.

    hole: [h, w], what was painted. mask: [h, w], the defect. patch: [h, w] or [h, w, C], the pixels of the training
    image that come to lie there, in the units of the good image; NaN where unknown.
    """

    class_name: str
    top: int
    left: int
    hole: Mask
    mask: Mask
    patch: Image

    def __post_init__(self) -> None:
        assert self.hole.shape == self.mask.shape == self.patch.shape[:2]

    def window(self, size: Sequence[int], margin: int) -> tuple[slice, slice]:
        """Return the box with `margin` pixels on each side, as far as an image of `size` (height, width) goes."""
        height, width = self.hole.shape
        rows = slice(max(self.top - margin, 0), min(self.top + height + margin, size[0]))
        return rows, slice(max(self.left - margin, 0), min(self.left + width + margin, size[1]))


@dataclass(frozen=True, eq=False)
class Case:
    """A good image, what became of it (of the same shape and type), and the defects that were painted."""

    name: str
    good: Image
    result: Image
    placements: tuple[Placement, ...]

    def __post_init__(self) -> None:
        assert self.good.shape == self.result.shape


@dataclass(frozen=True, eq=False)
class Filled:
    """A part of a good image around one hole, and the same part as each method fills it.

    replaced: which pixels each method has replaced, [h, w].
    """

    class_name: str
    good: Image
    images: dict[str, Image]
    replaced: dict[str, Mask]

    def jumps(self) -> dict[str, float | None]:
        """Return the rim jump of each method."""
        return {name: rim_jump(image, self.good, self.replaced[name]) for name, image in self.images.items()}


def fill(case: Case, placement: Placement, *, under: Under = "hole", margin: int = 1) -> Filled:
    """Fill the hole of a placement by all METHODS; returns the box and `margin` pixels around it.

    under: what the pastes replace. Other defects that lie in that part are there in ours only.
    """
    window = placement.window(case.good.shape, margin)
    good = case.good[window]
    top, left = placement.top - window[0].start, placement.left - window[1].start
    own = placement.hole if under == "hole" else placement.mask
    where = (good, placement.patch, own, top, left)
    pasted = (paste(*where, False), paste(*where, True), poisson_blend(*where))
    images = dict(zip(METHODS, (case.result[window], *pasted), strict=True))

    def in_window(mask: Mask) -> Mask:
        placed = np.zeros(good.shape[:2], np.bool_)
        placed[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
        return placed

    replaced = {name: in_window(placement.hole if name == METHODS[0] else own) for name in METHODS}
    return Filled(placement.class_name, good, images, replaced)


# ------------------------------------------------------------------------------------------------------ figures


@dataclass(frozen=True)
class Row:
    """The rim jumps of one method for the defects of one class, or of all."""

    class_name: str
    method: str
    jumps: RimJumps


def measure(cases: Iterable[Case], *, under: Under = "hole") -> list[Row]:
    """Return the rows of all classes together, then class by class by name; one case at a time."""
    records = [
        (placement.class_name, fill(case, placement, under=under).jumps())
        for case in cases
        for placement in case.placements
    ]
    rows = []
    for name in (ALL_CLASSES, *sorted({class_name for class_name, _ in records})):
        chosen = [jumps for class_name, jumps in records if name in (ALL_CLASSES, class_name)]
        rows += [Row(name, method, RimJumps.of(jumps[method] for jumps in chosen)) for method in METHODS]
    return rows


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table: a line for each class, medians and quartiles of the methods."""
    lines = [f"| class | holes | {' | '.join(METHODS)} |", "|---" * (2 + len(METHODS)) + "|"]
    for name in dict.fromkeys(row.class_name for row in rows):
        jumps = {row.method: row.jumps for row in rows if row.class_name == name}
        ours = jumps[METHODS[0]]
        holes = f"{ours.count}" + (f" (and {ours.left_out} without a step)" if ours.left_out else "")
        lines.append(f"| {name} | {holes} | {' | '.join(_cell(jumps[method]) for method in METHODS)} |")
    return "\n".join(lines)


def _cell(jumps: RimJumps) -> str:
    return f"{jumps.median:.2f} ({jumps.lower:.2f} to {jumps.upper:.2f})" if jumps.median is not None else ""


def figures(rows: Sequence[Row], *, under: Under = "hole") -> dict[str, Any]:
    """Return plain values for a JSON file; accepted: the median of ours over all classes is at most 1.25."""
    (ours,) = (row.jumps for row in rows if (row.class_name, row.method) == (ALL_CLASSES, METHODS[0]))
    return {
        "under": under,
        "most_jump": MOST_JUMP,
        "accepted": ours.median is not None and ours.median <= MOST_JUMP,
        "rows": [{"class": row.class_name, "method": row.method, **asdict(row.jumps)} for row in rows],
    }


# ------------------------------------------------------------------------------------------------------ picture


def picture(cases: Iterable[Case], *, each: int = 2, under: Under = "hole") -> PILImage.Image:
    """Return a sheet good | pasted | matched | Poisson-blended | ours of holes, the first `each` of every class.

    Holes are shown with as much again around them. There is at least one.
    """
    shown: dict[str, list[list[visualize.Pixels]]] = {}
    methods = (*METHODS[1:], METHODS[0])
    for case in cases:
        for placement in case.placements:
            rows = shown.setdefault(placement.class_name, [])
            if len(rows) < each:
                margin = max(LEAST_SURROUNDINGS, max(placement.hole.shape) // 2)
                filled = fill(case, placement, under=under, margin=margin)
                rows.append(_displayed([filled.good, *(filled.images[method] for method in methods)]))
    names = sorted(shown)
    return visualize.grid(
        [row for name in names for row in shown[name]],
        column_titles=("good", *methods),
        row_titles=[name for name in names for _ in shown[name]],
        scale=1,
    )


def _displayed(images: Sequence[Image]) -> list[visualize.Pixels]:
    """Return images of one type as tiles; deeper ones than 8 bits share black and white, those of the first."""
    if images[0].dtype == np.uint8:
        return [_fitted(image) for image in images]
    low, high = float(images[0].min()), float(images[0].max())
    scaled = [(image - low) / max(high - low, 1) * 255 for image in (each.astype(np.float64) for each in images)]
    return [_fitted(np.clip(np.round(image), 0, 255).astype(np.uint8)) for image in scaled]


def _fitted(image: visualize.Pixels) -> visualize.Pixels:
    """Return an image averaged to TILE pixels on its longer side, or enlarged to nearly that by a whole number."""
    tile = PILImage.fromarray(visualize.to_rgb(image))
    longest = max(tile.size)
    factor = TILE / longest if longest > TILE else TILE // longest
    resampling = PILImage.Resampling.BOX if factor < 1 else PILImage.Resampling.NEAREST
    return np.asarray(tile.resize([max(1, round(side * factor)) for side in tile.size], resampling))
