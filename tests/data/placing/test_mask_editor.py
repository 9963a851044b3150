"""New masks: class sets and counts of a mask of the split, nothing torn, merged or moved off its border."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from defects import BACKGROUND, BAND, CRACK, NAMES, OBJECT, SPOT, blank, crack, disk, spots
from scipy import ndimage

from guided_diffusion.data.components import find_components
from guided_diffusion.data.placing.bank import Borders
from guided_diffusion.data.placing.mask_editor import EditedMask, MaskEditor
from guided_diffusion.data.placing.options import MaskOptions
from guided_diffusion.data.placing.shapes import ShapeBank

NULL = len(NAMES)
CLASSES = tuple(range(1, NULL))


def bank_of(labels: Sequence[np.ndarray], **arguments: object) -> ShapeBank:
    names = [f"mask_{number}" for number in range(len(labels))]
    return ShapeBank.build(names, lambda number: labels[number], NULL, **arguments)


def differs(labels: Sequence[np.ndarray]):
    """Return a novelty: the share of pixels that differ from the nearest of some masks of one size."""
    return lambda label: min(float((label != other).mean()) for other in labels if other.shape == label.shape)


def editor_of(labels: Sequence[np.ndarray], flip_pairs=(), movable=None, is_scene=False, **options) -> MaskEditor:
    bank = bank_of(labels, movable=movable, is_scene=is_scene)
    return MaskEditor(bank, MaskOptions(**{"min_novelty": 0.0, **options}), differs(labels), flip_pairs)


def edited(editor: MaskEditor, count: int, seed: int = 0) -> list[EditedMask]:
    return [editor.edit(seed, number) for number in range(count)]


def counts(label: np.ndarray) -> Counter:
    return Counter(part.class_id for part in find_components(label, CLASSES))


def borders(label: np.ndarray) -> Counter:
    size = label.shape
    return Counter((part.class_id, Borders.of(part.box, size)) for part in find_components(label, CLASSES))


@pytest.fixture(scope="module")
def labels() -> list[np.ndarray]:
    """Spots and cracks, and bands at borders."""
    masks = [label for _, label in spots()]
    for place in (np.s_[70:], np.s_[:, :9], np.s_[:20, 85:], np.s_[30:40, :]):
        label = blank()
        label[place] = BAND
        masks.append(label)
    return masks


class TestContent:
    def test_the_components_of_each_class_are_as_many_as_those_of_the_base(self, labels):
        for mask in edited(editor_of(labels), 60):
            assert counts(mask.label) == counts(labels[mask.base.number])

    def test_every_mask_is_the_base_once_in_a_round(self, labels):
        editor = editor_of(labels)
        for first in (0, len(labels)):
            numbers = [editor.edit(3, first + number).base.number for number in range(len(labels))]
            assert sorted(numbers) == list(range(len(labels)))

    def test_rare_classes_are_taken_more_often_with_class_balance(self, labels):
        plenty = labels * 4 + [disk(blank(), 40, 50, 8, OBJECT)]
        shares = [
            np.mean([OBJECT in mask.base.classes for mask in edited(editor_of(plenty, class_balance=balance), 41)])
            for balance in (0.0, 1.0)
        ]
        assert shares[0] == pytest.approx(1 / 41)
        assert shares[1] >= 4 / 41

    def test_masks_are_new_and_differ_from_each_other(self, labels):
        found = edited(editor_of(labels), 40)
        assert all(mask.novelty > 0 for mask in found)
        assert len({mask.label.tobytes() for mask in found}) == 40

    def test_the_same_numbers_give_the_same_masks_in_any_order(self, labels):
        first, second = editor_of(labels), editor_of(labels)
        forward = {number: first.edit(5, number).label.tobytes() for number in range(12)}
        backward = {number: second.edit(5, number).label.tobytes() for number in reversed(range(12))}
        assert forward == backward
        assert forward[0] != first.edit(6, 0).label.tobytes()

    def test_donors_are_the_masks_whose_shapes_are_seen(self, labels):
        for mask in edited(editor_of(labels), 30):
            donors = [labels[int(name.removeprefix("mask_"))] for name in mask.donors]
            assert set(counts(mask.label)) <= {class_id for donor in donors for class_id in counts(donor)}


class TestShapes:
    def test_thin_cracks_stay_whole_and_thin(self):
        labels = [crack(blank(), 5 + 3 * number, 20 + 8 * number, 30 + 4 * number) for number in range(6)]

        def thickness(label: np.ndarray) -> float:
            return float(ndimage.distance_transform_edt(label == CRACK).max())

        usual = np.median([thickness(label) for label in labels])
        found = [mask.label for mask in edited(editor_of(labels), 40)]
        assert all(counts(label) == {CRACK: 1} for label in found)
        assert np.median([thickness(label) for label in found]) == pytest.approx(usual, abs=0.5)

    def test_areas_are_those_of_the_shapes_within_the_scaling(self):
        labels = [disk(blank(), 30, 30, 10, SPOT), disk(blank(), 50, 70, 10, SPOT)]
        area = (labels[0] == SPOT).sum()
        ratios = [(mask.label == SPOT).sum() / area for mask in edited(editor_of(labels, scaling=1.25), 60)]
        assert 0.8**2 * 0.85 < min(ratios) < 0.85
        assert 1.18 < max(ratios) < 1.25**2 * 1.15

    def test_shapes_keep_the_borders_that_they_touch(self, labels):
        """Flipped alike, where flips are allowed."""
        at = [label for label in labels if (label == BAND).any()]
        for label in at:
            (wanted,) = borders(label)
            for mask in edited(editor_of([label], random_flip=False), 8):
                assert borders(mask.label) == {wanted: 1}
            for mask in edited(editor_of([label]), 8):
                ((_, found),) = borders(mask.label)
                assert found in (wanted[1], wanted[1].mirrored(False, True))

    def test_classes_that_touch_are_moved_as_one(self):
        """A core stays within its rim."""
        labels = [disk(disk(blank(), y, x, 12, SPOT), y, x, 5, CRACK) for y, x in ((30, 30), (45, 60), (25, 70))]
        for mask in edited(editor_of(labels), 30):
            assert counts(mask.label) == {SPOT: 1, CRACK: 1}
            around = ndimage.binary_dilation(mask.label == CRACK) & (mask.label != CRACK)
            assert (mask.label[around] == SPOT).all()

    @pytest.mark.slow
    def test_many_shapes_find_room(self):
        """Where they hardly do, the base is kept, its shapes edited in their places."""
        label = blank()
        for y in range(6, 80, 9):
            for x in range(6, 100, 9):
                disk(label, y, x, 3.2, SPOT)
        for mask in edited(editor_of([label, label.copy()]), 2):
            assert counts(mask.label) == counts(label)
            assert not np.array_equal(mask.label, label)

    def test_no_edit_no_move_no_flip_is_the_mask_itself(self, labels):
        still = {"scaling": 1.0, "rotation": 0.0, "bending": 0.0, "place": "keep", "random_flip": False}
        for label in labels:
            assert np.array_equal(editor_of([label], **still).edit(0, 0).label, label)

    def test_relative_sizes(self):
        small, large = disk(blank((40, 40)), 20, 20, 5, SPOT), disk(blank((160, 160)), 80, 80, 20, SPOT)
        options = {"scaling": 1.0, "rotation": 0.0, "bending": 0.0, "donor_scale": "relative"}
        bank = bank_of([small, large])
        editor = MaskEditor(bank, MaskOptions(min_novelty=0.0, **options), lambda label: 1.0)
        for mask in edited(editor, 20):
            assert (mask.label == SPOT).mean() == pytest.approx((large == SPOT).mean(), rel=0.15)


class TestPlaces:
    def test_places_are_those_of_the_class(self):
        """Spots lie at the left, cracks at the right; flips are off."""
        labels = [label for _, label in spots()]
        for mask in edited(editor_of(labels, random_flip=False), 40):
            assert not (mask.label[:, 50:] == SPOT).any()
            assert not (mask.label[:, :30] == CRACK).any()

    def test_flips_show_them_at_both_sides(self):
        labels = [label for _, label in spots()]
        found = [mask.label for mask in edited(editor_of(labels, random_flip=True), 40)]
        assert any((label[:, :40] == SPOT).any() for label in found)
        assert any((label[:, 60:] == SPOT).any() for label in found)
        assert not any((label[:, 45:55] == SPOT).sum() > 20 for label in found)

    def test_anywhere(self):
        labels = [label for _, label in spots()]
        found = [mask.label for mask in edited(editor_of(labels, random_flip=False, place="anywhere"), 40)]
        assert any((label[:, 50:] == SPOT).any() for label in found)

    def test_left_and_right_change_places_only_as_a_whole(self):
        """The left ear (spot) stays at the left of every mask, whether flipped or not."""
        label = disk(disk(blank(), 40, 20, 8, SPOT), 40, 80, 8, CRACK)
        for mask in edited(editor_of([label], flip_pairs=((SPOT, CRACK),)), 20):
            centers = {part.class_id: part.box.left for part in find_components(mask.label, CLASSES)}
            assert centers[SPOT] < centers[CRACK]

    def test_shapes_stay_on_the_objects_that_they_lie_on(self):
        labels = []
        for number in range(6):
            label = disk(blank(), 40, 50, 34, OBJECT)
            labels.append(disk(disk(label, 30 + 4 * number, 40, 4, SPOT), 35, 60 - number, 4, CRACK))
        editor = editor_of(labels)
        assert set(editor.bank.movable) == {SPOT, CRACK, BAND}
        for mask in edited(editor, 30):
            assert counts(mask.label) == {OBJECT: 1, SPOT: 1, CRACK: 1}
            defects = np.isin(mask.label, (SPOT, CRACK))
            around = ndimage.binary_dilation(defects, np.ones((3, 3))) & ~defects
            assert (mask.label[around] == OBJECT).all()

    def test_an_object_that_fills_the_images_is_no_scene(self):
        labels = [disk(np.full((80, 100), OBJECT, np.uint8), 40, 20 + 10 * number, 5, SPOT) for number in range(5)]
        editor = editor_of(labels)
        assert not editor.bank.is_scene
        for mask in edited(editor, 10):
            assert counts(mask.label) == {OBJECT: 1, SPOT: 1}


class TestIgnoredPixels:
    @pytest.fixture
    def labels(self):
        masks = []
        for number in range(4):
            label = disk(blank(), 30, 30 + 5 * number, 6, SPOT)
            label[:, 90:] = NULL
            label[50 + number, 10:40] = NULL
            masks.append(label)
        return masks

    def test_they_stay_where_they_are(self, labels):
        for mask in edited(editor_of(labels), 30):
            assert np.array_equal(mask.label == NULL, labels[mask.base.number] == NULL)
            assert counts(mask.label) == {SPOT: 1}

    def test_also_where_maps_are_bent(self, labels):
        rng = np.random.default_rng(0)
        scenes = [
            np.where(label == NULL, NULL, rng.integers(1, 4, (8, 10)).repeat(10, 0).repeat(10, 1)) for label in labels
        ]
        for mask in edited(editor_of([scene.astype(np.uint8) for scene in scenes], is_scene=True), 12):
            assert np.array_equal(mask.label == NULL, scenes[mask.base.number] == NULL)


class TestScenes:
    @pytest.fixture
    def scenes(self):
        """Every pixel has a class: a sky, a ground, and something between."""
        masks = []
        for number in range(4):
            label = np.full((60, 90), 1, np.uint8)
            label[30 + number :] = 2
            label[26:36, 20 + 10 * number : 34 + 10 * number] = 3
            masks.append(label)
        return masks

    def test_maps_without_background_are_bent_as_a_whole(self, scenes):
        editor = editor_of(scenes, random_flip=False)
        assert editor.bank.is_scene
        assert editor.bank.movable == ()
        for mask in edited(editor, 24):
            base = scenes[mask.base.number]
            assert counts(mask.label) == counts(base)
            assert 0.02 < (mask.label != base).mean() < 0.5
            assert (mask.label[0] == 1).all()
            assert (mask.label[-1] == 2).all()

    def test_classes_named_as_movable_are_moved(self, scenes):
        editor = editor_of(scenes, movable=(3,), random_flip=False, bending=0.0)
        places = set()
        for mask in edited(editor, 24):
            assert set(counts(mask.label)) == {1, 2, 3}
            assert counts(mask.label)[3] == 1
            places.add(find_components(mask.label, (3,))[0].box)
        assert len(places) > 12

    def test_a_thin_class_is_never_lost(self):
        labels = []
        for number in range(3):
            label = np.full((64, 64), 1, np.uint8)
            label[:, 32:] = 2
            label[10 + 17 * number, 20] = 3
            labels.append(label)
        for mask in edited(editor_of(labels, is_scene=True), 40):
            assert set(np.unique(mask.label)) == {1, 2, 3}


class TestOddSets:
    def test_one_mask(self):
        label = disk(blank(), 40, 50, 10, SPOT)
        found = edited(editor_of([label]), 5)
        assert all(counts(mask.label) == {SPOT: 1} for mask in found)
        assert all(not np.array_equal(mask.label, label) for mask in found)

    @pytest.mark.parametrize("value", [BACKGROUND, SPOT, NULL])
    def test_a_mask_of_one_value(self, value):
        label = np.full((40, 50), value, np.uint8)
        assert np.array_equal(editor_of([label]).edit(0, 0).label, label)

    def test_masks_that_a_class_fills_stay_full_and_others_do_not_become_so(self):
        full = [np.full_like(blank(), SPOT) for _ in range(4)]
        full[0][:3, :3] = BACKGROUND
        labels = [*full, *(disk(blank(), 30 + 5 * number, 50, 8, SPOT) for number in range(4))]
        for mask in edited(editor_of(labels, min_novelty=0.1), 24):
            base = labels[mask.base.number]
            assert set(np.unique(mask.label)) == set(np.unique(base))
            assert ((mask.label == BACKGROUND).mean() < 0.1) == (mask.base.number < len(full))

    def test_empty_masks_beside_others(self):
        labels = [blank(), disk(blank(), 40, 50, 10, SPOT), blank()]
        found = edited(editor_of(labels, min_novelty=0.1), 9)
        assert sum((mask.label == SPOT).any() for mask in found) == 3

    @pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 200), (7, 7)])
    def test_masks_of_few_pixels(self, size):
        label = blank(size)
        label[size[0] // 2, size[1] // 2] = SPOT
        for mask in edited(editor_of([label], vertical_flip=True), 5):
            assert counts(mask.label) == {SPOT: 1}

    def test_masks_of_other_sizes(self):
        labels = [disk(blank((200, 30)), 100, 15, 12, SPOT), disk(blank((20, 300)), 10, 150, 8, SPOT)]
        bank = bank_of(labels)
        editor = MaskEditor(bank, MaskOptions(), lambda label: 1.0)
        for mask in edited(editor, 20):
            assert mask.label.shape == labels[mask.base.number].shape
            assert counts(mask.label) == {SPOT: 1}

    def test_more_than_255_classes(self):
        label = np.zeros((60, 60), np.int32)
        label[20:30, 20:30] = 300
        bank = ShapeBank.build(["a"], lambda number: label, 400)
        editor = MaskEditor(bank, MaskOptions(), lambda label: 1.0)
        assert (editor.edit(0, 0).label == 300).any()
