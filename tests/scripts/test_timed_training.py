"""Trainings that end after a time, and the table of models of latents beside those of pixels."""

from __future__ import annotations

import json

import pytest
from tiny import TINY

from guided_diffusion.config.load import load_config
from guided_diffusion.config.train import TrainConfig
from guided_diffusion.runtime.checkpoint import LAST, load_checkpoint
from scripts.measure.latent_agreement import table_of
from scripts.measure.timed_training import train_for


@pytest.mark.slow
def test_turns_until_the_time_is_over(lemons, tmp_path):
    asked = []

    def config_of(epochs: int) -> TrainConfig:
        asked.append(epochs)
        values = {**TINY, "data_dir": str(lemons), "output_dir": str(tmp_path / "run"), "max_epochs": epochs}
        return load_config("train", values)

    epochs, seconds = train_for(1e-6, config_of, every=2)
    assert (epochs, seconds > 1e-6 * 60) == (2, True)
    assert load_checkpoint(tmp_path / "run" / LAST).progress["epoch"] == 2
    before = (tmp_path / "run" / LAST).read_bytes()
    assert train_for(1e-6, config_of, every=2) == (epochs, seconds)  # measured already
    assert (tmp_path / "run" / LAST).read_bytes() == before
    assert train_for(1.01 * seconds / 60, config_of, every=2)[0] == 4  # goes on
    assert sorted(set(asked)) == [2, 4]


def test_table():
    found = {"agreement": 0.5, "miou": 0.625}
    rows = [
        {"arm": arm, "epochs": 4, "minutes": 20.2, "real": found, "s 1": {**found, "seconds": 2}, **more}
        for arm, more in (("pixels", {}), ("latent", {"decoded": found}))
    ]
    lines = table_of([json.loads(json.dumps(row)) for row in rows]).splitlines()
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert lines[2] == "| pixels | 4 | 20 | 50.0 | 62.5 | 2.00 |"
    assert [line.split()[0] for line in lines if "test images" in line] == ["real", "decoded"]
