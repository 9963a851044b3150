"""YOLO's text of outlines, for Ultralytics: corners as shares of width and height, a line for each object."""

from __future__ import annotations

from typing import Any, ClassVar

import yaml

from guided_diffusion.data.components import find_components
from guided_diffusion.data.formats.exported import TEST_AS_VAL, DatasetWriter, ExportedPair
from guided_diffusion.data.formats.outlines import corners
from guided_diffusion.runtime.files import write_text

DIGITS = 7
"""Of a share: 0.001 pixels at 10000 pixels."""


class YoloWriter(DatasetWriter):
    """`images/{train,val}`, `labels/{train,val}` and `data.yaml`.

    Objects with holes are cut into parts without; pixels of no class cannot be said, and become background.
    """

    title: ClassVar = "YOLO outlines"
    without_class_0: ClassVar = "the background, which is no object"

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self._splits: list[str] = []

    def add(self, pair: ExportedPair) -> None:
        split = TEST_AS_VAL.get(pair.split, pair.split)
        if split not in self._splits:
            self._splits.append(split)
        self.put_image(pair, "images", split)
        height, width = pair.size
        lines = []
        for part in find_components(pair.label, tuple(range(1, len(self.classes.names)))):
            rings, holes = corners(part)
            if holes:
                self.counts["holes, for which objects were cut into parts"] += holes
                self.counts["parts of objects with holes"] += len(rings)
            for ring in rings:
                shares = (ring / (width, height)).reshape(-1)
                lines.append(" ".join([str(part.class_id - 1), *(f"{share:.{DIGITS}f}" for share in shares)]))
        self.counts["ignored pixels, which became background"] += pair.ignored
        write_text(self.place("labels", split, f"{pair.name}.txt"), "".join(line + "\n" for line in lines))

    def finish(self) -> None:
        # Without a path Ultralytics looks beside data.yaml; "." would be where it is started.
        content: dict[str, Any] = {split: f"images/{split}" for split in self._splits}
        # Ultralytics wants both; a dataset without a test split is validated on its training images.
        content.setdefault("train", content.get("val", ""))
        content.setdefault("val", content["train"])
        content["names"] = dict(enumerate(self.classes.names[1:]))
        write_text(self.place("data.yaml"), yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
