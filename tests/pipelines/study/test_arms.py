"""Training sets of the arms: the same real images in all, and the same defects in all that paste."""

from __future__ import annotations

import command_line
import numpy as np
import pytest
import torch
from parts import FEW_STEPS, train

from evaluations.segmentation.crops import CropPlan, Crops
from evaluations.whole_images import WholeImages
from guided_diffusion.config.study import COPY_PASTE, MIXED, PLACE, POISSON, REAL, REAL_GOOD, UNAUGMENTED
from guided_diffusion.data.area import reduce_image, reduce_label
from guided_diffusion.data.datasets import read_image, read_mask
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.pairing import index_pairs, list_good_images
from guided_diffusion.pipelines.placing.folder import PlacedFolder
from guided_diffusion.pipelines.study.arms import PASTING, arm_set, filled, late_part, pasting_sets
from guided_diffusion.pipelines.study.images import StudyView, seen
from guided_diffusion.runtime.errors import DataError

SCALE = 0.5
SHARES = {"synthetic_share": 0.25, "good_share": 0.5}


@pytest.fixture(scope="module")
def folder(placed_parts) -> PlacedFolder:
    opened = PlacedFolder.open(placed_parts)
    assert opened.trained.geometry.scale == SCALE
    return opened


def test_a_folder_of_a_network_with_other_ways_of_reading_opens(parts, good_parts, tmp_path):
    # The record of `place` has these as the network has them, whether they were given or not.
    read = {"exif": "apply", "ignore_label": 200}
    run = train(parts, tmp_path / "run", **read)
    values = {"model_path": run, "data_dir": parts, "good_dir": good_parts / "train", "num_samples": 1, **FEW_STEPS}
    for name, given in (("open", {}), ("given", read)):
        assert command_line.run("place", **values, **given, results_path=tmp_path / name) == 0
        assert len(list(PlacedFolder.open(tmp_path / name).scenes())) == 1
    # What is recorded may be given again.
    assert command_line.run("place", tmp_path / "open" / "config.json") == 0
    with pytest.raises(DataError, match="have changed"):
        PlacedFolder.open(tmp_path / "open", exif="ignore")


@pytest.fixture(scope="module")
def view(folder) -> StudyView:
    return StudyView(folder.encoding, 1, SCALE)


@pytest.fixture(scope="module")
def sets(folder, view) -> dict[str, WholeImages]:
    return pasting_sets(folder, view, PASTING)


@pytest.fixture(scope="module")
def real(parts, view) -> WholeImages:
    return view.read_pairs(index_pairs(parts, get_mode("multi-class"), "train")[0], "training")


@pytest.fixture(scope="module")
def good(good_parts, view) -> WholeImages:
    return view.read_good(list_good_images(good_parts / "train"), "good")


def same(first: WholeImages, second: WholeImages) -> bool:
    return first.digest == second.digest and first.names == second.names


@pytest.mark.slow
def test_pasting_arms_have_the_same_masks(sets):
    labels = [each.labels for each in sets.values()]
    assert len(labels) == 4
    assert len(labels[0]) == 12
    for maps in zip(*labels, strict=True):
        assert maps[0].max() > 0
        for label in maps[1:]:
            np.testing.assert_array_equal(maps[0], label)
    assert len({each.names for each in sets.values()}) == 1
    assert len({each.digest for each in sets.values()}) == 4


@pytest.mark.slow
def test_pasting_changes_pixels_under_the_masks_alone(folder):
    patch_of = folder.patches()
    for scene in list(folder.scenes())[:6]:
        mask = np.zeros(scene.good.size, bool)
        for defect in scene.finished.defects:
            mask[defect.box.slices] |= defect.mask
        for arm in (COPY_PASTE, POISSON):
            changed = (filled(scene, patch_of, arm) != scene.good.pixels).any(-1)
            assert not (changed & ~mask).any()
            assert changed[mask].mean() > 0.9
        assert filled(scene, patch_of, PLACE) is scene.result


