"""nnU-Net v2: a raw dataset of PNG files."""

from __future__ import annotations

import json
import re
from typing import Any, ClassVar

from guided_diffusion.data.formats.annotated import BACKGROUND, IGNORED_ID
from guided_diffusion.data.formats.exported import DatasetWriter, ExportedPair
from guided_diffusion.runtime.errors import ConfigError
from guided_diffusion.runtime.files import write_text

IGNORE = "ignore"
"""The name of nnU-Net's label of ignored pixels, which has the highest number."""


class NnunetWriter(DatasetWriter):
    """`Dataset001_<name>` with imagesTr, labelsTr, imagesTs, labelsTs and dataset.json."""

    title: ClassVar = "nnU-Net v2"
    with_masks_alone: ClassVar = False
    most_classes: ClassVar = 255
    without_class_0: ClassVar = "the background, which is not scored"

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self._dataset = "Dataset001_" + (re.sub(r"\W+", "_", self.name, flags=re.ASCII).strip("_") or "isdm")
        self._cases: list[tuple[str, str, str]] = []
        self.channels = 3
        """1 where no image has colors; to be set before the first pair."""

    def check(self) -> None:
        super().check()
        if IGNORE in self.classes.names:
            line = f"format: a class is named {IGNORE!r}, which is the label of ignored pixels in nnU-Net: rename it"
            raise ConfigError.of_keys(("format", line))
        if BACKGROUND in self.classes.names[1:]:
            line = f"is what nnU-Net calls class 0, and here class 0 is {self.classes.names[0]!r}: rename one of them"
            raise ConfigError.of_keys(("format", f"format: {BACKGROUND!r} {line}"))

    def add(self, pair: ExportedPair) -> None:
        assert pair.image is not None
        part = "Ts" if pair.split == "test" else "Tr"
        target = self.place(self._dataset, f"images{part}", f"{pair.name}_0000.png")
        pair.image.put_png(target, channels=self.channels)
        if not pair.image.path.lower().endswith(".png"):
            self.counts["images decoded and written as PNG"] += 1
        label = pair.label.copy()
        label[label == IGNORED_ID] = len(self.classes.names)
        self.put_mask(label, self._dataset, f"labels{part}", f"{pair.name}.png")
        self._cases.append((pair.name, part, pair.origin))
        self.counts[f"ignored pixels, as the label {IGNORE}"] += pair.ignored

    def finish(self) -> None:
        labels = {BACKGROUND: 0, **{name: index for index, name in enumerate(self.classes.names) if index}}
        if self.classes.has_ignored:
            labels[IGNORE] = len(labels)
        channels = ("R", "G", "B") if self.channels == 3 else ("gray",)
        content = {
            "channel_names": {str(index): name for index, name in enumerate(channels)},
            "labels": labels,
            "numTraining": sum(part == "Tr" for _, part, _ in self._cases),
            "file_ending": ".png",
            "name": self.name,
            "origins": {name: origin for name, _, origin in self._cases if origin != "real"},
        }
        write_text(self.place(self._dataset, "dataset.json"), json.dumps(content, indent=1) + "\n")
