"""Config files and commands with mistakes: one line that names what was found and what to do; exit code 2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Break = Callable[[Path], dict]


def gray(path: Path, array) -> None:
    Image.fromarray(np.asarray(array)).save(path)


def first(data: Path, kind: str) -> Path:
    return data / "train" / kind / "lemon_0000.png"


CONFIGS = {
    "missing.json": (None, "config file cannot be read"),
    "broken.json": ('{"lr": 1,}', "line 1, column"),
    "list.json": ("[1, 2]", "expected an object of keys and values"),
    "twice.json": ('{"lr": 1, "lr": 2}', "key 'lr' is given twice"),
    "binary.json": (b"\xff\xfe\x00\x80", "not a text file in UTF-8"),
    "typo.json": ('{"data_dri": "x"}', "data_dri is not a key of train: did you mean 'data_dir'?"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_wrong_config_files(name, tmp_path, isdm):
    content, said = CONFIGS[name]
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    code, _, errors = isdm("train", tmp_path / name)
    assert code == 2
    assert any(said in line for line in errors), errors


COMMANDS = {
    "trian": "'trian' is not an action: did you mean 'train'?",
    "train --config": "expected one argument",
    "train --lr 3": "unrecognized arguments: --lr 3",
    "train --set lr": "--set lr: expected key=value",
    "schema": "name one action",
    "schema fly": "name one action",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_wrong_commands(command, capsys):
    from guided_diffusion.cli import main

    assert main(command.split()) == 2
    shown = capsys.readouterr().err.strip()
    assert COMMANDS[command] in shown
    assert "\n" not in shown
