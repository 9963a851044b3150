"""The checked dataset of an action: nothing is trained or sampled on pairs that were not scanned."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from guided_diffusion.config.check import CheckConfig
from guided_diffusion.config.train import TrainConfig
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.scan.problems import problem_lines
from guided_diffusion.data.scan.report import ScanReport
from guided_diffusion.data.scan.scan import scan_dataset
from guided_diffusion.runtime.distributed import World


def take_mode_defaults(config: TrainConfig | CheckConfig) -> None:
    """Set in `config` what its dataset_mode has a default for and the user did not say."""
    if "resize" not in config.model_fields_set:
        config.resize = get_mode(config.dataset_mode).resize


def scan(
    options: Mapping[str, Any], split: str, processes: int = 1, encoding: LabelEncoding | None = None
) -> ScanReport:
    """Return what a scan of every pair of a split finds, its masks held against `encoding` where that is known."""
    return scan_dataset(
        options["data_dir"],
        get_mode(options["dataset_mode"]),
        split,
        num_classes=options["num_classes"],
        image_channels=options["image_channels"],
        batch_size=options["batch_size"] * processes,
        ignore_label=options["ignore_label"],
        encoding=encoding,
        with_instances=not options.get("no_instance", True),
    )


def open_training_data(options: Mapping[str, Any], processes: int = 1) -> ScanReport:
    """Scan the training split, print its warnings and return it.

    Raises DataError with a line for everything that keeps the dataset from being trained on.
    """
    report = scan(options, "train", processes)
    encoding = report.raise_if_fatal()
    for line in problem_lines(report.warnings):
        print(f"warning: {line}")
    if options["resize"] == "pad":
        # Borders are of no class, and samples are written with them: there must be a value for it.
        report = replace(report, encoding=encoding.with_ignore())
    return report


def default_workers(options: Mapping[str, Any], world: World) -> int:
    """Return the number of loading processes: as asked, or by default none on a CPU, which training keeps busy."""
    if options["num_workers"] is not None:
        return options["num_workers"]
    return 0 if world.device.type == "cpu" else min(4, os.cpu_count() or 1)
