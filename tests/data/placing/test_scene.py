"""Scenes: the kinds of defects of the data, in places of the data, that never overlap."""

from collections import Counter

import numpy as np
import pytest
from defects import BACKGROUND, BAND, CRACK, OBJECT, SPOT, bank_of, blank, crack, disk, spots
from scipy import ndimage

from guided_diffusion.data.placing import scene as scenes
from guided_diffusion.data.placing.options import PlacingOptions
from guided_diffusion.data.placing.scene import plan_scene

PRIOR = PlacingOptions()
SIZES = [(80, 100), (300, 200), (61, 257)]


@pytest.fixture(scope="module")
def bank():
    return bank_of(*(label for _, label in spots()))


def painted(scene) -> np.ndarray:
    label = blank(scene.size)
    scene.paint_label(label)
    return label


def kinds(scene) -> tuple:
    return tuple(sorted(Counter(defect.class_id for defect in scene.placements).items()))


def test_a_scene_has_the_kinds_of_a_training_mask(bank):
    real = {tuple(sorted(Counter(part.class_id for part in parts).items())) for parts in bank.masks}
    planned = [plan_scene(bank, (160, 200), np.random.default_rng(seed), PRIOR, apart=6) for seed in range(60)]
    assert {kinds(scene) for scene in planned} == real
    assert not any(scene.skipped for scene in planned)


def test_a_number_of_defects_has_the_kinds_of_the_data(bank):
    options = PlacingOptions(defects_per_image=3)
    planned = [plan_scene(bank, (600, 600), np.random.default_rng(seed), options) for seed in range(100)]
    counts = Counter(defect.class_id for scene in planned for defect in scene.placements)
    assert sum(counts.values()) == 300
    assert counts[SPOT] / 300 == pytest.approx(12 / 15, abs=0.1)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_places_are_those_of_the_data(bank, size):
    centers = []
    for seed in range(60):
        for defect in plan_scene(bank, size, np.random.default_rng(seed), PRIOR).placements:
            if defect.class_id == SPOT:
                centers.append((defect.box.left + defect.box.right) / 2 / size[1])
    assert np.mean(np.array(centers) < 1 / 3) > 0.9  # they were at 0.12 to 0.22
    assert max(centers) < 0.22 + 4 / 16
    assert len(set(centers)) > 20


def test_defects_keep_their_places_or_go_anywhere(bank):
    keep = PlacingOptions(place="keep", edit=False)
    for seed in range(10):
        for defect in plan_scene(bank, (80, 100), np.random.default_rng(seed), keep).placements:
            part = bank.find(defect.source)
            assert defect.box == part.box
            assert np.array_equal(defect.mask, part.mask)
    anywhere = PlacingOptions(place="anywhere")
    lefts = [
        defect.left / 100
        for seed in range(40)
        for defect in plan_scene(bank, (80, 100), np.random.default_rng(seed), anywhere).placements
    ]
    assert min(lefts) < 0.1
    assert max(lefts) > 0.8


@pytest.mark.parametrize("ground", ["region", "host_map"])
def test_anywhere_is_everywhere_alike_where_defects_may_be(ground):
    bank = bank_of(disk(lemon_like(40, 50), 40, 50, 2, SPOT), defect_classes=("spot",))
    allowed = np.zeros((128, 128), bool)
    allowed[32:96, 32:96] = True
    options = PlacingOptions(place="anywhere", edit=False)
    where = {"region": allowed, "host_map": np.full((128, 128), OBJECT, np.uint8)}
    if ground == "host_map":
        where = {"host_map": np.where(allowed, OBJECT, BACKGROUND).astype(np.uint8)}
    inner = [
        max(abs(defect.top + 2.5 - 64), abs(defect.left + 2.5 - 64)) <= 16
        for seed in range(600)
        for defect in plan_scene(bank, (128, 128), np.random.default_rng(seed), options, **where).placements
    ]
    assert len(inner) == 600
    assert np.mean(inner) == pytest.approx((32 / 60) ** 2, abs=0.06)


@pytest.mark.parametrize("gap", [0, 3, 8])
def test_grown_defects_do_not_touch_each_others_pixels(bank, gap):
    options = PlacingOptions(defects_per_image=8, place="anywhere")
    skipped = 0
    for seed in range(12):
        scene = plan_scene(bank, (90, 110), np.random.default_rng(seed), options, apart=2 * gap)
        covered = np.zeros(scene.size, int)
        for defect in scene.placements:
            alone = np.zeros(scene.size, bool)
            alone[defect.box.slices] = defect.mask
            covered += ndimage.binary_dilation(alone, np.ones((3, 3)), gap) if gap else alone
        assert covered.max() == 1
        assert len(scene.placements) + len(scene.skipped) == 8
        skipped += len(scene.skipped)
    assert (skipped > 0) == (gap == 8)


