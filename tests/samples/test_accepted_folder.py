"""Accepted pairs: whole or absent, whenever their writer is killed; never mixed with what others wrote."""

from __future__ import annotations

import io
import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from accepting import accepting, killed_at, opened, pair
from PIL import Image
from processes import finish, start_function

from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.runtime.errors import DataError, UserError
from guided_diffusion.runtime.logs import write_run_record
from guided_diffusion.samples.accepted_folder import TRASH, AcceptedFolder
from guided_diffusion.samples.manifest import UNFINISHED, is_whole_png, read_manifest


def check_whole(folder: AcceptedFolder) -> None:
    """Every pair has line, image and mask; there is nothing else."""
    lines = read_manifest(folder.manifest) if folder.manifest.exists() else []
    assert [Path(line.image).stem for line in lines] == folder.names
    for kind in ("images", "masks"):
        assert sorted(path.stem for path in (folder.folder / kind).iterdir()) == sorted(folder.names)
    for line in lines:
        assert all(is_whole_png(folder.folder / file) for file in line.files)
        expected = pair(line.run_seed)
        with Image.open(folder.folder / line.image) as image, Image.open(io.BytesIO(expected.image)) as given:
            assert np.array_equal(np.asarray(image), np.asarray(given))
        with Image.open(folder.folder / line.mask) as mask:
            assert np.array_equal(np.asarray(mask), expected.label)
    assert not (folder.folder / UNFINISHED).exists()


def check_before_recovery(root: Path) -> None:
    """As other actions see it: no picture is without its line, and what is not whole is called unfinished."""
    folder = root / "train"
    lines = read_manifest(folder / "manifest.jsonl", sound_only=True) if (folder / "manifest.jsonl").exists() else []
    named = {file for line in lines for file in line.files}
    shown = {f"{kind}/{path.name}" for kind in ("images", "masks") for path in (folder / kind).glob("[!.]*.png")}
    assert shown <= named
    if shown != named:
        assert (folder / UNFINISHED).exists()


def test_pairs_have_settings_of_their_own(tmp_path):
    folder = opened(tmp_path)
    assert [folder.accept(pair(number)) for number in range(3)] == ["studio_000000", "studio_000001", "studio_000002"]
    assert [line.steps for line in read_manifest(folder.manifest)] == [1, 2, 3]
    check_whole(folder)
    again = opened(tmp_path)
    assert again.names == folder.names
    assert again.accept(pair(3)) == "studio_000003"


def test_a_name_is_not_given_twice(tmp_path):
    folder = opened(tmp_path)
    names = [folder.accept(pair(number)) for number in range(2)]
    assert folder.discard(names[1])
    assert not folder.discard(names[1])
    assert not folder.discard("../../x")
    check_whole(folder)
    assert (folder.folder / TRASH / "masks" / f"{names[1]}.png").exists()
    assert opened(tmp_path).accept(pair(2)) == "studio_000002"


KILLS = {
    "before the line": ("open", 0),
    "before the first rename": ("replace", 0),
    "between the renames": ("replace", 1),
}


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL here")
@pytest.mark.parametrize("moment", KILLS)
def test_a_pair_is_absent_where_its_writer_was_killed(tmp_path, moment):
    opened(tmp_path).accept(pair(0))
    assert finish(start_function(killed_at, tmp_path, *KILLS[moment])) == -signal.SIGKILL
    check_before_recovery(tmp_path)
    folder = opened(tmp_path)
    assert folder.names == ["studio_000000"]
    check_whole(folder)
    folder.accept(pair(2))
    check_whole(folder)


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL here")
@pytest.mark.slow
def test_pairs_are_whole_or_absent_after_fifty_kills(tmp_path):
    draw, most = random.Random(0), 0
    for _ in range(50):
        process = start_function(accepting, tmp_path)
        wait_for_change(tmp_path / "train" / "manifest.jsonl", process)
        time.sleep(draw.random() * 0.02)
        process.kill()
        process.join()
        check_before_recovery(tmp_path)
        folder = opened(tmp_path)
        check_whole(folder)
        most = max(most, len(folder.names))
    assert most > 25


def wait_for_change(path: Path, process) -> None:
    """Wait until a process has changed a file, so that it is in the midst of its work."""
    before, deadline = path.stat().st_size if path.exists() else 0, time.monotonic() + 60
    while process.is_alive() and time.monotonic() < deadline:
        if path.exists() and path.stat().st_size != before:
            return
        time.sleep(0.001)
    raise AssertionError("the process wrote nothing")


def test_what_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    folder = opened(tmp_path)
    folder.accept(pair(0))

    def full(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(UserError, match="make room"):
            folder.accept(pair(1))
    folder = opened(tmp_path)
    check_whole(folder)
    assert folder.names == ["studio_000000"]


@pytest.mark.parametrize("unwritten", ["manifest.jsonl", "studio_000000.png"])
def test_a_discard_that_failed_leaves_no_line_without_its_pair(tmp_path, monkeypatch, unwritten):
    folder, replace, calls = opened(tmp_path), os.replace, []
    folder.accept(pair(0))
    folder.accept(pair(1))

    def full(source, target):
        calls.append(Path(target).name)
        if calls[-1] == unwritten and calls != [unwritten]:  # of the pictures, the second
            raise OSError(28, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(UserError, match="make room"):
            folder.discard("studio_000000")
    folder.accept(pair(2))
    check_whole(folder)
    assert folder.names == ["studio_000001", "studio_000002"]


def test_a_pair_whose_picture_was_deleted_by_hand_is_discarded(tmp_path):
    folder = opened(tmp_path)
    folder.accept(pair(0))
    folder.accept(pair(1))
    (folder.folder / "masks" / "studio_000000.png").unlink()
    assert folder.discard("studio_000000")
    check_whole(folder)


def test_results_of_others_are_refused(tmp_path):
    folder = opened(tmp_path / "a")
    folder.accept(pair(0))
    write_run_record(folder.folder, "sample", {})
    with pytest.raises(DataError, match="not accepted in the studio"):
        opened(tmp_path / "a")
    foreign = tmp_path / "b" / "train" / "images" / "photo.png"
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"photo")
    with pytest.raises(DataError, match="was not accepted in the studio"):
        opened(tmp_path / "b")
    assert foreign.read_bytes() == b"photo"
    shutil.copytree(folder.folder, tmp_path / "c" / "train")
    manifest = tmp_path / "c" / "train" / "manifest.jsonl"
    manifest.write_text(manifest.read_text().replace('"studio"', '"me"'))
    with pytest.raises(DataError, match="not accepted in the studio"):
        opened(tmp_path / "c")


def test_other_classes_are_refused(tmp_path):
    opened(tmp_path)
    with pytest.raises(DataError, match="another dataset"):
        AcceptedFolder(tmp_path, "train", LabelEncoding.identity(4)).begin()
