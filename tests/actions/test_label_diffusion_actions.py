"""Label diffusion as a user runs it: trained, gone on with, sampled from, recorded, and refused where it is wrong."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import command_line
import numpy as np
import pytest
import torch
from error_lines import check_error, check_errors
from PIL import Image
from tiny import TINY

from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.config.load import load_config
from guided_diffusion.data.class_statistics import eta_from_statistics
from guided_diffusion.runtime.checkpoint import BEST, LAST, load_checkpoint
from guided_diffusion.runtime.seeding import Stream, derive_seed

pytestmark = pytest.mark.slow

UNIFORM, CLASSWISE = "discrete_zero_uniform", "discrete_zero_classwise"


@pytest.fixture(scope="module")
def runs(lemons, tmp_path_factory) -> dict[str, Path]:
    """A run of one epoch with each kind of label diffusion, by its name."""
    folders = {}
    for kind in (UNIFORM, CLASSWISE):
        folders[kind] = tmp_path_factory.mktemp("labels") / kind
        values = {**TINY, "data_dir": lemons, "output_dir": folders[kind], "max_epochs": 1, "drop_rate": 0.2}
        values |= {"cond_diffuse": True, "cond_opt": kind, "preview_interval": 1, "preview_steps": 2}
        assert command_line.run("train", **values) == 0
    return folders


@pytest.fixture
def sample(lemons, tmp_path, isdm):
    """`sample(model, "name", key=value)` returns the results folder."""

    def run(model: Path, name: str, **values) -> Path:
        base = {"model_path": str(model), "data_dir": str(lemons), "results_path": str(tmp_path / name), "steps": 3}
        code, _, errors = isdm("sample", **{**base, "s": 1.5, **values})
        assert code == 0, errors
        return tmp_path / name

    return run


def images(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(path)).astype(int) for path in sorted((folder / "images").iterdir())]


def first_line(folder: Path) -> dict:
    return json.loads((folder / "manifest.jsonl").read_text().splitlines()[0])


def class_statistics(lemons: Path) -> tuple[np.ndarray, np.ndarray]:
    masks = [np.asarray(Image.open(path)) for path in (lemons / "train" / "masks").iterdir()]
    counts = np.array([np.bincount(mask.ravel(), minlength=5) for mask in masks])
    return counts.sum(0) / counts.sum(), (counts > 0).mean(0)


@pytest.mark.parametrize("kind", [UNIFORM, CLASSWISE])
def test_a_run_with_label_diffusion_samples(runs, sample, kind):
    folder = sample(runs[kind], "out")
    line = first_line(folder)
    assert (line["cond_diffuse"], line["cond_opt"]) == (True, kind)
    assert len(images(folder)) == 4
    assert (runs[kind] / "previews" / "epoch_0001.png").is_file()
    again = sample(runs[kind], "alone", batch_size=1)
    for one, other in zip(images(folder), images(again), strict=True):
        assert np.abs(one - other).max() <= 1


def test_the_written_masks_are_the_clean_ones(runs, sample, lemons):
    for path in (sample(runs[UNIFORM], "out") / "masks").iterdir():
        original = Image.open(lemons / "test" / "masks" / path.name).resize((16, 16), Image.Resampling.NEAREST)
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(original))


def test_eta_is_computed_written_and_stored(runs, lemons, isdm, tmp_path):
    expected = eta_from_statistics(*class_statistics(lemons))
    assert np.allclose(np.load(runs[CLASSWISE] / "eta.npy"), expected)
    assert np.allclose(load_checkpoint(runs[CLASSWISE] / BEST).config["label_eta"], expected)
    assert not (runs[UNIFORM] / "eta.npy").exists()
    check = {"data_dir": str(lemons), "dataset_mode": "multi-class", "output_dir": str(tmp_path / "check")}
    for scale in (0.284, 3.0):
        _, shown, _ = isdm("check", **check, eta_scale=scale)
        expected = eta_from_statistics(*class_statistics(lemons), scale)
        rows = [line.split() for line in shown.splitlines()]
        column = [row[-1] for row in rows if row and row[0].isdigit() and len(row) == 6]
        assert column == [f"{value:.4g}" for value in expected]


def test_what_training_sees(trainer_for):
    """Maps are diffused at the drawn t by numbers of their own position, then dropped; nothing is prepared of them."""
    trainer = trainer_for(cond_diffuse=True)
    batch = next(iter(trainer.loader.epoch(0, 0)))
    assert batch.prepared is None
    seen = []
    network = trainer._network
    trainer._network = lambda x, t, *given: seen.append(given) or network(x, t, *given)
    t = torch.tensor([0, 25, 49])
    trainer._losses(batch, slice(0, 3), t, (0, 0, 0))
    for image, (index, batch_index) in enumerate(zip(t.tolist(), batch.batch_index.tolist(), strict=True)):
        generator = torch.Generator().manual_seed(derive_seed(Stream.LABEL, 0, 0, 0, batch_index))
        gone = torch.rand(16, 16, generator=generator) < (index + 1) / 50
        assert torch.equal(seen[0][0].label[image], batch.condition.label[image].masked_fill(gone, 5))
    prepared = trainer.model.preparation((16, 16))(batch.condition)
    trainer._losses(replace(batch, prepared=prepared), slice(0, 3), t, (0, 0, 0))
    assert [given[1] for given in seen] == [None, None]


@pytest.fixture
def trainer_for(lemons, tmp_path):
    """Return a function from options to a trainer, built by the same code as a user's run."""
    from guided_diffusion.pipelines.resume import find_resume_plan
    from guided_diffusion.pipelines.training import build_trainer
    from guided_diffusion.pipelines.training_data import open_training_data
    from guided_diffusion.runtime.distributed import ProcessGroup
    from guided_diffusion.runtime.logs import RunLog

    def build(**values):
        given = {**TINY, "data_dir": str(lemons), "output_dir": str(tmp_path / "run"), "max_epochs": 1, **values}
        config = load_config("train", given)
        report = open_training_data(config)
        start = find_resume_plan(config)
        config = config.replaced(num_classes=report.encoding.num_classes)
        world = ProcessGroup(0, 1, torch.device("cpu"))
        log = RunLog(tmp_path / "run", enabled=False)
        return build_trainer(config, start, world, report, log)

    return build


