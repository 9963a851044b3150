"""What `paste` takes for the surroundings of a defect: flat images, in which every brightness is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from odd_images import write_png
from parts import NAMES, lines_of, pixels_of

SIZE = 60, 80
GROUND, DEFECT, GOOD = 100, 40, 150
SPOT, CRACK = 2, 3


def plain() -> NDArray[np.uint8]:
    return np.full((*SIZE, 1), GROUND, np.uint8)


def label_of(**boxes: tuple[slice, slice]) -> NDArray[np.uint8]:
    """Return a mask with the classes named at their boxes."""
    label = np.zeros(SIZE, np.uint8)
    for name, box in boxes.items():
        label[box] = NAMES.index(name)
    return label


def write_pair(folder: Path, image: NDArray[np.integer], label: NDArray[np.uint8], **options) -> Path:
    write_png(folder / "train/images/part.png", image, **options)
    write_png(folder / "train/masks/part.png", label)
    (folder / "classes.json").write_text(json.dumps({str(index): name for index, name in enumerate(NAMES)}))
    return folder


@pytest.fixture
def shift_of(tmp_path, isdm):
    """Paste a pair into a flat image; return by how much each class is brighter or darker than that, [N] pixels."""

    def run(image: NDArray[np.integer], label: NDArray[np.uint8], *, orientation=1, **values) -> dict[str, NDArray]:
        data = write_pair(tmp_path / "data", image, label, orientation=orientation)
        size = values.pop("good_size", SIZE)
        good = write_png(tmp_path / "good/a.png", np.full((*size, 1), GOOD, image.dtype)).parent
        given = {"data_dir": data, "dataset_mode": "multi-class", "good_dir": good, **values}
        code, _, errors = isdm("paste", **{"edit": False, **given}, results_path=tmp_path / "pasted")
        assert code == 0, errors
        result, mask = (pixels_of(tmp_path / "pasted" / kind / "a.png") for kind in ("images", "masks"))
        assert (result[mask == 0] == GOOD).all()
        return {NAMES[each]: result[mask == each].astype(float) - GOOD for each in np.unique(mask) if each}

    return run


@pytest.mark.parametrize("blend", ["match", "poisson"])
@pytest.mark.parametrize("seed", range(3))
def test_thin_defects_keep_their_contrast_however_they_are_bent(shift_of, blend, seed):
    image, label = plain(), label_of(crack=(slice(20, 40), slice(30, 33)))
    image[label > 0] = DEFECT
    (shift,) = shift_of(image, label, edit=True, blend=blend, seed=seed).values()
    assert shift.min() == pytest.approx(DEFECT - GROUND, abs=1)  # its middle, which no interpolation reaches
    assert np.median(shift) < 0.8 * (DEFECT - GROUND)


@pytest.mark.parametrize("blend", ["match", "poisson"])
def test_touching_defects_do_not_surround_each_other(shift_of, blend):
    image, label = plain(), label_of(spot=(slice(20, 30), slice(20, 30)), crack=(slice(20, 30), slice(30, 45)))
    image[label == SPOT], image[label == CRACK] = DEFECT, 130
    shifts = shift_of(image, label, blend=blend)
    assert shifts["spot"] == pytest.approx(DEFECT - GROUND, abs=1)
    assert shifts["crack"] == pytest.approx(30, abs=1)


@pytest.mark.parametrize("blend", ["match", "poisson"])
def test_what_lies_beyond_the_image_surrounds_nothing(shift_of, tmp_path, blend):
    """A defect of a corner, put into the middle."""
    image, label = plain(), label_of(spot=(slice(0, 12), slice(0, 9)))
    image[label > 0] = DEFECT
    places = {"a": [{"class": "spot", "center": [40, 30], "component": "part#0"}]}
    (tmp_path / "places.json").write_text(json.dumps(places))
    placed = {"mask_source": "file", "placements": tmp_path / "places.json"}
    assert shift_of(image, label, blend=blend, **placed)["spot"] == pytest.approx(DEFECT - GROUND, abs=1)


@pytest.mark.parametrize("blend", ["match", "poisson"])
def test_transparent_pixels_surround_nothing(shift_of, blend):
    image, label = plain(), label_of(spot=(slice(20, 30), slice(20, 30)))
    image[label > 0] = DEFECT
    alpha = np.full((*SIZE, 1), 255, np.uint8)
    alpha[:, 30:32] = 0
    shifts = shift_of(np.dstack([image, alpha]), label, blend=blend, image_channels=1)
    assert shifts["spot"] == pytest.approx(DEFECT - GROUND, abs=1)


def test_transparent_pixels_of_a_training_image_show_no_defect(shift_of):
    image, label = plain(), label_of(spot=(slice(20, 30), slice(20, 30)))
    image[label > 0] = DEFECT
    alpha = np.full((*SIZE, 1), 255, np.uint8)
    alpha[:, 26:] = 0  # four columns of the mask
    (shift,) = shift_of(np.dstack([image, alpha]), label, blend="none", image_channels=1).values()
    assert shift.tolist() == [DEFECT - GOOD] * 60


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_half_transparent_defects_keep_their_values(shift_of, kind):
    image, label = plain().astype(kind), label_of(spot=(slice(20, 30), slice(20, 30)))
    image[label > 0] = DEFECT
    alpha = np.full((*SIZE, 1), np.iinfo(kind).max, kind)
    alpha[label > 0] //= 2
    shifts = shift_of(np.dstack([image, alpha]), label, blend="none", image_channels=1)
    assert shifts["spot"] == pytest.approx(DEFECT - GOOD, abs=0)


@pytest.mark.parametrize("blend", ["match", "poisson", "none"])
def test_without_known_surroundings_a_defect_keeps_its_values(shift_of, blend):
    image, label = np.full((*SIZE, 1), DEFECT, np.uint8), label_of(spot=(slice(0, 60), slice(0, 80)))
    assert shift_of(image, label, blend=blend, good_size=(90, 120))["spot"] == pytest.approx(DEFECT - GOOD, abs=1)


@pytest.mark.parametrize("image_range", ["auto", "percentile", [30, 60]])
def test_values_are_those_of_the_files_whatever_is_black_to_a_model(shift_of, image_range):
    image, label = plain(), label_of(spot=(slice(20, 30), slice(20, 30)))
    image[label > 0] = DEFECT
    shifts = shift_of(image, label, blend="none", image_range=image_range)
    assert shifts["spot"] == pytest.approx(DEFECT - GOOD, abs=0)


def test_a_pair_whose_sizes_speak_against_its_orientation_is_read_as_its_mask_was(shift_of):
    image, label = plain(), label_of(spot=(slice(5, 12), slice(60, 75)))
    image[label > 0] = DEFECT
    shifts = shift_of(image, label, blend="none", orientation=6)
    assert shifts["spot"] == pytest.approx(DEFECT - GOOD, abs=0)


@pytest.mark.parametrize("gap", [0, 3, 6])
def test_the_gap_is_kept_and_not_doubled(tmp_path, isdm, gap):
    label = label_of(spot=(slice(20, 24), slice(20, 24)))
    data = write_pair(tmp_path / "data", plain(), label)
    write_png(tmp_path / "good/a.png", np.full((50, 50, 1), GOOD, np.uint8))
    values = {"data_dir": data, "dataset_mode": "multi-class", "good_dir": tmp_path / "good", "place": "anywhere"}
    values |= {"edit": False, "defects_per_image": 12, "num_samples": 10, "results_path": tmp_path / "pasted"}
    assert isdm("paste", **values, gap=gap)[0] == 0
    least = min(_distance(a["box"], b["box"]) for line in lines_of(tmp_path / "pasted") for a, b in _two(line))
    assert gap <= least <= gap + 1


def _two(line: dict) -> list[tuple[dict, dict]]:
    defects = line["defects"]
    return [(a, b) for index, a in enumerate(defects) for b in defects[:index]]


def _distance(one: list[int], other: list[int]) -> int:
    """Return the pixels between two boxes [left, top, right, bottom], along the axis on which they are farther."""
    return max(max(one[axis], other[axis]) - min(one[axis + 2], other[axis + 2]) for axis in (0, 1))
