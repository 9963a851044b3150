"""All trainings of a study: their images, read when they are needed, and their results on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from evaluations.whole_images import WholeImages
from guided_diffusion.config.study import (
    COPIED,
    GENERATED,
    INPAINTED,
    PLACE,
    REAL_GOOD,
    REPAINT,
    SDM,
    StudyConfig,
    amount_name,
)
from guided_diffusion.pipelines.evaluation.results import StudyResults
from guided_diffusion.pipelines.placing.folder import PlacedFolder
from guided_diffusion.pipelines.placing.planned import PlannedPairs
from guided_diffusion.pipelines.study.arms import ArmSet, arm_set, late_part, pasting_sets
from guided_diffusion.pipelines.study.generator import (
    ARMS,
    FOLDERS,
    SAMPLE,
    Generator,
    planned_pairs,
    refuse_other_classes,
)
from guided_diffusion.pipelines.study.progress import Progress
from guided_diffusion.pipelines.study.runs import (
    CHECKPOINT_SECONDS,
    SegmenterRun,
    SegmenterTraining,
    TestImages,
    train_and_test,
)
from guided_diffusion.pipelines.study.setup import StudySetup
from guided_diffusion.runtime.checkpoint import save_checkpoint
from guided_diffusion.runtime.errors import UserError
from guided_diffusion.runtime.files import remove
from guided_diffusion.runtime.memory import available_memory
from guided_diffusion.runtime.signals import processes_are_forked
from guided_diffusion.samples.reader import find_samples

RESULTS, CHECKPOINTS, SEGMENTER = "results", "unfinished", "segmenter.pt"


@dataclass
class StudyImages:
    """The images of a study, read when they are first needed."""

    setup: StudySetup
    generators: dict[int | None, Generator]
    test: TestImages
    whole: WholeImages
    good: WholeImages
    _synthetic: dict[tuple[int | None, str], WholeImages] = field(default_factory=dict)
    _arms: dict[tuple[int | None, str], ArmSet] = field(default_factory=dict)
    _planned: dict[int | None, PlannedPairs] = field(default_factory=dict)

    @classmethod
    def read(cls, setup: StudySetup, generators: dict[int | None, Generator]) -> StudyImages:
        """Read the real images and the good ones."""
        view = setup.view
        test = TestImages(view.read_pairs(setup.test, "test"), view.read_good(setup.good_test, "good test images"))
        whole = view.read_pairs(setup.pairs, "training")
        return cls(setup, generators, test, whole, view.read_good(setup.good, "good images"))

    def real(self, amount: int | None) -> WholeImages:
        """Return the annotated images of an amount."""
        index = {pair.stem: number for number, pair in enumerate(self.setup.pairs)}
        return self.whole.subset([index[pair.stem] for pair in self.setup.subsets[amount]])

    def arm(self, amount: int | None, arm: str) -> ArmSet:
        """Return the training set of an arm, the same one for all seeds: its digest takes time."""
        design, key = self.setup.config.design, (amount, arm)
        if key not in self._arms:
            synthetic = self.synthetic(amount, arm)
            shares = {"synthetic_share": design.synthetic_share, "good_share": design.good_share}
            self._arms[key] = arm_set(arm, self.real(amount), self.good, synthetic, **shares)
        return self._arms[key]

    @property
    def real_bytes(self) -> int:
        """The memory of all images but the synthetic ones."""
        return sum(part.bytes for part in (self.whole, self.good, self.test.defects, self.test.good))

    def _make_room(self, amount: int | None) -> None:
        """Forget the synthetic images of other amounts, if images already take more memory than is left."""
        if self.real_bytes + sum(part.bytes for part in self._synthetic.values()) > available_memory():
            for kept in (self._synthetic, self._arms):
                for key in [key for key in kept if key[0] != amount]:
                    del kept[key]

    def synthetic(self, amount: int | None, arm: str) -> WholeImages | None:
        """Return the synthetic images of an arm, None where it has none. Raises UserError for a folder that changed."""
        if arm not in (*COPIED, *GENERATED):
            return None
        if (amount, arm) not in self._synthetic:
            self._make_room(amount)
            view = self.setup.view
            if arm == SDM:
                folder = find_samples(self.generators[amount].folder / FOLDERS[SAMPLE])
                self._synthetic[amount, SDM] = view.read_windows(folder)
            elif arm == REPAINT:
                self._synthetic[amount, REPAINT] = pasting_sets(self.placed(amount, arm), view, [PLACE])[PLACE]
            else:
                for name, images in pasting_sets(self.scenes(amount), view, self.setup.arms).items():
                    self._synthetic[amount, name] = images
        return self._synthetic[amount, arm]

    def scenes(self, amount: int | None) -> PlannedPairs:
        """Return what pasted and placed defects have in common: the pairs of `place`, as planned where there are none.

        Raises UserError for a folder that changed, and where defects cannot be placed.
        """
        generator = self.generators[amount]
        if PLACE in generator.stages:
            return self.placed(amount)
        if amount not in self._planned:
            self._planned[amount] = planned_pairs(self.setup, generator)
        return self._planned[amount]

    def check_places(self) -> None:
        """Plan what `place` has not made yet, before hours of training; UserError where defects cannot be placed."""
        arms = set(self.setup.arms)
        for amount, generator in self.generators.items():
            if arms & set(COPIED) and PLACE not in generator.stages:
                self.scenes(amount)
            elif arms & set(INPAINTED) and not all(map(generator.is_done, generator.stages)):
                planned_pairs(self.setup, generator)

    def placed(self, amount: int | None, stage: str = PLACE) -> PlacedFolder:
        """Return a folder of `place` of an amount, planned again."""
        folder = PlacedFolder.open(self.generators[amount].folder / FOLDERS[stage])
        refuse_other_classes(self.setup, tuple(folder.encoding.names))
        return folder


def memory_line(images: StudyImages, at_once: int, loaders: int = 0) -> str:
    """Return a line if the images of a study may not fit into memory, else "".

    Each of `at_once` processes has its own, and so have its `loaders` where these are not forked, as on Windows.
    """
    setup, good = images.setup, images.good
    copies = 0 if processes_are_forked() else loaders
    arms = [arm for arm in setup.arms if arm in (*COPIED, *GENERATED)]
    pixels = sum(label.size for label in good.labels)
    of_arm = setup.config.design.pairs * (good.bytes + pixels) / max(1, len(good))
    needed = len(arms) * of_arm + (images.real_bytes if at_once > 1 else 0) + copies * (images.real_bytes + of_arm)
    left = available_memory()
    if at_once * needed <= left:
        return ""
    fewer = [", fewer at_once"] * (at_once > 1) + [", fewer num_workers"] * (copies > 0)
    return (
        f"the images will take about {at_once * needed / 2**30:.1f} GiB of memory more at scale {setup.view.scale:g}, "
        f"but {left / 2**30:.1f} GiB are available: use a smaller scale{''.join(fewer)} or fewer pairs"
    )


def open_results(setup: StudySetup, training: SegmenterTraining, images: StudyImages) -> StudyResults:
    """Return the results in `output_dir`; ConfigError naming the option or data that differ from theirs."""
    config, view = setup.config, setup.view
    settings = {
        **training.settings(),
        **config.design.model_dump(mode="json", include={"pairs", "synthetic_share", "good_share"}),
        # Only where they are used, as results of versions without them have none.
        **({"real_last": config.design.real_last} if config.design.real_last else {}),
        **({"defect_classes": list(setup.defect_names)} if setup.chosen_defects else {}),
        "classes": list(setup.class_names),
        "flip_pairs": [list(pair) for pair in setup.exchanged],
        "image_channels": view.channels,
        "scale": view.scale,
    }
    digests = {
        "test images": images.test.defects.digest,
        "good test images": images.test.good.digest,
        "good images": images.good.digest,
        "training images": images.whole.digest,
    }
    results = StudyResults(Path(config.output_dir) / RESULTS, settings, digests)
    # Options are often chosen by how long they take: an estimate settles none of them.
    if not config.estimate_only or results.folder.exists():
        results.begin()
    return results


def agreement_run(config: StudyConfig, architecture: str) -> SegmenterRun | None:
    """Return the training whose model looks for masks: on real and good images at the largest amount; None without."""
    if REAL_GOOD not in config.design.arms:
        return None
    return SegmenterRun(list(config.design.repeats)[-1], REAL_GOOD, architecture, 0)


def segmenter_path(config: StudyConfig) -> Path:
    """Return where the weights of the model of `agreement_run` are kept."""
    return Path(config.output_dir) / SEGMENTER


def forget_lost_segmenter(training: SegmenterTraining, config: StudyConfig, results: StudyResults) -> None:
    """Delete the result of the model that looks for masks if its weights are lost, so that it is trained again.

    They are, too, where `amounts` or `arms` had another model look for masks before.
    """
    kept, path = agreement_run(config, training.architectures[0]), segmenter_path(config)
    if kept is not None and kept.key in results and (not path.exists() or _run_of(path) not in (kept.key, None)):
        del results[kept.key]


def _run_of(segmenter: Path) -> str | None:
    """Return of which run a file of weights is; None where it does not say so, or is damaged."""
    try:
        return torch.load(segmenter, map_location="cpu", weights_only=True).get("run")
    except Exception:  # whoever needs the weights says so
        return None


def checkpoint_path(config: StudyConfig, run: SegmenterRun) -> Path:
    """Return where an unfinished training is kept."""
    return Path(config.output_dir) / CHECKPOINTS / f"{run.key}.pt"


def forget_finished(config: StudyConfig, runs: Sequence[SegmenterRun], results: StudyResults) -> None:
    """Delete what is kept of trainings that have a result: the study may have been killed between the two."""
    for run in runs:
        if run.key in results:
            remove(checkpoint_path(config, run))


def train_one(
    run: SegmenterRun,
    training: SegmenterTraining,
    images: StudyImages,
    *,
    step_seconds: float | None,
    callback: Callable[[int], None],
) -> dict[str, Any]:
    """Train a model from its start or from where it was interrupted, and return its result, which is not yet written.

    step_seconds: about how long a step takes, None if that is not known. callback: is called after every step. Raises
    UserError as `train_and_test`, and where the arm has other images than its earlier results.
    """
    config = images.setup.config
    kept = agreement_run(config, training.architectures[0])

    def keep(model: nn.Module) -> None:
        if run == kept:
            save_checkpoint(segmenter_path(config), {"model": model.state_dict(), "run": run.key})

    every = max(1, round(CHECKPOINT_SECONDS / max(1e-6, step_seconds or 1.0)))
    arm, path = images.arm(run.amount, run.arm), checkpoint_path(config, run)
    _refuse_other_images(run, arm, StudyResults(Path(config.output_dir) / RESULTS, {}, {}))
    late = late_part(arm, config.segmenter.steps, config.design.real_last)
    return train_and_test(run, training, arm, images.test, path, every=every, late=late, callback=callback, keep=keep)


def _refuse_other_images(run: SegmenterRun, arm: ArmSet, results: StudyResults) -> None:
    """Raise UserError if a result of this arm is of other images: a mean over seeds would be of both."""
    for key, result in results.items():
        same = (result.get("amount"), result.get("arm")) == (amount_name(run.amount), run.arm)
        if same and result.get("images") != arm.images.digest:
            found = f"is of other images than {run.arm} has now: changed, or made by another version of isdm"
            raise UserError.of(results.path(key), found, "delete it, and it is trained again")


def results_of_other_images(
    images: StudyImages, runs: Sequence[SegmenterRun], results: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Return a line for each arm with results of other synthetic images than it has now, at the largest amount.

    Finished trainings are not refused: a newer version, which may paste differently, writes their report anew.
    """
    amount, lines = list(images.setup.config.design.repeats)[-1], []
    for arm in (arm for arm in images.setup.arms if arm in (*COPIED, *GENERATED)):
        digest = images.arm(amount, arm).images.digest
        of_arm = [run.key for run in runs if (run.amount, run.arm) == (amount, arm) and run.key in results]
        if others := [key for key in of_arm if results[key].get("images") != digest]:
            kept = f"the result{'s' * (len(others) > 1)} {', '.join(others)}"
            found = (
                f"{kept} {'are' if others[1:] else 'is'} of other images than {arm} has now, which are measured here"
            )
            lines.append(
                f"{found}: place_config is another one, or the version of isdm; delete what is named to train again"
            )
    return lines


