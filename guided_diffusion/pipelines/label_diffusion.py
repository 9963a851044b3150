"""Label diffusion of an action: which process it is, and where its eta comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guided_diffusion.data.class_statistics import UNLABELLED, eta_from_statistics, load_eta, unlabelled_classes
from guided_diffusion.data.scan.report import ScanReport
from guided_diffusion.diffusion.gaussian import GaussianDiffusion
from guided_diffusion.diffusion.label_diffusion import CLASSWISE, LabelDiffusion, build_label_diffusion
from guided_diffusion.pipelines.build import LABEL_DIFFUSION_KEYS, trained_options
from guided_diffusion.runtime.checkpoint import Checkpoint
from guided_diffusion.runtime.errors import ConfigError

ETA = "eta.npy"
"""Where a run leaves its eta."""
STORED = "label_eta"
"""Key under which a checkpoint's config has eta; it is no option, as it may be computed."""


def eta_of_training(
    options: Mapping[str, Any], report: ScanReport, source: Checkpoint | None
) -> NDArray[np.float64] | None:
    """Return eta, [K], of a run with class-wise label diffusion, None for others.

    What `source`, the checkpoint that the run begins with, was trained with is kept where the options are the same.

    Raises ConfigError where there is a file of eta that nothing asks for.
    """
    if not _classwise(options):
        return None
    known = trained_options(source) if source is not None else {}
    if known.get(STORED) and all(known[key] == options[key] for key in LABEL_DIFFUSION_KEYS):
        return np.asarray(known[STORED], dtype=np.float64)
    return eta_of_data(options, report)


def eta_of_data(options: Mapping[str, Any], report: ScanReport) -> NDArray[np.float64]:
    """Return eta, [K]: from the file that the options name, or computed from the masks of `report`."""
    names = [found.name for found in report.classes]
    unlabelled = unlabelled_classes(names)
    if options["eta_path"]:
        return load_eta(options["eta_path"], len(names), unlabelled=unlabelled)
    return eta_from_statistics(
        [found.pixel_share for found in report.classes],
        [found.images / len(report.pairs) for found in report.classes],
        options["eta_scale"],
        unlabelled=unlabelled,
    )


def eta_of_sampling(options: Mapping[str, Any], names: Sequence[str]) -> list[float] | None:
    """Return eta of trained `options`, [K]: their own, or for bare weights from the file that `eta_path` names.

    Raises ConfigError where class-wise label diffusion lacks it, or where nothing asks for the file.
    """
    if not _classwise(options):
        return None
    if options.get(STORED):
        return options[STORED]
    if not options["eta_path"]:
        raise ConfigError(f"eta_path is missing: cond_opt {CLASSWISE} of bare weights needs the eta of their training")
    return load_eta(options["eta_path"], len(names), unlabelled=unlabelled_classes(names)).tolist()


def _classwise(options: Mapping[str, Any]) -> bool:
    if options["cond_diffuse"] and options["cond_opt"] == CLASSWISE:
        return True
    # Only bare weights leave it open until here whether there is label diffusion.
    if options["eta_path"]:
        raise ConfigError(
            "eta_path is given, but nothing says that the weights have class-wise label diffusion: leave it out, or "
            f'set cond_diffuse to true and cond_opt to "{CLASSWISE}"'
        )
    return False


def label_process(
    options: Mapping[str, Any], process: GaussianDiffusion, eta: Sequence[float] | NDArray[np.float64] | None
) -> LabelDiffusion | None:
    """Return the label diffusion of trained `options` at the steps of `process`, None where there is none."""
    if not options["cond_diffuse"]:
        return None
    return build_label_diffusion(options["cond_opt"], process, options["num_classes"], eta)


def classes_to_null(unlabeled_to_zero: bool, names: Sequence[str]) -> tuple[int, ...]:
    """Return the classes that `unlabeled_to_zero` takes out of the condition; ConfigError where there are none."""
    if not unlabeled_to_zero:
        return ()
    found = unlabelled_classes(names)
    if not found:
        raise ConfigError(
            f"unlabeled_to_zero is true, but no class is called {' or '.join(UNLABELLED)} (the {len(names)} classes "
            f"begin with {', '.join(names[:4])}): leave it out"
        )
    return found
