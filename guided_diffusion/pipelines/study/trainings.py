"""All trainings of a study: their images, read when they are needed, and their results on disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from evaluations.metrics.segmentation import scores
from evaluations.whole_images import WholeImages
from guided_diffusion.config.study import PLACED, REAL_GOOD, SDM, StudyConfig
from guided_diffusion.pipelines.evaluation.results import StudyResults
from guided_diffusion.pipelines.placed import PlacedFolder
from guided_diffusion.pipelines.study.arms import ArmSet, arm_set, pasting_sets
from guided_diffusion.pipelines.study.generator import PLACED_FOLDER, WINDOWS_FOLDER, Generator, refuse_other_classes
from guided_diffusion.pipelines.study.runs import (
    CHECKPOINT_SECONDS,
    SegmenterRun,
    SegmenterTraining,
    TestImages,
    tested,
    train_and_test,
)
from guided_diffusion.pipelines.study.setup import StudySetup
from guided_diffusion.runtime.checkpoint import save_checkpoint
from guided_diffusion.runtime.errors import UserError
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
        """Return the training set of an arm."""
        design = self.setup.config.design
        return arm_set(
            arm,
            self.real(amount),
            self.good,
            self.synthetic(amount, arm),
            synthetic_share=design.synthetic_share,
            good_share=design.good_share,
        )

    def synthetic(self, amount: int | None, arm: str) -> WholeImages | None:
        """Return the synthetic images of an arm, None where it has none. Raises UserError for a folder that changed."""
        if arm not in (*PLACED, SDM):
            return None
        if (amount, arm) not in self._synthetic:
            if arm == SDM:
                folder = find_samples(self.generators[amount].folder / WINDOWS_FOLDER)
                self._synthetic[amount, SDM] = self.setup.view.read_windows(folder)
            else:
                for name, images in pasting_sets(self.placed(amount), self.setup.view, self.setup.arms).items():
                    self._synthetic[amount, name] = images
        return self._synthetic[amount, arm]

    def placed(self, amount: int | None) -> PlacedFolder:
        """Return the folder of `place` of an amount, planned again."""
        folder = PlacedFolder.open(self.generators[amount].folder / PLACED_FOLDER)
        refuse_other_classes(self.setup, tuple(folder.encoding.names))
        return folder


def open_results(setup: StudySetup, training: SegmenterTraining, images: StudyImages) -> StudyResults:
    """Return the results in `output_dir`; ConfigError naming the option or data that differ from theirs."""
    config, view = setup.config, setup.view
    settings = {
        **training.settings(),
        **config.design.model_dump(mode="json", include={"pairs", "synthetic_share", "good_share"}),
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


def train_all(
    runs: Sequence[SegmenterRun],
    training: SegmenterTraining,
    images: StudyImages,
    results: StudyResults,
    *,
    seconds_of: Callable[[str], float | None],
    after_round: Callable[[], None],
) -> None:
    """Train the runs without a result; each result is written as soon as it is there.

    seconds_of: about how long a training of an architecture takes. after_round: is called when all runs of a seed are
    done.
    """
    config = images.setup.config
    kept = agreement_run(config, training.architectures[0])
    if kept is not None and kept.key in results and not segmenter_path(config).exists():
        del results[kept.key]
    todo = [run for run in runs if run.key not in results]
    if len(todo) < len(runs):
        print(f"{len(runs) - len(todo)} of {len(runs)} segmentation models are trained already")
    clock = _Clock({name: seconds_of(name) for name in training.architectures})
    with tqdm(total=len(todo) * training.options.steps, unit="step", disable=not todo, desc="segmentation") as bar:
        for number, run in enumerate(todo):
            bar.set_postfix_str(run.key, refresh=False)
            checkpoint = Path(config.output_dir) / CHECKPOINTS / f"{run.key}.pt"
            every = max(1, round(CHECKPOINT_SECONDS / clock.step_seconds(run, training.options.steps)))
            started, before = time.monotonic(), 0

            def show(step: int) -> None:
                nonlocal before
                bar.update(step - before)
                before = step

            def keep(model: nn.Module, run: SegmenterRun = run) -> None:
                if run == kept:
                    save_checkpoint(segmenter_path(config), {"model": model.state_dict()})

            arm = images.arm(run.amount, run.arm)
            result = train_and_test(run, training, arm, images.test, checkpoint, every=every, callback=show, keep=keep)
            results[run.key] = result
            checkpoint.unlink(missing_ok=True)
            clock.note(run, result["seconds"] + result["test_seconds"])
            rest = todo[number + 1 :]
            miou, took = scores(tested(result).counts).foreground_miou, duration(time.monotonic() - started)
            left = f"{len(rest)} left, about {duration(clock.total(rest))}"
            tqdm.write(f"{number + 1} of {len(todo)}: {run.key}: mIoU {100 * miou:.1f} %, {took}; {left}")
            if not rest or rest[0].repeat > run.repeat:
                after_round()


class _Clock:
    """How long trainings take, by architecture: as estimated until one has been finished."""

    def __init__(self, seconds: dict[str, float | None]):
        self._seconds = {name: each for name, each in seconds.items() if each}

    def note(self, run: SegmenterRun, seconds: float) -> None:
        self._seconds[run.architecture] = seconds

    def step_seconds(self, run: SegmenterRun, steps: int) -> float:
        return max(1e-6, self._seconds.get(run.architecture, CHECKPOINT_SECONDS) / steps)

    def total(self, runs: Sequence[SegmenterRun]) -> float:
        usual = sum(self._seconds.values()) / max(1, len(self._seconds))
        return sum(self._seconds.get(run.architecture, usual) for run in runs)


def duration(seconds: float) -> str:
    """Return a time in words: "40 s", "12 min", "3 h 20 min", "2 days 4 h"."""
    seconds = round(seconds)
    if seconds < 90:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} days {hours} h"


def load_segmenter(training: SegmenterTraining, config: StudyConfig) -> nn.Module:
    """Return the model of `agreement_run`; UserError if its file is damaged."""
    path, model = segmenter_path(config), training.build(training.architectures[0], 0)
    try:
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["model"])
    except Exception as error:
        raise UserError.of(path, "is damaged", "delete it, and the model is trained again") from error
    return model.to(training.device).eval()
