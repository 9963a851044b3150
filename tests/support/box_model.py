"""A tiny model of boxes whose layouts matter, as they would after a long training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import command_line
import torch
from tiny import TINY

from guided_diffusion.runtime.checkpoint import BEST

BOXES = {**TINY, "condition": "boxes", "style_dim": 6, "label_dim": 5, "max_epochs": 1, "drop_rate": 0.2}


def box_model(data: Path, folder: Path, **values: Any) -> Path:
    """Train three steps on boxes, fill what begins at zero with random numbers, and return the folder of the run."""
    assert command_line.run("train", **{**BOXES, "data_dir": data, "output_dir": folder, **values}) == 0
    (folder / "last.pt").unlink()
    content = torch.load(folder / BEST, weights_only=True)
    generator = torch.Generator().manual_seed(0)
    for weights in (content["model"], *content["ema"].values()):
        for name, value in weights.items():
            if any(part in name for part in (".gamma.", ".beta.", ".proj_out.", "out.2.", "mask_head")):
                value += 0.2 * torch.randn(value.shape, generator=generator)
    torch.save(content, folder / BEST)
    return folder
