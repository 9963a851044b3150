"""The measurement of few labels: nested subsets, all methods on the same test images, nothing trained twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from colored import NAMES, train, write_labeled, write_unlabeled
from PIL import Image

from scripts.measure import few_labels

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path: Path):
    data = write_labeled(tmp_path / "data", 7)
    shutil.copytree(write_labeled(tmp_path / "more", 3) / "train", data / "test")
    write_unlabeled(tmp_path / "images", 4)
    network = train(tmp_path / "images", tmp_path / "network")

    def measure(*more: str) -> dict[tuple[str, int, int], dict]:
        given = [tmp_path / "out", "--data-dir", data, "--model-path", network, "--amounts", 2, 4, "--seeds", 1]
        given += ["--channels", 3, "--steps", 2, "--crop", 32, "--encoder", "resnet18", "--scale", 0.5]
        for assignment in ("members=2", "classifier_steps=60", "classifier_batch=96", "feature_steps=[50]"):
            given += ["--set", assignment]
        few_labels.main([*map(str, given), *more])
        records = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("*-*-*.json")]
        return {(each["method"], each["amount"], each["seed"]): each for each in records}

    return measure


def test_all_methods_are_measured_and_an_interruption_loses_nothing(run, tmp_path: Path, capsys):
    first = run("--methods", "values", "features")
    kinds = {(method, amount, 0) for method in few_labels.METHODS for amount in (2, 4)}
    assert set(first) == {kind for kind in kinds if kind[0] != "unet"}
    # These classes can be told by color, which the values of the pixel are.
    assert first["values", 4, 0]["miou"] > 0.8
    subsets = [
        set(json.loads((tmp_path / "out" / f"subset-{amount}-0" / "subset.json").read_text())["pairs"])
        for amount in (2, 4)
    ]
    assert len(subsets[0]) == 2
    assert subsets[0] < subsets[1]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*-*-*.json")}
    records = run()
    assert set(records) == kinds
    assert all(path.stat().st_mtime_ns == changed for path, changed in before.items())
    assert list(records["unet", 2, 0]["classes"]) == list(NAMES[1:])
    assert not list((tmp_path / "out").glob("*.pt"))
    assert Image.open(tmp_path / "out" / "few_labels.png").size[0] > 500
    assert (tmp_path / "out" / "few_labels.md").read_text().count("\n") == 2 + len(kinds)


def test_a_missing_network_is_one_line(run, tmp_path: Path, capsys):
    with pytest.raises(SystemExit, match="2"):
        run("--model-path", str(tmp_path / "nowhere"))
    assert "nowhere" in capsys.readouterr().err
