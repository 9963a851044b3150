"""The bank of defects: what it keeps of a part, and which classes are defects."""

import numpy as np
import pytest
from defects import BACKGROUND, BAND, CRACK, NAMES, OBJECT, SPOT, bank_of, blank, crack, disk, spots

from guided_diffusion.data.lemons import CLASSES, write_demo_dataset
from guided_diffusion.data.placing.bank import Borders, DefectBank
from guided_diffusion.data.placing.options import PlacingOptions
from guided_diffusion.runtime.errors import ConfigError, DataError


def on_object() -> np.ndarray:
    """A spot on the object, which lies on the background, and a crack where the object ends."""
    label = disk(blank(), 40, 50, 30, OBJECT)
    label[36:44, 76:84] = CRACK
    return disk(label, 40, 40, 5, SPOT)


def test_a_part_keeps_its_pixels_place_and_surroundings():
    label = blank()
    label[0:10, 20:60] = BAND
    label[0:10, 30] = BACKGROUND  # two parts
    label = disk(label, 40, 25, 6, SPOT)
    bank = bank_of(label)
    rebuilt = blank()
    for part in bank.parts:
        rebuilt[part.box.slices][part.mask] = part.class_id
    assert np.array_equal(rebuilt, label)
    assert [part.source for part in bank.parts] == ["a#0", "a#1", "a#2"]
    spot, *bands = bank.parts
    assert (spot.class_id, spot.borders, spot.image_size, spot.area) == (SPOT, Borders(), (80, 100), spot.mask.sum())
    assert spot.center == pytest.approx((40.5 / 80, 25.5 / 100))
    assert all(part.borders == Borders(top=True) and part.hosts == (BACKGROUND,) for part in bands)
    assert bank.find("a#0") is spot
    assert bank.places(bands[0]) == tuple(band.center for band in bands)
    assert bank.like(BAND, 2) == (tuple(bands),)


def test_objects_that_defects_lie_on_are_hosts_and_no_defects():
    bank = bank_of(on_object(), on_object())
    assert bank.classes == (SPOT, CRACK, BAND)
    assert {part.class_id: part.hosts for part in bank.parts} == {SPOT: (OBJECT,), CRACK: (BACKGROUND, OBJECT)}
    assert bank_of(on_object(), defect_classes=("object",)).parts[0].hosts == (BACKGROUND,)


def test_a_defect_within_a_defect_has_the_hosts_of_that_one():
    label = disk(disk(disk(blank(), 40, 50, 30, OBJECT), 40, 50, 15, BAND), 40, 50, 6, SPOT)
    bank = bank_of(label, on_object(), on_object())
    assert BAND in bank.classes  # it surrounds a spot, but is not in half of the masks
    assert {part.hosts for part in bank.parts if part.class_id in (SPOT, BAND)} == {(OBJECT,)}


def test_ignored_pixels_are_neither_parts_nor_hosts():
    label = disk(disk(disk(blank(), 40, 50, 30, OBJECT), 40, 50, 8, len(NAMES)), 40, 50, 6, SPOT)
    bank = bank_of(label, on_object(), defect_classes=("spot",))
    assert [part.hosts for part in bank.parts] == [(OBJECT,), (OBJECT,)]


def test_the_lemon_of_the_demo_is_no_defect(tmp_path):
    from PIL import Image

    write_demo_dataset(tmp_path / "lemons", num_train=16, num_test=1, size=48)
    paths = sorted((tmp_path / "lemons" / "train" / "masks").iterdir())
    bank = DefectBank.build([(path.stem, np.asarray(Image.open(path))) for path in paths], CLASSES)
    assert [CLASSES[class_id] for class_id in bank.classes] == ["blemish", "mould", "gangrene"]
    assert {host for part in bank.parts for host in part.hosts} == {CLASSES.index("lemon")}


def test_specks_beside_large_parts_are_left_out():
    label = disk(disk(disk(blank(), 40, 20, 12, SPOT), 40, 50, 12, SPOT), 40, 80, 12, SPOT)
    label[5, 5] = label[70, 90] = SPOT
    bank = bank_of(label)
    assert len(bank.parts) == 3
    small = blank()
    small[5, 5] = small[9:11, 9] = SPOT
    assert len(bank_of(small).parts) == 2


def test_the_number_of_a_part_does_not_depend_on_the_options():
    label = spots()[5][1]
    (asked,) = bank_of(label, classes=("crack",)).parts
    assert asked.source in [part.source for part in bank_of(label).parts if part.class_id == CRACK]
    assert bank_of(label, classes=("crack",)).classes == (CRACK,)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"classes": ("carck",)}, "classes"),
        ({"classes": ("band",)}, "classes"),
        ({"classes": ("object",)}, "classes"),
        ({"defect_classes": ("band",)}, "defect_classes"),
        ({"defect_classes": ("bund",)}, "defect_classes"),
    ],
)
def test_classes_that_cannot_be_placed_are_named(options, key):
    with pytest.raises(ConfigError) as error:
        bank_of(on_object(), crack(on_object(), 2, 2, 9), **options)
    assert error.value.keys == (key,)
    assert len(error.value.messages) == 1


@pytest.mark.parametrize("masks", [[], [("a", blank())]])
def test_masks_without_defects_make_no_bank(masks):
    with pytest.raises(DataError) as error:
        DefectBank.build(masks, NAMES, PlacingOptions())
    assert error.value.path == "training masks"
