"""The settings that a study compares: on what a model is trained, and with which augmentation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from evaluations.segmentation.augmentation import Relabel
from evaluations.segmentation.training import TrainingPlan


@dataclass(frozen=True)
class Setting:
    """One way to make a training set: `name` is for results and file names, `label` for the report.

    ratio: synthetic images for each real one; None takes all of them. source: whose samples, by the name of their
    folder; "": those that are judged.
    """

    name: str
    label: str
    real: bool = True
    ratio: float | None = 0.0
    augmentation: Literal["none", "standard", "copy-paste"] = "none"
    source: str = ""

    @property
    def is_mix(self) -> bool:
        """Whether real images are mixed with the samples that the verdict judges."""
        return self.real and self.ratio != 0 and not self.source


REAL_ONLY = Setting("real", "real only")
STANDARD_AUGMENTATION = Setting("augmented", "real, usual augmentation", augmentation="standard")
COPY_PASTE = Setting("copy_paste", "real, copy-paste", augmentation="copy-paste")
SYNTHETIC_ONLY = Setting("synthetic", "synthetic only", real=False, ratio=None)


def settings_of(
    ratios: Sequence[float],
    *,
    baselines: bool = True,
    synthetic_only: bool = True,
    augment_all: bool = False,
    others: Sequence[str] = (),
) -> list[Setting]:
    """Return the settings of a study: real only, a mix for each ratio, synthetic only, and the cheap baselines.

    augment_all: every setting has the standard augmentation, so it is not a baseline. others: names of other samples;
    each has a mix of the largest ratio.
    """
    mixes = [Setting(f"mix_{ratio:g}", f"real + {ratio:g} synthetic", ratio=ratio) for ratio in ratios]
    alone = [SYNTHETIC_ONLY] if synthetic_only else []
    cheap = [COPY_PASTE] if augment_all else [STANDARD_AUGMENTATION, COPY_PASTE]
    largest = max(ratios, default=0.0)
    rest = [
        Setting(f"other_{name}_{largest:g}", f"real + {largest:g} of {name}", ratio=largest, source=name)
        for name in others
    ]
    return [REAL_ONLY, *mixes, *rest, *alone, *(cheap if baselines else [])]


@dataclass(frozen=True)
class Run:
    """One training of a study."""

    architecture: str
    setting: Setting
    repeat: int

    @property
    def key(self) -> str:
        """Its name among the results."""
        return f"{self.architecture}-{self.setting.name}-{self.repeat}"


def runs_of(architectures: Sequence[str], settings: Sequence[Setting], seeds: int) -> list[Run]:
    """Return the runs of a study, one seed after the other, so that results of the first seeds come early."""
    return [
        Run(architecture, setting, repeat)
        for repeat in range(seeds)
        for architecture in architectures
        for setting in settings
    ]


@dataclass(frozen=True)
class StudyPlan:
    """How models are built, (architecture, seed) -> an untrained model, and trained; repeat k has the seed (seed, k).

    validation_share: the share of the real training images that choose the best state, one choice for each seed.
    augment_all: whether every setting has the standard augmentation, after copy-paste.
    """

    build: Callable[[str, int], nn.Module]
    training: TrainingPlan
    validation_share: float
    device: torch.device
    seed: int = 0
    vertical_flip: bool = False
    augment_all: bool = False
    relabel: Relabel | None = None  # of mirrored label maps

    def seed_of(self, repeat: int) -> int:
        """Return the seed of weights, validation images and training of a repeat."""
        return int(np.random.SeedSequence([self.seed, repeat]).generate_state(1)[0])
