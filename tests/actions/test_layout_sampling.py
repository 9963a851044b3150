"""`sample` from a model of boxes: images by layouts alone, predicted masks, objects, and where layouts come from."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from box_model import box_model
from boxed import boxed_copy
from cards import check_card
from error_lines import check_errors
from parts import bytes_of, lines_of, pixels_of
from processes import finish, kill_at_files, start, start_pair

from guided_diffusion.conditions.layout import WHOLE_BOX, LayoutCondition, object_styles
from guided_diffusion.pipelines.layout_drawing import draw_layouts
from guided_diffusion.pipelines.load import load_pipeline
from guided_diffusion.runtime.errors import DataError

NAMES = ["background", "lemon", "blemish", "mould", "gangrene"]
ASKED = {"data_dir": "", "layout_source": "file", "layout_file": "l.json"}
FEW = {"steps": 2, "s": 1.5}
BORDER = 0.005  # share of pixels of a mask that lie at the threshold
LEMON = {"class": "lemon", "box": [0.1, 0.2, 0.9, 0.8]}
MOULD = {"class": "mould", "box": [0.2, 0.3, 0.5, 0.6]}
SPOT = {"class": 2, "box": [0.6, 0.4, 0.7, 0.6]}


@pytest.fixture
def sample(box_run, lemons, tmp_path, isdm):
    """Run `sample`; `sample("name", key=value)` returns the results folder and the printed text."""

    def run(name: str, **values) -> tuple[Path, str]:
        base = {"model_path": box_run, "results_path": tmp_path / name, **FEW}
        if "layout_file" not in values:
            base["data_dir"] = lemons
        code, shown, errors = isdm("sample", **{**base, **values})
        assert code == 0, errors
        return tmp_path / name, shown

    return run


@pytest.fixture
def evaluate(lemons, tmp_path, isdm):
    """Run `evaluate` with the smallest study; `evaluate(folder)` returns exit code, errors and the report."""

    def run(folder: Path) -> tuple[int, list[str], str]:
        values = {"data_dir": lemons, "dataset_mode": "multi-class", "image_size": 32, "inception_weights": "none"}
        values |= {"lpips_weights": "none", "architectures": "unet", "encoder": "resnet18", "encoder_weights": "none"}
        values |= {"train_steps": 1, "seeds": 1, "ratios": "1", "batch_size": 2, "objects": False}
        code, _, errors = isdm("evaluate", synthetic_dir=folder, output_dir=tmp_path / "evaluated", **values)
        report = tmp_path / "evaluated" / "report.json"
        return code, errors, report.read_text() if report.exists() else ""

    return run


def layout_file(path: Path, *layouts: list[dict], **more) -> Path:
    content = {"units": "shares", "layouts": [{"name": f"l{i}", "objects": each} for i, each in enumerate(layouts)]}
    path.write_text(json.dumps({**content, **more}))
    return path


def assert_same(folder: Path, other: Path) -> None:
    """Check that two folders have the same bytes; other batches may round a gray level or a mask's border otherwise."""
    found, expected = bytes_of(folder), bytes_of(other)
    assert found.keys() == expected.keys()
    for name, content in found.items():
        if name.startswith("images/"):
            change = pixels_of(folder / name).astype(int) - pixels_of(other / name)
            assert np.abs(change).max() <= 1, name
        elif name.startswith("masks/"):
            assert (pixels_of(folder / name) != pixels_of(other / name)).mean() <= BORDER, name
        elif not name.endswith("contact_sheet.png"):
            assert content == expected[name], name


def seeds_of(line: dict) -> list[int]:
    predicted = line["predicted"]
    return [predicted["background"]["style_seed"], *(each["style_seed"] for each in predicted["objects"])]


