"""`train` and `finetune` on boxes: of annotations and of masks; masks that learn, what resumes, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from boxed import boxed_copy, change, gray_set, write_published
from command_line import run as run_command
from PIL import Image
from solids import write_solids
from tiny import TINY

from guided_diffusion.conditions.object_map import label_map_of
from guided_diffusion.config.load import load_config
from guided_diffusion.data.loader import collate_examples, collate_labels
from guided_diffusion.data.modes import get_mode
from guided_diffusion.pipelines.dataset import scan_split, shown_dataset
from guided_diffusion.pipelines.training_data import condition_maker
from guided_diffusion.runtime.checkpoint import BEST, LAST, load_checkpoint

SMALL = {**TINY, "style_dim": 4, "label_dim": 8, "max_epochs": 1}
BOXES = {**SMALL, "condition": "boxes", "resize": "squash"}


@pytest.fixture(scope="module")
def solids(tmp_path_factory) -> Path:
    return write_solids(tmp_path_factory.mktemp("data") / "solids")


@pytest.fixture(scope="module")
def learned(solids, tmp_path_factory) -> Path:
    """The folder of a run whose masks are learned, with a preview at its end."""
    folder = tmp_path_factory.mktemp("runs") / "learned"
    values = {**BOXES, "data_dir": solids, "output_dir": folder, "image_channels": 1, "batch_size": 8, "max_epochs": 20}
    values |= {"learn_sigma": False, "preview_interval": 20, "preview_steps": 2, "preview_images": 3, "ema_rate": [0.9]}
    assert run_command("train", **values) == 0
    return folder


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_masks_learn_what_is_in_the_boxes(learned, solids):
    """On test layouts the masks of ellipses, where the box is not the mask, are better than the whole box."""
    from guided_diffusion.pipelines.load import load_pipeline

    losses = [line["mask_loss"] for line in metrics(learned)]
    assert losses[-1] < 0.5 * losses[0]
    pipeline = load_pipeline(learned / LAST, weights="raw", device="cpu")
    config = load_config("train", {**BOXES, "data_dir": str(solids), "output_dir": str(learned), "image_channels": 1})
    mode = get_mode(config.source.dataset_mode)
    report = scan_split(config.source, config.geometry, "test")
    maker = condition_maker(config, report.encoding)
    shown = shown_dataset(report.pairs, report.encoding, config.geometry, mode, conditions=maker)
    images, layouts = collate_examples(shown, range(len(shown)))
    true = collate_labels(shown, range(len(shown)))
    with torch.inference_mode():
        modulations = pipeline.model.modulate(layouts)
        logits = modulations[0].mask_logits()
        masks = pipeline.model.object_masks(images, torch.zeros(len(images)), modulations)
    present = layouts.present.clone()
    present[:, 0] = False
    ellipses, rectangles = (logits.sigmoid()[present & (layouts.label == kind)].mean(0) for kind in (2, 1))
    corners = (..., [0, 0, -1, -1], [0, -1, 0, -1])
    assert ellipses[corners].mean() < rectangles[corners].mean() - 0.1
    assert ellipses[corners].max() < 0.5
    whole = masks.new_ones(masks.shape) * (masks > 0)
    predicted, boxes = (iou(label_map_of(each, layouts), true, 2) for each in (masks, whole))
    assert predicted > boxes + 0.02
    assert predicted > 0.8


def iou(found: torch.Tensor, true: torch.Tensor, kind: int) -> float:
    found, true = found == kind, true == kind
    return float((found & true).sum() / (found | true).sum())


@pytest.mark.slow
def test_the_loss_of_images_falls(learned):
    losses = [line["loss"] for line in metrics(learned)]
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])
    assert "masks 0." in (learned / "log.txt").read_text(encoding="utf-8")


@pytest.mark.slow
def test_previews_show_layout_image_and_masks(learned):
    picture = np.asarray(Image.open(learned / "previews" / "epoch_0020.png"))
    yellow, orange = ((picture == color).all(-1) for color in ((240, 220, 66), (213, 70, 0)))
    columns = np.array_split(np.arange(picture.shape[1]), 7)  # layout, raw, its mask, EMA, its mask, real, its mask
    seen = [bool((yellow | orange)[100:-40, part].any()) for part in columns]
    assert seen == [True, False, True, False, True, False, True]


@pytest.mark.slow
def test_checkpoints_have_what_sampling_needs(learned):
    checkpoint = load_checkpoint(learned / BEST)
    assert checkpoint.config["condition"] == "boxes"
    assert (checkpoint.config["max_objects"], checkpoint.config["background"]) == (16, True)
    assert checkpoint.encoding["names"] == ("background", "rectangle", "ellipse")
    assert checkpoint.lineage["saw_dropped_masks"] is False


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"resize": "window", "augment": 0.5, "rotate90": True, "overlap": "mean"}])
def test_interrupted_and_resumed_is_bit_for_bit_the_same(more, solids, tmp_path, isdm):
    values = {**BOXES, "image_channels": 1, "drop_rate": 0.3, "dropout": 0.1, "batch_size": 8, **more}
    for name, epochs in (("whole", (2,)), ("parts", (1, 2))):
        for until in epochs:
            changed = {"data_dir": solids, "output_dir": tmp_path / name, "max_epochs": until}
            assert isdm("train", **{**values, **changed})[0] == 0
    assert (tmp_path / "whole" / LAST).read_bytes() == (tmp_path / "parts" / LAST).read_bytes()


@pytest.fixture
def annotated(lemons, tmp_path) -> Path:
    return boxed_copy(lemons, tmp_path / "data")


@pytest.mark.slow
def test_annotations_are_the_condition_and_part_of_the_data(annotated, tmp_path, isdm):
    good = annotated / "train" / "good" / "images"
    good.mkdir(parents=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 99, (40, 40, 3), np.uint8)).save(good / "g.png")
    values = {**SMALL, "dataset_mode": "boxes", "data_dir": annotated, "batch_size": 9}
    values |= {"preview_interval": 1, "preview_steps": 1}
    code, shown, errors = isdm("train", **values, output_dir=tmp_path / "run")
    assert (code, errors) == (0, [])
    assert "8 images with boxes and 1 good images, 5 classes" in shown
    assert (tmp_path / "run" / "previews" / "epoch_0001.png").exists()
    assert "mask_loss" not in metrics(tmp_path / "run")[0]  # there is none to learn from
    config = json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))
    assert (config["condition"], config["class_cond"]) == ("boxes", True)

    tuned = {"data_dir": annotated, "resume_checkpoint": tmp_path / "run", "output_dir": tmp_path / "tuned"}
    tuned |= {"max_epochs": 1, "batch_size": 9, "preview_interval": 0}
    assert isdm("finetune", **tuned)[0] == 0
    before, after = (load_checkpoint(tmp_path / name / BEST) for name in ("run", "tuned"))
    assert (before.lineage["saw_dropped_masks"], after.lineage["saw_dropped_masks"]) == (False, True)
    assert after.config["max_objects"] == 16

    change(annotated / "train/annotations.json", lambda content: content["annotations"][0].update(bbox=[1, 1, 5, 5]))
    code, _, (error,) = isdm("train", **{**values, "max_epochs": 2}, output_dir=tmp_path / "run")
    assert code == 2
    assert "boxes changed: 1" in error


def test_boxes_may_be_left_aside(annotated, tmp_path, isdm):
    values = {**TINY, "dataset_mode": "boxes", "data_dir": annotated, "max_epochs": 1, "condition": "none"}
    assert isdm("train", **values, output_dir=tmp_path / "run")[0] == 0
    assert load_checkpoint(tmp_path / "run" / BEST).config["condition"] == "none"


@pytest.mark.slow
def test_a_batch_of_good_parts_alone(tmp_path, isdm):
    """No object anywhere: the masks have nothing to learn, and nothing to draw."""
    data = gray_set(tmp_path / "data")
    change(data / "train/annotations.json", lambda content: content["annotations"].clear())
    for background in (True, False):
        values = {**SMALL, "dataset_mode": "boxes", "data_dir": data, "image_channels": 1, "background": background}
        assert isdm("train", **values, output_dir=tmp_path / str(background))[0] == 0


@pytest.mark.slow
def test_the_benchmark_as_published(tmp_path, isdm):
    data = write_published(tmp_path / "data")
    values = {**SMALL, "dataset_mode": "coco-boxes", "data_dir": data, "stage_masks": False}
    assert isdm("train", **values, output_dir=tmp_path / "run")[0] == 0
    checkpoint = load_checkpoint(tmp_path / "run" / BEST)
    assert (checkpoint.config["num_classes"], checkpoint.config["resize"]) == (184, "squash")


MISFITS = [
    ("latent", {"latent": 4, "image_size": 32, "condition": "boxes"}, "condition is boxes"),
    ("inpaint", {"inpaint": True, "condition": "boxes"}, "condition is boxes"),
    ("cond_diffuse", {"cond_diffuse": True, "condition": "boxes"}, "condition is boxes"),
    ("condition", {"generates": "pair", "condition": "boxes"}, "generates is pair"),
    ("mask_supervision", {"mask_supervision": 0.5}, 'condition is "mask"'),
    ("condition", {"dataset_mode": "images", "condition": "boxes"}, "neither boxes nor masks"),
]
MISFITS_OF_ANNOTATIONS = [
    ("latent", {"latent": 4, "image_size": 32}, "condition is boxes"),
    ("inpaint", {"inpaint": True}, "condition is boxes"),
    ("condition", {"condition": "mask"}, "set condition to boxes or none"),
    ("generates", {"generates": "mask"}, "has no masks"),
    ("no_instance", {"no_instance": False}, "has no instance maps"),
    ("mask_supervision", {"mask_supervision": 0.5}, "no masks to learn from"),
]


@pytest.mark.parametrize(("key", "values", "reason"), MISFITS)
def test_what_does_not_go_with_boxes_is_one_line(key, values, reason, lemons, tmp_path, isdm):
    code, _, errors = isdm("train", **{**TINY, "data_dir": lemons, "output_dir": tmp_path / "run", **values})
    assert (code, len(errors)) == (2, 1), errors
    assert errors[0].startswith(f"error: {key} is ")
    assert reason in errors[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("key", "values", "reason"), MISFITS_OF_ANNOTATIONS)
def test_what_does_not_go_with_annotations_is_one_line(key, values, reason, tmp_path, isdm):
    given = {**TINY, "dataset_mode": "boxes", "data_dir": gray_set(tmp_path / "data"), "output_dir": tmp_path / "run"}
    code, _, errors = isdm("train", **{**given, **values})
    assert (code, len(errors)) == (2, 1), errors
    assert errors[0].startswith(f"error: {key} is ")
    assert reason in errors[0]


@pytest.mark.slow
def test_finetuning_cannot_begin_to_fill_holes_of_boxes(learned, solids, tmp_path, isdm):
    values = {"data_dir": solids, "resume_checkpoint": learned, "output_dir": tmp_path / "tuned", "inpaint": True}
    code, _, errors = isdm("finetune", **values)
    assert (code, len(errors)) == (2, 1)
    assert "inpaint is true, but condition is boxes" in errors[0]


@pytest.mark.slow
def test_a_network_of_masks_does_not_become_one_of_boxes(trained, lemons, tmp_path, isdm):
    values = {"data_dir": lemons, "resume_checkpoint": trained, "output_dir": tmp_path / "run", "condition": "boxes"}
    for action, more in (("finetune", {}), ("train", TINY)):
        code, _, errors = isdm(action, **{**more, **values})
        assert (code, len(errors)) == (2, 1)
        assert "condition differs from " in errors[0]


@pytest.mark.slow
def test_the_written_configuration_starts_the_same_run(learned, tmp_path, isdm):
    """Every key is given there, also those of masks that annotations do not have."""
    data = gray_set(tmp_path / "data")
    values = {**SMALL, "dataset_mode": "boxes", "data_dir": data, "image_channels": 1}
    assert isdm("train", **values, output_dir=tmp_path / "run")[0] == 0
    written = shutil.copy(tmp_path / "run" / "config.json", tmp_path / "again.json")
    code, shown, errors = isdm("train", written)
    assert (code, errors) == (0, [])
    assert "this run is finished" in shown
