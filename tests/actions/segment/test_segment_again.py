"""`segment` writes the same bytes however it is done, and labels with classifiers of earlier runs."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from colored import masks_of, picture, write_unlabeled
from odd_images import write_png
from parts import bytes_of, lines_of, pixels_of
from processes import finish, kill_when, start, start_pair
from published_classifiers import save_published

from guided_diffusion.labeling.files import load_classifier
from guided_diffusion.runtime.files import digest

pytestmark = pytest.mark.slow


def not_mapped(unlink):
    """Return `unlink` as Windows has it, which deletes no file that a process has mapped."""

    def unlinked(path, *, dir_fd=None):
        whole = os.path.join("" if dir_fd is None else os.readlink(f"/proc/self/fd/{dir_fd}"), path)
        if sys.platform == "linux" and whole in Path("/proc/self/maps").read_text():
            raise PermissionError(13, "Access is denied", whole)
        unlink(path, dir_fd=dir_fd)

    return unlinked


class TestSameBytes:
    def test_other_seeds_give_others(self, segment, plain, tmp_path):
        second = segment(image_dir=None, seed=1, output_dir=tmp_path / "other")[0]
        again = segment(image_dir=None, output_dir=tmp_path / "again")[0]
        assert digest(plain / "classifier.pt") == digest(again / "classifier.pt")
        assert digest(plain / "classifier.pt") != digest(second / "classifier.pt")

    def test_features_on_disk(self, segment, plain, monkeypatch):
        monkeypatch.setattr(os, "unlink", not_mapped(os.unlink))
        second = segment(feature_cache="disk")[0]
        assert digest(plain / "classifier.pt") == digest(second / "classifier.pt")
        assert not (second / "features").exists()

    def test_more_images_later(self, segment, unlabeled, tmp_path):
        images = tmp_path / "images"
        shutil.copytree(unlabeled[0], images)
        own = {"image_dir": images, "folds": 0}
        folder, _, _ = segment(**own)
        before = {path: path.stat().st_mtime_ns for path in folder.glob("predicted/masks/**/*.png")}
        write_unlabeled(images, 4, 50)
        _, record, shown = segment(**own)
        assert "8 are labeled already" in shown
        assert {path: path.stat().st_mtime_ns for path in before} == before
        assert record["unlabeled"]["images"] == 12
        grown = bytes_of(folder)
        shutil.rmtree(folder)
        assert bytes_of(segment(**own)[0]) == grown

    def test_an_image_that_is_gone_or_changed(self, segment, unlabeled, tmp_path):
        images = tmp_path / "images"
        shutil.copytree(unlabeled[0], images)
        own = {"image_dir": images, "drop_uncertain": 0, "folds": 0}
        folder, _, _ = segment(**own)
        (images / "100.png").unlink()
        write_png(images / "101.png", picture(7)[0])
        segment(**own)
        names = {path.name for path in (folder / "train/images/pseudo").rglob("*.png")}
        assert "100.png" not in names
        assert np.array_equal(pixels_of(folder / "train/images/pseudo/101.png"), picture(7)[0])

    def test_images_that_were_moved(self, segment, unlabeled, tmp_path):
        """Others may lie where they were: no pair has one of these."""
        images, moved = tmp_path / "images", tmp_path / "moved"
        shutil.copytree(unlabeled[0], images)
        folder, _, _ = segment(image_dir=images, drop_uncertain=0.5, folds=0)
        images.rename(moved)
        for path in moved.glob("*.png"):
            write_png(images / path.name, 255 - pixels_of(path))
        own = {"image_dir": moved, "drop_uncertain": 0, "folds": 0}
        _, _, shown = segment(**own)
        assert "8 are labeled already" in shown
        found = {path.name: path.read_bytes() for path in (folder / "train/images/pseudo").rglob("*.png")}
        assert found == {path.name: path.read_bytes() for path in moved.rglob("*.png")}
        for line in [*lines_of(folder / "predicted"), *lines_of(folder / "train")]:
            assert "pseudo" not in line or line["pseudo"]["image"].startswith(f"{moved}/")
        grown = bytes_of(folder)
        shutil.rmtree(folder)
        assert bytes_of(segment(**own)[0]) == grown

    def test_the_config_that_is_left_can_be_given_again(self, plain, isdm):
        before = bytes_of(plain)
        code, _, errors = isdm("segment", plain / "config.json")
        assert code == 0, errors
        assert bytes_of(plain) == before

    @pytest.mark.parametrize("stage", ["folds", "masks"])
    def test_images_turned_otherwise_are_other_images(self, keys, isdm, tmp_path, stage):
        for number in range(6):
            image, label = picture(number)
            write_png(tmp_path / "data/train/images" / f"{number}.png", image, orientation=3)
            write_png(tmp_path / "data/train/masks" / f"{number}.png", label)
        shutil.copytree(tmp_path / "data/train/images", tmp_path / "images")
        write_png(tmp_path / "images/0.png", picture(9)[0], orientation=3)
        keys |= {"data_dir": tmp_path / "data", "num_classes": 3, "image_dir": tmp_path / "images"}
        if stage == "folds":
            del keys["image_dir"]
        assert isdm("segment", **keys, exif="apply")[0] == 0
        if stage == "masks":
            keys = {key: keys[key] for key in ("model_path", "image_dir", "output_dir")}
            keys["classifier_path"] = keys["output_dir"] / "classifier.pt"
        code, _, errors = isdm("segment", **keys, exif="ignore")
        assert code == 2
        assert all("output_dir" in line or "exif" in line for line in errors), errors

    def test_in_two_processes(self, plain, keys, tmp_path):
        two = tmp_path / "two"
        processes = start_pair("segment", {**keys, "output_dir": two}, tmp_path / "shown")
        assert [finish(process) for process in processes] == [0, 0]
        for part in ("train", "predicted", "classifier.pt"):
            first, second = plain / part, two / part
            assert (
                (first.read_bytes() == second.read_bytes()) if first.is_file() else bytes_of(first) == bytes_of(second)
            )


STAGES = [
    ("features/features.bin", 1),
    ("folds/fold_000.npz", 1),
    ("folds/fold_001.json", 1),
    ("classifier.pt", 1),
    ("predicted/masks/**/*.png", 3),
    ("train/masks/**/*.png", 3),
]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
def test_after_kill_9_at_every_stage(segment, keys, tmp_path):
    values, folder, killed = {"feature_cache": "disk"}, keys["output_dir"], 0
    for pattern, count in STAGES:
        killed += kill_when(start("segment", {**keys, **values}), folder, pattern, count)
    assert killed == len(STAGES)
    segment(**values)
    after = bytes_of(folder)
    shutil.rmtree(folder)
    assert bytes_of(segment(**values)[0]) == after


class TestEarlierClassifiers:
    def test_label_with_them(self, segment, unlabeled, tmp_path):
        first, record, _ = segment(seed=3, feature_blocks=[3])
        again = {"data_dir": None, "dataset_mode": None, "classifier_path": first / "classifier.pt"}
        folder, later, _ = segment(**again, output_dir=tmp_path / "later", folds=None, members=None)
        assert later["ignore_above"] == record["ignore_above"]
        one, two = masks_of(first), masks_of(folder)
        assert all(np.array_equal(one[stem], two[stem]) for stem in one)

    def test_published_files(self, segment, tmp_path):
        first, _, _ = segment(folds=0, feature_rgb=False)
        save_published(tmp_path / "files", load_classifier(first / "classifier.pt").ensemble)
        again = {"data_dir": None, "dataset_mode": None, "classifier_path": tmp_path / "files", "feature_rgb": False}
        folder, _, _ = segment(**again, output_dir=tmp_path / "later", ignore_above=0.1)
        assert json.loads((folder / "classes.json").read_text())["1"]["name"] == "class 1"
        assert masks_of(folder).keys() == masks_of(first).keys()
