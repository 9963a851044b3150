"""`segment`: what it writes of colored images, and that folds are held out."""

from __future__ import annotations

import json
import shutil
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from cards import check_card
from colored import NAMES, masks_of, picture, train, write_labeled, write_unlabeled
from odd_images import write_png
from parts import lines_of, pixels_of
from PIL import Image

from guided_diffusion.labeling.files import load_classifier
from guided_diffusion.runtime.files import digest

pytestmark = pytest.mark.slow

NULL = 255


def iou(label: np.ndarray, predicted: np.ndarray, class_id: int) -> float:
    counted = predicted != NULL
    truth, found = (label == class_id) & counted, (predicted == class_id) & counted
    return (truth & found).sum() / (truth | found).sum()


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
            own = {"output_dir": tmp_path / resize, "folds": 0, "classifier_steps": 60}
            folder, _, _ = segment(resize=resize, image_dir=tmp_path / "large", **own)
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
        _, record, _ = segment(model_path=network, data_dir=data, image_dir=gray, folds=0)
        assert record["data"]["features"] % 2 == 1  # with the one value of the pixel

    def test_flipped_views_are_averaged(self, segment, plain):
        folder, record, _ = segment(flip=True)
        assert record["scores"]["features"]["miou"]["mean"] > 0.7
        assert digest(folder / "classifier.pt") == digest(plain / "classifier.pt")
        pairs = zip(lines_of(folder / "predicted"), lines_of(plain / "predicted"), strict=True)
        assert all(first["pseudo"]["confidence"] != second["pseudo"]["confidence"] for first, second in pairs)

    def test_rare_classes_are_favored_as_the_folds_say_or_as_asked(self, segment, plain, tmp_path):
        classifier = load_classifier(plain / "classifier.pt")
        scores = json.loads((plain / "report.json").read_text())["scores"]
        assert classifier.training["favor_rare"] == scores["favor_rare"]
        shares = {}
        for favor in (0, 1):
            folder, _, _ = segment(favor_rare=favor, folds=0, output_dir=tmp_path / str(favor))
            classifier = load_classifier(folder / "classifier.pt")
            assert classifier.training["favor_rare"] == favor
            shares[favor] = classifier.ensemble.last_bias.mean(dim=0)
        ratio = shares[1] - shares[0]
        # The frequencies of the masks are those of `write_labeled`: the background is the most frequent class.
        assert ratio[0] < 0 < ratio[1:].max()

    def test_published_recipe(self, segment, unlabeled, tmp_path):
        own = {"classifier_steps": None, "classifier_batch": None, "members": 2, "folds": 0}
        folder, record, _ = segment(recipe="published", data_dir=write_labeled(tmp_path / "data", 2), **own)
        classifier = load_classifier(folder / "classifier.pt")
        assert (classifier.vote, classifier.training["recipe"]) == ("majority", "published")
        assert record["data"]["feature_settings"]["as_published"]
        right = [np.mean((mask == unlabeled[1][stem])[mask != NULL]) for stem, mask in masks_of(folder).items()]
        assert min(right) > 0.9

    def test_another_extractor(self, segment, swav, tmp_path):
        write_unlabeled(tmp_path / "new", 2)
        own = {"extractor": "swav", "extractor_weights": swav, "image_size": 32, "members": 1}
        own |= {"data_dir": write_labeled(tmp_path / "data", 4), "image_dir": tmp_path / "new"}
        folder, record, _ = segment(model_path=None, feature_steps=None, **own)
        assert record["data"]["features"] == 6720 + 3
        assert record["scores"]["features"]["miou"]["mean"] > 0.5
        again = {"data_dir": None, "dataset_mode": None, "classifier_path": folder / "classifier.pt"}
        later, _, _ = segment(**{**own, **again}, model_path=None, feature_steps=None, output_dir=tmp_path / "later")
        assert all(np.array_equal(mask, masks_of(later)[stem]) for stem, mask in masks_of(folder).items())


