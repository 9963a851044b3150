"""A short fit of pixel classifiers that saves its state all the time, in this process or in one that is killed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from guided_diffusion.labeling.files import PixelClassifier
from guided_diffusion.labeling.fit import Fit
from guided_diffusion.labeling.maps import ImageMaps
from guided_diffusion.labeling.pixels import PixelPool
from guided_diffusion.labeling.recipes import FAST

QUICK = replace(FAST, batch=32, steps=60)


def fit_saving(images: Sequence[ImageMaps], pool: PixelPool, folder: Path) -> None:
    """Fit two members, or go on with what `folder` has of that, and write classifier.pt there."""
    torch.set_num_threads(1)
    ensemble = Fit(images, pool, replace(QUICK, steps=80), members=2).run(folder / "state.pt", save_seconds=0.05)
    PixelClassifier(ensemble).save(folder / "classifier.pt")
