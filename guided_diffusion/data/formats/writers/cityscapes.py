"""The folders and names of Cityscapes, which MMSegmentation and others read; the classes are the dataset's own."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from PIL import Image

from guided_diffusion.data.formats.annotated import IGNORED_ID
from guided_diffusion.data.formats.exported import TEST_AS_VAL, DatasetWriter, ExportedPair
from guided_diffusion.data.formats.writers.voc import VOID
from guided_diffusion.runtime.files import reporting_os_errors, write_text

CITY = "all"
"""The one folder below each split, where Cityscapes has its cities."""


class CityscapesWriter(DatasetWriter):
    """`leftImg8bit/{train,val}/all/*_leftImg8bit.png` and `gtFine/.../*_gtFine_{labelIds,labelTrainIds,color}.png`.

    labelIds and labelTrainIds are the same: 0 is the background, 255 ignored.
    """

    title: ClassVar = "PNG as Cityscapes"
    most_classes: ClassVar = 255

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        colors = [self.classes.color(index) for index in range(len(self.classes.names))]
        self._colors = np.array([*colors, VOID], np.uint8)

    def add(self, pair: ExportedPair) -> None:
        split = TEST_AS_VAL.get(pair.split, pair.split)
        if pair.image is not None:
            pair.image.put_png(self.place("leftImg8bit", split, CITY, f"{pair.name}_leftImg8bit.png"))
            if not pair.image.path.lower().endswith(".png"):
                self.counts["images decoded and written as PNG"] += 1
        for kind in ("labelIds", "labelTrainIds"):
            self.put_mask(pair.label, "gtFine", split, CITY, f"{pair.name}_gtFine_{kind}.png")
        target = self.place("gtFine", split, CITY, f"{pair.name}_gtFine_color.png")
        with reporting_os_errors(target):
            Image.fromarray(self._colors[np.where(pair.label == IGNORED_ID, -1, pair.label)]).save(target)
        self.counts["ignored pixels, as 255"] += pair.ignored

    def finish(self) -> None:
        lines = [f"{index}\t{name}" for index, name in enumerate(self.classes.names)]
        write_text(self.place("classes.txt"), "\n".join(lines) + "\n")
