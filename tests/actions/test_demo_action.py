"""`demo` takes the built-in dataset through every stage, and does not repeat what is done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from error_lines import check_errors
from PIL import Image
from scipy import ndimage

from evaluations.blending import paste
from evaluations.seams import RimJumps, rim_jump
from guided_diffusion.config import demo
from guided_diffusion.config.demo import demo_stages
from guided_diffusion.config.load import load_config
from guided_diffusion.data.lemons import LEMON, write_demo_dataset, write_good_lemons
from guided_diffusion.data.native_image import NativeImage
from guided_diffusion.data.placing.scene import PlacedDefect
from guided_diffusion.pipelines.build import trained_config
from guided_diffusion.pipelines.load import encoding_of_checkpoint
from guided_diffusion.pipelines.placing.plan import plan_placing
from guided_diffusion.pipelines.studio.workplace import Workplace
from guided_diffusion.runtime.checkpoint import BEST, find_checkpoint, load_checkpoint
from guided_diffusion.runtime.logs import write_run_record

pytestmark = pytest.mark.slow

EPOCHS = 3

STAGES = ["check", "train", "finetune", "place", "sample", "sample_synthetic", "evaluate"]
MADE = (
    "dataset/*/*/*", "dataset_good/*/*", "*/*.pt", "placed/train/*/*", "samples/*/*", "synthetic/*/*",
    "evaluate/study/fpn-*",
)  # fmt: skip
"""What takes time to make; the reports and pictures beside it are made again."""


def times_of(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for pattern in MADE for path in folder.glob(pattern)}


def quick_stages(config: demo.DemoConfig) -> dict[str, dict[str, Any]]:
    """Return the stages with a few steps of sampling, and small images and models."""
    steps = {"steps": 2}
    changes = {"place": steps, "sample": steps, "sample_synthetic": steps}
    changes["evaluate"] = {"encoder": "tu-lcnet_050", "image_size": 32}
    stages = demo_stages(config)
    for name in ("check", "train"):
        stages[name] |= {"image_size": 24, "scale": 24 / demo.FILE_SIZE}
    stages["train"] |= {"attention_resolutions": [6], "preview_steps": 2, "preview_images": 2}
    return {name: values | changes.get(name, {}) for name, values in stages.items()}


def test_the_folder_of_another_run_is_refused(isdm, tmp_path):
    write_run_record(tmp_path, "train", {})
    before = sorted(tmp_path.iterdir())
    code, _, errors = isdm("demo", output_dir=tmp_path)
    assert code == 2
    check_errors(errors, "output_dir")
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_of_other_runs_is_refused(isdm, tmp_path):
    (tmp_path / "runs" / "train").mkdir(parents=True)
    code, _, errors = isdm("demo", output_dir=tmp_path / "runs")
    assert code == 2
    check_errors(errors, "output_dir")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["train"]


def test_every_stage_runs_and_is_not_repeated(isdm, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "demo_stages", quick_stages)
    for name, value in {"TRAIN_PAIRS": 8, "TEST_PAIRS": 4, "GOOD_IMAGES": 4, "PLACED": 4, "EVALUATE_STEPS": 4}.items():
        monkeypatch.setattr(demo, name, value)
    folder = tmp_path / "demo"
    code, shown, errors = isdm("demo", output_dir=str(folder), max_epochs=1)
    assert code == 0, errors
    assert [line.split()[1].rstrip(":") for line in shown.splitlines() if line.startswith("--- ")] == STAGES
    assert len((folder / "placed" / "train" / "manifest.jsonl").read_text().splitlines()) == 4
    assert len((folder / "samples" / "manifest.jsonl").read_text().splitlines()) == 4
    assert len((folder / "synthetic" / "manifest.jsonl").read_text().splitlines()) == 5
    assert json.loads((folder / "evaluate" / "report.json").read_text())["study"]["seeds"] == 1
    assert (folder / "evaluate" / "report.html").is_file()
    with Image.open(folder / "demo.png") as picture:
        assert picture.width > 6 * 2 * demo.FILE_SIZE
    studio = folder / "configs" / "studio.json"
    assert f"main.py studio -c {studio}" in shown.splitlines()[-1]
    opened = Workplace.open(load_config("studio", json.loads(studio.read_text()))).facts()
    assert opened["inpaint"]
    assert [each["what"] for each in opened["missing"]] == []
    for name in STAGES:
        assert json.loads((folder / "configs" / f"{name}.json").read_text())
    before = times_of(folder)
    assert len([path for path in before if path.match("train/*.pt") or path.match("finetune/*.pt")]) == 4
    assert len([path for path in before if path.match("study/fpn-*.json")]) == 5
    assert isdm("demo", output_dir=str(folder), max_epochs=1)[0] == 0
    assert times_of(folder) == before


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def replaced_by(defect: PlacedDefect, margin: int, size: tuple[int, int]) -> np.ndarray:
    """Return the hole [H, W] in which a defect was painted."""
    inside = np.zeros(size, bool)
    inside[defect.box.slices] = defect.mask
    return ndimage.distance_transform_edt(~inside) <= margin


def with_paste(good: np.ndarray, defect: PlacedDefect, source: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Return the good image with what the defect's training image has in the hole, warped like the defect's mask."""
    assert defect.edited is not None
    rows, columns = (np.flatnonzero(hole.any(axis=axis)) for axis in (1, 0))
    reach = max(good.shape)
    patch = defect.edited.warp(source, reach)
    top, left = defect.top - reach, defect.left - reach
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    patch = patch[box[0].start - top : box[0].stop - top, box[1].start - left : box[1].stop - left]
    return paste(good, patch, hole[box], int(rows[0]), int(columns[0]), False)


