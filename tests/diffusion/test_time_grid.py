"""Time grids: which timesteps a sampler of few steps visits."""

from __future__ import annotations

from itertools import pairwise
from typing import get_args

import numpy as np
import pytest
from flat_options import noise_process
from hypothesis import given
from hypothesis import strategies as st

from guided_diffusion.diffusion.options import SamplerOptions
from guided_diffusion.diffusion.schedule import named_betas, space_timesteps
from guided_diffusion.diffusion.time_grid import NOISIEST_LOGSNR, TIME_GRIDS, pick_timesteps
from guided_diffusion.runtime.errors import ConfigError


def logsnr_of(name: str, steps: int) -> np.ndarray:
    abar = np.cumprod(1 - named_betas(name, steps))
    return np.log(abar / (1 - abar))


@given(
    st.sampled_from(TIME_GRIDS),
    st.sampled_from(["linear", "cosine"]),
    st.integers(21, 2000),
    st.floats(0, 1),
    st.data(),
)
def test_exactly_as_many_different_timesteps_as_asked_for(
    grid: str, schedule: str, total: int, share: float, data: st.DataObject
) -> None:
    steps = data.draw(st.sampled_from([1, 2, 3, 20, max(1, round(share * total)), total - 1, total]))
    steps = min(steps, total)
    kept = pick_timesteps(named_betas(schedule, total), grid, steps)
    assert len(kept) == steps
    assert all(type(timestep) is int for timestep in kept)
    assert all(early < late for early, late in pairwise(kept))
    assert kept[0] >= 0
    assert kept[-1] == total - 1  # sampling begins with pure noise
    if grid != "trailing" and steps > 1:
        assert kept[0] == 0
    if steps == total:
        assert kept == list(range(total))


@given(st.integers(21, 1500), st.integers(2, 200))
def test_uniform_is_what_a_count_has_always_been(total: int, steps: int) -> None:
    steps = min(steps, total)
    assert pick_timesteps(named_betas("linear", total), "uniform", steps) == space_timesteps(total, str(steps))


def test_trailing_is_the_published_one() -> None:
    """Lin et al. 2024, table 2, which counts timesteps from 1."""
    kept = pick_timesteps(named_betas("linear", 1000), "trailing", 10)
    assert [timestep + 1 for timestep in kept] == [100, 200, 300, 400, 500, 600, 700, 800, 900, 1000]


def test_quadratic_takes_squares() -> None:
    assert pick_timesteps(named_betas("cosine", 101), "quadratic", 11) == [i * i for i in range(11)]
    # Where squares are closer than 1, they make room for each other.
    assert pick_timesteps(named_betas("cosine", 101), "quadratic", 31)[:5] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("steps", [5, 10, 20, 40])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_logsnr_is_evenly_spaced(schedule: str, steps: int) -> None:
    logsnr = logsnr_of(schedule, 100_000)
    kept = pick_timesteps(named_betas(schedule, 100_000), "logsnr", steps)
    gaps = -np.diff(logsnr[kept])
    if schedule == "cosine":
        assert logsnr[-1] < NOISIEST_LOGSNR
        assert logsnr[kept[-2]] == pytest.approx(NOISIEST_LOGSNR, abs=0.2)
        gaps = gaps[:-1]
    # Beside the clean end, timesteps are 0.7 apart at first, then 0.4, 0.3 ...
    settled = gaps[int(len(gaps) * 0.3) :]
    assert settled.max() / settled.min() < 1.1
    assert gaps.max() / gaps.min() < (1.7 if steps < 40 else 2.5)


def test_logsnr_of_1000_linear_steps() -> None:
    logsnr = logsnr_of("linear", 1000)
    gaps = -np.diff(logsnr[pick_timesteps(named_betas("linear", 1000), "logsnr", 20)])
    assert gaps.max() / gaps.min() < 1.5


@pytest.mark.parametrize("grid", TIME_GRIDS)
def test_no_more_steps_than_the_process_has(grid: str) -> None:
    with pytest.raises(ConfigError, match=r"^steps is 51\b.*\b50\b[^\n]*$"):
        noise_process(diffusion_steps=50, steps=51, time_grid=grid)


def test_a_process_visits_its_grid() -> None:
    diffusion = noise_process(noise_schedule="cosine", steps=20, time_grid="logsnr")
    kept = pick_timesteps(named_betas("cosine", 1000), "logsnr", 20)
    assert diffusion.timestep_map == tuple(kept)
    np.testing.assert_allclose(diffusion.alphas_cumprod, np.cumprod(1 - named_betas("cosine", 1000))[kept], rtol=1e-9)


def test_every_grid_is_an_option() -> None:
    (names, _) = get_args(SamplerOptions.model_fields["time_grid"].annotation)
    assert get_args(names) == TIME_GRIDS
