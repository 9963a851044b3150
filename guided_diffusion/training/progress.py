"""How far a training run is: everything that a resumed run must know beside weights and optimizer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

QUARTILES = 4
TIMED = ("seconds", "images_since_start")
"""Of the sums: what depends on the machine and on when it was interrupted."""


@dataclass
class EpochSums:
    """Sums over the running epoch, from which its means are made; over all processes."""

    loss: float = 0.0
    images: float = 0.0
    quartile_loss: list[float] = field(default_factory=lambda: [0.0] * QUARTILES)
    quartile_weight: list[float] = field(default_factory=lambda: [0.0] * QUARTILES)
    grad_norm: float = 0.0
    steps: int = 0
    bad_steps: int = 0
    seconds: float = 0.0
    """Of this process, for `images_since_start` images; neither is saved."""
    images_since_start: float = 0.0

    @staticmethod
    def of_step(losses: Tensor, importance: Tensor, weights: Tensor, t: Tensor, num_timesteps: int) -> Tensor:
        """Return one step's sums as a vector that can be added up over processes.

        losses, t: [n]. importance: [n], 1 / (T p_t) where timesteps are not drawn uniformly. weights: [n], 0 for an
        image that only keeps a process busy.
        Returns float64 [2 + 2 * QUARTILES]: loss, images, then loss and total importance of each quartile of t.
        """
        weights = weights.double()
        importance = importance.double() * weights
        losses = losses.double() * importance
        quartile = torch.nn.functional.one_hot(t * QUARTILES // num_timesteps, QUARTILES).double()
        return torch.cat(
            [
                torch.stack([losses.sum(), weights.sum()]),
                (losses[:, None] * quartile).sum(0),
                (importance[:, None] * quartile).sum(0),
            ]
        )

    def add(self, step: list[float], grad_norm: float) -> None:
        """Add a step's vector, as made by `of_step` and summed over the processes."""
        self.loss += step[0]
        self.images += step[1]
        self.images_since_start += step[1]
        for q in range(QUARTILES):
            self.quartile_loss[q] += step[2 + q]
            self.quartile_weight[q] += step[2 + QUARTILES + q]
        self.grad_norm += grad_norm
        self.steps += 1

    @property
    def mean_loss(self) -> float:
        """Mean loss an image; NaN before the first good step."""
        return self.loss / self.images if self.images else math.nan

    def means(self) -> dict[str, float]:
        """Return the epoch's metrics by the names the log uses; quartile 0 holds the least noisy timesteps."""
        values = {"loss": self.mean_loss}
        for q in range(QUARTILES):
            if self.quartile_weight[q]:
                values[f"loss_q{q}"] = self.quartile_loss[q] / self.quartile_weight[q]
        if self.steps:
            values["grad_norm"] = self.grad_norm / self.steps
        if self.seconds > 0:
            values["images_per_second"] = self.images_since_start / self.seconds
        values["bad_steps"] = self.bad_steps
        return values


@dataclass
class Progress:
    """Position of a run. All random draws are functions of the run's seed and this position."""

    epoch: int = 0
    """Epochs finished."""
    batch: int = 0
    """Batches of the running epoch that are done."""
    images: int = 0
    """Images of the running epoch that are done, over all processes."""
    global_batch: int = 0
    """Images of a full step over all processes; another number makes other batches."""
    dataset_size: int = 0
    """Images of an epoch."""
    step: int = 0
    """Optimizer steps taken."""
    bad_in_a_row: int = 0
    best_loss: float = math.inf
    best_epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    sums: EpochSums = field(default_factory=EpochSums)

    def is_over(self, max_epochs: int, lr_anneal_steps: int) -> bool:
        """Return whether nothing is left to train: all epochs are done, or the learning rate has fallen to 0."""
        return self.epoch >= max_epochs or 0 < lr_anneal_steps <= self.step

    def state_dict(self) -> dict[str, Any]:
        """Return plain values, as a checkpoint stores them: the same for the same training, however long it took."""
        state = asdict(self)
        for key in TIMED:
            del state["sums"][key]
        return state

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Progress:
        """Return the progress a checkpoint holds."""
        return cls(**{**state, "history": list(state["history"]), "sums": _sums_of(state["sums"])})


def _sums_of(state: Mapping[str, Any]) -> EpochSums:
    # Checkpoints of older versions have the seconds, too.
    return EpochSums(**{key: value for key, value in state.items() if key not in TIMED})
