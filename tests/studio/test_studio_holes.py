"""Defects painted into good images, and erased from real ones, by a network that fills holes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from odd_images import write_png
from PIL import Image
from studio_client import studio

from guided_diffusion.samples.manifest import file_digest, read_manifest

BLEMISH = 2


@pytest.fixture(scope="module")
def painter(windows, tmp_path_factory):
    """A studio on windows of 16 px of lemons at half their size, 24 px, and its results_path."""
    model, data, good = windows
    results = tmp_path_factory.mktemp("painted")
    values = {"hole_margin": 2, "feather": 1, "model_path": model, "data_dir": data, "good_dir": good}
    with studio(results_path=results, **values) as client:
        yield client, results


def pixels(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).copy()


def line_of(results, name):
    return next(line for line in read_manifest(results / "train" / "manifest.jsonl") if name in line.image)


def test_the_canvas_of_a_good_image_has_the_models_scale(painter):
    client, _ = painter
    run = client.get("/api/run").json
    assert run["inpaint"]
    assert run["null"] == 5  # windows may have a border
    listed = client.get("/api/goods").json["goods"]
    assert [entry["size"] for entry in listed] == [[24, 24], [24, 24]]
    label = client.get("/api/goods/0/labels").label
    assert label.shape == (24, 24)
    assert set(np.unique(label)) <= {0, 1}


def test_a_defect_comes_into_a_good_image_and_nothing_else_changes(painter, windows):
    client, results = painter
    canvas = np.zeros((24, 24), np.uint8)
    canvas[8:12, 10:13] = BLEMISH
    name = client.drawn(canvas, count=2, base={"good": 1}, seed=4)
    hole = client.get(f"/api/draws/{name}/hole").label.astype(bool)
    assert hole[8:12, 10:13].all()
    assert 12 < hole.sum() < 100
    assert pixels_of(client, f"/api/draws/{name}/1/image").shape == (24, 24, 3)
    pair = client.post("/api/accept", {"draw": name, "j": 1}).json["name"]
    line = line_of(results, pair)
    good = windows[2] / "images" / line.good_image.rpartition("/")[2]
    assert line.good_digest == file_digest(good)
    before, after = pixels(good), pixels(results / "train" / line.image)
    native = hole.repeat(2, axis=0).repeat(2, axis=1)
    assert after.shape == before.shape
    assert np.array_equal(after[~native], before[~native])
    assert not np.array_equal(after, before)
    mask, own = pixels(results / "train" / line.mask), pixels(windows[2] / "masks" / good.name)
    expected = own.copy()
    expected[16:24, 20:26] = BLEMISH
    assert np.array_equal(mask, expected)
    assert [(defect.name, defect.box) for defect in line.defects] == [("blemish", [20, 16, 26, 24])]
    with Image.open(results / "train" / line.image) as image:
        assert "compositeWithTrainedAlgorithmicMedia" in image.info["XML:com.adobe.xmp"]


def test_place_paints_the_same_pixels(painter, windows, tmp_path, isdm):
    client, results = painter
    canvas = np.zeros((24, 24), np.uint8)
    canvas[9:12, 9:12] = BLEMISH
    canvas[15:17, 6:9] = 3
    name = client.drawn(canvas, base={"good": 0}, seed=17, steps=3)
    line = line_of(results, client.post("/api/accept", {"draw": name, "j": 0}).json["name"])
    model, data, good = windows
    stem = line.good_image.rpartition("/")[2].removesuffix(".png")
    (tmp_path / "good" / "images").mkdir(parents=True)
    (tmp_path / "good" / "images" / f"{stem}.png").write_bytes((good / "images" / f"{stem}.png").read_bytes())
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / f"{stem}.png").write_bytes((results / "train" / line.mask).read_bytes())
    values = {"mask_source": "dir", "placed_masks": tmp_path / "maps", "data_dir": data, "model_path": model}
    values |= {"hole_margin": 2, "feather": 1, "seed": 17, "steps": 3, "classes": ["blemish", "mould"]}
    assert isdm("place", good_dir=tmp_path / "good", results_path=tmp_path / "placed", **values)[0] == 0
    (placed,) = read_manifest(tmp_path / "placed" / "manifest.jsonl")
    assert placed.seed == line.seed
    assert np.array_equal(pixels(tmp_path / "placed" / placed.image), pixels(results / "train" / line.image))


def test_a_defect_is_erased_from_a_real_image(painter):
    client, results = painter
    label = client.label("train", 0)
    defects = (label > 1) & (label < 5)
    assert defects.any()
    canvas = np.where(defects, 1, label).astype(np.uint8)
    base = {"split": "train", "index": 0}
    name = client.drawn(canvas, base=base, start=base)
    hole = client.get(f"/api/draws/{name}/hole").label.astype(bool)
    assert hole[defects].all()
    pair = client.post("/api/accept", {"draw": name, "j": 0}).json["name"]
    before = pixels_of(client, "/api/pairs/train/0/image")
    after = pixels_of(client, f"/api/accepted/{pair}/image")
    assert np.array_equal(before[~hole], after[~hole])
    line = line_of(results, pair)
    assert [each.mask.rpartition("/")[2] for each in line.lineage.images] == ["lemon_0000.png"]
    assert line.defects is None
    assert line.good_image is None


def test_an_image_that_the_page_shows_as_it_is_written_is_encoded_once(painter):
    client, _ = painter
    base = {"split": "train", "index": 0}
    canvas = np.where(client.label("train", 0) > 1, 1, client.label("train", 0)).astype(np.uint8)
    candidate = client.desk.draw_of(client.drawn(canvas, base=base, start=base)).candidates[0]
    assert candidate.png is candidate.pair.image
    canvas = np.zeros((24, 24), np.uint8)
    canvas[8:12, 10:13] = BLEMISH
    half = client.desk.draw_of(client.drawn(canvas, base={"good": 1})).candidates[0]
    assert half.png is not half.pair.image


def pixels_of(client, path: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(client.get(path).body)))


def test_where_nothing_was_painted_nothing_is_drawn(painter):
    client, _ = painter
    name = client.draw(np.zeros((24, 24), np.uint8), base={"good": 0}).json["id"]
    assert client.events(name)[-1]["type"] == "error"
    assert "nothing is painted" in client.events(name)[-1]["line"]


def test_a_canvas_of_another_size_is_refused(painter):
    client, _ = painter
    assert "canvas" in client.draw(np.zeros((16, 16), np.uint8), base={"good": 0}).error
    assert "canvas" in client.draw(np.zeros((24, 24), np.uint8)).error


@pytest.mark.slow
def test_evaluate_reads_a_folder_of_both_kinds(painter, windows, tmp_path, isdm):
    client, results = painter
    label = client.label("train", 1).copy()
    label[2:4, 2:4] = BLEMISH
    name = client.drawn(label, start={"split": "train", "index": 1}, count=2)
    for j in range(2):
        client.post("/api/accept", {"draw": name, "j": j})
    values = {"data_dir": windows[1], "synthetic_dir": results, "study": False, "agreement": False}
    values |= {"inception_weights": "none", "lpips_weights": "none", "image_size": 32, "near_duplicates": False}
    code, out, errors = isdm("evaluate", output_dir=tmp_path / "evaluate", **values)
    assert code == 0, errors
    assert "were not made from" not in out
    checked = {"data_dir": results, "dataset_mode": "multi-class", "image_size": 16, "output_dir": tmp_path / "check"}
    code, _, errors = isdm("check", **checked)
    assert code == 0, errors


def test_a_good_image_that_cannot_be_read_is_one_line(windows, tmp_path):
    model, data, _ = windows
    good = tmp_path / "good"
    write_png(good / "a.png", np.zeros((40, 40, 3), np.uint8))
    (good / "b.png").write_bytes(b"no picture")
    with studio(model_path=model, data_dir=data, good_dir=good, results_path=tmp_path / "out") as client:
        answer = client.get("/api/goods/1/image")
        assert answer.status == 400
        assert "b.png" in answer.error
        assert client.get("/api/goods/0/image").status == 200
