"""The option groups of label diffusion (SCDM): what vanishes from the maps in training, and what sampling adds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from guided_diffusion.options import OptionGroup, Problem, option

UNIFORM, CLASSWISE = "discrete_zero_uniform", "discrete_zero_classwise"
ETA_SCALE = 0.284  # with it computed eta fit those published for ADE20K, with an error of 0.08 in the logarithm
ETA_FILE = "file of eta, one number a class as numpy.save writes it (the published layout)"


class EtaOptions(OptionGroup):
    """How long each class stays in class-wise label diffusion."""

    eta_path: str = option("", f"{ETA_FILE}; empty: computed from the training masks")
    eta_scale: float = option(ETA_SCALE, "scale of an eta that is computed: larger, and all classes stay longer", gt=0)

    def contradictions(self) -> Iterator[Problem]:
        if self.eta_path and self.eta_scale not in (None, ETA_SCALE):
            yield (
                "eta_scale",
                f"eta_scale is {self.eta_scale:g}, but eta_path gives eta as it is: leave one of the two out",
            )


class LabelDiffusionOptions(OptionGroup):
    """With noise in the image, classes vanish from its map, so that wrong masks do less harm (SCDM)."""

    cond_diffuse: bool = option(False, "label diffusion: the noisier the image, the more pixels of its mask are null")
    cond_opt: Literal["discrete_zero_uniform", "discrete_zero_classwise"] = option(
        "discrete_zero_uniform", "uniform: all classes vanish alike; classwise: rare and small ones later, by eta"
    )

    def contradictions(self) -> Iterator[Problem]:
        if self.cond_diffuse is False and self.cond_opt == CLASSWISE:
            yield (
                "cond_opt",
                f'cond_opt is "{CLASSWISE}", but cond_diffuse is false: set cond_diffuse to true, or leave it out',
            )
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
