"""Weights files are read without trust, downloaded once, and given up in time."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from evaluations import published_weights
from evaluations.errors import EvaluationError
from evaluations.metrics.inception import load_inception
from evaluations.published_weights import read_weights


def test_safetensors_are_read(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"a": torch.arange(3)}, path)
    assert torch.equal(read_weights(str(path), option="x", url="").tensors["a"], torch.arange(3))
    path.write_bytes(b"no such thing")
    with pytest.raises(EvaluationError) as caught:
        read_weights(str(path), option="x", url="")
    assert (caught.value.key, caught.value.path) == ("x", str(path))


# --------------------------------------------------------------------------------------------------- download


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torch.hub; servers of this machine are reached without a proxy."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "hub" / "hub" / "checkpoints"


@pytest.fixture
def served(tmp_path: Path):
    """A folder and the address that it is served at."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_args) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_download_is_kept(hub: Path, served: tuple[Path, str]) -> None:
    folder, address = served
    torch.save({"a": torch.arange(3)}, folder / "made.pth")
    content = (folder / "made.pth").read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    name = f"net-2015-12-05-{digest[:8]}.pth"
    (folder / name).write_bytes(content)
    found = read_weights("auto", option="x", url=f"{address}/{name}")
    assert torch.equal(found.tensors["a"], torch.arange(3))
    assert (found.path, found.digest) == (hub / name, digest[:16])
    (folder / name).unlink()
    assert read_weights("auto", option="x", url=f"{address}/{name}").digest == digest[:16]


def test_a_download_of_something_else_is_not_kept(hub: Path, served: tuple[Path, str]) -> None:
    folder, address = served
    torch.save({"a": torch.arange(3)}, folder / "net-00000000.pth")
    with pytest.raises(EvaluationError) as caught:
        read_weights("auto", option="x", url=f"{address}/net-00000000.pth")
    assert (caught.value.key, caught.value.path) == ("x", f"{address}/net-00000000.pth")
    assert "hash" in caught.value.found
    assert list(hub.iterdir()) == []


def test_a_damaged_file_in_the_cache(hub: Path) -> None:
    hub.mkdir(parents=True)
    (hub / "net-00000000.pth").write_bytes(b"half a downl")
    with pytest.raises(EvaluationError) as caught:
        read_weights("auto", option="x", url="http://127.0.0.1:1/net-00000000.pth")
    assert caught.value.path == str(hub / "net-00000000.pth")
    assert "delete" in caught.value.remedy


def test_without_a_network(hub: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")  # nobody listens there
    begin = time.monotonic()
    with pytest.raises(EvaluationError) as caught:
        load_inception("auto", "cpu")
    assert time.monotonic() - begin < 5
    assert caught.value.key == "inception_weights"
    assert caught.value.path.startswith("https://github.com/toshas/torch-fidelity/")
    assert "\n" not in str(caught.value)
    assert capsys.readouterr() == ("", "")
    assert list(hub.iterdir()) == []


def test_a_silent_server_is_given_up(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published_weights, "_PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begin = time.monotonic()
        with pytest.raises(EvaluationError, match="timed out"):
            read_weights("auto", option="x", url=f"http://127.0.0.1:{silent.getsockname()[1]}/net-00000000.pth")
        assert time.monotonic() - begin < 5
    assert socket.getdefaulttimeout() is None


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
    with pytest.raises(EvaluationError) as caught:
        read_weights("auto", option="x", url="http://127.0.0.1:1/net-00000000.pth")
    assert (caught.value.key, caught.value.path) == ("x", "http://127.0.0.1:1/net-00000000.pth")
