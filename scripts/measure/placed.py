"""What the measures of placed defects have in common: the arguments that name a folder of `place`."""

from __future__ import annotations

import argparse
from pathlib import Path

from guided_diffusion.pipelines.placing.folder import PlacedFolder


def folder_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name a folder of `place` and where to write."""
    parser.add_argument("folder", help="results_path of place")
    for key in ("data_dir", "good_dir", "model_path"):
        flag = f"--{key.replace('_', '-')}"
        parser.add_argument(flag, default="", help=f"{key} of place, where it lies elsewhere now")
    parser.add_argument("--out", type=Path, required=True, help="folder for what is found")


def open_folder(arguments: argparse.Namespace) -> PlacedFolder:
    """Return the folder that `folder_arguments` name."""
    keys = ("data_dir", "good_dir", "model_path")
    return PlacedFolder.open(arguments.folder, **{key: getattr(arguments, key) for key in keys})
