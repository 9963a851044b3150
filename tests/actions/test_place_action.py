"""`place`: good images keep every pixel outside the holes, pairs depend on seed and index alone, and runs go on."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import command_line
import numpy as np
import pytest
from error_lines import check_error
from odd_images import write_png
from parts import BACKGROUND, CRACK, NAMES, PLATE, SIZE, SPOT, defects, noise, write_good, write_parts
from PIL import Image
from processes import finish, start, start_pair
from scipy import ndimage
from tiny import TINY

from guided_diffusion.data.components import find_components
from guided_diffusion.data.deep_color import deep_samples

WINDOWS = {**TINY, "resize": "window", "inpaint": True, "image_channels": 1, "max_epochs": 1}
SIZES = {"a": (40, 56), "b": (33, 47), "sub/c": (14, 60), "d": (70, 51)}
STEPS = {"steps": 2, "hole_margin": 3, "feather": 2}


def train(data: Path, folder: Path, **values) -> Path:
    assert command_line.run("train", **{**WINDOWS, "data_dir": data, "output_dir": folder, **values}) == 0
    return folder


@pytest.fixture(scope="session")
def parts(tmp_path_factory) -> Path:
    return write_parts(tmp_path_factory.mktemp("data") / "parts")


@pytest.fixture(scope="session")
def painter(parts, tmp_path_factory) -> Path:
    """An inpainting network of gray windows at full scale."""
    return train(parts, tmp_path_factory.mktemp("runs") / "painter")


@pytest.fixture(scope="session")
def halving(parts, tmp_path_factory) -> Path:
    """One that sees the images at half their size."""
    return train(parts, tmp_path_factory.mktemp("runs") / "halving", scale=0.5)


@pytest.fixture(scope="session")
def color_painter(tmp_path_factory) -> Path:
    data = write_parts(tmp_path_factory.mktemp("data") / "color", channels=3)
    return train(data, tmp_path_factory.mktemp("runs") / "color", image_channels=3)


@pytest.fixture(scope="session")
def plates(tmp_path_factory) -> Path:
    """A dataset of defects on plates."""
    return write_parts(tmp_path_factory.mktemp("data") / "plates", host=PLATE)


@pytest.fixture(scope="session")
def plate_painter(plates, tmp_path_factory) -> Path:
    return train(plates, tmp_path_factory.mktemp("runs") / "plates")


@pytest.fixture
def good(tmp_path) -> Path:
    return write_good(tmp_path / "good", SIZES)


@pytest.fixture
def place(painter, parts, good, tmp_path, isdm):
    """Run `place` with few steps; `place("name", key=value)` returns the results folder and the printed text."""

    def run(name: str, **values) -> tuple[Path, str]:
        base = {"model_path": painter, "data_dir": parts, "good_dir": good, "results_path": tmp_path / name}
        code, shown, errors = isdm("place", **{**base, **STEPS, **values})
        assert code == 0, errors
        return tmp_path / name, shown

    return run


def pixels_of(path: Path) -> np.ndarray:
    """Return the samples of a file, of its own type."""
    with Image.open(path) as image:
        image.load()
        deep = None if image.mode in ("L", "RGB") else deep_samples(image, str(path))
        return np.asarray(image) if deep is None else deep.squeeze()


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "config.json"
    }


def pairs_of(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in bytes_of(folder).items() if name.startswith(("images", "masks", "mani"))}


def check_pairs(folder: Path, *, margin: int, ordinary: tuple[int, ...] = (BACKGROUND,)) -> None:
    """Outside the holes images are the good ones; masks have the defects that the manifest names, and no others."""
    lines = lines_of(folder)
    assert lines
    for line in lines:
        good, result = pixels_of(Path(line["good_image"])), pixels_of(folder / line["image"])
        label = pixels_of(folder / line["mask"])
        assert result.dtype == good.dtype
        assert result.shape == good.shape
        mask = ~np.isin(label, ordinary)
        hole = ndimage.distance_transform_edt(~mask) <= margin if mask.any() else mask
        assert np.array_equal(result[~hole], good[~hole])
        found = {
            (NAMES[part.class_id], (part.box.left, part.box.top, part.box.right, part.box.bottom))
            for part in find_components(label, (SPOT, CRACK))
        }
        assert {(defect["class"], tuple(defect["box"])) for defect in line["defects"]} == found
        if mask.any():
            assert not np.array_equal(result[mask], good[mask])


class TestPixels:
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


class TestSameBytes:
    def test_whatever_the_batch(self, place):
        folders = [place(f"batch{size}", batch_size=size, num_samples=6)[0] for size in (1, 5, 8)]
        first, *others = (pairs_of(folder) for folder in folders)
        assert len(first) == 13
        assert all(other == first for other in others)

    def test_of_deep_images_whatever_the_batch(self, place, tmp_path):
        good = write_good(tmp_path / "deep", SIZES, kind=np.uint16)
        first, second = (place(f"deep{size}", good_dir=good, batch_size=size)[0] for size in (1, 5))
        for line in lines_of(first):
            one, other = (pixels_of(folder / line["image"]).astype(int) for folder in (first, second))
            # The sums of a network are not rounded alike for all sizes of a batch; 65,536 levels show it.
            assert np.abs(one - other).max() <= 2
        assert (first / "manifest.jsonl").read_text() == (second / "manifest.jsonl").read_text()

    def test_other_seeds_give_others(self, place):
        first, second = (pairs_of(place(f"seed{seed}", seed=seed)[0]) for seed in (0, 1))
        assert all(first[name] != second[name] for name in first if name.startswith("images"))

    @pytest.mark.slow
    def test_in_two_processes(self, place, painter, parts, good, tmp_path):
        one, _ = place("one", num_samples=6, batch_size=5)
        values = {"model_path": painter, "data_dir": parts, "good_dir": good, "results_path": tmp_path / "two"}
        processes = start_pair("place", {**values, **STEPS, "num_samples": 6, "batch_size": 2}, tmp_path / "shown")
        assert [finish(process) for process in processes] == [0, 0]
        assert pairs_of(tmp_path / "two") == pairs_of(one)
        assert (tmp_path / "two" / "contact_sheet.png").exists()

    @pytest.mark.slow
    def test_a_mistake_ends_both_processes(self, painter, parts, good, tmp_path):
        values = {"model_path": painter, "data_dir": parts, "good_dir": good, "results_path": tmp_path / "two"}
        processes = start_pair("place", {**values, "classes": ["crack"], "defect_classes": ["spots"]}, tmp_path / "log")
        assert [finish(process) for process in processes] == [2, 2]
        shown = "".join((tmp_path / f"log.{rank}").read_text() for rank in range(2))
        assert shown.count("error: ") == 1
        assert not (tmp_path / "two").exists()

    @pytest.mark.slow
    @pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
    def test_after_kill_9(self, place, painter, parts, good, tmp_path):
        values = {"model_path": painter, "data_dir": parts, "good_dir": good, "results_path": tmp_path / "killed"}
        many = {"num_samples": 40, "batch_size": 1, "steps": 20, "hole_margin": 3, "feather": 2}
        process, images = start("place", {**values, **many}), tmp_path / "killed" / "images"
        deadline = time.monotonic() + 120
        while process.is_alive() and time.monotonic() < deadline and len(list(images.rglob("*.png"))) < 3:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert 3 <= len(list(images.rglob("*.png"))) < 40
        folder, shown = place("killed", **many)
        assert "are there already" in shown
        assert bytes_of(folder) == bytes_of(place("whole", **many)[0])


class TestGoingOn:
    def test_more_pairs_than_good_images(self, place):
        """Each use of a good image has defects of its own."""
        folder, _ = place("more", num_samples=10)
        lines = lines_of(folder)
        check_pairs(folder, margin=3)
        assert [line["image"] for line in lines][::4] == ["images/a.png", "images/a_rep001.png", "images/a_rep002.png"]
        assert len({line["seed"] for line in lines}) == 10
        assert (folder / "images/a.png").read_bytes() != (folder / "images/a_rep001.png").read_bytes()

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

    @pytest.mark.parametrize(
        "other",
        [
            {"s": 2},
            {"hole_margin": 4},
            {"feather": 1},
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
        values = {"model_path": painter, "data_dir": parts, "good_dir": good, "results_path": folder, **STEPS}
        code, _, errors = isdm("place", **{**values, "num_samples": 2, **other})
        assert code == 2
        (line,) = errors
        check_error(line, folder / "manifest.jsonl", "results_path")
        assert bytes_of(folder) == before

    def test_changed_training_data_are_refused(self, place, painter, tmp_path, good, isdm):
        data = write_parts(tmp_path / "changing")
        folder, _ = place("first", data_dir=data, num_samples=2)
        write_png(data / "train/masks/part_0.png", defects(3))
        code, _, errors = isdm(
            "place",
            **{"model_path": painter, "data_dir": data, "good_dir": good, "results_path": folder, **STEPS},
        )
        assert code == 2
        check_error(errors[0], folder / "manifest.jsonl", "training masks", "results_path")


class TestMaskSources:
    def test_the_results_are_a_dataset(self, place, isdm, tmp_path):
        folder, _ = place("dataset", split="train", num_samples=6)
        values = {"dataset_mode": "multi-class", "image_size": 16, "image_channels": 1, "resize": "window"}
        code, shown, errors = isdm("check", data_dir=folder, output_dir=tmp_path / "check", **values)
        assert code == 0, errors
        assert "6 pairs" in shown

    def test_number_and_classes(self, place):
        folder, _ = place("cracks", classes=["crack"], defects_per_image=3, num_samples=4)
        check_pairs(folder, margin=3)
        for line in lines_of(folder):
            assert {defect["class"] for defect in line["defects"] + line["skipped"]} == {"crack"}
            assert len(line["defects"]) + len(line["skipped"]) == 3
            assert all(defect["source"].startswith("part_") for defect in line["defects"])

    def test_what_finds_no_place_is_counted(self, place, tmp_path):
        good = write_good(tmp_path / "small", {"a": (20, 20)})
        folder, shown = place("crowded", good_dir=good, defects_per_image=12)
        (line,) = lines_of(folder)
        assert len(line["defects"]) + len(line["skipped"]) == 12
        assert line["skipped"]
        assert all(skipped["reason"] for skipped in line["skipped"])
        assert "not placed" in shown
        check_pairs(folder, margin=3)

    def test_label_maps_become_the_masks(self, place, good, tmp_path):
        label = np.zeros((40, 56), np.uint8)
        label[3:9, 50:56] = SPOT  # at the border, and touching the crack
        label[9:20, 52:54] = CRACK
        write_png(tmp_path / "maps/a.png", label)
        folder, shown = place("maps_results", mask_source="dir", placed_masks=tmp_path / "maps")
        assert "3 of 4 good images" in shown
        assert np.array_equal(pixels_of(folder / "masks/a.png"), label)
        check_pairs(folder, margin=3)
        # Without the dataset, all classes but the background are defects.
        alone, _ = place("maps_alone", mask_source="dir", placed_masks=tmp_path / "maps", data_dir="")
        assert pairs_of(alone)["images/a.png"] == pairs_of(folder)["images/a.png"]

    def test_other_classes_of_label_maps_are_kept_and_unasked_defects_left_out(self, place, plate_painter, tmp_path):
        label = defects(1, host=PLATE)
        write_png(tmp_path / "maps/a.png", label)
        values = {"model_path": plate_painter, "mask_source": "dir", "placed_masks": tmp_path / "maps", "data_dir": ""}
        folder, _ = place("kept", **values, defect_classes=["spot", "crack"], classes=["crack"])
        expected = np.where(label == SPOT, PLATE, label)
        assert np.array_equal(pixels_of(folder / "masks/a.png"), expected)
        check_pairs(folder, margin=3, ordinary=(BACKGROUND, PLATE))

    def test_a_list_of_placements(self, place, tmp_path):
        wanted = {"a": [{"class": "spot", "center": [28, 20]}], "d": [{"class": "crack", "center": [10, 60]}] * 2}
        (tmp_path / "list.json").write_text(json.dumps(wanted))
        folder, _ = place("listed", mask_source="file", placements=tmp_path / "list.json", edit=False)
        check_pairs(folder, margin=3)
        first, second = lines_of(folder)
        ((left, top, right, bottom),) = (defect["box"] for defect in first["defects"])
        assert abs((left + right) / 2 - 28) <= 1
        assert abs((top + bottom) / 2 - 20) <= 1
        assert len(second["defects"]) == len(second["skipped"]) == 1

    def test_a_region(self, place, good, tmp_path):
        left = np.zeros((40, 56), np.uint8)
        left[:, :28] = 255
        write_png(tmp_path / "left.png", left)
        only = write_good(tmp_path / "only", {"a": (40, 56)})
        folder, _ = place("left_results", good_dir=only, region=tmp_path / "left.png", num_samples=4, place="anywhere")
        assert any(line["defects"] for line in lines_of(folder))
        for line in lines_of(folder):
            assert not pixels_of(folder / line["mask"])[:, 28:].any()

    def test_a_folder_of_regions(self, place, good, tmp_path):
        for name, size in SIZES.items():
            region = np.zeros(size, np.uint8)
            region[: size[0] // 2] = 255
            write_png(tmp_path / f"regions/{name}.png", region)
        folder, _ = place("regions_results", region=tmp_path / "regions", place="anywhere")
        for line in lines_of(folder):
            label = pixels_of(folder / line["mask"])
            assert not label[label.shape[0] // 2 :].any()

    def test_hosts(self, place, plates, plate_painter, tmp_path):
        good = write_good(tmp_path / "plates", {"a": (40, 56), "b": (60, 70)}, masks=True)
        folder, _ = place("hosts", model_path=plate_painter, data_dir=plates, good_dir=good, num_samples=6)
        check_pairs(folder, margin=3, ordinary=(BACKGROUND, PLATE))
        assert sum(len(line["defects"]) for line in lines_of(folder)) > 3
        for line in lines_of(folder):
            label = pixels_of(folder / line["mask"])
            name = Path(line["good_image"]).name
            before = pixels_of(good / "masks" / name)
            defect = np.isin(label, (SPOT, CRACK))
            assert (before[defect] == PLATE).all()
            assert np.array_equal(label[~defect], before[~defect])

    def test_what_the_model_cannot_see_is_not_placed(self, place, halving, tmp_path):
        label = np.zeros((40, 56), np.uint8)
        label[11, 11] = CRACK  # a quarter of a pixel at half size
        label[20:26, 30:36] = SPOT
        write_png(tmp_path / "maps/a.png", label)
        folder, shown = place("thin", model_path=halving, mask_source="dir", placed_masks=tmp_path / "maps")
        (line,) = lines_of(folder)
        assert [defect["class"] for defect in line["defects"]] == ["spot"]
        assert [defect["class"] for defect in line["skipped"]] == ["crack"]
        assert np.array_equal(pixels_of(folder / "masks/a.png"), np.where(label == CRACK, 0, label))
        assert "1 crack" in shown

    def test_ignored_pixels_stay_ignored(self, place, good, tmp_path):
        label = np.zeros((40, 56), np.uint8)
        label[20:26, 30:36] = SPOT
        label[0:4] = 200
        write_png(tmp_path / "maps/a.png", label)
        values = {"mask_source": "dir", "placed_masks": tmp_path / "maps", "data_dir": "", "ignore_label": 200}
        folder, _ = place("ignored", **values)
        written = pixels_of(folder / "masks/a.png")
        ignored = json.loads((folder / "classes.json").read_text())["ignore"]["values"]
        assert np.isin(written[:4], ignored).all()
        assert np.array_equal(written[4:], label[4:])

    def test_with_edges(self, place, parts, tmp_path):
        model = train(parts, tmp_path / "edges", no_instance=False)
        folder, _ = place("edges_results", model_path=model, num_samples=2)
        check_pairs(folder, margin=3)


class TestErase:
    def test_defects_are_painted_over(self, place, parts):
        folder, shown = place("healed", erase=True, good_dir="")
        lines = lines_of(folder)
        assert len(lines) == 6
        for line in lines:
            original = pixels_of(Path(line["good_image"]))
            label = pixels_of(parts / "train/masks" / Path(line["good_image"]).name)
            result = pixels_of(folder / line["image"])
            hole = ndimage.distance_transform_edt(label == 0) <= 3
            assert np.array_equal(result[~hole], original[~hole])
            assert not np.array_equal(result[label > 0], original[label > 0])
            assert not pixels_of(folder / line["mask"]).any()
            assert len(line["defects"]) == len(find_components(label, (SPOT, CRACK)))
        assert "painted over" in shown

    def test_healed_images_are_good_images(self, place, plates, plate_painter):
        values = {"model_path": plate_painter, "data_dir": plates}
        healed, _ = place("healed", erase=True, good_dir="", split="train", **values)
        for path in (healed / "train/masks").iterdir():
            before = pixels_of(plates / "train/masks" / path.name)
            assert np.array_equal(pixels_of(path), np.where(before >= SPOT, PLATE, before))
        folder, _ = place("again", good_dir=healed / "train", **values)
        check_pairs(folder, margin=3, ordinary=(BACKGROUND, PLATE))

    def test_of_one_class(self, place, parts):
        folder, _ = place("cracks", erase=True, good_dir="", classes=["crack"])
        lines = lines_of(folder)
        assert [Path(line["good_image"]).stem for line in lines] == ["part_1", "part_3", "part_5"]
        for line in lines:
            before = pixels_of(parts / "train/masks" / Path(line["good_image"]).name)
            assert np.array_equal(pixels_of(folder / line["mask"]), np.where(before == CRACK, 0, before))


class TestMistakes:
    @pytest.fixture
    def refused(self, painter, parts, good, tmp_path, isdm):
        """Run `place`, which has to end with one line about `subject`, and write nothing."""

        def run(subject: str | Path, *shown: object, **values) -> None:
            base = {"model_path": painter, "data_dir": parts, "good_dir": good, "results_path": tmp_path / "out"}
            before = set(tmp_path.rglob("*"))
            code, _, errors = isdm("place", **{**base, **STEPS, **values})
            assert code == 2
            (line,) = errors
            check_error(line, subject, *shown)
            assert set(tmp_path.rglob("*")) == before

        return run

    def test_no_good_images(self, refused, tmp_path):
        (tmp_path / "empty").mkdir()
        refused(tmp_path / "empty", good_dir=tmp_path / "empty")
        refused(tmp_path / "none", "good_dir", good_dir=tmp_path / "none")
        refused("good_dir", "erase", good_dir="")

    def test_other_channels(self, refused, tmp_path, color_painter, good):
        colored = write_good(tmp_path / "colored", {"a": (40, 56)}, channels=3)
        refused(colored / "a.png", "image_channels 3", good_dir=colored)
        refused(good / "a.png", "image_channels 1", model_path=color_painter)

    def test_other_channels_further_on(self, refused, tmp_path, color_painter):
        good = write_good(tmp_path / "mixed", {"a": (40, 56)}, channels=3)
        write_good(good, {"b": (40, 56)})
        refused(good / "b.png", "image_channels 1", good_dir=good, model_path=color_painter)

    def test_windows_larger_than_every_image(self, refused, tmp_path):
        small = write_good(tmp_path / "small", {"a": (12, 15), "b": (10, 10)})
        refused("good_dir", "15x12", "16x16", good_dir=small)

    def test_classes(self, refused, tmp_path):
        refused("classes", "plate", classes=["plate"], defect_classes=["plate"])
        refused("classes", "cracks", "crack", classes=["cracks"])

    def test_label_maps_of_another_size(self, refused, good, tmp_path):
        write_png(tmp_path / "maps/a.png", defects(0, (41, 56)))
        refused(tmp_path / "maps/a.png", "56x41", mask_source="dir", placed_masks=tmp_path / "maps")
        write_png(tmp_path / "other/z.png", defects(0))
        refused(tmp_path / "other", "a.png", mask_source="dir", placed_masks=tmp_path / "other")

    def test_masks_and_regions_of_another_size(self, refused, tmp_path):
        good = write_good(tmp_path / "masked", {"a": (40, 56)}, masks=True)
        write_png(good / "masks/a.png", defects(0, (40, 57)))
        refused(good / "masks/a.png", "57x40", "56x40", good_dir=good)
        write_png(tmp_path / "region.png", np.full((30, 30), 255, np.uint8))
        refused(tmp_path / "region.png", "30x30", region=tmp_path / "region.png")
        (tmp_path / "regions").mkdir()
        refused(tmp_path / "regions/a.png", region=tmp_path / "regions")
        refused(tmp_path / "nowhere", "region", region=tmp_path / "nowhere")

    def test_a_list_with_a_center_outside(self, refused, tmp_path):
        path = tmp_path / "list.json"
        path.write_text(
            json.dumps({"a": [{"class": "spot", "center": [10, 10]}, {"class": "spot", "center": [60, 1]}]})
        )
        refused(path, "56 x 40", mask_source="file", placements=path)
        path.write_text("{}")
        refused(path, mask_source="file", placements=path)

    def test_other_networks(self, refused, trained, parts, tmp_path_factory):
        folder = tmp_path_factory.mktemp("wrong")
        plain = train(parts, folder / "plain", inpaint=False)
        squashed = train(parts, folder / "squashed", resize="squash")
        bare = folder / "bare.safetensors"
        assert command_line.run("export", model_path=plain, export_path=bare) == 0
        refused("model_path", "inpaint", model_path=plain)
        refused("model_path", "squash", "window", model_path=squashed)
        bare_keys = {"dataset_mode": "multi-class", "image_size": 16, "num_heads": 4, "num_classes": 4}
        refused("model_path", "bare", model_path=bare, **bare_keys)

    def test_results_among_what_is_read(self, refused, good, parts, tmp_path):
        refused("results_path", "good_dir", results_path=good / "results")
        refused("results_path", "good_dir", results_path=good)
        refused("results_path", "good_dir", results_path=tmp_path)
        refused("results_path", "data_dir", results_path=parts)
        write_png(tmp_path / "around/masks/a.png", defects(0))
        maps = {"mask_source": "dir", "placed_masks": tmp_path / "around/masks"}
        refused("results_path", "placed_masks", results_path=tmp_path / "around", **maps)

    def test_keys(self, refused, tmp_path):
        refused("hole_margins", "hole_margin", hole_margins=3)
        refused("feather", hole_margin=3, feather=4)
        refused("erase", "good_dir", erase=True)
        refused("region", "erase", erase=True, good_dir="", region=tmp_path)
        refused("region", "mask_source", mask_source="dir", placed_masks=tmp_path, region=tmp_path)
        refused("mask_source", "erase", erase=True, good_dir="", mask_source="dir", placed_masks=tmp_path)
        refused("placed_masks", mask_source="dir")
        refused("data_dir", data_dir="")

    def test_samples_of_sample(self, refused, trained, lemons, tmp_path, isdm):
        values = {"model_path": trained, "data_dir": lemons, "results_path": tmp_path / "samples"}
        assert isdm("sample", **values, num_samples=1, steps=2)[0] == 0
        refused("results_path", "sample", results_path=tmp_path / "samples")


def test_the_sheet_shows_the_pairs(place):
    folder, _ = place("sheet", num_samples=2)
    assert min(pixels_of(folder / "contact_sheet.png").shape[:2]) > 100


def test_sizes_of_the_dataset_are_those_of_the_tests():
    assert SIZES["a"] == SIZE