class TestSameBytes:
    @pytest.mark.slow
    def test_for_any_batch(self, sample):
        alone, some = (sample(f"b{size}", batch_size=size)[0] for size in (1, 3))
        assert_same(alone, some)
        assert len(list((alone / "images").iterdir())) == 4
        check_card(alone, 4, "the masks are what the model says".capitalize(), "layouts | digest", "`layout_source`")

    @pytest.mark.slow
    def test_for_one_batch(self, sample):
        assert bytes_of(sample("one")[0]) == bytes_of(sample("two")[0])

    @pytest.mark.slow
    @pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm++2m-sde"])
    def test_for_any_batch_and_sampler(self, sample, sampler):
        values = {"sampler": sampler, "steps": 2, "num_samples": 3}
        assert_same(*(sample(f"b{size}", batch_size=size, **values)[0] for size in (1, 3)))

    @pytest.mark.slow
    def test_more_samples_later(self, sample):
        folder, _ = sample("grown", num_samples=2)
        before = bytes_of(folder)
        _, shown = sample("grown", num_samples=5)
        assert "2 are there already" in shown
        after = bytes_of(folder)
        assert all(after[name] == value for name, value in before.items() if name.startswith(("images", "masks")))
        assert_same(folder, sample("at_once", num_samples=5)[0])

    def test_the_config_that_is_left_can_be_given_again(self, sample, isdm):
        folder, _ = sample("again", layout_source="recombine", num_samples=2)
        before = bytes_of(folder)
        assert isdm("sample", folder / "config.json")[0] == 0
        assert bytes_of(folder) == before

    @pytest.mark.slow
    def test_in_two_processes(self, sample, box_run, lemons, tmp_path):
        one, _ = sample("one", num_samples=7)
        values = {"model_path": box_run, "data_dir": lemons, "results_path": tmp_path / "two", "num_samples": 7, **FEW}
        processes = start_pair("sample", values, tmp_path / "shown")
        assert [finish(process) for process in processes] == [0, 0]
        assert_same(tmp_path / "two", one)

    @pytest.mark.slow
    @pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
    def test_after_kill_9(self, sample, box_run, lemons, tmp_path):
        values = {
            "model_path": box_run,
            "data_dir": lemons,
            "results_path": tmp_path / "killed",
            "batch_size": 1,
            **FEW,
        }
        process = start("sample", {**values, "num_samples": 24})
        kill_at_files(process, tmp_path / "killed" / "images", 3)
        assert len(list((tmp_path / "killed/images").glob("*.png"))) < 24
        folder, shown = sample("killed", num_samples=24)
        assert re.search(r", (1 is|\d+ are) there already", shown)
        assert_same(folder, sample("whole", num_samples=24)[0])


class TestStyles:
    def test_adding_and_moving_boxes_leaves_the_others(self, sample, tmp_path):
        moved = {**MOULD, "box": [0.3, 0.4, 0.6, 0.7]}
        layouts = ([LEMON, MOULD], [LEMON, moved, SPOT])
        seeds, images = [], []
        for number, objects in enumerate(layouts):
            path = layout_file(tmp_path / f"l{number}.json", objects)
            folder, _ = sample(f"s{number}", layout_source="file", layout_file=path)
            seeds.append(seeds_of(lines_of(folder)[0]))
            images.append(pixels_of(folder / "images/l0.png"))
        assert seeds[1][:3] == seeds[0]
        assert len({*seeds[1]}) == 4
        assert not np.array_equal(*images)

    def test_the_condition_has_the_styles_of_seed_image_and_object(self, sample):
        line = lines_of(sample("s", seed=5, num_samples=2)[0])[1]
        styles = object_styles(5, 1, len(seeds_of(line)), 6)
        for seed, style in zip(seeds_of(line), styles, strict=True):
            assert torch.equal(torch.empty(6).normal_(generator=torch.Generator().manual_seed(seed)), style)

    @pytest.mark.slow
    def test_style_seed_changes_looks_alone(self, sample):
        first, second = (sample(f"style{seed}", style_seed=seed, num_samples=1)[0] for seed in (0, 1))
        one, two = lines_of(first)[0], lines_of(second)[0]
        assert one["seed"] == two["seed"]
        assert set(seeds_of(one)).isdisjoint(seeds_of(two))
        assert [each["box"] for each in one["predicted"]["objects"]] == [
            each["box"] for each in two["predicted"]["objects"]
        ]
        assert not np.array_equal(pixels_of(first / one["image"]), pixels_of(second / two["image"]))
        assert seeds_of(lines_of(sample("plain", num_samples=1)[0])[0]) == seeds_of(one), "null: the seed of the run"

    @pytest.mark.slow
    def test_objects_json_is_a_layout_file_of_the_same_images(self, sample):
        folder, _ = sample("first")
        again, shown = sample("again", layout_source="file", layout_file=folder / "objects.json", style_seed=9)
        assert "warning: style_seed is given, but every object" in shown
        for kind in ("images", "masks"):
            assert bytes_of(again / kind) == bytes_of(folder / kind)
        assert [line["lineage"] for line in lines_of(again)] == [line["lineage"] for line in lines_of(folder)]

    @pytest.mark.slow
    def test_objects_follow_the_image(self, sample):
        """Random weights, but far from none: the layout decides pixels."""
        guided, plain = sample("guided", s=3)[0], sample("null", s=0)[0]
        assert not np.array_equal(
            pixels_of(guided / "images/lemon_0000.png"), pixels_of(plain / "images/lemon_0000.png")
        )


