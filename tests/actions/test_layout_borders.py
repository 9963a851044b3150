"""Samples of boxes in images with a border: their layout file gives the same samples again."""

from __future__ import annotations

import pytest
from box_model import box_model
from parts import bytes_of


@pytest.mark.slow
@pytest.mark.parametrize("resize", ["pad", "window"])
def test_objects_json_tells_where_the_picture_is(parts, tmp_path, isdm, resize):
    run = box_model(parts, tmp_path / "run", resize=resize, image_size=[48, 48], min_object_size=0)
    values = {"model_path": run, "steps": 2, "num_samples": 2}
    first = {"data_dir": parts, "results_path": tmp_path / "first"}
    again = {
        "layout_source": "file",
        "layout_file": tmp_path / "first/objects.json",
        "results_path": tmp_path / "again",
    }
    for each in (first, again):
        code, _, errors = isdm("sample", **values, **each)
        assert code == 0, errors
    for kind in ("images", "masks"):
        assert bytes_of(tmp_path / "again" / kind) == bytes_of(tmp_path / "first" / kind)
