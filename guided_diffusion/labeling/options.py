"""Options of pixel classifiers: how they are trained and joined, and what becomes of uncertain pixels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from guided_diffusion.runtime.options import OptionGroup, Problem, option

FAVORS = (0.0, 0.25, 0.5, 0.75, 1.0)


class UncertaintyOptions(OptionGroup):
    """What becomes of what the pixel classifiers are unsure of."""

    title: ClassVar = "uncertainty"
    flip: bool = option(False, "average what is said of an image and of its mirror image")
    ignore_above: float | None = option(
        None,
        "pixels whose classifiers differ by more (Jensen-Shannon, nats) are ignored; null: from where a third of the "
        "held-out pixels was wrong, or 0.1 without folds",
        ge=0,
    )
    drop_uncertain: float = option(
        0.1, "share of the new images, the most uncertain ones, that get no pair", ge=0, lt=1
    )


class ClassifierOptions(OptionGroup):
    """The pixel classifiers."""

    title: ClassVar = "pixel classifiers"
    recipe: Literal["fast", "published"] = option(
        "fast", "how pixel classifiers are trained; published: batch 64, the stopping rule and the majority vote"
    )
    members: int = option(10, "pixel classifiers that vote", ge=1, le=1000)
    classifier_steps: int | None = option(None, "training steps of recipe fast; null: 400", ge=1)
    classifier_batch: int | None = option(None, "pixels of a step and classifier; null: 512, or 64 as published", ge=2)
    classifier_lr: float | None = option(None, "learning rate; null: 0.003, or 0.001 as published", gt=0)
    balance: bool | None = option(
        None, "half of the pixels are drawn by class and on rims; null: yes, or no as published"
    )
    favor_rare: Annotated[float, Field(ge=0, le=1)] | Literal["auto"] | None = option(
        None,
        "0: classes are as frequent as in the labels, 1: as in the training steps, which rare ones gain by; auto: what "
        "scores best on the folds; null: auto, or 0 as published",
    )
    vote: Literal["mean", "majority"] | None = option(
        None, "how classifiers are joined; mean: of probabilities; null: mean, or majority as published"
    )

    @property
    def favors(self) -> tuple[float, ...]:
        """The values of `favor_rare` of which the folds choose; one where it is given."""
        if self.favor_rare is None and self.recipe == "published":
            return (0.0,)
        return FAVORS if self.favor_rare in (None, "auto") else (float(self.favor_rare),)

    def check(self) -> Iterator[Problem]:
        if self.recipe == "published":
            for key in ("classifier_steps", "balance"):
                if getattr(self, key):
                    yield (key, f"{key} belongs to recipe fast, but recipe is published: leave it out")
