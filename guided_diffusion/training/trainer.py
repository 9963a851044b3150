"""The trainer: fit -> train_epoch -> train_step. All its parts are arguments."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from guided_diffusion.data.loader import TrainBatch, TrainLoader
from guided_diffusion.diffusion.gaussian import GaussianDiffusion
from guided_diffusion.diffusion.samplers import draw_noise
from guided_diffusion.diffusion.timestep_sampler import TimestepSampler
from guided_diffusion.runtime.checkpoint import BEST, LAST, Checkpoint, save_checkpoint
from guided_diffusion.runtime.distributed import ProcessGroup
from guided_diffusion.runtime.errors import Interrupted, UserError
from guided_diffusion.runtime.logs import RunLog
from guided_diffusion.runtime.memory import peak_memory_gib
from guided_diffusion.runtime.seeding import Stream, derive_seed, step_generators
from guided_diffusion.runtime.signals import STOP_SIGNALS, GracefulExit
from guided_diffusion.training.ema import EMA
from guided_diffusion.training.mask_supervision import MaskSupervision
from guided_diffusion.training.options import OptimizerOptions, RunOptions
from guided_diffusion.training.progress import EpochSums, Progress
from guided_diffusion.training.target import Target

SAVING_SHARE = 0.05
"""Largest share of the time that is spent on writing `last.pt`."""
MID_EPOCH_SECONDS = 300.0
"""Least time between two checkpoints within an epoch."""


@dataclass(eq=False, kw_only=True)
class Trainer:
    """Trains a conditioned network on batches of images and their maps.

    describe: entries of every checkpoint beside its state (config, encoding, lineage). amp_dtype: the type the network
    runs in, None for that of its weights. target: what is learned of a batch. preview: called with the epoch in the
    main process; returns what it measured, for the log. supervision: how masks of objects learn from true ones; then a
    step has three rows of losses [3, n], of images, of masks, and 1 for each image that has the latter, else one.
    """

    model: nn.Module
    diffusion: GaussianDiffusion
    timestep_sampler: TimestepSampler
    loader: TrainLoader
    optimizer: torch.optim.Optimizer
    ema: EMA
    options: OptimizerOptions
    run: RunOptions
    world: ProcessGroup
    log: RunLog
    describe: Mapping[str, Any]
    amp_dtype: torch.dtype | None
    target: Target
    preview: Callable[[int], Mapping[str, float]] | None
    supervision: MaskSupervision | None = None

    def __post_init__(self) -> None:
        self.folder = Path(self.run.output_dir)
        batches = self.loader.batch_plan
        self.progress = Progress(global_batch=batches.global_batch, dataset_size=batches.num_items)
        self.scaler = torch.amp.GradScaler(self.world.device.type, enabled=self.amp_dtype is torch.float16)
        self.stop = GracefulExit()
        self._network = self.model
        if self.world.size > 1:
            devices = [self.world.device] if self.world.device.type == "cuda" else None
            self._network = DistributedDataParallel(
                self.model, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True
            )
        self._parameters = [p for p in self.model.parameters() if p.requires_grad]
        self._stop_signal = 0
        self._unsaved_best: dict[str, Any] | None = None
        self._unsaved = False
        self._saved_at = time.monotonic()
        self._save_seconds = 0.0

    # --- the loop ------------------------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """True where nothing is left to train."""
        return self.progress.is_over(self.options)

    def fit(self) -> Progress:
        """Train until `max_epochs` (or the end of the annealing) and return the progress.

        Raises Interrupted after a stop signal, when the state is saved, and UserError after too many non-finite
        steps in a row, which keeps the last good checkpoint.
        """
        self.model.train()
        self.log.start_metrics(self.progress.epoch, self.progress.step)
        with self.stop, self._progress_bar() as bar:
            while not self.finished:
                self.train_epoch(bar)
            self._save()
        return self.progress

    def _progress_bar(self) -> tqdm:
        last = self.progress.last_step(self.options, self.loader.batch_plan.num_batches)
        total = min(last, self.options.lr_anneal_steps or math.inf)
        disable = not self.world.is_main
        return tqdm(total=total, initial=self.progress.step, unit="step", dynamic_ncols=True, disable=disable)

    def train_epoch(self, bar: tqdm) -> None:
        """Train from the position of `progress` to the end of its epoch."""
        progress = self.progress
        started = time.monotonic()
        before = progress.sums.seconds
        for batch in self.loader.epoch(progress.epoch, progress.images):
            self.train_step(batch)
            progress.sums.seconds = before + time.monotonic() - started
            self._show(bar)
            if self.finished:
                break
            self._stop_if_asked()
            self._save_if_due(MID_EPOCH_SECONDS)
        self._end_epoch()
        self._save_if_due()
        self._stop_if_asked()

    def _end_epoch(self) -> None:
        progress, sums = self.progress, self.progress.sums
        progress.epoch += 1
        progress.batch = progress.images = 0
        self._unsaved = True  # also where its last step was saved already
        means = sums.means()
        means["lr"] = self._learning_rate(max(progress.step - 1, 0))
        # Not what differs from run to run: equal trainings have equal checkpoints.
        lasting = {key: value for key, value in means.items() if key != "images_per_second"}
        images = int(sums.images)
        progress.history.append({"epoch": progress.epoch, "step": progress.step, "images": images, **lasting})
        means["peak_memory_gib"] = peak_memory_gib(self.world.device)
        progress.sums = EpochSums()
        if progress.find_best():
            self._unsaved_best = self._weights(copy=True) if self.world.is_main else None
        self._report(means)
        interval = self.run.preview_interval
        if self.preview and interval and (progress.epoch % interval == 0 or self.finished):
            if self.world.is_main:
                self.model.eval()
                measured = self.preview(progress.epoch)
                self.model.train()
                if measured:
                    self.log.log_metrics(progress.step, {"epoch": progress.epoch, **measured})
            self.world.barrier()

    def _report(self, means: Mapping[str, float]) -> None:
        progress = self.progress
        quartiles = " ".join(f"{means[f'loss_q{q}']:.4f}" if f"loss_q{q}" in means else "-" for q in range(4))
        masks = f"  masks {means['mask_loss']:.4f}" if "mask_loss" in means else ""
        bad = f"  skipped {int(means['bad_steps'])} non-finite steps" if means["bad_steps"] else ""
        self.log.info(
            f"epoch {progress.epoch}/{self.options.max_epochs}  loss {means['loss']:.5f}"
            f" (best mean {progress.best_loss:.5f} in epoch {progress.best_epoch})  by timestep {quartiles}{masks}"
            f"  grad {means.get('grad_norm', math.nan):.3f}  lr {means['lr']:.2e}"
            f"  {means.get('images_per_second', 0.0):.1f} images/s  peak {means['peak_memory_gib']:.2f} GiB{bad}"
        )
        self.log.log_metrics(progress.step, {"epoch": progress.epoch, **means})

    def _show(self, bar: tqdm) -> None:
        progress = self.progress
        bar.update(progress.step - bar.n)
        bar.set_description(f"epoch {progress.epoch + 1}/{self.options.max_epochs}", refresh=False)
        best = f", best mean {progress.best_loss:.4f}" if progress.best_epoch else ""
        bar.set_postfix_str(f"loss {progress.sums.mean_loss:.4f}{best}", refresh=False)

    # --- one step ------------------------------------------------------------------------------------------------

    def train_step(self, batch: TrainBatch) -> None:
        """Take one optimizer step on a batch; a step whose loss or gradient is not finite is skipped and counted."""
        progress, options = self.progress, self.options
        key = (self.run.seed, progress.epoch, progress.batch)
        t, weights = self.timestep_sampler.draw(
            key, batch.batch_index, batch.global_size, self.loader.batch_plan.num_batches
        )
        # All at once and first: when there is work on the device, copies to it would wait for that.
        on_device, importance, counted = (values.to(self.world.device) for values in (t, weights, batch.weight))
        self.optimizer.zero_grad(set_to_none=True)
        share = importance[None]
        if self.supervision is not None:  # whose loss does not depend on t
            constant = (torch.full_like(importance, weight) for weight in (self.supervision.weight, 0.0))
            share = torch.stack([importance, *constant])
        share = share * counted * self.world.size / batch.global_size
        losses = self._forward_backward(batch, on_device, share, key)
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self._parameters, options.grad_clip or math.inf)
        sums, grad_norm, losses = self._read_back(losses, importance, counted, on_device, norm)

        progress.batch += 1
        progress.images += batch.global_size
        self._unsaved = True
        if math.isfinite(sums[0]) and math.isfinite(grad_norm):
            self._update(sums, grad_norm)
        else:
            self._skip(sums[0])
        self.scaler.update()
        if self.timestep_sampler.adaptive:
            self._teach_timestep_sampler(batch, t, losses)

    def _read_back(
        self, losses: Tensor, importance: Tensor, counted: Tensor, t: Tensor, grad_norm: Tensor
    ) -> tuple[list[float], float, list[float]]:
        """Return the step's sums over all processes, the norm of its gradients, and this process's losses of images.

        They come from the device in one copy, the only one of a step: each makes the program wait for the device.
        """
        # NCCL only sums what lies on the GPU, and MPS has no float64.
        place = torch.device("cpu") if self.world.device.type == "mps" else self.world.device
        losses, importance, counted, t, norm = (v.to(place) for v in (losses, importance, counted, t, grad_norm))
        asked = torch.tensor([self.stop.signal_number == number for number in STOP_SIGNALS]).double()
        sums = EpochSums.of_step(losses, importance, counted, t, self.diffusion.num_timesteps)
        sums = self.world.sum(torch.cat([sums, asked.to(place, non_blocking=True)]))
        values = torch.cat([sums, norm.double()[None], losses[0].double()]).tolist()
        summed, (grad_norm, *losses) = values[: len(sums)], values[len(sums) :]
        asked = zip(STOP_SIGNALS, summed[-len(STOP_SIGNALS) :], strict=True)
        # From the sum, not from this process's own flag: all have to stop after the same step.
        self._stop_signal = next((number for number, count in asked if count), 0)
        return summed[: -len(STOP_SIGNALS)], grad_norm, losses

    def _update(self, sums: list[float], grad_norm: float) -> None:
        progress = self.progress
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate(progress.step)
        self.scaler.step(self.optimizer)
        progress.step += 1
        progress.bad_in_a_row = 0
        progress.sums.add(sums, grad_norm)
        self.ema.update(progress.step)

    def _skip(self, loss: float) -> None:
        progress = self.progress
        progress.sums.bad_steps += 1
        progress.bad_in_a_row += 1
        if progress.bad_in_a_row >= self.options.max_bad_steps:
            last = self.folder / LAST
            saved = f"the last good checkpoint is {last.absolute()}" if last.exists() else "nothing was saved yet"
            raise UserError(
                f"max_bad_steps: {progress.bad_in_a_row} steps in a row had a loss or gradient that is not finite "
                f"(epoch {progress.epoch + 1}, last loss {loss:g}); {saved}: lower lr, or use precision bf16 or fp32",
                collective=True,
                already_printed=not self.world.is_main,
            )

    def _learning_rate(self, step: int) -> float:
        anneal = self.options.lr_anneal_steps
        return self.options.lr * (1 - step / anneal) if anneal else self.options.lr

    def _forward_backward(self, batch: TrainBatch, t: Tensor, share: Tensor, key: tuple[int, int, int]) -> Tensor:
        """Accumulate the gradient of the global batch's mean loss; return this process's rows of losses [1 or 3, n].

        t: [n], the timestep of each image. share: [1 or 3, n], how much each loss counts. All on the device.
        """
        n = len(batch.image)
        size = self.options.microbatch if self.options.microbatch > 0 else n
        losses = []
        for start in range(0, n, size):
            part = slice(start, start + size)
            last = start + size >= n
            # Gradients add up locally until the last part, which starts the exchange between processes.
            with contextlib.nullcontext() if last or self._network is self.model else self._network.no_sync():
                loss = self._losses(batch, part, t[part], key)
                self.scaler.scale((loss * share[:, part]).sum()).backward()
            losses.append(loss.detach())
        return torch.cat(losses, dim=1)

    def _losses(self, batch: TrainBatch, part: slice, t: Tensor, key: tuple[int, int, int]) -> Tensor:
        """Return the unweighted losses of the images of `part`, [1 or 3, n]."""
        device = self.world.device
        batch_indices = batch.batch_index[part].tolist()
        goal = self.target(batch, part, t, key)
        dropped = self._dropped(batch_indices, key).to(device)
        condition = goal.condition.drop(dropped)
        prepared = None if goal.prepared is None else goal.prepared.drop(dropped)
        noise = draw_noise(step_generators(Stream.NOISE, key, batch_indices, device), goal.x0.shape[1:], device)
        x_t = self.diffusion.q_sample(goal.x0, t, noise)
        seen = x_t if goal.known is None else torch.cat([x_t, goal.known.channels()], dim=1)
        # Dropout is the only draw from PyTorch's global generator.
        torch.manual_seed(derive_seed(Stream.DROPOUT, *key, batch_indices[0]))
        with torch.autocast(device.type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None):
            more = {} if self.supervision is None else {"with_masks": True}
            made = self._network(seen, self.diffusion.model_t(t), condition, prepared, goal.augment, **more)
        output, *masks = made if more else (made,)
        losses = self.diffusion.training_losses(output.float(), goal.x0, x_t, t, noise, goal.weight)["loss"]
        more = self.supervision(*masks, condition, goal.label) if masks else ()
        return torch.stack([losses, *more])

    def _dropped(self, batch_indices: list[int], key: tuple[int, int, int]) -> Tensor:
        """Return [n] booleans: which images lose their condition in this step."""
        generators = step_generators(Stream.DROP, key, batch_indices)
        return torch.tensor([float(torch.rand((), generator=g)) < self.options.drop_rate for g in generators])

    def _teach_timestep_sampler(self, batch: TrainBatch, t: Tensor, losses: list[float]) -> None:
        measured = zip(batch.batch_index.tolist(), t.tolist(), losses, batch.weight.tolist(), strict=True)
        own = [(batch_index, step, loss) for batch_index, step, loss, weight in measured if weight]
        # In the order of the batch, so that the number of processes makes no difference.
        everyone = sorted(entry for entries in self.world.gather(own) for entry in entries)
        _, timesteps, losses = zip(*everyone, strict=True)
        self.timestep_sampler.update(torch.tensor(timesteps), torch.tensor(losses))

    # --- state ---------------------------------------------------------------------------------------------------

    def resume(self, checkpoint: Checkpoint) -> None:
        """Resume from a checkpoint, whose weights are loaded already, as if there had been no interruption.

        With another number of images a step, an interrupted epoch begins anew.
        """
        self.progress = Progress.from_state(checkpoint.progress)
        self.ema.load_state_dict(checkpoint.ema)
        self._restore_optimizer(checkpoint.optimizer)
        self._restart_epoch_of_other_batches()
        if checkpoint.scaler:
            self.scaler.load_state_dict(checkpoint.scaler)
        if checkpoint.timestep_sampler:
            self.timestep_sampler.load_state_dict(checkpoint.timestep_sampler)

    def _restore_optimizer(self, saved: Mapping[str, Any]) -> None:
        """Load the moments of `saved`; the weight decay stays that of the options.

        Moments get the memory format of their weights: fused kernels read both in memory order, unchecked, and a
        checkpoint may come from a machine with another format.
        """
        self.optimizer.load_state_dict(dict(saved))
        for group in self.optimizer.param_groups:
            group["weight_decay"] = self.options.weight_decay
        for weight, state in self.optimizer.state.items():
            for name, value in state.items():
                if isinstance(value, Tensor) and value.shape == weight.shape and value.stride() != weight.stride():
                    state[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)

    def _restart_epoch_of_other_batches(self) -> None:
        """Begin an interrupted epoch anew where its batches are not those of the interrupted training."""
        progress, batches = self.progress, self.loader.batch_plan
        before = (progress.dataset_size, progress.global_batch)
        progress.dataset_size, progress.global_batch = batches.num_items, batches.global_batch
        if before != (batches.num_items, batches.global_batch):
            self.log.info(
                f"warning: an epoch now has {batches.num_items} images in steps of {batches.global_batch}, "
                f"before it had {before[0]} in steps of {before[1]}"
            )
            progress.batch = progress.images = 0
            progress.sums = EpochSums()

    def _weights(self, *, copy: bool) -> dict[str, Any]:
        """Return the content of `best.pt`; `copy` copies it to main memory, where training does not change it."""
        content = {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "progress": self.progress.state_dict(),
        }
        if copy:
            for weights in (content["model"], *content["ema"].values()):
                for name, value in weights.items():
                    weights[name] = value.detach().to("cpu", copy=True)
        return content

    def _save_if_due(self, at_least_seconds: float = 0.0) -> None:
        """Save if the last time is long enough ago, but not after a step that was not finite: the state may be lost."""
        pause = max(at_least_seconds, self._save_seconds / SAVING_SHARE)
        if not self.progress.bad_in_a_row and time.monotonic() - self._saved_at > pause:
            self._save()

    def _save(self) -> None:
        """Write `best.pt`, where there is a new one, and `last.pt`."""
        if not self._unsaved:
            return
        started = time.monotonic()
        if self.world.is_main:
            # best.pt first: if the process ends between the two, the resumed run finds the same best epoch again.
            if self._unsaved_best is not None:
                save_checkpoint(self.folder / BEST, {**self.describe, **self._unsaved_best})
            state = {
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "timestep_sampler": self.timestep_sampler.state_dict(),
            }
            save_checkpoint(self.folder / LAST, {**self.describe, **self._weights(copy=False), **state})
        self._unsaved_best = None
        self._unsaved = False
        self._saved_at = time.monotonic()
        self._save_seconds = self._saved_at - started

    def _stop_if_asked(self) -> None:
        if self._stop_signal:
            self._save()
            raise Interrupted(
                self._stop_signal,
                f"interrupted in epoch {self.progress.epoch + 1}; the same command goes on from "
                f"{(self.folder / LAST).absolute()}",
            )
