"""Config files and commands with mistakes: one line that names what was found and what to do; exit code 2."""

from __future__ import annotations

import pytest
from error_lines import check_error

from guided_diffusion.cli import main

# Content, and what the line shows beside the file.
CONFIGS = {
    "missing.json": (None, ()),
    "broken.json": ('{"lr": 1 "s": 2}', ("line 1", "column 10")),
    "list.json": ("[1, 2]", ("list",)),
    "twice.json": ('{"lr": 1, "lr": 2}', ("'lr'",)),
    "binary.json": (b"\xff\xfe\x00\x80", ("UTF-8",)),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_wrong_config_files(name, tmp_path, isdm):
    content, shown = CONFIGS[name]
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    code, _, (line,) = isdm("train", tmp_path / name)
    assert code == 2
    check_error(line, tmp_path / name, *shown)


def test_a_key_that_does_not_exist_offers_one_that_does(tmp_path, isdm):
    (tmp_path / "typo.json").write_text('{"data_dri": "x"}')
    code, _, errors = isdm("train", tmp_path / "typo.json")
    assert code == 2
    check_error(errors[0], "data_dri", "train", "'data_dir'")


# What the line begins with, and what it shows beside that.
COMMANDS = {
    "trian": ("'trian'", "'train'"),
    "train --config": ("main.py train", "--config"),
    "train --lr 3": ("main.py train", "--lr 3"),
    "train --set lr": ("--set lr", "key=value"),
    "schema": ("schema", "finetune"),
    "schema fly": ("schema fly", "finetune"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_wrong_commands(command, capsys):
    assert main(command.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    check_error(line, *COMMANDS[command])
