"""The trainer: fit -> train_epoch -> train_step. Everything it works with is handed in."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from guided_diffusion.data.loader import TrainBatch, TrainLoader
from guided_diffusion.diffusion.gaussian import GaussianDiffusion
from guided_diffusion.diffusion.label_diffusion import LabelDiffusion, draw_uniform
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
from guided_diffusion.training.optimizer_state import restore_optimizer
from guided_diffusion.training.options import OptimizerOptions, RunOptions
from guided_diffusion.training.progress import EpochSums, Progress

SAVING_SHARE = 0.05
"""Largest share of the time that is spent on writing `last.pt`."""
MID_EPOCH_SECONDS = 300.0
"""Time after which a long epoch is saved before it is over."""


class Trainer:
    """Trains a conditioned network on (image, semantic map) batches.

    run: its folder is where `last.pt` and `best.pt` go.
    describe: what every checkpoint says of the run beside its state (config, encoding).
    amp_dtype: the type the network runs in, None for that of its weights; float16 comes with loss scaling.
    label_diffusion: what vanishes from the maps at each t of `diffusion`; None for nothing.
    preview: called with the epoch after every `preview_interval` epochs and after the last, in the main process.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        diffusion: GaussianDiffusion,
        timestep_sampler: TimestepSampler,
        loader: TrainLoader,
        optimizer: torch.optim.Optimizer,
        ema: EMA,
        options: OptimizerOptions,
        run: RunOptions,
        world: ProcessGroup,
        log: RunLog,
        describe: Mapping[str, Any],
        amp_dtype: torch.dtype | None = None,
        label_diffusion: LabelDiffusion | None = None,
        preview: Callable[[int], None] | None = None,
    ):
        self.model = model
        self.diffusion = diffusion
        self.timestep_sampler = timestep_sampler
        self.loader = loader
        self.optimizer = optimizer
        self.ema = ema
        self.options = options
        self.run = run
        self.world = world
        self.log = log
        self.folder = Path(run.output_dir)
        self.describe = describe
        self.amp_dtype = amp_dtype
        self.label_diffusion = label_diffusion
        self.preview = preview
        batches = loader.batch_plan
        self.progress = Progress(global_batch=batches.global_batch, dataset_size=batches.num_items)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=amp_dtype is torch.float16)
        self.stop = GracefulExit()
        self._network = self._data_parallel(model)
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._stop_signal = 0
        self._unsaved_best: dict[str, Any] | None = None
        self._unsaved_steps = 0
        self._saved_at = time.monotonic()
        self._save_seconds = 0.0

    def _data_parallel(self, model: nn.Module) -> nn.Module:
        if self.world.size == 1:
            return model
        devices = [self.world.device] if self.world.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True)

    # --- the loop ------------------------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """True where nothing is left to train."""
        return self.progress.is_over(self.options.max_epochs, self.options.lr_anneal_steps)

    def fit(self) -> Progress:
        """Train until `max_epochs` (or the end of the annealing) and return the progress.

        Raises Interrupted after a stop signal, with the state saved, and UserError after too many non-finite
        steps in a row, with the last good checkpoint left as it is.
        """
        self.model.train()
        self.log.start_metrics(self.progress.epoch, self.progress.step)
        with self.stop, self._progress_bar() as bar:
            while not self.finished:
                self.train_epoch(bar)
            self._save()
        return self.progress

    def _progress_bar(self) -> tqdm:
        left = (
            self.options.max_epochs - self.progress.epoch
        ) * self.loader.batch_plan.num_batches - self.progress.batch
        if self.options.lr_anneal_steps:
            left = min(left, self.options.lr_anneal_steps - self.progress.step)
        done = self.progress.step
        return tqdm(total=done + left, initial=done, unit="step", dynamic_ncols=True, disable=not self.world.is_main)

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
        means = sums.means()
        means["lr"] = self._learning_rate(max(progress.step - 1, 0))
        # Not what differs from run to run: equal trainings have equal checkpoints.
        lasting = {key: value for key, value in means.items() if key != "images_per_second"}
        progress.history.append({"epoch": progress.epoch, "step": progress.step, **lasting})
        means["peak_memory_gib"] = peak_memory_gib(self.world.device)
        progress.sums = EpochSums()
        if means["loss"] < progress.best_loss:
            progress.best_loss, progress.best_epoch = means["loss"], progress.epoch
            self._unsaved_best = self._weights(copy=True) if self.world.is_main else None
        self._report(means)
        interval = self.run.preview_interval
        if self.preview and interval and (progress.epoch % interval == 0 or self.finished):
            if self.world.is_main:
                self.model.eval()
                self.preview(progress.epoch)
                self.model.train()
            self.world.barrier()

    def _report(self, means: Mapping[str, float]) -> None:
        progress = self.progress
        quartiles = " ".join(f"{means[f'loss_q{q}']:.4f}" if f"loss_q{q}" in means else "-" for q in range(4))
        bad = f"  skipped {int(means['bad_steps'])} non-finite steps" if means["bad_steps"] else ""
        self.log.info(
            f"epoch {progress.epoch}/{self.options.max_epochs}  loss {means['loss']:.5f}"
            f" (best {progress.best_loss:.5f} in epoch {progress.best_epoch})  by timestep {quartiles}"
            f"  grad {means.get('grad_norm', math.nan):.3f}  lr {means['lr']:.2e}"
            f"  {means.get('images_per_second', 0.0):.1f} images/s  peak {means['peak_memory_gib']:.2f} GiB{bad}"
        )
        self.log.log_metrics(progress.step, {"epoch": progress.epoch, **means})

    def _show(self, bar: tqdm) -> None:
        progress = self.progress
        bar.update(progress.step - bar.n)
        bar.set_description(f"epoch {progress.epoch + 1}/{self.options.max_epochs}", refresh=False)
        best = f", best {progress.best_loss:.4f}" if progress.best_epoch else ""
        bar.set_postfix_str(f"loss {progress.sums.mean_loss:.4f}{best}", refresh=False)

    # --- one step ------------------------------------------------------------------------------------------------

    def train_step(self, batch: TrainBatch) -> None:
        """Take one optimizer step on a batch, or skip and count it where loss or gradients are not finite."""
        progress, options = self.progress, self.options
        key = (self.run.seed, progress.epoch, progress.batch)
        t, weights = self.timestep_sampler.draw(
            key, batch.batch_index, batch.global_size, self.loader.batch_plan.num_batches
        )
        self.optimizer.zero_grad(set_to_none=True)
        losses = self._forward_backward(batch, t, weights, key)

        sums = EpochSums.of_step(losses, weights, batch.weight.cpu(), t, self.diffusion.num_timesteps)
        asked = torch.tensor([self.stop.signal_number == number for number in STOP_SIGNALS]).double()
        summed = self.world.sum(torch.cat([sums, asked]).to(self._reduction_device)).tolist()
        sums, asked = summed[: -len(STOP_SIGNALS)], summed[-len(STOP_SIGNALS) :]
        # From the sum, not from this process's own flag: all have to stop after the same step.
        self._stop_signal = next((number for number, count in zip(STOP_SIGNALS, asked, strict=True) if count), 0)
        self.scaler.unscale_(self.optimizer)
        grad_norm = float(nn.utils.clip_grad_norm_(self._parameters, options.grad_clip or math.inf))

        progress.batch += 1
        progress.images += batch.global_size
        self._unsaved_steps += 1
        if math.isfinite(sums[0]) and math.isfinite(grad_norm):
            self._update(sums, grad_norm)
        else:
            self._skip(sums[0])
        self.scaler.update()
        if self.timestep_sampler.adaptive:
            self._teach_timestep_sampler(batch, t, losses)

    @property
    def _reduction_device(self) -> torch.device:
        # NCCL only sums what lies on the GPU.
        return self.world.device if self.world.size > 1 and self.world.device.type == "cuda" else torch.device("cpu")

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
            good = self.folder / LAST
            kept = f"the last good checkpoint is {good.absolute()}" if good.exists() else "nothing was saved yet"
            raise UserError(
                f"max_bad_steps: {progress.bad_in_a_row} steps in a row had a loss or gradient that is not finite "
                f"(epoch {progress.epoch + 1}, last loss {loss:g}); {kept}: lower lr, or use precision bf16 or fp32",
                collective=True,
                already_printed=not self.world.is_main,
            )

    def _learning_rate(self, step: int) -> float:
        anneal = self.options.lr_anneal_steps
        return self.options.lr * (1 - step / anneal) if anneal else self.options.lr

    def _forward_backward(self, batch: TrainBatch, t: Tensor, weights: Tensor, key: tuple[int, int, int]) -> Tensor:
        """Accumulate the gradient of the global batch's mean loss; return this process's losses [n] on the CPU."""
        n = len(batch.image)
        size = self.options.microbatch if self.options.microbatch > 0 else n
        losses = []
        for start in range(0, n, size):
            part = slice(start, start + size)
            last = start + size >= n
            # Gradients of all but the last part only add up locally; the last one starts the exchange.
            alone = contextlib.nullcontext() if last or self._network is self.model else self._network.no_sync()
            with alone:
                loss = self._losses(batch, part, t[part], key)
                share = weights[part].to(loss.device) * batch.weight[part] * self.world.size / batch.global_size
                self.scaler.scale((loss * share).sum()).backward()
            losses.append(loss.detach())
        return torch.cat(losses).cpu()

    def _losses(self, batch: TrainBatch, part: slice, t: Tensor, key: tuple[int, int, int]) -> Tensor:
        """Return the unweighted loss of each image of `part`, [n]."""
        device = self.world.device
        batch_indices = batch.batch_index[part].tolist()
        x0 = batch.image[part]
        t = t.to(device)
        condition, prepared = batch.condition[part], None
        if self.label_diffusion is not None:  # the maps are others than those that anything was prepared of
            uniform = draw_uniform(step_generators(Stream.LABEL, key, batch_indices, device), condition.size, device)
            condition = self.label_diffusion.diffuse(condition, t, uniform)
        elif batch.prepared is not None:
            prepared = batch.prepared[part]
        dropped = self._dropped(batch_indices, key)
        condition = condition.drop(dropped)
        prepared = None if prepared is None else prepared.drop(dropped)
        noise = draw_noise(step_generators(Stream.NOISE, key, batch_indices, device), x0.shape[1:], device)
        x_t = self.diffusion.q_sample(x0, t, noise)
        # Dropout is the one draw that PyTorch takes from its global generator.
        torch.manual_seed(derive_seed(Stream.DROPOUT, *key, batch_indices[0]))
        with torch.autocast(device.type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None):
            output = self._network(x_t, self.diffusion.model_t(t), condition, prepared)
        return self.diffusion.training_losses(output.float(), x0, x_t, t, noise)["loss"]

    def _dropped(self, batch_indices: list[int], key: tuple[int, int, int]) -> Tensor:
        """Return [n] booleans: which images lose their condition in this step."""
        generators = step_generators(Stream.DROP, key, batch_indices)
        return torch.tensor([float(torch.rand((), generator=g)) < self.options.drop_rate for g in generators])

    def _teach_timestep_sampler(self, batch: TrainBatch, t: Tensor, losses: Tensor) -> None:
        own = [
            (batch_index, step, loss)
            for batch_index, step, loss, weight in zip(
                batch.batch_index.tolist(), t.tolist(), losses.tolist(), batch.weight.tolist(), strict=True
            )
            if weight
        ]
        everyone = sorted(entry for entries in self.world.gather(own) for entry in entries)
        self.timestep_sampler.update(
            torch.tensor([step for _, step, _ in everyone]), torch.tensor([loss for *_, loss in everyone])
        )

    # --- state ---------------------------------------------------------------------------------------------------

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on from a resumable checkpoint as if there had been no interruption (its weights are loaded already).

        With another number of images a step, an epoch that was interrupted begins anew.
        """
        self.progress = Progress.from_state(checkpoint.progress)
        self.ema.load_state_dict(checkpoint.ema)
        restore_optimizer(self.optimizer, checkpoint.optimizer)
        self._restart_epoch_of_other_batches()
        if checkpoint.scaler:
            self.scaler.load_state_dict(checkpoint.scaler)
        if checkpoint.timestep_sampler:
            self.timestep_sampler.load_state_dict(checkpoint.timestep_sampler)

    def _restart_epoch_of_other_batches(self) -> None:
        """Begin an interrupted epoch anew where its batches would not be the ones it was interrupted in."""
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
        """Return what `best.pt` holds; with `copy` as it is now, in main memory, whatever training does next."""
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
        """Save where the last time is long enough ago, but not while steps are bad: they may lead nowhere."""
        pause = max(at_least_seconds, self._save_seconds / SAVING_SHARE)
        if not self.progress.bad_in_a_row and time.monotonic() - self._saved_at > pause:
            self._save()

    def _save(self) -> None:
        """Write `best.pt`, where there is a new one, and `last.pt`."""
        if not self._unsaved_steps:
            return
        started = time.monotonic()
        if self.world.is_main:
            # best.pt first: if the process dies between the two, resuming finds the same best epoch again.
            if self._unsaved_best is not None:
                save_checkpoint(self.folder / BEST, {**self.describe, **self._unsaved_best})
            state = {
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "timestep_sampler": self.timestep_sampler.state_dict(),
            }
            save_checkpoint(self.folder / LAST, {**self.describe, **self._weights(copy=False), **state})
        self._unsaved_best = None
        self._unsaved_steps = 0
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
