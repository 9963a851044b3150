"""What label diffusion and its eta demand of each other, and what the published samplers of SCDM add."""

from __future__ import annotations

from collections.abc import Iterator

from guided_diffusion.data.options import ETA_FILE, ETA_SCALE
from guided_diffusion.diffusion.options import CLASSWISE, UNIFORM
from guided_diffusion.runtime.options import OptionGroup, Problem, option


class EtaChecks(OptionGroup):
    """Contradictions between label diffusion and eta."""

    def contradictions(self) -> Iterator[Problem]:
        wants_eta = self.eta_path or getattr(self, "eta_scale", None) not in (None, ETA_SCALE)
        if wants_eta and (self.cond_diffuse is False or self.cond_opt == UNIFORM):
            key = "eta_path" if self.eta_path else "eta_scale"
            said = "cond_diffuse is false" if self.cond_diffuse is False else f'cond_opt is "{self.cond_opt}"'
            yield (
                key,
                f'{key} is given, but {said}: eta belongs to cond_opt "{CLASSWISE}" with cond_diffuse true; '
                "set these, or leave it out",
            )


class SampledLabelOptions(OptionGroup):
    """What the published samplers of SCDM add."""

    eta_path: str = option("", f"{ETA_FILE}; for bare weights, other checkpoints have theirs")
    extrapolation: float | None = option(
        None, "x0 + this * (x0 - that of the step before), 0.8 is published for 25 steps; null: off", ge=0
    )
    unlabeled_to_zero: bool = option(False, "pixels of the class called unlabelled carry no condition")