class TestPredictedMasks:
    def test_masks_lie_in_boxes(self, sample):
        folder, _ = sample("all")
        for line in lines_of(folder):
            label = pixels_of(folder / line["mask"])
            height, width = label.shape
            for class_id in set(np.unique(label).tolist()) - {0}:
                rows, columns = np.nonzero(label == class_id)
                boxes = [each["box"] for each in line["predicted"]["objects"] if each["class"] == NAMES[class_id]]
                for y, x in zip(rows, columns, strict=True):
                    middle = (x + 0.5) / width, (y + 0.5) / height
                    assert any(
                        x0 - 0.5 / width <= middle[0] <= x1 + 0.5 / width
                        and y0 - 0.5 / height <= middle[1] <= y1 + 0.5 / height
                        for x0, y0, x1, y1 in boxes
                    )

    def test_an_empty_layout_is_background(self, sample, tmp_path):
        folder, _ = sample("empty", layout_source="file", layout_file=layout_file(tmp_path / "l.json", []))
        assert not pixels_of(folder / "masks/l0.png").any()

    def test_the_manifest_calls_them_predicted(self, sample):
        folder, shown = sample("named", num_samples=1)
        (line,) = lines_of(folder)
        assert line["predicted"]["steps"] == 2
        assert line["predicted"]["objects"][0]["class"] in NAMES
        assert "predicted" in shown
        assert str(folder / "objects.json") in shown

    @pytest.mark.slow
    def test_check_says_that_they_are_predicted(self, sample, isdm, tmp_path):
        for split in ("train", "test"):
            sample("data", data_split=split, split=split)
        code, shown, errors = isdm(
            "check",
            data_dir=tmp_path / "data",
            dataset_mode="multi-class",
            output_dir=tmp_path / "check",
            image_size=16,
        )
        assert code == 0, errors
        assert "8 masks of train are predicted" in shown or "4 masks of test are predicted" in shown

    @pytest.mark.slow
    def test_evaluate_refuses_layouts_of_the_test(self, sample, evaluate):
        code, errors, _ = evaluate(sample("test")[0])
        assert code == 2
        assert len(errors) == 1
        assert "4 of 4 samples" in errors[0]

    @pytest.mark.slow
    def test_evaluate_says_that_masks_are_predicted(self, sample, evaluate):
        code, errors, report = evaluate(sample("train", data_split="train")[0])
        assert code == 0, errors
        assert "predicted" in report

    @pytest.mark.slow
    def test_they_are_masks_for_a_semantic_model(self, sample, trained, isdm, tmp_path):
        folder, _ = sample("boxes", data_split="train", num_samples=2)
        out = tmp_path / "semantic"
        code, _, errors = isdm("sample", model_path=trained, mask_dir=folder, results_path=out, steps=2)
        assert code == 0, errors
        for line, before in zip(lines_of(out), lines_of(folder), strict=True):
            assert line["lineage"] == before["lineage"]
            assert line["mask_checkpoint"] == before["checkpoint"]


class TestSources:
    @pytest.mark.slow
    def test_boxes_of_annotations(self, lemons, tmp_path, isdm, evaluate):
        data = boxed_copy(lemons, tmp_path / "boxed", names={1: "lemon", 2: "blemish", 3: "mould", 4: "gangrene"})
        model = box_model(data, tmp_path / "run", dataset_mode="boxes")
        out = tmp_path / "out"
        code, _, errors = isdm("sample", model_path=model, data_dir=data, results_path=out, **FEW)
        assert code == 0, errors
        lines = lines_of(out)
        assert [line["image"] for line in lines] == [f"images/lemon_{number:04d}.png" for number in range(4)]
        for line in lines:
            (origin,) = line["lineage"]["images"]
            assert Path(origin["mask"]).stem == Path(line["image"]).stem
            assert line["lineage"]["split"] == "test"
        code, errors, _ = evaluate(out)  # with masks of the same images
        assert code == 2
        assert "4 of 4 samples" in errors[0]

    @pytest.mark.slow
    def test_recombined_layouts(self, sample):
        folder, _ = sample("new", layout_source="recombine", num_samples=5)
        lines = lines_of(folder)
        assert [line["image"] for line in lines] == [f"images/sample_{number:06d}.png" for number in range(5)]
        assert {line["lineage"]["split"] for line in lines} == {"train"}
        again = lines_of(sample("same", layout_source="recombine", num_samples=2)[0])
        assert [line["predicted"] for line in again] == [line["predicted"] for line in lines[:2]]
        other = lines_of(sample("other", layout_source="recombine", num_samples=2, seed=1)[0])
        assert [line["predicted"] for line in other] != [line["predicted"] for line in lines[:2]]

    def test_a_changed_file_is_refused(self, sample, box_run, tmp_path, isdm):
        path = layout_file(tmp_path / "l.json", [LEMON])
        folder, _ = sample("out", layout_source="file", layout_file=path)
        layout_file(path, [LEMON, MOULD])
        values = {"model_path": box_run, "results_path": folder, "layout_source": "file", "layout_file": path, **FEW}
        code, _, errors = isdm("sample", **values)
        assert code == 2
        check_errors(errors, str(folder / "manifest.jsonl"))

    @pytest.mark.parametrize(
        ("values", "key"),
        [
            ({"layout_source": "file"}, "layout_file"),
            ({"layout_file": "l.json"}, "layout_file"),
            ({"layout_source": "file", "layout_file": "l.json"}, "data_dir"),
            ({"layout_source": "boxes"}, "layout_source"),
            ({"style_seed": -1}, "style_seed"),
            ({"class_names": ["lemon"]}, "class_names"),
            ({"augment_masks": True}, "augment_masks"),
            ({"unlabeled_to_zero": True}, "unlabeled_to_zero"),
            ({"spade": "dense"}, "spade"),
            ({**ASKED, "min_object_size": 0.1}, "min_object_size"),
            ({**ASKED, "ignore_label": 3}, "ignore_label"),
            ({"data_dir": "", "num_samples": 3}, "data_dir"),
        ],
    )
    def test_mistakes(self, box_run, lemons, tmp_path, isdm, values, key):
        base = {"model_path": box_run, "data_dir": lemons, "results_path": tmp_path / "out"}
        code, _, errors = isdm("sample", **{**base, **values})
        assert code == 2
        check_errors(errors, key)
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("values", [{"style_seed": 3}, {"layout_source": "recombine"}])
    def test_keys_of_boxes_are_not_for_models_of_masks(self, trained, lemons, tmp_path, isdm, values):
        base = {"model_path": trained, "data_dir": lemons, "results_path": tmp_path / "out"}
        code, _, errors = isdm("sample", **{**base, **values})
        assert code == 2
        check_errors(errors, next(iter(values)))

    def test_a_wrong_file_leaves_nothing(self, box_run, tmp_path, isdm):
        path = layout_file(tmp_path / "l.json", [{**LEMON, "class": "lemmon"}])
        values = {"model_path": box_run, "results_path": tmp_path / "out", "layout_source": "file", "layout_file": path}
        code, _, errors = isdm("sample", **values)
        assert code == 2
        check_errors(errors, str(path))
        assert not (tmp_path / "out/images").exists()