def test_parts_of_a_batch_see_what_the_whole_sees(trainer_for):
    trainer = trainer_for(cond_diffuse=True, cond_opt=CLASSWISE, drop_rate=0.5)
    batch = next(iter(trainer.loader.epoch(0, 0)))
    t = torch.tensor([10, 25, 40])
    whole, *parts = (trainer._losses(batch, p, t[p], (0, 0, 0)) for p in (slice(0, 3), slice(0, 2), slice(2, 3)))
    assert torch.allclose(whole, torch.cat(parts, dim=1), atol=1e-5)


def test_a_run_gone_on_with_is_bit_for_bit_one_that_was_longer(lemons, isdm, tmp_path):
    values = {**TINY, "data_dir": str(lemons), "cond_diffuse": True, "cond_opt": CLASSWISE, "drop_rate": 0.2}
    for name, epochs in (("whole", [3]), ("parts", [1, 3])):
        for until in epochs:
            assert isdm("train", **values, max_epochs=until, output_dir=str(tmp_path / name))[0] == 0
    whole, parts = (load_checkpoint(tmp_path / name / LAST) for name in ("whole", "parts"))
    assert all(torch.equal(value, parts.model[name]) for name, value in whole.model.items())
    assert all(torch.equal(value, parts.ema["0.99"][name]) for name, value in whole.ema["0.99"].items())


