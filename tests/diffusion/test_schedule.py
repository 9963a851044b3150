"""Schedules and respacing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guided_diffusion.diffusion.schedule import named_betas, respace_betas, space_timesteps
from guided_diffusion.runtime.errors import UserError


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
    spec = data.draw(st.sampled_from([counts, ",".join(map(str, counts))]))
    kept = space_timesteps(num_timesteps, spec)
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
    assert space_timesteps(300, 50) == space_timesteps(300, "50") == space_timesteps(300, [50])
    assert space_timesteps(7, "") == space_timesteps(7, []) == list(range(7))
    assert space_timesteps(1000, "ddim1000") == list(range(1000))
    assert space_timesteps(300, "10, 15,20")[9:11] == [99, 100]


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("ddim", "cannot read 'ddim'"),
        ("ddim10,20", "cannot read"),
        ("fast", "cannot read 'fast'"),
        ("10,,20", "cannot read"),
        ("ddim999", "use ddim500 or ddim1000"),
        ("ddim2000", 'use ddim1000, or "1000"'),
        ("ddim1", "use ddim2,"),
        ("2000", "2000 steps from a section of 1000"),
        ("10,600", "600 steps from a section of 500"),
        ("0", "keeps no steps"),
        ([-1, 5], "keeps no steps"),
    ],
)
def test_impossible_respacing_is_one_line_with_the_key(spec: str | list[int], says: str) -> None:
    with pytest.raises(UserError) as error:
        space_timesteps(1000, spec)
    message = str(error.value)
    assert message.startswith("timestep_respacing: ")
    assert "\n" not in message
    assert says in message


@pytest.mark.parametrize(
    ("name", "steps", "key"),
    [("cubic", 100, "noise_schedule"), ("linear", 20, "diffusion_steps"), ("cosine", 0, "diffusion_steps")],
)
def test_schedules_that_cannot_be(name: str, steps: int, key: str) -> None:
    with pytest.raises(UserError, match=f"^{key}: "):
        named_betas(name, steps)


@given(st.sampled_from(["linear", "cosine"]), st.sets(st.integers(0, 199), min_size=1))
def test_respacing_keeps_the_noise_levels(name: str, kept: set[int]) -> None:
    betas = named_betas(name, 200)
    respaced = respace_betas(betas, sorted(kept))
    assert ((respaced > 0) & (respaced < 1)).all()
    np.testing.assert_allclose(np.cumprod(1 - respaced), np.cumprod(1 - betas)[sorted(kept)], rtol=1e-9)


def test_keeping_all_changes_nothing() -> None:
    betas = named_betas("cosine", 100)
    np.testing.assert_allclose(respace_betas(betas, range(100)), betas, rtol=1e-9)
