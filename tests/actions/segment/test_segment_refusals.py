"""`segment` and what reads its folders: mistakes are one line, and masks are read back."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from colored import NAMES, SIZE, masks_of, picture, train, write_labeled
from command_line import arguments_of
from error_lines import check_error
from odd_images import write_png
from parts import bytes_of, lines_of
from PIL import Image

from guided_diffusion import cli
from guided_diffusion.labeling.files import load_classifier
from guided_diffusion.pipelines.segment.run import FEATURES, FOLDS, PREDICTED
from guided_diffusion.pipelines.segment.scored_split import FOLDER

pytestmark = pytest.mark.slow

MAE = {"extractor": "mae", "extractor_weights": "x.pth", "feature_steps": None, "model_path": None}


class TestEvaluate:
    def test_labeled_images_are_no_samples(self, segment, labeled, isdm, tmp_path):
        """Else the models of a mix would learn training images twice, and all of these would be copies."""
        data = tmp_path / "data"
        shutil.copytree(labeled, data)
        write_labeled(tmp_path / "other", 4, noise=20)
        shutil.copytree(tmp_path / "other/train", data / "test")
        folder, _, _ = segment(data_dir=data, folds=0)
        values = {"data_dir": data, "dataset_mode": "multi-class", "synthetic_dir": folder, "image_size": 32}
        values |= {"study": False, "agreement": False, "lpips_weights": "none", "inception_weights": "none"}
        code, shown, errors = isdm("evaluate", **values, output_dir=tmp_path / "evaluated")
        assert code == 0, errors
        pairs = lines_of(folder / "train")
        pseudo = [line for line in pairs if "pseudo" in line]
        assert 0 < len(pseudo) < len(pairs)
        assert f" {len(pseudo)} samples of " in shown
        report = json.loads((tmp_path / "evaluated/report.json").read_text())
        assert len(report["memorisation"]["samples"]) == len(pseudo)
        assert report["memorisation"]["share"] == 0

    def test_pseudo_labels_are_known(self, segment, labeled, isdm, tmp_path):
        data = tmp_path / "data"
        shutil.copytree(labeled, data)
        write_labeled(tmp_path / "other", 4, noise=20)
        shutil.copytree(tmp_path / "other/train", data / "test")
        folder, _, _ = segment(data_dir=data, add_labeled=False, folds=0)
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
        folder, _, _ = segment(
            data_dir=data, image_dir=data / "test/images", drop_uncertain=0, add_labeled=False, folds=0
        )
        values = {"data_dir": data, "dataset_mode": "multi-class", "synthetic_dir": folder, "image_size": 32}
        code, _, errors = isdm("evaluate", **values, study=False, output_dir=tmp_path / "evaluated")
        assert code == 2
        check_error(errors[0], folder / "train", 4)


class TestMistakes:
    @pytest.fixture
    def refused(self, keys, isdm, refused_dry):
        """Run `segment` and return the lines of its mistakes; nothing is left of it.

        A dry run tells them, too, unless they show only when images are opened.
        """

        def run(*, opened: bool = False, **values) -> list[str]:
            used = {key: value for key, value in {**keys, **values}.items() if value is not None}
            code, _, errors = isdm("segment", **used)
            assert code == 2
            assert opened or refused_dry("segment", **used) in ([], errors)
            assert not list(Path(used["output_dir"]).glob("*.json"))
            return errors

        return run

    def test_a_classifier_of_another_network(self, plain, refused, unlabeled, tmp_path):
        other = train(unlabeled[0], tmp_path / "other", seed=1)
        path = plain / "classifier.pt"
        again = {"data_dir": None, "dataset_mode": None, "classifier_path": path, "output_dir": tmp_path / "later"}
        (line,) = refused(**again, model_path=other)
        check_error(line, path, "checkpoint")
        (line,) = refused(**again, feature_steps=[150])
        check_error(line, path, "feature_steps, as timesteps of the model,")
        (line,) = refused(**again, feature_blocks=[2])
        check_error(line, path, "with feature_blocks", ["decoder.2"])
        (line,) = refused(**again, feature_rgb=False)
        check_error(line, path, "feature_rgb True", "False")

    def test_no_labeled_image_of_a_class(self, refused, labeled, tmp_path):
        data = tmp_path / "data"
        shutil.copytree(labeled, data)
        (data / "classes.json").write_text(json.dumps(dict(enumerate((*NAMES, "blue", "black")))))
        (line,) = refused(opened=True, data_dir=data)
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
        (line,) = refused(opened=True, data_dir=data)
        check_error(line, data / "train/images/2.png", data / "train/masks/2.png")

    def test_no_unlabeled_images(self, refused, labeled, tmp_path):
        (tmp_path / "empty").mkdir()
        (line,) = refused(image_dir=tmp_path / "empty")
        check_error(line, tmp_path / "empty")
        (line,) = refused(image_dir=tmp_path / "missing")
        check_error(line, tmp_path / "missing")

    def test_only_labeled_images(self, refused, labeled):
        (line,) = refused(opened=True, image_dir=labeled / "train/images")
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
            ({**MAE, "model_path": "run"}, "model_path"),
            ({**MAE, "image_size": 64}, "image_size"),
            ({"folds": 1}, "folds"),
            ({"dataset_mode": "images"}, "dataset_mode"),
            ({"classifier_path": "x.pt"}, "data_dir"),
            ({"scale": 0.5}, "scale"),
            ({"mask_resize": "area"}, "mask_resize"),
            ({"max_objects": 3}, "max_objects"),
            ({"split": ""}, "split"),
            ({"split": "a/b"}, "split"),
            *(({"split": name}, "split") for name in (PREDICTED, FOLDS, FEATURES, FOLDER)),
        ],
    )
    def test_keys(self, refused, values, subject):
        (line,) = refused(**values)
        check_error(line, subject)

    def test_results_of_other_settings(self, segment, keys, isdm, labeled, tmp_path):
        folder, _, _ = segment(image_dir=None)
        before = bytes_of(folder)
        code, _, errors = isdm("segment", **{**keys, "members": 3, "classifier_steps": 50})
        assert code == 2
        check_error(errors[0], "members", 3, 2)
        check_error(errors[1], "classifier_steps", 50, 40)
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

    def test_sides_that_a_classifier_was_trained_with(self, refused, plain, network, isdm, tmp_path):
        classifier, path = load_classifier(plain / "classifier.pt"), tmp_path / "sided.pt"
        classifier.encoding["names"] = ["skin", "left eye", "right eye"]
        classifier.save(path)
        own = {"classifier_path": path, "data_dir": None, "dataset_mode": None}
        (line,) = refused(**own, flip=True)
        check_error(line, "flip", "left eye")
        values = {"model_path": network, "classifier_path": path, "num_samples": 1, "steps": 2}
        code, _, (line,) = isdm("generate", **values, flip=True, results_path=tmp_path / "drawn")
        assert code == 2
        check_error(line, "flip", "left eye")

    def test_pairs_of_others_in_the_folder(self, keys, refused):
        write_png(Path(keys["output_dir"]) / "train/images/own.png", picture(0)[0])
        (line,) = refused()
        check_error(line, Path(keys["output_dir"]) / "train/images/own.png")


class TestDryRun:
    def test_numbers_are_told_and_nothing_is_written(self, keys, plain, network, unlabeled, capsys, tmp_path):
        """`generate` draws as many as are left when half are dropped; both name the features they read."""
        drawing = {"model_path": network, "classifier_path": plain / "classifier.pt", "steps": 2}
        drawing |= {"num_samples": 4, "drop_uncertain": 0.5, "results_path": tmp_path / "out"}
        asked = {
            "segment": (keys, f"{len(unlabeled[1])} images in image_dir", "6 labeled images, 2 folds"),
            "generate": (drawing, "7 images of ", "2 steps", "4 pairs"),
        }
        features = set()
        for action, (values, *told) in asked.items():
            assert cli.main([*arguments_of(action, **values), "--dry-run"]) == 0
            shown = capsys.readouterr().out
            assert all(line in shown for line in told), shown
            features |= set(re.findall(r"\d+ features", shown))
        assert len(features) == 1
        assert not (tmp_path / "out").exists()


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
        folder, _, _ = segment(data_dir=data, dataset_mode=kind, ignore_above=0.002, folds=0)
        with Image.open(folder / "predicted" / lines_of(folder / "predicted")[0]["mask"]) as mask:
            assert mask.mode == mode
        for read_as in {kind, "multi-class"}:
            keys = {"data_dir": folder, "dataset_mode": read_as, "output_dir": tmp_path / read_as, "preview_images": 1}
            code, shown, errors = isdm("check", **keys)
            assert code == 0, errors
            assert "(ignored)" in shown
