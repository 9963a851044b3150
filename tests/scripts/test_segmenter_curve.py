"""The curve of training length on a tiny dataset: what is read, measured, written, and not trained twice."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from whole import whole_shapes

from evaluations.whole_images import WholeImages
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.pipelines.study.images import StudyView
from scripts.measure import segmenter_curve
from scripts.measure.segmenter_curve import Curve, table

RECORD = {"miou": 0.5, "classes": {"bright": {"iou": 0.75}, "dark": {"iou": None}}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a dataset, of 6 training and 2 test pairs, and good images."""

    def write(images: WholeImages, place: Path, *, masks: bool = True) -> None:
        for kind, pictures in (("images", images.images), ("masks", images.labels if masks else ())):
            for name, pixels in zip(images.names, pictures, strict=False):
                (place / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels[..., 0] if pixels.ndim == 3 else pixels).save(place / kind / f"{name}.png")

    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "classes.json").write_text('{"0": "background", "1": "bright", "2": "dark"}')
    write(whole_shapes(6, least=40), tmp_path / "data" / "train")
    write(whole_shapes(2, least=40, seed=1), tmp_path / "data" / "test")
    for seed, split in enumerate(("train", "test")):
        write(whole_shapes(3, least=40, seed=seed, good=True), tmp_path / "good" / split, masks=False)
    return tmp_path


def run(folder: Path, *more: str) -> list[dict]:
    segmenter_curve.main(
        f"--data-dir {folder / 'data'} --good-dir {folder / 'good'} --output {folder / 'curve'} --crop 32 --encoder "
        "tu-lcnet_050 --steps 2 --checks 2 --batch-size 2 --arms augmented".split()
        + list(more)
    )
    return json.loads((folder / "curve" / "curve.json").read_text())


@pytest.mark.slow
def test_curves_are_written_and_finished_trainings_not_repeated(folder: Path, capsys: pytest.CaptureFixture[str]):
    (curve,) = run(folder, "--on", "test", "--train-on-good")
    assert "9 images for training, 2 with defects" in capsys.readouterr().out
    assert (curve["arm"], curve["steps"]) == ("augmented", 2)
    assert [step for step, _ in curve["records"]] == [1, 2]
    assert curve["records"][1][1]["good_images"] == 3
    assert list(curve["records"][1][1]["classes"]) == ["bright", "dark"]
    assert Image.open(folder / "curve" / "curve.png").size[0] > 500
    kept = (folder / "curve" / "augmented-2.pt").stat().st_mtime_ns
    assert run(folder, "--on", "test", "--train-on-good") == [curve]
    assert (folder / "curve" / "augmented-2.pt").stat().st_mtime_ns == kept


@pytest.mark.slow
def test_held_out_images_are_not_trained_on(folder: Path, capsys: pytest.CaptureFixture[str]):
    (curve,) = run(folder)
    assert "4 images for training, 2 with defects" in capsys.readouterr().out
    assert curve["records"][1][1]["good_images"] == 1


def test_a_wrong_folder_is_told_in_one_line(folder: Path, capsys):
    with pytest.raises(SystemExit, match="2"):
        run(folder, "--data-dir", str(folder / "nowhere"))
    assert str(folder / "nowhere") in capsys.readouterr().err


def test_images_are_averaged_and_thin_defects_stay():
    image = torch.full((1, 8, 8), 100, dtype=torch.uint8)
    image[:, :, 4] = 0
    label = torch.zeros(8, 8, dtype=torch.uint8)
    label[:, 4] = 1
    view = StudyView(LabelEncoding.identity(2), 1, 0.5)
    pixels, ids = view.reduced(image.permute(1, 2, 0).numpy(), label.numpy())
    assert pixels.shape == (4, 4, 3)
    assert pixels[0, :, 1].tolist() == [100, 100, 50, 100]
    assert np.array_equal(ids, np.tile([0, 0, 1, 0], (4, 1)))


def test_the_table_has_percent_and_gaps():
    lines = table([Curve("plain", 4, 120.0, ((2, RECORD), (4, RECORD)))], ("background", "bright", "dark")).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert len({len(row) for row in cells}) == 1
    assert cells[0][-3:] == ["bright", "dark", "minutes"]
    assert cells[2][1:] == ["2", "50.0", "", "", "75.0", "", "1.0"]
    assert cells[3][-1] == "2.0"
