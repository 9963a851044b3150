"""Pipes, devices, files without permission and tampered checkpoints: one line, at once, whatever key names them."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from error_lines import check_error
from tiny import TINY

from evaluations.errors import EvaluationError
from guided_diffusion.cli import main
from guided_diffusion.config.load import load_config
from guided_diffusion.data.masks.classes_file import read_classes
from guided_diffusion.pipelines.evaluation.segmenter import read_external
from guided_diffusion.runtime.checkpoint import BEST
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.runtime.logs import read_json_lines
from guided_diffusion.samples.manifest import read_manifest

needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")


@needs_pipes
@pytest.mark.parametrize("key", ["config", "eta_path", "model_path"])
def test_a_named_pipe_is_not_read(key, trained, lemons, tmp_path, isdm):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    folders = {"data_dir": lemons, "output_dir": tmp_path / "out"}
    classwise = {"cond_diffuse": True, "cond_opt": "discrete_zero_classwise"}
    calls = {
        "config": lambda: isdm("train", pipe),
        "eta_path": lambda: isdm("train", **TINY, **folders, **classwise, eta_path=pipe),
        "model_path": lambda: isdm("export", model_path=pipe, export_path=tmp_path / "weights.pt"),
    }
    code, _, (line,) = calls[key]()
    assert code == 2
    check_error(line, pipe, "pipe")


@needs_pipes
def test_a_named_pipe_is_no_label_table(trained, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    folders = {"data_dir": "d", "synthetic_dir": "s", "output_dir": "o"}
    options = {"segmenter": str(trained / BEST), "segmenter_labels": str(tmp_path / "pipe")}
    with pytest.raises(EvaluationError, match="pipe or device"):
        read_external(load_config("evaluate", {**folders, **options}), torch.device("cpu"))


@needs_pipes
def test_the_pipe_of_a_shell_is_a_config(isdm, capsys):
    reading, writing = os.pipe()
    os.write(writing, b'{"nothing": 1}')
    os.close(writing)
    assert main(["train", "-c", f"/dev/fd/{reading}"]) == 2
    os.close(reading)
    assert "nothing" in capsys.readouterr().err.splitlines()[0]


def test_an_empty_name_of_a_config_is_not_none(capsys):
    assert main(["demo", "-c", "", "--set", "output_dir=o"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    check_error(line, "-c")


@pytest.mark.parametrize("action", ["check", "evaluate"])
def test_a_file_in_place_of_a_folder(action, lemons, trained, tmp_path, isdm):
    file = trained / BEST
    folders = {"data_dir": lemons, "dataset_mode": TINY["dataset_mode"], "output_dir": tmp_path / "out"}
    if action == "check":
        code, _, (line,) = isdm("check", **{**folders, "data_dir": file})
    else:
        code, _, (line,) = isdm("evaluate", **folders, synthetic_dir=file)
    assert code == 2
    check_error(line.strip(), file, "file")


def test_results_in_place_of_a_file(lemons, tmp_path, isdm):
    file = tmp_path / "file"
    file.touch()
    code, _, (line,) = isdm("train", **TINY, data_dir=lemons, output_dir=file / "run")
    assert code == 2
    check_error(line, file / "run", f"{file} is no folder")
    assert "room" not in line


def test_check_reads_nothing_where_it_cannot_write(lemons, tmp_path, isdm):
    file = tmp_path / "file"
    file.touch()
    folders = {"data_dir": lemons, "dataset_mode": TINY["dataset_mode"]}
    code, shown, (line,) = isdm("check", **folders, output_dir=file / "check")
    assert (code, shown) == (2, "")
    check_error(line, file / "check", f"{file} is no folder")
    code, _, _ = isdm("check", **folders, output_dir=tmp_path / "check", preview_images=0)
    assert code == 0
    assert not [path for path in (tmp_path / "check").iterdir() if "lock" in path.name]


def tampered(trained, tmp_path, change):
    """A copy of a run's best weights after `change`."""
    content = torch.load(trained / BEST, weights_only=True)
    change(content)
    torch.save(content, tmp_path / "tampered.pt")
    return tmp_path / "tampered.pt"


