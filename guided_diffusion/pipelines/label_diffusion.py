"""Label diffusion of a run: its process, and the source of its eta."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from guided_diffusion.config.network import NetworkConfig, TrainedConfig
from guided_diffusion.config.train import TrainConfig
from guided_diffusion.data.class_statistics import eta_from_statistics, load_eta
from guided_diffusion.data.modes import UNLABELED, DatasetMode, get_mode
from guided_diffusion.data.options import EtaOptions
from guided_diffusion.data.scan.report import ScanReport
from guided_diffusion.diffusion.gaussian import GaussianDiffusion
from guided_diffusion.diffusion.label_diffusion import CLASSWISE, LabelDiffusion, build_label_diffusion
from guided_diffusion.diffusion.options import LabelDiffusionOptions
from guided_diffusion.pipelines.build import options_of_checkpoint
from guided_diffusion.runtime.checkpoint import Checkpoint
from guided_diffusion.runtime.errors import ConfigError, UserError

ETA = "eta.npy"
"""Where a run leaves its eta."""


def eta_of_training(config: TrainConfig, report: ScanReport, source: Checkpoint | None) -> NDArray[np.float64] | None:
    """Return eta, [K], of a run with class-wise label diffusion, None for others.

    With the same options as `source`, the checkpoint that the run begins with, eta is the checkpoint's.
    """
    if not _is_classwise(config.label_diffusion):
        return None
    if source is not None and not source.is_bare:
        trained = options_of_checkpoint(source)
        same = (trained.label_diffusion, trained.eta) == (config.label_diffusion, config.eta)
        if trained.label_eta and same:
            return np.asarray(trained.label_eta, dtype=np.float64)
    return eta_of_data(config.eta, get_mode(config.source.dataset_mode), report)


def changed_eta(config: TrainConfig, report: ScanReport, eta: NDArray[np.float64] | None) -> str:
    """Return the line of a warning where the file of `eta_path` no longer has the eta of the run; else ""."""
    path = config.eta.eta_path
    if eta is None or not path or not Path(path).is_file():
        return ""
    try:
        found = eta_of_data(config.eta, get_mode(config.source.dataset_mode), report)
    except UserError:
        found = np.zeros(0)
    if np.array_equal(found, eta):
        return ""
    return (
        f"eta_path: {path} has changed since the checkpoint was trained with it, whose own eta counts; under another "
        "name it is taken for a new run"
    )


def eta_of_data(options: EtaOptions, mode: DatasetMode, report: ScanReport) -> NDArray[np.float64]:
    """Return eta, [K]: from the file that the options name, or computed from the masks of `report`."""
    unlabeled = mode.unlabeled_classes([stats.name for stats in report.classes])
    if options.eta_path:
        return load_eta(options.eta_path, len(report.classes), unlabeled=unlabeled)
    pixel_shares = [stats.pixel_share for stats in report.classes]
    image_shares = [stats.images / len(report.pairs) for stats in report.classes]
    return eta_from_statistics(pixel_shares, image_shares, options.eta_scale, unlabeled=unlabeled)


def eta_of_sampling(trained: TrainedConfig, eta_path: str, names: Sequence[str]) -> tuple[float, ...] | None:
    """Return eta of trained weights, [K], None without class-wise label diffusion: their own, or that of a file.

    Raises ConfigError where bare weights need the file `eta_path`.
    """
    if not _is_classwise(trained.label_diffusion):
        return None
    if trained.label_eta:
        return trained.label_eta
    path = eta_path or trained.eta.eta_path
    if not path:
        line = f"eta_path is missing: cond_opt {CLASSWISE} of bare weights needs the eta of their training; set it"
        raise ConfigError.of_keys(("eta_path", line))
    unlabeled = get_mode(trained.source.dataset_mode).unlabeled_classes(names)
    return tuple(load_eta(path, len(names), unlabeled=unlabeled).tolist())


def _is_classwise(options: LabelDiffusionOptions) -> bool:
    return options.cond_diffuse and options.cond_opt == CLASSWISE


def label_process(
    config: NetworkConfig, process: GaussianDiffusion, num_classes: int, eta: ArrayLike | None
) -> LabelDiffusion | None:
    """Return the label diffusion of `config` at the steps of `process`, None where there is none."""
    if not config.label_diffusion.cond_diffuse or config.model.condition == "none":
        return None
    return build_label_diffusion(config.label_diffusion.cond_opt, process, num_classes, eta)


def classes_to_null(unlabeled_to_zero: bool, mode: DatasetMode, names: Sequence[str]) -> tuple[int, ...]:
    """Return the classes that `unlabeled_to_zero` takes out of the condition; ConfigError where there are none."""
    if not unlabeled_to_zero:
        return ()
    classes = mode.unlabeled_classes(names)
    if not classes:
        line = (
            f"unlabeled_to_zero is true, but no class is called {' or '.join(UNLABELED)} (the {len(names)} classes "
            f"begin with {', '.join(names[:4])}): leave it out"
        )
        raise ConfigError.of_keys(("unlabeled_to_zero", line))
    return classes
