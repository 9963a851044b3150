"""eta, one number for each class: how long it stays in the class-wise label diffusion of SCDM (Ko et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from guided_diffusion.data.options import DEFAULT_ETA_SCALE
from guided_diffusion.runtime.errors import ConfigError, DataError
from guided_diffusion.runtime.files import atomic_write, is_endless

MIN_ETA = 1.0
"""The smallest eta that matters: a class at 1 or below is nulled at the rate tau, the fastest there is."""


def load_eta(path: str | Path, num_classes: int, *, unlabeled: Sequence[int] = ()) -> NDArray[np.float64]:
    """Return eta, [num_classes] float64 above 0, from a `.npy` file of the published layout; raises DataError.

    unlabeled: classes that stand for "not labeled"; they get 1 whatever the file holds. The published code puts 0.5
        there for ADE20K and COCO-Stuff, which gives the same process.
    """
    if is_endless(path):
        raise DataError.of(path, "is a pipe or device", "give a .npy file of eta")
    try:
        stored = np.load(path, allow_pickle=False)
    except OSError as error:
        raise DataError.of(path, f"cannot be read ({error.strerror or error})", "give a .npy file of eta") from error
    except (ValueError, EOFError, MemoryError) as error:
        raise DataError.of(path, "not a .npy file of numbers", "write eta with numpy.save") from error
    if not isinstance(stored, np.ndarray) or stored.dtype.kind not in "fiu":
        kind = f"type {stored.dtype}" if isinstance(stored, np.ndarray) else "an archive"
        raise DataError.of(path, f"holds {kind}", "write eta as numbers with numpy.save")
    if stored.shape != (num_classes,):
        found = f"has shape {list(stored.shape)}, but there are {num_classes} classes"
        raise DataError.of(path, found, "write one number for each class")
    eta = stored.astype(np.float64)
    eta[list(unlabeled)] = MIN_ETA
    wrong = np.flatnonzero(~(np.isfinite(eta) & (eta > 0)))
    if wrong.size:
        raise DataError.of(path, f"has {eta[wrong[0]]} for class {wrong[0]}", "make every eta finite and above 0")
    return eta


def save_eta(path: str | Path, eta: ArrayLike) -> None:
    """Write eta so that `load_eta` returns it; UserError naming the file where it cannot be written."""
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.save(file, np.asarray(eta, dtype=np.float64), allow_pickle=False)


def eta_from_statistics(
    pixel_share: ArrayLike,
    image_frequency: ArrayLike,
    scale: float = DEFAULT_ETA_SCALE,
    *,
    unlabeled: Sequence[int] = (),
) -> NDArray[np.float64]:
    """Return eta, [K] float64 of at least 1: scale * (-ln image_frequency) / pixel_share.

    The formula is fitted to the published eta of ADE20K; rare and small classes stay longer. Both statistics are [K]
    in [0, 1]. Classes of `unlabeled` get 1, a class in no mask gets the largest eta of the others.
    """
    share, frequency = (np.asarray(values, dtype=np.float64) for values in (pixel_share, image_frequency))
    if not (np.isfinite(scale) and scale > 0):
        remedy = f"use a value above 0 ({DEFAULT_ETA_SCALE} fits the published numbers)"
        raise ConfigError.of("eta_scale", f"{scale} found", remedy)
    present = (share > 0) & (frequency > 0)
    if not present.any():
        raise DataError.of("masks", "no class has a pixel, so eta cannot be computed", "give a file of eta")
    eta = np.full(share.shape, MIN_ETA)
    eta[present] = np.maximum(scale * -np.log(frequency[present]) / share[present], MIN_ETA)
    eta[list(unlabeled)] = MIN_ETA
    absent = ~present
    absent[list(unlabeled)] = False
    eta[absent] = eta.max()
    return eta