def test_a_file_of_eta_that_has_changed_is_told(lemons, isdm, tmp_path):
    path = tmp_path / "eta.npy"
    values = {**TINY, "data_dir": lemons, "output_dir": tmp_path / "run", "cond_diffuse": True, "cond_opt": CLASSWISE}
    for factor, epochs, told in ((1, 1, False), (1, 2, False), (3, 3, True)):
        np.save(path, np.full(5, factor / 10))
        code, shown, errors = isdm("train", **values, eta_path=path, max_epochs=epochs)
        assert code == 0, errors
        assert (f"warning: eta_path: {path} has changed" in shown) == told
    assert np.allclose(np.load(tmp_path / "run" / "eta.npy"), 0.1)
    path.unlink()
    assert "eta_path" not in isdm("train", **values, eta_path=path, max_epochs=4)[1]


def test_eta_stays_what_it_was_when_the_masks_change(runs, lemons, isdm, tmp_path):
    data, folder = tmp_path / "data", tmp_path / "run"
    shutil.copytree(lemons, data)
    shutil.copytree(runs[CLASSWISE], folder)
    before = np.load(folder / "eta.npy")
    path = data / "train" / "masks" / "lemon_0000.png"
    Image.fromarray(np.full((24, 24), 4, np.uint8)).save(path)
    values = {**TINY, "data_dir": str(data), "max_epochs": 1, "cond_diffuse": True, "cond_opt": CLASSWISE}
    assert isdm("train", **values, output_dir=str(tmp_path / "new"))[0] == 0
    assert not np.allclose(np.load(tmp_path / "new" / "eta.npy"), before)
    tuned = {"data_dir": str(data), "resume_checkpoint": str(folder), "output_dir": str(tmp_path / "ft")}
    assert isdm("finetune", **tuned, max_epochs=1, preview_interval=0, batch_size=3)[0] == 0
    assert np.array_equal(np.load(tmp_path / "ft" / "eta.npy"), before)
    config = load_checkpoint(tmp_path / "ft" / LAST).config
    assert (config["cond_diffuse"], config["cond_opt"]) == (True, CLASSWISE)


@pytest.mark.parametrize(
    ("suffix", "weights", "bare"),
    [
        (".pt", "ema", True),
        (".safetensors", "raw", False),
        (".pt", "raw", False),
        (".safetensors", "ema", False),
    ],
)
def test_exported_weights_sample_like_the_run(runs, sample, isdm, tmp_path, suffix, weights, bare):
    path = tmp_path / f"weights{suffix}"
    assert isdm("export", model_path=str(runs[CLASSWISE]), export_path=str(path), weights=weights)[0] == 0
    if bare:
        (tmp_path / f"weights{suffix}.json").unlink()
    config, found = (load_checkpoint(file).config for file in (runs[CLASSWISE] / BEST, path))
    options = {}
    if not bare:
        kept = ("cond_diffuse", "cond_opt", "label_eta")
        assert {key: found[key] for key in kept} == {key: config[key] for key in kept}
        assert found["label_eta"] is not None
    else:
        assert not found
        keys = (
            "dataset_mode",
            "image_size",
            "num_heads",
            "num_classes",
            "prediction",
            "diffusion_steps",
            "cond_diffuse",
            "cond_opt",
        )
        options = {**{key: config[key] for key in keys}, "eta_path": str(runs[CLASSWISE] / "eta.npy")}
    exported = images(sample(path, "exported", **options))
    original = images(sample(runs[CLASSWISE], "original", weights=weights))
    assert all(np.array_equal(*pair) for pair in zip(exported, original, strict=True))


def test_samplers_extras_are_recorded_and_do_something(runs, sample):
    plain = sample(runs[UNIFORM], "plain")
    assert first_line(plain)["extrapolation"] is None
    ahead = sample(runs[UNIFORM], "ahead", extrapolation=0.8)
    assert first_line(ahead)["extrapolation"] == 0.8
    assert any(not np.array_equal(*pair) for pair in zip(images(plain), images(ahead), strict=True))


