"""What an ensemble answers: labels, how much its members disagree, and which images are certain enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Vote = Literal["mean", "majority"]
SCORED_SHARE = 10
"""The score of an image is the mean over the most uncertain pixel of so many."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the members say of an image together.

    label: [H, W] int64, class ids. uncertainty: [H, W], Jensen-Shannon divergence of the members in nats, 0 where they
    agree. confidence: [H, W], the mean probability of the label, 0 to 1.
    """

    label: Tensor
    uncertainty: Tensor
    confidence: Tensor

    @property
    def score(self) -> float:
        """How uncertain the image is: see `image_score`."""
        return image_score(self.uncertainty)


class Answers:
    """Adds up the answers of one member after another, so that the memory does not depend on their number."""

    def __init__(self, vote: Vote) -> None:
        """Take how labels come about: by the mean probability, or by majority as published."""
        self._vote, self._members = vote, 0
        self._probability: Tensor | None = None
        self._entropy: Tensor | None = None
        self._votes: Tensor | None = None

    def add(self, probability: Tensor) -> None:
        """Add the probabilities [H, W, C] of a member."""
        if self._probability is None:
            self._probability = torch.zeros_like(probability)
            self._entropy = probability.new_zeros(probability.shape[:-1])
            self._votes = torch.zeros_like(probability, dtype=torch.int16) if self._vote == "majority" else None
        self._probability += probability
        self._entropy += torch.special.entr(probability).sum(dim=-1)
        if self._votes is not None:
            chosen = probability.argmax(dim=-1, keepdim=True)
            self._votes.scatter_add_(-1, chosen, torch.ones_like(chosen, dtype=torch.int16))
        self._members += 1

    def prediction(self) -> Prediction:
        """Return what the members say together; of classes with equally many votes the smallest."""
        mean = self._probability / self._members
        label = (mean if self._votes is None else self._votes).argmax(dim=-1)
        uncertainty = torch.special.entr(mean).sum(dim=-1) - self._entropy / self._members
        confidence = mean.gather(-1, label[..., None])[..., 0]
        return Prediction(label, uncertainty.clamp_(min=0), confidence)


def image_score(uncertainty: Tensor) -> float:
    """Return the mean over the int(pixels / 10) most uncertain pixels, as published; over all if there are fewer."""
    flat = uncertainty.flatten().cpu().double()
    most = len(flat) // SCORED_SHARE or len(flat)
    return float(flat.topk(most).values.mean())


def ignore_uncertain(prediction: Prediction, above: float, ignored: int) -> Tensor:
    """Return the labels [H, W] with `ignored` where the uncertainty is greater than `above` nats."""
    return prediction.label.masked_fill(prediction.uncertainty > above, ignored)


def keep_certain(scores: Sequence[float] | NDArray[np.floating], drop: float) -> NDArray[np.int64]:
    """Return the indices, ascending, of the images left when the most uncertain share `drop` is dropped.

    Of equal scores the later image is dropped. int(drop * n) are dropped, as published, but of the right end.
    """
    order = np.argsort(np.asarray(scores), kind="stable")
    return np.sort(order[: len(order) - int(drop * len(order))])


def needed_before_dropping(wanted: int, drop: float) -> int:
    """Return how many images to make so that `keep_certain` leaves at least `wanted`; drop below 1."""
    count = wanted
    while count - int(drop * count) < wanted:
        count += 1
    return count


def published_keep(scores: Sequence[float] | NDArray[np.floating], drop: float) -> NDArray[np.int64]:
    """Return the indices that the published filter leaves, for comparison only: it drops the 30 most certain ones.

    Its slice is [30 : 30 - dropped]; with 30 or fewer to drop nothing is left.
    """
    order = np.argsort(np.asarray(scores), kind="stable")
    return np.sort(order[30 : 30 - int(drop * len(order))])
