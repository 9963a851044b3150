"""`train` and `finetune` as a user runs them: what they leave behind, continue and refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import command_line
import pytest
import torch
from error_lines import check_error
from PIL import Image
from tiny import TINY, TWO_LEVELS

from guided_diffusion.runtime.checkpoint import BEST, LAST, load_checkpoint, save_weights

AVERAGES = {**TWO_LEVELS, "ema_rate": [0.9, 0.99]}


@pytest.fixture(scope="module")
def runs(lemons, tmp_path_factory) -> Path:
    """The folder of two uninterrupted runs that differ in length alone, `two` and `four` epochs, with dropout."""
    root = tmp_path_factory.mktemp("runs")
    for name, epochs in (("two", 2), ("four", 4)):
        values = {**AVERAGES, "data_dir": lemons, "output_dir": root / name, "max_epochs": epochs, "dropout": 0.2}
        assert command_line.run("train", **values) == 0
    return root


@pytest.fixture
def options(lemons, tmp_path) -> dict:
    """The options of the run of two epochs, into another folder."""
    values = {"data_dir": str(lemons), "output_dir": str(tmp_path / "run"), "max_epochs": 2, "dropout": 0.2}
    return {**AVERAGES, **values}


def weights_equal(first: Path, second: Path) -> bool:
    """Whether raw weights and all averages are the same, bit for bit."""
    a, b = load_checkpoint(first), load_checkpoint(second)
    pairs = [(a.model, b.model), *((a.ema[rate], b.ema[rate]) for rate in a.ema)]
    return all(torch.equal(value, other[name]) for weights, other in pairs for name, value in weights.items())


@pytest.mark.slow
def test_a_run_leaves_what_it_promises_and_previews_change_nothing(options, isdm, tmp_path, runs):
    code, shown, _ = isdm("train", **{**options, "preview_interval": 1, "preview_images": 2, "preview_steps": 3})
    assert code == 0
    folder = tmp_path / "run"
    for name in (BEST, LAST, "log.txt", "metrics.jsonl", "config.json", "environment.json", "loss_curve.png"):
        assert (folder / name).is_file(), name
    assert str(folder / BEST) in shown
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in metrics] == [1, 2]
    expected = {"loss", "loss_q0", "loss_q3", "grad_norm", "lr", "images_per_second", "peak_memory_gib", "step"}
    assert expected <= metrics[0].keys()
    assert sorted(path.name for path in (folder / "previews").iterdir()) == ["epoch_0001.png", "epoch_0002.png"]
    with Image.open(folder / "previews" / "epoch_0002.png") as picture:
        assert picture.width > 3 * 128
    versions = json.loads((folder / "environment.json").read_text())
    assert versions["torch"] == torch.__version__.partition("+")[0] or versions["torch"] == torch.__version__
    assert versions["seed"] == 0
    assert weights_equal(folder / LAST, runs / "two" / LAST)
    # The written config stands for the run: giving it again finds the run finished.
    before = (folder / LAST).stat().st_mtime_ns
    assert isdm("train", folder / "config.json")[0] == 0
    assert (folder / LAST).stat().st_mtime_ns == before
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_checkpoint_describes_itself(trained):
    checkpoint = load_checkpoint(trained / BEST)
    assert checkpoint.config["channel_mult"] == [1.0]
    assert checkpoint.config["num_classes"] == 5
    assert checkpoint.encoding["names"][1] == "lemon"
    assert checkpoint.lineage["saw_dropped_masks"] is True


@pytest.mark.slow
def test_worker_processes_change_nothing(options, isdm, tmp_path, runs):
    assert isdm("train", **options, num_workers=2)[0] == 0
    assert weights_equal(runs / "two" / LAST, tmp_path / "run" / LAST)


@pytest.mark.slow
def test_a_finished_run_goes_on_with_more_epochs_as_if_it_had_been_longer(options, isdm, tmp_path, runs):
    shutil.copytree(runs / "two", tmp_path / "run")
    assert isdm("train", **{**options, "max_epochs": 4})[0] == 0
    assert weights_equal(tmp_path / "run" / LAST, runs / "four" / LAST)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["folder", "file"])
def test_going_on_from_another_folder_leaves_it_as_it_was(options, isdm, tmp_path, runs, what):
    before = (runs / "two" / LAST).read_bytes()
    source = runs / "two" / ("" if what == "folder" else LAST)
    assert isdm("train", **{**options, "max_epochs": 4, "resume_checkpoint": str(source)})[0] == 0
    assert (runs / "two" / LAST).read_bytes() == before
    assert load_checkpoint(tmp_path / "run" / LAST).progress["epoch"] == 4
    assert weights_equal(tmp_path / "run" / LAST, runs / "four" / LAST)


@pytest.mark.slow
def test_finetuning_starts_from_weights_and_averages_with_fresh_counts(trained, lemons, isdm, tmp_path):
    values = {"data_dir": str(lemons), "resume_checkpoint": str(trained), "output_dir": str(tmp_path / "ft")}
    values |= {"batch_size": 3, "max_epochs": 1, "ema_rate": [0.9, 0.99], "preview_interval": 0, "lr": 1e-12}
    assert isdm("finetune", **values)[0] == 0
    source, tuned = load_checkpoint(trained / BEST), load_checkpoint(tmp_path / "ft" / LAST)
    assert tuned.config["drop_rate"] == 0.2
    assert tuned.config["channel_mult"] == source.config["channel_mult"]
    assert tuned.progress["epoch"] == 1
    assert tuned.progress["step"] == 3
    # Relative to the run, so that equal trainings have equal checkpoints wherever they lie.
    path = tuned.lineage["started_from"]["path"]
    assert not Path(path).is_absolute()
    assert (tuned.path.parent / path).resolve() == trained / BEST
    # With next to no learning rate the weights are the source's, and the averages lie between theirs and the source's.
    for name, value in source.model.items():
        assert torch.allclose(tuned.model[name], value, atol=1e-9)
    before = (tmp_path / "ft" / LAST).stat().st_mtime_ns
    assert isdm("finetune", **values)[0] == 0
    assert (tmp_path / "ft" / LAST).stat().st_mtime_ns == before, "a finished run has been trained again"


@pytest.mark.slow
def test_interrupted_finetuning_resumes_itself(trained, lemons, isdm, tmp_path):
    base = {"data_dir": str(lemons), "resume_checkpoint": str(trained), "batch_size": 3, "preview_interval": 0}
    assert isdm("finetune", **base, max_epochs=3, output_dir=str(tmp_path / "whole"))[0] == 0
    assert isdm("finetune", **base, max_epochs=1, output_dir=str(tmp_path / "parts"))[0] == 0
    assert isdm("finetune", **base, max_epochs=3, output_dir=str(tmp_path / "parts"))[0] == 0
    assert weights_equal(tmp_path / "whole" / LAST, tmp_path / "parts" / LAST)


@pytest.mark.slow
def test_finetuning_trains_as_the_model_was_trained(lemons, isdm, tmp_path):
    """What was not given is as in the checkpoint, or its default where an older checkpoint lacks it."""
    own = {
        "random_flip": False,
        "vertical_flip": True,
        "brightness": 0.1,
        "window_focus": 1.0,
        "hole_shares": [1, 0, 0],
    }
    values = {**TINY, "data_dir": lemons, "max_epochs": 1, "resize": "window", "inpaint": True, "image_size": 16}
    assert isdm("train", **values, **own, output_dir=tmp_path / "run")[0] == 0
    saved = torch.load(tmp_path / "run" / BEST, weights_only=True)
    del saved["config"]["vertical_flip"]
    torch.save(saved, tmp_path / "older.pt")
    tuned = {"data_dir": lemons, "resume_checkpoint": tmp_path / "older.pt", "batch_size": 3, "preview_interval": 0}
    tuned |= {"brightness": 0.0, "output_dir": tmp_path / "tuned"}
    for epochs in (1, 2):  # and goes on
        code, _, errors = isdm("finetune", **tuned, max_epochs=epochs)
        assert code == 0, errors
    last = load_checkpoint(tmp_path / "tuned" / LAST)
    assert last.progress["epoch"] == 2
    assert {key: last.config[key] for key in own} == {**own, "vertical_flip": False, "brightness": 0.0}
    code, _, (line,) = isdm("finetune", **tuned, max_epochs=2, random_flip=True)
    assert code == 2
    check_error(line, "random_flip", "output_dir")


def test_finetuning_of_bare_published_weights(trained, lemons, isdm, tmp_path):
    checkpoint = load_checkpoint(trained / BEST)
    save_weights(tmp_path / "bare.pt", checkpoint.weights("ema"), checkpoint)
    values = {"data_dir": str(lemons), "dataset_mode": "multi-class", "output_dir": str(tmp_path / "ft")}
    values |= {"resume_checkpoint": str(tmp_path / "bare.pt"), "image_size": 16, "num_heads": 4, "max_epochs": 1}
    values |= {"prediction": "eps", "num_classes": 5}
    code, _, errors = isdm("finetune", **values, preview_interval=0, diffusion_steps=50)
    assert code == 0, errors
    assert load_checkpoint(tmp_path / "ft" / LAST).config["prediction"] == "eps"


@pytest.mark.slow
@pytest.mark.parametrize(
    "values",
    [
        {"resize": "pad", "image_size": [16, 24]},
        {"precision": "bf16", "learn_sigma": False, "noise_schedule": "cosine"},
        *(
            pytest.param(values, marks=pytest.mark.slow)
            for values in (
                {"resize": "squash", "image_channels": 1},
                {"precision": "fp16"},
                {"no_instance": False, "rescale_timesteps": True},
                {"ignore_label": 4, "num_classes": 4},
            )
        ),
    ],
    ids=str,
)
def test_the_whole_journey_with_other_options(values, options, lemons, isdm, tmp_path):
    if "ignore_label" in values:
        shutil.copytree(lemons, tmp_path / "data")
        (tmp_path / "data" / "classes.json").unlink()
        options["data_dir"] = str(tmp_path / "data")
    assert isdm("train", **{**options, **values, "max_epochs": 1, "drop_rate": 0.2})[0] == 0
    results = tmp_path / "out"
    code, _, errors = isdm(
        "sample",
        model_path=str(tmp_path / "run"),
        data_dir=options["data_dir"],
        results_path=str(results),
        steps=2,
        s=1.5,
        split="train",
        augment_masks=True,
        num_samples=6,
    )
    assert code == 0, errors
    check = {key: value for key, value in values.items() if key in ("image_size", "resize", "image_channels")}
    code, shown, _ = isdm(
        "check", data_dir=str(results), dataset_mode="multi-class", output_dir=str(tmp_path / "check"), **check
    )
    assert code == 0, shown


@pytest.mark.slow
def test_a_run_begun_with_another_memory_format_goes_on_as_if_it_had_been_this_one(options, isdm, tmp_path, runs):
    shutil.copytree(runs / "two", tmp_path / "run")
    last = tmp_path / "run" / LAST

    def contiguous(value):
        if isinstance(value, dict):
            return {key: contiguous(item) for key, item in value.items()}
        return value.contiguous() if isinstance(value, torch.Tensor) else value

    state = torch.load(last, weights_only=True)
    assert any(not weight.is_contiguous() for weight in state["model"].values())
    torch.save(contiguous(state), last)
    assert isdm("train", **{**options, "max_epochs": 4})[0] == 0
    assert weights_equal(runs / "four" / LAST, last)
