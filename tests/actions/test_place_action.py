"""`place`: good images keep every pixel outside the holes, pairs depend on seed and index alone, and runs go on."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest
from cards import check_card
from error_lines import check_error
from odd_images import write_png
from parts import (
    FEW_STEPS,
    SIZES,
    bytes_of,
    check_pairs,
    defects,
    lines_of,
    noise,
    pairs_of,
    pixels_of,
    train,
    write_good,
    write_parts,
)
from processes import finish, kill_at_files, start, start_pair
from scipy import ndimage


class TestPixels:
    @pytest.mark.slow
    @pytest.mark.parametrize("kind", [np.uint8, np.uint16])
    def test_gray_images_keep_their_size_depth_and_good_pixels(self, place, tmp_path, kind):
        good = write_good(tmp_path / "gray", SIZES, kind=kind)
        folder, shown = place("gray_results", good_dir=good)
        check_pairs(folder, margin=3)
        assert "4 images" in shown

    @pytest.mark.parametrize("kind", [np.uint8, np.uint16])
    def test_colored_ones_too(self, place, color_painter, tmp_path, kind):
        good = write_good(tmp_path / "rgb", {"a": (40, 56), "b": (14, 60)}, channels=3, kind=kind)
        folder, _ = place("rgb_results", good_dir=good, model_path=color_painter)
        check_pairs(folder, margin=3)

    def test_below_full_scale(self, place, halving):
        folder, _ = place("half", model_path=halving)
        check_pairs(folder, margin=6)

    def test_an_image_that_is_stored_turned(self, place, tmp_path):
        """The result is upright."""
        good = noise((40, 56), 1)
        write_png(tmp_path / "turned/a.png", good, orientation=6)
        folder, _ = place("turned_results", good_dir=tmp_path / "turned")
        label, result = (pixels_of(folder / kind / "a.png") for kind in ("masks", "images"))
        assert result.shape == label.shape == (56, 40)
        far = ndimage.distance_transform_edt(label == 0) > 3
        assert np.array_equal(result[far], np.rot90(good[..., 0], -1)[far])


@pytest.mark.slow
def test_a_model_of_percentiles_and_good_images_of_a_narrow_range(place, parts, tmp_path):
    model = train(parts, tmp_path / "by_image", image_range="percentile")
    _, shown = place("narrow", model_path=model)
    (line,) = [line for line in shown.splitlines() if "image_range is percentile" in line]
    assert line.startswith("warning: ")


class TestSameBytes:
    @pytest.mark.slow
    def test_whatever_the_batch(self, place):
        folders = [place(f"batch{size}", batch_size=size, num_samples=6)[0] for size in (1, 5, 8)]
        first, *others = (pairs_of(folder) for folder in folders)
        assert len(first) == 13
        assert all(other == first for other in others)

    @pytest.mark.slow
    def test_of_deep_images_whatever_the_batch(self, place, tmp_path):
        good = write_good(tmp_path / "deep", SIZES, kind=np.uint16)
        first, second = (place(f"deep{size}", good_dir=good, batch_size=size)[0] for size in (1, 5))
        for line in lines_of(first):
            one, other = (pixels_of(folder / line["image"]).astype(int) for folder in (first, second))
            # The sums of a network are not rounded alike for all sizes of a batch; 65,536 levels show it.
            assert np.abs(one - other).max() <= 2
        assert (first / "manifest.jsonl").read_text() == (second / "manifest.jsonl").read_text()

    @pytest.mark.slow
    def test_marked_or_not(self, place):
        marked, plain = (place(f"mark_{mark}", mark=mark)[0] for mark in (True, False))
        for line in lines_of(marked):
            assert np.array_equal(*(pixels_of(folder / line["image"]) for folder in (marked, plain)))
            kinds = [b"compositeWithTrained" in (folder / line["image"]).read_bytes() for folder in (marked, plain)]
            assert kinds == [bool(line["defects"]), False]
            assert line["synthetic"] == bool(line["defects"])
        count = len(lines_of(plain))
        text = check_card(
            plain, count, "## Defects", f"good images | {count} of good,", "Only the defects are synthetic"
        )
        assert text == check_card(marked, count)  # whatever the folder is called

    @pytest.mark.slow
    def test_other_seeds_give_others(self, place):
        first, second = (pairs_of(place(f"seed{seed}", seed=seed)[0]) for seed in (0, 1))
        assert all(first[name] != second[name] for name in first if name.startswith("images"))

    @pytest.mark.slow
    def test_in_two_processes(self, place, painter, parts, good, tmp_path):
        one, _ = place("one", num_samples=6, batch_size=5)
        values = {"model_path": painter, "data_dir": parts, "good_dir": good, "results_path": tmp_path / "two"}
        processes = start_pair("place", {**values, **FEW_STEPS, "num_samples": 6, "batch_size": 2}, tmp_path / "shown")
        assert [finish(process) for process in processes] == [0, 0]
        assert pairs_of(tmp_path / "two") == pairs_of(one)
        assert (tmp_path / "two" / "contact_sheet.png").exists()

    @pytest.mark.slow
    def test_a_mistake_ends_both_processes(self, painter, parts, good, tmp_path):
        values = {"model_path": painter, "data_dir": parts, "good_dir": good, "results_path": tmp_path / "two"}
        processes = start_pair("place", {**values, "classes": ["cracks"]}, tmp_path / "log")
        assert [finish(process) for process in processes] == [2, 2]
        shown = "".join((tmp_path / f"log.{rank}").read_text() for rank in range(2))
        assert shown.count("error: ") == 1
        assert not (tmp_path / "two").exists()

    @pytest.mark.slow
    @pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
    def test_after_kill_9(self, place, painter, parts, good, tmp_path):
        values = {"model_path": painter, "data_dir": parts, "good_dir": good, "results_path": tmp_path / "killed"}
        many = {"num_samples": 8, "batch_size": 1, "steps": 6, "hole_margin": 3, "feather": 2}
        process, images = start("place", {**values, **many}), tmp_path / "killed" / "images"
        kill_at_files(process, images, 2)
        assert 2 <= len(list(images.rglob("*.png"))) < 8
        folder, shown = place("killed", **many)
        assert re.search(r", (1 is|\d+ are) there already", shown)
        assert bytes_of(folder) == bytes_of(place("whole", **many)[0])


class TestGoingOn:
    @pytest.mark.slow
    def test_more_pairs_than_good_images(self, place):
        """Each use of a good image has defects of its own."""
        folder, _ = place("more", num_samples=10)
        lines = lines_of(folder)
        check_pairs(folder, margin=3)
        assert [line["image"] for line in lines][::4] == ["images/a.png", "images/a_rep001.png", "images/a_rep002.png"]
        assert len({line["seed"] for line in lines}) == 10
        assert (folder / "images/a.png").read_bytes() != (folder / "images/a_rep001.png").read_bytes()

    @pytest.mark.slow
    def test_more_pairs_later(self, place):
        folder, _ = place("grown", num_samples=3)
        before = {path: path.stat().st_mtime_ns for path in folder.glob("*/*.png")}
        place("grown", num_samples=6)
        assert {path: path.stat().st_mtime_ns for path in before} == before
        assert pairs_of(folder) == pairs_of(place("at_once", num_samples=6)[0])

    def test_the_config_that_is_left_can_be_given_again(self, place, isdm):
        folder, _ = place("again")
        before = bytes_of(folder)
        code, _, errors = isdm("place", folder / "config.json")
        assert code == 0, errors
        assert bytes_of(folder) == before

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "other",
        [
            {"s": 2},
            {"hole_margin": 4},
            {"feather": 1},
            {"mask_resize": "nearest"},
            {"opacity": [0.5, 1]},
            {"seed": 1},
            {"place": "anywhere"},
            {"edit": False},
            {"classes": ["spot"]},
            {"defect_classes": ["spot"]},
            {"defects_per_image": 2},
            {"erase": True, "good_dir": ""},
        ],
        ids=str,
    )
    def test_other_settings_are_refused(self, place, painter, parts, good, tmp_path, isdm, other):
        folder, _ = place("first", num_samples=2)
        before = bytes_of(folder)
        values = {"model_path": painter, "data_dir": parts, "good_dir": good, "results_path": folder, **FEW_STEPS}
        code, _, errors = isdm("place", **{**values, "num_samples": 2, **other})
        assert code == 2
        (line,) = errors
        check_error(line, folder / "manifest.jsonl", "results_path")
        assert bytes_of(folder) == before

    @pytest.mark.parametrize("how", ["another", "exchanged"])
    def test_changed_training_data_are_refused(self, place, painter, tmp_path, good, isdm, how):
        data = write_parts(tmp_path / "changing")
        folder, _ = place("first", data_dir=data, num_samples=2)
        one, other = (data / f"train/masks/part_{number}.png" for number in (0, 1))
        before = one.read_bytes()
        if how == "another":
            write_png(one, defects(3))
        else:
            one.write_bytes(other.read_bytes())
            other.write_bytes(before)
        assert one.read_bytes() != before
        code, _, errors = isdm(
            "place",
            **{"model_path": painter, "data_dir": data, "good_dir": good, "results_path": folder, **FEW_STEPS},
        )
        assert code == 2
        check_error(errors[0], folder / "manifest.jsonl", "training data", "results_path")


def test_the_sheet_shows_the_pairs(place):
    folder, _ = place("sheet", num_samples=2)
    assert min(pixels_of(folder / "contact_sheet.png").shape[:2]) > 100


def test_guidance_that_was_never_trained_is_told(place, painter):
    """The painter saw no dropped masks, so its branch without a mask is noise."""
    _, shown = place("guided", s=2.0, num_samples=1)
    assert "warning" in shown
    assert "s is 2" in shown
    _, shown = place("unguided", num_samples=1)
    assert "warning" not in shown
