"""What label diffusion and its eta demand of each other, and what the published samplers of SCDM add."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from guided_diffusion.data.options import DEFAULT_ETA_SCALE, ETA_FILE
from guided_diffusion.diffusion.options import CLASSWISE, UNIFORM, LabelDiffusionOptions
from guided_diffusion.runtime.options import OptionGroup, Problem, option


class SampledLabelOptions(OptionGroup):
    """What the published samplers of SCDM add."""

    title: ClassVar = "label diffusion in sampling"
    eta_path: str = option("", f"{ETA_FILE}; for bare weights, other checkpoints have theirs", path=True)
    extrapolation: float | None = option(
        None, "x0 + this * (x0 - that of the step before), 0.8 is published for 25 steps; null: off", ge=0
    )
    unlabeled_to_zero: bool = option(False, "pixels of the class called unlabelled carry no condition")


def check_eta(
    options: LabelDiffusionOptions, eta_path: str | None, eta_scale: float | None = None
) -> Iterator[Problem]:
    """Yield what keeps `eta_path` or `eta_scale` from meaning anything; null is left to the checkpoint."""
    wanted = eta_path or eta_scale not in (None, DEFAULT_ETA_SCALE)
    if wanted and (options.cond_diffuse is False or options.cond_opt == UNIFORM):
        key = "eta_path" if eta_path else "eta_scale"
        found = "cond_diffuse is false" if options.cond_diffuse is False else f'cond_opt is "{options.cond_opt}"'
        yield (
            key,
            f'{key} is given, but {found}: eta belongs to cond_opt "{CLASSWISE}" with cond_diffuse true; '
            "set these, or leave it out",
        )