TAMPERED = {
    "averages as a list": lambda content: content.update(ema=[1]),
    "averages without rates": lambda content: content.update(ema={"fast": content["model"]}),
    "classes": lambda content: content["encoding"].update(names=5),
    "weights": lambda content: [value.fill_(torch.nan) for value in content["model"].values()],
}


@pytest.mark.parametrize("what", TAMPERED)
def test_tampered_checkpoints_train_nothing(what, trained, lemons, tmp_path, isdm):
    path = tampered(trained, tmp_path, TAMPERED[what])
    folders = {"data_dir": lemons, "output_dir": tmp_path / "out"}
    code, _, (line,) = isdm("finetune", **folders, resume_checkpoint=path, max_epochs=1, preview_interval=0)
    assert code == 2
    check_error(line, path)
    assert not (tmp_path / "out" / BEST).exists()


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), RuntimeError("Cannot allocate memory")])
def test_a_checkpoint_that_cannot_be_read_is_not_called_damaged(error, trained, tmp_path, isdm, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(torch, "load", fail)
    code, _, (line,) = isdm("export", model_path=trained, export_path=tmp_path / "weights.pt")
    assert code == 2
    assert "damaged" not in line
    assert ("ermission" if isinstance(error, OSError) else "memory") in line


def test_images_that_are_not_finite_are_not_written(trained, lemons, tmp_path, isdm):
    values = {"model_path": trained, "data_dir": lemons, "results_path": tmp_path / "out", "steps": 3}
    code, _, (line,) = isdm("sample", **values, extrapolation=1e300, clip_denoised=False)
    assert code == 2
    assert "extrapolation" in line
    assert not list((tmp_path / "out" / "images").iterdir())


def test_eta_that_would_need_all_memory(lemons, tmp_path, isdm):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000000,), }"
    path = tmp_path / "eta.npy"
    path.write_bytes(np.lib.format.magic(1, 0) + len(header).to_bytes(2, "little") + header)
    options = {"cond_diffuse": True, "cond_opt": "discrete_zero_classwise", "eta_path": path}
    code, _, (line,) = isdm("train", **TINY, data_dir=lemons, output_dir=tmp_path / "out", **options)
    assert code == 2
    check_error(line, path)


def test_the_cloud_that_does_not_answer_is_named_once(tmp_path, isdm, monkeypatch):
    import blobfile

    def no_answer(path):
        raise blobfile.Error(f"no network for {path}")

    monkeypatch.setattr(blobfile, "isdir", no_answer)
    folders = {"data_dir": "gs://bucket/set", "output_dir": tmp_path / "out"}
    code, out, errors = isdm("check", **folders, dataset_mode="binary")
    assert code == 2
    assert len(errors) + out.count("error: ") == 1
    check_error(errors[0], "gs://bucket/set")


@pytest.mark.skipif(os.name == "nt", reason="Windows lets few users make links")
@pytest.mark.parametrize("target", ["gone.json", "classes.json"])
def test_a_broken_link_in_place_of_the_classes(target, tmp_path):
    os.symlink(target, tmp_path / "classes.json")
    classes, (problem,) = read_classes(tmp_path)
    assert classes is None
    assert problem.fatal
    check_error(problem.line, tmp_path / "classes.json", "link")


@needs_pipes
def test_a_named_pipe_is_no_manifest(tmp_path):
    os.mkfifo(tmp_path / "manifest.jsonl")
    with pytest.raises(DataError, match="not a manifest"):
        read_manifest(tmp_path / "manifest.jsonl")


def test_metrics_that_are_no_text_are_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'\xff{\n[1]\n{"epoch": 1}\n{"ep')
    assert read_json_lines(tmp_path / "metrics.jsonl") == [{"epoch": 1}]
