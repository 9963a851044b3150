"""`trackers`: what MLflow and Weights & Biases hold of a training, and that a broken one stops nothing."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from error_lines import check_error
from tiny import TINY

from guided_diffusion.runtime.checkpoint import LAST
from guided_diffusion.runtime.trackers import RUN_IDS, is_installed

_BLOCK = 32768  # bytes of a block in the format of W&B's offline files, which is that of LevelDB's log
OPTIONS = {key: value for key, value in TINY.items() if key != "tensorboard"}


@pytest.fixture
def train(lemons, tmp_path, isdm):
    """Train for some epochs with some trackers; return the folder and what was printed."""

    def run(**values) -> tuple[Path, str]:
        folder = tmp_path / "project" / "run"
        code, shown, errors = isdm("train", **{**OPTIONS, "data_dir": lemons, "output_dir": folder, **values})
        assert code == 0, errors
        return folder, shown

    return run


def metrics_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def offline_records(path: Path) -> Iterator[bytes]:
    """Yield the records of an offline file of W&B: parts of 4 bytes of checksum, 2 of length, and one of kind."""
    content, position, parts = path.read_bytes(), 7, []
    while position + 7 <= len(content):
        left = _BLOCK - position % _BLOCK
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        parts.append(content[position + 7 : position + 7 + length])
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield b"".join(parts)
            parts = []


def test_mlflow_holds_the_metrics_and_goes_on_with_the_run(train, monkeypatch):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    train(trackers=["mlflow"], max_epochs=1)
    folder, _ = train(trackers=["mlflow"], max_epochs=2)
    client = MlflowClient((folder / "mlruns").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("isdm").experiment_id])
    assert (run.info.run_name, run.info.status) == ("project/run", "FINISHED")
    assert json.loads(run.data.params["lr"]) == OPTIONS["lr"]
    loss = sorted((each.step, each.value) for each in client.get_metric_history(run.info.run_id, "loss"))
    assert loss == [(line["step"], pytest.approx(line["loss"])) for line in metrics_of(folder)]
    assert len(loss) == 2


def test_wandb_holds_the_metrics_offline(train, monkeypatch):
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.delenv("WANDB_MODE", raising=False)
    folder, _ = train(trackers=["wandb"], max_epochs=2)
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    records = [Record.FromString(each) for each in offline_records(path)]
    (run,) = (each.run for each in records if each.WhichOneof("record_type") == "run")
    assert (run.project, run.display_name) == ("isdm", "project/run")
    assert json.loads((folder / RUN_IDS).read_text()) == {"wandb": run.run_id}
    found = []
    for record in records:
        if record.WhichOneof("record_type") == "history":
            values = {(item.key or item.nested_key[0]): json.loads(item.value_json) for item in record.history.item}
            found.append((values["_step"], values["loss"]))
    assert found == [(line["step"], pytest.approx(line["loss"])) for line in metrics_of(folder)]


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_one_that_is_not_installed_is_refused(lemons, tmp_path, isdm, name):
    if is_installed(name):
        pytest.skip(f"{name} is installed")
    values = {**OPTIONS, "data_dir": lemons, "output_dir": tmp_path / "run", "trackers": [name]}
    code, _, errors = isdm("train", **values)
    assert code == 2
    check_error(errors[0], "trackers", name)
    assert not (tmp_path / "run").exists()


def test_an_unknown_one_is_refused(lemons, tmp_path, isdm):
    values = {**OPTIONS, "data_dir": lemons, "output_dir": tmp_path / "run", "trackers": ["mlflo"]}
    code, _, errors = isdm("train", **values)
    assert code == 2
    check_error(errors[0], "trackers", "mlflo")


def test_a_broken_one_stops_nothing(train, monkeypatch, tmp_path):
    pytest.importorskip("mlflow")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "file" / "below").as_uri())
    folder, shown = train(trackers=["mlflow"], max_epochs=1)
    assert "mlflow" in shown
    assert len(metrics_of(folder)) == 1
    assert (folder / LAST).exists()


@pytest.mark.slow
def test_tensorboard_is_left_out_by_either_key(train):
    for number, values in enumerate(({"trackers": []}, {"tensorboard": False})):
        folder, _ = train(**values, max_epochs=number + 1)
        assert not (folder / "tensorboard").exists()
        assert json.loads((folder / "config.json").read_text())["trackers"] == []
