"""Timestep samplers: unbiased, the same on every rank, and how much stratification calms the epoch loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from guided_diffusion.diffusion.timestep_sampler import (
    TIMESTEP_SAMPLERS,
    LossSecondMomentSampler,
    StratifiedSampler,
    TimestepSampler,
)
from guided_diffusion.runtime.errors import CheckpointError

T = 50


def loss_of(t: Tensor) -> Tensor:
    """A loss that falls with t by a factor of 20, as an eps or v network's does."""
    return 0.02 + 0.4 * torch.exp(-t / 8.0)


def warmed_up(num_timesteps: int = T) -> LossSecondMomentSampler:
    sampler = LossSecondMomentSampler(num_timesteps)
    t = torch.arange(num_timesteps).repeat(sampler.HISTORY)
    sampler.update(t, loss_of(t))
    return sampler


def build(name: str, num_timesteps: int = T) -> TimestepSampler:
    return warmed_up(num_timesteps) if name == "loss-second-moment" else TIMESTEP_SAMPLERS[name](num_timesteps)


def draw_epoch(sampler: TimestepSampler, epoch: int, sizes: list[int], seed: int = 1) -> tuple[Tensor, Tensor]:
    draws = [
        sampler.draw((seed, epoch, batch), torch.arange(size), size, len(sizes)) for batch, size in enumerate(sizes)
    ]
    return torch.cat([t for t, _ in draws]), torch.cat([w for _, w in draws])


@pytest.mark.parametrize("name", TIMESTEP_SAMPLERS)
class TestEverySampler:
    def test_ranks_draw_what_one_process_draws(self, name: str) -> None:
        whole_t, whole_weights = build(name).draw((3, 2, 5), torch.arange(12), 12, 9)
        for batch_indices in (
            torch.arange(0, 6),
            torch.arange(6, 12),
            torch.arange(1, 12, 3),
            torch.tensor([7]),
            torch.tensor([], dtype=torch.int64),
        ):
            t, weights = build(name).draw((3, 2, 5), batch_indices, 12, 9)
            assert torch.equal(t, whole_t[batch_indices])
            assert torch.equal(weights, whole_weights[batch_indices])
            assert t.dtype == torch.int64
            assert weights.dtype == torch.float32

    def test_draw_does_not_depend_on_earlier_draws_or_global_state(self, name: str) -> None:
        used = build(name)
        draw_epoch(used, 0, [8, 8, 3])
        torch.manual_seed(123)
        state = torch.get_rng_state()
        again = used.draw((1, 4, 1), torch.arange(8), 8, 3)
        fresh = build(name).draw((1, 4, 1), torch.arange(8), 8, 3)
        assert torch.equal(again[0], fresh[0])
        assert torch.equal(torch.get_rng_state(), state)

    @pytest.mark.slow
    def test_each_part_of_the_key_counts(self, name: str) -> None:
        draws = {
            tuple(build(name, 1000).draw(key, torch.arange(16), 16, 9)[0].tolist())
            for key in [(1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2)]
        }
        assert len(draws) == 4

    @pytest.mark.slow
    @pytest.mark.parametrize("sizes", [[16, 16, 16, 5], [7], [1, 1, 1], pytest.param([5] * 12, marks=pytest.mark.slow)])
    def test_weighted_loss_is_unbiased(self, name: str, sizes: list[int]) -> None:
        sampler = build(name)
        epochs = []
        for epoch in range(400):
            t, weights = draw_epoch(sampler, epoch, sizes)
            assert t.min() >= 0
            assert t.max() < T
            epochs.append((weights * loss_of(t)).mean())
        found = torch.stack(epochs).double()
        error = found.std() / len(epochs) ** 0.5
        assert abs(found.mean() - loss_of(torch.arange(T)).mean()) < 4 * error + 1e-6

    @pytest.mark.slow
    def test_weights_average_one(self, name: str) -> None:
        weights = torch.cat([draw_epoch(build(name), epoch, [32] * 4)[1] for epoch in range(60)])
        assert weights.mean().item() == pytest.approx(1, abs=0.06)

    def test_state_survives_saving(self, name: str) -> None:
        sampler, restored = build(name), TIMESTEP_SAMPLERS[name](T)
        restored.load_state_dict(sampler.state_dict())
        key, batch_indices = (5, 1, 2), torch.arange(20)
        assert torch.equal(restored.draw(key, batch_indices, 20, 4)[0], sampler.draw(key, batch_indices, 20, 4)[0])


