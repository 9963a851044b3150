"""Flips and turns do what their names say."""

from __future__ import annotations

import numpy as np

from evaluations.symmetry import SYMMETRIES, apply_d4, dihedral_views


def test_symmetries_are_what_their_names_say() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    by_name = {name: apply_d4(image, number) for number, name in enumerate(SYMMETRIES)}
    np.testing.assert_array_equal(by_name["as it is"], image)
    np.testing.assert_array_equal(by_name["mirrored left to right"], image[:, ::-1])
    np.testing.assert_array_equal(by_name["mirrored top to bottom"], image[::-1])
    for name, turn in (("turned by 180", 2), ("turned right by 90", -1), ("turned left by 90", 1)):
        np.testing.assert_array_equal(by_name[f"{name} degrees"], np.rot90(image, turn))
    np.testing.assert_array_equal(by_name["mirrored along the main diagonal"], image.swapaxes(0, 1))
    np.testing.assert_array_equal(by_name["mirrored along the other diagonal"], np.rot90(image, 2).swapaxes(0, 1))
    assert [view.shape for view in dihedral_views(image[None])] == [(1, 5, 7, 3)] * 4
    assert [view.shape for view in dihedral_views(image[None, :, :5])] == [(1, 5, 5, 3)] * 8
