"""The training sets of all arms: the same real images, the same good ones, and one kind of synthetic images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from evaluations.segmentation.crops import Late
from evaluations.sets import Images, Labels
from evaluations.whole_images import WholeImages
from guided_diffusion.config.paste import Blend
from guided_diffusion.config.study import (
    COPY_PASTE,
    MIXED,
    PLACE,
    POISSON,
    REAL,
    REAL_GOOD,
    REPAINT,
    SDM,
    UNAUGMENTED,
)
from guided_diffusion.pipelines.placing.folder import PlacedScene
from guided_diffusion.pipelines.placing.pasting import Patches, Pixels, pasted
from guided_diffusion.pipelines.placing.planned import PlannedPairs, PlannedScene
from guided_diffusion.pipelines.study.images import StudyView, seen

PASTING = (COPY_PASTE, POISSON, PLACE, MIXED)
"""The arms of the same defects at the same places in the same good images."""

PASTED: dict[str, Blend] = {COPY_PASTE: "match", POISSON: "poisson"}
"""Those of them that need no network, and the `blend` with which `paste` makes their pairs."""

PAINTED = {PLACE: "placed", REPAINT: "painted-over"}
"""The arms of painted defects, and what these are called."""

JUDGED = {**PAINTED, COPY_PASTE: "pasted", POISSON: "Poisson-blended"}
"""The first of these that a study has is judged."""

LABELS = {
    REAL: "real",
    UNAUGMENTED: "real + good, not augmented",
    REAL_GOOD: "real + good",
    COPY_PASTE: "+ copy-paste",
    POISSON: "+ Poisson-blended",
    PLACE: "+ placed defects",
    REPAINT: "+ pasted, painted over",
    MIXED: "+ placed and Poisson-blended",
    SDM: "+ SDM windows",
}
"""Of the arms, in the report."""


@dataclass(frozen=True)
class ArmSet:
    """The training images of an arm: the real ones, the good ones, the synthetic ones, and how often each is drawn.

    late: how often in the last `real_last` of the steps, where synthetic images are not drawn any more.
    """

    images: WholeImages
    weights: NDArray[np.float64]
    late: NDArray[np.float64]
    real: int
    good: int
    synthetic: int


def arm_set(
    arm: str,
    real: WholeImages,
    good: WholeImages,
    synthetic: WholeImages | None,
    *,
    synthetic_share: float,
    good_share: float,
) -> ArmSet:
    """Return the training set of an arm.

    synthetic_share: of the crops on defects. good_share: of the other crops, those anywhere, on good images.
    """
    if arm == REAL:
        weights = np.ones(len(real))
        return ArmSet(real, weights, weights, len(real), 0, 0)
    parts = [real, good] if synthetic is None else [real, good, synthetic]
    images = real
    for more in parts[1:]:
        images = images.joined(more)

    def weights(share: float) -> NDArray[np.float64]:
        totals = (1 - share, good_share / (1 - good_share), share)
        return np.concatenate(
            [np.full(len(part), total / max(1, len(part))) for part, total in zip(parts, totals, strict=False)]
        )

    first, late = weights(0.0 if synthetic is None else synthetic_share), weights(0.0)
    return ArmSet(images, first, late, len(real), len(good), 0 if synthetic is None else len(synthetic))


def late_part(arm: ArmSet, steps: int, real_last: float) -> Late | None:
    """Return how the last share of the steps draws the images of an arm, None if as the others do."""
    number = round(real_last * steps)
    return Late(steps - number, arm.late) if number and arm.synthetic else None


def pasting_sets(pairs: PlannedPairs, view: StudyView, arms: Sequence[str]) -> dict[str, WholeImages]:
    """Return the synthetic images of those of `arms` that are among PASTING: alike but for the pixels of defects.

    pairs: a folder of `place` for placed defects. Raises DataError for one that has changed, and for masks that do not
    come from training defects.
    """
    chosen = [arm for arm in PASTING if arm in arms]
    patch_of = pairs.patches()
    found: dict[str, list[tuple[str, Images, Labels]]] = {arm: [] for arm in chosen}
    for scene in tqdm(pairs.scenes(), total=len(pairs), unit="image", desc="pasting"):
        label = view.reduced_label(scene.finished.label)
        for arm in chosen:
            image = view.reduced_image(seen(scene.good, filled(scene, patch_of, arm)))
            found[arm].append((scene.name, image, label))
    return {arm: view.gathered(parts) for arm, parts in found.items()}


def filled(scene: PlannedScene, patch_of: Patches, arm: str) -> Pixels:
    """Return the good image of a scene, [H, W, C] in its own units, with its defects as an arm has them.

    copy_paste: the training defects, warped as their masks were, the brightness matched at the rim. poisson: the same
    blended. place: as they were painted. mixed: in every other scene so, in the others Poisson-blended, and in turn
    where a good image is used again.
    """
    if arm == MIXED:
        arm = PLACE if scene.turn % 2 else POISSON
    if arm == PLACE:
        assert isinstance(scene, PlacedScene)
        return scene.result
    return pasted(scene.good, scene.finished.defects, patch_of, scene.name, PASTED[arm])
