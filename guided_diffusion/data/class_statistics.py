"""eta, one number a class: how long a class stays in the class-wise label diffusion of SCDM (Ko et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from guided_diffusion.data.options import DEFAULT_ETA_SCALE
from guided_diffusion.runtime.errors import ConfigError, DataError
from guided_diffusion.runtime.files import atomic_write

MIN_ETA = 1.0
"""The process has no smaller eta: a class at 1 or below is nulled at the rate tau, the fastest there is."""


def load_eta(path: str | Path, num_classes: int, *, unlabeled: Sequence[int] = ()) -> NDArray[np.float64]:
    """Return eta, [num_classes] float64 above 0, from a file of the published layout: a `.npy` of one number a class.

    unlabeled: classes that stand for "not labeled", whose entries are not read but 1 (for the last class of ADE20K
        and COCO-Stuff the published code likewise puts 0.5 in the place of what the file has: the same process).

    Raises DataError naming the file where it is no such file, has other classes, or numbers that cannot be.
    """
    try:
        stored = np.load(path, allow_pickle=False)
    except OSError as error:
        raise DataError.of(path, f"cannot be read ({error.strerror or error})", "give a .npy file of eta") from error
    except (ValueError, EOFError) as error:
        raise DataError.of(path, "is no .npy file of numbers", "write eta with numpy.save") from error
    if not isinstance(stored, np.ndarray) or stored.dtype.kind not in "fiu":
        kind = "an archive" if not isinstance(stored, np.ndarray) else f"type {stored.dtype}"
        raise DataError.of(path, f"holds {kind}", "write eta as numbers with numpy.save")
    if stored.shape != (num_classes,):
        found = f"has shape {list(stored.shape)}, but there are {num_classes} classes"
        raise DataError.of(path, found, "write one number for each")
    eta = stored.astype(np.float64)
    eta[list(unlabeled)] = MIN_ETA
    wrong = np.flatnonzero(~(np.isfinite(eta) & (eta > 0)))
    if wrong.size:
        raise DataError.of(path, f"has {eta[wrong[0]]} for class {wrong[0]}", "eta must be finite and above 0")
    return eta


def save_eta(path: str | Path, eta: ArrayLike) -> None:
    """Write eta so that `load_eta` gives it back; UserError naming the file where it cannot be written."""
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.save(file, np.asarray(eta, dtype=np.float64), allow_pickle=False)


def eta_from_statistics(
    pixel_share: Sequence[float] | NDArray[np.float64],
    image_frequency: Sequence[float] | NDArray[np.float64],
    scale: float = DEFAULT_ETA_SCALE,
    *,
    unlabeled: Sequence[int] = (),
) -> NDArray[np.float64]:
    """Return eta, [K] float64 of at least 1: scale * (-ln image_frequency) / pixel_share.

    Classes that are rare or small stay for longer. The published files are not accompanied by a formula; this one fits
    that of ADE20K (see `DEFAULT_ETA_SCALE`).

    pixel_share: [K] in [0, 1], of the pixels of all training masks. image_frequency: [K] in [0, 1], of the masks that
        have the class.
    unlabeled: classes that stand for "not labeled", which get 1.

    A class in every mask has no -ln, and gets 1 as all do whose eta would be less: the process is the same. A class in
    no mask gets the largest eta of the others, as of all it is the rarest.

    Raises ConfigError where `scale` is not above 0, DataError where no mask has any class.
    """
    share, frequency = (np.asarray(values, dtype=np.float64) for values in (pixel_share, image_frequency))
    assert share.ndim == 1
    assert share.shape == frequency.shape
    assert all(((values >= 0) & (values <= 1)).all() for values in (share, frequency))
    if not (np.isfinite(scale) and scale > 0):
        raise ConfigError(f"eta_scale: must be above 0 ({DEFAULT_ETA_SCALE} fits the published numbers), found {scale}")
    present = (share > 0) & (frequency > 0)
    if not present.any():
        found = "none has a pixel of any class, so that eta cannot be computed"
        raise DataError.of("masks", found, "give a file of eta")
    eta = np.full(share.shape, MIN_ETA)
    eta[present] = np.maximum(scale * -np.log(frequency[present]) / share[present], MIN_ETA)
    eta[list(unlabeled)] = MIN_ETA
    absent = ~present
    absent[list(unlabeled)] = False
    eta[absent] = eta.max()
    return eta