class TestScoredSplit:
    def test_test_images_that_are_labeled_ones_are_named(self, segment, tmp_path):
        data = write_labeled(tmp_path / "data")
        for number in (6, 7):
            for kind, content in zip(("images", "masks"), picture(number), strict=True):
                write_png(data / "test" / kind / f"{number}.png", content)
        values = {"data_dir": data, "score_test": True, "image_dir": None, "folds": 0, "classifier_steps": 5}
        _, record, _ = segment(**values, output_dir=tmp_path / "apart")
        assert record["test"]["images"] == 2
        assert not any(str(data) in line for line in record["warnings"])
        shutil.copy(data / "train/images/0.png", data / "test/images/6.png")
        _, record, shown = segment(**values, group_pattern=r"(\d)$", output_dir=tmp_path / "shared")
        (line,) = (line for line in record["warnings"] if str(data) in line)
        assert str(data / "test/images/6.png") in line
        assert str(data / "train/images/0.png") in line
        assert line in shown
        for kind in ("images", "masks"):
            (data / "test" / kind / "6.png").rename(data / "test" / kind / "new_5.png")
        _, record, _ = segment(**values, group_pattern=r"(\d)$", output_dir=tmp_path / "groups")
        assert any("group" in line and "new_5.png" in line for line in record["warnings"])


class TestFolds:
    def test_folds_never_train_on_what_they_score(self, segment):
        # Images 0, 1 and 2 show one object.
        folder, record, _ = segment(image_dir=None, folds=3, members=1, group_pattern="^[012](x?)$")
        folds = [json.loads(path.read_text()) for path in sorted((folder / "folds").glob("fold_*.json"))]
        held_out = [[image["number"] for image in fold["images"]] for fold in folds]
        assert sorted(chain(*held_out)) == list(range(6))
        for fold, numbers in zip(folds, held_out, strict=True):
            assert sorted(fold["trained_on"] + numbers) == list(range(6))
            assert len({number in numbers for number in range(3)}) == 1
        assert record["scores"]["difference"]["groups"] == 4

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
        _, record, _ = segment(data_dir=data, image_dir=None, members=3, classifier_steps=60)
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
        folder, _, _ = segment(ignore_above=0.003, folds=0)
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
        folder, record, _ = segment(drop_uncertain=0.25, folds=0)
        scores = {line["stem"]: line["pseudo"]["score"] for line in lines_of(folder / "predicted")}
        ranked = sorted(scores, key=scores.get)
        pairs = [line for line in lines_of(folder / "train") if "pseudo" in line]
        assert {Path(line["mask"]).relative_to("masks/pseudo").with_suffix("").as_posix() for line in pairs} == {
            *ranked[:6]
        }
        assert [each["stem"] for each in record["unlabeled"]["next"]] == ranked[::-1]
        assert (record["unlabeled"]["pairs"], record["unlabeled"]["dropped"]) == (6, 2)

    def test_images_and_masks_of_people_are_copied(self, segment, plain, labeled):
        lines = [line for line in lines_of(plain / "train") if "pseudo" not in line]
        assert len(lines) == 6
        for line in lines:
            source = Path(line["source_mask"])
            assert np.array_equal(pixels_of(plain / "train" / line["mask"]), pixels_of(source))
            image = labeled / "train/images" / source.name
            assert (plain / "train" / line["image"]).read_bytes() == image.read_bytes()
        text = check_card(plain / "train", 14, "labeled pairs | 6 of", "no person drew", synthetic=False)
        assert "IoU on held-out labeled images" in text
        assert not (segment(add_labeled=False, folds=0)[0] / "train/masks/labeled/0.png").exists()

    def test_the_card_counts_labeled_pairs_of_equal_masks(self, segment, labeled, tmp_path):
        """As those of images without defects are."""
        data = tmp_path / "data"
        shutil.copytree(labeled, data)
        for number in (1, 2):
            shutil.copy(data / "train/masks/0.png", data / f"train/masks/{number}.png")
        folder, _, _ = segment(data_dir=data, folds=0)
        check_card(folder / "train", 14, "labeled pairs | 6 of", "6 with masks of the dataset", synthetic=False)

    def test_check_and_train_read_it(self, segment, isdm, tmp_path):
        folder, _, _ = segment(ignore_above=0.003, folds=0)
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
        _, record, shown = segment(image_dir=tmp_path / "mixed", folds=0)
        assert record["unlabeled"]["images"] == 2
        assert "6 others are labeled ones" in shown

    def test_what_the_scan_finds_of_the_unlabeled_is_said(self, segment, plain, tmp_path):
        images = tmp_path / "new"
        write_unlabeled(images, 2)
        write_png(images / "blank.png", np.zeros((24, 24, 3), np.uint8))
        Image.new("RGB", (24, 24)).save(images / "left_out.webp")
        again = {"data_dir": None, "dataset_mode": None, "classifier_path": plain / "classifier.pt"}
        _, _, shown = segment(image_dir=images, **again)
        assert "warning: " + str(images / "blank.png") in shown
        assert f"warning: {images}: 1 files of other formats are not used (such as left_out.webp)" in shown
