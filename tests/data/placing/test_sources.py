"""Scenes from label maps and from a JSON file of placements."""

import json

import numpy as np
import pytest
from defects import BAND, CRACK, NAMES, OBJECT, SPOT, bank_of, blank, crack, disk
from PIL import Image

from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.placing.options import PlacingOptions
from guided_diffusion.data.placing.sources import LabelMaps, PlacementsFile
from guided_diffusion.runtime.errors import ConfigError, DataError

ENCODING = LabelEncoding.identity(len(NAMES), NAMES)


@pytest.fixture
def maps(tmp_path):
    """A folder with the label map `part_1`, in which a spot and a band touch."""
    label = disk(disk(blank(), 40, 50, 30, OBJECT), 40, 50, 6, SPOT)
    label[38:42, 57:70] = BAND
    (tmp_path / "maps").mkdir()
    Image.fromarray(label).save(tmp_path / "maps" / "part_1.png")
    return tmp_path / "maps"


def test_label_maps_are_placed_as_they_are(maps):
    label = np.asarray(Image.open(maps / "part_1.png"))
    source = LabelMaps(maps, ENCODING, (SPOT, BAND))
    assert set(source.paths) == {"part_1"}
    scene = source.scene("part_1", (80, 100))
    again = blank()
    scene.paint_label(again)
    assert np.array_equal(again, np.where(label == OBJECT, 0, label))
    assert [(defect.class_id, defect.source, defect.edited) for defect in scene.placements] == [
        (SPOT, str(maps / "part_1.png"), None),
        (BAND, str(maps / "part_1.png"), None),
    ]


def test_label_maps_that_do_not_fit_are_named(maps):
    with pytest.raises(DataError) as error:
        LabelMaps(maps, ENCODING, (SPOT,)).scene("part_1", (100, 80))
    assert error.value.path == str(maps / "part_1.png")
    with pytest.raises(DataError) as error:
        LabelMaps(maps, LabelEncoding.identity(3), (SPOT,)).scene("part_1", (80, 100))
    assert error.value.path == str(maps / "part_1.png")
    with pytest.raises(DataError) as error:
        LabelMaps(maps / "none", ENCODING, (SPOT,))
    assert error.value.path == str(maps / "none")


@pytest.fixture(scope="module")
def bank():
    label = crack(disk(blank(), 40, 20, 8, SPOT), 20, 60, 40)
    label[:9, 80:] = SPOT  # touches the border
    return bank_of(label)


@pytest.fixture
def read(tmp_path, bank):
    def reader(content) -> PlacementsFile:
        path = tmp_path / "placements.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return PlacementsFile(path, bank, ("part_1", "part_2"))

    return reader


def test_placements_are_made_where_they_are_asked_for(read, bank):
    spot = next(part for part in bank.parts if part.class_id == SPOT and not any(part.borders))
    requests = [
        {"class": "spot", "center": [150, 60], "component": spot.source, "scale": 1.5},
        {"class": "crack", "center": [40.5, 100], "angle": 90},
    ]
    scene = read({"part_1": requests}).scene("part_1", (200, 300), np.random.default_rng(0))
    first, second = scene.placements
    assert first.source == spot.source
    assert (first.box.top + first.box.bottom) / 2 == pytest.approx(60, abs=1)
    assert (first.box.left + first.box.right) / 2 == pytest.approx(150, abs=1)
    assert first.mask.sum() == pytest.approx(spot.area * 1.5**2, rel=0.1)
    assert second.class_id == CRACK
    assert second.mask.shape[0] < second.mask.shape[1]
    assert read({"part_1": requests}).scene("part_2", (200, 300), np.random.default_rng(0)).placements == ()