def test_border_parts_stay_at_their_borders():
    label = blank()
    label[:15, 20:50] = BAND
    other = blank()
    other[40:, 70:] = BAND
    bank = bank_of(label, other)
    for size in SIZES:
        for seed in range(10):
            (defect,) = plan_scene(bank, size, np.random.default_rng(seed), PRIOR).placements
            box = defect.box
            touched = box.top == 0, box.left == 0, box.bottom == size[0], box.right == size[1]
            assert touched == bank.find(defect.source).borders


def lemon_like(y: int, x: int, size: tuple[int, int] = (80, 100)) -> np.ndarray:
    return disk(blank(size), y, x, 25, OBJECT)


def test_defects_lie_on_their_hosts_wherever_these_are():
    bank = bank_of(disk(lemon_like(40, 30), 40, 20, 5, SPOT), disk(lemon_like(40, 30), 45, 35, 4, SPOT))
    for seed in range(30):
        host_map = lemon_like(70, 190, (120, 240))  # far from where the training spots are
        scene = plan_scene(bank, host_map.shape, np.random.default_rng(seed), PRIOR, host_map=host_map)
        assert len(scene.placements) == 1
        assert (host_map[painted(scene) == SPOT] == OBJECT).all()


def test_defects_at_an_outline_stay_at_an_outline():
    label = lemon_like(40, 50)
    label[36:44, 71:79] = CRACK
    bank = bank_of(disk(label, 40, 40, 5, SPOT), defect_classes=("crack",))
    placed = 0
    for seed in range(30):
        host_map = lemon_like(40, 50)
        scene = plan_scene(bank, host_map.shape, np.random.default_rng(seed), PRIOR, host_map=host_map)
        for defect in scene.placements:
            around = np.zeros(scene.size, bool)
            around[defect.box.slices] = defect.mask
            near = host_map[ndimage.binary_dilation(around, np.ones((3, 3)), 2)]
            assert {BACKGROUND, OBJECT} <= set(near.tolist())
            placed += 1
    assert placed > 15


def test_defects_stay_within_the_region(bank):
    region = np.zeros((300, 200), bool)
    region[100:220, 20:190] = True
    for seed in range(20):
        scene = plan_scene(bank, region.shape, np.random.default_rng(seed), PRIOR, region=region)
        assert scene.placements
        assert region[painted(scene) > 0].all()


def test_what_finds_no_place_is_counted_and_not_forced(bank):
    nowhere = np.zeros((80, 100), bool)
    scene = plan_scene(bank, (80, 100), np.random.default_rng(1), PRIOR, region=nowhere)
    assert not scene.placements
    assert {skipped.class_id for skipped in scene.skipped} <= {SPOT, CRACK}
    assert len({skipped.reason for skipped in scene.skipped}) == 1
    tiny = plan_scene(bank, (3, 3), np.random.default_rng(1), PlacingOptions(edit=False, defects_per_image=2))
    assert len(tiny.skipped) + len(tiny.placements) == 2


def test_the_same_seed_gives_the_same_scene(bank):
    first, again, other = (
        painted(plan_scene(bank, (200, 300), np.random.default_rng(seed), PRIOR, apart=4)) for seed in (3, 3, 4)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("edit", [True, False])
def test_one_mask_with_one_part_is_enough(edit):
    bank = bank_of(crack(blank(), 20, 60, 31))
    scene = plan_scene(bank, (150, 90), np.random.default_rng(0), PlacingOptions(edit=edit))
    assert kinds(scene) == ((CRACK, 1),)
    assert scene.placements[0].source == "a#0"


def test_a_class_that_fills_the_image_fills_it():
    bank = bank_of(np.full((20, 30), BAND, np.uint8))
    scene = plan_scene(bank, (50, 40), np.random.default_rng(0), PRIOR)
    assert (painted(scene) == BAND).mean() > 0.9


def test_the_work_does_not_depend_on_the_size_of_the_image(bank, monkeypatch):
    """Counts the pixels that are looked at: a clock would depend on the machine."""
    seen = []
    real = ndimage.map_coordinates

    def counting(array, where, *rest, **options):
        seen[-1] += where[0].size
        return real(array, where, *rest, **options)

    monkeypatch.setattr(ndimage, "map_coordinates", counting)
    monkeypatch.setattr(scenes, "TRIES", 10)
    for size in ((256, 256), (3000, 4000)):
        seen.append(0)
        for seed in range(10):
            plan_scene(bank, size, np.random.default_rng(seed), PRIOR, apart=8)
    assert 0 < seen[1] <= 1.2 * seen[0]
