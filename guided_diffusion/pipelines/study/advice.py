"""What the results of a study say beside its verdict: whether it can be trusted, and what is cheaper."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from evaluations.study.comparison import augmentation_warning
from guided_diffusion.config.study import PLACE, REPAINT, UNAUGMENTED
from guided_diffusion.pipelines.study.arms import JUDGED, PAINTED, PASTED
from guided_diffusion.runtime.units import counted

_NOTHING = 0.01  # mIoU of what has learned nothing

Architectures = Mapping[str, Mapping[str, Any]]
"""Arms by architecture and amount, as report.json has them."""


def signs_of_hurt(architectures: Architectures, steps: int) -> list[str]:
    """Return a line if the usual augmentation hurts somewhere.

    Arms are compared with real and good images that are augmented, so that those which are not must not help.
    """
    hurt = [
        f"{architecture} at {amount} images"
        for architecture, by_amount in architectures.items()
        for amount, arms in by_amount.items()
        if arms.get(UNAUGMENTED, {}).get("difference", {}).get("kind") == "helps"
    ]
    return [augmentation_warning(", ".join(hurt), "steps", steps)] if hurt else []


def several_versions(results: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a line if versions of isdm trained these results that are not all the same."""
    versions = sorted({result.get("isdm", "an earlier one") for result in results})
    if len(versions) < 2:
        return []
    return [f"results are of several versions of isdm ({', '.join(versions)}): arms may differ by that, too"]


def how_to_paste(judged: str, kinds: Iterable[str]) -> list[str]:
    """Return a line on how to make pairs where copies are judged and help; kinds: of the verdicts."""
    if judged not in PASTED or "helps" not in kinds:
        return []
    return [f"the action paste makes such pairs, with blend {PASTED[judged]}"]


def cheaper_ways(architectures: Architectures) -> list[str]:
    """Return a line for each amount at which pasted defects have at least the mIoU of painted ones, over common seeds.

    Painted: placed, or pasted and painted over.
    """
    return _lines(architectures, _better_pasted)


def better_painted(architectures: Architectures) -> list[str]:
    """Return a line for each amount at which defects that are pasted and painted over are better than placed ones."""
    return _lines(architectures, _better_painted_over)


def _lines(architectures: Architectures, line_of: Callable[[Mapping[str, Any]], str]) -> list[str]:
    found = (
        (f"{architecture} at {amount} images", line_of(arms))
        for architecture, by_amount in architectures.items()
        for amount, arms in by_amount.items()
    )
    return [f"{where}: {line}" for where, line in found if line]


def _better_pasted(arms: Mapping[str, Any]) -> str:
    """Return what is said of the best pasted arm; "" where painted defects are better, or nothing was learned."""
    rivals = [arm for arm in PAINTED if arm in arms]
    found = []
    for arm in (arm for arm in PASTED if arm in arms):
        # By the best of the painted ones: a copy has to do as well as each of them.
        pairs = [(pair, rival) for rival in rivals if (pair := _over_common_seeds(arms[arm], arms[rival])) is not None]
        if pairs and all(pair[0] >= max(pair[1], _NOTHING) for pair, _ in pairs):
            found.append((arm, *max(pairs, key=lambda each: each[0][1])))
    if not found:
        return ""
    best, (miou, painted, seeds), rival = max(found, key=lambda each: each[1][0])
    return (
        f"{JUDGED[best]} defects cost no training and have {100 * miou:.1f} % mIoU, {JUDGED[rival]} ones "
        f"{100 * painted:.1f} % ({counted(seeds, 'seed')}): the action paste makes them, with blend {PASTED[best]}"
    )


def _better_painted_over(arms: Mapping[str, Any]) -> str:
    pair = _over_common_seeds(arms[REPAINT], arms[PLACE]) if {REPAINT, PLACE} <= arms.keys() else None
    if pair is None or pair[0] <= max(pair[1], _NOTHING):
        return ""
    return (
        f"defects that are pasted and painted over have {100 * pair[0]:.1f} % mIoU, those painted from noise "
        f"{100 * pair[1]:.1f} % ({counted(pair[2], 'seed')}): the option paste_noise of place makes them"
    )


def _over_common_seeds(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[float, float, int] | None:
    """Return the mean mIoU of two arms over the seeds that both have, and their number; None without any."""
    scores = [dict(zip(arm["repeats"], arm["miou"]["by_seed"], strict=True)) for arm in (first, second)]
    common = sorted(scores[0].keys() & scores[1].keys())
    if not common or any(each[seed] is None for each in scores for seed in common):
        return None
    means = [float(np.mean([each[seed] for seed in common])) for each in scores]
    return means[0], means[1], len(common)
