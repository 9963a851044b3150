"""`evaluate` of samples of layouts: objects in their boxes, of datasets of masks and of boxes."""

from __future__ import annotations

import json
from pathlib import Path

import command_line
import pytest
from boxed import boxed_copy
from error_lines import check_errors
from parts import lines_of

pytestmark = pytest.mark.slow

FEW = {"steps": 2, "s": 1.5, "batch_size": 8}
QUICK = {
    "inception_weights": "none",
    "lpips_weights": "none",
    "crop_net": "test_resnet",
    "crop_steps": 1,
    "crop_seeds": 1,
    "detector_steps": 0,
    "report_images": 2,
}
ALONE = {**QUICK, "study": False, "agreement": False, "near_duplicates": False, "image_size": 32}


@pytest.fixture(scope="module")
def folders(box_run, lemons, tmp_path_factory) -> Path:
    """`full`: two samples of each test layout; `bare` and `null`: the same without objects, in two ways."""
    root = tmp_path_factory.mktemp("layouts")
    for name, values in {"full": {}, "bare": {"only_background": True}, "null": {"s": 0}}.items():
        base = {"model_path": box_run, "data_dir": lemons, "results_path": root / name, "num_samples": 8}
        assert command_line.run("sample", **{**base, **FEW, **values}) == 0
    return root


@pytest.fixture
def evaluate(folders, lemons, tmp_path, isdm):
    """Run `evaluate`; `evaluate(key=value)` returns the exit code, what was printed, errors and the report."""

    def run(**values):
        base = {"data_dir": lemons, "synthetic_dir": folders / "full", "output_dir": tmp_path / "out", **ALONE}
        code, shown, errors = isdm("evaluate", **{**base, **values})
        report = tmp_path / "out" / "report.json"
        return code, shown, errors, json.loads(report.read_text()) if report.exists() else {}

    return run


def test_only_background_leaves_noise_and_background(folders):
    full, bare = (lines_of(folders / name) for name in ("full", "bare"))
    for line, other in zip(full, bare, strict=True):
        assert other["predicted"]["objects"] == []
        assert other["predicted"]["background"] == line["predicted"]["background"]
        assert (other["image"], other["seed"]) == (line["image"], line["seed"])


def test_layouts_of_the_test_with_everything(evaluate, folders, alexnet):
    code, shown, errors, report = evaluate(null_dir=folders / "bare", lpips_weights=alexnet)
    assert code == 0, errors
    counts = {"samples": 8, "left_out": 0}
    assert counts.items() <= report["object_masks"]["test"].items(), "boxes of layouts are those of the masks"
    assert set(report["object_masks"]["test"]["mean"]) == {"predicted", "whole_box", "mean_shape"}
    assert report["adherence"]["null"] == "of the background alone"
    assert report["adherence"]["all"]["objects"] == report["object_masks"]["test"]["objects"]
    assert report["crop_classes"]["crops"]["samples"] == 2 * report["crop_classes"]["crops"]["test"]
    assert (report["diversity"]["of"], report["diversity"]["masks"]) == ("layout", 4)
    for line in ("IoU in boxes", "adherence: boxes change", "classes of crops", "LPIPS diversity"):
        assert line in shown


def test_null_samples_of_s_0(evaluate, folders):
    code, _, errors, report = evaluate(null_dir=folders / "null", crop_steps=0, crop_net="resnet18", crop_seeds=3)
    assert code == 0, errors
    assert "s 0" in report["adherence"]["null"]
    assert "crop_classes" not in report


def test_a_dataset_of_boxes(evaluate, lemons, tmp_path):
    """Everything is asked of it that is asked by default; what needs masks says so."""
    data = boxed_copy(lemons, tmp_path / "boxed")
    values = {"data_dir": data, "dataset_mode": "boxes", "study": True, "agreement": True, "image_size": 24}
    code, shown, errors, report = evaluate(**values)
    assert code == 0, errors
    assert "has boxes and no masks" in shown
    assert report["study"] is None
    for name in ("agreement", "masks", "object_masks"):
        assert "no masks" in report[name]["skipped"], name
    assert report["crop_classes"]["crops"]["samples"] == 2 * report["crop_classes"]["crops"]["test"]
    assert report["drift"]["areas"] == []
    page = (tmp_path / "out" / "report.html").read_text()
    assert "was not measured: the dataset has boxes and no masks" in page


@pytest.mark.parametrize(
    ("values", "keys"),
    [
        ({"segmenter": "a.pt", "segmenter_model": "smp/fpn/resnet18", "agreement": True}, ["segmenter"]),
        ({"filter_below": 0.5, "agreement": True, "deeplab": True}, ["filter_below", "deeplab"]),
        ({"other_dirs": ["a"], "study": True}, ["other_dirs"]),
    ],
)
def test_what_is_asked_expressly_and_needs_masks(evaluate, tmp_path, values, keys):
    code, _, errors, _ = evaluate(dataset_mode="boxes", **values)
    assert code == 2
    check_errors(errors, *keys)


class TestWrongNullFolders:
    @pytest.fixture
    def refused(self, evaluate, tmp_path):
        def check(folder: Path) -> str:
            code, _, errors, _ = evaluate(null_dir=folder)
            assert code == 2
            check_errors(errors, str(folder))
            assert not (tmp_path / "out" / "report.json").exists()
            return errors[0]

        return check

    def copied(self, folders: Path, tmp_path: Path, **changes) -> Path:
        (tmp_path / "other").mkdir()
        for kind in ("images", "masks", "config.json"):
            (tmp_path / "other" / kind).symlink_to(folders / "bare" / kind)
        lines = [json.dumps({**line, **changes}) for line in lines_of(folders / "bare")]
        (tmp_path / "other" / "manifest.jsonl").write_text("\n".join(lines) + "\n")
        return tmp_path / "other"

    def test_the_samples_themselves(self, refused, folders):
        assert "synthetic_dir" in refused(folders / "full")

    @pytest.mark.parametrize("changes", [{"checkpoint": "0" * 16}, {"seed": 1}, {"steps": 3}])
    def test_of_another_run(self, refused, folders, tmp_path, changes):
        assert next(iter(changes)) in refused(self.copied(folders, tmp_path, **changes))

    def test_with_another_background(self, refused, folders, tmp_path):
        predicted = lines_of(folders / "bare")[0]["predicted"]
        assert "background" in refused(self.copied(folders, tmp_path, predicted={**predicted, "background": None}))

    def test_with_objects(self, refused, folders, tmp_path):
        predicted = lines_of(folders / "full")[0]["predicted"]
        assert "has objects" in refused(self.copied(folders, tmp_path, predicted=predicted))

    def test_with_another_scale(self, refused, folders, tmp_path):
        assert "another s" in refused(self.copied(folders, tmp_path, s=3.0))


def test_samples_of_masks_have_no_objects(evaluate, lemons, trained, folders, tmp_path):
    values = {"model_path": trained, "data_dir": lemons, "results_path": tmp_path / "semantic", "steps": 1}
    assert command_line.run("sample", **values, batch_size=4) == 0
    code, _, errors, report = evaluate(synthetic_dir=tmp_path / "semantic", null_dir=folders / "bare")
    assert code == 2
    check_errors(errors, "null_dir", "crop_net", "crop_steps", "crop_seeds")
    code, _, errors, report = evaluate(synthetic_dir=tmp_path / "semantic", objects=True, max_objects=2)
    assert code == 0, errors
    assert 0 < report["crop_classes"]["crops"]["test"] <= 8
    assert "skipped" in report["object_masks"], "their masks are not predicted"
