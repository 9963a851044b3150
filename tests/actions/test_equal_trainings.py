"""Equal trainings leave equal bytes, interrupted or not; what is damaged beside a run has a way out."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from tiny import TINY

from guided_diffusion.data.fingerprint import Fingerprint
from guided_diffusion.pipelines.resume import drop_reproduced, put_aside
from guided_diffusion.runtime.checkpoint import BEST, LAST, is_sound, load_checkpoint, save_checkpoint


def files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in (BEST, LAST)}


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"schedule_sampler": "loss-second-moment", "dropout": 0.1, "drop_rate": 0.5}])
def test_bytes_do_not_tell_place_time_or_interruption(more, lemons, tmp_path, isdm, monkeypatch):
    values = {**TINY, **more, "max_epochs": 4}
    assert isdm("train", **values, data_dir=lemons, output_dir=tmp_path / "whole")[0] == 0
    data = shutil.copytree(lemons, tmp_path / "b" / "data")
    monkeypatch.chdir(tmp_path / "b")
    assert isdm("train", **values, data_dir=data.name, output_dir="run")[0] == 0
    assert files(tmp_path / "b" / "run") == files(tmp_path / "whole")
    # In three starts, each of which reads what the one before it wrote.
    for epochs in (1, 2, 4):
        assert isdm("train", **{**values, "max_epochs": epochs}, data_dir=lemons, output_dir=tmp_path / "parts")[0] == 0
    # The best epoch may be of an earlier start, which had other max_epochs.
    best = torch.load(tmp_path / "parts" / BEST, weights_only=True)
    best["config"]["max_epochs"] = 4
    own = {key: value for key, value in best.items() if key not in ("format", "version", "library")}
    save_checkpoint(tmp_path / "parts" / BEST, own)
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


@pytest.mark.slow
def test_finetunings_are_equal_wherever_both_runs_lie(trained, lemons, tmp_path, isdm):
    found = []
    for place in (tmp_path / "a", tmp_path / "deeper" / "b"):
        source = shutil.copytree(trained, place / "train")
        values = {"data_dir": lemons, "resume_checkpoint": source, "output_dir": place / "tuned", "max_epochs": 1}
        assert isdm("finetune", **values, preview_interval=0, tensorboard=False)[0] == 0
        found.append(files(place / "tuned"))
        moved = place.rename(place.with_name(f"{place.name}-moved"))
        values |= {"resume_checkpoint": moved / "train", "output_dir": moved / "tuned"}
        code, shown, _ = isdm("finetune", **values, preview_interval=0, tensorboard=False)
        assert (code, "this run is finished" in shown) == (0, True)
    assert found[0] == found[1]


def test_equal_weights_are_exported_to_equal_bytes(trained, tmp_path, isdm):
    for name in ("a.pt", "b.pt"):
        assert isdm("export", model_path=trained, export_path=tmp_path / name)[0] == 0
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5000])


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


@pytest.fixture
def run(trained, lemons, tmp_path) -> dict:
    """The options of a run that has been trained, to its end."""
    folder = shutil.copytree(trained, tmp_path / "run")
    values = {**TINY, "data_dir": str(lemons), "output_dir": str(folder), "max_epochs": 3, "drop_rate": 0.2}
    return values


DAMAGES = [cut_short, empty, zeros]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_last_beside_a_sound_best_is_told_with_a_way_out(damage, run, isdm):
    folder = Path(run["output_dir"])
    damage(folder / LAST)
    for action, values in {"train": run, "finetune": {**run, "resume_checkpoint": str(folder / BEST)}}.items():
        if action == "finetune":
            values = {key: values[key] for key in ("data_dir", "output_dir")} | {"resume_checkpoint": "elsewhere"}
        code, _, errors = isdm(action, **values)
        assert code == 2
        (line,) = errors
        assert line.startswith(f"error: {folder / LAST}: ")
        assert f"resume_checkpoint={folder / BEST}" in line


@pytest.mark.slow
def test_the_way_out_of_a_damaged_last_is_as_the_message_says(run, isdm):
    folder = Path(run["output_dir"])
    cut_short(folder / LAST)
    before = (folder / BEST).read_bytes()
    (folder / LAST).rename(folder / "last-damaged.pt")
    values = {**run, "resume_checkpoint": str(folder / BEST), "max_epochs": 1}
    for _ in range(2):
        code, _, errors = isdm("train", **values)
        assert code == 0, errors
    checkpoint = load_checkpoint(folder / LAST)
    assert checkpoint.lineage["started_from"]["path"] == BEST
    assert [path.read_bytes() for path in folder.glob("best-before-*.pt")] == [before]


@pytest.mark.slow
def test_starting_from_ones_own_best_can_be_killed_before_there_is_another(run, isdm):
    folder = Path(run["output_dir"])
    (folder / LAST).unlink()
    before = (folder / BEST).read_bytes()
    put_aside(folder / BEST, used=True)  # and killed
    assert (folder / BEST).read_bytes() == before
    assert isdm("train", **{**run, "resume_checkpoint": str(folder / BEST), "max_epochs": 1})[0] == 0
    assert [path.read_bytes() for path in folder.glob("best-before-*.pt")] == [before]


@pytest.mark.slow
def test_without_a_sound_best_the_way_out_is_another(run, isdm):
    folder = Path(run["output_dir"])
    for name in (LAST, BEST):
        empty(folder / name)
    code, _, errors = isdm("train", **run)
    assert code == 2
    assert "resume_checkpoint" not in errors[0]
    (folder / LAST).unlink()
    assert isdm("train", **run)[0] == 0
    assert is_sound(folder / BEST)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_best_beside_a_sound_last_is_told(damage, run, lemons, tmp_path, isdm):
    folder = Path(run["output_dir"])
    damage(folder / BEST)
    assert not is_sound(folder / BEST)
    values = {"model_path": str(folder), "data_dir": str(lemons), "results_path": str(tmp_path / "out"), "steps": 2}
    code, _, errors = isdm("sample", **values)
    assert code == 2
    assert str(folder / LAST) in errors[0]


@pytest.mark.slow
def test_a_run_goes_on_from_a_sound_last_beside_a_damaged_best(run, lemons, tmp_path, isdm):
    folder = Path(run["output_dir"])
    cut_short(folder / BEST)
    values = {"data_dir": str(lemons), "results_path": str(tmp_path / "out"), "steps": 2}
    assert isdm("sample", **values, model_path=str(folder / LAST))[0] == 0
    code, shown, _ = isdm("train", **{**run, "max_epochs": 4})
    assert code == 0
    assert "warning: " in shown
    assert is_sound(folder / BEST)


def state_of(step: int, config: dict, digest: int = 7) -> dict:
    """The state of a training on one pair, whose files have this digest."""
    prints = Fingerprint(("lemon",), torch.full((1, 3, 8), digest, dtype=torch.uint8)).to_state()
    return {"model": {}, "config": config, "encoding": {}, "progress": {"step": step}, "fingerprint": prints}


def orphan(folder: Path, step: int, **config) -> Path:
    save_checkpoint(folder / BEST, state_of(step, config))
    return folder / BEST


def test_best_files_put_aside_do_not_pile_up(tmp_path):
    for step in (3, 1, 2):
        put_aside(orphan(tmp_path, step, lr=step), used=False)
        (kept,) = tmp_path.glob("*.pt")
        assert load_checkpoint(kept).progress["step"] == 3
    put_aside(orphan(tmp_path, 3, lr=7), used=False)
    (kept,) = tmp_path.glob("*.pt")
    assert load_checkpoint(kept).config["lr"] == 7, "of equal ones the newest"
    (tmp_path / BEST).write_bytes(b"")
    put_aside(tmp_path / BEST, used=False)
    assert list(tmp_path.glob("*.pt")) == [kept], "a damaged one is worth less than any other"


def test_an_earlier_start_of_the_same_run_is_dropped_in_the_end(tmp_path):
    save_checkpoint(tmp_path / LAST, state_of(5, {"lr": 1}))
    earlier = {
        "fewer steps": (state_of(3, {"lr": 1}), False),
        "more steps": (state_of(9, {"lr": 1}), True),
        "other options": (state_of(3, {"lr": 2}), True),
        "other data": (state_of(3, {"lr": 1}, digest=8), True),
        "unknown data": (state_of(3, {"lr": 1}) | {"fingerprint": {}}, True),
    }
    for name, (state, kept) in earlier.items():
        save_checkpoint(tmp_path / BEST, state)
        put_aside(tmp_path / BEST, used=False)
        drop_reproduced(tmp_path)
        left = list(tmp_path.glob("best-before-*.pt"))
        assert bool(left) == kept, name
        for path in left:
            path.unlink()


@pytest.mark.slow
def test_a_run_with_paths_of_an_older_version_goes_on(trained, lemons, tmp_path, isdm):
    """They were absolute, or relative to where the run had been started."""
    source, folder = shutil.copytree(trained, tmp_path / "source"), tmp_path / "tuned"
    values = {"data_dir": lemons, "resume_checkpoint": source, "output_dir": folder, "preview_interval": 0}
    assert isdm("finetune", **values, max_epochs=1, tensorboard=False)[0] == 0
    for path in (str(source / BEST), os.path.relpath(source / BEST)):
        state = torch.load(folder / LAST, weights_only=True)
        state["lineage"]["started_from"] |= {"path": path, "digest": "0" * 16}
        state["progress"]["sums"]["seconds"] = 1.5
        state["config"]["data_dir"] = json.dumps(str(lemons))
        torch.save(state, folder / LAST)
        code, _, errors = isdm("finetune", **values, max_epochs=1, tensorboard=False)
        assert (code, errors) == (0, [])
