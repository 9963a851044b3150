"""COCO JSON: each connected part of a class is an object with compressed run lengths."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import numpy as np

from guided_diffusion.data.components import find_components
from guided_diffusion.data.formats.annotated import IGNORED, IGNORED_ID
from guided_diffusion.data.formats.exported import TEST_AS_VAL, DatasetWriter, ExportedPair
from guided_diffusion.data.formats.run_lengths import runs_of_part, text_of_runs
from guided_diffusion.runtime.files import write_text


class CocoWriter(DatasetWriter):
    """`{train,val}/` with the images and `annotations/instances_{train,val}.json`. Ignored pixels are objects of the
    category `__ignore__`, and crowds, so that evaluation leaves them out.
    """

    title: ClassVar = "COCO JSON"
    without_class_0: ClassVar = "the background, which is no object"

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self._images: dict[str, list[dict[str, Any]]] = {}
        self._objects: dict[str, list[dict[str, Any]]] = {}

    def add(self, pair: ExportedPair) -> None:
        split = TEST_AS_VAL.get(pair.split, pair.split)
        images, objects = self._images.setdefault(split, []), self._objects.setdefault(split, [])
        height, width = pair.size
        number = len(images) + 1
        said = {"synthetic": pair.synthetic, "origin": pair.origin}
        images.append(
            {"id": number, "file_name": self.put_image(pair, split), "width": width, "height": height, **said}
        )
        classes = range(1, len(self.classes.names))
        found = [(part, 0) for part in find_components(pair.label, tuple(classes))]
        if pair.ignored:
            ignored = find_components((pair.label == IGNORED_ID).astype(np.uint8), (1,))
            found = [(part, 1) for part in ignored] + found
        for part, crowd in found:
            category = len(self.classes.names) if crowd else part.class_id
            objects.append(
                {
                    "id": len(objects) + 1,
                    "image_id": number,
                    "category_id": category,
                    "iscrowd": crowd,
                    "area": part.area,
                    "bbox": [part.box.left, part.box.top, *part.box.size[::-1]],
                    "segmentation": {"size": list(pair.size), "counts": text_of_runs(runs_of_part(part, pair.size))},
                }
            )
        self.counts["ignored pixels, as crowds of the category __ignore__"] += pair.ignored

    def finish(self) -> None:
        categories = [{"id": index, "name": name} for index, name in enumerate(self.classes.names)][1:]
        if self.classes.has_ignored:
            categories.append({"id": len(self.classes.names), "name": IGNORED, "supercategory": IGNORED})
        for split, images in self._images.items():
            content = {
                "info": {"description": self.name},
                "images": images,
                "categories": categories,
                "annotations": self._objects[split],
            }
            write_text(self.place("annotations", f"instances_{split}.json"), json.dumps(content) + "\n")
