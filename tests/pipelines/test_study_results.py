"""Results of a study on disk: settings and digests are told apart, and folders of earlier versions go on."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from evaluations.sets import ImageSet
from guided_diffusion.config.load import load_config
from guided_diffusion.data.groups import groups_of
from guided_diffusion.pipelines.evaluation.deeplab import FOLDER, STATE, train_deeplab
from guided_diffusion.pipelines.evaluation.results import SETTINGS, StudyResults
from guided_diffusion.pipelines.evaluation.study import _digests, _settings
from guided_diffusion.runtime.errors import CheckpointError, ConfigError

CHOSEN = {"lr": 0.5, "image_size": (32, 32)}
DIGESTS = {"samples": "abc", "training images": "def"}
# As versions before wrote it: settings and digests in one object.
EARLIER = (
    '{\n  "lr": 0.5,\n  "image_size": [\n    32,\n    32\n  ],\n  "samples": "abc",\n  "training images": "def"\n}\n'
)


def test_an_earlier_folder_goes_on_with_the_same_file(tmp_path):
    (tmp_path / SETTINGS).write_text(EARLIER)
    (tmp_path / "fpn-real-0.json").write_text('{"counts": {}}')
    results = StudyResults(tmp_path, CHOSEN, DIGESTS)
    results.begin()
    assert "fpn-real-0" in results
    assert (tmp_path / SETTINGS).read_text() == EARLIER
    assert json.dumps(results.record, indent=2) + "\n" == EARLIER


def test_a_setting_is_named_with_its_values_and_a_digest_without(tmp_path):
    StudyResults(tmp_path, CHOSEN, DIGESTS).begin()
    with pytest.raises(ConfigError) as error:
        StudyResults(tmp_path, {**CHOSEN, "lr": 1.0}, {**DIGESTS, "samples": "xyz"}).begin()
    assert error.value.messages == (
        f"lr is 1.0, but 0.5 in the study in {tmp_path}; set it back, or choose another output_dir",
        f"samples: other than those of the study in {tmp_path}; choose another output_dir",
    )


def test_of_many_settings_one_line_names_the_folder(tmp_path):
    StudyResults(tmp_path, CHOSEN, DIGESTS).begin()
    with pytest.raises(ConfigError) as error:
        StudyResults(tmp_path, {"lr": 1.0, "image_size": 8}, {"samples": "x", "training images": "y"}).begin()
    (line,) = error.value.messages
    assert line.startswith(f"output_dir: another run is in {tmp_path}, from which lr, image_size, samples, training")


def test_a_setting_that_only_the_folder_has_is_named(tmp_path):
    StudyResults(tmp_path, {**CHOSEN, "loss": "dice"}, DIGESTS).begin()
    with pytest.raises(ConfigError, match='loss is null, but "dice" in the study'):
        StudyResults(tmp_path, CHOSEN, DIGESTS).begin()


@pytest.mark.parametrize("other", [{"lr": 1.0}, {"samples": "xyz"}, "renamed"], ids=str)
def test_a_result_of_others_is_refused(tmp_path, other):
    changes = {} if other == "renamed" else other
    theirs = StudyResults(tmp_path / "theirs", {**CHOSEN, **changes}, DIGESTS | changes)
    ours = StudyResults(tmp_path / "ours", {**CHOSEN, "loss": None}, DIGESTS)
    name, copied = "fpn-real_good-0" if other == "renamed" else "fpn-real-0", "fpn-real-0"
    theirs[name] = {"counts": {}}
    ours["fpn-real-1"] = {"counts": {}}
    assert ours["fpn-real-1"] == StudyResults(ours.folder, CHOSEN, DIGESTS)["fpn-real-1"] == {"counts": {}}
    shutil.copy(theirs.path(name), ours.path(copied))
    assert StudyResults(ours.folder, {}, {})[copied] == {"counts": {}}
    with pytest.raises(ConfigError, match="is of other options or data") as error:
        ours[copied]
    assert str(ours.path(copied)) in error.value.messages[0]


def test_results_depend_on_the_classes_that_change_places():
    names = ("ground", "left lung", "right lung")
    sets = SimpleNamespace(size=(32, 32), class_names=names)
    needed = {"data_dir": "data", "synthetic_dir": "samples", "output_dir": "out", "encoder_weights": "none"}

    def settings(flip_pairs):
        return _settings(load_config("evaluate", needed | {"flip_pairs": flip_pairs}), sets)

    assert settings(None) == settings([["left lung", "right lung"]])
    assert settings(None)["flip_pairs"] == [[1, 2]]
    assert "flip_pairs" not in settings([])


def images_of(names, num_classes=2):
    count = len(names)
    return ImageSet(np.zeros((count, 32, 32, 3), np.uint8), np.zeros((count, 32, 32), np.uint8), names, num_classes)


def test_results_depend_on_which_images_show_one_object():
    def digests(pattern, *names):
        sets = SimpleNamespace(training=images_of(names), test=images_of(("test",)))
        samples = SimpleNamespace(images=images_of(("sample",)), made_from=np.array([0]))
        return _digests(SimpleNamespace(sets=sets, samples=samples, others={}), groups_of(pattern, names))

    found = digests(r"(tile\d)", "tile1_a", "tile1_b", "tile2_a", "tile2_b")
    assert found == digests(r"(part\d)", "part3_a", "part3_b", "part4_a", "part4_c")
    # The same pixels in the same order, of which other ones validate.
    assert found != digests(r"(tile\d)", "tile1_a", "tile1_b", "tile1_c", "tile2_b")
    assert digests(None, "tile1_a", "tile2_a") == digests(None, "tile1_a", "tile1_b")


@pytest.mark.slow
def test_a_deeplab_of_more_classes_is_another(tmp_path):
    def train(num_classes):
        sets = {name: images_of(("a", "b"), num_classes) for name in ("training", "test", "samples")}
        train_deeplab(
            SimpleNamespace(**sets), folder=tmp_path, epochs=1, backbone=None, seed=0, device=torch.device("cpu")
        )

    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / STATE).write_bytes(b"interrupted")
    with pytest.raises(CheckpointError):
        train(2)
    with pytest.raises(ConfigError, match="num_classes is 3, but 2 in the earlier training"):
        train(3)