def test_placed_defects_lie_on_lemons_and_have_smaller_seams_than_pasted_ones(isdm, tmp_path):
    """A training of EPOCHS suffices, as the seam is smooth long before the defects are; after 1 they are noise."""
    stages = demo_stages(load_config("demo", {"output_dir": str(tmp_path), "max_epochs": EPOCHS}))
    write_demo_dataset(tmp_path / "dataset", num_train=32, num_test=1, size=demo.FILE_SIZE)
    write_good_lemons(tmp_path / "dataset_good", count=demo.GOOD_IMAGES, size=demo.FILE_SIZE)
    place = stages["place"] | {"model_path": str(tmp_path / "train"), "s": 1.0, "steps": 5}
    for action, values in (("train", stages["train"] | {"preview_interval": 0}), ("place", place)):
        code, _, errors = isdm(action, **values)
        assert code == 0, errors
    config = load_config("place", place)
    checkpoint = load_checkpoint(find_checkpoint(tmp_path / "train", prefer=BEST))
    encoding = encoding_of_checkpoint(checkpoint)
    assert encoding is not None
    plan = plan_placing(config, trained_config(checkpoint, config), encoding)
    folder, ours, pasted = tmp_path / "placed" / "train", [], []
    for line in (folder / "manifest.jsonl").read_text().splitlines():
        record = json.loads(line)
        good, result = pixels(Path(record["good_image"])), pixels(folder / record["image"])
        of_lemon = pixels(tmp_path / "dataset_good" / "masks" / Path(record["good_image"]).name)
        image = next(image for image in plan.images if image.image == record["good_image"])
        finished = plan.finished(image, NativeImage.read(image.image, 3), record["index"])
        assert (pixels(folder / record["mask"]) == finished.label).all()
        assert (of_lemon[finished.label != of_lemon] == LEMON).all()
        touched = np.zeros(good.shape[:2], bool)
        for defect in finished.defects:
            hole = replaced_by(defect, round(config.hole_margin * demo.FILE_SIZE / 48), good.shape[:2])
            touched |= hole
            source = pixels(tmp_path / "dataset" / "train" / "images" / f"{defect.source.partition('#')[0]}.png")
            ours.append(rim_jump(result, good, hole))
            pasted.append(rim_jump(with_paste(good, defect, source, hole), good, hole))
        assert (result[~touched] == good[~touched]).all()
    assert len(ours) > 20
    assert RimJumps.of(ours).median < 0.25 * RimJumps.of(pasted).median
