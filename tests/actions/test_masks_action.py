"""`masks`: new masks of a dataset, the same bytes however they are made, and the origin of samples of them."""

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
from parts import NAMES, bytes_of, lines_of, pixels_of, write_parts
from PIL import Image
from processes import finish, kill_at_files, start, start_pair

from guided_diffusion.config.load import load_config
from guided_diffusion.data.components import find_components
from guided_diffusion.data.visualize import evenly_spaced
from guided_diffusion.pipelines.mask_editing import compare_masks, open_masks

FILES = {
    "classes.json", "manifest.jsonl", "statistics.json", "contact_sheet.png", "environment.json", "dataset_card.md",
}  # fmt: skip


def counts(label: np.ndarray) -> dict[int, int]:
    found = [part.class_id for part in find_components(label, range(1, len(NAMES)))]
    return {class_id: found.count(class_id) for class_id in found}


@pytest.fixture
def masks(parts, tmp_path, isdm):
    """Run `masks`; `masks("name", key=value)` returns the results folder and the printed text."""

    def run(name: str, **values) -> tuple[Path, str]:
        base = {"data_dir": parts, "dataset_mode": "multi-class", "results_path": tmp_path / name}
        code, shown, errors = isdm("masks", **{**base, **values})
        assert code == 0, errors
        return tmp_path / name, shown

    return run


class TestResults:
    def test_masks_keep_the_classes_and_counts_of_their_bases(self, masks):
        folder, shown = masks("new", num_masks=18)
        lines = lines_of(folder)
        assert [line["index"] for line in lines] == list(range(18))
        for line in lines:
            label, base = pixels_of(folder / line["mask"]), pixels_of(Path(line["base"]["mask"]))
            assert label.shape == base.shape
            assert counts(label) == counts(base)
            assert line["split"] == "train"
        assert {path.name for path in folder.iterdir()} >= FILES
        check_card(folder, 18, "6 of parts (train)", "There are no images", "Against the masks of the dataset")
        assert str(folder / "contact_sheet.png") in shown
        assert "novelty" in shown

    def test_as_many_as_the_split_has(self, masks):
        folder, _ = masks("all")
        assert len(lines_of(folder)) == 6
        assert len({line["base"]["mask"] for line in lines_of(folder)}) == 6

    def test_statistics(self, masks):
        record = json.loads((masks("new")[0] / "statistics.json").read_text())
        assert record["masks"] == record["training_masks"] == 6
        assert {"masks", "training", "test"} == record["novelty"].keys()
        assert {"area", "class sets", "near copies"} <= {line["statistic"] for line in record["lines"]}

    def test_colored_masks_stay_colored(self, masks, tmp_path):
        colors = [(0, 0, 0), (250, 10, 10), (10, 250, 10)]
        for number in range(5):
            label = np.zeros((30, 40), np.uint8)
            label[5:12, 5 + number : 14 + number] = 1
            label[20:25, 25:33] = 2
            for split in ("train", "test"):
                write_png(tmp_path / f"rgb/{split}/images/{number}.png", np.full((30, 40, 1), 90, np.uint8))
                picture = Image.fromarray(np.array(colors, np.uint8)[label])
                (tmp_path / f"rgb/{split}/masks").mkdir(parents=True, exist_ok=True)
                picture.save(tmp_path / f"rgb/{split}/masks/{number}.png")
        classes = {str(index): {"name": f"c{index}", "color": color} for index, color in enumerate(colors)}
        (tmp_path / "rgb/classes.json").write_text(json.dumps(classes))
        folder, _ = masks("new", data_dir=tmp_path / "rgb")
        with Image.open(folder / "masks/edited_000000.png") as image:
            assert image.mode == "RGB"
            assert {color for _, color in image.getcolors()} == {*colors}

    def test_ignored_pixels_stay(self, masks, tmp_path):
        data = write_parts(tmp_path / "data")
        for path in (data / "train/masks").iterdir():
            label = pixels_of(path).copy()
            label[:, -6:] = 255
            write_png(path, label)
        folder, _ = masks("new", data_dir=data, ignore_label=255, num_masks=12)
        for line in lines_of(folder):
            label, base = pixels_of(folder / line["mask"]), pixels_of(Path(line["base"]["mask"]))
            assert np.array_equal(label == 255, base == 255)

    def test_masks_that_a_class_fills_are_counted(self, masks, tmp_path):
        """Folders of before they were told apart hold other masks, and are not gone on with."""
        data = write_parts(tmp_path / "data")
        path = next((data / "train/masks").iterdir())
        write_png(path, np.full_like(pixels_of(path), 1))
        assert {line["settings"]["filled"] for line in lines_of(masks("new", data_dir=data)[0])} == {1}


