"""The stages of a generator: what is made again when its training goes on, and what is not."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from odd_images import write_png
from parts import FEW_STEPS, WINDOWS, defects
from PIL import Image

from guided_diffusion.actions.study import _run_action
from guided_diffusion.config.load import load_config
from guided_diffusion.pipelines.evaluation.results import StudyResults
from guided_diffusion.pipelines.study.generator import FINISHED, Generator, generator_of
from guided_diffusion.pipelines.study.report import picture_of
from guided_diffusion.pipelines.study.setup import prepare
from guided_diffusion.pipelines.study.trainings import StudyImages, refuse_results_of_lost_pairs
from guided_diffusion.runtime.errors import ConfigError, UserError


@pytest.fixture
def study(parts, good_parts, tmp_path):
    """Return what prepares a study: (epochs, keys of place) -> setup and generator."""

    def begun(epochs: int, *, arms: str = "real_good,place", **place):
        contents = {"train": {**WINDOWS, "data_dir": "a", "output_dir": "b", "max_epochs": epochs}}
        contents["place"] = {**FEW_STEPS, **place}
        values = {"data_dir": str(parts), "dataset_mode": "multi-class", "good_dir": str(good_parts), "pairs": 3}
        values |= {"output_dir": str(tmp_path / "study"), "arms": arms, "amounts": "all", "device": "cpu"}
        for key, content in contents.items():
            path = tmp_path / f"{key}.json"
            path.write_text(json.dumps(content))
            values[f"{key}_config"] = str(path)
        setup = prepare(load_config("study", values))
        return setup, generator_of(setup, None)

    return begun


def made(setup, generator: Generator) -> list[str]:
    """Return the actions that making the generator has run."""
    ran: list[str] = []
    generator.begin(setup)
    generator.run(lambda action, config: (ran.append(action), _run_action(action, config)))
    return ran


def pairs_of(generator: Generator) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (generator.folder / "placed" / "images").rglob("*.png")}


@pytest.mark.slow
def test_pairs_of_a_generator_that_is_trained_further_are_refused(study):
    setup, generator = study(1)
    assert made(setup, generator) == ["train", "place"]
    first = pairs_of(generator)
    assert made(*study(1)) == []

    further, longer = study(2)
    with pytest.raises(ConfigError) as error:
        longer.begin(further)
    assert error.value.keys == ("output_dir",)
    assert str(generator.folder / "placed") in str(error.value)
    assert made(*study(1)) == []  # set back

    # As an earlier version left it: the training was finished again, and the pairs are those of before.
    values = longer.stages["train"]
    _run_action("train", load_config("train", values))
    record = json.loads((generator.folder / FINISHED).read_text())
    (generator.folder / FINISHED).write_text(json.dumps({**record, "train": values}))
    with pytest.raises(ConfigError, match="placed"):
        longer.begin(further)

    shutil.rmtree(generator.folder / "placed")
    assert made(*study(2)) == ["place"]
    assert first.keys() == pairs_of(generator).keys()
    assert made(*study(2)) == []


@pytest.mark.slow
def test_pairs_of_a_deleted_network_are_not_those_of_a_new_one(study):
    setup, generator = study(1)
    made(setup, generator)
    shutil.rmtree(generator.folder / "train")
    assert made(*study(1)) == []  # nothing is to be trained again
    again, other = study(1)
    other = replace(other, stages={**other.stages, "train": {**other.stages["train"], "lr": 0.002}})
    with pytest.raises(ConfigError, match="placed"):
        other.begin(again)
    with pytest.raises(ConfigError, match="placed"):
        made(again, other)
    assert not (generator.folder / "train").exists()


@pytest.mark.slow
def test_keys_that_change_nothing_make_nothing_again(study):
    setup, generator = study(1, batch_size=2)
    made(setup, generator)
    first = pairs_of(generator)
    record = json.loads((generator.folder / FINISHED).read_text())
    record["train"]["device"] = "auto"
    (generator.folder / FINISHED).write_text(json.dumps(record))
    assert made(*study(1, batch_size=3)) == ["train", "place"]  # which have nothing to do
    assert pairs_of(generator) == first

    config = generator.folder / "configs" / "place.json"
    before = config.read_text()
    with pytest.raises(ConfigError) as error:
        made(*study(1, batch_size=3, feather=3))
    assert error.value.keys == ("output_dir",)
    assert str(generator.folder / "placed") in str(error.value)
    assert (config.read_text(), pairs_of(generator)) == (before, first)


@pytest.mark.slow
def test_copies_are_the_same_with_and_without_a_generator(study):
    setup, generator = study(1, arms="real_good,copy_paste,poisson,place", ignore_label=9, exif="ignore")
    made(setup, generator)
    with_it = StudyImages.read(setup, {None: generator})
    setup, generator = study(1, arms="real_good,copy_paste,poisson", ignore_label=9, exif="ignore")
    assert not generator.makes("copy_paste")
    without = StudyImages.read(setup, {None: generator})
    for arm in ("copy_paste", "poisson"):
        assert with_it.synthetic(None, arm).digest == without.synthetic(None, arm).digest
    assert with_it.scenes(None).classes() == without.scenes(None).classes()


@pytest.mark.slow
def test_masks_that_are_drawn_are_shown_without_copies(study, good_parts, tmp_path):
    for path in (good_parts / "train").glob("*.png"):
        size = Image.open(path).size
        write_png(tmp_path / "maps" / path.name, defects(0, size[::-1]))
    setup, generator = study(1, mask_source="dir", placed_masks=str(tmp_path / "maps"))
    made(setup, generator)
    shown = picture_of(StudyImages.read(setup, {None: generator}))
    assert shown.titles == ("good", "placed", "mask")
    assert len(shown.groups) == 2


def test_results_of_pairs_that_were_deleted_are_refused(study, tmp_path):
    _, generator = study(1)
    results = StudyResults(tmp_path / "results", {}, {})
    results["fpn-nall-real_good-0"] = {"counts": {}, "amount": "all", "arm": "real_good"}
    refuse_results_of_lost_pairs([generator], results)
    results["fpn-nall-place-0"] = {"counts": {}, "amount": "all", "arm": "place"}
    results["fpn-nall-copy_paste-0"] = {"counts": {}, "amount": "all", "arm": "copy_paste"}  # which needs no pairs
    with pytest.raises(UserError, match="fpn-nall-place-0") as error:
        refuse_results_of_lost_pairs([generator], results)
    assert "copy_paste" not in str(error.value)
    (generator.folder / "placed").mkdir(parents=True)
    refuse_results_of_lost_pairs([generator], results)


def test_arms_without_generated_images_train_no_generator(study):
    assert stages_of(study, "real,real_good,unaugmented") == []
    assert stages_of(study, "real_good,copy_paste,poisson") == []
    assert stages_of(study, "copy_paste,repaint") == ["train", "repaint"]
    assert stages_of(study, "real_good,mixed") == ["train", "place"]
    assert stages_of(study, "real,sdm") == ["train", "sample"]


def stages_of(study, arms: str) -> list[str]:
    _, generator = study(1, arms=arms)
    return list(generator.stages)
