"""`import`: a dataset of what an annotation tool wrote, and its check."""

from __future__ import annotations

import os
from pathlib import Path

from guided_diffusion.actions import check
from guided_diffusion.config.check import CheckConfig
from guided_diffusion.config.import_dataset import ImportConfig
from guided_diffusion.config.load import read_config
from guided_diffusion.pipelines.dataset_import import REPORT, import_dataset, refuse_inside
from guided_diffusion.runtime.whole_folder import refuse_filled

CHECK_SIZE = 256
"""Side of the preview pictures; what a model of another size loses is seen by `check` with its image_size."""


def run(config: ImportConfig) -> int:
    """Write the dataset, print what is in it and what was lost, and check it."""
    imported = import_dataset(config)
    print("\n".join(imported.lines()))
    print(f"  {imported.folder}\n  {imported.folder / REPORT}\n")
    values = {
        "data_dir": str(imported.folder),
        "dataset_mode": "multi-class",
        "image_size": CHECK_SIZE,
        "image_channels": imported.image_channels,
        "resize": "pad",
        "output_dir": str(imported.folder / "check"),
    }
    return check.run(read_config(CheckConfig, values))


def plan(config: ImportConfig) -> list[str]:
    """Return nothing more to tell; UserError where an import could not write its folder."""
    refuse_inside(config)
    refuse_filled("output_dir", Path(os.path.abspath(config.output_dir)))
    return []
