"""Pixel classifiers in files of the published form."""

from __future__ import annotations

from pathlib import Path

import torch

from guided_diffusion.labeling.classifier import PixelEnsemble


def save_published(folder: Path, ensemble: PixelEnsemble) -> list[Path]:
    """Write `model_<i>.pth` for each member, which the published code reads; return the paths."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"model_{member}.pth" for member in range(ensemble.members)]
    for member, path in enumerate(paths):
        weights = {f"module.{name}": value for name, value in ensemble.member_weights(member).items()}
        torch.save({"model_state_dict": weights}, path)
    return paths
