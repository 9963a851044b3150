"""The procedural lemons: deterministic, whole or absent, and easy to learn."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from guided_diffusion.data import lemons
from guided_diffusion.data.lemons import (
    BACKGROUND,
    BLEMISH,
    CLASSES,
    GANGRENE,
    LEMON,
    MOULD,
    write_demo_dataset,
    write_good_lemons,
)
from guided_diffusion.runtime.errors import UserError

SMALL = {"num_train": 5, "num_test": 2, "size": 32, "seed": 3}


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def pairs(folder: Path, split: str) -> list[tuple[np.ndarray, np.ndarray]]:
    masks = sorted((folder / split / "masks").iterdir())
    return [(np.asarray(Image.open(folder / split / "images" / m.name)), np.asarray(Image.open(m))) for m in masks]


def mean_colors(found: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return [classes, 3]: the mean color of every class's pixels."""
    return np.array([np.concatenate([im[m == kind] for im, m in found]).mean(axis=0) for kind in range(len(CLASSES))])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "lemons"
    write_demo_dataset(folder)
    return folder


@pytest.fixture(scope="module")
def train(dataset: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    return pairs(dataset, "train")


class TestFiles:
    def test_layout(self, dataset: Path) -> None:
        assert sorted(p.name for p in dataset.iterdir()) == ["classes.json", "demo.json", "test", "train"]
        for split, count in (("train", 64), ("test", 24)):
            images = sorted(p.name for p in (dataset / split / "images").iterdir())
            assert images == sorted(p.name for p in (dataset / split / "masks").iterdir())
            assert len(images) == count
        named = json.loads((dataset / "classes.json").read_text())
        assert named == {"0": "background", "1": "lemon", "2": "blemish", "3": "mould", "4": "gangrene"}

    def test_formats(self, dataset: Path) -> None:
        with Image.open(dataset / "train" / "images" / "lemon_0000.png") as image:
            assert (image.mode, image.size) == ("RGB", (96, 96))
        with Image.open(dataset / "train" / "masks" / "lemon_0000.png") as mask:
            assert (mask.mode, mask.size) == ("L", (96, 96))

    def test_same_parameters_same_bytes(self, tmp_path: Path) -> None:
        write_demo_dataset(tmp_path / "a", **SMALL)
        write_demo_dataset(str(tmp_path / "b"), **SMALL)
        assert contents(tmp_path / "a") == contents(tmp_path / "b")

    def test_seeds_and_splits_differ(self, tmp_path: Path) -> None:
        for seed in (0, 1):
            write_demo_dataset(tmp_path / str(seed), num_train=3, num_test=3, size=32, seed=seed)
        pictures = [data for seed in "01" for name, data in contents(tmp_path / seed).items() if name.endswith(".png")]
        assert len(set(pictures)) == len(pictures)

    def test_a_larger_dataset_begins_with_the_smaller(self, tmp_path: Path) -> None:
        write_demo_dataset(tmp_path / "a", **SMALL)
        write_demo_dataset(tmp_path / "b", **{**SMALL, "num_train": 9})
        larger = contents(tmp_path / "b")
        assert all(larger[name] == data for name, data in contents(tmp_path / "a").items() if name != lemons.MARKER)


class TestGoodLemons:
    def test_they_have_no_defects_and_are_none_of_the_dataset(self, dataset: Path, tmp_path: Path) -> None:
        write_good_lemons(tmp_path / "good", count=9)
        assert sorted(p.name for p in (tmp_path / "good").iterdir()) == ["demo.json", "images", "masks"]
        images = sorted((tmp_path / "good" / "images").iterdir())
        assert len({p.read_bytes() for p in [*images, *dataset.glob("*/images/*")]}) == 9 + 64 + 24
        for image in images:
            mask = np.asarray(Image.open(tmp_path / "good" / "masks" / image.name))
            assert set(np.unique(mask)) == {BACKGROUND, LEMON}
            assert Image.open(image).size == mask.shape[::-1] == (96, 96)

    def test_they_are_kept_and_other_ones_are_refused(self, tmp_path: Path) -> None:
        folder = tmp_path / "good"
        write_good_lemons(folder, count=2, size=32)
        before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
        write_good_lemons(folder, count=2, size=32)
        assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before
        with pytest.raises(UserError) as error:
            write_demo_dataset(folder, **SMALL)
        assert error.value.path == str(folder)
        (folder / "images" / "lemon_0001.png").unlink()
        with pytest.raises(UserError) as error:
            write_good_lemons(folder, count=2, size=32)
        assert str(folder / "images" / "lemon_0001.png") in error.value.found


class TestWholeOrAbsent:
    @pytest.mark.slow
    def test_a_killed_run_leaves_nothing_under_the_name_and_the_next_one_clears_up(self, tmp_path: Path) -> None:
        folder, last = tmp_path / "lemons", ".lemons.*.partial/train/masks/lemon_0007.png"
        program = f"from guided_diffusion.data.lemons import *; write_demo_dataset({str(folder)!r}, num_train=100000)"
        with subprocess.Popen([sys.executable, "-c", program]) as process:
            deadline = time.monotonic() + 60
            while not list(tmp_path.glob(last)) and time.monotonic() < deadline:
                time.sleep(0.02)
            process.kill()
        assert not folder.exists()
        assert list(tmp_path.glob(last))
        write_demo_dataset(folder, **SMALL)
        assert [p.name for p in tmp_path.iterdir()] == ["lemons"]
        assert len(pairs(folder, "train")) == 5

    def test_a_complete_one_is_kept(self, tmp_path: Path) -> None:
        write_demo_dataset(tmp_path / "lemons", **SMALL)
        extra = tmp_path / "lemons" / "notes.txt"
        extra.write_text("mine")
        before = {p: p.stat().st_mtime_ns for p in (tmp_path / "lemons").rglob("*")}
        write_demo_dataset(tmp_path / "lemons", **SMALL)
        assert {p: p.stat().st_mtime_ns for p in (tmp_path / "lemons").rglob("*")} == before

    def test_an_empty_folder_is_used(self, tmp_path: Path) -> None:
        (tmp_path / "lemons").mkdir()
        write_demo_dataset(tmp_path / "lemons", **SMALL)
        assert (tmp_path / "lemons" / "classes.json").is_file()

    @pytest.mark.parametrize("spoil", ["foreign", "file", "garbage", "other", "lacking"])
    def test_anything_else_is_refused_and_left_alone(self, tmp_path: Path, spoil: str) -> None:
        folder = tmp_path / "lemons"
        expected = ""
        if spoil == "file":
            folder.write_text("mine")
        elif spoil == "foreign":
            folder.mkdir()
            (folder / "mine.txt").write_text("mine")
        else:
            write_demo_dataset(folder, **SMALL)
        if spoil == "garbage":
            (folder / lemons.MARKER).write_text("{")
        elif spoil == "lacking":
            shutil.rmtree(folder / "test" / "masks")
            expected = str(folder / "test" / "masks" / "lemon_0000.png")
        asked = {**SMALL, "seed": 4} if spoil == "other" else SMALL
        expected = "'seed': 3" if spoil == "other" else expected
        before = contents(tmp_path)
        with pytest.raises(UserError) as error:
            write_demo_dataset(folder, **asked)
        assert error.value.path == str(folder)
        assert expected in error.value.found
        assert len(str(error.value).splitlines()) == 1
        assert contents(tmp_path) == before

    @pytest.mark.parametrize("wrong", [{"num_train": 0}, {"num_test": 0}, {"size": 8}, {"seed": -1}])
    def test_wrong_parameters(self, tmp_path: Path, wrong: dict) -> None:
        with pytest.raises(UserError, match=f"{next(iter(wrong))}={next(iter(wrong.values()))}"):
            write_demo_dataset(tmp_path / "lemons", **{**SMALL, **wrong})
        assert not list(tmp_path.iterdir())


class TestPictures:
    @pytest.mark.parametrize("split", ["train", "test"])
    def test_class_frequencies(self, dataset: Path, split: str) -> None:
        present = np.array(
            [[(mask == index).any() for index in range(len(CLASSES))] for _, mask in pairs(dataset, split)]
        )
        assert present[:, [BACKGROUND, LEMON]].all()
        assert (present[:, BLEMISH:].mean(axis=0) >= 0.35).all()
        assert (~present[:, BLEMISH:].any(axis=1)).mean() >= 0.1, "healthy lemons"

    def test_masks_hold_classes_only(self, train) -> None:
        assert set(np.unique([mask for _, mask in train])) == set(range(len(CLASSES)))

    @pytest.mark.slow
    @pytest.mark.parametrize("size", [32, 96])
    def test_every_defect_asked_for_shows_and_no_other(self, size: int) -> None:
        for number, defects in enumerate([(), (BLEMISH,), (MOULD,), (GANGRENE,), (BLEMISH, MOULD, GANGRENE)] * 4):
            _, mask = lemons.draw_lemon(size, defects, np.random.default_rng(number))
            assert set(np.unique(mask)) == {BACKGROUND, LEMON, *defects}

    def test_a_defect_is_enclosed_by_its_lemon(self, train) -> None:
        for _, mask in train:
            inside = np.pad(mask > BACKGROUND, 1)
            enclosed = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
            assert enclosed[mask > LEMON].all()

    def test_the_whole_lemon_is_in_the_picture(self, train) -> None:
        for _, mask in train:
            assert not mask[[0, -1]].any()
            assert not mask[:, [0, -1]].any()
            assert 0.15 < (mask > BACKGROUND).mean() < 0.5

    def test_sizes_of_the_defects(self, train) -> None:
        share = {kind: np.mean([(m == kind).mean() for _, m in train if (m == kind).any()]) for kind in range(2, 5)}
        assert share[BLEMISH] < share[MOULD] < share[GANGRENE]

    def test_classes_differ_in_color(self, train) -> None:
        means = mean_colors(train)
        distance = np.linalg.norm(means[:, None] - means[None], axis=-1)
        assert distance[~np.eye(len(CLASSES), dtype=bool)].min() > 40
        red, green, blue = means[LEMON]
        assert min(red, green) > 2 * blue, "lemons are yellow"
        assert means[GANGRENE].max() < 90, "gangrene is dark"

    def test_the_picture_follows_the_mask(self, train) -> None:
        """A pixel's nearest mean color is mostly that of its class: nothing is drawn beside its mask."""
        means = mean_colors(train)
        for kind, name in enumerate(CLASSES):
            pixels = np.concatenate([image[mask == kind] for image, mask in train]).astype(float)
            nearest = np.linalg.norm(pixels[:, None] - means[None], axis=-1).argmin(axis=1)
            assert (nearest == kind).mean() > 0.6, name
