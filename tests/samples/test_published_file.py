"""The published .npz of labeled samples: class numbers, whatever the masks hold."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.samples.manifest import ClassifiedMask, ManifestLine
from guided_diffusion.samples.published_file import read_published, remove_earlier, write_published

NAMES = ("background", "dent")
RED = (((0, 0, 0),), ((255, 0, 0),))


@pytest.mark.parametrize(
    "encoding",
    [
        LabelEncoding(2, NAMES, ((0,), (255,)), ignore_values=(7,)),
        LabelEncoding(2, NAMES, ((3,), (1000,)), ignore_values=(0,), kind="grey16"),
        LabelEncoding(2, NAMES, (), RED, (), ((9, 9, 9),), kind="rgb"),
        LabelEncoding.identity(2).ignoring(255),
    ],
    ids=["0 and 255", "16 bits", "colors", "numbers"],
)
def test_labels_are_class_numbers_and_255_is_ignored(tmp_path, encoding):
    random = np.random.default_rng(0)
    labels, images = random.integers(0, 3, (4, 6, 5)), random.integers(0, 256, (4, 6, 5, 3), np.uint8)
    lines = []
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        files = {"image": f"images/{index}.png", "mask": f"masks/{index}.png"}
        Image.fromarray(image).save(tmp_path / files["image"])
        encoding.encode(label).save(tmp_path / files["mask"])
        classified = ClassifiedMask(score=index / 4, ignored=0.0)
        lines.append(
            ManifestLine(index=index, **files, source_mask="m.png", source_digest="0" * 16, classified=classified)
        )
    write_published(tmp_path / "s.npz", tmp_path, lines, encoding)
    read = list(read_published(tmp_path / "s.npz").pairs())
    assert np.array_equal([image for image, _ in read], images)
    assert np.array_equal([label for _, label in read], np.where(labels == 2, 255, labels))


def test_earlier_files_of_other_counts_are_removed_and_those_of_others_stay(tmp_path):
    Image.new("RGB", (5, 6)).save(tmp_path / "i.png")
    Image.new("L", (5, 6)).save(tmp_path / "m.png")
    classified = ClassifiedMask(score=0.5, ignored=0.0)
    files = {"image": "i.png", "mask": "m.png", "source_mask": "m.png", "source_digest": "0" * 16}
    line = ManifestLine(index=0, **files, classified=classified)
    paths = [tmp_path / f"samples_{count}x6x5x3.npz" for count in (1, 2, 3)]
    for path in paths:
        write_published(path, tmp_path, [line], LabelEncoding.identity(2))
    np.savez(tmp_path / "samples_9x6x5x3.npz", np.zeros(1))
    (tmp_path / "samples_8x6x5x3.npz").write_text("no archive")
    assert remove_earlier(paths[0], str(paths[2])) == [paths[1]]
    assert [int(path.name[8]) for path in sorted(tmp_path.glob("*.npz"))] == [1, 3, 8, 9]


def test_too_many_classes_are_refused(tmp_path):
    with pytest.raises(DataError):
        write_published(tmp_path / "s.npz", tmp_path, [], LabelEncoding.identity(256))
    assert not list(tmp_path.iterdir())
