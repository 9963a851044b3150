"""A plain folder becomes train/ and test/: nothing is lost or overwritten, and rare classes are on both sides."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import split_dataset
from error_lines import check_error
from PIL import Image

from guided_diffusion.data.held_out import draw_test, draw_test_groups, rarest_values
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.scan.scan import scan_dataset

Run = Callable[..., str]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("test_share", [0.1, 0.25, 0.5, 0.8])
def test_every_group_gives_its_share(test_share: float, seed: int) -> None:
    groups = np.random.default_rng(7).permutation([0] * 60 + [1] * 23 + [2] * 12 + [3] * 5).tolist()
    chosen = draw_test(groups, test_share, seed)
    assert chosen.sum() == round(100 * test_share)
    for group, size in Counter(groups).items():
        drawn = sum(chosen[i] for i in range(100) if groups[i] == group)
        assert abs(drawn - size * test_share) < 1


def test_items_of_a_group_are_drawn_equally_often() -> None:
    groups = [0] * 6 + [1] * 4
    counts = np.sum([draw_test(groups, 0.3, seed) for seed in range(2000)], axis=0)
    # Binomial with probability 0.3: a standard deviation of 20.5.
    assert np.abs(counts - 600).max() < 5 * 20.5


def test_what_there_is_one_of_is_for_training() -> None:
    groups = ["rare", *["common"] * 9]
    assert not any(draw_test(groups, 0.4, seed)[0] for seed in range(30))
    # Unless nothing else is left.
    assert draw_test(["a", "b", "c"], 0.34, 0).sum() == 1


def test_both_sides_get_something() -> None:
    assert draw_test([0] * 3, 0.01, 0).sum() == 1
    assert draw_test([0] * 3, 0.99, 0).sum() == 2


def test_rarest_values() -> None:
    assert rarest_values([(0, 5), (0, 1, 5), (0,), (0, 1, 9)]) == [5, 1, 0, 9]


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """Write 20 pairs, one of them in a sub-folder; class 2 is in four of them, class 1 in ten."""
    root = tmp_path / "plain"
    rng = np.random.default_rng(0)
    for index in range(20):
        name = f"deep/{index:02d}" if index == 3 else f"{index:02d}"
        mask = np.zeros((8, 8), np.uint8)
        mask[:3] = index % 2
        mask[5:] = 2 * (index % 5 == 0)
        for folder, array, suffix in (
            ("images", rng.integers(0, 256, (8, 8, 3), np.uint8), "jpg"),
            ("masks", mask, "png"),
        ):
            path = root / folder / f"{name}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    (root / "classes.json").write_text(json.dumps({"0": "ground", "1": "leaf", "2": "bug"}))
    return root


@pytest.fixture
def split(plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the script into `tmp_path / "split"` (or `output`); returns what it printed, or its error."""

    def run(*options: str, output: str = "split") -> str:
        try:
            split_dataset.main(["--data-dir", str(plain), "--output", str(tmp_path / output), *options])
        except SystemExit as end:
            lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
            return "\n".join(lines) or str(end.code)
        return capsys.readouterr().out

    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_pair_is_on_one_side(split: Run, plain: Path, tmp_path: Path) -> None:
    before = contents(plain)
    shown = split("--test-share", "0.25")
    assert "15 pairs" in shown
    assert contents(plain) == before
    after = contents(tmp_path / "split")
    assert after.pop("classes.json") == before.pop("classes.json")
    assert {name.split("/", 1)[1]: content for name, content in after.items()} == before
    assert len(after) == len(before)
    found = {}
    for side in ("train", "test"):
        report = scan_dataset(tmp_path / "split", get_mode("multi-class"), side, progress=False)
        assert not report.fatal
        found[side] = [entry.images for entry in report.classes]
    rows = [line.split() for line in shown.splitlines()]
    for value in range(3):
        assert [str(value), str(found["train"][value]), str(found["test"][value])] in rows
    assert (found["train"][2], found["test"][2]) == (3, 1)


def test_groups_stay_together(split: Run, tmp_path: Path) -> None:
    shown = split("--group-pattern", r"(\d)\d$", "--test-share", "0.5")  # 00 to 09, and 10 to 19
    assert "1 groups for training, 1 for testing" in shown
    names = {side: {path.stem for path in (tmp_path / "split" / side).rglob("*.png")} for side in ("train", "test")}
    assert {len(found) for found in names.values()} == {10}
    assert {name[0] for name in names["train"]} != {name[0] for name in names["test"]}
    for pattern, message in (("^(x)", "group_pattern"), ("()", "--group-pattern"), ("(", "2")):
        assert message in split("--group-pattern", pattern, output="other")
    assert not (tmp_path / "other").exists()