def test_without_a_component_a_whole_one_is_taken_and_cut_at_the_border(read, bank):
    file = read({"part_1": [{"class": "spot", "center": [0, 99.5]}]})
    (defect,) = file.scene("part_1", (100, 120), np.random.default_rng(1), edit=False).placements
    assert not any(bank.find(defect.source).borders)
    assert (defect.left, defect.box.bottom) == (0, 100)
    assert defect.edited.mask is defect.mask
    image = np.zeros((80, 100))
    image[bank.find(defect.source).box.slices] = bank.find(defect.source).mask
    assert np.array_equal(defect.edited.warp(image) > 0.5, defect.mask)


def test_placements_that_overlap_are_counted(read):
    request = {"class": "spot", "center": [50, 50]}
    scene = read({"part_1": [request, request]}).scene("part_1", (100, 100), np.random.default_rng(0))
    assert len(scene.placements) == len(scene.skipped) == 1


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ({"part_3": []}, "'part_3'"),
        ({"part_1": [{"class": "spott", "center": [1, 1]}]}, "'part_1'[0].class"),
        ({"part_1": [{"class": "band", "center": [1, 1]}]}, "'part_1'[0].class"),
        ({"part_1": [{"center": [1, 1]}]}, "'part_1'[0].class"),
        ({"part_1": [{"class": "spot", "center": [1]}]}, "'part_1'[0].center"),
        ({"part_1": [{"class": "spot", "center": [1, -1]}]}, "'part_1'[0].center[1]"),
        ({"part_1": [{"class": "spot", "center": [1, "2"]}]}, "'part_1'[0].center[1]"),
        ('{"part_1": [{"class": "spot", "center": [1, NaN]}]}', "'part_1'[0].center[1]"),
        ({"part_1": [{"class": "spot", "center": [1, 1], "size": 2}]}, "'part_1'[0].size"),
        ({"part_1": [{"class": "spot", "center": [1, 1], "scale": 0}]}, "'part_1'[0].scale"),
        ({"part_1": [{"class": "spot", "center": [1, 1], "angle": "up"}]}, "'part_1'[0].angle"),
        ({"part_1": [{"class": "spot", "center": [1, 1], "component": "a#9"}]}, "'part_1'[0].component"),
        ({"part_1": [{"class": "crack", "center": [1, 1], "component": "a#0"}]}, "'part_1'[0].component"),
        ({"part_1": {"class": "spot"}}, "'part_1'"),
    ],
)
def test_mistakes_of_placements_are_named_by_their_key(read, tmp_path, content, key):
    with pytest.raises(DataError) as error:
        read(content)
    assert len(error.value.messages) == 1
    assert error.value.messages[0].startswith(f"{tmp_path / 'placements.json'}: {key}: ")


def test_files_of_another_form_are_refused(read, tmp_path):
    with pytest.raises(DataError):
        read([])
    with pytest.raises(ConfigError):
        read('{"part_1": [], "part_1": []}')
    with pytest.raises(DataError) as error:
        read({"part_1": [{"class": "spot", "center": [120, 20]}]}).scene("part_1", (50, 120), np.random.default_rng(0))
    assert error.value.path == str(tmp_path / "placements.json")
    assert "'part_1'[0].center" in error.value.found


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"mask_source": "dir"}, "placed_masks"),
        ({"mask_source": "file"}, "placements"),
        ({"placed_masks": "maps"}, "placed_masks"),
        ({"placements": "a.json"}, "placements"),
        ({"mask_source": "dir", "placed_masks": "maps", "defects_per_image": 2}, "defects_per_image"),
        ({"mask_source": "file", "placements": "a.json", "place": "keep"}, "place"),
        ({"classes": ("a", "b"), "defect_classes": ("a",)}, "classes"),
    ],
)
def test_options_that_contradict_each_other_are_named(values, key):
    assert [problem[0] for problem in PlacingOptions(**values).check()] == [key]


def test_options_that_fit_are_taken():
    assert not list(PlacingOptions(mask_source="dir", placed_masks="maps").check())
    assert PlacingOptions(classes="crack").classes == ("crack",)
    for names in ([], ["crack", "crack"], [1]):
        with pytest.raises(ValueError, match="classes"):
            PlacingOptions(classes=names)
