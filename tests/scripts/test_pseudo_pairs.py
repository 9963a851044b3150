"""The measurement of pseudo pairs: equal steps on labeled pairs and on those of `segment`, nothing measured twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from colored import NAMES, train, write_labeled, write_unlabeled
from tiny import TINY

from guided_diffusion.runtime.checkpoint import LAST, load_checkpoint
from scripts.measure import pseudo_pairs

pytestmark = pytest.mark.slow


def test_both_arms_have_equal_steps_and_an_interruption_loses_nothing(tmp_path: Path):
    data = write_labeled(tmp_path / "data", 8)
    shutil.copytree(write_labeled(tmp_path / "more", 3) / "train", data / "test")
    write_unlabeled(tmp_path / "images", 4)
    network = train(tmp_path / "images", tmp_path / "network")
    config = tmp_path / "train.json"
    config.write_text(json.dumps({**TINY, "dataset_mode": "multi-class", "image_size": 32, "diffusion_steps": 1000}))
    out = tmp_path / "out"

    def measure(amount: int) -> list[dict]:
        given = [out, "--data-dir", data, "--model-path", network, "--config", config, "--amount", amount]
        given += ["--steps", 2, "--seeds", 1, "--encoder", "tu-lcnet_050", "--segmenter-steps", 2]
        for each in (
            "members=2",
            "classifier_steps=60",
            "classifier_batch=96",
            "feature_steps=[50]",
            "folds=0",
            "drop_uncertain=0.25",
        ):
            given += ["--set-segment", each]
        pseudo_pairs.main(list(map(str, given)))
        return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]

    records = measure(4)
    assert [record["arm"] for record in records] == list(pseudo_pairs.ARMS)
    assert {load_checkpoint(out / f"{arm}-0" / LAST).progress["step"] for arm in pseudo_pairs.ARMS} == {2}
    real, pseudo = records
    # One of the four others is the most uncertain and left out.
    assert (real["pairs"], pseudo["pairs"], pseudo["labeled"]) == (4, 7, 3)
    # These classes can be told by color, which the values of the pixel are.
    assert set(pseudo["iou"]) == set(NAMES[1:])
    assert min(pseudo["iou"].values()) > 0.8
    assert 0.5 < pseudo["said"] <= 1
    assert (out / "results.md").read_text().count("\n") == 7
    assert measure(4) == records
