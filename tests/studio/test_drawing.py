"""The loop of the studio: look at masks, draw images of one, accept them as pairs that the other actions take."""

from __future__ import annotations

import io
import json
from pathlib import Path

import command_line
import numpy as np
import pytest
from odd_images import write_png
from PIL import Image
from studio_client import studio
from tiny import TINY

from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.pairing import index_pairs
from guided_diffusion.samples.accepted_folder import TRASH
from guided_diffusion.samples.manifest import file_digest, read_manifest


def line_of(results: Path, name: str):
    return next(line for line in read_manifest(results / "train" / "manifest.jsonl") if name in line.image)


def accepted(page, label, j: int = 0, **head) -> str:
    return page.post("/api/accept", {"draw": page.drawn(label, count=j + 1, **head), "j": j}).json["name"]


def test_the_page_learns_what_there_is(page, trained, results):
    run = page.get("/api/run").json
    assert run["size"] == [16, 16]
    assert [each["name"] for each in run["classes"]] == ["background", "lemon", "blemish", "mould", "gangrene"]
    assert run["label_type"] == "u8"
    assert run["null"] is None
    assert run["splits"] == [{"name": "train", "count": 8}, {"name": "test", "count": 4}]
    assert run["sampler"]["guided"]
    assert run["results_path"] == str(results / "train")
    assert {each["what"] for each in run["missing"]} == {"inpaint", "judge", "report"}


def test_pairs_are_listed_with_their_classes(page):
    listed = page.get("/api/pairs?split=test&page=0").json
    assert (listed["count"], len(listed["pairs"])) == (4, 4)
    for entry in listed["pairs"]:
        assert entry["classes"] == np.unique(page.label("test", entry["index"])).tolist()
    assert page.get("/api/pairs?split=train&page=7").json["pairs"] == []


def test_parts_of_the_shelf_are_those_of_training_masks(page):
    listed = page.get("/api/parts").json
    assert listed["count"] == len(listed["parts"]) > 0
    labels = [page.label("train", index) for index in range(8)]
    for entry in listed["parts"][:5]:
        part = page.get(f"/api/parts/{entry['index']}").label
        assert list(part.shape) == entry["size"]
        found = [label for label in labels if (label == entry["class"]).sum() >= part.sum()]
        assert found
        assert entry["class"] != 0


def test_masks_of_which_a_pair_has_parts_are_in_its_lineage(page, results, lemons):
    entry = page.get("/api/parts").json["parts"][-1]
    part = page.get(f"/api/parts/{entry['index']}").label
    label = page.label("test", 0).copy()
    label[: part.shape[0], : part.shape[1]][part > 0] = entry["class"]
    mask = lemons / "train" / "masks" / f"lemon_{entry['pair']:04}.png"
    begun = line_of(results, accepted(page, label, start={"split": "test", "index": 0}, parts=[entry["pair"]]))
    assert begun.lineage.split == "test"
    assert [(each.mask, each.digest) for each in begun.lineage.masks][1:] == [(str(mask), file_digest(mask))]
    alone = line_of(results, accepted(page, label, parts=[entry["pair"]]))
    assert (alone.source_split, alone.lineage.split) == ("", "train")
    assert [each.mask for each in alone.lineage.masks] == [str(mask)]
    assert "no such part" in page.draw(label, parts=[8]).error


def test_labels_that_nobody_changed_are_saved_as_they_were(page, results, lemons):
    label = page.label("train", 1)
    name = accepted(page, label, start={"split": "train", "index": 1}, edited=True)
    assert np.array_equal(page.get(f"/api/accepted/{name}/labels").label, label)
    line = line_of(results, name)
    assert (line.made_by, line.source_split, line.edited, line.synthetic) == ("studio", "train", False, True)
    mask = lemons / "train" / "masks" / "lemon_0001.png"
    assert (line.source_mask, line.source_digest) == (str(mask), file_digest(mask))
    assert line.lineage is None