def test_copies_are_the_bright_defects_of_the_training_images(folder):
    patch_of = folder.patches()
    for scene in list(folder.scenes())[:4]:
        pasted = filled(scene, patch_of, COPY_PASTE)
        for defect in scene.finished.defects:
            assert np.median(pasted[defect.box.slices][defect.mask]) > 200
            assert np.median(scene.good.pixels[defect.box.slices][defect.mask]) < 150


@pytest.mark.slow
def test_of_mixed_images_half_are_placed_and_half_blended(sets):
    for number, (mixed, *both) in enumerate(zip(*(sets[arm].images for arm in (MIXED, POISSON, PLACE)), strict=True)):
        np.testing.assert_array_equal(mixed, both[(number % 4 + number // 4) % 2])  # of four good images


def test_placed_images_are_the_written_files(folder, sets):
    for name, image, label in zip(sets[PLACE].names, sets[PLACE].images, sets[PLACE].labels, strict=True):
        whole = read_image(folder.samples.folder / "images" / f"{name}.png", 1)
        mask = read_mask(folder.samples.folder / "masks" / f"{name}.png", folder.encoding)
        size = tuple(round(side * SCALE) for side in mask.shape)
        spans = (0, size[0]), (0, size[1])
        np.testing.assert_array_equal(image[..., 0], reduce_image(whole, size, *spans)[0])
        np.testing.assert_array_equal(label, reduce_label(mask, size, *spans, background=0, null_id=4))


def test_what_is_seen_of_a_good_image_is_what_is_read(folder):
    scene = next(folder.scenes())
    whole = read_image(folder.plan.images[0].image, 1).numpy()[0]
    np.testing.assert_array_equal(seen(scene.good, scene.good.pixels)[..., 0], whole)


def test_real_images_are_the_same_in_all_arms(real, good, sets):
    for arm in (REAL, UNAUGMENTED, REAL_GOOD, *PASTING):
        made = arm_set(arm, real, good, sets.get(arm), **SHARES)
        assert same(made.images.subset(range(len(real))), real)
        assert made.real == len(real) == 8
        assert made.weights.shape == (len(made.images),)
        expected = {REAL: (0, 0), UNAUGMENTED: (4, 0), REAL_GOOD: (4, 0)}.get(arm, (4, 12))
        assert (made.good, made.synthetic) == expected
        if arm != REAL:
            assert same(made.images.subset(range(8, 12)), good)


def test_weights_are_the_shares(real, good, sets):
    made = arm_set(PLACE, real, good, sets[PLACE], **SHARES)
    parts = made.weights[:8].sum(), made.weights[8:12].sum(), made.weights[12:].sum()
    np.testing.assert_allclose(parts, (0.75, 1, 0.25))
    plain = arm_set(REAL_GOOD, real, good, None, **SHARES)
    np.testing.assert_allclose((plain.weights[:8].sum(), plain.weights[8:].sum()), (1, 1))
    np.testing.assert_array_equal(arm_set(REAL, real, good, None, **SHARES).weights, np.ones(8))


def test_late_steps_draw_what_real_and_good_images_alone_would(real, good, sets):
    made, plain = (arm_set(arm, real, good, sets.get(arm), **SHARES) for arm in (PLACE, REAL_GOOD))
    late = late_part(made, steps=10, real_last=0.26)
    assert late.step == 7
    options = {"plan": CropPlan(16), "batch_size": 6, "seed": 0}
    crops = Crops(made.images, weights=made.weights, late=late, **options)
    others = Crops(plain.images, weights=plain.weights, **options)
    same_steps = [step for step in range(10) if torch.equal(crops[step][0], others[step][0])]
    assert same_steps == [7, 8, 9]


def test_arms_without_synthetic_images_have_no_late_steps(real, good):
    assert late_part(arm_set(REAL_GOOD, real, good, None, **SHARES), steps=10, real_last=0.5) is None
    assert late_part(arm_set(REAL, real, good, None, **SHARES), steps=10, real_last=0.5) is None


def test_good_images_are_background(good):
    assert all(label.max() == 0 for label in good.labels)
    assert good.images[0].shape == (20, 28, 3)
