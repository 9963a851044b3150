"""What the results of a study say beside its verdict: whether it can be trusted, and what is cheaper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from evaluations.study.comparison import augmentation_warning
from guided_diffusion.config.study import COPY_PASTE, PLACE, POISSON, UNAUGMENTED
from guided_diffusion.pipelines.study.arms import PASTED
from guided_diffusion.runtime.units import counted

_NOTHING = 0.01  # mIoU of what has learned nothing
_NAMES = {COPY_PASTE: "pasted", POISSON: "Poisson-blended"}


def signs_of_hurt(architectures: Mapping[str, Mapping[str, Any]], steps: int) -> list[str]:
    """Return a line if the usual augmentation hurts somewhere; architectures: arms by amount, as report.json has them.

    Arms are compared with real and good images that are augmented, so that those which are not must not help.
    """
    hurt = [
        f"{architecture} at {amount} images"
        for architecture, by_amount in architectures.items()
        for amount, arms in by_amount.items()
        if arms.get(UNAUGMENTED, {}).get("difference", {}).get("kind") == "helps"
    ]
    return [augmentation_warning(", ".join(hurt), "steps", steps)] if hurt else []


def cheaper_ways(architectures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a line for each amount at which pasted defects have at least the mIoU of placed ones, over common seeds.

    architectures: arms by amount, as report.json has them.
    """
    found = (
        (f"{architecture} at {amount} images", _better_pasted(arms))
        for architecture, by_amount in architectures.items()
        for amount, arms in by_amount.items()
    )
    return [f"{where}: {line}" for where, line in found if line]


def _better_pasted(arms: Mapping[str, Any]) -> str:
    """Return what is said of the best pasted arm; "" where placed defects are better, or nothing was learned."""
    pairs = {arm: _over_common_seeds(arms[arm], arms[PLACE]) for arm in PASTED if {arm, PLACE} <= arms.keys()}
    known = {arm: pair for arm, pair in pairs.items() if pair is not None}
    if not known:
        return ""
    best = max(known, key=lambda arm: known[arm][0])
    miou, placed_miou, seeds = known[best]
    if miou < max(placed_miou, _NOTHING):
        return ""
    return (
        f"{_NAMES[best]} defects cost no training and have {100 * miou:.1f} % mIoU, placed ones "
        f"{100 * placed_miou:.1f} % ({counted(seeds, 'seed')}): the action paste makes them, with blend {PASTED[best]}"
    )


def _over_common_seeds(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[float, float, int] | None:
    """Return the mean mIoU of two arms over the seeds that both have, and their number; None without any."""
    scores = [dict(zip(arm["repeats"], arm["miou"]["by_seed"], strict=True)) for arm in (first, second)]
    common = sorted(scores[0].keys() & scores[1].keys())
    if not common or any(each[seed] is None for each in scores for seed in common):
        return None
    means = [float(np.mean([each[seed] for seed in common])) for each in scores]
    return means[0], means[1], len(common)