def test_whole_groups_are_drawn_by_what_they_show() -> None:
    groups = [0, 0, 1, 1, 2, 2, 3, 3, 4]
    values = [(0,), (0, 1), (0, 1), (0,), (0,), (0, 2), (0,), (0, 2), (0, 5)]
    for seed in range(20):
        chosen = draw_test_groups(values, groups, 0.4, seed)
        by_group = {group: {bool(chosen[i]) for i in range(9) if groups[i] == group} for group in groups}
        assert all(len(found) == 1 for found in by_group.values())
        assert by_group[4] == {False}  # the only group with class 5
        assert by_group[0] != by_group[1]  # class 1 on both sides
        assert by_group[2] != by_group[3]


def test_paths_may_go_up(split: Run, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(plain / "images")
    shown = split("--data-dir", "../../plain", "--output", "../../up")
    assert shown.endswith(f": {tmp_path / 'up'}\n")
    assert len(contents(tmp_path / "up")) == len(contents(plain))


def test_the_seed_decides(split: Run, tmp_path: Path) -> None:
    for output, seed in (("one", "4"), ("same", "4"), ("other", "5")):
        split("--seed", seed, output=output)
    one, same, other = (contents(tmp_path / output) for output in ("one", "same", "other"))
    assert one == same
    assert one.keys() != other.keys()


def test_links_share_the_files(split: Run, plain: Path, tmp_path: Path) -> None:
    split("--link")
    masks = list((tmp_path / "split").glob("*/masks/**/*.png"))
    assert len(masks) == 20
    for path in masks:
        relative = path.relative_to(tmp_path / "split").parts[1:]
        assert os.path.samefile(path, plain.joinpath(*relative))


def test_color_masks_are_split_too(split: Run, plain: Path) -> None:
    for path in plain.glob("masks/**/*.png"):
        Image.fromarray(np.asarray(Image.open(path))[..., None] * np.array([90, 10, 0], np.uint8)).save(path)
    assert "4 for testing" in split()


def image_without_mask(plain: Path) -> None:
    (plain / "masks" / "00.png").unlink()


def no_masks(plain: Path) -> None:
    (plain / "masks").rename(plain / "labels")


def damaged_mask(plain: Path) -> None:
    (plain / "masks" / "00.png").write_bytes(b"no picture")


def one_pair(plain: Path) -> None:
    for path in plain.glob("*/**/*.*"):
        if path.stem != "00":
            path.unlink()


@pytest.mark.parametrize(
    ("damage", "shown"),
    [
        (image_without_mask, ("images/00.jpg", "masks/00.png")),
        (no_masks, ("masks", "'labels'")),
        (damaged_mask, ("masks/00.png",)),
        (one_pair, (".", "1 pair")),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_wrong_folders(
    damage: Callable[[Path], None], shown: tuple[str, ...], split: Run, plain: Path, tmp_path: Path
) -> None:
    damage(plain)
    (line,) = split().splitlines()
    assert line.startswith("error: ")
    check_error(line, plain / shown[0], *shown[1:])
    assert not (tmp_path / "split").exists()


def test_wrong_outputs(split: Run, plain: Path, tmp_path: Path) -> None:
    split()
    before = contents(tmp_path / "split")
    check_error(split(), "--output", tmp_path / "split")
    assert contents(tmp_path / "split") == before
    (tmp_path / "file").write_text("")
    for output in ("plain", "plain/images/new", "file"):
        check_error(split(output=output), "--output", tmp_path / output)
    assert split("--test-share", "1", output="new") == "2"


def test_nothing_is_left_of_what_could_not_be_written(
    split: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, done = shutil.copyfile, []

    def full(source: object, target: object) -> object:
        done.append(source)
        if len(done) > 9:
            raise OSError(28, "No space left on device")
        return copy(source, target)

    monkeypatch.setattr("shutil.copyfile", full)
    (tmp_path / "mounted").mkdir()
    for output in ("split", "mounted"):
        assert "make room" in split(output=output)
        done.clear()
    assert not (tmp_path / "split").exists()
    assert not any((tmp_path / "mounted").iterdir())


def test_what_a_killed_script_has_left_is_in_nobodys_way(split: Run, tmp_path: Path) -> None:
    split()
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    left = tmp_path / "again" / f".dataset.{int(ended.stdout)}.tmp" / "train" / "images"
    left.mkdir(parents=True)
    (left / "00.jpg").write_bytes(b"x")
    split(output="again")
    assert contents(tmp_path / "again") == contents(tmp_path / "split")
