"""Pascal VOC: palette PNGs in SegmentationClass, and labelmap.txt, as CVAT and Datumaro write it."""

from __future__ import annotations

from typing import Any, ClassVar

from guided_diffusion.data.formats.exported import IGNORED_VALUE, TEST_AS_VAL, DatasetWriter, ExportedPair
from guided_diffusion.runtime.errors import ConfigError
from guided_diffusion.runtime.files import write_text

VOID = (224, 224, 192)
"""The color of ignored pixels."""


def voc_color(index: int) -> tuple[int, int, int]:
    """Return VOC's color of a class: its bits, three at a time, from the highest bit of red, green and blue down."""
    red = green = blue = 0
    for bit in range(7, -1, -1):
        red, green, blue = (color | (index >> place & 1) << bit for place, color in enumerate((red, green, blue)))
        index >>= 3
    return red, green, blue


class VocWriter(DatasetWriter):
    """`JPEGImages`, `SegmentationClass`, `ImageSets/Segmentation/{train,val}.txt` and `labelmap.txt`."""

    title: ClassVar = "Pascal VOC"
    most_classes: ClassVar = 255

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self._names: dict[str, list[str]] = {}
        self._palette = [channel for index in range(256) for channel in voc_color(index)]
        self._palette[3 * IGNORED_VALUE :] = VOID

    def check(self) -> None:
        super().check()
        for name in self.classes.names:
            if ":" in name or name.startswith("#"):
                line = f"format: a class is named {name!r}, which labelmap.txt cannot say: rename it, or choose coco"
                raise ConfigError.of_keys(("format", line))

    def add(self, pair: ExportedPair) -> None:
        self._names.setdefault(TEST_AS_VAL.get(pair.split, pair.split), []).append(pair.name)
        self.put_image(pair, "JPEGImages")
        self.put_mask(pair.label, "SegmentationClass", f"{pair.name}.png", palette=self._palette)
        self.counts["ignored pixels, as 255"] += pair.ignored

    def finish(self) -> None:
        for split, names in self._names.items():
            write_text(self.place("ImageSets", "Segmentation", f"{split}.txt"), "".join(f"{n}\n" for n in names))
        lines = ["# label:color_rgb:parts:actions"]
        for index, name in enumerate(self.classes.names):
            lines.append(f"{name}:{','.join(map(str, voc_color(index)))}::")
        write_text(self.place("labelmap.txt"), "\n".join(lines) + "\n")
