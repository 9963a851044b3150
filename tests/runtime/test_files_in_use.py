"""Files that another program has open: Windows neither renames nor deletes them."""

import os
from pathlib import Path

import pytest

from guided_diffusion.runtime import files
from guided_diffusion.runtime.errors import UserError
from guided_diffusion.runtime.files import move, remove, write_text


def refusing(change, times: int, winerror: int = 32):
    """Return `change` as Windows has it while another program has the file open, which closes it after `times`."""
    calls = []

    def changed(path, *more, **options):
        calls.append(path)
        if len(calls) <= times:
            error = PermissionError(13, "The file is being used by another process", str(path))
            error.winerror = winerror
            raise error
        return change(path, *more, **options)

    changed.calls = calls
    return changed


@pytest.mark.parametrize("winerror", [5, 32, 1224])
def test_a_file_that_is_open_elsewhere_for_a_moment_is_replaced(winerror, monkeypatch, tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("old")
    monkeypatch.setattr(os, "replace", refusing(os.replace, 2, winerror))
    write_text(path, "new")
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == [path.name]


def test_a_folder_of_which_a_file_is_open_for_a_moment_is_renamed(monkeypatch, tmp_path):
    (tmp_path / "partial").mkdir()
    monkeypatch.setattr(os, "replace", refusing(os.replace, 2))
    move(tmp_path / "partial", tmp_path / "whole")
    assert os.listdir(tmp_path) == ["whole"]


def test_a_file_that_is_open_elsewhere_for_a_moment_is_deleted(monkeypatch, tmp_path):
    path = tmp_path / "part"
    path.write_text("old")
    monkeypatch.setattr(os, "unlink", refusing(os.unlink, 2))
    remove(path)
    assert not path.exists()
    remove(path)


def test_a_file_that_stays_open_is_told_of_and_kept(monkeypatch, tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    monkeypatch.setattr(files, "PATIENCE", 0.1)
    monkeypatch.setattr(os, "replace", refusing(os.replace, 99))
    with pytest.raises(UserError, match=r"report\.html: .*used by another process.*; close the program"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == [path.name]


def test_what_is_forbidden_otherwise_is_said_at_once(monkeypatch, tmp_path):
    replace = refusing(os.replace, 99, winerror=0)
    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(UserError, match="cannot be written"):
        write_text(Path(tmp_path, "report.html"), "new")
    assert len(replace.calls) == 1
