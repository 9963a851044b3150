"""eta of each class: from a file, and from how often the classes occur."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from guided_diffusion.data.class_statistics import eta_from_statistics, load_eta, save_eta
from guided_diffusion.runtime.errors import UserError


def test_the_formula() -> None:
    found = eta_from_statistics([0.01, 0.001], [0.5, 0.05], scale=0.5)
    np.testing.assert_allclose(found, [0.5 * 0.6931471806 / 0.01, 0.5 * 2.995732274 / 0.001])


def test_classes_everywhere_nowhere_and_unlabeled() -> None:
    share, frequency = [0.7, 0.2, 0.05, 0.0, 0.0, 0.05], [1.0, 0.9, 0.2, 0.0, 0.0, 0.3]
    found = eta_from_statistics(share, frequency, unlabeled=[4, 5])
    rarest = 0.284 * np.log(5) / 0.05
    # 0.284 * 0.105 / 0.2 is below 1, where the process is the same for all.
    np.testing.assert_allclose(found, [1, 1, rarest, rarest, 1, 1])


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_scales_that_cannot_be(scale: float) -> None:
    with pytest.raises(UserError) as error:
        eta_from_statistics([0.5], [0.5], scale=scale)
    assert error.value.path == "eta_scale"
    assert str(scale) in error.value.found


def test_masks_without_classes() -> None:
    with pytest.raises(UserError) as error:
        eta_from_statistics([0.0, 0.0], [0.0, 0.0])
    assert error.value.path == "masks"


def test_what_is_written_is_read(tmp_path: Path) -> None:
    eta = eta_from_statistics([0.9, 0.1], [1.0, 0.01])
    save_eta(tmp_path / "run" / "eta.npy", eta)
    np.testing.assert_array_equal(load_eta(tmp_path / "run" / "eta.npy", 2), eta)


def test_entries_of_unlabeled_classes_are_not_read(tmp_path: Path) -> None:
    np.save(tmp_path / "eta.npy", np.array([2.5, 30.0, np.inf], dtype=np.float32))
    np.testing.assert_array_equal(load_eta(tmp_path / "eta.npy", 3, unlabeled=[2]), [2.5, 30, 1])


@pytest.mark.parametrize(
    ("stored", "found"),
    [
        (np.ones(4), ["[4]", "3 classes"]),
        (np.ones((3, 1)), ["[3, 1]", "3 classes"]),
        (np.array([1.0, 0.0, 2.0]), ["0.0", "class 1"]),
        (np.array([1.0, 2.0, np.nan]), ["nan", "class 2"]),
        (np.array(["a", "b", "c"]), ["<U1"]),
        (np.array([1.0, None, 2.0]), [".npy"]),
    ],
)
def test_files_of_wrong_numbers(tmp_path: Path, stored: np.ndarray, found: list[str]) -> None:
    np.save(tmp_path / "eta.npy", stored, allow_pickle=True)
    with pytest.raises(UserError) as error:
        load_eta(tmp_path / "eta.npy", 3)
    assert error.value.path == str(tmp_path / "eta.npy")
    assert all(token in error.value.found for token in found)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [None, b"", b"not an array", "archive"])
def test_files_that_are_none(tmp_path: Path, content: bytes | str | None) -> None:
    path = tmp_path / "eta.npy"
    if content == "archive":
        with open(path, "wb") as file:
            np.savez(file, eta=np.ones(3))
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        load_eta(path, 3)
    assert error.value.path == str(path)
    assert "\n" not in str(error.value)