class TestFromPython:
    def given(self, **changes) -> LayoutCondition:
        label = torch.tensor([[0, 1, 3, 5], [0, 1, 2, 4]])
        box = torch.tensor([WHOLE_BOX, tuple(LEMON["box"]), tuple(MOULD["box"]), (0.5, 0.5, 0.6, 0.7)]).expand(2, 4, 4)
        styles = torch.stack([object_styles(0, image, 4, 6) for image in range(2)])
        return LayoutCondition(
            **{"label": label, "box": box, "style": styles, "num_classes": 5, "size": (16, 16), **changes}
        )

    def test_layouts(self, box_run):
        pipeline = load_pipeline(box_run, device="cpu")
        images = pipeline(self.given(), [3, 4], steps=2, s=2.0)
        assert images.shape == (2, 3, 16, 16)
        assert torch.allclose(images[1:], pipeline(self.given()[1:], [4], steps=2, s=2.0), atol=1e-4)

    def test_with_masks(self, box_run):
        from guided_diffusion.diffusion.options import SamplerOptions

        run = load_pipeline(box_run, device="cpu").begin(SamplerOptions(steps=2, s=2.0, time_grid="logsnr"))
        images, labels = draw_layouts(run, self.given(), [3, 4])
        assert torch.equal(images, load_pipeline(box_run, device="cpu")(self.given(), [3, 4], steps=2, s=2.0))
        assert set(labels.unique().tolist()) <= {0, 1, 2, 3, 4}

    @pytest.mark.parametrize(
        "changes", [{"num_classes": 7}, {"size": (16, 32)}, {"style": torch.zeros(2, 4, 3)}, {"background": False}]
    )
    def test_misfits(self, box_run, changes):
        with pytest.raises(DataError) as caught:
            load_pipeline(box_run, device="cpu")(self.given(**changes), [3, 4])
        assert caught.value.path == "conditions"

    def test_label_maps_are_no_layouts(self, box_run, trained):
        with pytest.raises(DataError):
            load_pipeline(box_run, device="cpu")(np.zeros((1, 16, 16), int), [1])
        with pytest.raises(DataError):
            load_pipeline(trained, device="cpu")(self.given(), [3, 4])


@pytest.mark.slow
def test_stage_masks_off_and_no_background(lemons, tmp_path, isdm):
    model = box_model(lemons, tmp_path / "run", stage_masks=False, background=False)
    folders = []
    for size in (1, 4):
        folder = tmp_path / f"out{size}"
        code, _, errors = isdm("sample", model_path=model, data_dir=lemons, results_path=folder, batch_size=size, **FEW)
        assert code == 0, errors
        folders.append(folder)
    assert_same(*folders)
    assert all(line["predicted"]["background"] is None for line in lines_of(folders[0]))
