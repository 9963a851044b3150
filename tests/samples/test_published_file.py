"""The published .npz of labeled samples: class numbers, whatever the masks hold."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.samples.manifest import ClassifiedMask, ManifestLine
from guided_diffusion.samples.published_file import read_published, write_published

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


def test_too_many_classes_are_refused(tmp_path):
    with pytest.raises(DataError):
        write_published(tmp_path / "s.npz", tmp_path, [], LabelEncoding.identity(256))
    assert not list(tmp_path.iterdir())
