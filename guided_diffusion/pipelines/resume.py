"""How a training run begins: from scratch, from trained weights, or from the state of an interrupted run."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guided_diffusion.config.network import TrainedConfig
from guided_diffusion.config.train import TrainConfig
from guided_diffusion.data.fingerprint import Fingerprint
from guided_diffusion.data.options import (
    AugmentOptions,
    BoxOptions,
    EtaOptions,
    GeometryOptions,
    SourceOptions,
    WindowOptions,
)
from guided_diffusion.diffusion.options import DiffusionOptions, GenerationOptions, LabelDiffusionOptions
from guided_diffusion.models.options import LatentOptions, ModelOptions
from guided_diffusion.pipelines.build import PUBLISHED_PREDICTION, options_of_checkpoint, refuse_lost_code
from guided_diffusion.pipelines.comparison import differences, refuse_other_run
from guided_diffusion.pipelines.load import encoding_of_checkpoint
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
from guided_diffusion.runtime.files import digest, move, reporting_os_errors
from guided_diffusion.runtime.hub_address import origin_of
from guided_diffusion.runtime.units import counted
from guided_diffusion.training.options import OptimizerOptions
from guided_diffusion.training.progress import Progress

ASIDE = "best-before-{}.pt"
"""What `best.pt` is called where another one takes its place."""
CONVERTED = "condition none to mask"
"""In the lineage of a network that began as one without a condition."""
_EXAMPLES = (SourceOptions, GeometryOptions, BoxOptions, AugmentOptions, WindowOptions)
"""The groups of what a loss is measured on, beside the data and `drop_rate`."""


@dataclass(frozen=True)
class ResumePlan:
    """The checkpoint that a run begins with, if any.

    continues: the run resumes its state, as if there had been no interruption; else it uses the weights alone.
    own: the checkpoint lies in the run's own folder. other_losses: losses cannot be compared with those before, as the
    data, or the examples that are made of them, are others.
    """

    checkpoint: Checkpoint | None = None
    continues: bool = False
    own: bool = False
    other_losses: bool = False

    @property
    def in_first_phase(self) -> bool:
        """Whether the checkpoint has an autoencoder in training, and nothing of the model yet."""
        return self.checkpoint is not None and bool(self.checkpoint.first_stage)

    def is_over(self, options: OptimizerOptions) -> bool:
        """Return whether nothing is left to train."""
        return self.continues and Progress.from_state(self.checkpoint.progress).is_over(options)


def find_resume_plan(config: TrainConfig) -> ResumePlan:
    """Return what the run of `config` begins with; an interrupted run in `output_dir` comes before anything else.

    Raises ConfigError where that folder holds another run, or where the checkpoint to start from does not fit.
    """
    own = find_resume_state(config.run.output_dir)
    if own is not None:
        if config.resume_checkpoint == "":
            line = f'resume_checkpoint is "", but {config.run.output_dir} already holds a run: set it to "auto" to '
            raise ConfigError.of_keys(("resume_checkpoint", f"{line}continue, or choose another output_dir"))
        check_same_run(config, own)
        return ResumePlan(own, continues=True, own=True)
    if config.resume_checkpoint in ("", "auto"):
        return ResumePlan()
    source = load_checkpoint(find_checkpoint(config.resume_checkpoint, prefer=LAST))
    source.weights("raw")  # there are none where its autoencoder is still in training
    if source.is_bare:
        refuse_lost_code(config, source)
        if not {"prediction", "predict_xstart"} & config.given:
            line = f"prediction cannot be seen in the bare weights of {source.path}: set it as it was in their training"
            raise ConfigError.of_keys(("prediction", line + PUBLISHED_PREDICTION))
        return ResumePlan(source)
    groups = (ModelOptions, DiffusionOptions, GenerationOptions, LatentOptions)
    fixed = [*(key for group in groups for key in group.keys()), "image_channels", "no_instance"]  # noqa: SIM118
    fixed += ["background"] if config.model.condition == "boxes" else []
    before = options_of_checkpoint(source, TrainConfig)
    # The weights of a network start one that is told more or less, but not the moments of its optimizer.
    changed = [key for key in ("inpaint", "augment", "condition") if config.get(key) != before.get(key)]
    if before.model.condition != "none" or config.model.condition == "boxes":
        changed = [key for key in changed if key != "condition"]
    elif "condition" in changed:  # masks are learned, of any classes
        changed += ["no_instance", "spade"]
    if before.model.inpaint and not config.model.inpaint:
        changed.remove("inpaint")
    fixed = [key for key in fixed if key not in changed]
    if "image_range" not in config.given:  # other data may have another range, but not by oversight
        fixed.append("image_range")
    if source.resumable and not changed:
        fixed += ["batch_size", "schedule_sampler", "seed", *LabelDiffusionOptions.keys(), *EtaOptions.keys()]
        fixed += ["mask_weight", "class_balance", "mask_supervision"]
    problems = differences(config, before, fixed, source=source.path, remedy="set it back")
    if problems:
        raise ConfigError.of_keys(*problems)
    start = ResumePlan(source, source.resumable and not changed, other_losses=_makes_other_examples(config, before))
    if start.is_over(config.optimizer):
        done = counted(source.progress["epoch"], "epoch")
        line = f"resume_checkpoint is {source.path}, which is trained to the end ({done})"
        annealed = 0 < config.optimizer.lr_anneal_steps <= source.progress["step"]
        longer = "lr_anneal_steps (0: the learning rate stays)" if annealed else "max_epochs"
        raise ConfigError.of_keys(("resume_checkpoint", f"{line}: raise {longer} to train on"))
    return start


def _makes_other_examples(config: TrainConfig, before: TrainConfig) -> bool:
    """Return whether a run makes other examples of the same data than the one it goes on with."""
    keys = [key for group in _EXAMPLES for key in group.keys() if config.facts(key).resume == "fixed"]  # noqa: SIM118
    # The number that null stands for is known only from the data, whose classes are compared elsewhere.
    compared = [key for key in (*keys, "drop_rate") if key != "num_classes"]
    return bool(differences(config, before, compared, source="", remedy=""))


def find_resume_state(output_dir: str) -> Checkpoint | None:
    """Return what an earlier start of the run in `output_dir` saved, None where it saved nothing.

    Raises CheckpointError where the file cannot be read, or a run cannot be resumed from it.
    """
    last = Path(output_dir) / LAST
    if not last.exists():
        return None
    try:
        state = load_checkpoint(last)
    except CheckpointError as error:
        raise CheckpointError.of(last, *_way_out_of_damage(Path(output_dir))) from error
    if not state.resumable:
        raise CheckpointError(f"{last}: has no optimizer state, so the run cannot be resumed: choose another folder")
    return state


def _way_out_of_damage(folder: Path) -> tuple[str, str]:
    """Return what was found and what to do where `last.pt` cannot be read."""
    best = folder / BEST
    if not is_sound(best):
        return f"damaged or empty, without a sound {BEST} beside it", "delete it, and the run begins anew"
    epoch = load_checkpoint(best, lazily=True).progress.get("epoch")
    return (
        f"damaged or empty, but {BEST} beside it is sound (epoch {epoch})",
        f"move {LAST} away and run train with --set resume_checkpoint={best} to go on from those weights; without "
        "that, the run begins anew",
    )


def check_same_run(config: TrainConfig, own: Checkpoint) -> None:
    """Raise ConfigError where the run saved in the output folder had other options or another source."""
    folder = own.path.parent
    before = options_of_checkpoint(own, TrainConfig)
    recorded = before.given | TrainedConfig.fields().keys()
    compared = [key for key in config.fields() if key in recorded and config.facts(key).resume == "fixed"]
    # The checkpoint has the number that null stood for; a network without a condition has no classes.
    if config.source.num_classes is None or config.model.condition == "none":
        compared.remove("num_classes")
    remedy = "set it back, or choose another output_dir"
    problems = differences(config, before, compared, source=f"the run in {folder}", remedy=remedy)
    asked = config.resume_checkpoint
    began = own.lineage.get("continued_from") or own.lineage.get("started_from")
    if began:  # relative to the run; in older checkpoints absolute, or relative to where the run was started
        inside = folder.resolve() / began["path"]
        began = {**began, "path": str(inside.resolve() if inside.exists() else began["path"])}
    if asked not in ("", "auto") and not _same_source(Path(asked), folder, began):
        origin = began["path"] if began else "nothing"
        line = f"resume_checkpoint is {asked}, but the run in {folder} began from {origin}: {remedy}"
        problems.append(("resume_checkpoint", line))
    refuse_other_run(folder, problems)


def _same_source(asked: Path, folder: Path, began: Mapping[str, str] | None) -> bool:
    """Return whether `asked`, a file or run folder, is what the run in `folder` began from, or that run itself.

    A source that is gone, or was moved together with the run, passes: it is not needed and cannot be compared.
    """
    if not asked.exists() or asked.resolve() in (folder.resolve(), (folder / LAST).resolve()):
        return True
    if began is None:
        return False
    candidates = [asked] if asked.is_file() else [asked / BEST, asked / LAST]
    files = [file for file in candidates if file.is_file()]
    same_path = Path(began["path"]).resolve() in [file.resolve() for file in candidates]
    return same_path or not files or any(digest(file) == began["digest"] for file in files)


def lineage(options: OptimizerOptions, start: ResumePlan, folder: Path, *, converted: bool = False) -> dict[str, Any]:
    """Return where the weights of the run in `folder` come from, and whether they ever saw a dropped mask.

    The path is relative to `folder`, so equal runs in other places have an equal one. None: unknown. converted: from
    a network without a condition, which knew no masks that could be dropped.
    """
    dropped = options.drop_rate > 0
    if start.checkpoint is None:
        return {"saw_dropped_masks": dropped}
    before = start.checkpoint.lineage
    seen = {"saw_dropped_masks": dropped or (False if converted else before.get("saw_dropped_masks"))}
    if start.own:
        return {**before, **seen}
    source = {"path": _path_from(folder, start.checkpoint.path), "digest": digest(start.checkpoint.path)}
    if start.continues:
        return {**before, "continued_from": source, **seen}
    return {"started_from": source, **({"converted": CONVERTED} if converted else {}), **seen}


def _path_from(folder: Path, file: Path) -> str:
    """Return the path of a checkpoint relative to a run's folder, or its address on the hub."""
    if origin := origin_of(file):
        return origin
    path = file.resolve()
    with contextlib.suppress(ValueError):  # another drive on Windows
        path = Path(os.path.relpath(path, folder.resolve()))
    return path.as_posix()