def test_the_unlabeled_class_becomes_null(trained, lemons, sample, tmp_path):
    """Sampling from masks that are all unlabeled is sampling from null maps, though the masks are written as given."""
    data = tmp_path / "data"
    shutil.copytree(lemons, data)
    state = torch.load(trained / BEST, weights_only=True)
    state["encoding"]["names"] = ["background", "lemon", "unlabelled", "mould", "gangrene"]
    torch.save(state, tmp_path / "named.pt")
    (data / "classes.json").unlink()
    for name, value in (("all", 2), ("ignored", 255)):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((24, 24), value, np.uint8)).save(tmp_path / name / "mask.png")
    state["encoding"]["ignore_values"] = [255]
    torch.save(state, tmp_path / "ignoring.pt")
    base = {"data_dir": "", "steps": 3}
    zero = sample(tmp_path / "named.pt", "zero", mask_dir=str(tmp_path / "all"), unlabeled_to_zero=True, **base)
    kept = sample(tmp_path / "named.pt", "kept", mask_dir=str(tmp_path / "all"), **base)
    null = sample(tmp_path / "ignoring.pt", "null", mask_dir=str(tmp_path / "ignored"), **base)
    assert np.array_equal(images(zero)[0], images(null)[0])
    assert not np.array_equal(images(zero)[0], images(kept)[0])
    assert (np.asarray(Image.open(zero / "masks" / "mask.png")) == 2).all()
    assert first_line(zero)["unlabeled_to_zero"] is True
    assert first_line(kept)["unlabeled_to_zero"] is None


def test_maps_without_a_class_keep_their_edges():
    edge = torch.tensor([[[True, False, True]]])
    for kind in (torch.uint8, torch.int32, torch.int64):
        maps = SemanticMap(torch.tensor([[[0, 1, 2]]], dtype=kind), 3, edge).without([1])
        assert maps.label.tolist() == [[[0, 3, 2]]]
        assert torch.equal(maps.edge, edge)


def test_folders_and_checkpoints_of_before_go_on(trained, sample, tmp_path):
    folder = sample(trained, "before", num_samples=2)
    new = ("extrapolation", "cond_diffuse", "cond_opt", "eta_path", "unlabeled_to_zero")
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    assert all(line.pop(key) is None for line in lines for key in new)
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert len(images(sample(trained, "before", num_samples=3))) == 3
    state = torch.load(trained / BEST, weights_only=True)
    for key in ("cond_diffuse", "cond_opt", "eta_path", "eta_scale", "label_eta"):
        del state["config"][key]
    torch.save(state, tmp_path / "old.pt")
    old, now = images(sample(tmp_path / "old.pt", "old")), images(sample(trained, "now"))
    assert all(np.array_equal(*pair) for pair in zip(old, now, strict=True))


def test_an_old_run_does_not_go_on_with_label_diffusion(trained, lemons, tmp_path, isdm):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    state = torch.load(folder / LAST, weights_only=True)
    del state["config"]["cond_diffuse"]
    torch.save(state, folder / LAST)
    values = {**TINY, "data_dir": str(lemons), "output_dir": str(folder), "max_epochs": 4, "drop_rate": 0.2}
    code, _, errors = isdm("train", **values, cond_diffuse=True)
    assert code == 2
    check_errors(errors, "cond_diffuse")
    assert all(shown in errors[0] for shown in (str(folder), "true", "false"))


CLASSWISE_ON = {"cond_diffuse": True, "cond_opt": CLASSWISE}


