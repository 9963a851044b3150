"""What a study reads of its data, before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from odd_images import write_png
from parts import BACKGROUND, CRACK, NAMES, PLATE, SPOT, WINDOWS, noise, write_good, write_parts
from PIL import Image

from evaluations.segmentation.crops import Crops
from evaluations.segmentation.defect_scores import measure_defects
from guided_diffusion.config.load import load_config
from guided_diffusion.pipelines.study.generator import generator_of
from guided_diffusion.pipelines.study.measures import SyntheticSet, distances, looks
from guided_diffusion.pipelines.study.runs import SegmenterTraining
from guided_diffusion.pipelines.study.setup import StudySetup, left_aside, prepare
from guided_diffusion.pipelines.study.trainings import StudyImages, open_results
from guided_diffusion.runtime.errors import ConfigError, DataError

KEYS = {"dataset_mode": "multi-class", "arms": "real,real_good", "amounts": "all", "encoder_weights": "none"}


@pytest.mark.parametrize(
    ("image", "of", "good"),
    [
        ("test/images/part_6.png", "data", "train"),
        ("train/images/part_0.png", "data", "train"),
        ("train/images/part_0.png", "data", "test"),
        ("good/train/images/train.png", "good", "test"),
    ],
)
def test_an_image_that_is_a_good_one_too_is_refused(prepared, tmp_path, image, of, good):
    setup = prepared(PLATE)
    known = Path(setup.source.data_dir) / image if of == "data" else Path(setup.good[0].image)
    folder = Path(setup.good_dirs[good == "test"])
    (folder / "images" / "same.png").write_bytes(known.read_bytes())
    (folder / "masks" / "same.png").write_bytes(Path(setup.good[0].mask).read_bytes())
    with pytest.raises(DataError) as error:
        prepared(PLATE)
    assert known.name in str(error.value)
    assert "same.png" in str(error.value)


def test_training_masks_without_any_defect_are_refused(prepared, tmp_path):
    data = Path(prepared(BACKGROUND).source.data_dir)
    for path in (data / "train" / "masks").iterdir():
        write_png(path, np.zeros_like(np.asarray(Image.open(path))))
    with pytest.raises(DataError, match="show no defect"):
        prepared(BACKGROUND)


@pytest.mark.parametrize("exif", ["apply", "ignore"])
def test_good_images_are_turned_as_annotated_ones_are(exif, tmp_path):
    data, good = write_parts(tmp_path / "data"), tmp_path / "good"
    write_good(good / "test", {"b": (33, 47)})
    stored = noise((40, 56), 1)
    write_png(good / "train" / "a.png", stored, orientation=3)  # half a turn
    config = load_config(
        "study",
        {**KEYS, "data_dir": str(data), "good_dir": str(good), "output_dir": str(tmp_path / "out"), "exif": exif},
    )
    (image,) = StudyImages.read(prepare(config), {}).good.images
    seen = stored if exif == "ignore" else stored[::-1, ::-1]
    assert np.array_equal(image, seen.repeat(3, axis=2))


@pytest.fixture
def prepared(tmp_path):
    """Return what prepares a study of parts on a plate (host PLATE), or alone: (keys) -> setup."""

    def begun(host: int = PLATE, place: dict | None = None, **keys) -> StudySetup:
        data, good = tmp_path / f"data{host}", tmp_path / f"good{host}"
        if not data.exists():
            write_parts(data, host=host)
            for split, size in (("train", (40, 56)), ("test", (44, 60))):
                write_good(good / split, {split: size}, masks=host == PLATE)
        contents = {"train_config": {**WINDOWS, "data_dir": "a", "output_dir": "b"}, "place_config": place or {}}
        for key, content in contents.items():
            (tmp_path / key).write_text(json.dumps(content))
        configs = {key: str(tmp_path / key) for key in contents}
        values = {**KEYS, **configs, "data_dir": str(data), "good_dir": str(good), "output_dir": str(tmp_path / "out")}
        return prepare(load_config("study", {**values, "device": "cpu", "encoder": "tu-lcnet_050", **keys}))

    return begun


def settings_of(setup: StudySetup) -> dict:
    images = StudyImages.read(setup, {})
    results = open_results(setup, SegmenterTraining.of(setup, torch.device("cpu")), images)
    return json.loads((Path(results.folder) / "settings.json").read_text())


def test_the_object_that_defects_lie_on_is_no_defect(prepared):
    setup = prepared(crop=32)
    assert setup.defects == setup.chosen_defects == (SPOT, CRACK)
    assert any(line.startswith("plate ") for line in setup.warnings)
    assert settings_of(setup)["defect_classes"] == ["spot", "crack"]

    images, training = StudyImages.read(setup, {}), SegmenterTraining.of(setup, torch.device("cpu"))
    labels = {
        id(image): label
        for part in (images.test.defects, images.test.good)
        for image, label in zip(part.images, part.labels, strict=True)
    }
    assert (images.test.good.labels[0] == PLATE).any()
    found = measure_defects(
        lambda asked: [labels[id(image)].astype(np.int16) for image in asked],
        images.test.defects,
        images.test.good,
        classes=training.defects,
    ).summary(setup.class_names)
    assert (found["miou_with_good"], found["false_alarm_images"]) == (1, 0)
    assert list(found["classes"]) == ["spot", "crack"]

    crops = Crops(images.whole, training.crops("real"), batch_size=1, seed=0)
    assert crops.classes == (SPOT, CRACK)
    sets = [SyntheticSet("place", None, images.whole)]
    real, *_ = looks(images, sets)["sets"]
    assert list(real["classes"]) == ["spot", "crack"]
    assert real["classes"]["spot"]["count"] == len(images.whole)  # on the plate, which is ground
    windows = distances(images, training, sets)["sets"][0]
    components = sum(1 + bool((label == CRACK).any()) for label in images.whole.labels)
    assert windows["images"] == components


def test_where_all_classes_are_defects_nothing_is_recorded(prepared):
    setup = prepared(BACKGROUND)
    assert setup.defects == (PLATE, SPOT, CRACK)
    assert setup.chosen_defects is None
    assert "defect_classes" not in settings_of(setup)
    training = SegmenterTraining.of(setup, torch.device("cpu"))
    assert training.defects is training.crops("real").classes is None
    assert "defect_classes" not in generator_of(prepared(BACKGROUND, arms="sdm"), None).stages["train"]


def test_defect_classes_are_those_that_are_named(prepared):
    assert prepared(defect_classes=["crack", "spot"]).defects == (SPOT, CRACK)
    assert prepared(defect_classes="spot").defects == (SPOT,)
    assert prepared(place={"defect_classes": ["spot"]}).defects == (SPOT,)
    assert prepared(place={"defect_classes": "spot"}, defect_classes=["spot"]).defects == (SPOT,)
    assert prepared(defect_classes=list(NAMES[1:])).chosen_defects is None


def test_place_paints_the_same_defects(prepared):
    keys = {"arms": "real_good,place", "amounts": "1,all"}
    assert "defect_classes" not in generator_of(prepared(**keys), None).stages["place"]
    own = prepared(place={"defect_classes": ["spot"]}, **keys)
    assert generator_of(own, None).stages["place"]["defect_classes"] == ["spot"]
    setup = prepared(defect_classes=["spot", "crack"], **keys)
    assert generator_of(setup, None).stages["place"]["defect_classes"] == ["spot", "crack"]
    for amount, pairs in setup.subsets.items():
        shown = {NAMES[each] for label in StudyImages.read(setup, {}).real(amount).labels for each in np.unique(label)}
        named = generator_of(setup, amount).stages["place"]["defect_classes"]
        assert named == [name for name in ("spot", "crack") if name in shown], pairs  # `place` refuses absent ones


@pytest.mark.parametrize(
    "keys",
    [
        {"defect_classes": ["spit"]},
        {"defect_classes": ["background", "spot"]},
        {"defect_classes": ["plate"], "host": BACKGROUND},  # which no mask shows
        {"defect_classes": ["spot"], "place": {"defect_classes": ["crack"]}},
        {"place": {"defect_classes": ["spit"]}},
    ],
)
def test_classes_that_are_no_defects_are_one_line(prepared, keys):
    with pytest.raises(ConfigError) as error:
        prepared(**keys)
    assert error.value.keys == ("defect_classes",)
    assert len(error.value.messages) == 1


def test_keys_of_other_actions_in_the_config_of_a_generator_are_named(tmp_path):
    path = tmp_path / "place.json"
    path.write_text(json.dumps({"steps": 2, "rotation": 90.0}))
    folders = {"data_dir": "a", "good_dir": "b", "output_dir": "c", "place_config": str(path)}
    (line,) = left_aside(load_config("study", {**KEYS, **folders}))
    assert line.startswith(f"place_config is {path}: place leaves aside 1 keys of")
    assert line.endswith(": rotation")