def test_a_changed_mask_says_what_it_was(page, results):
    label = page.label("test", 2).copy()
    label[3:6, 3:6] = 4
    line = line_of(results, accepted(page, label, start={"split": "test", "index": 2}))
    assert (line.source_split, line.edited) == ("test", True)
    assert line.lineage.split == "test"
    assert [each.digest for each in line.lineage.masks] == [line.source_digest]


def test_a_mask_from_nothing_is_its_own_source(page, results):
    line = line_of(results, accepted(page, np.full((16, 16), 1, np.uint8)))
    assert line.source_mask == line.mask
    assert line.source_digest == file_digest(results / "train" / line.mask)
    assert (line.source_split, line.edited, line.lineage.masks) == ("", True, [])


def test_sample_makes_the_same_bytes_of_the_same_seed(page, results, trained, tmp_path, isdm):
    label = page.label("train", 3).copy()
    label[0:4, 10:14] = 2
    head = {"seed": 41, "steps": 3, "s": 1.5, "sampler": "dpm++2m-sde"}
    name = accepted(page, label, 2, **head)
    line = line_of(results, name)
    masks = tmp_path / "masks"
    masks.mkdir()
    (masks / "a.png").write_bytes((results / "train" / line.mask).read_bytes())
    values = {**head, "model_path": trained, "mask_dir": masks, "num_samples": 3, "results_path": tmp_path / "out"}
    assert isdm("sample", **values)[0] == 0
    sampled = tmp_path / "out" / "images" / "a_rep002.png"
    assert sampled.read_bytes() == (results / "train" / line.image).read_bytes()
    assert (tmp_path / "out" / "masks" / "a_rep002.png").read_bytes() == (results / "train" / line.mask).read_bytes()
    twin = read_manifest(tmp_path / "out" / "manifest.jsonl")[line.run_index]
    assert (twin.seed, twin.run_seed, twin.steps, twin.s) == (line.seed, line.run_seed, line.steps, line.s)


def test_samples_of_accepted_masks_tell_what_these_were_made_of(page, results, trained, tmp_path, isdm):
    label = page.label("test", 3).copy()
    label[2:5, 2:5] = 4
    edited = accepted(page, label, start={"split": "test", "index": 3})
    same = accepted(page, page.label("test", 1), start={"split": "test", "index": 1})
    for mask_dir in (results / "train", results / "train" / "masks"):
        out = tmp_path / mask_dir.name
        values = {"model_path": trained, "mask_dir": mask_dir, "results_path": out, "steps": 1}
        assert isdm("sample", **values)[0] == 0
        sampled = {Path(line.image).stem: line for line in read_manifest(out / "manifest.jsonl")}
        assert sampled.keys() == set(page_names(page))
        for name, index in ((edited, 3), (same, 1)):
            lineage = sampled[name].lineage
            assert lineage.split == "test"
            # That of the dataset's own file, by which `evaluate` refuses them.
            assert [each.digest for each in lineage.masks] == [line_of(results, name).source_digest], index


def test_what_is_shown_is_what_is_accepted(page):
    name = page.drawn(page.label(), count=2, seed=3)
    shown = page.get(f"/api/draws/{name}/1/image").body
    pair = page.post("/api/accept", {"draw": name, "j": 1}).json["name"]
    written = page.get(f"/api/accepted/{pair}/image").body
    with Image.open(io.BytesIO(shown)) as ours, Image.open(io.BytesIO(written)) as theirs:
        assert np.array_equal(np.asarray(ours), np.asarray(theirs))
        assert "synthetic" in theirs.info["Comment"]


def test_accepting_twice_is_accepting_once(page, results):
    name = page.drawn(page.label(), seed=9)
    body = {"draw": name, "j": 0}
    first = page.post("/api/accept", body).json
    count = page.get("/api/accepted").json["count"]
    assert page.post("/api/accept", body).json == first
    assert page.get("/api/accepted").json["count"] == count
    assert page.get("/api/accepted").json["accepted"][0] == first


