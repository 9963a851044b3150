"""What a training run begins with: nothing, trained weights, or the state of an interrupted run."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guided_diffusion.config.train import TrainConfig
from guided_diffusion.config.trained import TrainedConfig
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.options import EtaOptions
from guided_diffusion.diffusion.options import DiffusionOptions, LabelDiffusionOptions
from guided_diffusion.models.options import ModelOptions
from guided_diffusion.pipelines.build import options_of_checkpoint
from guided_diffusion.pipelines.comparison import differing_keys
from guided_diffusion.runtime.checkpoint import (
    BEST,
    DESCRIBED,
    LAST,
    Checkpoint,
    find_checkpoint,
    is_sound,
    load_checkpoint,
)
from guided_diffusion.runtime.errors import CheckpointError, ConfigError, DataError
from guided_diffusion.runtime.files import digest, reporting_os_errors
from guided_diffusion.training.options import OptimizerOptions
from guided_diffusion.training.progress import Progress

ASIDE = "best-before-{}.pt"
"""What `best.pt` is called where another one takes its place."""


@dataclass(frozen=True)
class ResumePlan:
    """A checkpoint to begin with, if any.

    continues: its state is continued, as if there had been no interruption; else only its weights are used.
    own: it lies in the run's own folder.
    """

    checkpoint: Checkpoint | None = None
    continues: bool = False
    own: bool = False

    def is_over(self, options: OptimizerOptions) -> bool:
        """Return whether nothing is left to train."""
        if not self.continues:
            return False
        progress = Progress.from_state(self.checkpoint.progress)
        return progress.is_over(options.max_epochs, options.lr_anneal_steps)


def find_resume_plan(config: TrainConfig) -> ResumePlan:
    """Return what the run of `config` begins with; an interrupted run in `output_dir` comes before anything else.

    Raises ConfigError where that folder holds another run, or where the checkpoint to start from does not fit.
    """
    output_dir = config.run.output_dir
    own = find_resume_state(output_dir)
    if own is not None:
        if config.resume_checkpoint == "":
            raise ConfigError(
                f'resume_checkpoint is "", but {output_dir} already holds a run: set it to "auto" to '
                "continue, or choose another output_dir"
            )
        check_same_run(config, own)
        return ResumePlan(own, continues=True, own=True)
    if config.resume_checkpoint in ("", "auto"):
        return ResumePlan()
    source = load_checkpoint(find_checkpoint(config.resume_checkpoint, prefer=LAST))
    if source.is_bare:
        if not {"prediction", "predict_xstart"} & config.given:
            raise ConfigError(
                f"prediction cannot be seen in the bare weights of {source.path}: set it as it was in their training "
                '(the published models predict "eps")'
            )
        return ResumePlan(source)
    fixed = [*ModelOptions.keys(), *DiffusionOptions.keys(), "image_channels", "no_instance"]
    if source.resumable:
        fixed += ["batch_size", "schedule_sampler", "seed", *LabelDiffusionOptions.keys(), *EtaOptions.keys()]
    clashes = differing_keys(config, options_of_checkpoint(source, TrainConfig), fixed)
    if clashes:
        raise ConfigError([f"{key} differs from {source.path}: {said}; set it back" for key, said in clashes.items()])
    start = ResumePlan(source, continues=source.resumable)
    if start.is_over(config.optimizer):
        raise ConfigError(
            f"resume_checkpoint is {source.path}, which is trained to the end ({source.progress['epoch']} epochs): "
            "raise max_epochs to train on"
        )
    return start


def find_resume_state(output_dir: str) -> Checkpoint | None:
    """Return what an earlier start of the run in `output_dir` has saved, None where there is nothing.

    Raises CheckpointError where it cannot be read.
    """
    last = Path(output_dir) / LAST
    if not last.exists():
        return None
    try:
        state = load_checkpoint(last)
    except CheckpointError as error:
        raise CheckpointError(f"{last}: {_way_out_of_damage(Path(output_dir))}") from error
    if not state.resumable:
        raise CheckpointError(f"{last}: has no optimizer state, so no run can go on from it: choose another folder")
    return state


def _way_out_of_damage(folder: Path) -> str:
    if not is_sound(folder / BEST):
        return f"damaged or empty, and there is no sound {BEST} beside it: delete it, and the run begins anew"
    epoch = load_checkpoint(folder / BEST).progress.get("epoch")
    return (
        f"damaged or empty, but {BEST} beside it is sound (epoch {epoch}): move {LAST} away and run train with "
        f"--set resume_checkpoint={folder / BEST} to go on from those weights; without that, the run begins anew"
    )


def check_same_run(config: TrainConfig, own: Checkpoint) -> None:
    """Raise ConfigError where the run saved in the output folder had other options or another source."""
    folder = own.path.parent
    before = options_of_checkpoint(own, TrainConfig)
    known = before.given | TrainedConfig.fields().keys()
    compared = [key for key in config.fields() if key in known and config.facts(key).resume == "fixed"]
    clashes = differing_keys(config, before, compared)
    # null stands for what the masks told, which the checkpoint has resolved.
    if config.source.num_classes is None:
        clashes.pop("num_classes", None)
    messages = [
        f"{key} differs from the run in {folder}: {said}; set it back, or choose another output_dir"
        for key, said in clashes.items()
    ]
    asked = config.resume_checkpoint
    began = own.lineage.get("continued_from") or own.lineage.get("started_from")
    if began:  # relative to the run; those of older versions are absolute, or relative to where they were started
        inside = folder.resolve() / began["path"]
        began = {**began, "path": str(inside.resolve() if inside.exists() else began["path"])}
    if asked not in ("", "auto") and not _same_source(Path(asked), folder, began):
        messages.append(
            f"resume_checkpoint is {asked}, but the run in {folder} began from {(began or {}).get('path', 'nothing')}: "
            "set it back, or choose another output_dir"
        )
    if messages:
        raise ConfigError(messages)


def _same_source(asked: Path, folder: Path, began: Mapping[str, str] | None) -> bool:
    """Return whether `asked`, a file or run folder, is what the run in `folder` began from, or that run itself.

    Where it is gone, or was moved together with the run, there is nothing to compare and nothing needed of it.
    """
    if not asked.exists() or asked.resolve() in (folder.resolve(), (folder / LAST).resolve()):
        return True
    if began is None:
        return False
    files = [asked] if asked.is_file() else [asked / BEST, asked / LAST]
    there = [file for file in files if file.is_file()]
    same_path = Path(began["path"]).resolve() in [file.resolve() for file in files]
    return same_path or not there or any(digest(file) == began["digest"] for file in there)


def lineage(options: OptimizerOptions, start: ResumePlan, folder: Path) -> dict[str, Any]:
    """Return where the weights of the run in `folder` come from, and whether they ever saw a dropped mask.

    The path is relative to `folder`, so that it is the same wherever both lie. None: nobody knows.
    """
    dropped = options.drop_rate > 0
    if start.checkpoint is None:
        return {"saw_dropped_masks": dropped}
    known = start.checkpoint.lineage
    seen = {"saw_dropped_masks": dropped or known.get("saw_dropped_masks")}
    if start.own:
        return {**known, **seen}
    path = start.checkpoint.path.resolve()
    with contextlib.suppress(ValueError):  # another drive on Windows
        path = Path(os.path.relpath(path, folder.resolve()))
    source = {"path": path.as_posix(), "digest": digest(start.checkpoint.path)}
    if start.continues:
        return {**known, "continued_from": source, **seen}
    return {"started_from": source, **seen}


def refuse_other_classes(encoding: LabelEncoding, start: ResumePlan) -> None:
    """Raise DataError where the classes of the data are not those the checkpoint was trained with."""
    if start.checkpoint is None or not start.checkpoint.encoding:
        return
    before = LabelEncoding.from_dict(start.checkpoint.encoding)
    if encoding.names != before.names:
        raise DataError(
            f"classes.json: the classes are {', '.join(encoding.names)}, but {start.checkpoint.path} was trained with "
            f"{', '.join(before.names)}: use the same classes in the same order"
        )


def reconcile_best(start: ResumePlan, folder: Path, progress: Progress) -> str | None:
    """Make `best.pt` of the run's folder agree with what the run begins with; return what there is to say of it.

    A run continued in another folder brings it along; where it is gone or damaged, the best is looked for anew; and
    one that a run without a `last.pt` has left is put aside, not overwritten.
    """
    best = folder / BEST
    if start.continues:
        source = start.checkpoint.path.parent / BEST
        if not is_sound(source):
            progress.best_loss, progress.best_epoch = float("inf"), 0
            return f"warning: {source} is damaged: the best epoch is looked for anew" if source.is_file() else None
        if not start.own:
            with reporting_os_errors(best):
                shutil.copyfile(source, best)
    elif best.exists():
        used = start.checkpoint is not None and start.checkpoint.path.resolve() == best.resolve()
        return put_aside(best, used=used)
    return None


def put_aside(best: Path, *, used: bool) -> str:
    """Rename `best`, which a run without a `last.pt` left, and return what there is to say of it.

    used: this run starts from it, so that the same command needs it again until there is a new one; it is copied.
    One such file is kept, so that starts that are killed again and again do not fill the disk: the one that was
    trained for the most steps, of equal ones the newest.
    """
    reason = f"{best} was there without a {LAST} to go on from: this run begins anew"
    aside = best.with_name(ASIDE.format(digest(best)[:8]))
    others = [path for path in best.parent.glob(ASIDE.format("*")) if path != aside]
    further = [path for path in others if _steps_of(path) > _steps_of(best)]
    if further:
        if not used:
            best.unlink()
        return f"{reason}; {further[0]}, from before, was trained for longer and is kept in its place"
    with reporting_os_errors(aside):
        shutil.copyfile(best, aside) if used else best.replace(aside)
    for path in others:
        path.unlink()
    return f"{reason}, the old weights are now {aside}"


def drop_reproduced(folder: Path) -> None:
    """Delete what `put_aside` kept in the folder of a finished run, where it was an earlier start of the same run.

    That did what this one has done since, and got no further: nothing of it is lost.
    """
    for path in folder.glob(ASIDE.format("*")):
        if is_sound(path):
            last, earlier = load_checkpoint(folder / LAST), load_checkpoint(path)
            same = all(getattr(last, key) == getattr(earlier, key) for key in DESCRIBED)
            if same and earlier.progress["step"] <= last.progress["step"]:
                path.unlink()


def _steps_of(path: Path) -> int:
    return load_checkpoint(path).progress.get("step", 0) if is_sound(path) else -1