def refuse_other_classes(names: tuple[str, ...], start: ResumePlan) -> None:
    """Raise DataError where the classes of the data are not those the checkpoint was trained with."""
    if start.checkpoint is None or not start.checkpoint.encoding:
        return
    if options_of_checkpoint(start.checkpoint).model.condition == "none":
        return
    before = encoding_of_checkpoint(start.checkpoint)
    if names != before.names:
        raise DataError(
            f"classes.json: the classes are {', '.join(names)}, but {start.checkpoint.path} was trained with "
            f"{', '.join(before.names)}: use the same classes in the same order"
        )


def reconcile_best(start: ResumePlan, folder: Path, progress: Progress) -> str | None:
    """Make `best.pt` of the run's folder agree with the start of the run; return a line for the log, None for none.

    A run that is continued in another folder copies it; where it is missing or damaged, or its loss is of other data,
    the search for the best epoch restarts; one without a `last.pt` beside it is renamed, not overwritten.
    """
    best = folder / BEST
    if start.continues:
        source = start.checkpoint.path.parent / BEST
        if start.other_losses:
            progress.restart_search()
            return "warning: the losses are of other examples than before, so the search for the best epoch restarts"
        if not is_sound(source):
            progress.restart_search()
            damaged = f"warning: {source} is damaged, so the search for the best epoch restarts"
            return damaged if source.is_file() else None
        if not start.own:
            with reporting_os_errors(best):
                shutil.copyfile(source, best)
    elif best.exists():
        used = start.checkpoint is not None and start.checkpoint.path.resolve() == best.resolve()
        return put_aside(best, used=used)
    return None


