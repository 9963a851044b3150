"""What `segment` writes: images as they were, pairs that follow a plan, and nothing of others deleted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from odd_images import write_png
from parts import bytes_of, lines_of, pixels_of
from PIL import Image

from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.pairing import Pair
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.samples.manifest import UNFINISHED, PseudoLabel, file_digest
from guided_diffusion.samples.pseudo_folder import (
    PredictedFolder,
    copy_image,
    labeled_pair,
    pseudo_pair,
    refuse_foreign_pairs,
    thumbnail,
    write_pairs,
)
from guided_diffusion.samples.reader import count_pseudo_labels, find_samples

ENCODING = LabelEncoding.identity(3).with_ignore()
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)


class TestCopies:
    @pytest.mark.parametrize("suffix", ["png", "jpg", "JPEG"])
    def test_jpeg_and_png_byte_by_byte(self, suffix, tmp_path):
        path = tmp_path / f"a.{suffix}"
        Image.fromarray(PIXELS).save(path)
        name = copy_image(str(path), tmp_path / "out/images", "sub/a", upright=True)
        assert name == f"images/sub/a.{suffix.lower()}"
        assert (tmp_path / "out" / name).read_bytes() == path.read_bytes()

    @pytest.mark.parametrize("suffix", ["bmp", "tif"])
    def test_others_become_png(self, suffix, tmp_path):
        Image.fromarray(PIXELS).save(tmp_path / f"a.{suffix}")
        name = copy_image(str(tmp_path / f"a.{suffix}"), tmp_path / "images", "a", upright=True)
        assert name == "images/a.png"
        assert np.array_equal(pixels_of(tmp_path / name), PIXELS)

    @pytest.mark.parametrize(("upright", "size"), [(True, (9, 6)), (False, (6, 9))])
    def test_turned_pictures_lose_their_tag(self, upright, size, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif)
        name = copy_image(str(tmp_path / "a.png"), tmp_path / "images", "a", upright=upright)
        with Image.open(tmp_path / name) as image:
            assert image.getexif().get(0x0112, 1) == 1
            assert (image.height, image.width) == size

    def test_sixteen_bits_stay(self, tmp_path):
        deep = np.random.default_rng(0).integers(0, 65536, (6, 9), np.uint16)
        Image.fromarray(deep).save(tmp_path / "a.tif")
        name = copy_image(str(tmp_path / "a.tif"), tmp_path / "images", "a", upright=True)
        assert np.array_equal(pixels_of(tmp_path / name), deep)
        shown = thumbnail(str(tmp_path / name), (6, 9), upright=True)
        assert shown.shape == (6, 9, 3)
        assert shown.min() == 0
        assert shown.max() >= 254


def pseudo(path: Path, score: float = 0.1) -> PseudoLabel:
    own = {"confidence": 0.9, "ignored": 0.0, "classifier": "c"}
    return PseudoLabel(image=str(path), digest=file_digest(path), score=score, **own)


@pytest.fixture
def images(tmp_path) -> list[Path]:
    for number in range(3):
        write_png(tmp_path / "new" / f"{number}.png", PIXELS + np.uint8(number))
    return sorted((tmp_path / "new").iterdir())


@pytest.fixture
def predicted(images, tmp_path) -> PredictedFolder:
    """The masks of three images, of class 0, 1 and 2, the null id in a corner."""
    folder = PredictedFolder(tmp_path / "predicted", ENCODING, {"classifier": "c"})
    folder.begin({path.stem: file_digest(path) for path in images})
    folder.open_part(0)
    for number, path in enumerate(images):
        label = np.full((6, 9), number)
        label[0, 0] = 3
        folder.write(path.stem, label, np.full((6, 9), 0.1 * number), pseudo(path, number / 10))
    folder.close_part()
    return folder


def digests(images: list[Path]) -> dict[str, str]:
    return {path.stem: file_digest(path) for path in images}


class TestPredicted:
    def test_labels_and_uncertainty_are_read_back(self, predicted, images):
        lines = predicted.finish(digests(images))
        assert [line.stem for line in lines] == ["0", "1", "2"]
        for number, line in enumerate(lines):
            label = predicted.label(line)
            assert label[0, 0] == 3
            assert (label.ravel()[1:] == number).all()
            assert np.allclose(predicted.uncertainty(line), 0.1 * number, atol=1 / 400)

    def test_images_that_changed_are_labeled_again(self, predicted, images):
        predicted.finish(digests(images))
        assert predicted.begin({**digests(images), "1": "other"}) == {"0", "2"}
        (predicted.folder / "masks/2.png").write_bytes(b"\x89PNG")
        assert predicted.begin(digests(images)) == {"0"}

    def test_masks_of_other_settings_are_refused(self, predicted, images):
        predicted.finish(digests(images))
        other = PredictedFolder(predicted.folder, ENCODING, {"classifier": "d"})
        with pytest.raises(DataError) as caught:
            other.begin(digests(images))
        assert caught.value.path == str(predicted.manifest)


class TestPairs:
    @pytest.fixture
    def plan(self, predicted, images, tmp_path):
        write_png(tmp_path / "data/0.png", PIXELS)
        write_png(tmp_path / "data/mask.png", np.full((6, 9), 2, np.uint8))
        drawn = Pair("0", str(tmp_path / "data/0.png"), str(tmp_path / "data/mask.png"))
        lines = predicted.finish(digests(images))
        return [labeled_pair(drawn, ("i", "m")), *(pseudo_pair(predicted, line, upright=True) for line in lines)]

    def test_what_is_planned_is_there(self, plan, images, tmp_path):
        folder = tmp_path / "out/train"
        write_pairs(folder, plan, ENCODING)
        assert [line["mask"] for line in lines_of(folder)] == [
            "masks/labeled/0.png",
            *(f"masks/pseudo/{number}.png" for number in range(3)),
        ]
        assert (folder / "images/pseudo/1.png").read_bytes() == images[1].read_bytes()
        assert not (folder / UNFINISHED).exists()
        assert count_pseudo_labels(tmp_path / "out", "train") == {"segment": 3}
        samples = find_samples(tmp_path / "out")
        assert (samples.pseudo_labels, samples.has_native_depth) == (3, True)

    def test_a_shorter_plan_takes_pairs_away(self, plan, tmp_path):
        write_pairs(tmp_path / "a", plan, ENCODING)
        write_pairs(tmp_path / "a", plan[:1] + plan[2:], ENCODING)
        write_pairs(tmp_path / "b", plan[:1] + plan[2:], ENCODING)
        assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")

    def test_pairs_that_are_there_stay(self, plan, tmp_path):
        write_pairs(tmp_path / "a", plan[2:], ENCODING)
        before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("a/*/*/*.png")}
        write_pairs(tmp_path / "a", plan, ENCODING)
        assert {path: path.stat().st_mtime_ns for path in before} == before

    def test_files_of_others_are_refused(self, plan, tmp_path):
        folder = tmp_path / "a"
        refuse_foreign_pairs(folder)
        write_pairs(folder, plan, ENCODING)
        refuse_foreign_pairs(folder)
        write_png(folder / "masks/own.png", PIXELS)
        with pytest.raises(DataError) as caught:
            refuse_foreign_pairs(folder)
        assert caught.value.path == str(folder / "masks/own.png")

    def test_a_killed_run_left_files_without_lines(self, plan, tmp_path):
        folder = tmp_path / "a"
        write_pairs(folder, plan, ENCODING)
        (folder / "manifest.jsonl").unlink()
        (folder / UNFINISHED).touch()
        refuse_foreign_pairs(folder)
        write_pairs(folder, plan, ENCODING)
        assert len(lines_of(folder)) == len(plan)
        assert json.loads((folder / "manifest.jsonl").read_text().splitlines()[1])["pseudo"]["score"] == 0