def refuse_results_of_lost_pairs(generators: Iterable[Generator], results: StudyResults) -> None:
    """Raise UserError for results of pairs that are not there: those that would be made now may be others."""
    for generator in generators:
        for stage in generator.stages:
            if stage in ARMS and not generator.has_pairs(stage):
                lost = [
                    results.path(key)
                    for key, result in results.items()
                    if result.get("amount") == generator.name and result.get("arm") in ARMS[stage]
                ]
                if lost:
                    found = f"is of pairs that are not in {generator.folder / FOLDERS[stage]} any more"
                    remedy = f"delete {', '.join(path.name for path in lost)}, or restore the pairs"
                    raise UserError.of(lost[0], found, remedy)


def train_all(training: SegmenterTraining, images: StudyImages, progress: Progress) -> None:
    """Train the models that have no result, one after the other."""
    for run in progress.todo:
        progress.begin(run)
        show = partial(progress.show, run)
        result = train_one(run, training, images, step_seconds=progress.step_seconds(run), callback=show)
        progress.finish(run, result)
        remove(checkpoint_path(images.setup.config, run))


def load_segmenter(training: SegmenterTraining, config: StudyConfig) -> nn.Module:
    """Return the model of `agreement_run`; UserError if its file is damaged."""
    path, model = segmenter_path(config), training.build(training.architectures[0], 0)
    try:
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["model"])
    except Exception as error:
        raise UserError.of(path, "is damaged", "delete it, and the model is trained again") from error
    return model.to(training.device).eval()
