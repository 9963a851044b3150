"""Keys that a training would leave aside in silence."""

from __future__ import annotations

import pytest
from error_lines import check_errors

from guided_diffusion.config.load import load_config
from guided_diffusion.pipelines.train_misfits import (
    OF_BOXES,
    OF_TRAINED_AUTOENCODER,
    READ_WITH_MASKS,
    refuse_idle_keys,
)
from guided_diffusion.runtime.checkpoint import LAST
from guided_diffusion.runtime.errors import ConfigError

BASE = {"data_dir": "data", "dataset_mode": "multi-class", "condition": "none", "drop_rate": 0.1}
ABOUT_MASKS = {
    "num_classes": 3, "ignore_label": 9, "flip_pairs": [["a", "b"]], "mask_resize": "area", "no_instance": False,
}  # fmt: skip

ABOUT_BOXES = {
    "max_objects": 3, "min_object_size": 0.1, "background": False, "stage_masks": False, "overlap": "mean",
    "style_dim": 4, "label_dim": 5,
}  # fmt: skip

ABOUT_TRAINED_AUTOENCODERS = {
    "autoencoder_steps": 5, "autoencoder_batch_size": 2, "autoencoder_crop": 16, "autoencoder_lr": 0.1,
    "autoencoder_channels": 8,
}  # fmt: skip


def config_of(tmp_path, **values):
    return load_config("train", {**BASE, "output_dir": str(tmp_path / "run"), **values})


def lines_of(config) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        refuse_idle_keys(config, config.given)
    return list(caught.value.messages)


def test_there_is_a_line_for_each_of_them(tmp_path):
    assert set(ABOUT_MASKS) == set(READ_WITH_MASKS)
    check_errors(lines_of(config_of(tmp_path, **ABOUT_MASKS)), "drop_rate", *READ_WITH_MASKS)


@pytest.mark.parametrize("reading", [{"inpaint": True}, {"resize": "window"}])
def test_where_holes_and_windows_lie_on_masks_only_dropping_them_is_idle(tmp_path, reading):
    check_errors(lines_of(config_of(tmp_path, **ABOUT_MASKS, **reading)), "drop_rate")


@pytest.mark.parametrize("condition", ["mask", "none"])
def test_keys_about_boxes_are_refused_without_boxes(tmp_path, condition):
    assert set(ABOUT_BOXES) == set(OF_BOXES)
    config = config_of(tmp_path, **ABOUT_BOXES, condition=condition, drop_rate=0)
    check_errors(lines_of(config), *OF_BOXES)


@pytest.mark.parametrize("condition", ["boxes", "none"])
def test_how_masks_modulate_is_refused_where_none_do(tmp_path, condition):
    values = {"spade": "dense", "drop_rate": 0}
    refuse_idle_keys(masks := config_of(tmp_path, **values, condition="mask"), masks.given)
    check_errors(lines_of(config_of(tmp_path, **values, condition=condition)), "spade")


def test_keys_about_values_of_masks_are_refused_where_there_are_only_boxes(tmp_path):
    values = {"dataset_mode": "boxes", "condition": "boxes", "ignore_label": 9, "mask_resize": "area"}
    check_errors(lines_of(config_of(tmp_path, **values)), "ignore_label", "mask_resize")


def test_keys_about_an_autoencoder_that_is_trained_are_refused_beside_a_pretrained_one(tmp_path):
    assert set(ABOUT_TRAINED_AUTOENCODERS) == set(OF_TRAINED_AUTOENCODER)
    values = {**ABOUT_TRAINED_AUTOENCODERS, "condition": "mask", "latent": 4}
    refuse_idle_keys(trained := config_of(tmp_path, **values), trained.given)
    check_errors(lines_of(config_of(tmp_path, **values, autoencoder="kl.safetensors")), *OF_TRAINED_AUTOENCODER)


def test_keys_about_images_are_refused_where_there_are_masks_alone(tmp_path):
    values = {"condition": "mask", "mask_weight": 2.0, "brightness": 0.2}
    refuse_idle_keys(pairs := config_of(tmp_path, **values, generates="pair"), pairs.given)
    check_errors(lines_of(config_of(tmp_path, **values, generates="mask")), "mask_weight", "brightness")


def test_edges_of_labels_are_refused_where_there_are_boxes_in_their_place(tmp_path):
    check_errors(lines_of(config_of(tmp_path, condition="boxes", no_instance=False)), "no_instance")


def test_a_focus_on_defects_is_refused_where_there_are_images_alone(tmp_path):
    values = {"resize": "window", "window_focus": 0.5, "drop_rate": 0}
    refuse_idle_keys(masks := config_of(tmp_path, **values), masks.given)
    check_errors(lines_of(config_of(tmp_path, **values, dataset_mode="images")), "window_focus")


def test_the_scale_of_a_variational_term_is_refused_where_no_variances_are_learned(tmp_path):
    values = {"condition": "mask", "rescale_learned_sigmas": True}
    refuse_idle_keys(learned := config_of(tmp_path, **values), learned.given)
    check_errors(lines_of(config_of(tmp_path, **values, learn_sigma=False)), "rescale_learned_sigmas")


@pytest.mark.parametrize(
    "values",
    [
        {**ABOUT_MASKS, "condition": "mask"},
        {**ABOUT_BOXES, **ABOUT_MASKS, "no_instance": True, "condition": "boxes"},
        {"dataset_mode": "cityscapes", "no_instance": False, "condition": "boxes"},
        {"drop_rate": 0, "num_classes": None, "flip_pairs": None},  # what is so without being given
    ],
)
def test_what_changes_something_passes(tmp_path, values):
    config = config_of(tmp_path, **values)
    refuse_idle_keys(config, config.given)


def test_keys_that_the_user_did_not_give_pass(tmp_path):
    refuse_idle_keys(config_of(tmp_path, **ABOUT_MASKS), ("condition",))


def test_a_run_that_was_begun_with_them_goes_on(tmp_path):
    config = config_of(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LAST).touch()
    refuse_idle_keys(config, config.given)
