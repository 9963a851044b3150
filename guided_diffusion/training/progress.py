"""The position of a training run: all that a resumed run needs beside weights and optimizer state."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from guided_diffusion.training.options import OptimizerOptions

QUARTILES = 4
BEST_IMAGES = 4096
"""Over which losses are averaged to tell which epoch is the best. The loss of one image varies by about its mean, with
its timestep and noise, so that the mean of an epoch of 60 images is off by 13 %, and one over these by 1.6 %."""
TIMED = ("seconds", "images_since_start")
"""Fields of `EpochSums` that depend on the machine and on interruptions."""


@dataclass
class EpochSums:
    """Sums over the current epoch and all processes, of which its means are made."""

    loss: float = 0.0
    images: float = 0.0
    quartile_loss: list[float] = field(default_factory=lambda: [0.0] * QUARTILES)
    quartile_weight: list[float] = field(default_factory=lambda: [0.0] * QUARTILES)
    mask_loss: float = 0.0
    mask_images: float = 0.0
    grad_norm: float = 0.0
    steps: int = 0
    bad_steps: int = 0
    seconds: float = 0.0
    """Of this process, for `images_since_start` images; neither is saved."""
    images_since_start: float = 0.0

    @staticmethod
    def of_step(losses: Tensor, importance: Tensor, weights: Tensor, t: Tensor, num_timesteps: int) -> Tensor:
        """Return one step's sums as float64 [4 + 2 * QUARTILES], which can be summed over processes.

        They are loss, images, loss and total importance of each quartile of t, loss of masks and images with such.
        losses: [1 or 3, n], see `Trainer`. t: [n]. importance: [n], 1 / (T p_t) where timesteps are not drawn
        uniformly. weights: [n], 0 for an image that only pads a batch.
        """
        weights = weights.double()
        importance = importance.double() * weights
        masks = (losses[1:].double() * weights).sum(1) if len(losses) > 1 else weights.new_zeros(2)
        losses = losses[0].double() * importance
        quartile = torch.nn.functional.one_hot(t * QUARTILES // num_timesteps, QUARTILES).double()
        return torch.cat(
            [
                torch.stack([losses.sum(), weights.sum()]),
                (losses[:, None] * quartile).sum(0),
                (importance[:, None] * quartile).sum(0),
                masks,
            ]
        )

    def add(self, step: list[float], grad_norm: float) -> None:
        """Add the vector of a step, which `of_step` makes, summed over the processes."""
        self.loss += step[0]
        self.images += step[1]
        self.images_since_start += step[1]
        for q in range(QUARTILES):
            self.quartile_loss[q] += step[2 + q]
            self.quartile_weight[q] += step[2 + QUARTILES + q]
        self.mask_loss += step[-2]
        self.mask_images += step[-1]
        self.grad_norm += grad_norm
        self.steps += 1

    @property
    def mean_loss(self) -> float:
        """Mean loss of an image; NaN before the first finite step."""
        return self.loss / self.images if self.images else math.nan

    def means(self) -> dict[str, float]:
        """Return the epoch's metrics by their names in the log; quartile 0 has the least noisy timesteps."""
        values = {"loss": self.mean_loss}
        for q in range(QUARTILES):
            if self.quartile_weight[q]:
                values[f"loss_q{q}"] = self.quartile_loss[q] / self.quartile_weight[q]
        if self.mask_images:
            values["mask_loss"] = self.mask_loss / self.mask_images
        if self.steps:
            values["grad_norm"] = self.grad_norm / self.steps
        if self.seconds > 0:
            values["images_per_second"] = self.images_since_start / self.seconds
        values["bad_steps"] = self.bad_steps
        return values


@dataclass
class Progress:
    """Position of a run. All random draws are functions of the run's seed and this position.

    epoch: finished epochs. batch, images: those of the current epoch that are done, over all processes.
    global_batch, dataset_size: images of a full step over all processes, and of an epoch; they make the batches.
    step: optimizer steps taken. bad_in_a_row: steps since then that were not finite. best_loss: the lowest
    `recent_loss`, that of best_epoch, of the epochs after searched_from.
    """

    epoch: int = 0
    batch: int = 0
    images: int = 0
    global_batch: int = 0
    dataset_size: int = 0
    step: int = 0
    bad_in_a_row: int = 0
    best_loss: float = math.inf
    best_epoch: int = 0
    searched_from: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    sums: EpochSums = field(default_factory=EpochSums)

    def is_over(self, options: OptimizerOptions) -> bool:
        """Return whether nothing is left to train: all epochs are done, or the learning rate has fallen to 0."""
        return self.epoch >= options.max_epochs or 0 < options.lr_anneal_steps <= self.step

    def last_step(self, options: OptimizerOptions, batches: int) -> int:
        """Return the number of steps after which `max_epochs` of so many batches have passed."""
        return self.step + (options.max_epochs - self.epoch) * batches - self.batch

    @property
    def recent_loss(self) -> float:
        """Mean loss of an image over the last epochs that have BEST_IMAGES images together; NaN of none."""
        return self._recent_loss(self.epoch)

    def _recent_loss(self, until: int) -> float:
        loss = images = 0.0
        for record in reversed(self.history):
            if record["epoch"] > until:
                continue
            if images >= BEST_IMAGES or record["epoch"] <= self.searched_from:
                break
            if math.isfinite(record["loss"]):
                seen = record.get("images", self.dataset_size)
                loss, images = loss + seen * record["loss"], images + seen
        return loss / images if images else math.nan

    def find_best(self) -> bool:
        """Return whether the epoch that has just ended is the best one so far, and then keep it as that."""
        loss = self.recent_loss
        if not loss < self.best_loss:
            return False
        self.best_loss, self.best_epoch = loss, self.epoch
        return True

    def restart_search(self) -> None:
        """Forget the best epoch, and compare none of those before with those that come."""
        self.best_loss, self.best_epoch, self.searched_from = math.inf, 0, self.epoch

    def state_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint, equal for equal trainings, however long they took."""
        state = asdict(self)
        for key in TIMED:
            del state["sums"][key]
        return state

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Progress:
        """Return the progress that a checkpoint stores."""
        # Older checkpoints have the seconds, too.
        sums = {key: value for key, value in state["sums"].items() if key not in TIMED}
        progress = cls(**{**state, "history": list(state["history"]), "sums": EpochSums(**sums)})
        if progress.best_epoch and "searched_from" not in state:
            progress.best_loss = progress._recent_loss(progress.best_epoch)  # earlier versions kept the epoch's own
        return progress
