"""The measurement of pretrained starts: equal steps, stopped and gone on with, and what it writes."""

from __future__ import annotations

import json

import pytest
from tiny import TINY

from guided_diffusion.runtime.checkpoint import LAST, load_checkpoint
from scripts.measure import pretrained_start
from scripts.measure.augment import TIMESTEPS


@pytest.fixture
def run(lemons, tmp_path):
    config = tmp_path / "train.json"
    config.write_text(
        json.dumps(
            {**TINY, "image_size": 32, "channel_mult": [1, 1], "diffusion_steps": 1000, "attention_resolutions": []}
        )
    )

    def measure(*more: str) -> list[dict]:
        given = [tmp_path / "out", "--data-dir", lemons, "--image-dir", lemons / "test" / "images", "--config", config]
        given += ["--steps", 4, "--share", 0.5, "--every", 2, "--seeds", 1, "--encoder", "tu-lcnet_050"]
        pretrained_start.main([*map(str, given), "--segmenter-steps", "2", *more])
        lines = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    return measure


@pytest.mark.slow
def test_both_settings_have_equal_steps_and_an_interruption_loses_nothing(run, tmp_path, capsys):
    assert not any("real" in record for record in run("--until", "0"))
    assert "the same command goes on" in capsys.readouterr().out
    records = run()
    steps = {}
    for name in ("scratch_seed_0", "pretrained_seed_0_images", "pretrained_seed_0"):
        checkpoint = load_checkpoint(tmp_path / "out" / name / LAST)
        steps[name] = checkpoint.progress["step"]
        assert ("converted" in checkpoint.lineage) == (name == "pretrained_seed_0")
    assert steps == {"scratch_seed_0": 4, "pretrained_seed_0_images": 2, "pretrained_seed_0": 2}
    finished = [record for record in records if "real" in record]
    assert [record["arm"] for record in finished] == ["scratch", "pretrained"]
    for record in records:
        assert len(record["test"]) == len(TIMESTEPS)
        assert all(loss > 0 for loss in record["test"])
    assert all(0 <= record["s 1.5"]["agreement"] <= 1 for record in finished)
    table = (tmp_path / "out" / "results.md").read_text()
    assert table.count("| scratch |") == table.count("| pretrained |") == 1
    assert run() == records


def test_the_table_has_means_over_seeds():
    record = {"of": 4, "steps": 4, "real": {"agreement": 0.5, "miou": 0.25}}
    records = [
        {**record, "arm": "scratch", "seed": seed, "test": [0.1 + seed] * len(TIMESTEPS),
         "s 1": {"agreement": 0.2 * seed, "miou": 0.1}}
        for seed in (0, 1)
    ]  # fmt: skip
    lines = pretrained_start.table(records).splitlines()
    assert "0.60000 ± 0.70711" in lines[2]
    assert "0.100 ± 0.141" in lines[2]
    assert lines[-1].endswith("agreement 0.500, mIoU 0.250")
