"""Mistakes in the use of `place`: one line each, and nothing is written."""

from __future__ import annotations

import json
from pathlib import Path

import command_line
import numpy as np
import pytest
from error_lines import check_error, check_errors
from odd_images import write_png
from parts import (
    FEW_STEPS,
    SIZE,
    WINDOWS,
    defects,
    noise,
    train,
    write_good,
)


@pytest.fixture
def refused(painter, parts, good, tmp_path, isdm):
    """Run `place`, which has to end with one line about `subject`, and write nothing."""

    def run(subject: str | Path, *shown: object, **values) -> None:
        base = {"model_path": painter, "data_dir": parts, "good_dir": good, "results_path": tmp_path / "out"}
        before = set(tmp_path.rglob("*"))
        code, _, errors = isdm("place", **{**base, **FEW_STEPS, **values})
        assert code == 2
        (line,) = errors
        check_error(line, subject, *shown)
        assert set(tmp_path.rglob("*")) == before

    return run


def test_no_good_images(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", good_dir=tmp_path / "empty")
    refused(tmp_path / "none", "good_dir", good_dir=tmp_path / "none")
    refused("good_dir", "erase", good_dir="")


def test_a_bank_of_other_masks(refused, tmp_path, parts):
    refused("data_dir", "bank_dir", bank_dir=parts / "train/masks")
    refused(tmp_path / "none", data_dir="", bank_dir=tmp_path / "none")
    values = {"mask_source": "dir", "placed_masks": parts / "train/masks", "data_dir": ""}
    refused("bank_dir", "mask_source", bank_dir=parts / "train/masks", **values)


def test_no_training_defects_to_paste(refused, parts):
    values = {"mask_source": "dir", "placed_masks": parts / "train/masks", "paste_noise": 0.1}
    refused("paste_noise", "mask_source", **values)
    refused("paste_noise", "bank_dir", bank_dir=parts / "train/masks", data_dir="", paste_noise=0.1)
    refused("paste_noise", "erase", good_dir="", erase=True, paste_noise=0.1)
    refused("paste_noise", paste_noise=0)


@pytest.mark.parametrize("opacity", [[0.5], [0.8, 0.4], [0, 1], [0.5, 1.5]])
def test_an_opacity_that_is_no_range(refused, opacity):
    refused("opacity", "least", opacity=opacity)


def test_faint_paint_would_not_hide_a_defect(refused):
    refused("opacity", "erase", good_dir="", erase=True, opacity=[0.5, 1])


@pytest.mark.slow
def test_networks_that_paint_no_class_or_saw_whole_images(refused, parts, tmp_path_factory):
    runs, alone = tmp_path_factory.mktemp("runs"), {"dataset_mode": "multi-class", "condition": "none"}
    refused("model_path", "condition", model_path=train(parts, runs / "none", **alone))
    whole = train(parts, runs / "whole", resize="crop")
    refused("model_path", "resize", model_path=whole)
    refused("model_path", "resize", model_path=whole, resize="window")  # the key does not change what it was trained on


def test_a_start_below_all_noise_levels(painter, parts, good, tmp_path, isdm):
    base = {"model_path": painter, "data_dir": parts, "good_dir": good, "results_path": tmp_path / "out"}
    code, _, (line,) = isdm("place", **{**base, **FEW_STEPS, "paste_noise": 1e-6})
    assert code == 2
    check_error(line, "paste_noise", "1e-06")


def test_other_channels(refused, tmp_path, color_painter, good):
    colored = write_good(tmp_path / "colored", {"a": (40, 56)}, channels=3)
    refused(colored / "a.png", "image_channels 3", good_dir=colored)
    refused(good / "a.png", "image_channels 1", model_path=color_painter)


def test_other_channels_further_on(refused, tmp_path, color_painter):
    good = write_good(tmp_path / "mixed", {"a": (40, 56)}, channels=3)
    write_good(good, {"b": (40, 56)})
    refused(good / "b.png", "image_channels 1", good_dir=good, model_path=color_painter)
    good = write_good(tmp_path / "gray_first", {"a": (40, 56)})
    write_good(good, {"b": (40, 56)}, channels=3)
    refused(good / "b.png", "image_channels 3", good_dir=good)


def test_windows_larger_than_every_image(refused, tmp_path):
    small = write_good(tmp_path / "small", {"a": (12, 15), "b": (10, 10)})
    refused("good_dir", "15x12", "16x16", good_dir=small)


def test_classes(refused, tmp_path):
    refused("classes", "plate", classes=["plate"], defect_classes=["plate"])
    refused("classes", "cracks", "crack", classes=["cracks"])


def test_label_maps_of_another_size(refused, good, tmp_path):
    write_png(tmp_path / "maps/a.png", defects(0, (41, 56)))
    refused(tmp_path / "maps/a.png", "56x41", mask_source="dir", placed_masks=tmp_path / "maps")
    write_png(tmp_path / "other/z.png", defects(0))
    refused(tmp_path / "other", "a.png", mask_source="dir", placed_masks=tmp_path / "other")


def test_masks_and_regions_of_another_size(refused, tmp_path):
    good = write_good(tmp_path / "masked", {"a": (40, 56)}, masks=True)
    write_png(good / "masks/a.png", defects(0, (40, 57)))
    refused(good / "masks/a.png", "57x40", "56x40", good_dir=good)
    write_png(tmp_path / "region.png", np.full((30, 30), 255, np.uint8))
    refused(tmp_path / "region.png", "30x30", region=tmp_path / "region.png")
    (tmp_path / "regions").mkdir()
    refused(tmp_path / "regions/a.png", region=tmp_path / "regions")
    refused(tmp_path / "nowhere", "region", region=tmp_path / "nowhere")


def test_a_list_with_a_center_outside(refused, tmp_path):
    path = tmp_path / "list.json"
    path.write_text(json.dumps({"a": [{"class": "spot", "center": [10, 10]}, {"class": "spot", "center": [60, 1]}]}))
    refused(path, "56 x 40", mask_source="file", placements=path)
    path.write_text("{}")
    refused(path, mask_source="file", placements=path)


@pytest.mark.slow
def test_other_networks(refused, trained, parts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wrong")
    plain = train(parts, folder / "plain", inpaint=False)
    squashed = train(parts, folder / "squashed", resize="squash")
    bare = folder / "bare.safetensors"
    assert command_line.run("export", model_path=plain, export_path=bare) == 0
    refused("model_path", "inpaint", model_path=plain)
    refused("model_path", "squash", "window", model_path=squashed)
    bare_keys = {"dataset_mode": "multi-class", "image_size": 16, "num_heads": 4, "num_classes": 4}
    refused("model_path", "bare", model_path=bare, **bare_keys)


def test_a_network_of_colors_is_not_trained_for_gray_images(parts, isdm, tmp_path):
    values = {**WINDOWS, "data_dir": parts, "output_dir": tmp_path / "run", "image_channels": 3}
    code, _, errors = isdm("train", **values)
    assert code == 2
    check_errors(errors, "image_channels")
    assert not (tmp_path / "run" / "last.pt").exists()


def test_results_among_what_is_read(refused, good, parts, tmp_path):
    refused("results_path", "good_dir", results_path=good / "results")
    refused("results_path", "good_dir", results_path=good)
    refused("results_path", "good_dir", results_path=tmp_path)
    refused("results_path", "data_dir", results_path=parts)
    write_png(tmp_path / "around/masks/a.png", defects(0))
    maps = {"mask_source": "dir", "placed_masks": tmp_path / "around/masks"}
    refused("results_path", "placed_masks", results_path=tmp_path / "around", **maps)


def test_keys(refused, tmp_path):
    refused("hole_margins", "hole_margin", hole_margins=3)
    refused("feather", hole_margin=3, feather=4)
    refused("erase", "good_dir", erase=True)
    refused("region", "erase", erase=True, good_dir="", region=tmp_path)
    refused("region", "mask_source", mask_source="dir", placed_masks=tmp_path, region=tmp_path)
    refused("mask_source", "erase", erase=True, good_dir="", mask_source="dir", placed_masks=tmp_path)
    refused("placed_masks", mask_source="dir")
    refused("data_dir", data_dir="")
    refused("resize", resize="crop")
    refused("max_objects", max_objects=1)
    refused("flip_pairs", flip_pairs=[["spot", "crack"]])


def test_samples_of_sample(refused, trained, lemons, tmp_path, isdm):
    values = {"model_path": trained, "data_dir": lemons, "results_path": tmp_path / "samples"}
    assert isdm("sample", **values, num_samples=1, steps=2)[0] == 0
    refused("results_path", "sample", results_path=tmp_path / "samples")


def test_masks_turned_otherwise_than_their_good_images(refused, tmp_path):
    """By 180 degrees, of which sizes tell nothing."""
    image, label = noise(SIZE, 1), defects(0)
    turned = write_png(tmp_path / "turned/a.png", image, orientation=3).parent
    drawn = write_png(tmp_path / "maps/a.png", label).parent
    values = {"good_dir": turned, "data_dir": ""}
    refused(drawn / "a.png", "exif", mask_source="dir", placed_masks=drawn, **values)
    refused(drawn / "a.png", "exif", good_dir=turned, region=drawn)
    refused(drawn / "a.png", "exif", good_dir=turned, region=drawn / "a.png")
    write_png(tmp_path / "both/images/a.png", image, orientation=3)
    mask = write_png(tmp_path / "both/masks/a.png", 0 * label)
    refused(mask, "exif", good_dir=tmp_path / "both")


def test_good_images_whose_tag_the_training_images_leave_aside(tmp_path, isdm):
    """As the sizes of their masks tell; `check` says the same of the good images of a training."""
    data = tmp_path / "data"
    for number in range(2):
        write_png(data / f"train/images/{number}.png", noise(SIZE, number), orientation=6)
        write_png(data / f"train/masks/{number}.png", (defects(number) > 0).astype(np.uint8))
    turned = write_png(data / "train/good/a.png", noise(SIZE, 9), orientation=6)
    values = {"data_dir": data, "dataset_mode": "binary", "output_dir": tmp_path / "check", "image_size": 16}
    code, shown, _ = isdm("check", **values)
    assert code == 2
    (line,) = (line for line in shown.splitlines() if line.startswith("error: "))
    check_error(line, turned, "exif")
    paste = {"data_dir": data, "dataset_mode": "binary", "good_dir": turned.parent, "results_path": tmp_path / "out"}
    code, _, (line,) = isdm("paste", **paste)
    assert code == 2
    check_error(line, turned, "exif")
    code, _, errors = isdm("paste", **paste, exif="ignore")
    assert code == 0, errors
