"""`generate`: pairs of drawn images, labeled by pixel classifiers; the same bytes however it is done; refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import command_line
import numpy as np
import pytest
import torch
from cards import check_card
from colored import FAST, NAMES, train, write_labeled, write_unlabeled
from error_lines import check_error, check_errors
from odd_images import write_png
from parts import bytes_of, lines_of, pixels_of
from processes import finish, kill_when, start, start_pair
from published_classifiers import save_published
from tiny import TINY

from guided_diffusion.labeling.files import load_classifier
from guided_diffusion.runtime.files import digest

pytestmark = pytest.mark.slow

NULL = 255
STEPS = {"steps": 4, "batch_size": 3}
OTHERS = {
    "gray": {"image_channels": 1},
    "as published": {"recipe": "published", "classifier_steps": None, "classifier_batch": 64, "image_size": 8},
    "in tiles": {"resize": "window"},
}


@pytest.fixture(scope="module")
def labeled(tmp_path_factory) -> Path:
    return write_labeled(tmp_path_factory.mktemp("data") / "labeled")


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    write_unlabeled(images := tmp_path_factory.mktemp("data") / "unlabeled")
    return train(images, tmp_path_factory.mktemp("runs") / "network")


@pytest.fixture(scope="module")
def classifier(labeled, network, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "segment"
    values = {**FAST, "model_path": network, "data_dir": labeled, "dataset_mode": "multi-class", "folds": 0}
    assert command_line.run("segment", **values, output_dir=folder) == 0
    return folder / "classifier.pt"


@pytest.fixture
def keys(network, classifier, tmp_path) -> dict:
    values = {"model_path": network, "classifier_path": classifier, "results_path": tmp_path / "out"}
    return {**STEPS, **values, "num_samples": 5, "drop_uncertain": 0.3}


@pytest.fixture
def generate(keys, isdm):
    """Run `generate`; returns the results_path and the printed text. None leaves a key out."""

    def run(**values) -> tuple[Path, str]:
        used = {key: value for key, value in {**keys, **values}.items() if value is not None}
        code, shown, errors = isdm("generate", **used)
        assert code == 0, errors
        return Path(used["results_path"]), shown

    return run


@pytest.fixture
def refused(keys, isdm, refused_dry):
    """Run `generate` and return its error lines, which a dry run tells, too; nothing is written."""

    def run(**values) -> list[str]:
        used = {key: value for key, value in {**keys, **values}.items() if value is not None}
        code, _, errors = isdm("generate", **used)
        assert code == 2
        assert refused_dry("generate", **used) in ([], errors)
        assert not list(Path(used["results_path"]).rglob("*.json*"))
        return errors

    return run


def scores_of(folder: Path) -> dict[str, float]:
    return {Path(line["image"]).stem: line["classified"]["score"] for line in lines_of(folder)}


class TestPairs:
    def test_the_most_uncertain_are_dropped_and_as_many_left_as_asked_for(self, generate):
        folder, shown = generate()
        kept, drawn = scores_of(folder / "train"), scores_of(folder / "train/candidates")
        assert len(kept) == 5
        assert len(drawn) == 6  # int(0.3 * 6) of them are dropped
        assert kept.keys() == set(sorted(drawn, key=drawn.get)[:5])
        for kind in ("images", "masks"):
            files = {path.stem for path in (folder / "train" / kind).iterdir()}
            assert files == kept.keys()
        assert (folder / "train/contact_sheet.png").is_file()
        for path in ("images", "masks", "manifest.jsonl", "contact_sheet.png", "candidates"):
            assert str(folder / "train" / path) in shown
        check_card(folder / "train", 5, "pixel classifiers | digest", "`drop_uncertain` | 0.3", "No person drew")
        assert str(folder / "train" / "dataset_card.md") in shown

    def test_masks_are_those_that_segment_finds_in_the_images(self, generate, keys, isdm, tmp_path):
        """Features are those of the whole process, however few steps have drawn the images."""
        folder, _ = generate(ignore_above=0.01, flip=True)
        images = folder / "train/candidates/images"
        values = {key: keys[key] for key in ("model_path", "classifier_path")}
        values |= {"image_dir": images, "output_dir": tmp_path / "segmented", "ignore_above": 0.01, "flip": True}
        assert isdm("segment", **values)[0] == 0
        ignored = 0
        for line in lines_of(tmp_path / "segmented/predicted"):
            mask = pixels_of(folder / "train/candidates/masks" / f"{line['stem']}.png")
            assert np.array_equal(mask, pixels_of(tmp_path / "segmented/predicted" / line["mask"]))
            ignored += (mask == NULL).sum()
        assert ignored
        other, _ = generate(ignore_above=0.01, flip=True, steps=7, results_path=tmp_path / "other")
        assert not np.array_equal(
            pixels_of(other / "train/candidates/images/sample_000000.png"), pixels_of(images / "sample_000000.png")
        )

    @pytest.mark.parametrize("own", OTHERS.values(), ids=OTHERS)
    def test_another_network_reads_drawn_images_as_segment_does(self, generate, swav, isdm, tmp_path, own):
        network = {"extractor": "swav", "extractor_weights": swav}
        values = {**FAST, **network, "feature_steps": None, "folds": 0, "image_size": 16, **own}
        data = write_labeled(tmp_path / "data", 2)
        values |= {"data_dir": data, "dataset_mode": "multi-class", "output_dir": tmp_path / "trained"}
        code, _, errors = isdm("segment", **{key: value for key, value in values.items() if value is not None})
        assert code == 0, errors
        file = tmp_path / "trained/classifier.pt"
        folder, _ = generate(**network, classifier_path=file, num_samples=3, ignore_above=0.05)
        again = {key: value for key, value in own.items() if key in ("image_channels", "resize", "image_size")}
        values = {"image_size": 16, **network, **again, "classifier_path": file, "output_dir": tmp_path / "segmented"}
        values |= {"image_dir": folder / "train/candidates/images", "ignore_above": 0.05}
        code, _, errors = isdm("segment", **values)
        assert code == 0, errors
        scores = scores_of(folder / "train/candidates")
        for line in lines_of(tmp_path / "segmented/predicted"):
            mask = pixels_of(folder / "train/candidates/masks" / f"{line['stem']}.png")
            assert np.array_equal(mask, pixels_of(tmp_path / "segmented/predicted" / line["mask"]))
            assert scores[line["stem"]] == line["pseudo"]["score"]

    def test_the_manifest_tells_how_a_pair_came_about(self, generate, labeled, classifier):
        folder, _ = generate(ignore_above=0.01)
        images = {digest(path) for path in (labeled / "train/images").iterdir()}
        for line in lines_of(folder / "train"):
            assert set(line["classified"]["labeled"]) == images
            assert line["classifier"] == digest(classifier)
            mask = pixels_of(folder / "train" / line["mask"])
            assert line["classified"]["ignored"] == pytest.approx((mask == NULL).mean())
        classes = json.loads((folder / "classes.json").read_text())
        assert [classes[str(index)]["name"] for index in range(3)] == list(NAMES)
        assert classes["ignore"] == {"values": [NULL]}

    def test_a_model_with_masks_draws_without_one(self, generate, labeled, isdm, tmp_path):
        run = {**TINY, "data_dir": labeled, "max_epochs": 1, "image_size": 16}
        assert isdm("train", **run, output_dir=tmp_path / "dropped", drop_rate=0.3)[0] == 0
        own = {"model_path": tmp_path / "dropped", "output_dir": tmp_path / "segment", "folds": 0}
        values = {**FAST, "data_dir": labeled, "dataset_mode": "multi-class", **own}
        assert isdm("segment", **values)[0] == 0
        chosen = {"model_path": own["model_path"], "classifier_path": tmp_path / "segment/classifier.pt"}
        folder, _ = generate(**chosen)
        assert len(lines_of(folder / "train")) == 5
        assert pixels_of(folder / "train/images" / Path(lines_of(folder / "train")[0]["image"]).name).shape[:2] == (
            16,
            16,
        )

    def test_noises_are_averaged(self, generate, labeled, network, isdm, tmp_path):
        values = {"model_path": network, "data_dir": labeled, "dataset_mode": "multi-class", "folds": 0}
        assert isdm("segment", **{**FAST, **values}, noise_draws=3, output_dir=tmp_path / "segment")[0] == 0
        file = tmp_path / "segment/classifier.pt"
        assert load_classifier(file).features["noise_draws"] == 3
        folder, _ = generate(classifier_path=file)
        assert len(lines_of(folder / "train")) == 5


class TestDownstream:
    @pytest.fixture
    def out(self, generate) -> Path:
        """Pairs some of whose pixels are ignored."""
        return generate(ignore_above=0.01)[0]

    def test_check_knows_them(self, out, isdm, tmp_path):
        read = {"data_dir": out, "dataset_mode": "multi-class"}
        code, shown, errors = isdm("check", **read, output_dir=tmp_path / "check", preview_images=2)
        assert code == 0, errors
        assert "5 masks of train are pseudo labels of generate" in shown

    def test_evaluate_knows_them(self, out, labeled, isdm, tmp_path):
        data = tmp_path / "data"
        shutil.copytree(labeled, data)
        write_labeled(tmp_path / "other", 4, noise=20)
        shutil.copytree(tmp_path / "other/train", data / "test")
        plain = {"study": False, "agreement": False, "image_size": 32, "inception_weights": "none"}
        values = {"data_dir": data, "dataset_mode": "multi-class", "synthetic_dir": out, **plain}
        code, _, errors = isdm("evaluate", **values, lpips_weights="none", output_dir=tmp_path / "evaluated")
        assert code == 0, errors
        assert "pixel classifiers found the masks of 5" in (tmp_path / "evaluated/report.json").read_text()
        # The classifiers were trained on what is now the test split.
        shutil.rmtree(data / "test")
        shutil.copytree(data / "train", data / "test")
        for path in (data / "train/images").iterdir():
            write_png(path, np.flipud(pixels_of(path)).copy())
        code, _, errors = isdm("evaluate", **values, lpips_weights="none", output_dir=tmp_path / "leak")
        assert code == 2
        check_error(errors[0], out / "train", 6)

    def test_sample_renders_the_masks(self, out, labeled, isdm, tmp_path):
        assert isdm("train", **TINY, data_dir=labeled, max_epochs=1, output_dir=tmp_path / "masked")[0] == 0
        values = {"model_path": tmp_path / "masked", "steps": 2}
        for name in ("train", "train/masks"):
            folder = tmp_path / name.replace("/", "_")
            code, _, errors = isdm("sample", **values, mask_dir=out / name, results_path=folder)
            assert code == 0, errors
            lines = lines_of(folder)
            assert {Path(line["source_mask"]).name for line in lines} == {
                path.name for path in (out / "train/masks").iterdir()
            }
            assert any((pixels_of(folder / line["mask"]) == NULL).any() for line in lines)
            assert lines[0]["mask_checkpoint"] == lines_of(out / "train")[0]["checkpoint"]


class TestSameBytes:
    def test_whatever_the_batch_and_more_later(self, generate, tmp_path):
        whole, _ = generate(num_samples=8)
        grown, _ = generate(num_samples=3, batch_size=1, results_path=tmp_path / "grown")
        before = {path: path.stat().st_mtime_ns for path in grown.glob("train/candidates/*/*.png")}
        _, shown = generate(num_samples=8, batch_size=8, results_path=tmp_path / "grown")
        assert f"{len(before) // 2} are there already" in shown
        assert {path: path.stat().st_mtime_ns for path in before} == before
        assert bytes_of(whole) == bytes_of(grown)
        # Fewer, and another share: chosen anew, and nothing is drawn again.
        generate(num_samples=4, drop_uncertain=0.5, results_path=tmp_path / "grown")
        assert bytes_of(grown / "train/candidates") == bytes_of(whole / "train/candidates")
        kept, drawn = scores_of(grown / "train"), scores_of(grown / "train/candidates")
        first = sorted(drawn)[:7]
        assert kept.keys() == set(sorted(first, key=drawn.get)[:4])
        assert {path.stem for path in (grown / "train/images").iterdir()} == kept.keys()

    def test_another_seed_draws_others_and_reads_them_alike(self, generate, tmp_path):
        first, second = generate()[0], generate(seed=1, results_path=tmp_path / "other")[0]
        assert bytes_of(first / "train/images") != bytes_of(second / "train/images")
        assert lines_of(first / "train")[0]["features"] == lines_of(second / "train")[0]["features"]

    def test_other_settings_are_refused_in_a_finished_folder(self, generate, keys, isdm):
        folder, _ = generate()
        before = bytes_of(folder)
        code, _, errors = isdm("generate", folder / "train/config.json")
        assert code == 0, errors
        assert bytes_of(folder) == before
        for change, shown in (({"ignore_above": 0.01}, "ignore_above"), ({"steps": 5}, "steps"), ({"seed": 2}, 2)):
            code, _, errors = isdm("generate", **{**keys, **change})
            assert code == 2
            check_error(errors[0], folder / "train/candidates/manifest.jsonl", shown)
        assert bytes_of(folder) == before

    @pytest.mark.parametrize("pattern", [("train/candidates/masks/*.png", 2), ("train/masks/*.png", 2)])
    def test_killed_and_started_again(self, generate, keys, tmp_path, pattern):
        whole, _ = generate(num_samples=10)
        values = {**keys, "num_samples": 10, "results_path": tmp_path / "killed"}
        process = start("generate", values)
        kill_when(process, tmp_path / "killed", *pattern)
        generate(num_samples=10, results_path=tmp_path / "killed")
        assert bytes_of(tmp_path / "killed") == bytes_of(whole)

    def test_in_two_processes(self, generate, keys, tmp_path):
        one, _ = generate(num_samples=7)
        processes = start_pair("generate", {**keys, "num_samples": 7, "results_path": tmp_path / "two"}, tmp_path / "x")
        assert [finish(process) for process in processes] == [0, 0]
        assert bytes_of(one) == bytes_of(tmp_path / "two")


class TestPublishedForms:
    def test_npz(self, generate, tmp_path):
        folder, _ = generate(write_npz=True, ignore_above=0.01, drop_uncertain=0)
        path = folder / "train/samples_5x24x24x3.npz"
        with np.load(path, allow_pickle=False) as arrays:
            assert arrays.files == ["arr_0", "arr_1", "arr_2"]
            images, labels, scores = (arrays[name] for name in arrays.files)
        assert (images.shape, labels.shape) == ((5, 24, 24, 3), (5, 24, 24))
        for line, image, label, score in zip(lines_of(folder / "train"), images, labels, scores, strict=True):
            assert np.array_equal(pixels_of(folder / "train" / line["image"]), image)
            assert np.array_equal(pixels_of(folder / "train" / line["mask"]), label)
            assert line["classified"]["score"] == score
        first = path.read_bytes()
        for count in (3, 5):
            generate(write_npz=True, ignore_above=0.01, drop_uncertain=0, num_samples=count)
            assert [each.name for each in path.parent.glob("*.npz")] == [f"samples_{count}x24x24x3.npz"]
        assert path.read_bytes() == first
        alone = {"model_path": None, "classifier_path": None, "steps": None, "read_npz": path}
        read, _ = generate(**alone, num_samples=None, drop_uncertain=0.4, num_classes=3, results_path=tmp_path / "read")
        order = np.argsort(scores)[:3]
        assert {line["classified"]["score"] for line in lines_of(read / "train")} == set(scores[order])
        for line in lines_of(read / "train"):
            number = int(Path(line["image"]).stem.removeprefix("sample_"))
            assert np.array_equal(pixels_of(read / "train" / line["image"]), images[number])
            assert np.array_equal(pixels_of(read / "train" / line["mask"]), labels[number])

    def test_a_file_of_dataset_gan(self, generate, tmp_path):
        draw = np.random.default_rng(0)
        images, labels = draw.integers(0, 256, (4, 8, 8, 3), np.uint8), draw.integers(0, 5, (4, 8, 8), np.uint8)
        path = tmp_path / "samples.npz"
        np.savez(path, images, labels, draw.normal(size=(4, 2)), np.array([0.3, 0.1, 0.4, 0.2], np.float32))
        alone = {"model_path": None, "classifier_path": None, "steps": None, "read_npz": path}
        folder, _ = generate(**alone, num_samples=2, drop_uncertain=0.5)
        names = {Path(line["image"]).stem for line in lines_of(folder / "train")}
        assert names == {"sample_000001", "sample_000000"}  # of the first three
        assert len(json.loads((folder / "classes.json").read_text())) == 5 + 1

    def test_255_is_ignored_beside_another_ignored_label(self, isdm, tmp_path):
        labels = np.array([[[0, 1, 200, 255]] * 4], np.uint8)
        np.savez(tmp_path / "s.npz", np.zeros((1, 4, 4, 3), np.uint8), labels, np.zeros(1))
        values = {"read_npz": tmp_path / "s.npz", "ignore_label": 200, "results_path": tmp_path / "out"}
        code, _, errors = isdm("generate", **values)
        assert code == 0, errors
        assert {"0", "1", "ignore"} == json.loads((tmp_path / "out/classes.json").read_text()).keys()
        assert np.array_equal(pixels_of(tmp_path / "out/train/masks/sample_000000.png")[0], [0, 1, 200, 200])

    def test_published_filter(self, generate, refused):
        check_error(*refused(published_filter=True), "published_filter")
        folder, _ = generate(published_filter=True, num_samples=35, drop_uncertain=0.9, steps=1, batch_size=35)
        kept, drawn = scores_of(folder / "train"), scores_of(folder / "train/candidates")
        ranked = sorted(drawn, key=drawn.get)
        assert kept.keys() == set(ranked[30 : 30 - 31])
        check_card(folder / "train", 4, "`drop_uncertain` | 0.9", "`published_filter` | true")

    def test_published_classifiers(self, generate, classifier, network, refused, tmp_path):
        save_published(tmp_path / "published", load_classifier(classifier).ensemble)
        own = {"classifier_path": tmp_path / "published", "feature_steps": [50]}
        folder, _ = generate(**own)
        classes = json.loads((folder / "classes.json").read_text())
        assert classes["0"]["name"] == "class 0"
        assert lines_of(folder / "train")[0]["classified"]["labeled"] is None
        (line,) = refused(**own, feature_rgb=False, results_path=tmp_path / "refused")
        check_error(line, tmp_path / "published", 64, 67)


class TestRefused:
    def test_a_classifier_of_another_network(self, refused, classifier, tmp_path):
        write_unlabeled(tmp_path / "images", 4)
        other = train(tmp_path / "images", tmp_path / "other", seed=1)
        (line,) = refused(model_path=other)
        check_error(line, classifier, "checkpoint")
        (line,) = refused(feature_steps=[150])
        check_error(line, classifier, "feature_steps")

    def test_a_model_that_never_saw_a_dropped_mask(self, refused, labeled, isdm, tmp_path):
        assert isdm("train", **TINY, data_dir=labeled, max_epochs=1, output_dir=tmp_path / "masked")[0] == 0
        (line,) = refused(model_path=tmp_path / "masked")
        check_error(line, "model_path", tmp_path / "masked", "drop_rate")

    @pytest.mark.parametrize(
        ("values", "subjects"),
        [
            ({"model_path": None}, ["model_path"]),
            ({"classifier_path": None, "num_samples": None}, ["classifier_path", "num_samples"]),
            ({"s": 2.0}, ["s"]),
            ({"read_npz": "x.npz"}, ["model_path", "classifier_path"]),
            ({"split": "a/b"}, ["split"]),
            ({"data_dir": "x"}, ["data_dir"]),
            ({"exif": "apply", "resize": "pad", "max_objects": 3}, ["exif", "resize", "max_objects"]),
        ],
    )
    def test_keys(self, refused, values, subjects):
        check_errors(refused(**values), *subjects)

    def test_files_that_are_none(self, refused, classifier, tmp_path):
        alone = {"model_path": None, "classifier_path": None, "steps": None, "num_samples": None}
        path = tmp_path / "x.npz"
        for name in ("arrays", "sizes", "objects", "text"):
            if name == "arrays":
                np.savez(path, a=np.zeros(3))
            elif name == "sizes":
                np.savez(path, np.zeros((2, 4, 4, 3), np.uint8), np.zeros((2, 4, 5), np.uint8), np.zeros(2))
            elif name == "objects":
                np.savez(path, np.array([{}], object), np.array([{}], object), np.array([{}], object))
            else:
                path.write_text("no archive")
            (line,) = refused(**alone, read_npz=path)
            check_error(line, path)
        (line,) = refused(**alone, read_npz=tmp_path / "missing.npz")
        check_error(line, tmp_path / "missing.npz")
        torch.save({"a": 1}, tmp_path / "other.pt")
        (line,) = refused(classifier_path=tmp_path / "other.pt")
        check_error(line, tmp_path / "other.pt")

    def test_pairs_of_others_in_the_folder(self, keys, refused):
        write_png(Path(keys["results_path"]) / "train/images/own.png", np.zeros((4, 4, 3), np.uint8))
        (line,) = refused()
        check_error(line, Path(keys["results_path"]) / "train/images/own.png")