class TestSameBytes:
    def test_other_seeds_give_others(self, masks):
        first, second = (bytes_of(masks(f"seed{seed}", seed=seed)[0] / "masks") for seed in (0, 1))
        assert all(first[name] != second[name] for name in first)

    def test_more_masks_later(self, masks):
        folder, _ = masks("grown", num_masks=4)
        before = {path: path.stat().st_mtime_ns for path in folder.glob("masks/*.png")}
        _, shown = masks("grown", num_masks=9)
        assert "4 are there already" in shown
        assert {path: path.stat().st_mtime_ns for path in before} == before
        assert bytes_of(folder) == bytes_of(masks("at_once", num_masks=9)[0])

    def test_a_damaged_mask_is_made_again(self, masks):
        folder, _ = masks("new")
        before = bytes_of(folder)
        (folder / "masks/edited_000002.png").write_bytes(before["masks/edited_000002.png"][:40])
        (folder / "masks/edited_000003.png").unlink()
        _, shown = masks("new")
        assert "2 were damaged" in shown
        assert "(masks/edited_000002.png, masks/edited_000003.png)" in shown
        assert bytes_of(folder) == before

    def test_the_config_that_is_left_can_be_given_again(self, masks, isdm):
        folder, _ = masks("new")
        before = bytes_of(folder)
        code, _, errors = isdm("masks", folder / "config.json")
        assert code == 0, errors
        assert bytes_of(folder) == before

    @pytest.mark.slow
    def test_in_two_processes(self, masks, parts, tmp_path):
        one, _ = masks("one", num_masks=15)
        values = {"data_dir": parts, "dataset_mode": "multi-class", "results_path": tmp_path / "two", "num_masks": 15}
        processes = start_pair("masks", values, tmp_path / "shown")
        assert [finish(process) for process in processes] == [0, 0]
        assert bytes_of(tmp_path / "two") == bytes_of(one)

    @pytest.mark.slow
    def test_a_mistake_ends_both_processes(self, parts, tmp_path):
        values = {"data_dir": parts, "dataset_mode": "multi-class", "results_path": tmp_path / "two"}
        processes = start_pair("masks", {**values, "movable": ["crak"]}, tmp_path / "log")
        assert [finish(process) for process in processes] == [2, 2]
        shown = "".join((tmp_path / f"log.{rank}").read_text() for rank in range(2))
        assert shown.count("error: ") == 1
        assert not (tmp_path / "two").exists()

    @pytest.mark.slow
    @pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
    def test_after_kill_9(self, masks, parts, tmp_path):
        values = {"data_dir": parts, "dataset_mode": "multi-class", "results_path": tmp_path / "killed"}
        process, made = start("masks", {**values, "num_masks": 200}), tmp_path / "killed" / "masks"
        kill_at_files(process, made, 5)
        assert 5 <= len(list(made.glob("*.png"))) < 200
        folder, shown = masks("killed", num_masks=200)
        assert "are there already" in shown
        assert bytes_of(folder) == bytes_of(masks("whole", num_masks=200)[0])


