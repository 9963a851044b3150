"""Whether the training pairs that are read are those a checkpoint was trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from guided_diffusion.config.train import TrainConfig
from guided_diffusion.data.fingerprint import DataChanges, Fingerprint, encoding_differs
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.scan.report import ScanReport
from guided_diffusion.pipelines.dataset import leaves_masks_aside
from guided_diffusion.pipelines.load import encoding_of_checkpoint
from guided_diffusion.pipelines.resume import ResumePlan
from guided_diffusion.runtime.checkpoint import BEST, Checkpoint, find_checkpoint, load_checkpoint
from guided_diffusion.runtime.errors import CheckpointError, DataError
from guided_diffusion.runtime.files import digest
from guided_diffusion.runtime.hub_address import is_address
from guided_diffusion.samples.reader import SampleFolder


def fingerprint_of(report: ScanReport) -> Fingerprint:
    """Return the fingerprint of scanned training data, good images included."""
    return Fingerprint.of(report.pairs, report.prints, report.good_images, report.good_prints)


def changes_since(checkpoint: Checkpoint, report: ScanReport, *, of_pairs: bool = False) -> DataChanges:
    """Return how the scanned data differ from those of `checkpoint`; nothing where it does not tell them.

    of_pairs: only the pairs are compared, not the good images.
    """
    before, now = Fingerprint.from_state(checkpoint.fingerprint), fingerprint_of(report)
    if before is None:
        return DataChanges()
    return before.of_pairs().changes_to(now.of_pairs()) if of_pairs else before.changes_to(now)


def refuse_other_data(config: TrainConfig, report: ScanReport, start: ResumePlan) -> bool:
    """Raise DataError where a run would go on with other training pairs than before; with the option only warn.

    Returns whether it does.
    """
    if not start.continues or not start.checkpoint.fingerprint:
        return False
    changes = changes_since(start.checkpoint, report)
    encoding = encoding_of_checkpoint(start.checkpoint)
    if leaves_masks_aside(config):
        changes = replace(changes, masks=(), instances=())
    else:
        changes = replace(changes, encoding=encoding_differs(encoding, report.encoding))
        if get_mode(config.source.dataset_mode).boxes is not None:  # they are in the place of masks
            changes = replace(changes, masks=(), boxes=changes.masks)
    if not changes:
        return False
    found = f"other training data than {start.checkpoint.path} was trained on ({changes})"
    folder = config.source.data_dir or config.good.image_dir
    if config.run.allow_changed_data:
        print(f"warning: {folder}: {found}; going on, as allow_changed_data is true")
        return True
    remedy = "put the files back, choose another output_dir, or set allow_changed_data to true to go on with these"
    raise DataError.of(folder, found, remedy)


def changes_since_sampling(folder: SampleFolder, report: ScanReport) -> tuple[Path, DataChanges] | None:
    """Return the checkpoint that made the samples of `folder` and how the scanned training pairs differ from its own.

    None where they agree, and where that checkpoint is gone or does not tell them.
    """
    named = folder.config.get("model_path")
    if not isinstance(named, str) or not named or is_address(named):  # exported weights do not tell their pairs
        return None
    try:
        path = find_checkpoint(named, prefer=BEST)
        # Another training may have replaced the file since.
        if folder.checkpoint not in (None, digest(path)):
            return None
        changes = changes_since(load_checkpoint(path, lazily=True), report, of_pairs=True)
    except (CheckpointError, OSError):
        return None
    return (path, changes) if changes else None
