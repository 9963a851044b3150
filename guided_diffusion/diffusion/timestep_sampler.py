"""Which timestep each image of a training step gets.

A draw is a function of (seed, epoch, batch) and the index of an image in the *global* batch: it depends neither on the
number of processes nor on interruptions of the run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from guided_diffusion.runtime.errors import CheckpointError
from guided_diffusion.runtime.seeding import Stream, derive_seed

Key = tuple[int, int, int]


class TimestepSampler(ABC):
    """Draws timesteps of a process of `num_timesteps` steps, and loss weights that keep the mean loss unbiased.

    adaptive: `update` must be called after every step.
    """

    adaptive: ClassVar[bool] = False

    def __init__(self, num_timesteps: int):
        self.num_timesteps = num_timesteps

    @abstractmethod
    def draw(self, key: Key, batch_indices: Tensor, global_size: int, num_batches: int) -> tuple[Tensor, Tensor]:
        """Return t [n] int64 and the loss weights [n] float32, both on the CPU.

        key: (seed, epoch, batch), batch in `0..num_batches - 1`. batch_indices: [n] int64 on the CPU, positions in the
        global batch. global_size: images in this global batch; the last of an epoch may be short. num_batches: global
        batches in this epoch.
        """

    def update(self, t: Tensor, losses: Tensor) -> None:  # noqa: B027
        """Learn from t and unweighted losses, [global_size] each, of the whole global batch in its order."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return what `update` has learned."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned; CheckpointError for the state of another sampler or process."""
        found, expected = ({k: tuple(v.shape) for k, v in s.items()} for s in (state, self.state_dict()))
        if found != expected:
            raise CheckpointError(
                f"schedule_sampler: the checkpoint has a state of shapes {found}, this run needs {expected}; keep "
                "schedule_sampler and diffusion_steps when resuming"
            )


class UniformSampler(TimestepSampler):
    """Every image draws uniformly and independently."""

    def draw(self, key: Key, batch_indices: Tensor, global_size: int, num_batches: int) -> tuple[Tensor, Tensor]:
        t = torch.randint(self.num_timesteps, (global_size,), generator=_generator(*key))[batch_indices]
        return t, torch.ones(len(batch_indices))


class StratifiedSampler(TimestepSampler):
    """Spreads the timesteps evenly over each batch and, finer still, over each epoch.

    The range of t has a stratum for each image of a batch, and each stratum a cell for each batch of the epoch. A batch
    visits each stratum once, an epoch each cell once, in random order and at a random point of the cell. So each t is
    uniform and all weights are 1; only the sums vary less. A short last batch has coarser strata.
    """

    def __init__(self, num_timesteps: int):
        super().__init__(num_timesteps)
        self._cells: tuple[tuple[int, ...], Tensor] | None = None

    def draw(self, key: Key, batch_indices: Tensor, global_size: int, num_batches: int) -> tuple[Tensor, Tensor]:
        seed, epoch, batch = key
        generator = _generator(*key)
        stratum = torch.randperm(global_size, generator=generator)
        within = torch.rand(global_size, generator=generator, dtype=torch.float64)
        cell = self._cell_order(seed, epoch, num_batches, global_size)[stratum, batch]
        position = (stratum + (cell + within) / num_batches) / global_size
        # In floating point the last position can round up to 1.
        t = (position * self.num_timesteps).long().clamp(max=self.num_timesteps - 1)[batch_indices]
        return t, torch.ones(len(batch_indices))

    def _cell_order(self, seed: int, epoch: int, num_batches: int, global_size: int) -> Tensor:
        """Return [global_size, num_batches]: for each stratum the order of its cells in the epoch (cached)."""
        key = (seed, epoch, num_batches, global_size)
        if self._cells is None or self._cells[0] != key:
            order = torch.rand(global_size, num_batches, generator=_generator(*key), dtype=torch.float64).argsort(dim=1)
            self._cells = (key, order)
        return self._cells[1]


class LossSecondMomentSampler(TimestepSampler):
    """Draws t in proportion to sqrt(E[loss^2]) of its last losses (Nichol & Dhariwal 2021, eq. 18).

    Draws uniformly until each t has `HISTORY` losses; afterwards a share `UNIFORM` of the draws stays uniform. The
    weights are 1 / (T p_t).
    """

    HISTORY: ClassVar[int] = 10
    UNIFORM: ClassVar[float] = 0.001
    adaptive: ClassVar[bool] = True

    def __init__(self, num_timesteps: int):
        super().__init__(num_timesteps)
        self._losses = torch.zeros(num_timesteps, self.HISTORY, dtype=torch.float64)
        self._counts = torch.zeros(num_timesteps, dtype=torch.int64)

    def probabilities(self) -> Tensor:
        """Return p [T] float64, the probability of each t in the next draw."""
        uniform = torch.full((self.num_timesteps,), 1 / self.num_timesteps, dtype=torch.float64)
        moment = self._losses.square().mean(1).sqrt()
        if (self._counts < self.HISTORY).any() or moment.sum() == 0:
            return uniform
        return (1 - self.UNIFORM) * moment / moment.sum() + self.UNIFORM * uniform

    def draw(self, key: Key, batch_indices: Tensor, global_size: int, num_batches: int) -> tuple[Tensor, Tensor]:
        p = self.probabilities()
        u = torch.rand(global_size, generator=_generator(*key), dtype=torch.float64)
        t = torch.searchsorted(p.cumsum(0), u, right=True).clamp(max=self.num_timesteps - 1)[batch_indices]
        return t, (1 / (self.num_timesteps * p[t])).float()

    def update(self, t: Tensor, losses: Tensor) -> None:
        # The trainer skips steps with losses that are not finite; these must not enter the history.
        for step, loss in zip(t.tolist(), losses.tolist(), strict=True):
            if abs(loss) < float("inf"):
                self._losses[step, self._counts[step] % self.HISTORY] = loss
                self._counts[step] += 1

    def state_dict(self) -> dict[str, Tensor]:
        return {"losses": self._losses.clone(), "counts": self._counts.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        super().load_state_dict(state)
        self._losses.copy_(state["losses"])
        self._counts.copy_(state["counts"])


TIMESTEP_SAMPLERS: dict[str, type[TimestepSampler]] = {
    "stratified": StratifiedSampler,
    "uniform": UniformSampler,
    "loss-second-moment": LossSecondMomentSampler,
}


def _generator(*key: int) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(Stream.TIMESTEP, *key))
