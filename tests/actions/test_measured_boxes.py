"""Scripts that show and measure the masks of models of boxes."""

from __future__ import annotations

import argparse

import numpy as np
import pytest
from parts import lines_of
from PIL import Image

from guided_diffusion.runtime.errors import DataError
from guided_diffusion.samples.manifest import ManifestLine
from scripts.measure import layout_picture, seen_masks

NAMES = ["background", "lemon", "blemish", "mould", "gangrene"]


@pytest.mark.slow
def test_the_picture_of_samples_beside_real_images(box_run, lemons, tmp_path, isdm):
    """A row for each class that has objects, with true masks as the model sees them."""
    folder = tmp_path / "drawn"
    assert isdm("sample", model_path=box_run, data_dir=lemons, results_path=folder, steps=2)[0] == 0
    arguments = [str(folder), str(tmp_path / "p.png"), "--model-path", str(box_run), "--data-dir", str(lemons)]
    layout_picture.main([*arguments, "--rows", "1"])
    classes = {each["class"] for line in lines_of(folder) for each in line["predicted"]["objects"]}
    lines = [ManifestLine.model_validate(line) for line in lines_of(folder)]
    rows = layout_picture.chosen_lines(lines, NAMES, 1)
    assert {each.name for line in rows for each in line.predicted.objects} == classes
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.height >= -(-len(rows) // 2) * layout_picture.TILE
        assert picture.width >= 2 * len(layout_picture.COLUMNS) * layout_picture.TILE
    with pytest.raises(DataError):
        layout_picture.main([*arguments, "--split", "train"])


@pytest.mark.slow
def test_masks_of_real_images_are_measured(box_run, lemons, capsys):
    """Of all objects of the test masks, and none has more of its class than a full box."""
    seen_masks.main([str(box_run), "--data-dir", str(lemons), "--steps", "3"])
    head, _, *rows = capsys.readouterr().out.strip().splitlines()[-4:]
    assert [row.split("|")[1].strip() for row in rows] == [str(box_run), "whole boxes"]
    arguments = argparse.Namespace(data_dir=str(lemons), split="test", steps=3)
    names, scores, boxes = seen_masks.measure(arguments, str(box_run))
    assert head.split("|")[3:-1] == [f" {names[index]} " for index in sorted(set(boxes.classes.tolist()))]
    assert np.array_equal(scores.classes, boxes.classes)
    assert (boxes.hits[boxes.classes == 1] > 0).all(), "the box of a lemon has pixels of it"
    assert (scores.hits <= boxes.hits).all(), "masks lie inside of boxes"
