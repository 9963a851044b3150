"""Checkpoint files: atomic, self-describing, never unpickled."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from guided_diffusion.runtime import checkpoint
from guided_diffusion.runtime.checkpoint import (
    BEST,
    LAST,
    Checkpoint,
    find_checkpoint,
    load_checkpoint,
    record_path,
    save_checkpoint,
    save_weights,
)
from guided_diffusion.runtime.errors import CheckpointError, UserError
from guided_diffusion.runtime.files import digest

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.zeros(2)}
CONTENT = {"config": {"lr": 1.0}, "encoding": {"num_classes": 2}, "progress": {"epoch": 3}, "model": WEIGHTS}


def test_what_is_saved_comes_back(tmp_path):
    ema = {"0.9": {"a.weight": WEIGHTS["a.weight"] + 1}, "0.999": {"a.weight": WEIGHTS["a.weight"] + 2}}
    save_checkpoint(tmp_path / LAST, {**CONTENT, "ema": ema, "optimizer": {"state": {}}})
    found = load_checkpoint(tmp_path / LAST)
    assert found.config == {"lr": 1.0}
    assert found.progress == {"epoch": 3}
    assert found.resumable
    assert not found.is_bare
    assert torch.equal(found.weights("raw")["a.weight"], WEIGHTS["a.weight"])
    assert torch.equal(found.weights("ema")["a.weight"], ema["0.999"]["a.weight"])
    assert torch.equal(found.weights("0.9")["a.weight"], ema["0.9"]["a.weight"])
    with pytest.raises(CheckpointError) as error:
        found.weights("0.5")
    assert error.value.path == str(tmp_path / LAST)
    assert "'0.5'" in error.value.found
    assert "raw, ema, 0.9, 0.999" in error.value.found


@pytest.mark.parametrize("maps", [True, False])
def test_where_no_mapped_file_can_be_replaced_weights_are_read_at_once(maps, monkeypatch, tmp_path):
    monkeypatch.setattr(checkpoint, "MAPS", maps)
    path = tmp_path / BEST
    save_checkpoint(path, CONTENT)
    found = load_checkpoint(path, lazily=True)
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(found.model["a.weight"], WEIGHTS["a.weight"]) != maps


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_exported_weights_load_back(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    lineage = {"saw_dropped_masks": False}
    source = Checkpoint(
        Path("source"), WEIGHTS, config=CONTENT["config"], encoding=CONTENT["encoding"], lineage=lineage
    )
    save_weights(path, WEIGHTS, source)
    found = load_checkpoint(path)
    assert all(torch.equal(found.model[name], value) for name, value in WEIGHTS.items())
    assert found.is_bare == (suffix == ".pt")
    if suffix == ".safetensors":
        assert found.config == CONTENT["config"]
        assert found.encoding == CONTENT["encoding"]
        assert found.lineage == lineage


@pytest.mark.parametrize(
    ("change", "bare"),
    [
        ({}, False),
        ({"digest": "0" * 16}, True),  # of weights that were there before
        ({"config": 3}, True),
        ({"encoding": None}, True),
    ],
    ids=str,
)
def test_the_record_beside_exported_weights_says_what_they_cannot(tmp_path, change, bare):
    path = tmp_path / "weights.pt"
    save_weights(path, WEIGHTS, Checkpoint(Path("source"), WEIGHTS))
    record = {"config": CONTENT["config"], "encoding": CONTENT["encoding"], "digest": digest(path), "weights": "ema"}
    record_path(path).write_text(json.dumps({**record, **change}))
    found = load_checkpoint(path)
    assert found.is_bare == bare
    assert found.config == ({} if bare else CONTENT["config"])
    assert torch.equal(found.weights("ema")["a.weight"], WEIGHTS["a.weight"])
    record_path(path).write_text("{")
    assert load_checkpoint(path).is_bare


def test_published_weights_saved_from_data_parallel_load(tmp_path):
    torch.save({f"module.{name}": value for name, value in WEIGHTS.items()}, tmp_path / "published.pt")
    assert load_checkpoint(tmp_path / "published.pt").model.keys() == WEIGHTS.keys()


def test_a_folder_stands_for_its_checkpoint(tmp_path):
    with pytest.raises(CheckpointError) as error:
        find_checkpoint(tmp_path)
    assert error.value.path == str(tmp_path)
    assert all(name in error.value.found for name in (LAST, BEST))
    save_checkpoint(tmp_path / BEST, CONTENT)
    assert find_checkpoint(tmp_path).name == BEST
    save_checkpoint(tmp_path / LAST, CONTENT)
    assert find_checkpoint(tmp_path).name == LAST
    assert find_checkpoint(tmp_path, prefer=BEST).name == BEST


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def test_code_in_a_checkpoint_is_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Evil()}, tmp_path / "evil.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Evil()))
    for name in ("evil.pt", "raw.pt"):
        with pytest.raises(CheckpointError) as error:
            load_checkpoint(tmp_path / name)
        assert error.value.path == str(tmp_path / name)
    assert not (tmp_path / "executed").exists()


class Talking(torch.nn.Module):
    """A TorchScript program that runs code of its own when it is loaded."""

    @torch.jit.export
    def __getstate__(self) -> int:
        return 1

    @torch.jit.export
    def __setstate__(self, state: int) -> None:
        print("executed")
        self.training = True

    def forward(self, x):
        return x


def test_a_program_called_a_checkpoint_is_not_executed(tmp_path, capfd):
    torch.jit.script(Talking()).save(tmp_path / "evil.pt")
    torch.jit.load(tmp_path / "evil.pt")
    assert "executed" in capfd.readouterr().out
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(tmp_path / "evil.pt")
    assert error.value.path == str(tmp_path / "evil.pt")
    assert "executed" not in capfd.readouterr().out


FULL_DISK = """
import resource, signal, sys, torch
from guided_diffusion.runtime.checkpoint import save_checkpoint
from guided_diffusion.runtime.errors import UserError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    save_checkpoint(sys.argv[1], {"model": {"w": torch.zeros(100_000)}})
except UserError as error:
    print(error.path)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are a POSIX thing")
