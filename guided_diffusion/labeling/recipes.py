"""How pixel classifiers are trained: as published, or in a few large steps."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from guided_diffusion.labeling.options import ClassifierOptions
from guided_diffusion.labeling.uncertainty import Vote


@dataclass(frozen=True)
class Recipe:
    """Settings of a fit.

    batch: pixels of a member in a step. steps: of a `fast` fit. epochs: the most of a `published` fit. balance: pixels
    are also drawn by class and on rims. standardize: features are, which is folded into the first layer at the end.
    """

    name: Literal["fast", "published"] = "fast"
    batch: int = 512
    steps: int = 400
    epochs: int = 0
    lr: float = 3e-3
    balance: bool = True
    standardize: bool = True
    vote: Vote = "mean"

    def total_steps(self, pixels: int) -> int:
        """Return the most steps of a fit on so many labeled pixels."""
        return self.steps if self.name == "fast" else self.epochs * self.steps_per_epoch(pixels)

    def steps_per_epoch(self, pixels: int) -> int:
        """Return the steps in which each pixel is seen once; the last incomplete batch is dropped."""
        return pixels // self.batch

    def lr_at(self, step: int) -> float:
        """Return the learning rate of step 0, 1, ...: a cosine down to 0, or constant as published."""
        return self.lr if self.name == "published" else self.lr * 0.5 * (1 + math.cos(math.pi * step / self.steps))


FAST = Recipe()
PUBLISHED = Recipe("published", 64, 0, 100, 1e-3, balance=False, standardize=False, vote="majority")


def recipe_of(options: ClassifierOptions) -> Recipe:
    """Return the recipe that options name, with what they change of it."""
    changes = {
        "steps": options.classifier_steps,
        "batch": options.classifier_batch,
        "lr": options.classifier_lr,
        "balance": options.balance,
        "vote": options.vote,
    }
    recipe = FAST if options.recipe == "fast" else PUBLISHED
    return replace(recipe, **{key: value for key, value in changes.items() if value is not None})


@dataclass
class StoppingRule:
    """The published rule of one member: it stops when 51 steps in a row have not lowered the loss of a batch.

    Epochs 0 to 3 do not count, not even as the best loss so far.
    """

    steps_per_epoch: int
    best: float = math.inf
    without_progress: int = 0
    stopped_after: int = 0
    """Steps done when it stopped; 0: it has not."""

    def after(self, step: int, loss: float) -> bool:
        """Take the loss of step 0, 1, ...; return whether to stop now."""
        if step < 4 * self.steps_per_epoch:
            return False
        if loss < self.best:
            self.best, self.without_progress = loss, 0
        else:
            self.without_progress += 1
        if self.without_progress > 50:
            self.stopped_after = step + 1
        return self.stopped_after > 0
