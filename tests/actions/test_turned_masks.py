"""`masks` of files with EXIF orientations: a folder has masks of one way to read them."""

from __future__ import annotations

import pytest
from error_lines import check_error
from odd_images import write_png
from parts import bytes_of, lines_of, pixels_of, write_parts


def turn(data, orientation: int = 3) -> None:
    """Give image and mask of each training pair an orientation."""
    for path in sorted(data.glob("train/*/*.png")):
        write_png(path, pixels_of(path), orientation=orientation)


@pytest.mark.slow
@pytest.mark.parametrize(("first", "other"), [(None, "ignore"), ("ignore", "apply")])
def test_turned_masks_do_not_go_on_read_otherwise(isdm, tmp_path, first, other):
    data = write_parts(tmp_path / "data")
    turn(data)
    folder = tmp_path / "new"
    values = {"data_dir": data, "dataset_mode": "multi-class", "results_path": folder, "exif": first}
    assert isdm("masks", **values, num_masks=3)[0] == 0
    before = bytes_of(folder)
    code, _, errors = isdm("masks", **{**values, "exif": other}, num_masks=5)
    assert code == 2
    check_error(errors[0], folder / "manifest.jsonl", "exif")
    assert bytes_of(folder) == before
    assert isdm("masks", **values, num_masks=5)[0] == 0
    assert len(lines_of(folder)) == 5


@pytest.mark.slow
def test_exif_means_nothing_where_no_mask_has_an_orientation(isdm, tmp_path):
    folder = tmp_path / "new"
    values = {"data_dir": write_parts(tmp_path / "data"), "dataset_mode": "multi-class", "results_path": folder}
    assert isdm("masks", **values, num_masks=2)[0] == 0
    assert isdm("masks", **values, exif="ignore", num_masks=3)[0] == 0
