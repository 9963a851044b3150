"""Tiny real datasets and runs that the tests share."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import command_line
import pytest
from hypothesis import settings
from tiny import TINY

from guided_diffusion import cli

LONG = ("training", "actions", "pipelines")
"""The rooms whose files take longest."""


def pytest_configure(config: pytest.Config) -> None:
    # Safe from power cuts is what no test looks at; waiting for the disk takes a tenth of the time.
    os.fsync = lambda descriptor: None
    # pytest-xdist hands out the files with the most tests first, which are not those that take longest.
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False
    if hasattr(signal, "SIGHUP"):  # `nohup pytest` ignores it, and every process that is started would
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in what a shell starts by `&`
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take long first: one that begins last is what all other processes wait for."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in slow, not set(LONG) & set(item.nodeid.split("/"))))


# A busy machine is not a fault of the code.
settings.register_profile("isdm", deadline=None)
settings.load_profile("isdm")


@pytest.fixture(scope="session", autouse=True)
def _few_threads():
    import torch  # not above: the process that hands out the tests has no use for it

    # Several small processes run beside each other in some tests; more threads only slow them down.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def lemons(tmp_path_factory) -> Path:
    """A dataset of 8 training and 4 test pairs, 24 px, 5 classes."""
    from guided_diffusion.data.lemons import write_demo_dataset

    folder = tmp_path_factory.mktemp("data") / "lemons"
    write_demo_dataset(folder, num_train=8, num_test=4, size=24)
    return folder


@pytest.fixture
def isdm(capsys):
    """Run the command line in this process: `isdm("train", key=value)` -> (exit code, stdout, stderr lines)."""

    def run(action: str, config: str | Path | None = None, **values: Any) -> tuple[int, str, list[str]]:
        capsys.readouterr()
        code = command_line.run(action, config, **values)
        output = capsys.readouterr()
        return code, output.out, [line for line in output.err.splitlines() if line.startswith("error: ")]

    return run


@pytest.fixture
def refused_dry(capsys):
    """Run an action with --dry-run, which must refuse; return its lines, without those of files that are missing."""

    def run(action: str, **values: Any) -> list[str]:
        capsys.readouterr()
        assert cli.main([*command_line.arguments_of(action, **values), "--dry-run"]) == 2
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        return [line for line in errors if "does not exist" not in line]

    return run


@pytest.fixture(scope="session")
def trained(lemons, tmp_path_factory) -> Path:
    """The folder of a finished run of 3 epochs with dropped masks."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    values = {**TINY, "data_dir": lemons, "output_dir": folder, "max_epochs": 3, "drop_rate": 0.2}
    assert command_line.run("train", **values) == 0
    return folder
