"""Schedules and respacing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guided_diffusion.diffusion.schedule import named_betas, respace_betas, space_timesteps
from guided_diffusion.runtime.errors import ConfigError


@pytest.mark.parametrize("steps", [50, 1000, 4000])
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_schedules_end_in_noise(name: str, steps: int) -> None:
    betas = named_betas(name, steps)
    abar = np.cumprod(1 - betas)
    assert betas.dtype == np.float64
    assert betas.shape == (steps,)
    assert ((betas > 0) & (betas < 1)).all()
    assert abar[0] > 0.95
    assert abar[-1] < 1e-3


def test_linear_is_the_published_one_at_1000_steps() -> None:
    betas = named_betas("linear", 1000)
    assert (betas[0], betas[-1]) == (1e-4, 0.02)
    np.testing.assert_allclose(np.diff(betas), (0.02 - 1e-4) / 999)


def test_cosine_follows_its_abar() -> None:
    abar = np.cumprod(1 - named_betas("cosine", 500))
    wanted = np.cos((np.arange(1, 501) / 500 + 0.008) / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(abar[:-1], (wanted / np.cos(0.008 / 1.008 * np.pi / 2) ** 2)[:-1], rtol=1e-9)


@given(st.integers(1, 400), st.data())
def test_sections_keep_their_counts_and_ends(num_timesteps: int, data: st.DataObject) -> None:
    sections = data.draw(st.integers(1, min(4, num_timesteps)))
    sizes = [num_timesteps // sections + (i < num_timesteps % sections) for i in range(sections)]
    counts = [data.draw(st.integers(1, size)) for size in sizes]
    kept = space_timesteps(num_timesteps, ",".join(map(str, counts)))
    assert kept == sorted(set(kept))
    assert set(kept) <= set(range(num_timesteps))
    start = 0
    for size, count in zip(sizes, counts, strict=True):
        inside = [k for k in kept if start <= k < start + size]
        assert len(inside) == count
        assert inside[0] == start
        if count > 1:
            assert inside[-1] == start + size - 1
            assert max(np.diff(inside)) - min(np.diff(inside)) <= 1
        start += size


@given(st.integers(2, 2000), st.integers(1, 2000))
def test_ddim_takes_an_integer_stride(num_timesteps: int, stride: int) -> None:
    stride = 1 + stride % (num_timesteps - 1)
    count = len(range(0, num_timesteps, stride))
    kept = space_timesteps(num_timesteps, f"ddim{count}")
    assert len(kept) == count
    assert kept[0] == 0
    assert len(set(np.diff(kept))) == 1


def test_spellings_of_one_count() -> None:
    assert space_timesteps(300, 50) == space_timesteps(300, "50")
    assert space_timesteps(7, "") == list(range(7))
    assert space_timesteps(1000, "ddim1000") == list(range(1000))
    assert space_timesteps(300, "10, 15,20")[9:11] == [99, 100]


@pytest.mark.parametrize(
    ("spec", "remedies"),
    [
        ("ddim999", ["ddim500", "ddim1000", "999"]),
        ("ddim2000", ["ddim1000", "1000"]),
        ("ddim1", ["ddim2", "1"]),
        ("2000", ["at most 1000"]),
        ("10,600", ["at most 500"]),
    ],
)
def test_impossible_respacing_is_one_line_with_the_key(spec: str, remedies: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"^timestep_respacing: [^\n]+$") as error:
        space_timesteps(1000, spec)
    assert all(remedy in str(error.value) for remedy in remedies)


def test_a_linear_schedule_needs_more_than_20_steps() -> None:
    with pytest.raises(ConfigError, match=r"^diffusion_steps: "):
        named_betas("linear", 20)
    assert len(named_betas("linear", 21)) == 21


@given(st.sampled_from(["linear", "cosine"]), st.sets(st.integers(0, 199), min_size=1))
def test_respacing_keeps_the_noise_levels(name: str, kept: set[int]) -> None:
    betas = named_betas(name, 200)
    respaced = respace_betas(betas, sorted(kept))
    assert ((respaced > 0) & (respaced < 1)).all()
    np.testing.assert_allclose(np.cumprod(1 - respaced), np.cumprod(1 - betas)[sorted(kept)], rtol=1e-9)


def test_keeping_all_changes_nothing() -> None:
    betas = named_betas("cosine", 100)
    np.testing.assert_allclose(respace_betas(betas, range(100)), betas, rtol=1e-9)
