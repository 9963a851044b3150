"""How defects look beside what surrounds them: their contrast and their texture, and whether two sets differ in it.

A segmentation model learns from painted defects what it learns from nothing else: how faint a defect can be. Where they
stand out twice as much as real ones, it misses the faint real ones, however well it finds the masks of the painted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

NEAREST, FARTHEST = 2, 4  # px from the defect: what surrounds it. Masks are not exact to the pixel
FEWEST_PIXELS = 8  # of a defect, and of what surrounds it
FEWEST_DEFECTS = 8  # of a set that is judged
FAINT = 0.05  # sets that stand out less differ by their masks' slips
MOST_RATIO = 1.5

Quartiles = tuple[float, float, float]


class Look(NamedTuple):
    """A defect beside what surrounds it.

    contrast: the difference of the mean brightnesses over that of what surrounds it (Weber), negative where it is
    darker. texture: the standard deviation of what a Gaussian of 1 px takes away, over that of what surrounds it; None
    where nothing around it has any.
    """

    contrast: float
    texture: float | None


@dataclass(frozen=True)
class Looks:
    """Quartiles of the looks of `count` defects; `strength` is the median of their absolute contrasts."""

    count: int
    strength: float
    contrast: Quartiles
    texture: Quartiles | None

    @staticmethod
    def of(looks: Sequence[Look]) -> Looks | None:
        """Summarize; None for no defects."""
        if not looks:
            return None
        contrasts = [look.contrast for look in looks]
        textures = [look.texture for look in looks if look.texture is not None]
        strength = float(np.median(np.abs(contrasts)))
        return Looks(len(looks), strength, _quartiles(contrasts), _quartiles(textures) if textures else None)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def look_of(image: NDArray[Any], mask: NDArray[np.bool_], ground: NDArray[np.bool_]) -> Look | None:
    """Return the look of the defect `mask` [H, W] in an image [H, W, C] or [H, W], in gray levels 0..255.

    ground: [H, W], the pixels of no defect. All may be cut out with FARTHEST px around the defect. None where the
    defect or what surrounds it has fewer than FEWEST_PIXELS.
    """
    assert image.shape[:2] == mask.shape == ground.shape
    distance = ndimage.distance_transform_cdt(~mask, "chessboard") if not mask.all() else np.zeros(mask.shape)
    around = (distance >= NEAREST) & (distance <= FARTHEST) & ground
    if min(mask.sum(), around.sum()) < FEWEST_PIXELS:
        return None
    gray = image.astype(np.float64)
    gray = gray.mean(-1) if gray.ndim == 3 else gray
    # At least a gray level, so that nearly black surroundings divide by something.
    usual = max(gray[around].mean(), 1.0)
    fine = gray - ndimage.gaussian_filter(gray, 1.0)
    grain = fine[around].std()
    contrast = (gray[mask].mean() - gray[around].mean()) / usual
    return Look(float(contrast), float(fine[mask].std() / grain) if grain > 0 else None)


def strength_ratio(synthetic: Looks | None, real: Looks | None) -> float | None:
    """Return how many times as much synthetic defects stand out as real ones; None where that cannot be judged."""
    if synthetic is None or real is None or min(synthetic.count, real.count) < FEWEST_DEFECTS:
        return None
    if max(synthetic.strength, real.strength) < FAINT:
        return None
    return synthetic.strength / max(real.strength, FAINT)


def differs(ratio: float | None) -> bool:
    """Tell whether a `strength_ratio` is so far from 1 that models learn other defects from it."""
    return ratio is not None and not 1 / MOST_RATIO <= ratio <= MOST_RATIO


def _quartiles(values: Sequence[float]) -> Quartiles:
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    return low, middle, high