def test_a_discarded_pair_lies_in_the_trash(page, results):
    folder = results / "train"
    name = accepted(page, page.label(), seed=10)
    image = (folder / "images" / f"{name}.png").read_bytes()
    assert page.delete(f"/api/accepted/{name}").status == 204
    assert page.delete(f"/api/accepted/{name}").status == 404
    assert page.get(f"/api/accepted/{name}/image").status == 404
    assert (folder / TRASH / "images" / f"{name}.png").read_bytes() == image
    assert name not in (folder / "manifest.jsonl").read_text()
    assert accepted(page, page.label(), seed=11) != name


def test_accepted_pairs_are_a_dataset(page, results):
    accepted(page, page.label(), seed=12)
    pairs, problems = index_pairs(results, get_mode("multi-class"), "train")
    assert [pair.stem for pair in pairs] == sorted(page_names(page))
    assert not [problem for problem in problems if problem.fatal]
    assert json.loads((results / "classes.json").read_text())["1"]["name"] == "lemon"


def page_names(page) -> list[str]:
    return [entry["name"] for entry in page.get("/api/accepted").json["accepted"]]


def test_the_newest_wish_wins(page):
    label = page.label()
    older = page.draw(label, count=16, steps=50, sampler="ddpm").json["id"]
    newer = page.drawn(label)
    assert page.events(older)[-1] == {"type": "cancelled"}
    assert page.events(newer)[0] == {"type": "queued"}
    assert page.get(f"/api/draws/{newer}/0/image").status == 200


def test_a_draw_is_cancelled_and_the_next_one_is_drawn(page):
    name = page.draw(page.label(), count=16, steps=50, sampler="ddpm").json["id"]
    assert page.delete(f"/api/draws/{name}").status == 204
    assert page.events(name)[-1] == {"type": "cancelled"}
    page.drawn(page.label())


def test_progress_is_told_and_can_be_read_again(page):
    name = page.drawn(page.label(), count=6, steps=3)
    events = page.events(name)
    steps = [event["done"] for event in events if event["type"] == "step"]
    assert steps == sorted(steps)
    assert steps[-1] == 18
    assert {event["total"] for event in events if event["type"] == "step"} == {18}
    assert [event["j"] for event in events if event["type"] == "image"] == list(range(6))
    assert page.events(name) == events


@pytest.mark.parametrize(
    ("head", "named"),
    [
        ({"steps": 51}, "steps"),
        ({"base": {"good": 0}}, "fills no holes"),
        ({"start": {"split": "train", "index": 8}}, "no such pair"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(page, head, named):
    answer = page.draw(page.label(), **head)
    line = answer.error if answer.status == 400 else page.events(answer.json["id"])[-1]["line"]
    assert named in line


@pytest.mark.slow
def test_more_than_255_classes_travel_in_16_bits(tmp_path):
    data, results = tmp_path / "data", tmp_path / "out"
    rng = np.random.default_rng(0)
    for number in range(3):
        write_png(data / "train" / "images" / f"{number}.png", rng.integers(0, 255, (16, 16, 3), np.uint8))
        write_png(data / "train" / "masks" / f"{number}.png", rng.integers(0, 300, (16, 16)).astype(np.uint16))
    values = {**TINY, "num_classes": 300, "max_epochs": 1, "data_dir": data}
    assert command_line.run("train", **values, output_dir=tmp_path / "run") == 0
    with studio(model_path=tmp_path / "run", data_dir=data, results_path=results) as client:
        run = client.get("/api/run").json
        assert (run["label_type"], len(run["classes"])) == ("u16", 300)
        label = client.label("train", 0)
        assert label.dtype.itemsize == 2
        assert label.max() > 255
        name = accepted(client, label, start={"split": "train", "index": 0}, steps=1)
        assert np.array_equal(client.get(f"/api/accepted/{name}/labels").label, label)
        assert line_of(results, name).edited is False
        label = label.copy()
        label[0, 0] = 300
        assert "the value 300" in client.draw(label).error
        assert client.draw(label.astype(np.uint8)).status == 400
