"""Seeds are functions of their key, and keys do not collide."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from guided_diffusion.runtime.seeding import Stream, derive_seed

KEYS = st.lists(st.integers(0, 2**63 - 1), max_size=4).map(tuple)


@given(KEYS, KEYS)
def test_different_keys_have_different_seeds(first, second):
    assert (derive_seed(Stream.NOISE, *first) == derive_seed(Stream.NOISE, *second)) == (first == second)


@given(KEYS)
def test_streams_are_independent_and_seeds_fit_a_generator(key):
    seeds = [derive_seed(stream, *key) for stream in Stream]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_zeros_and_large_numbers_do_not_collide():
    assert derive_seed(Stream.NOISE, 5, 7) != derive_seed(Stream.NOISE, 5, 7, 0)
    assert derive_seed(Stream.NOISE, 2**32) != derive_seed(Stream.NOISE, 0, 1)