@pytest.mark.parametrize("most", [4, 12, 1000])
def test_near_copies_and_their_floor_are_of_the_same_masks(monkeypatch, tmp_path, most):
    """Training masks shown as new ones are as near to the others as the floor says, however many are compared."""
    for number in range(12):  # six objects, twice each
        label = np.zeros((48, 48, 1), np.uint8)
        label[3 * (number // 2) : 3 * (number // 2) + 9, 4:20] = 1
        label[3 * (number // 2), 4] = number % 2
        for kind, pixels in (("images", np.full_like(label, number)), ("masks", label)):
            write_png(tmp_path / f"data/train/{kind}/{number:02d}.png", pixels)
    (tmp_path / "data/classes.json").write_text(json.dumps({"0": "background", "1": "dent"}))
    values = {"data_dir": str(tmp_path / "data"), "dataset_mode": "multi-class", "results_path": str(tmp_path / "new")}
    config = load_config("masks", values)
    source = open_masks(config, progress=False)
    monkeypatch.setattr("guided_diffusion.pipelines.mask_editing._MOST_COMPARED", (1, most, 3e8))
    numbers = evenly_spaced(range(12), most)
    shown = [source.read(number) for number in numbers]
    novelty = [source.index.nearest(label, without=number)[0] for label, number in zip(shown, numbers, strict=True)]
    (line,) = (each for each in compare_masks(config, source, shown, novelty).lines if each.name == "near copies")
    assert line.value == line.floor == 1


class TestMistakes:
    @pytest.mark.parametrize(
        ("values", "key"),
        [
            ({"num_mask": 3}, "num_mask"),
            ({"place": "priors"}, "place"),
            ({"movable": ["crak"]}, "movable"),
            ({"movable": ["background"]}, "movable"),
            ({"movable": []}, "movable"),
            ({"class_balance": 1.5}, "class_balance"),
            ({"min_novelty": 1}, "min_novelty"),
            ({"scaling": 0.5}, "scaling"),
            ({"data_split": "val"}, "data_split"),
            ({"dataset_mode": "multiclass"}, "dataset_mode"),
            ({"dataset_mode": "images"}, "dataset_mode"),
            ({"flip_pairs": [["spot", "spots"]]}, "flip_pairs"),
            ({"num_masks": 0}, "num_masks"),
        ],
    )
    def test_of_the_config(self, isdm, parts, tmp_path, values, key):
        base = {"data_dir": parts, "dataset_mode": "multi-class", "results_path": tmp_path / "new"}
        code, _, errors = isdm("masks", **{**base, **values})
        assert code == 2
        assert len(errors) == 1
        assert key in errors[0]
        assert not (tmp_path / "new").exists()

    @pytest.mark.parametrize("other", [{"seed": 1}, {"place": "anywhere"}, {"rotation": 5}, {"random_flip": False}])
    def test_other_settings_in_one_folder(self, masks, isdm, parts, tmp_path, other):
        folder, _ = masks("new")
        before = bytes_of(folder)
        base = {"data_dir": parts, "dataset_mode": "multi-class", "results_path": folder}
        code, _, errors = isdm("masks", **{**base, **other})
        assert code == 2
        check_error(errors[0], folder / "manifest.jsonl", next(iter(other)))
        assert bytes_of(folder) == before

    @pytest.mark.slow
    def test_other_exchanged_classes_in_one_folder(self, masks, isdm, tmp_path):
        """Pairs are not in the manifest, so that folders of earlier versions go on; it is what they say that counts."""
        data = write_parts(tmp_path / "data")
        names = {"0": "background", "1": "plate", "2": "left spot", "3": "right spot"}
        (data / "classes.json").write_text(json.dumps(names), encoding="utf-8")
        default, none, same = None, [], [["right spot", "left spot"]]
        for first, goes_on, other in ((default, same, none), (none, none, default)):
            name = "new" if first is default else "none"
            folder, _ = masks(name, data_dir=data, num_masks=3, flip_pairs=first)
            masks(name, data_dir=data, num_masks=4, flip_pairs=goes_on)
            before = bytes_of(folder)
            values = {"data_dir": data, "dataset_mode": "multi-class", "results_path": folder, "flip_pairs": other}
            code, _, errors = isdm("masks", **values, num_masks=5)
            assert code == 2
            check_error(errors[0], folder / "manifest.jsonl", "flip_pairs")
            assert bytes_of(folder) == before

    def test_other_masks_in_one_folder(self, masks, isdm, tmp_path):
        data = write_parts(tmp_path / "data")
        folder, _ = masks("new", data_dir=data)
        label = pixels_of(data / "train/masks/part_0.png")
        write_png(data / "train/masks/part_0.png", np.roll(label, 2))
        values = {"data_dir": data, "dataset_mode": "multi-class", "results_path": folder}
        code, _, errors = isdm("masks", **values)
        assert code == 2
        check_error(errors[0], folder / "manifest.jsonl", "dataset")

    def test_files_that_are_not_ours(self, isdm, parts, tmp_path):
        own = tmp_path / "new/masks/mine.png"
        write_png(own, np.zeros((4, 4, 1), np.uint8))
        values = {"data_dir": parts, "dataset_mode": "multi-class", "results_path": tmp_path / "new"}
        code, _, errors = isdm("masks", **values)
        assert code == 2
        check_error(errors[0], own, "results_path")

    def test_results_among_the_data(self, isdm, parts):
        for folder in (parts, parts / "train", parts / "train/masks"):
            code, _, errors = isdm("masks", data_dir=parts, dataset_mode="multi-class", results_path=folder)
            assert code == 2
            assert "results_path" in errors[0]

    def test_results_of_another_action(self, isdm, parts, painter):
        code, _, errors = isdm("masks", data_dir=parts, dataset_mode="multi-class", results_path=painter)
        assert code == 2
        assert "results_path" in errors[0]

    def test_no_such_data(self, isdm, tmp_path):
        values = {"data_dir": tmp_path / "none", "dataset_mode": "binary", "results_path": tmp_path / "new"}
        code, _, errors = isdm("masks", **values)
        assert code == 2
        assert str(tmp_path / "none") in errors[0]


class TestOddData:
    def one(self, tmp_path: Path, label: np.ndarray, test: bool = False) -> Path:
        for split in ("train", "test") if test else ("train",):
            write_png(tmp_path / f"odd/{split}/images/a.png", np.full((*label.shape, 1), 90, np.uint8))
            write_png(tmp_path / f"odd/{split}/masks/a.png", label)
        return tmp_path / "odd"

    def test_one_pair_without_a_test_split(self, masks, tmp_path):
        label = np.zeros((40, 50), np.uint8)
        label[10:20, 10:25] = 1
        folder, _ = masks("new", data_dir=self.one(tmp_path, label), num_classes=2, num_masks=5)
        assert [line["novelty"] > 0 for line in lines_of(folder)] == [True] * 5

    @pytest.mark.parametrize("value", [0, 1])
    @pytest.mark.parametrize("mode", ["multi-class", "binary"])
    def test_a_class_that_fills_the_image(self, masks, tmp_path, value, mode):
        data = self.one(tmp_path, np.full((40, 50), value, np.uint8), test=True)
        folder, _ = masks("new", data_dir=data, num_classes=2, num_masks=3, dataset_mode=mode)
        assert all((pixels_of(folder / line["mask"]) == value).all() for line in lines_of(folder))

    def test_a_single_class(self, masks, tmp_path):
        data = self.one(tmp_path, np.zeros((40, 50), np.uint8))
        folder, _ = masks("new", data_dir=data, num_classes=1)
        assert len(lines_of(folder)) == 1

    def test_masks_of_the_test_split_are_said_to_be_such(self, masks):
        folder, shown = masks("new", data_split="test")
        assert "warning: data_split is test" in shown
        assert {line["split"] for line in lines_of(folder)} == {"test"}


class TestLineage:
    """Samples of new masks, and what `evaluate` makes of them."""

    @pytest.fixture
    def new_masks(self, lemons, tmp_path, isdm):
        def make(split: str) -> Path:
            folder = tmp_path / f"masks_{split}"
            values = {"data_dir": lemons, "dataset_mode": "multi-class", "results_path": folder, "data_split": split}
            code, _, errors = isdm("masks", **values, num_masks=12)
            assert code == 0, errors
            return folder

        return make

    @pytest.fixture
    def sampled(self, trained, tmp_path, isdm):
        def run(mask_dir: Path, name: str = "samples") -> Path:
            values = {"model_path": trained, "mask_dir": mask_dir, "results_path": tmp_path / name, "steps": 2}
            code, _, errors = isdm("sample", **values)
            assert code == 0, errors
            return tmp_path / name

        return run

    @pytest.mark.slow
    def test_samples_name_the_masks_of_the_split(self, new_masks, sampled, lemons):
        folder = new_masks("train")
        by_file = {line["mask"]: line for line in lines_of(folder)}
        for given in (folder, folder / "masks"):
            lines = lines_of(sampled(given, f"samples_of_{given.name}"))
            assert len(lines) == 12
            for line in lines:
                made = by_file[f"masks/{Path(line['source_mask']).name}"]
                assert line["lineage"]["split"] == "train"
                assert line["lineage"]["masks"] == (made["donors"] or [made["base"]])
                assert all(Path(mask["mask"]).parent == lemons / "train/masks" for mask in line["lineage"]["masks"])

    @pytest.mark.slow
    def test_masks_without_a_record_have_no_lineage(self, new_masks, sampled, tmp_path):
        shutil.copytree(new_masks("train") / "masks", tmp_path / "copied")
        assert not any("lineage" in line for line in lines_of(sampled(tmp_path / "copied")))

    def test_unfinished_masks_are_refused(self, new_masks, trained, isdm, tmp_path):
        folder = new_masks("train")
        (folder / ".synthetic").touch()
        code, _, errors = isdm("sample", model_path=trained, mask_dir=folder, results_path=tmp_path / "samples")
        assert code == 2
        check_error(errors[0], folder, "finished")

    def evaluate(self, isdm, lemons, samples: Path, **values):
        base = {"data_dir": lemons, "synthetic_dir": samples, "output_dir": samples.parent / "report"}
        quality = {"inception_weights": "none", "lpips_weights": "none", "agreement": False, "image_size": 32}
        return isdm("evaluate", **{**base, **quality, "study": False, **values})

    @pytest.mark.slow
    def test_evaluate_knows_where_they_come_from(self, new_masks, sampled, isdm, lemons):
        samples = sampled(new_masks("train"))
        code, shown, errors = self.evaluate(isdm, lemons, samples)
        assert code == 0, errors
        assert "unknown" not in shown
        record = json.loads((samples.parent / "report/report.json").read_text())
        assert record["masks"]["masks"] == 12
        assert record["masks"]["novelty"]["masks"]["median"] > 0
        assert "Are the masks like the training masks?" in (samples.parent / "report/report.html").read_text()

    @pytest.mark.slow
    def test_without_the_manifest_it_does_not(self, new_masks, sampled, isdm, lemons):
        samples = sampled(new_masks("train"))
        (samples / "manifest.jsonl").unlink()
        code, shown, errors = self.evaluate(isdm, lemons, samples)
        assert code == 0, errors
        assert "are unknown" in shown

    @pytest.mark.slow
    def test_a_study_refuses_masks_made_of_test_masks(self, new_masks, sampled, isdm, lemons):
        samples = sampled(new_masks("test"))
        small = {
            "architectures": "fpn",
            "encoder": "tu-lcnet_050",
            "encoder_weights": "none",
            "seeds": 1,
            "ratios": [0.5],
        }
        code, _, errors = self.evaluate(isdm, lemons, samples, study=True, train_steps=2, batch_size=2, **small)
        assert code == 2
        check_error(errors[0], samples, "test split")
