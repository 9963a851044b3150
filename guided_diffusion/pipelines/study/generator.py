"""The generator of an amount: trained on its images and the good ones alone, then used by `place` and `sample`.

Where no arm needs it, none is trained: copies of training defects are pasted as `place` would have placed them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guided_diffusion.config import study
from guided_diffusion.config.load import load_config
from guided_diffusion.config.network import TrainedConfig
from guided_diffusion.config.sample import SampleConfig
from guided_diffusion.config.study import amount_name
from guided_diffusion.data.groups import KEY as GROUP_KEY
from guided_diffusion.pipelines.build import with_free_keys
from guided_diffusion.pipelines.placing.plan import plan_placing
from guided_diffusion.pipelines.placing.planned import PlannedPairs
from guided_diffusion.pipelines.study.amounts import write_subset
from guided_diffusion.pipelines.study.setup import StudySetup
from guided_diffusion.runtime.checkpoint import BEST, find_checkpoint
from guided_diffusion.runtime.errors import ConfigError, DataError
from guided_diffusion.runtime.files import digest, write_text
from guided_diffusion.runtime.logs import read_run_record
from guided_diffusion.samples.manifest import MANIFEST, read_manifest

RunAction = Callable[[str, Any], Any]
"""Runs an action, by its name, with its checked configuration."""

FINISHED = "finished.json"
"""The configurations of the stages that are done."""
TRAIN, PLACE, REPAINT, SAMPLE = "train", "place", "repaint", "sample"
FOLDERS = {PLACE: "placed", REPAINT: "repainted", SAMPLE: "windows"}
"""Of the pairs that a stage makes, in that of the generator."""
ARMS = {PLACE: study.PLACED, REPAINT: (study.REPAINT,), SAMPLE: (study.SDM,)}
"""That are trained on them."""


def action_of(stage: str) -> str:
    """Return the action that a stage runs."""
    return PLACE if stage == REPAINT else stage


@dataclass(frozen=True)
class Generator:
    """The generator of an amount: its folder, and the configuration of each of its stages, in their order.

    scenes: the configuration of `place` by which defects are placed, whether the stage is there or not.
    """

    amount: int | None
    folder: Path
    stages: Mapping[str, Mapping[str, Any]]
    scenes: Mapping[str, Any]

    @property
    def name(self) -> str:
        return amount_name(self.amount)

    def is_done(self, stage: str) -> bool:
        """Tell whether a stage was finished with this configuration, and its pairs are there."""
        finished = read_run_record(self.folder, FINISHED).get(stage) == json.loads(json.dumps(self.stages[stage]))
        return finished and (stage == TRAIN or self.has_pairs(stage))

    def has_pairs(self, stage: str) -> bool:
        """Tell whether a stage has made pairs, if not all of them, and they were not deleted."""
        return stage in FOLDERS and (self.folder / FOLDERS[stage]).is_dir()

    def makes(self, arm: str) -> bool:
        """Tell whether the images of an arm need what a stage makes: copies follow the pairs of `place`, if any."""
        return arm in study.GENERATED or (arm in study.COPIED and PLACE in self.stages)

    def begin(self, setup: StudySetup) -> None:
        """Write the dataset of the amount, if it has one of its own; ConfigError for pairs of another network."""
        if self.amount is not None:
            write_subset(setup.subsets[self.amount], setup.source.data_dir, self.folder / "dataset")
        self._refuse_other_pairs()

    def run(self, run_action: RunAction) -> None:
        """Run the stages that are not done; one that was interrupted goes on. ConfigError as `begin`."""
        for stage, values in self.stages.items():
            if stage in FOLDERS:
                self._refuse_other_pairs()
            if self.is_done(stage):
                continue
            path = self.folder / "configs" / f"{stage}.json"
            before = path.read_text(encoding="utf-8") if path.exists() else None
            write_text(path, json.dumps(values, indent=2) + "\n")
            action = action_of(stage)
            print(f"\n--- {self.name} images, {stage}: main.py {action} -c {path}", flush=True)
            try:
                run_action(action, load_config(action, values))
            except DataError as error:
                if stage not in FOLDERS or not Path(error.path).is_relative_to(self.folder / FOLDERS[stage]):
                    raise
                # The pairs are those of other settings: the file beside them stays as they were made.
                if before is not None:
                    write_text(path, before)
                line = f"output_dir: {error.path} {error.found}: delete {self.folder / FOLDERS[stage]}, "
                raise ConfigError.of_keys(("output_dir", f"{line}or choose another output_dir")) from None
            done = {**read_run_record(self.folder, FINISHED), stage: values}
            write_text(self.folder / FINISHED, json.dumps(done, indent=2) + "\n")

    def _refuse_other_pairs(self) -> None:
        """Raise ConfigError for pairs that the network made before it was, or is to be, trained further or anew."""
        network = self.folder / TRAIN
        made = [self.folder / FOLDERS[stage] for stage in self.stages if self.has_pairs(stage)]
        if not made or (not network.is_dir() and self.is_done(TRAIN)):
            return
        before = read_run_record(self.folder, FINISHED).get(TRAIN, {}).get("max_epochs")
        if network.is_dir() and (before is None or before >= self.stages[TRAIN]["max_epochs"]):
            # Other keys may have changed without any effect on the network, such as the device.
            checkpoint = digest(find_checkpoint(network, prefer=BEST))
            made = [folder for folder in made if not _made_by(folder) <= {checkpoint, None}]
        if made:
            has, them = ("has", "it") if len(made) == 1 else ("have", "them")
            folders = " and ".join(map(str, made))
            found = f"{folders} {has} pairs of another generator: as it was before further training, or deleted"
            line = f"output_dir: {found}: delete {them}, or choose another output_dir"
            raise ConfigError.of_keys(("output_dir", line))


def _made_by(folder: Path) -> set[str | None]:
    """Return the digests of the checkpoints that made the pairs of a finished folder."""
    path = folder / MANIFEST
    return {line.checkpoint for line in read_manifest(path)} if path.exists() else set()


def generator_of(setup: StudySetup, amount: int | None) -> Generator:
    """Return the generator of an amount; without stages where no arm needs one."""
    folder = Path(setup.config.output_dir) / f"n{amount_name(amount)}"
    common = {"seed": setup.config.seed, "device": setup.config.compute.device}
    data_dir = setup.source.data_dir if amount is None else str(folder / "dataset")
    made = {"model_path": str(folder / TRAIN), "data_dir": data_dir, "num_samples": setup.config.design.pairs, **common}
    place = {
        **setup.place_keys,
        **made,
        "good_dir": setup.good_dirs[0],
        "results_path": str(folder / FOLDERS[PLACE]),
        **_classes_to_place(setup, amount),
    }
    stages = _stages(setup, amount, folder, place, made) if set(setup.arms) & set(study.GENERATED) else {}
    return Generator(amount, folder, stages, place)


def _stages(
    setup: StudySetup, amount: int | None, folder: Path, place: dict[str, Any], made: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Return the stages of a generator; made: keys of all actions that use its network."""
    # A generator depends on no groups: to name them later must not train it again.
    train = {
        **{key: value for key, value in setup.train_keys.items() if key != GROUP_KEY},
        **{key: made[key] for key in ("seed", "device", "data_dir")},
        "good_dir": setup.good_dirs[0],
        "output_dir": str(folder / TRAIN),
        "max_epochs": epochs_of(setup, amount),
    }
    if setup.mode.num_classes is None and not setup.mode.binary:
        train["num_classes"] = setup.view.encoding.num_classes  # an amount may not have the last classes
    shared = {key: value for key, value in setup.place_keys.items() if key in _shared_keys()}
    sample = {**shared, **made, "data_split": "train", "results_path": str(folder / FOLDERS[SAMPLE])}
    stages = {TRAIN: train}
    if set(setup.arms) & set(study.PLACED):
        stages[PLACE] = place
    if study.REPAINT in setup.arms:
        own = {"paste_noise": setup.config.design.repaint_noise, "results_path": str(folder / FOLDERS[REPAINT])}
        stages[REPAINT] = {**place, **own}
    if study.SDM in setup.arms:
        stages[SAMPLE] = sample
    return stages


