"""`masks` with method boxes: new masks of the boxes of given ones, of any size, and samples made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from error_lines import check_errors
from parts import bytes_of, lines_of, pixels_of


@pytest.fixture
def masks(box_run, lemons, tmp_path, isdm):
    """Run `masks`; `masks("name", key=value)` returns the results folder and the printed text."""

    def run(name: str, **values) -> tuple[Path, str]:
        base = {"data_dir": lemons, "dataset_mode": "multi-class", "results_path": tmp_path / name}
        code, shown, errors = isdm("masks", **{**base, "method": "boxes", "model_path": box_run, **values})
        assert code == 0, errors
        return tmp_path / name, shown

    return run


def classes(label: np.ndarray) -> set[int]:
    return set(np.unique(label).tolist())


@pytest.mark.slow
def test_masks_have_the_size_that_is_asked_for_and_classes_of_their_bases(masks):
    folder, shown = masks("new", mask_size=[32, 48], num_masks=16)
    lines = lines_of(folder)
    assert [line["mask"] for line in lines] == [f"masks/drawn_{number:06d}.png" for number in range(16)]
    for line in lines:
        label = pixels_of(folder / line["mask"])
        assert label.shape == (32, 48)
        assert classes(label) <= classes(pixels_of(Path(line["base"]["mask"])))
        assert line["donors"] == [line["base"]]
        assert line["settings"]["mask_size"] == [32, 48]
    bases = [line["base"]["mask"] for line in lines]
    assert sorted(bases[:8]) == sorted(bases[8:]), "each base is one as often as the others"
    assert len({(folder / line["mask"]).read_bytes() for line in lines}) == 16
    assert "novelty" in shown
    assert {"statistics.json", "contact_sheet.png", "classes.json"} <= {path.name for path in folder.iterdir()}


@pytest.mark.slow
def test_masks_are_functions_of_seed_and_number(masks):
    folder, _ = masks("grown", num_masks=3)
    masks("grown", num_masks=6)
    assert bytes_of(folder) == bytes_of(masks("at_once", num_masks=6)[0])
    other = bytes_of(masks("other", num_masks=6, seed=1)[0] / "masks")
    assert all(content != other[name] for name, content in bytes_of(folder / "masks").items())


@pytest.mark.slow
def test_recombined_boxes_have_several_donors(masks):
    lines = lines_of(masks("new", layout_source="recombine", num_masks=8)[0])
    assert any(len(line["donors"]) > 1 for line in lines)
    assert all(line["donors"][0] == line["base"] for line in lines)


@pytest.mark.slow
def test_samples_of_them_keep_the_lineage(masks, trained, isdm, tmp_path):
    folder, _ = masks("new", num_masks=2)
    out = tmp_path / "samples"
    code, _, errors = isdm("sample", model_path=trained, mask_dir=folder, results_path=out, steps=2)
    assert code == 0, errors
    for sample, mask in zip(lines_of(out), lines_of(folder), strict=True):
        assert sample["lineage"]["split"] == "train"
        assert sample["lineage"]["masks"] == mask["donors"]


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"model_path": ""}, "model_path"),
        ({"bending": 2.0}, "bending"),
        ({"movable": ["lemon"]}, "movable"),
        ({"mask_size": 4}, "mask_size"),
        ({"layout_source": "file"}, "layout_source"),
        ({"method": "edit", "model_path": "", "mask_size": 32}, "mask_size"),
        ({"method": "edit"}, "model_path"),
    ],
)
def test_mistakes(box_run, lemons, tmp_path, isdm, values, key):
    base = {"data_dir": lemons, "dataset_mode": "multi-class", "results_path": tmp_path / "out"}
    code, _, errors = isdm("masks", **{**base, "method": "boxes", "model_path": box_run, **values})
    assert code == 2
    check_errors(errors, key)


def test_a_model_of_masks_is_refused(trained, lemons, tmp_path, isdm):
    values = {"data_dir": lemons, "dataset_mode": "multi-class", "results_path": tmp_path / "out", "method": "boxes"}
    code, _, errors = isdm("masks", model_path=trained, **values)
    assert code == 2
    check_errors(errors, trained / "best.pt")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").rglob("*.png"))