def test_a_failed_write_says_so_and_leaves_the_old_file(tmp_path):
    path = tmp_path / LAST
    save_checkpoint(path, CONTENT)
    before = path.read_bytes()
    shown = subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=True)
    assert shown.stdout == f"{path}\n"
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [LAST]


@pytest.mark.parametrize("reason", [errno.EDQUOT, errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)
@pytest.mark.parametrize(
    "save",
    [
        lambda path: save_checkpoint(path, CONTENT),
        lambda path: save_weights(path, WEIGHTS, Checkpoint(path, WEIGHTS)),
    ],
    ids=["checkpoint", "weights"],
)
def test_a_failed_write_keeps_its_reason(reason, save, tmp_path, monkeypatch):
    class Full(io.FileIO):
        """A file that takes the start of what is written."""

        def write(self, data):
            if self.tell() > 100:
                raise OSError(reason, os.strerror(reason))
            return super().write(data)

    system_open = open

    def opened(path, mode="r", *more, **options):
        return Full(path, mode) if mode == "wb" else system_open(path, mode, *more, **options)

    monkeypatch.setattr("builtins.open", opened)
    with pytest.raises(UserError) as error:
        save(tmp_path / "file.pt")
    assert error.value.path == str(tmp_path / "file.pt")
    assert os.strerror(reason) in error.value.found
    assert not list(tmp_path.iterdir())


def test_equal_contents_give_equal_bytes(tmp_path):
    once, again = "".join(["fold", "er"]), "".join(["fold", "er"])
    assert once is not again
    save_checkpoint(tmp_path / "a.pt", {**CONTENT, "config": {"first": once, "second": once}})
    save_checkpoint(tmp_path / "b.pt", {**CONTENT, "config": {"first": once, "second": again}})
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
