"""Where torch.compile is there and fails, as without the headers of Python or on a GPU too old for Triton."""

from __future__ import annotations

import shutil
import sysconfig

import pytest
import torch

from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.models.compilation import compile_network, wants_compiling
from guided_diffusion.runtime.errors import ConfigError

INPUTS = (torch.zeros(2, 3, 16, 16), torch.tensor([1.0, 9.0]), SemanticMap(torch.zeros(2, 16, 16, dtype=torch.long), 4))


@pytest.fixture(autouse=True)
def _forget_compiled():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def fails(graph, inputs):
    raise OSError("fatal error: Python.h: No such file or directory\nmore of it")


@pytest.mark.slow
def test_the_network_goes_on_without_and_says_so_once(tiny):
    plain, compiled = tiny(), tiny()
    told: list[str] = []
    compile_network(compiled, failed=told.append, backend=fails)
    for _ in range(2):
        assert torch.equal(compiled(*INPUTS), plain(*INPUTS))
    (line,) = told
    assert "Python.h" in line
    assert "\n" not in line


@pytest.mark.slow
def test_what_was_asked_for_is_refused(tiny):
    network = tiny()
    compile_network(network, backend=fails)
    with pytest.raises(ConfigError, match=r"^compile is true\b.*Python\.h"):
        network(*INPUTS)


def test_without_headers_auto_does_not_try(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(sysconfig, "get_path", lambda name, scheme: str(tmp_path))
    assert not wants_compiling("auto", torch.device("cuda"))
    assert wants_compiling(True, torch.device("cuda"))
