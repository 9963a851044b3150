"""Datumaro's common_semantic_segmentation: the layout of this project with dataset_meta.json in each split."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, ClassVar

from guided_diffusion.data.formats.exported import DatasetWriter, ExportedPair
from guided_diffusion.data.masks.classes_file import FILE_NAME, classes_text
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.runtime.files import write_text

META = "dataset_meta.json"


def meta_text(names: tuple[str, ...]) -> str:
    """Return the text of dataset_meta.json: the class of each mask value."""
    return json.dumps({"label_map": {str(index): name for index, name in enumerate(names)}}, indent=1) + "\n"


class DatumaroWriter(DatasetWriter):
    """`{train,test}/{images,masks}`, masks whose values are the classes, `dataset_meta.json`, and `classes.json`."""

    title: ClassVar = "Datumaro"

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self._splits: set[str] = set()

    def add(self, pair: ExportedPair) -> None:
        self._splits.add(pair.split)
        self.put_image(pair, pair.split, "images")
        self.put_mask(pair.label, pair.split, "masks", f"{pair.name}.png")
        self.counts["ignored pixels, as the largest value of the masks"] += pair.ignored

    def finish(self) -> None:
        for split in self._splits:
            write_text(self.place(split, META), meta_text(self.classes.names))
        names = self.classes.names
        encoding = LabelEncoding.identity(len(names), names)
        if self.classes.has_ignored:
            encoding = replace(encoding, kind="grey16" if len(names) > 255 else encoding.kind).with_ignore()
        write_text(self.place(FILE_NAME), classes_text(encoding))
