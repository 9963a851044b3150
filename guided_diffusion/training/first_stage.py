"""The first phase of a latent model: the training of its autoencoder."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from guided_diffusion.data.loader import TrainBatch, TrainLoader
from guided_diffusion.models.autoencoder import Autoencoder, Posterior, Reconstruction
from guided_diffusion.runtime.distributed import ProcessGroup
from guided_diffusion.runtime.errors import Interrupted, UserError
from guided_diffusion.runtime.logs import RunLog
from guided_diffusion.runtime.seeding import Stream, step_generators
from guided_diffusion.runtime.signals import STOP_SIGNALS, GracefulExit
from guided_diffusion.training.ema import EMA
from guided_diffusion.training.options import FirstStageOptions

KL_WEIGHT = 1e-6
DECODER_NOISE = 0.05
"""Noise on latents in the second half, in standard deviations of each: samples are never quite what was encoded."""
EMA_RATE = 0.999
FOCUSED = 0.5
"""Share of the crops that show a pixel of a class other than the background, each class that is there alike."""
SAVE_SECONDS = 60.0
MOST_BAD = 20
_LINES = 20  # of the log

Encode = Callable[[Tensor, Tensor], Tensor]
"""(images [N, C, H, W], label maps [N, H, W]) -> what the autoencoder sees, [N, channels, H, W]."""
Save = Callable[[Mapping[str, Any]], None]
"""Writes the state of the training into the checkpoint of the run; called in the main process."""


@dataclass(eq=False, kw_only=True)
class FirstStageTrainer:
    """Trains an autoencoder on random crops of a loader's images and masks.

    class_weight: [classes] of the cross entropy. crop: side of the crops. path: of the checkpoint that
    `save` writes.
    """

    autoencoder: Autoencoder
    loader: TrainLoader
    encode: Encode
    class_weight: Tensor
    background: int
    crop: int
    options: FirstStageOptions
    seed: int
    world: ProcessGroup
    log: RunLog
    amp_dtype: torch.dtype | None
    path: Path
    save: Save

    def __post_init__(self) -> None:
        self.step = self.epoch = self.batch = self.images = 0
        self.ema = EMA(self.autoencoder, [EMA_RATE])
        self.optimizer = torch.optim.AdamW(
            self.autoencoder.parameters(), lr=self.options.autoencoder_lr, weight_decay=0
        )
        self.stop = GracefulExit()
        self._parameters = list(self.autoencoder.parameters())
        self._class_weight = self.class_weight.to(self.world.device)
        self._bad = 0
        self._sums: list[float] = []

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {
            **{key: getattr(self, key) for key in ("step", "epoch", "batch", "images")},
            "model": self.autoencoder.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that `state` returned, as if there had been no interruption."""
        for key in ("step", "epoch", "batch", "images"):
            setattr(self, key, state[key])
        self.autoencoder.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])

    def fit(self) -> None:
        """Train until `autoencoder_steps`, then give the autoencoder its averaged weights, and scores without weights.

        Raises Interrupted after a stop signal, when the state is saved, and UserError where the loss stays not finite.
        """
        steps = self.options.autoencoder_steps
        self.autoencoder.train()
        saved = time.monotonic()
        with self.stop, tqdm(
            total=steps, initial=self.step, unit="step", desc="autoencoder", dynamic_ncols=True,
            disable=not self.world.is_main,
        ) as bar:  # fmt: skip
            while self.step < steps:
                for batch in self.loader.epoch(self.epoch, self.images):
                    stopped_by = self._train_step(batch)
                    bar.update(self.step - bar.n)
                    if stopped_by or time.monotonic() - saved > SAVE_SECONDS:
                        self._save()
                        saved = time.monotonic()
                    if stopped_by:
                        where = f"in step {self.step} of the autoencoder"
                        line = f"interrupted {where}; the same command goes on from {self.path.absolute()}"
                        raise Interrupted(stopped_by, line)
                    if self.step >= steps:
                        break
                else:
                    self.epoch += 1
                    self.batch = self.images = 0
            self._save()
        with torch.no_grad():
            for parameter, average in zip(self._parameters, next(iter(self.ema.averages.values())), strict=True):
                parameter.copy_(average)
        # The weights keep rare classes alive in training; in decoded masks they would make every rim of theirs wider.
        self.autoencoder.undo_class_weights(self._class_weight)
        self.autoencoder.eval()

    def _save(self) -> None:
        if self.world.is_main:
            self.save(self.state())

    def _train_step(self, batch: TrainBatch) -> int:
        """Take one step; return the number of the signal that asked to stop, 0 for none."""
        device, steps = self.world.device, self.options.autoencoder_steps
        key = (self.seed, self.epoch, self.batch)
        generators = step_generators(Stream.LATENT, key, batch.batch_index.tolist())
        image, label = crops(batch, self.crop, self.background, generators)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None):
            posterior = self.autoencoder.posterior(self.encode(image, label))
            drawn, noise = (
                torch.stack([torch.randn(posterior.mean.shape[1:], generator=each) for each in generators]).to(device)
                for _ in range(2)
            )
            z = posterior.mean + posterior.log_std.exp() * drawn
            if 2 * self.step >= steps:
                z = z + DECODER_NOISE * z.detach().std((2, 3), keepdim=True) * noise
            made = self.autoencoder.decode(z)
        losses = first_stage_losses(image, label, made, posterior, self._class_weight)
        (losses * batch.weight.to(device)).sum().div(batch.global_size).backward()
        loss, norm, stopped_by = self._exchange(losses, batch)
        self.batch += 1
        self.images += batch.global_size
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self._skip(loss)
            return stopped_by
        self._bad = 0
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.autoencoder_lr * (1 - self.step / steps)
        self.optimizer.step()
        self.step += 1
        self.ema.update(self.step)
        self._tell(loss)
        return stopped_by

    def _exchange(self, losses: Tensor, batch: TrainBatch) -> tuple[float, float, int]:
        """Sum gradients over the processes and clip them; return mean loss, norm, and the signal that asked to stop."""
        asked = torch.tensor([self.stop.signal_number == number for number in STOP_SIGNALS]).float()
        loss = (losses.detach().float().cpu() * batch.weight).sum() / batch.global_size
        told = torch.cat([loss[None], asked])
        if self.world.size > 1:
            gradients = [parameter.grad for parameter in self._parameters]
            flat = torch.cat([told.to(self.world.device), *(each.flatten() for each in gradients)])
            told, *summed = self.world.sum(flat).split([len(told), *(each.numel() for each in gradients)])
            for gradient, total in zip(gradients, summed, strict=True):
                gradient.copy_(total.view_as(gradient))
        norm = nn.utils.clip_grad_norm_(self._parameters, 1.0)
        loss, *asked = told.tolist()
        return loss, float(norm), next((number for number, one in zip(STOP_SIGNALS, asked, strict=True) if one), 0)

    def _skip(self, loss: float) -> None:
        self._bad += 1
        if self._bad >= MOST_BAD:
            line = f"autoencoder_lr: {self._bad} steps in a row had a loss that is not finite ({loss:g}): lower it"
            raise UserError(line, collective=True, already_printed=not self.world.is_main)

    def _tell(self, loss: float) -> None:
        self._sums.append(loss)
        steps = self.options.autoencoder_steps
        if self.step % max(1, steps // _LINES) == 0 or self.step == steps:
            mean = sum(self._sums) / len(self._sums)
            self.log.info(f"autoencoder, step {self.step}/{steps}  loss {mean:.5f}")
            self._sums = []


def crops(batch: TrainBatch, side: int, background: int, generators: list[torch.Generator]) -> tuple[Tensor, Tensor]:
    """Return a square of each image and its label map, [N, C, side, side] and [N, side, side] int64.

    `FOCUSED` of them show a pixel of a class other than the background, where there is one.
    """
    label = batch.condition.label
    height, width = label.shape[1:]
    if height == width == side:
        return batch.image, label.long()
    images, labels = [], []
    for image, each, generator in zip(batch.image, label, generators, strict=True):
        draw = torch.rand(5, generator=generator).tolist()
        top, left = int(draw[0] * (height - side + 1)), int(draw[1] * (width - side + 1))
        classes = [kind for kind in each.unique().tolist() if kind not in (background, batch.condition.num_classes)]
        if classes and draw[2] < FOCUSED:
            pixels = (each == classes[int(draw[3] * len(classes))]).nonzero()
            row, column = pixels[int(draw[4] * len(pixels))].tolist()
            # The pixel lies anywhere in the crop, as far as the image allows.
            top = min(max(row - int(draw[0] * side), 0), height - side)
            left = min(max(column - int(draw[1] * side), 0), width - side)
        part = (slice(top, top + side), slice(left, left + side))
        images.append(image[(slice(None), *part)])
        labels.append(each[part].long())
    return torch.stack(images), torch.stack(labels)


def first_stage_losses(
    image: Tensor, label: Tensor, made: Reconstruction, posterior: Posterior, class_weight: Tensor
) -> Tensor:
    """Return for each of N images L1 of the image + weighted cross entropy of the labels + `KL_WEIGHT` * KL, [N].

    The KL divergence from the standard normal distribution is summed over the channels, mean over positions.
    """
    mean, log_std = posterior.mean.float(), posterior.log_std.float()
    kl = (mean.square() + (2 * log_std).exp() - 1 - 2 * log_std).sum(1).div(2).flatten(1).mean(1)
    loss = KL_WEIGHT * kl
    if made.image is not None:
        loss = loss + (made.image - image).abs().flatten(1).mean(1)
    if made.scores is not None:
        # Null pixels without a score of their own: none are trained on.
        known = label.where(label < made.scores.shape[1], -1)
        entropy = F.cross_entropy(made.scores, known, class_weight, reduction="none", ignore_index=-1)
        loss = loss + entropy.flatten(1).mean(1)
    return loss


def class_weights(shares: Tensor) -> Tensor:
    """Return weights of the cross entropy, [K], of the classes' shares of the pixels [K]: share^-1/2, 1 in the mean
    over the pixels.
    """
    shares = shares.double().clamp(min=1e-6)
    weights = shares.rsqrt()
    return (weights / (weights * shares).sum() * shares.sum()).float()
