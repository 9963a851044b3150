"""Accepted pairs: whole or absent, whenever their writer is killed; never mixed with what others wrote."""

from __future__ import annotations

import io
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.runtime.errors import DataError, UserError
from guided_diffusion.runtime.logs import write_run_record
from guided_diffusion.samples.accepted_folder import TRASH, AcceptedFolder, AcceptedPair
from guided_diffusion.samples.manifest import UNFINISHED, SampleSettings, is_whole_png, read_manifest

ENCODING = LabelEncoding.identity(3)
forked = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")


def pair(number: int = 0) -> AcceptedPair:
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 255, (32, 32), np.uint8)).save(content, format="PNG")
    label = np.full((32, 32), number % 3, np.uint8)
    settings = SampleSettings(run_seed=number, sampler="ddim", steps=number + 1, s=1.0)
    return AcceptedPair(content.getvalue(), label, settings, number, 0, None, "", True, None)


def opened(root: Path) -> AcceptedFolder:
    folder = AcceptedFolder(root, "train", ENCODING)
    folder.begin()
    return folder


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


def _killed_at(root: Path, call: str, count: int) -> None:
    """Accept a pair in a process that is killed at a call of the system."""
    import builtins

    folder = opened(root)
    module, name = (os, "replace") if call == "replace" else (builtins, "open")
    original, calls = getattr(module, name), 0

    def killing(*arguments, **options):
        nonlocal calls
        if call == "replace" or "manifest.jsonl" in str(arguments[0]):
            if calls == count:
                os.kill(os.getpid(), signal.SIGKILL)
            calls += 1
        return original(*arguments, **options)

    setattr(module, name, killing)
    folder.accept(pair(1))


@forked
@pytest.mark.parametrize("moment", KILLS)
def test_a_pair_is_absent_where_its_writer_was_killed(tmp_path, moment):
    opened(tmp_path).accept(pair(0))
    process = multiprocessing.get_context("fork").Process(target=_killed_at, args=(tmp_path, *KILLS[moment]))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    check_before_recovery(tmp_path)
    folder = opened(tmp_path)
    assert folder.names == ["studio_000000"]
    check_whole(folder)
    folder.accept(pair(2))
    check_whole(folder)


def _accepting(root: Path, ready) -> None:
    folder = opened(root)
    ready.set()
    for number in range(10_000):
        folder.accept(pair(number))
        if number % 5 == 4:
            folder.discard(folder.names[0])


@forked
@pytest.mark.slow
def test_pairs_are_whole_or_absent_after_fifty_kills(tmp_path):
    context, draw = multiprocessing.get_context("fork"), random.Random(0)
    count = 0
    for _ in range(50):
        ready = context.Event()
        process = context.Process(target=_accepting, args=(tmp_path, ready))
        process.start()
        ready.wait(20)
        time.sleep(draw.random() * 0.03)
        process.kill()
        process.join()
        check_before_recovery(tmp_path)
        folder = opened(tmp_path)
        check_whole(folder)
        count += len(folder.names)
    assert count > 50


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
