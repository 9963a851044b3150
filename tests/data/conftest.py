"""Small datasets on disk, for the tests of this folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Builder = Callable[..., Path]


def as_picture(content: Any) -> Image.Image:
    """Return a PIL image of an array, or the image itself."""
    return content if isinstance(content, Image.Image) else Image.fromarray(np.asarray(content))


@pytest.fixture
def build(tmp_path: Path) -> Builder:
    """Return a function that writes `<tmp_path>/data/<split>/{images,masks}` and gives the data directory.

    masks: name -> array or PIL image. Images are noise of the mask's size unless `images` says otherwise.
    """

    def builder(
        masks: Mapping[str, Any],
        *,
        images: Mapping[str, Any] | None = None,
        split: str = "train",
        classes: Any = None,
    ) -> Path:
        root = tmp_path / "data"
        pictures = {name: as_picture(mask) for name, mask in masks.items()}
        rng = np.random.default_rng(0)
        if images is None:
            images = {
                f"{name}.png": rng.integers(0, 256, (*mask.size[::-1], 3), np.uint8) for name, mask in pictures.items()
            }
        for kind, files in (("masks", {f"{n}.png": m for n, m in pictures.items()}), ("images", images)):
            (root / split / kind).mkdir(parents=True, exist_ok=True)
            for name, content in files.items():
                path = root / split / kind / name
                path.parent.mkdir(parents=True, exist_ok=True)
                as_picture(content).save(path)
        if classes is not None:
            text = classes if isinstance(classes, str) else json.dumps(classes)
            (root / "classes.json").write_text(text, encoding="utf-8")
        return root

    return builder
