"""`evaluate` on pasted defects, by the images that they are of: training images, test images, or neither."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from error_lines import check_error
from odd_images import write_png
from parts import CRACK, NAMES, SPOT, defects, noise, write_parts

from guided_diffusion.config.load import load_config
from guided_diffusion.pipelines.evaluation.data import EvaluationData, load_data, scan_data
from guided_diffusion.pipelines.evaluation.options import resolve_options
from guided_diffusion.samples.reader import find_samples

TINY_STUDY = {"image_size": 32, "architectures": "fpn", "encoder": "tu-lcnet_050", "ratios": [0.5], "seeds": 1}
TINY_STUDY |= {"train_steps": 1, "batch_size": 2, "report_images": 2, "agreement": False, "near_duplicates": False}
WITHOUT_WEIGHTS = dict.fromkeys(("encoder_weights", "inception_weights", "lpips_weights"), "none")


@pytest.fixture(scope="module")
def all_parts(tmp_path_factory) -> Path:
    """A dataset whose training split has all nine images."""
    root = write_parts(tmp_path_factory.mktemp("data") / "all")
    for path in (root / "test").rglob("*.png"):
        shutil.copy(path, root / "train" / path.relative_to(root / "test"))
    return root


@pytest.fixture
def pasted(all_parts, good, tmp_path, isdm) -> Path:
    folder = tmp_path / "pasted"
    values = {"data_dir": all_parts, "dataset_mode": "multi-class", "good_dir": good, "num_samples": 16}
    code, _, errors = isdm("paste", **values, results_path=folder)
    assert code == 0, errors
    return folder


def sources(folder: Path) -> list[set[str]]:
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    return [{each["source"].rpartition("#")[0] for each in line["defects"]} for line in lines]


def loaded(folder: Path, data: Path, out: Path, **values) -> EvaluationData:
    given = {**TINY_STUDY, **WITHOUT_WEIGHTS, "data_dir": str(data), "dataset_mode": "multi-class"}
    given |= {"synthetic_dir": str(folder), "output_dir": str(out), **values}
    samples = find_samples(folder)
    return load_data(
        scan_data(resolve_options(load_config("evaluate", given), samples), samples), compared_with_test=False
    )


@pytest.mark.slow
def test_defects_of_test_images_are_refused(pasted, parts, tmp_path, isdm):
    """Those of parts 6 to 8, which the evaluation's dataset tests on."""
    of_test = [bool(each & {"part_6", "part_7", "part_8"}) for each in sources(pasted)]
    assert any(of_test)
    found = loaded(pasted, parts, tmp_path / "out")
    assert (found.samples.test_origin >= 0).sum() == sum(of_test)
    assert not any(str(pasted) in line for line in found.warnings)
    values = {**TINY_STUDY, **WITHOUT_WEIGHTS, "data_dir": parts, "synthetic_dir": pasted}
    code, _, errors = isdm("evaluate", **values, output_dir=tmp_path / "report")
    assert code == 2
    check_error(errors[0], pasted, f"{sum(of_test)} of 16")


def test_defects_of_training_images_are_not(pasted, all_parts, tmp_path):
    found = loaded(pasted, all_parts, tmp_path / "out", flip_pairs=[["spot", "crack"]])
    assert (found.samples.test_origin < 0).all()
    assert not any(str(pasted) in line for line in found.warnings)
    assert found.sets.class_names == NAMES
    assert tuple(found.sets.flip_pairs) == ((SPOT, CRACK),)


def test_a_part_of_the_training_split_says_nothing_of_the_rest(pasted, all_parts, tmp_path):
    found = loaded(pasted, all_parts, tmp_path / "out", max_training=4)
    assert (found.samples.test_origin < 0).all()
    assert not any(str(pasted) in line for line in found.warnings)


def test_defects_of_neither_split_are_told(pasted, parts, tmp_path):
    data = shutil.copytree(parts, tmp_path / "renamed")
    for path in (data / "test").rglob("*.png"):
        path.rename(path.with_name(path.name.replace("part", "other")))
    lost = sum(bool(each & {"part_6", "part_7", "part_8"}) for each in sources(pasted))
    found = loaded(pasted, data, tmp_path / "out")
    assert (found.samples.test_origin < 0).all()
    (line,) = [line for line in found.warnings if str(pasted) in line]
    assert f"{lost} of 16" in line


def small_samples(folder: Path, **record) -> Path:
    """Write samples of 16 px as `sample` leaves them, with what it records."""
    for number in range(4):
        for kind, pixels in (("images", noise((16, 16), number)), ("masks", defects(0, (40, 56))[8:24, 8:24])):
            write_png(folder / kind / f"{number}.png", pixels)
    (folder / "config.json").write_text(json.dumps({"image_size": 16, "image_channels": 1, **record}))
    return folder


def told_of(folder: Path, found: EvaluationData) -> list[str]:
    return [line for line in found.warnings if str(folder) in line]


def test_samples_in_another_geometry_or_range_than_real_images_are_told(pasted, all_parts, tmp_path):
    """Pasted images are padded as real ones are, and crops of `sample` are left as they are."""
    values = {"resize": "crop", "image_range": "auto"}
    crops = small_samples(tmp_path / "crops", **values)
    found = loaded(pasted, all_parts, tmp_path / "out", other_dirs=[str(crops)])
    told = [line for line in told_of(crops, found) if "resize" in line]
    assert len(told) == 1
    assert all(part in told[0] for part in ('"crop"', '"pad"'))
    assert "image_range" not in told[0]
    cropped = loaded(pasted, all_parts, tmp_path / "out", other_dirs=[str(crops)], resize="crop", image_range="full")
    assert not [line for line in told_of(crops, cropped) if "resize" in line or "image_range" in line]
    ranged = loaded(crops, all_parts, tmp_path / "out", image_range=[0, 200])
    assert any("[0, 200]" in line and "image_range" in line for line in told_of(crops, ranged))


def test_windows_are_enlarged_as_those_of_real_images_are(all_parts, tmp_path):
    windows = small_samples(tmp_path / "windows", resize="window", scale=1.0, image_range="auto")
    alike = loaded(windows, all_parts, tmp_path / "out")
    assert not [line for line in told_of(windows, alike) if "are enlarged" in line or "resize" in line]
    whole = loaded(windows, all_parts, tmp_path / "out", resize="squash", scale=None)
    assert sum("are enlarged" in line for line in told_of(windows, whole)) == 1
    assert sum("resize" in line for line in told_of(windows, whole)) == 1
