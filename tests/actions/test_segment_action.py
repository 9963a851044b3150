"""`segment`: what it writes of colored images, that folds are held out, the same bytes however it is done."""

from __future__ import annotations

import json
import shutil
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from colored import FAST, NAMES, SIZE, picture, train, write_labeled, write_unlabeled
from error_lines import check_error
from odd_images import write_png
from parts import bytes_of, lines_of, pixels_of
from PIL import Image
from processes import finish, kill_when, start, start_pair
from recorded import record_of, weights_of

from guided_diffusion.labeling.files import load_classifier, save_published
from guided_diffusion.runtime.files import digest

pytestmark = pytest.mark.slow

NULL = 255


def iou(label: np.ndarray, predicted: np.ndarray, class_id: int) -> float:
    counted = predicted != NULL
    truth, found = (label == class_id) & counted, (predicted == class_id) & counted
    return (truth & found).sum() / (truth | found).sum()


@pytest.fixture(scope="module")
def labeled(tmp_path_factory) -> Path:
    return write_labeled(tmp_path_factory.mktemp("data") / "labeled")


@pytest.fixture(scope="module")
def unlabeled(tmp_path_factory) -> tuple[Path, dict[str, np.ndarray]]:
    """The folder, and the label map of each image by its stem."""
    folder = tmp_path_factory.mktemp("data") / "unlabeled"
    return folder, write_unlabeled(folder)


@pytest.fixture(scope="module")
def network(unlabeled, tmp_path_factory) -> Path:
    return train(unlabeled[0], tmp_path_factory.mktemp("runs") / "network")


@pytest.fixture
def keys(labeled, unlabeled, network, tmp_path) -> dict:
    values = {"model_path": network, "data_dir": labeled, "dataset_mode": "multi-class", "image_dir": unlabeled[0]}
    return {**FAST, **values, "output_dir": tmp_path / "out"}


@pytest.fixture
def segment(keys, isdm):
    """Run `segment`; returns the output_dir, the report's record and the printed text."""

    def run(**values) -> tuple[Path, dict, str]:
        used = {**keys, **values}
        code, shown, errors = isdm("segment", **{key: value for key, value in used.items() if value is not None})
        assert code == 0, errors
        folder = Path(used["output_dir"])
        return folder, json.loads((folder / "report.json").read_text()), shown

    return run


def masks_of(folder: Path) -> dict[str, np.ndarray]:
    """Return the masks of predicted/ by stem."""
    return {line["stem"]: pixels_of(folder / "predicted" / line["mask"]) for line in lines_of(folder / "predicted")}


