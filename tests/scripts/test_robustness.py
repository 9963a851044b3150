from __future__ import annotations

import json

import numpy as np
import pytest

from evaluations.metrics.segmentation import Counts, scores
from evaluations.study.comparison import weighted_score
from scripts.measure import robustness
from scripts.measure.robustness import interval, weights_of_resamples


@pytest.fixture
def small(monkeypatch):
    """A dataset and a budget that take seconds; the networks are as they are."""
    for name, value in {"TRAIN_PAIRS": 8, "TEST_PAIRS": 4, "JUDGE_PAIRS": 8, "FILE_SIZE": 48, "IMAGE_SIZE": 32}.items():
        monkeypatch.setattr(robustness, name, value)
    monkeypatch.setattr(robustness, "SHOWN", 1)
    monkeypatch.setattr(robustness, "NOISE", {"edge": ["--distance", "1"]})
    monkeypatch.setattr(robustness, "keep_freed_memory", lambda: None)  # the tests' process is not its own
    fewer = {"train": {"preview_interval": 0}, "sample": {"steps": 3}}
    run = robustness._run
    monkeypatch.setattr(robustness, "_run", lambda action, values: run(action, {**values, **fewer[action]}))


@pytest.mark.slow
def test_trains_samples_and_measures(small, tmp_path, capsys):
    command = ["--output", str(tmp_path), "--epochs", "1", "--segmenter-steps", "2", "--systems", "sdm", "scdm"]
    robustness.main([*command, "--until", "sample"])
    assert not (tmp_path / "robustness.json").exists()
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "samples").rglob("*.png")}
    assert sum("images" in path.parts for path in times) == 2 * 2 * 4
    robustness.main(command)
    assert all(path.stat().st_mtime_ns == times[path] for path in times if "images" in path.parts), "made again"

    found = json.loads((tmp_path / "robustness.json").read_text())
    for record in found["systems"].values():
        clean = record["miou"]["clean"]["mean"]
        for kind, drop in record["drop"].items():
            assert drop["mean"] == pytest.approx(clean - record["miou"][kind]["mean"])
            assert drop["by_seed"] == pytest.approx([drop["mean"]])
    for kind, saved in found["saved"]["scdm"].items():
        drops = [found["systems"][system]["drop"][kind]["mean"] for system in ("sdm", "scdm")]
        assert saved["mean"] == pytest.approx(drops[0] - drops[1])
    assert (tmp_path / "robustness.png").stat().st_size > 1000
    table = [line for line in (tmp_path / "robustness.md").read_text().splitlines() if line.startswith("|")]
    assert len(table) == 5
    assert len({line.count("|") for line in table}) == 1
    assert str(tmp_path / "robustness.md") in capsys.readouterr().out


def test_resamples_count_masks_as_often_as_they_are_drawn():
    rng = np.random.default_rng(0)
    counts = Counts(*rng.integers(0, 50, (3, 6, 4)))
    weights = weights_of_resamples(6)
    assert (weights[0] == 1).all()
    assert (weights.sum(axis=1) == 6).all()
    found = weighted_score(counts, "miou", weights)
    assert found[0] == pytest.approx(scores(counts).miou)
    drawn = np.repeat(np.arange(6), weights[1].astype(int))
    assert found[1] == pytest.approx(scores(Counts(*(pixels[drawn] for pixels in counts.columns))).miou)


def test_interval():
    values = np.concatenate([[[0.5], [0.7]], np.tile(np.linspace(0, 1, 1001), (2, 1))], axis=1)
    found = interval(values)
    assert found["mean"] == pytest.approx(0.6)
    assert (found["low"], found["high"]) == pytest.approx((0.025, 0.975))
    assert found["by_seed"] == [0.5, 0.7]
