"""The campaigns of disturbed runs, shortened; `python -m scripts.measure.campaigns` has the whole ones."""

from __future__ import annotations

import sys

import pytest
from command_line import charts_left_out

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="processes are forked, and killed by signals"),
]

FLAT = {"channel_mult": [1], "attention_resolutions": []}
FEWER_MODELS = {"baselines": False, "synthetic_only": False, "near_duplicates": False, "encoder": "tu-lcnet_050"}


def test_disturbed_runs_end_as_undisturbed_ones(tmp_path, monkeypatch):
    from scripts.measure import campaigns

    shorter = {
        "train": {**FLAT, "max_epochs": 3, "preview_interval": 3},
        "sample": {"num_samples": 8},
        "evaluate": {**FEWER_MODELS, "train_steps": 1},
    }
    for action, values in shorter.items():
        monkeypatch.setitem(campaigns.RUNS, action, {**campaigns.RUNS[action], **values})
    with charts_left_out():  # in the processes, too, which are forked from this one
        table, wrong = campaigns.run_campaigns(tmp_path, (4, 4, 2), seed=3, workers=0)
    assert not wrong
    assert len(table) == 2 + 3 * 4


def test_a_run_that_does_not_go_on_is_told(tmp_path, monkeypatch):
    from scripts.measure import campaigns

    def spoil(campaign, place) -> None:
        campaign.start(place).end()
        (place / "run" / "images" / "other.png").touch()

    monkeypatch.setattr(campaigns, "DISTURB", {"kill": spoil})
    monkeypatch.setattr(campaigns, "DISTURBANCES", ("kill",))
    monkeypatch.setattr(campaigns, "ACTIONS", ("train", "sample"))
    monkeypatch.setitem(campaigns.RUNS, "train", {**campaigns.RUNS["train"], **FLAT, "max_epochs": 1})
    monkeypatch.setitem(campaigns.RUNS["sample"], "num_samples", 8)
    with charts_left_out():
        _, wrong = campaigns.run_campaigns(tmp_path, (0, 1), seed=0, workers=0)
    assert len(wrong) == 1
    assert "ended with 2" in wrong[0]