def put_aside(best: Path, *, used: bool) -> str:
    """Rename `best`, which a run without a `last.pt` left, and return a line for the log.

    used: this run starts from it; it is copied, as the same command needs it again until there is a new one.
    Only the one trained for the most steps is kept (of equal ones the newest): runs killed often must not fill a disk.
    """
    reason = f"{best} had no {LAST} to resume from: this run begins anew"
    aside = best.with_name(ASIDE.format(digest(best)[:8]))
    others = [path for path in best.parent.glob(ASIDE.format("*")) if path != aside]
    further = [path for path in others if _steps_of(path) > _steps_of(best)]
    if further:
        if not used:
            best.unlink()
        return f"{reason}; {further[0]}, which was trained for longer, is kept in its place"
    with reporting_os_errors(aside):
        shutil.copyfile(best, aside) if used else move(best, aside)
    for path in others:
        path.unlink()
    return f"{reason}, the old weights are now {aside}"


def drop_reproduced(folder: Path) -> None:
    """Delete what `put_aside` kept in the folder of a finished run, where it comes from an earlier start of that run.

    The finished run has repeated its steps, so nothing is lost.
    """
    for path in folder.glob(ASIDE.format("*")):
        if is_sound(path):
            last, earlier = load_checkpoint(folder / LAST), load_checkpoint(path)
            if _same_training(earlier, last) and earlier.progress["step"] <= last.progress["step"]:
                path.unlink()


def _same_training(first: Checkpoint, second: Checkpoint) -> bool:
    """Return whether two checkpoints have equal options, classes, origin and training pairs."""
    prints = [Fingerprint.from_state(checkpoint.fingerprint) for checkpoint in (first, second)]
    described = all(getattr(first, key) == getattr(second, key) for key in DESCRIBED)
    return described and None not in prints and not prints[0].changes_to(prints[1])


def _steps_of(path: Path) -> int:
    return load_checkpoint(path, lazily=True).progress.get("step", 0) if is_sound(path) else -1
