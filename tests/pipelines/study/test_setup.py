"""What a study reads of its data, before anything is trained."""

from __future__ import annotations

import numpy as np
import pytest
from odd_images import write_png
from parts import noise, write_good, write_parts

from guided_diffusion.config.load import load_config
from guided_diffusion.pipelines.study.setup import prepare
from guided_diffusion.pipelines.study.trainings import StudyImages

KEYS = {"dataset_mode": "multi-class", "arms": "real,real_good", "amounts": "all", "encoder_weights": "none"}


@pytest.mark.parametrize("exif", ["apply", "ignore"])
def test_good_images_are_turned_as_annotated_ones_are(exif, tmp_path):
    data, good = write_parts(tmp_path / "data"), tmp_path / "good"
    write_good(good / "test", {"b": (33, 47)})
    stored = noise((40, 56), 1)
    write_png(good / "train" / "a.png", stored, orientation=3)  # half a turn
    config = load_config(
        "study",
        {**KEYS, "data_dir": str(data), "good_dir": str(good), "output_dir": str(tmp_path / "out"), "exif": exif},
    )
    (image,) = StudyImages.read(prepare(config), {}).good.images
    seen = stored if exif == "ignore" else stored[::-1, ::-1]
    assert np.array_equal(image, seen.repeat(3, axis=2))
