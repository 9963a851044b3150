"""The benchmark of pixel classifiers at a small size: both ways of prediction agree, and memory is extrapolated."""

from __future__ import annotations

import json

import processes
import pytest
import torch

from scripts.benchmark import pixel_classifiers as benchmark
from scripts.benchmark.pixel_classifiers import Case

SMALL = Case(2, 32, 8, timesteps=2, classes=5, members=2, steps=2, rounds=1, threads=1)


def test_layout_is_the_published_one():
    assert Case(1, 256, 256, 3, 34, 10, 1, 1, 1).dim == 8448


def test_both_ways_of_prediction_agree(tmp_path):
    maps = benchmark.random_maps(SMALL, 0, tmp_path)
    assert maps.dim == SMALL.dim == 8 * 11 * 2
    ensemble = benchmark.PixelEnsemble(2, SMALL.dim, 5).eval()
    ours, theirs = benchmark.predict(ensemble, [maps]), benchmark.predict_upsampled(ensemble, maps)
    assert torch.allclose(ours.confidence, theirs.confidence, atol=1e-5)
    assert benchmark.measure_prediction(SMALL)["largest_difference"] < 1e-4


@pytest.mark.parametrize("memmap", [False, True])
def test_fit_is_measured(memmap):
    found = benchmark.measure_fit(benchmark.replace(SMALL, memmap=memmap))
    assert found["fit_seconds"] > 0
    assert found["maps_mib"] == pytest.approx(2 * 2 * (8 * 4**2 * 8 + 16 * 8**2 + 8 * 16**2) / 2**20)


def test_memory_is_extrapolated_along_a_line():
    assert benchmark.extrapolated({4: 1.0, 8: 1.4}, 50) == pytest.approx(5.6)
    assert benchmark.extrapolated({4: 1.0}, 50) is None


@pytest.mark.slow
def test_the_command_writes_table_and_numbers(tmp_path, capsys):
    processes.serve()
    numbers = {"size": 32, "channels": 8, "steps": 2, "members": 2, "classes": 5, "rounds": 1, "threads": 1}
    small = [word for name, number in numbers.items() for word in (f"--{name}", str(number))]
    benchmark.main([*small, "--images", "1", "2", "--json", str(tmp_path / "report.json")])
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["prediction"]["speedup"] > 0
    assert set(report["fit"]) == {"1", "2"}
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "|---|---|"
    assert lines[-1] == str(tmp_path / "report.json")
