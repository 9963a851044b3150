"""A tiny study from start to end: interrupted, resumed, reported; and what it refuses."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import psutil
import pytest
from error_lines import check_error
from PIL import Image
from processes import finish, start
from tiny import TINY

from guided_diffusion.config.study import ARMS
from guided_diffusion.pipelines.study import trainings

pytestmark = pytest.mark.slow

WINDOWS = {**TINY, "resize": "window", "inpaint": True, "image_channels": 1, "max_epochs": 1}
TINY_MODELS = {"architectures": "fpn", "encoder": "tu-lcnet_050", "encoder_weights": "none", "crop": 32, "steps": 2}
TINY_STUDY = {**TINY_MODELS, "amounts": "4,all", "seeds": 1, "pairs": 5, "batch_size": 2, "device": "cpu"}


@pytest.fixture(scope="module")
def keys(parts, good_parts, tmp_path_factory) -> dict:
    """The keys of a tiny study without `output_dir`."""
    folder = tmp_path_factory.mktemp("configs")
    (folder / "train.json").write_text(json.dumps({**WINDOWS, "data_dir": "elsewhere", "output_dir": "elsewhere"}))
    (folder / "place.json").write_text(json.dumps({"steps": 2, "hole_margin": 3, "results_path": "elsewhere"}))
    configs = {"train_config": folder / "train.json", "place_config": folder / "place.json"}
    return {**TINY_STUDY, **configs, "data_dir": parts, "dataset_mode": "multi-class", "good_dir": good_parts}


def results_of(folder: Path) -> dict[str, dict]:
    """Return the results of a study without the times that they took."""
    found = {path.stem: json.loads(path.read_text()) for path in (folder / "results").glob("*.json")}
    return {key: {name: each for name, each in value.items() if "seconds" not in name} for key, value in found.items()}


def times_of(folder: Path) -> dict[Path, int]:
    return {
        path: path.stat().st_mtime_ns
        for pattern in ("n*/dataset/**/*", "n*/*/*.pt", "n*/*/images/*", "results/fpn*", "*.pt", "measures.json")
        for path in folder.glob(pattern)
        if path.is_file()
    }


def test_a_study_stops_and_goes_on_to_its_report(keys, tmp_path, isdm, monkeypatch):
    folder = tmp_path / "study"
    longer = {**keys, "steps": 2 * keys["steps"]}  # too long, as the estimate says: it does not bind to them
    code, shown, errors = isdm("study", **longer, output_dir=folder, estimate_only=True)
    assert code == 0, errors
    assert shown.splitlines()[-2].startswith("all together")
    assert not (folder / "n4" / "train").exists()
    assert not list((folder / "results").glob("fpn*"))

    train, done = trainings.train_and_test, []

    def interrupted(run, *args, **kwargs):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(run.key)
        return train(run, *args, **kwargs)

    monkeypatch.setattr(trainings, "train_and_test", interrupted)
    assert isdm("study", **keys, output_dir=folder)[0] == 130
    assert sorted(results_of(folder).keys() - {"settings"}) == sorted(done)
    before = times_of(folder)
    monkeypatch.setattr(trainings, "train_and_test", train)
    code, shown, errors = isdm("study", **keys, output_dir=folder)
    assert code == 0, errors
    assert {path: time for path, time in times_of(folder).items() if path in before} == before
    results = results_of(folder)
    assert results.keys() - {"settings"} == {f"fpn-n{amount}-{arm}-0" for amount in ("4", "all") for arm in ARMS}
    assert not list((folder / "unfinished").glob("*.pt"))

    record = json.loads((folder / "report.json").read_text())
    assert record["amounts"] == {"4": 4, "all": 8}
    assert list(record["architectures"]["fpn"]["4"]) == list(ARMS)
    assert set(record["data"]["subsets"]["4"]) < set(record["data"]["subsets"]["all"])
    assert record["data"]["finished"] == record["data"]["planned"] == 2 * len(ARMS)
    for arms in record["architectures"]["fpn"].values():
        called = arms["real_good"]["called"]
        assert all(list(shares) == record["data"]["classes"] for shares in called.values())
        shown = {name: shares for name, shares in called.items() if None not in shares.values()}
        assert shown
        for name, shares in shown.items():
            assert sum(shares.values()) == pytest.approx(1)  # all pixels of a class, whatever they are called
            assert shares[name] >= arms["real_good"]["classes"][name]["iou"] - 1e-9  # recall
    assert {each["label"] for each in record["agreement"]["sets"]} >= {
        "placed defects, all images",
        "placed defects, 4 images",
    }
    looks = {each["label"]: each["classes"] for each in record["looks"]["sets"]}
    assert {"real training images", "real test images", "copy-paste, all images"} <= looks.keys()
    real, pasted = (looks[name]["spot"] for name in ("real training images", "copy-paste, all images"))
    assert (real["count"], real["ratio"]) == (8, pytest.approx(1))
    assert pasted["contrast"] == pytest.approx(real["contrast"], rel=0.3)  # their pixels
    assert "not Inception" in record["distances"]["features"]
    assert "Placed" in (folder / "report.html").read_text() or "placed" in (folder / "report.html").read_text()
    assert (folder / "curve.png").exists()
    with Image.open(folder / "examples.png") as picture:
        assert picture.width > 4 * 64

    # The generator of four images knows these alone; other arms have other images, real ones have not.
    trained_on = json.loads((folder / "n4" / "configs" / "train.json").read_text())["data_dir"]
    assert Path(trained_on) == folder / "n4" / "dataset"
    digests = {key: result["images"] for key, result in results.items() if "images" in result}
    assert len(set(digests.values())) == 2 * (len(ARMS) - 1)
    for amount in ("4", "all"):  # the same images, and other crops of them
        augmented, plain = (f"fpn-n{amount}-{arm}-0" for arm in ("real_good", "unaugmented"))
        assert digests[augmented] == digests[plain]
    assert {
        (result["real"], result["arm"] == "real") for result in results.values() if result.get("amount") == "4"
    } == {
        (4, True),
        (4, False),
    }

    for name, noise in (("placed", None), ("repainted", 0.1)):
        lines = (folder / "n4" / name / "manifest.jsonl").read_text().splitlines()
        assert {json.loads(line)["paste_noise"] for line in lines} == {noise}

    after = times_of(folder)
    assert isdm("study", **keys, group_pattern=r"part_[89](x?)$", output_dir=folder)[0] == 0  # named later
    assert times_of(folder) == after
    assert json.loads((folder / "report.json").read_text())["data"]["test_groups"] == 2
    code, _, errors = isdm("study", **{**keys, "steps": 3}, output_dir=folder)
    assert code == 2
    check_error(errors[0], "steps")

    late = {**keys, "real_last": 0.5, "arms": "place", "amounts": 4}  # the last of two steps
    code, _, errors = isdm("study", **late, output_dir=folder)
    assert code == 2
    check_error(errors[0], "real_last")
    other = tmp_path / "other"  # the generator goes along
    shutil.copytree(folder / "n4", other / "n4")
    late_steps = []

    def watched(run, *args, **kwargs):
        late_steps.append(kwargs["late"].step)
        return train(run, *args, **kwargs)

    monkeypatch.setattr(trainings, "train_and_test", watched)
    code, _, errors = isdm("study", **late, output_dir=other)
    assert code == 0, errors
    assert late_steps == [1]
    assert "train" not in json.loads((other / "estimate.json").read_text())["seconds"]
    for path in ("train/metrics.jsonl", "placed/manifest.jsonl"):
        assert (other / "n4" / path).read_bytes() == (folder / "n4" / path).read_bytes()
    assert results_of(other)["fpn-n4-place-0"]["images"] == digests["fpn-n4-place-0"]

    first = other / "results" / "fpn-n4-place-0.json"  # as if an earlier version had made other images of the folder
    first.write_text(json.dumps(json.loads(first.read_text()) | {"images": "other", "isdm": "0.0"}))
    code, _, errors = isdm("study", **{**late, "seeds": 2}, output_dir=other)
    assert code == 2
    check_error(errors[0], str(first))
    first.write_text(json.dumps(json.loads(first.read_text()) | {"images": digests["fpn-n4-place-0"]}))
    assert isdm("study", **{**late, "seeds": 2}, output_dir=other)[0] == 0
    assert any("0.0" in line for line in json.loads((other / "report.json").read_text())["warnings"])


def test_copies_are_judged_without_a_generator(keys, tmp_path, isdm):
    folder = tmp_path / "study"
    values = {**keys, "amounts": "4", "arms": "real_good,copy_paste,poisson", "output_dir": folder}
    del values["train_config"], values["place_config"]
    code, shown, errors = isdm("study", **values, image_channels=1)
    assert code == 0, errors
    assert "generator" not in shown
    assert [path.name for path in (folder / "n4").iterdir()] == ["dataset"]
    report = json.loads((folder / "report.json").read_text())
    (verdict,) = report["verdicts"].values()
    assert "pasted defects" in verdict["headline"].lower()
    assert verdict["differences"].keys() == {"4"}
    assert verdict["rivals"] == {}
    assert (folder / "examples.png").exists()


def test_a_killed_study_goes_on_as_if_it_had_not_been(keys, tmp_path, isdm):
    plain = {**keys, "arms": "real,real_good", "amounts": "4", "seeds": 2, "train_config": "", "place_config": ""}
    plain |= {"scale": 0.5, "image_channels": 1, "group_pattern": r"part_[89](x?)$"}  # of the test images 8, 9 and 10
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert isdm("study", **plain, output_dir=whole)[0] == 0
    process = start("study", {**plain, "output_dir": killed})
    deadline = time.monotonic() + 120
    while len(list((killed / "results").glob("fpn*"))) < 1 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    assert finish(process) == -9
    assert 1 <= len(list((killed / "results").glob("fpn*"))) < 4
    assert isdm("study", **plain, output_dir=killed)[0] == 0
    assert results_of(killed) == results_of(whole)
    record = json.loads((killed / "report.json").read_text())
    assert "agreement" not in record
    assert record["verdicts"]["fpn"]["kind"] == "not measured"
    (arms,) = record["architectures"]["fpn"].values()
    assert (record["data"]["test_images"], record["data"]["test_groups"]) == (3, 2)
    assert (arms["real"]["difference"]["images"], arms["real"]["difference"]["groups"]) == (3, 2)
    assert arms["real"]["difference_with_good"]["groups"] == 2 + 2  # and good images of their own


def test_several_processes_find_what_one_does(keys, tmp_path, isdm):
    """Killed in between, too: the processes end with the one that started them."""
    some = {**keys, "arms": "real,real_good,place", "amounts": "4", "pairs": 3}
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert isdm("study", **some, output_dir=alone)[0] == 0
    process = start("study", {**some, "output_dir": together, "at_once": 2})
    deadline = time.monotonic() + 120
    while len(list((together / "results").glob("fpn*"))) < 1 and time.monotonic() < deadline:
        time.sleep(0.02)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    assert finish(process) == -9
    assert len(children) >= 2
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive
    code, _, errors = isdm("study", **some, output_dir=together, at_once=2)
    assert code == 0, errors
    assert results_of(together) == results_of(alone)
    assert not list((together / "unfinished").glob("*.pt"))
    assert "step" in (together / "logs" / "process_0.txt").read_text()


def test_what_is_wrong_in_a_process_is_one_line(keys, tmp_path, isdm):
    folder = tmp_path / "out"
    damaged = folder / "unfinished" / "fpn-n4-real_good-0.pt"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("no checkpoint")
    values = {**keys, "amounts": "4", "train_config": "", "place_config": "", "image_channels": 1, "scale": 0.5}
    assert isdm("study", **values, arms="real", output_dir=folder)[0] == 0  # one training is left, and one process
    code, _, errors = isdm("study", **values, arms="real,real_good", output_dir=folder, at_once=2)
    assert code == 2
    check_error(errors[-1], "checkpoint", damaged)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a file without room is a Linux thing")
def test_a_disk_without_room_for_what_a_process_prints_is_one_line(keys, tmp_path, isdm):
    folder = tmp_path / "out"
    (folder / "logs").mkdir(parents=True)
    for number in range(2):
        (folder / "logs" / f"process_{number}.txt").symlink_to("/dev/full")
    values = {**keys, "amounts": "4", "train_config": "", "place_config": "", "image_channels": 1, "scale": 0.5}
    code, _, errors = isdm("study", **values, arms="real,real_good", output_dir=folder, at_once=2)
    assert code == 2
    assert "No space left on device" in errors[-1]
    assert str(folder / "logs") in errors[-1]


@pytest.mark.parametrize(
    ("values", "subject"),
    [
        ({"amounts": "8,all"}, "amounts"),
        ({"amounts": "400"}, "amounts"),
        ({"encoder": "resnet19"}, "encoder"),
        ({"architectures": "fpn,FPN", "other_amount": "all"}, "architectures"),
        ({"crop": 40}, "crop"),
        ({"group_pattern": "(part"}, "group_pattern"),
        ({"image_channels": 3}, "image_channels"),
        ({"scale": 0.25}, "scale"),
        ({"encoder_weights": "missing.pt"}, "encoder_weights"),
        ({"inception_weights": "missing.pt"}, "inception_weights"),
        ({"train_config": "missing.json"}, "missing.json"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_written(keys, tmp_path, isdm, values, subject):
    code, _, errors = isdm("study", **{**keys, **values}, output_dir=tmp_path / "out")
    assert code == 2
    assert len(errors) == 1
    check_error(errors[0], subject)
    assert not list((tmp_path / "out").glob("n*"))


@pytest.mark.parametrize(
    ("train", "place", "subject"),
    [
        ({"resize": "crop", "inpaint": False}, {}, "train_config"),
        ({"inpaint": False}, {}, "train_config"),
        ({"condition": "none"}, {}, "train_config"),
        ({"num_chanels": 3}, {}, "train_config"),
        ({"dataset_mode": "binary"}, {}, "dataset_mode"),
        ({}, {"erase": True}, "place_config"),
        ({}, {"mask_source": "dir", "placed_masks": "maps"}, "place_config"),
        ({}, {"steps": "many"}, "place_config"),
    ],
)
def test_configs_of_generators_that_do_not_fit(keys, tmp_path, isdm, train, place, subject):
    configs = {"train_config": {**WINDOWS, **train}, "place_config": place}
    for key, content in configs.items():
        (tmp_path / f"{key}.json").write_text(json.dumps(content))
    paths = {key: tmp_path / f"{key}.json" for key in configs}
    code, _, errors = isdm("study", **{**keys, **paths}, output_dir=tmp_path / "out")
    assert code == 2
    check_error(errors[0], subject)


@pytest.mark.parametrize("arms", ["real_good,copy_paste,place", "real_good,poisson", "real_good,mixed"])
def test_masks_of_no_training_defect_are_not_pasted(keys, tmp_path, isdm, arms):
    (tmp_path / "place.json").write_text(json.dumps({"mask_source": "dir", "placed_masks": "maps"}))
    values = {**keys, "place_config": tmp_path / "place.json", "arms": arms}
    code, _, errors = isdm("study", **values, output_dir=tmp_path / "out")
    assert code == 2
    check_error(errors[0], "place_config", arms.split(",")[1])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arms", ["real_good,copy_paste", "real_good,place", "real_good,repaint"])
def test_defects_that_cannot_be_placed_are_told_before_anything_is_trained(keys, tmp_path, isdm, arms):
    (tmp_path / "train.json").write_text(json.dumps({**WINDOWS, "image_size": 64}))
    values = {**keys, "train_config": tmp_path / "train.json", "arms": arms, "estimate_only": True}
    code, shown, errors = isdm("study", **values, output_dir=tmp_path / "out")
    assert code == 2
    check_error(errors[0], "good_dir")
    assert "measuring" not in shown
    assert not (tmp_path / "out").exists()
    kept = tmp_path / "out" / "notes.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    assert isdm("study", **values, output_dir=tmp_path / "out")[0] == 2
    assert kept.exists()


def test_good_images_of_the_test_are_not_trained_on(keys, good_parts, tmp_path, isdm):
    flat = {**keys, "good_dir": good_parts / "train"}
    code, _, errors = isdm("study", **flat, output_dir=tmp_path / "out")
    assert code == 2
    check_error(errors[0], "good_dir", "good_test_dir")
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "a.png").write_bytes((good_parts / "train" / "a.png").read_bytes())
    code, _, errors = isdm("study", **flat, good_test_dir=copy, output_dir=tmp_path / "out")
    assert code == 2
    check_error(errors[0], copy / "a.png")


def test_groups_are_in_one_split(keys, parts, good_parts, tmp_path, isdm):
    for pattern, image in ((r"^(part)", parts / "test/images/part_10.png"), (r"^(\w)$", None), ("^([ae])$", None)):
        code, _, errors = isdm("study", **keys, group_pattern=pattern, estimate_only=True, output_dir=tmp_path / "out")
        assert code == (0 if image is None else 2), errors
        if image is not None:
            check_error(errors[0], image, "group")
    code, _, errors = isdm("study", **keys, group_pattern="^()[be]$", output_dir=tmp_path / "out")
    assert code == 2
    check_error(errors[0], good_parts / "test/e.png", "train/b.png")


def test_results_do_not_go_among_the_data(keys, parts, good_parts, isdm):
    for folder in (parts / "train" / "out", good_parts / "train" / "out"):
        code, _, errors = isdm("study", **keys, output_dir=folder)
        assert code == 2
        check_error(errors[0], "output_dir")
