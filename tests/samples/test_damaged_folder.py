"""A folder of samples that two runs at once, or a full disk, left damaged is mended by the same command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

COUNT = 6


@pytest.fixture(scope="module")
def whole(trained, lemons, tmp_path_factory) -> tuple[dict, dict[str, bytes]]:
    """The options of sampling, and what they leave."""
    from guided_diffusion import cli

    folder = tmp_path_factory.mktemp("whole") / "out"
    values = {"model_path": str(trained), "data_dir": str(lemons), "data_split": "train", "num_samples": COUNT}
    values |= {"steps": 2, "batch_size": 3}
    assert (
        cli.main(["sample", *(f"--set={k}={json.dumps(v)}" for k, v in values.items()), f"--set=results_path={folder}"])
        == 0
    )
    return values, left_in(folder)


def left_in(folder: Path) -> dict[str, bytes]:
    names = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in names.items() if name not in ("config.json", "environment.json")}


@pytest.fixture
def mended(whole, isdm, tmp_path):
    """Damage a whole folder by a function, run the command again, and compare with what it was."""

    def run(damage) -> None:
        values, expected = whole
        folder = tmp_path / "out"
        assert isdm("sample", **values, results_path=folder)[0] == 0
        assert left_in(folder) == expected
        lines = (folder / "manifest.jsonl").read_text().splitlines()
        changed = damage(folder, lines)
        if changed is not None:
            (folder / "manifest.jsonl").write_text("".join(line + "\n" for line in changed))
        code, _, errors = isdm("sample", **values, results_path=folder)
        assert code == 0, errors
        assert left_in(folder) == expected

    return run


def without_lines(folder, lines):
    return lines[::2]


def without_any_line(folder, lines):
    return []


def without_a_manifest(folder, lines):
    (folder / "manifest.jsonl").unlink()


def doubled(folder, lines):
    return [*lines, *lines[:3]]


def out_of_order(folder, lines):
    return lines[::-1]


def damaged_in_the_middle(folder, lines):
    return [*lines[:2], lines[2][:40], *lines[3:]]


def damaged_at_the_start(folder, lines):
    return ["\0" * 100, *lines[1:]]


def two_lines_in_one(folder, lines):
    return [lines[0] + lines[1], *lines[2:]]


def a_line_that_is_no_text(folder, lines):
    manifest = folder / "manifest.jsonl"
    manifest.write_bytes("".join(line + "\n" for line in lines[:3]).encode() + b"\xff\xfe\n" + lines[5].encode())


def images_gone(folder, lines):
    for path in list((folder / "images").iterdir())[:2]:
        path.unlink()


def masks_gone(folder, lines):
    shutil.rmtree(folder / "masks")


def files_cut_short(folder, lines):
    first, second = sorted((folder / "images").iterdir())[:2]
    first.write_bytes(first.read_bytes()[:-20])
    second.write_bytes(bytes(second.stat().st_size))
    sorted((folder / "masks").iterdir())[3].write_bytes(b"")


def temporaries_left(folder, lines):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    (folder / "images" / f".lemon_0000.png.{process.pid}.tmp").write_bytes(b"half")


def parts_left(folder, lines):
    (folder / ".manifest-0.jsonl").write_text(lines[1] + "\n" + lines[2][:30])
    (folder / ".synthetic").touch()
    return lines[:1]


QUICK = [without_lines, files_cut_short, parts_left]
SLOW = [
    without_any_line,
    without_a_manifest,
    doubled,
    out_of_order,
    damaged_in_the_middle,
    damaged_at_the_start,
    two_lines_in_one,
    a_line_that_is_no_text,
    images_gone,
    masks_gone,
    temporaries_left,
]


@pytest.mark.slow
@pytest.mark.parametrize("damage", [*QUICK, *(pytest.param(damage, marks=pytest.mark.slow) for damage in SLOW)])
def test_the_same_command_mends(damage, mended):
    mended(damage)


def test_sound_samples_are_not_made_again(whole, isdm, tmp_path):
    values, _ = whole
    folder = tmp_path / "out"
    assert isdm("sample", **values, results_path=folder)[0] == 0
    lines = (folder / "manifest.jsonl").read_text().splitlines()
    (folder / "manifest.jsonl").write_text("".join(f"{line}\n" for line in [lines[0], lines[1][:9], *lines[2:]]))
    files = [folder / json.loads(line)["image"] for line in lines]
    before = [os.stat(path).st_ino for path in files]
    assert isdm("sample", **values, results_path=folder)[0] == 0
    after = [os.stat(path).st_ino for path in files]
    assert [ours == theirs for ours, theirs in zip(before, after, strict=True)] == [True, False] + [True] * (COUNT - 2)


def test_temporaries_of_living_processes_stay(mended):
    def damage(folder, lines):
        (folder / "images" / f".lemon_0001.png.{os.getppid()}.tmp").touch()

    with pytest.raises(AssertionError):  # the folder has one file more
        mended(damage)


def test_files_of_others_are_refused(whole, isdm, tmp_path):
    values, _ = whole
    folder = tmp_path / "out"
    assert isdm("sample", **values, results_path=folder)[0] == 0
    other = folder / "images" / "mine.png"
    other.write_bytes(b"mine")
    code, _, errors = isdm("sample", **values, results_path=folder)
    assert code == 2
    assert str(other) in errors[0]
    assert other.read_bytes() == b"mine"


def test_samples_of_a_damaged_manifest_are_not_judged(whole, isdm, lemons, tmp_path):
    values, _ = whole
    folder = tmp_path / "out"
    assert isdm("sample", **values, results_path=folder)[0] == 0
    manifest = folder / "manifest.jsonl"
    manifest.write_text(manifest.read_text().replace("\n", "\n{", 1))
    code, _, errors = isdm("evaluate", data_dir=lemons, synthetic_dir=folder, output_dir=tmp_path / "judged")
    assert code == 2
    assert errors[0].startswith(f"error: {manifest}")
    assert not (tmp_path / "judged").exists()