def planned_pairs(setup: StudySetup, generator: Generator) -> PlannedPairs:
    """Return what `place` would make for an amount. Raises UserError where defects cannot be placed."""
    config = load_config(PLACE, generator.scenes)
    trained = TrainedConfig.from_flat({}).model_copy(update={"source": setup.source, "geometry": setup.geometry})
    trained, encoding = with_free_keys(trained, config), setup.view.encoding
    encoding = encoding.ignoring(config.source.ignore_label)
    return PlannedPairs(config, trained, encoding, plan_placing(config, trained, encoding))


def _classes_to_place(setup: StudySetup, amount: int | None) -> dict[str, list[str]]:
    """Return the key `defect_classes` of `place` where the study names them, without those that an amount lacks."""
    named = setup.config.defect_classes or ()
    shown = [name for name in named if name in setup.shown[amount]]
    return {"defect_classes": shown or list(named)} if named else {}


def _shared_keys() -> set[str]:
    """Return the keys of `place` that mean the same in `sample`."""
    groups = SampleConfig.groups()
    kept = ("sampler", "precision", "weights")
    return {key for group in kept for key in groups[group].model_fields} | {"batch_size", "extrapolation", "eta_path"}


def epochs_of(setup: StudySetup, amount: int | None) -> int:
    """Return the epochs of a generator's training: those that its steps need, where `lr_anneal_steps` gives these.

    An epoch of few images has few steps, and all amounts get the same number of them.
    """
    assert setup.training is not None
    options = setup.training.optimizer
    if not options.lr_anneal_steps:
        return options.max_epochs
    return math.ceil(options.lr_anneal_steps / steps_of_epoch(setup, amount))


def steps_of_epoch(setup: StudySetup, amount: int | None) -> int:
    """Return the optimization steps of an epoch of an amount's generator."""
    assert setup.training is not None
    images = len(setup.subsets[amount]) + len(setup.good)
    return max(1, math.ceil(images / setup.training.optimizer.batch_size))


def training_steps(setup: StudySetup, amount: int | None) -> int:
    """Return the optimization steps of a generator's training."""
    assert setup.training is not None
    steps = epochs_of(setup, amount) * steps_of_epoch(setup, amount)
    anneal = setup.training.optimizer.lr_anneal_steps
    return min(steps, anneal) if anneal else steps


def refuse_other_classes(setup: StudySetup, names: tuple[str, ...]) -> None:
    """Raise ConfigError where a generator knows other classes than the dataset has."""
    if names != setup.class_names:
        line = f"output_dir: its generators know the classes {', '.join(names)}, but data_dir has "
        raise ConfigError.of_keys(("output_dir", f"{line}{', '.join(setup.class_names)}: choose another output_dir"))