class TestColors:
    def test_classes_told_by_color_are_found(self, segment, unlabeled):
        folder, record, shown = segment(classifier_steps=150, feature_blocks=[3])
        assert record["scores"]["values"]["miou"]["mean"] > 0.97
        assert record["scores"]["features"]["miou"]["mean"] > 0.9
        masks = masks_of(folder)
        assert masks.keys() == unlabeled[1].keys()
        for stem, label in unlabeled[1].items():
            assert masks[stem].shape == label.shape
            assert min(iou(label, masks[stem], class_id) for class_id in range(3)) > 0.7
        for path in ("report.html", "report.json", "classifier.pt", "train", "predicted"):
            assert str(folder / path) in shown

    def test_classes_of_images_of_other_sizes(self, segment, tmp_path):
        labels = write_unlabeled(tmp_path / "large", 3, size=(40, 52))
        for resize in ("squash", "pad", "crop"):
            folder, _, _ = segment(resize=resize, image_dir=tmp_path / "large", output_dir=tmp_path / resize, folds=0)
            for stem, mask in masks_of(folder).items():
                assert mask.shape == labels[stem].shape
                assert np.mean((mask == labels[stem])[mask != NULL]) > 0.85

    def test_gray_images_by_a_gray_network(self, segment, unlabeled, tmp_path):
        gray, data = tmp_path / "gray", tmp_path / "data"
        for number in range(6):
            image, label = picture(number)
            write_png(gray / f"{number}.png", image[..., :1])
            write_png(data / "train/images" / f"{number}.png", image[..., :1] // 2 + 20)
            write_png(data / "train/masks" / f"{number}.png", label)
        shutil.copy(write_labeled(tmp_path / "x") / "classes.json", data)
        network = train(gray, tmp_path / "run", image_channels=1)
        _, record, _ = segment(model_path=network, data_dir=data, image_dir=gray)
        assert record["data"]["features"] % 2 == 1  # with the one value of the pixel

    def test_flipped_views_are_averaged(self, segment, unlabeled, tmp_path):
        folder, record, _ = segment(flip=True)
        assert record["scores"]["features"]["miou"]["mean"] > 0.7
        plain, _, _ = segment(output_dir=tmp_path / "plain")
        assert digest(folder / "classifier.pt") == digest(plain / "classifier.pt")
        pairs = zip(lines_of(folder / "predicted"), lines_of(plain / "predicted"), strict=True)
        assert all(first["pseudo"]["confidence"] != second["pseudo"]["confidence"] for first, second in pairs)

    def test_published_recipe(self, segment, unlabeled):
        own = {"classifier_steps": None, "classifier_batch": None, "members": 2, "folds": 0}
        folder, record, _ = segment(recipe="published", **own)
        classifier = load_classifier(folder / "classifier.pt")
        assert (classifier.vote, classifier.training["recipe"]) == ("majority", "published")
        assert record["data"]["feature_settings"]["as_published"]
        right = [np.mean((mask == unlabeled[1][stem])[mask != NULL]) for stem, mask in masks_of(folder).items()]
        assert min(right) > 0.9

    @pytest.mark.slow
    def test_another_extractor(self, segment, tmp_path):
        path = tmp_path / "swav.pth.tar"
        torch.save({"state_dict": weights_of(record_of("ddpmseg_swav")["state_dict"])}, path)
        own = {"extractor": "swav", "extractor_weights": path, "image_size": 32, "members": 1, "folds": 2}
        folder, record, _ = segment(model_path=None, feature_steps=None, **own)
        assert record["data"]["features"] == 6720 + 3
        assert record["scores"]["features"]["miou"]["mean"] > 0.5
        again = {"data_dir": None, "dataset_mode": None, "classifier_path": folder / "classifier.pt"}
        later, _, _ = segment(model_path=None, feature_steps=None, **own, **again, output_dir=tmp_path / "later")
        assert all(np.array_equal(mask, masks_of(later)[stem]) for stem, mask in masks_of(folder).items())


class TestFolds:
    def test_folds_never_train_on_what_they_score(self, segment):
        folder, _, _ = segment(image_dir=None)
        folds = [json.loads(path.read_text()) for path in sorted((folder / "folds").glob("fold_*.json"))]
        held_out = [[image["number"] for image in fold["images"]] for fold in folds]
        assert sorted(chain(*held_out)) == list(range(6))
        for fold, numbers in zip(folds, held_out, strict=True):
            assert sorted(fold["trained_on"] + numbers) == list(range(6))

    def test_a_class_of_one_image_is_unknown_to_its_own_fold(self, segment, tmp_path):
        """Blue is only in image 5: held out it cannot be known, and the classifiers of all images know it."""
        data, new = write_labeled(tmp_path / "data", 5), tmp_path / "new"
        image, label = picture(5, (1, 3))
        write_png(data / "train/images/5.png", image)
        write_png(data / "train/masks/5.png", label)
        (data / "classes.json").write_text(json.dumps(dict(enumerate((*NAMES, "blue")))))
        labels = write_unlabeled(new, 3, classes=(2, 3))
        folder, record, shown = segment(data_dir=data, image_dir=new, classifier_steps=150, ignore_above=9)
        assert record["scores"]["features"]["classes"]["blue"]["iou"] == 0
        assert record["scores"]["values"]["classes"]["blue"]["iou"] == 0
        assert "blue" in record["scores"]["weak"]
        assert "blue" in shown
        assert all(iou(labels[stem], mask, 3) > 0.6 for stem, mask in masks_of(folder).items())

    def test_confident_pixels_are_more_often_right(self, segment, tmp_path):
        data = write_labeled(tmp_path / "data", 8, noise=70)
        _, record, _ = segment(data_dir=data, image_dir=None)
        right, wrong = (np.array(record["scores"]["reliability"][key]) for key in ("right", "wrong"))
        pixels = right + wrong
        half = np.searchsorted(pixels.cumsum(), pixels.sum() / 2) + 1
        tenth = np.searchsorted(pixels.cumsum(), 0.9 * pixels.sum()) + 1
        certain, uncertain = right[:half].sum() / pixels[:half].sum(), right[tenth:].sum() / pixels[tenth:].sum()
        assert certain > uncertain + 0.1

    def test_no_folds(self, segment):
        folder, record, _ = segment(folds=0)
        assert record["scores"] is None
        assert record["ignore_above"] == 0.1
        assert masks_of(folder)


class TestPairs:
    def test_ignored_pixels_are_the_uncertain_ones(self, segment):
        folder, _, _ = segment(ignore_above=0.003)
        ignored = 0
        for line in lines_of(folder / "predicted"):
            mask = pixels_of(folder / "predicted" / line["mask"])
            levels = pixels_of(folder / "predicted/uncertainty" / f"{line['stem']}.png")
            assert line["pseudo"]["ignored"] == pytest.approx((mask == NULL).mean())
            if 0 < (mask == NULL).sum() < mask.size:
                assert levels[mask == NULL].min() >= levels[mask != NULL].max()
            ignored += (mask == NULL).sum()
        assert ignored > 0
        assert json.loads((folder / "classes.json").read_text())["ignore"] == {"values": [NULL]}

    def test_the_most_uncertain_images_get_no_pair_and_are_to_be_labeled(self, segment):
        folder, record, _ = segment(drop_uncertain=0.25)
        scores = {line["stem"]: line["pseudo"]["score"] for line in lines_of(folder / "predicted")}
        ranked = sorted(scores, key=scores.get)
        pairs = [line for line in lines_of(folder / "train") if "pseudo" in line]
        assert {Path(line["mask"]).relative_to("masks/pseudo").with_suffix("").as_posix() for line in pairs} == {
            *ranked[:6]
        }
        assert [each["stem"] for each in record["unlabeled"]["next"]] == ranked[::-1]
        assert (record["unlabeled"]["pairs"], record["unlabeled"]["dropped"]) == (6, 2)

    def test_images_and_masks_of_people_are_copied(self, segment, labeled):
        folder, _, _ = segment()
        lines = [line for line in lines_of(folder / "train") if "pseudo" not in line]
        assert len(lines) == 6
        for line in lines:
            source = Path(line["source_mask"])
            assert np.array_equal(pixels_of(folder / "train" / line["mask"]), pixels_of(source))
            image = labeled / "train/images" / source.name
            assert (folder / "train" / line["image"]).read_bytes() == image.read_bytes()
        assert not (segment(add_labeled=False)[0] / "train/masks/labeled/0.png").exists()

    def test_check_and_train_read_it(self, segment, isdm, tmp_path):
        folder, _, _ = segment(ignore_above=0.003)
        read = {"data_dir": folder, "dataset_mode": "multi-class"}
        code, shown, errors = isdm("check", **read, output_dir=tmp_path / "check", preview_images=2)
        assert code == 0, errors
        assert "(ignored)" in shown
        assert "8 masks of train are pseudo labels" in shown
        from tiny import TINY

        code, shown, errors = isdm("train", **{**TINY, **read}, max_epochs=1, output_dir=tmp_path / "trained")
        assert code == 0, errors
        assert "pseudo labels" in shown

    def test_labeled_images_among_the_unlabeled_are_left_out(self, segment, labeled, tmp_path):
        shutil.copytree(labeled / "train/images", tmp_path / "mixed")
        write_unlabeled(tmp_path / "mixed", 2)
        _, record, shown = segment(image_dir=tmp_path / "mixed")
        assert record["unlabeled"]["images"] == 2
        assert "6 others are labeled ones" in shown


class TestEvaluate:
    def test_pseudo_labels_are_known(self, segment, labeled, isdm, tmp_path):
        data = tmp_path / "data"
        shutil.copytree(labeled, data)
        write_labeled(tmp_path / "other", 4, noise=20)
        shutil.copytree(tmp_path / "other/train", data / "test")
        folder, _, _ = segment(data_dir=data, add_labeled=False)
        plain = {"study": False, "agreement": False, "fidelity_features": "none", "lpips": False, "image_size": 32}
        known = json.loads(Path("configs/schema/evaluate.json").read_text())["properties"]
        plain = {key: value for key, value in plain.items() if key in known}
        values = {"data_dir": data, "dataset_mode": "multi-class", "synthetic_dir": folder, **plain}
        code, _, errors = isdm("evaluate", **values, output_dir=tmp_path / "evaluated")
        assert code == 0, errors
        assert "real images with pseudo labels" in (tmp_path / "evaluated/report.json").read_text()

    def test_test_images_are_refused(self, segment, labeled, isdm, tmp_path):
        data = tmp_path / "data"
        shutil.copytree(labeled, data)
        write_labeled(tmp_path / "other", 4, noise=20)
        shutil.copytree(tmp_path / "other/train", data / "test")
        folder, _, _ = segment(data_dir=data, image_dir=data / "test/images", drop_uncertain=0, add_labeled=False)
        values = {"data_dir": data, "dataset_mode": "multi-class", "synthetic_dir": folder, "image_size": 32}
        code, _, errors = isdm("evaluate", **values, study=False, output_dir=tmp_path / "evaluated")
        assert code == 2
        check_error(errors[0], folder / "train", 4)


class TestSameBytes:
    def test_other_seeds_give_others(self, segment, tmp_path):
        first = segment(image_dir=None)[0]
        second = segment(image_dir=None, seed=1, output_dir=tmp_path / "other")[0]
        again = segment(image_dir=None, output_dir=tmp_path / "again")[0]
        assert digest(first / "classifier.pt") == digest(again / "classifier.pt")
        assert digest(first / "classifier.pt") != digest(second / "classifier.pt")

    def test_features_on_disk(self, segment, tmp_path):
        first, second = segment()[0], segment(feature_cache="disk", output_dir=tmp_path / "disk")[0]
        assert digest(first / "classifier.pt") == digest(second / "classifier.pt")
        assert not (second / "features").exists()

    def test_more_images_later(self, segment, unlabeled, tmp_path):
        images = tmp_path / "images"
        shutil.copytree(unlabeled[0], images)
        folder, _, _ = segment(image_dir=images)
        before = {path: path.stat().st_mtime_ns for path in folder.glob("predicted/masks/**/*.png")}
        write_unlabeled(images, 4, 50)
        _, record, shown = segment(image_dir=images)
        assert "8 are labeled already" in shown
        assert {path: path.stat().st_mtime_ns for path in before} == before
        assert record["unlabeled"]["images"] == 12
        grown = bytes_of(folder)
        shutil.rmtree(folder)
        assert bytes_of(segment(image_dir=images)[0]) == grown

    def test_an_image_that_is_gone_or_changed(self, segment, unlabeled, tmp_path):
        images = tmp_path / "images"
        shutil.copytree(unlabeled[0], images)
        folder, _, _ = segment(image_dir=images, drop_uncertain=0)
        (images / "100.png").unlink()
        write_png(images / "101.png", picture(7)[0])
        segment(image_dir=images, drop_uncertain=0)
        names = {path.name for path in (folder / "train/images/pseudo").rglob("*.png")}
        assert "100.png" not in names
        assert np.array_equal(pixels_of(folder / "train/images/pseudo/101.png"), picture(7)[0])

    def test_the_config_that_is_left_can_be_given_again(self, segment, isdm):
        folder, _, _ = segment()
        before = bytes_of(folder)
        code, _, errors = isdm("segment", folder / "config.json")
        assert code == 0, errors
        assert bytes_of(folder) == before

    @pytest.mark.slow
    def test_in_two_processes(self, segment, keys, tmp_path):
        one, _, _ = segment()
        two = tmp_path / "two"
        processes = start_pair("segment", {**keys, "output_dir": two}, tmp_path / "shown")
        assert [finish(process) for process in processes] == [0, 0]
        for part in ("train", "predicted", "classifier.pt"):
            first, second = one / part, two / part
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


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
def test_after_kill_9_at_every_stage(segment, keys, tmp_path):
    values = {"feature_cache": "disk", "classifier_steps": 40}
    folder, _, _ = segment(**values)
    whole = bytes_of(folder)
    shutil.rmtree(folder)
    killed = 0
    for pattern, count in STAGES:
        killed += kill_when(start("segment", {**keys, **values}), folder, pattern, count)
    assert killed == len(STAGES)
    segment(**values)
    assert bytes_of(folder) == whole


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


class TestMistakes:
    @pytest.fixture
    def refused(self, keys, isdm):
        """Run `segment` and return the lines of its mistakes; nothing is left of it."""

        def run(**values) -> list[str]:
            used = {key: value for key, value in {**keys, **values}.items() if value is not None}
            code, _, errors = isdm("segment", **used)
            assert code == 2
            assert not list(Path(used["output_dir"]).glob("*.json"))
            return errors

        return run

    def test_a_classifier_of_another_network(self, segment, refused, unlabeled, tmp_path):
        first, _, _ = segment(folds=0)
        other = train(unlabeled[0], tmp_path / "other", seed=1)
        path = first / "classifier.pt"
        again = {"data_dir": None, "dataset_mode": None, "classifier_path": path, "output_dir": tmp_path / "later"}
        (line,) = refused(**again, model_path=other)
        check_error(line, path, "checkpoint")
        (line,) = refused(**again, feature_steps=[150])
        check_error(line, path, "timesteps")

    def test_no_labeled_image_of_a_class(self, refused, labeled, tmp_path):
        data = tmp_path / "data"
        shutil.copytree(labeled, data)
        (data / "classes.json").write_text(json.dumps(dict(enumerate((*NAMES, "blue", "black")))))
        (line,) = refused(data_dir=data)
        check_error(line, data, "'blue', 'black'", "allow_absent")

    def test_absent_classes_are_allowed_if_asked_for(self, segment, labeled, tmp_path):
        data = tmp_path / "data"
        shutil.copytree(labeled, data)
        (data / "classes.json").write_text(json.dumps(dict(enumerate((*NAMES, "blue")))))
        folder, record, shown = segment(data_dir=data, allow_absent=True)
        assert "'blue'" in shown
        assert not any((mask == 3).any() for mask in masks_of(folder).values())
        assert record["scores"]["features"]["classes"]["blue"]["iou"] is None

    def test_labels_of_another_size(self, refused, labeled, tmp_path):
        data = tmp_path / "data"
        shutil.copytree(labeled, data)
        write_png(data / "train/masks/2.png", np.zeros((SIZE[0], SIZE[1] + 1), np.uint8))
        (line,) = refused(data_dir=data)
        check_error(line, data / "train/images/2.png", data / "train/masks/2.png")

    def test_no_unlabeled_images(self, refused, labeled, tmp_path):
        (tmp_path / "empty").mkdir()
        (line,) = refused(image_dir=tmp_path / "empty")
        check_error(line, tmp_path / "empty")
        (line,) = refused(image_dir=tmp_path / "missing")
        check_error(line, tmp_path / "missing")

    def test_only_labeled_images(self, refused, labeled):
        (line,) = refused(image_dir=labeled / "train/images")
        check_error(line, labeled / "train/images", 6)

    def test_an_extractor_file_of_another_kind(self, refused, network, tmp_path):
        torch.save({"state_dict": {"a": torch.zeros(2)}}, tmp_path / "other.pth")
        for extractor in ("mae", "swav"):
            own = {"extractor": extractor, "extractor_weights": tmp_path / "other.pth"}
            (line,) = refused(model_path=None, feature_steps=None, **own)
            check_error(line, tmp_path / "other.pth")

    @pytest.mark.parametrize(
        ("values", "subject"),
        [
            ({"model_path": None}, "model_path"),
            ({"extractor": "mae", "extractor_weights": "x.pth", "feature_steps": None}, "model_path"),
            ({"folds": 1}, "folds"),
            ({"dataset_mode": "images"}, "dataset_mode"),
            ({"classifier_path": "x.pt"}, "data_dir"),
            ({"split": ""}, "split"),
            ({"split": "a/b"}, "split"),
        ],
    )
    def test_keys(self, refused, values, subject):
        (line,) = refused(**values)
        check_error(line, subject)

    def test_results_of_other_settings(self, segment, keys, isdm, labeled, tmp_path):
        folder, _, _ = segment(image_dir=None)
        before = bytes_of(folder)
        code, _, errors = isdm("segment", **{**keys, "members": 2, "classifier_steps": 50})
        assert code == 2
        check_error(errors[0], "members", 2, 3)
        check_error(errors[1], "classifier_steps", 50, 60)
        data = tmp_path / "data"
        shutil.copytree(labeled, data)
        write_png(data / "train/masks/2.png", picture(3)[1])
        code, _, errors = isdm("segment", **{**keys, "data_dir": data})
        assert code == 2
        check_error(errors[0], "labeled_images")
        assert bytes_of(folder) == before

    def test_sides_that_change_places(self, refused, labeled, tmp_path):
        data = tmp_path / "data"
        shutil.copytree(labeled, data)
        (data / "classes.json").write_text(json.dumps(dict(enumerate(("skin", "left eye", "right eye")))))
        (line,) = refused(data_dir=data, flip=True)
        check_error(line, "flip", "left eye")

    def test_pairs_of_others_in_the_folder(self, keys, refused):
        write_png(Path(keys["output_dir"]) / "train/images/own.png", picture(0)[0])
        (line,) = refused()
        check_error(line, Path(keys["output_dir"]) / "train/images/own.png")


class TestMaskFormats:
    """The masks written are of the format of the dataset's, and are read back with their ignored pixels."""

    def write(self, folder: Path, form: str) -> tuple[Path, str]:
        names = dict(enumerate(NAMES if form != "binary" else ("background", "foreground")))
        classes = {str(key): {"name": name} for key, name in names.items()}
        for number in range(5):
            image, label = picture(number)
            write_png(folder / "train/images" / f"{number}.png", image)
            path = folder / "train/masks" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            if form == "binary":
                Image.fromarray(np.where(label > 0, 255, 0).astype(np.uint8)).save(path)
            elif form == "palette":
                mask = Image.fromarray(label)
                mask.putpalette([0, 0, 0, 250, 0, 0, 0, 250, 0])
                mask.save(path)
            else:
                colors = [(0, 0, 0), (250, 0, 0), (0, 250, 0)]
                Image.fromarray(np.array(colors, np.uint8)[label]).save(path)
                classes = {key: {**entry, "color": colors[int(key)]} for key, entry in classes.items()}
        if form != "binary":
            (folder / "classes.json").write_text(json.dumps(classes))
        return folder, "binary" if form == "binary" else "multi-class"

    @pytest.mark.parametrize(("form", "mode"), [("binary", "L"), ("palette", "P"), ("colors", "RGB")])
    def test_read_back(self, form, mode, segment, isdm, tmp_path):
        data, kind = self.write(tmp_path / "data", form)
        folder, _, _ = segment(data_dir=data, dataset_mode=kind, ignore_above=0.002)
        with Image.open(folder / "predicted" / lines_of(folder / "predicted")[0]["mask"]) as mask:
            assert mask.mode == mode
        for read_as in {kind, "multi-class"}:
            keys = {"data_dir": folder, "dataset_mode": read_as, "output_dir": tmp_path / read_as, "preview_images": 1}
            code, shown, errors = isdm("check", **keys)
            assert code == 0, errors
            assert "(ignored)" in shown