@pytest.mark.parametrize(
    ("action", "values", "shown"),
    [
        ("train", {"cond_opt": CLASSWISE}, ("cond_opt", "cond_diffuse")),
        ("train", {"eta_path": "e.npy"}, ("eta_path", "cond_diffuse")),
        ("train", {"eta_path": "e.npy", "cond_diffuse": True}, ("eta_path", f'cond_opt is "{UNIFORM}"', CLASSWISE)),
        ("train", {"eta_scale": 2, "cond_diffuse": True}, ("eta_scale", f'cond_opt is "{UNIFORM}"', CLASSWISE)),
        ("train", {**CLASSWISE_ON, "eta_path": "e.npy", "eta_scale": 2}, ("eta_scale", "2", "eta_path")),
        ("train", {**CLASSWISE_ON, "eta_scale": 0}, ("eta_scale", "0")),
        ("train", {**CLASSWISE_ON, "eta_path": "missing.npy"}, ("missing.npy",)),
        ("train", {"cond_diffuse": True, "cond_opt": "uniform"}, ("cond_opt", '"uniform"', UNIFORM, CLASSWISE)),
        ("check", {"eta_path": "missing.npy"}, ("missing.npy",)),
        ("sample", {"extrapolation": -1}, ("extrapolation", "-1")),
        ("sample", {"unlabeled_to_zero": True}, ("unlabeled_to_zero", "unlabeled", "5 classes", "background")),
        ("sample", {"cond_diffuse": True}, ("cond_diffuse", BEST, "true", "false")),
        ("sample", {"eta_path": "e.npy"}, ("eta_path", BEST, '"e.npy"')),
        ("finetune", {"cond_diffuse": True}, ("cond_diffuse", BEST, "true", "false")),
    ],
)
def test_wrong_options(action, values, shown, trained, lemons, tmp_path, isdm):
    data = {"data_dir": str(lemons), "dataset_mode": "multi-class"}
    base = {
        "train": {**TINY, **data, "output_dir": str(tmp_path / "out"), "max_epochs": 1},
        "finetune": {**data, "output_dir": str(tmp_path / "out"), "resume_checkpoint": str(trained)},
        "check": {**data, "output_dir": str(tmp_path / "out")},
        "sample": {**data, "model_path": str(trained), "results_path": str(tmp_path / "out"), "steps": 2},
    }
    code, _, errors = isdm(action, **{**base[action], **values})
    assert code == 2
    (line,) = errors
    check_error(line, *shown)


def test_bare_weights_ask_for_eta_and_refuse_one_that_is_not_used(trained, lemons, isdm, tmp_path):
    path = tmp_path / "weights.pt"
    assert isdm("export", model_path=str(trained), export_path=str(path))[0] == 0
    (tmp_path / "weights.pt.json").unlink()
    values = {"model_path": str(path), "data_dir": str(lemons), "results_path": str(tmp_path / "out"), "steps": 2}
    values |= {"dataset_mode": "multi-class", "image_size": 16, "num_heads": 4, "prediction": "v", "num_classes": 5}
    for more in (CLASSWISE_ON, {"eta_path": "e.npy"}):
        code, _, errors = isdm("sample", **values, **more)
        assert code == 2
        check_error(errors[0], "eta_path", CLASSWISE)
    np.save(tmp_path / "eta.npy", np.ones(3))
    code, _, errors = isdm("sample", **values, **CLASSWISE_ON, eta_path=str(tmp_path / "eta.npy"))
    assert code == 2
    check_error(errors[0], tmp_path / "eta.npy", "[3]", "5 classes")
    code, _, errors = isdm("sample", **values, cond_diffuse=True)
    assert code == 0, errors


def test_published_default_is_no_label_diffusion():
    config = load_config("train", {"data_dir": "d", "dataset_mode": "ade20k", "output_dir": "o"})
    keys = ("cond_diffuse", "cond_opt", "eta_path", "eta_scale")
    assert [config.get(key) for key in keys] == [False, UNIFORM, "", 0.284]
    sampled = load_config("sample", {"model_path": "m", "results_path": "r", "mask_dir": "k"})
    assert [sampled.get(key) for key in ("cond_diffuse", "cond_opt", "extrapolation")] == [None] * 3
    assert sampled.get("unlabeled_to_zero") is False
