"""Files that are edited, or damaged, while a studio shows what they had."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from odd_images import write_png
from PIL import Image
from studio_client import studio

from guided_diffusion.samples.manifest import file_digest, read_manifest

BLEMISH = 2


def line_of(results: Path, name: str):
    return next(line for line in read_manifest(results / "train" / "manifest.jsonl") if name in line.image)


def accepted(client, label, **head) -> str:
    return client.post("/api/accept", {"draw": client.drawn(label, **head), "j": 0}).json["name"]


def edit(path: Path) -> str:
    """Write a picture anew, turned upside down, and return the digest that it had."""
    before = file_digest(path)
    with Image.open(path) as image:
        pixels = np.asarray(image)[::-1].copy()
    write_png(path, pixels)
    assert file_digest(path) != before
    return before


@pytest.fixture
def copied(lemons, tmp_path) -> Path:
    """A copy of the dataset that may be changed."""
    return Path(shutil.copytree(lemons, tmp_path / "data"))


def test_a_mask_edited_while_it_is_shown_is_recorded_as_it_was_shown(trained, copied, tmp_path):
    with studio(model_path=trained, data_dir=copied, results_path=tmp_path / "out") as client:
        label = client.label("train", 1)
        before = edit(copied / "train" / "masks" / "lemon_0001.png")
        assert np.array_equal(client.label("train", 1), label)
        line = line_of(tmp_path / "out", accepted(client, label, start={"split": "train", "index": 1}))
        assert (line.source_digest, line.edited) == (before, False)


@pytest.mark.slow
def test_images_edited_while_they_are_shown_are_recorded_as_they_were_painted_into(windows, tmp_path):
    model, data, good = windows
    data, good = (Path(shutil.copytree(each, tmp_path / each.name)) for each in (data, good))
    values = {"model_path": model, "data_dir": data, "good_dir": good}
    with studio(results_path=tmp_path / "out", **values) as client:
        canvas = np.zeros((24, 24), np.uint8)
        canvas[8:12, 10:13] = BLEMISH
        client.get("/api/goods/0/image")
        label = client.label("train", 0).copy()
        image = sorted((good / "images").iterdir())[0]
        before = edit(image), edit(data / "train" / "images" / "lemon_0000.png")
        of_good = line_of(tmp_path / "out", accepted(client, canvas, base={"good": 0}))
        assert (of_good.good_image, of_good.good_digest) == (str(image), before[0])
        label[2:5, 2:5] = BLEMISH
        of_pair = line_of(tmp_path / "out", accepted(client, label, base={"split": "train", "index": 0}))
        assert [each.digest for each in of_pair.lineage.images] == [before[1]]
        client.desk.workplace.goods.of.cache_clear()
        assert f"{image}: has changed since the studio read it" in client.get("/api/goods/0/image").error


def test_a_damaged_mask_is_left_out_and_named(trained, copied, tmp_path, capsys):
    mask = copied / "train" / "masks" / "lemon_0002.png"
    mask.write_bytes(mask.read_bytes()[:60])
    with studio(model_path=trained, data_dir=copied, results_path=tmp_path / "out") as client:
        listed = client.get("/api/pairs?split=train&page=0").json["pairs"]
        assert [entry["name"] for entry in listed if entry["classes"] is None] == ["lemon_0002"]
        for what in ("image", "labels"):
            assert f"{mask}: unreadable or truncated" in client.get(f"/api/pairs/train/2/{what}").error
        assert client.label("train", 3).shape == (16, 16)
        assert client.get("/api/parts").json["count"] > 0
    assert f"warning: left out: {mask}: unreadable or truncated" in capsys.readouterr().err
