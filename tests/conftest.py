"""Tiny real datasets and runs that the tests share."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from tiny import TINY

from guided_diffusion import cli
from guided_diffusion.data.lemons import write_demo_dataset


@pytest.fixture(scope="session", autouse=True)
def _few_threads():
    # Several small processes run beside each other in some tests; more threads only slow them down.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def lemons(tmp_path_factory) -> Path:
    """A dataset of 8 training and 4 test pairs, 24 px, 5 classes."""
    folder = tmp_path_factory.mktemp("data") / "lemons"
    write_demo_dataset(folder, num_train=8, num_test=4, size=24)
    return folder


@contextmanager
def charts_left_out() -> Iterator[None]:
    """Leave out the drawing of charts, most of the time of a tiny run; what they show is still put together."""
    from matplotlib.figure import Figure

    def save(figure: Figure, target: Any, **_: Any) -> None:
        if hasattr(target, "write"):
            target.write("<svg></svg>")
        else:
            Path(target).touch()

    with mock.patch.object(Figure, "savefig", save):
        yield


@pytest.fixture
def isdm(capsys):
    """Run the command line in this process: `isdm("train", key=value)` -> (exit code, stdout, stderr lines).

    Charts are not drawn: they have tests of their own.
    """

    def run(action: str, config: str | Path | None = None, **values: Any) -> tuple[int, str, list[str]]:
        capsys.readouterr()
        arguments = [action, *(["-c", str(config)] if config else [])]
        for key, value in values.items():
            arguments += ["--set", f"{key}={json.dumps(value, default=str)}"]
        with charts_left_out():
            code = cli.main(arguments)
        output = capsys.readouterr()
        errors = [line for line in output.err.splitlines() if line.startswith("error: ")]
        return code, output.out, errors

    return run


@pytest.fixture(scope="session")
def trained(lemons, tmp_path_factory) -> Path:
    """The folder of a finished run of 3 epochs with dropped masks."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    values = {**TINY, "data_dir": str(lemons), "output_dir": str(folder), "max_epochs": 3, "drop_rate": 0.2}
    config = folder.parent / "train.json"
    config.write_text(json.dumps(values))
    assert cli.main(["train", "-c", str(config)]) == 0
    return folder
