"""Where the defects of `place` come from and go to, and painting over those of a dataset."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from odd_images import write_png
from parts import (
    BACKGROUND,
    CRACK,
    PLATE,
    SIZES,
    SPOT,
    check_pairs,
    defects,
    lines_of,
    pairs_of,
    pixels_of,
    train,
    write_good,
    write_parts,
)
from scipy import ndimage

from guided_diffusion.data.components import find_components
from guided_diffusion.samples.manifest import file_digest

pytestmark = pytest.mark.slow


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

    def test_shapes_of_new_masks(self, place, isdm, parts, tmp_path):
        """They are those of the folder, and the manifest says which training masks they were made of."""
        values = {"data_dir": parts, "dataset_mode": "multi-class", "num_masks": 3}
        code, _, errors = isdm("masks", **values, results_path=tmp_path / "new")
        assert code == 0, errors
        folder, _ = place("new_shapes", data_dir="", bank_dir=tmp_path / "new", num_samples=4)
        check_pairs(folder, margin=3)
        names = {path.stem for path in (tmp_path / "new/masks").iterdir()}
        known = {file_digest(path) for path in (parts / "train/masks").iterdir()}
        lines = [line for line in lines_of(folder) if line["defects"]]
        assert lines
        for line in lines:
            assert {defect["source"].partition("#")[0] for defect in line["defects"]} <= names
            digests = {each["digest"] for each in line["lineage"]["masks"]}
            assert digests
            assert digests <= known

    @pytest.mark.parametrize(("level", "says"), [(250, False), (130, True)])
    def test_defects_that_are_too_faint_are_named(self, place, tmp_path, level, says):
        """The training defects are at 250, on noise around 106; what was placed is changed, and looked at again."""
        values = {"data_dir": write_parts(tmp_path / "more", pairs=10), "classes": ["spot"], "num_samples": 12}
        folder, _ = place("seen", defects_per_image=1, **values)
        for line in lines_of(folder):
            image, label = pixels_of(folder / line["image"]).copy(), pixels_of(folder / line["mask"])
            image[label == SPOT] = level
            write_png(folder / line["image"], image)
        _, shown = place("seen", defects_per_image=1, **values)
        warnings = [line for line in shown.splitlines() if line.startswith("warning:")]
        assert ["spot" in line for line in warnings] == [True] * says
        card = (folder / "dataset_card.md").read_text()
        (row,) = (line for line in card[card.index("## Contrast") :].splitlines() if line.startswith("| spot |"))
        assert float(row.split("|")[-2]) == pytest.approx((level - 106) / (250 - 106), abs=0.1)

    def test_training_defects_are_pasted_first(self, place):
        """They are at 250, on noise around 106. This network has learned nothing, and keeps of them what it has to."""
        means = {}
        for level in (None, 3, 0.05):
            folder, _ = place(f"from_{level}", classes=["spot"], num_samples=4, steps=20, paste_noise=level)
            check_pairs(folder, margin=3)
            pixels = [
                pixels_of(folder / line["image"])[pixels_of(folder / line["mask"]) == SPOT] for line in lines_of(folder)
            ]
            means[level] = np.concatenate(pixels).mean()
        assert means[0.05] > 200
        assert max(means[None], means[3]) < 170
        assert {line["paste_noise"] for line in lines_of(folder)} == {0.05}
        base = {"classes": ["spot"], "num_samples": 4, "steps": 20, "paste_noise": 0.1}
        with pytest.raises(AssertionError):  # another level, in a folder that has pairs
            place("from_0.05", **base)

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
        folder, shown = place("kept", **values, defect_classes=["spot", "crack"], classes=["crack"])
        assert "warning" not in shown
        expected = np.where(label == SPOT, PLATE, label)
        assert np.array_equal(pixels_of(folder / "masks/a.png"), expected)
        check_pairs(folder, margin=3, ordinary=(BACKGROUND, PLATE))
        # Where nothing says what is a defect, it is said what masks will lack.
        folder, shown = place("taken_off", **values, classes=["crack"])
        assert "classes leaves out plate (in 1), spot (in 1) of 1 label map:" in shown
        assert set(np.unique(pixels_of(folder / "masks/a.png"))) == {BACKGROUND, CRACK}

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

    @pytest.mark.parametrize("channels", [1, 2, 4])
    def test_a_region(self, place, tmp_path, channels):
        left = np.full((40, 56, channels), 255, np.uint8)
        left[:, 28:, -1] = 0  # black, or transparent
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
            original, result = (pixels_of(folder / "train/images" / path.name) for folder in (plates, healed))
            away = ndimage.distance_transform_edt(before < SPOT)
            margin = (away > 0) & (away <= 2) & (before == PLATE)  # the rim that a mask may miss
            assert np.mean(result[margin] != original[margin]) > 0.5
        folder, _ = place("again", good_dir=healed / "train", **values)
        check_pairs(folder, margin=3, ordinary=(BACKGROUND, PLATE))

    def test_of_one_class(self, place, parts):
        folder, _ = place("cracks", erase=True, good_dir="", classes=["crack"])
        lines = lines_of(folder)
        assert [Path(line["good_image"]).stem for line in lines] == ["part_1", "part_3", "part_5"]
        for line in lines:
            before = pixels_of(parts / "train/masks" / Path(line["good_image"]).name)
            assert np.array_equal(pixels_of(folder / line["mask"]), np.where(before == CRACK, 0, before))

    def test_the_others_keep_their_pixels_however_near_they_are(self, place, parts):
        folder, _ = place("near", erase=True, good_dir="", classes=["crack"], hole_margin=16)
        reached = 0
        for line in lines_of(folder):
            original, result = pixels_of(Path(line["good_image"])), pixels_of(folder / line["image"])
            label = pixels_of(parts / "train/masks" / Path(line["good_image"]).name)
            reached += np.sum((ndimage.distance_transform_edt(label != CRACK) <= 16) & (label == SPOT))
            assert np.array_equal(result[label == SPOT], original[label == SPOT])
            assert not np.array_equal(result[label == CRACK], original[label == CRACK])
        assert reached
