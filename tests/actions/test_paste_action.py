"""`paste`: only pixels of defects change, they are those of training images at their depth, and runs go on."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from cards import check_card
from error_lines import check_error
from odd_images import write_png
from parts import (
    NAMES,
    PLATE,
    SIZE,
    SIZES,
    bytes_of,
    check_pairs,
    defects,
    lines_of,
    noise,
    pairs_of,
    pixels_of,
    write_good,
    write_parts,
)
from PIL import Image
from processes import finish, kill_at_files, start, start_pair
from scipy import ndimage

from evaluations.blending import poisson_blend
from guided_diffusion.data.components import find_components
from guided_diffusion.data.datasets import read_mask
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.scan.scan import scan_dataset


@pytest.fixture
def values(parts, good, tmp_path) -> dict:
    return {"data_dir": parts, "dataset_mode": "multi-class", "good_dir": good, "results_path": tmp_path / "pasted"}


@pytest.fixture
def paste(values, tmp_path, isdm):
    """Run `paste`; `paste("name", key=value)` returns the results folder and the printed text."""

    def run(name: str, **others) -> tuple[Path, str]:
        code, shown, errors = isdm("paste", **{**values, "results_path": tmp_path / name, **others})
        assert code == 0, errors
        return tmp_path / name, shown

    return run


@pytest.fixture
def one_spot(tmp_path) -> tuple[Path, np.ndarray, np.ndarray]:
    """A dataset of one pair, in 16 bits, its image and its mask."""
    image, label = noise(SIZE, 0, kind=np.uint16), defects(0)
    image[label > 0] = 50_000 + np.arange(25)[:, None]
    for name, pixels in (("images", image), ("masks", label)):
        write_png(tmp_path / "one" / "train" / name / "part.png", pixels)
    (tmp_path / "one" / "classes.json").write_text(json.dumps(dict(enumerate(NAMES))))
    return tmp_path / "one", image[..., 0], label


class TestPixels:
    @pytest.mark.parametrize("kind", [np.uint8, np.uint16])
    @pytest.mark.parametrize("blend", ["match", "poisson", "none"])
    def test_only_defects_change(self, paste, tmp_path, kind, blend):
        good = write_good(tmp_path / "gray", SIZES, kind=kind)
        folder, shown = paste("gray_results", good_dir=good, blend=blend, num_samples=6)
        check_pairs(folder, margin=0)
        assert "6 images" in shown
        assert json.loads((folder / "config.json").read_text())["image_channels"] == 1

    def test_colored_ones_too(self, paste, tmp_path):
        data = write_parts(tmp_path / "data", channels=3)
        folder, _ = paste("rgb", data_dir=data, good_dir=write_good(tmp_path / "rgb_good", SIZES, channels=3))
        check_pairs(folder, margin=0)

    def test_unedited_defects_are_copied_at_the_depth_of_their_files(self, paste, one_spot, tmp_path):
        data, image, label = one_spot
        good = write_good(tmp_path / "deep", {"a": SIZE}, kind=np.uint16)
        same = {"data_dir": data, "good_dir": good, "edit": False, "place": "keep"}
        folder, _ = paste("as_it_is", blend="none", **same)
        before, plain = pixels_of(good / "a.png"), pixels_of(folder / "images/a.png")
        assert np.array_equal(plain, np.where(label > 0, image, before))
        matched = pixels_of(paste("matched", blend="match", **same)[0] / "images/a.png")
        rim = ndimage.binary_dilation(label > 0) & (label == 0)
        shift = before[rim].astype(float).mean() - image[rim].astype(float).mean()
        assert np.abs(matched.astype(float) - image - shift)[label > 0].max() <= 1
        blended = pixels_of(paste("blended", blend="poisson", **same)[0] / "images/a.png")
        assert np.array_equal(blended, poisson_blend(before, image.astype(float), label > 0, 0, 0))

    @pytest.mark.parametrize("source", ["bank", "file"])
    def test_transparent_pixels_stay_and_have_no_defect(self, paste, one_spot, tmp_path, source):
        data, _, label = one_spot
        alpha = np.full(SIZE, 255, np.uint8)
        alpha[:, : np.flatnonzero(label.any(0))[2]] = 0
        good = np.stack([noise(SIZE, 1)[..., 0], alpha], axis=-1)
        write_png(tmp_path / "clear" / "a.png", good)
        same = {"edit": False, "mask_source": source}
        if source == "file":  # where half of it is transparent
            places = {"a": [{"class": "spot", "component": "part#0", "center": [14.5, 12.5]}]}
            (tmp_path / "places.json").write_text(json.dumps(places))
            same["placements"] = tmp_path / "places.json"
        folder, _ = paste("clear_results", data_dir=data, good_dir=tmp_path / "clear", **same)
        result, mask = (pixels_of(folder / kind / "a.png") for kind in ("images", "masks"))
        assert 0 < (mask > 0).sum() < 25 + (source == "bank")
        assert not (mask[alpha == 0] > 0).any()
        result = result.reshape(*SIZE, -1)
        assert np.array_equal((result[..., 0] != good[..., 0]) | (result[..., -1] != alpha), mask > 0)
        (line,) = lines_of(folder)
        rows, columns = np.nonzero(mask)
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert [defect["box"] for defect in line["defects"]] == [box]


@pytest.mark.parametrize("exif", ["apply", "ignore", None])
def test_a_region_lies_where_the_good_image_has_it(paste, tmp_path, exif):
    """Drawn on the picture as it is shown, where that is not told: its size tells."""
    size = (SIZE[1], SIZE[0]) if exif != "ignore" else SIZE
    good = write_png(tmp_path / "turned/a.png", noise(SIZE, 1), orientation=6).parent
    region = np.zeros(size, np.uint8)
    region[: size[0] // 2] = 255
    file = write_png(tmp_path / "region.png", region)
    folder, _ = paste("regional", good_dir=good, region=file, num_samples=4, place="anywhere", exif=exif)
    for line in lines_of(folder):
        label = pixels_of(folder / line["mask"])
        assert label.shape == size
        assert not (label[region == 0] > 0).any()


def test_masks_of_palettes_and_grays_read_back(paste, isdm, tmp_path):
    """Most masks are palettes, whose index of the defect is not its value in classes.json."""
    data = tmp_path / "mixed"
    for number in range(5):
        label = (defects(2 * (number % 3)) > 0).astype(np.uint8)
        write_png(data / f"train/images/{number}.png", np.where(label[..., None], np.uint8(250), noise(SIZE, number)))
        (data / "train/masks").mkdir(exist_ok=True)
        mask = Image.fromarray(label if number > 1 else label * 255, "P" if number > 1 else "L")
        if number > 1:
            mask.putpalette([0, 0, 0, 255, 0, 0])
        mask.save(data / f"train/masks/{number}.png")
    classes = {"background": (0, [0, 0, 0]), "defect": (255, [255, 0, 0])}
    entries = {
        i: {"name": name, "value": value, "color": color} for i, (name, (value, color)) in enumerate(classes.items())
    }
    (data / "classes.json").write_text(json.dumps(entries))
    folder, _ = paste("of_palettes", data_dir=data, dataset_mode="binary", defects_per_image=1)
    for kind in ("images", "masks"):
        for file in (folder / kind).glob("*.png"):
            shutil.copy(file, data / "train" / kind / f"pasted_{file.name}")
    code, shown, _ = isdm("check", data_dir=data, dataset_mode="binary", output_dir=tmp_path / "check", image_size=16)
    assert code == 0, shown
    report = scan_dataset(data, get_mode("binary"), "train", progress=False)
    for line in lines_of(folder):
        label = read_mask(folder / line["mask"], report.raise_if_fatal()).numpy()
        assert len(find_components(label, (1,))) == len(line["defects"]) > 0


def test_files_say_that_they_are_made_of_photographs(paste, parts):
    folder, _ = paste("marked")
    for line in lines_of(folder):
        content = (folder / line["image"]).read_bytes()
        assert b"TrainedAlgorithmicMedia" not in content
        assert (b"compositeCapture" in content) == bool(line["defects"]) == line["synthetic"]
    text = check_card(folder, 4, "## Defects", f"defects of | {parts.name}", "good images | 4 of good,", "`blend`")
    assert "diffusion" not in text


class TestChannels:
    @pytest.mark.parametrize("channels", [2, 3, 4])
    def test_files_that_could_hold_colors_and_have_none_are_gray(self, paste, tmp_path, channels):
        gray = noise(SIZE, 1)
        alpha = [np.full((*SIZE, 1), 255, np.uint8)] * (channels in (2, 4))
        write_png(tmp_path / "gray/a.png", np.dstack([gray] * (channels - len(alpha)) + alpha))
        folder, _ = paste("from_gray", good_dir=tmp_path / "gray")
        assert json.loads((folder / "config.json").read_text())["image_channels"] == 1

    @pytest.mark.parametrize("colored", [False, True])
    def test_deep_images_of_other_colors_than_the_good_ones_are_converted_as_shallow_ones(
        self, paste, one_spot, tmp_path, colored
    ):
        data, image, label = one_spot
        good = np.broadcast_to(np.uint8([90] if colored else [80, 90, 100]), (*SIZE, 1 if colored else 3)).copy()
        if colored:
            image = np.dstack([image, image // 2, image // 3])
            write_png(data / "train/images/part.png", image)
        write_png(tmp_path / "shallow/a.png", good)
        folder, _ = paste(
            "converted", data_dir=data, good_dir=tmp_path / "shallow", edit=False, place="keep", blend="none"
        )
        wanted = image / 257 @ np.array([0.299, 0.587, 0.114]) if colored else np.dstack([image / 257] * 3)
        result = pixels_of(folder / "images/a.png").astype(float)
        assert result.shape == wanted.shape
        assert np.abs(result - wanted)[label > 0].max() <= 1

    def test_one_folder_has_one_number_of_channels(self, paste, values, isdm, tmp_path):
        good = write_png(tmp_path / "gray/a.png", np.dstack([noise(SIZE, 1)] * 3)).parent
        folder, _ = paste("from_gray", good_dir=good, image_channels=1)
        again = {**values, "good_dir": good, "results_path": folder, "num_samples": 2, "image_channels": 3}
        code, _, errors = isdm("paste", **again)
        assert code == 2
        check_error(errors[0], folder / "manifest.jsonl", "image_channels")


class TestTold:
    def test_classes_that_are_taken_for_objects(self, paste, tmp_path):
        data = write_parts(tmp_path / "hosts", host=PLATE)
        good = write_good(tmp_path / "hosts_good", SIZES, masks=True)
        _, shown = paste("hosted", data_dir=data, good_dir=good)
        assert "plate is taken for an object" in shown
        _, shown = paste("named", data_dir=data, good_dir=good, defect_classes=["spot", "crack"])
        assert "taken for" not in shown

    def test_good_images_of_several_pages(self, paste, tmp_path):
        pages = [Image.fromarray(noise(SIZE, number)[..., 0]) for number in range(2)]
        (tmp_path / "pages").mkdir()
        pages[0].save(tmp_path / "pages/a.tif", save_all=True, append_images=pages[1:])
        pages[0].save(tmp_path / "pages/b.tif")
        _, shown = paste("of_pages", good_dir=tmp_path / "pages")
        (line,) = (line for line in shown.splitlines() if "pages or frames" in line)
        assert line.startswith(f"warning: {tmp_path / 'pages/a.tif'}: ")

    def test_images_too_small_for_any_defect(self, paste, tmp_path):
        folder, shown = paste("tiny", good_dir=write_good(tmp_path / "tiny_good", {"a": (2, 1), "b": (1, 2)}))
        assert "warning: no image has got a defect" in shown
        assert "larger than the image" in shown
        assert [line["defects"] for line in lines_of(folder)] == [[], []]


class TestEvaluation:
    @pytest.mark.slow
    def test_takes_what_it_needs_from_the_record(self, paste, parts, isdm, tmp_path):
        folder, _ = paste("judged", num_samples=6)
        asked = {"image_size": 32, "study": False, "agreement": False, "inception_weights": "none"}
        out = tmp_path / "report"
        code, _, errors = isdm("evaluate", data_dir=parts, synthetic_dir=folder, output_dir=out, **asked)
        assert code == 0, errors
        record = json.loads((out / "config.json").read_text())
        assert (record["dataset_mode"], record["image_channels"]) == ("multi-class", 1)

    @pytest.mark.slow
    def test_refuses_pairs_made_of_test_images(self, paste, parts, isdm, tmp_path):
        folder, _ = paste("leaking", good_dir=parts / "test/images")
        asked = {"data_dir": parts, "synthetic_dir": folder, "image_size": 32, "encoder_weights": "none"}
        code, _, (line,) = isdm("evaluate", output_dir=tmp_path / "report", **asked)
        assert code == 2
        check_error(line, folder, "3 of 3", "test")


class TestGoingOn:
    @pytest.mark.slow
    def test_more_pairs_later(self, paste):
        folder, _ = paste("grown", num_samples=3)
        before = {path: path.stat().st_mtime_ns for path in folder.glob("*/*.png")}
        _, shown = paste("grown", num_samples=10)
        assert {path: path.stat().st_mtime_ns for path in before} == before
        assert "3 are there already" in shown
        assert pairs_of(folder) == pairs_of(paste("at_once", num_samples=10)[0])

    def test_the_config_that_is_left_can_be_given_again(self, paste, isdm):
        folder, _ = paste("again")
        before = bytes_of(folder)
        code, _, errors = isdm("paste", folder / "config.json")
        assert code == 0, errors
        assert bytes_of(folder) == before

    @pytest.mark.parametrize("other", [{"blend": "none"}, {"gap": 3}, {"seed": 1}, {"edit": False}], ids=str)
    def test_other_settings_are_refused(self, paste, values, isdm, other):
        folder, _ = paste("first", num_samples=2)
        before = bytes_of(folder)
        code, _, (line,) = isdm("paste", **{**values, "results_path": folder, "num_samples": 2, **other})
        assert code == 2
        check_error(line, folder / "manifest.jsonl", "results_path")
        assert bytes_of(folder) == before

    def test_changed_training_images_are_refused(self, paste, values, tmp_path, isdm):
        """Their pixels are in the pairs."""
        data = write_parts(tmp_path / "changing")
        folder, _ = paste("first", data_dir=data, num_samples=2)
        write_png(data / "train/images/part_0.png", noise(SIZE, 77))
        code, _, (line,) = isdm("paste", **{**values, "data_dir": data, "results_path": folder, "num_samples": 2})
        assert code == 2
        check_error(line, folder / "manifest.jsonl", "results_path")

    @pytest.mark.slow
    def test_in_two_processes(self, paste, values, tmp_path):
        one, _ = paste("one", num_samples=6)
        two = {**values, "results_path": tmp_path / "two", "num_samples": 6}
        assert [finish(process) for process in start_pair("paste", two, tmp_path / "shown")] == [0, 0]
        assert pairs_of(tmp_path / "two") == pairs_of(one)

    @pytest.mark.slow
    @pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
    def test_after_kill_9(self, paste, values, tmp_path):
        many = {"num_samples": 400}
        process = start("paste", {**values, "results_path": tmp_path / "killed", **many})
        kill_at_files(process, tmp_path / "killed" / "images", 2)
        assert 2 <= len(list((tmp_path / "killed" / "images").rglob("*.png"))) < 400
        folder, _ = paste("killed", **many)
        assert bytes_of(folder) == bytes_of(paste("whole", **many)[0])


class TestMistakes:
    @pytest.fixture
    def refused(self, values, tmp_path, isdm):
        """Run `paste`, which has to end with one line about `subject`, and write nothing."""

        def run(subject: str | Path, *shown: object, **others) -> None:
            before = set(tmp_path.rglob("*"))
            code, _, (line,) = isdm("paste", **{**values, **others})
            assert code == 2
            check_error(line, subject, *shown)
            assert set(tmp_path.rglob("*")) == before

        return run

    def test_nothing_to_paste(self, refused, parts):
        masks = parts / "train/masks"
        refused("mask_source", "place", mask_source="dir", placed_masks=masks)
        refused("gap", "placements", mask_source="file", placements=parts / "classes.json", gap=3)
        refused("dataset_mode", "no masks", dataset_mode="images")
        refused("classes", "cracks", classes=["cracks"])

    def test_shapes_of_other_masks(self, values, parts, isdm):
        code, _, errors = isdm("paste", **values, bank_dir=parts / "train/masks")
        assert code == 2
        check_error(errors[0], "bank_dir", "place")

    def test_no_good_images(self, refused, tmp_path):
        refused(tmp_path / "none", "good_dir", good_dir=tmp_path / "none")
        refused("pyproject.toml", "file", good_dir="pyproject.toml")
        refused("good_dir", good_dir="")

    def test_training_images_with_defects_are_no_good_images(self, refused, tmp_path, good, parts):
        shutil.copytree(good, tmp_path / "both")
        copy = shutil.copy(parts / "train/images/part_1.png", tmp_path / "both/z.png")
        refused(copy, parts / "train/images/part_1.png", good_dir=tmp_path / "both")

    def test_channels_that_differ(self, refused, tmp_path, good):
        refused(good / "a.png", "image_channels", image_channels=3)
        colored = write_good(tmp_path / "mixed", {"a": SIZE}, channels=3)
        write_good(colored, {"b": SIZE})
        refused(colored / "b.png", "image_channels", good_dir=colored)
        gray = write_good(tmp_path / "gray_first", {"a": SIZE})
        write_good(gray, {"b": SIZE}, channels=3)
        refused(gray / "a.png", "image_channels", good_dir=gray)
        refused(gray / "b.png", "image_channels is 1", good_dir=gray, image_channels=1)

    def test_results_among_the_sources(self, refused, good, parts):
        refused("results_path", "good_dir", results_path=good)
        refused("results_path", "data_dir", results_path=parts / "train")

    def test_results_of_another_action(self, paste, isdm, values):
        folder, _ = paste("first")
        code, _, errors = isdm("place", **{**values, "model_path": folder, "results_path": folder})
        assert code == 2
        assert errors