def chi_square(t: Tensor, num_timesteps: int) -> float:
    """Return the chi-square statistic against uniform in standard deviations from its mean."""
    expected = len(t) / num_timesteps
    statistic = float(((torch.bincount(t, minlength=num_timesteps) - expected) ** 2 / expected).sum())
    return (statistic - (num_timesteps - 1)) / (2 * (num_timesteps - 1)) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("global_size", "num_batches", "batch", "batch_index"),
    [
        (1, 1, 0, 0),
        (5, 3, 2, 4),
        pytest.param(5, 3, 0, 0, marks=pytest.mark.slow),
        *(pytest.param(7, 10, 9, batch_index, marks=pytest.mark.slow) for batch_index in (0, 4)),
    ],
)
def test_stratified_marginal_of_one_slot_is_uniform(
    global_size: int, num_batches: int, batch: int, batch_index: int
) -> None:
    sampler = StratifiedSampler(30)
    t = torch.cat(
        [
            sampler.draw((9, epoch, batch), torch.tensor([batch_index]), global_size, num_batches)[0]
            for epoch in range(3000)
        ]
    )
    assert abs(chi_square(t, 30)) < 4


def test_stratified_epoch_visits_every_cell_once() -> None:
    sampler = StratifiedSampler(8 * 5 * 10)
    draws = [sampler.draw((1, 0, batch), torch.arange(8), 8, 5)[0] for batch in range(5)]
    for t in draws:
        assert sorted((t // 50).tolist()) == list(range(8))
    assert sorted((torch.cat(draws) // 10).tolist()) == list(range(40))


def spread(name: str, sizes: list[int], noise: float) -> float:
    """Return the standard deviation of the epoch's mean loss; each image's own loss varies by a factor of `noise`."""
    sampler = TIMESTEP_SAMPLERS[name](1000)
    means = []
    for epoch in range(300):
        t, _ = draw_epoch(sampler, epoch, sizes)
        own = 1 + noise * torch.randn(len(t), generator=torch.Generator().manual_seed(epoch))
        means.append(float((loss_of(t * T / 1000) * own).mean()))
    return float(np.std(means))


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [[16] * 4, [16, 16, 16, 5], [8] * 8])
def test_stratified_calms_the_epoch_loss(sizes: list[int]) -> None:
    assert spread("stratified", sizes, noise=0.1) < spread("uniform", sizes, noise=0.1) / 3


def test_second_moment_is_uniform_until_warm_then_follows_the_losses() -> None:
    sampler = LossSecondMomentSampler(T)
    t = torch.arange(T).repeat(sampler.HISTORY)
    sampler.update(t[:-1], loss_of(t[:-1]))
    assert torch.equal(sampler.draw((0, 0, 0), torch.arange(9), 9, 1)[1], torch.ones(9))
    sampler.update(t[-1:], loss_of(t[-1:]))
    loss = loss_of(torch.arange(T)).double()
    torch.testing.assert_close(sampler.probabilities(), 0.999 * loss / loss.sum() + 0.001 / T)
    drawn = torch.cat([sampler.draw((0, 0, b), torch.arange(500), 500, 20)[0] for b in range(20)])
    torch.testing.assert_close(
        torch.bincount(drawn, minlength=T) / 1e4, sampler.probabilities().float(), rtol=0, atol=0.01
    )


def test_second_moment_remembers_the_last_ten() -> None:
    sampler = warmed_up()
    for loss in [100.0, *[3.0, 4.0] * 5]:
        sampler.update(torch.tensor([7]), torch.tensor([loss]))
    before = loss_of(torch.arange(T)).double()
    before[7] = 12.5**0.5
    torch.testing.assert_close(sampler.probabilities(), 0.999 * before / before.sum() + 0.001 / T)


def test_second_moment_ignores_losses_that_are_not_finite() -> None:
    sampler = warmed_up()
    before = sampler.probabilities()
    sampler.update(torch.tensor([1, 2, 3]), torch.tensor([float("nan"), float("inf"), -float("inf")]))
    assert torch.equal(sampler.probabilities(), before)


def test_state_of_another_process_or_sampler_is_refused() -> None:
    for state in (warmed_up(20).state_dict(), {}):
        with pytest.raises(CheckpointError, match=r"^schedule_sampler: "):
            warmed_up().load_state_dict(state)
    with pytest.raises(CheckpointError, match=r"^schedule_sampler: "):
        StratifiedSampler(T).load_state_dict(warmed_up().state_dict())
