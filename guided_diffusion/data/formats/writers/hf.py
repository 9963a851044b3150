"""An imagefolder of Hugging Face datasets: `load_dataset("imagefolder", data_dir=...)` gives image and mask."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from guided_diffusion.data.formats.exported import DatasetWriter, ExportedPair
from guided_diffusion.runtime.files import write_text


class HfWriter(DatasetWriter):
    """`{train,test}/{images,masks}` with `metadata.jsonl`, and `id2label.json` as transformers have it."""

    title: ClassVar = "Hugging Face imagefolder"
    with_masks_alone: ClassVar = False

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self._lines: dict[str, list[dict[str, Any]]] = {}

    def add(self, pair: ExportedPair) -> None:
        name = self.put_image(pair, pair.split, "images")
        self.put_mask(pair.label, pair.split, "masks", f"{pair.name}.png")
        self._lines.setdefault(pair.split, []).append(
            {
                "file_name": f"images/{name}",
                "mask_file_name": f"masks/{pair.name}.png",
                "synthetic": pair.synthetic,
                "origin": pair.origin,
            }
        )
        self.counts["ignored pixels, as the largest value of the masks"] += pair.ignored

    def finish(self) -> None:
        for split, lines in self._lines.items():
            text = "".join(json.dumps(line) + "\n" for line in lines)
            write_text(self.place(split, "metadata.jsonl"), text)
        names = {str(index): name for index, name in enumerate(self.classes.names)}
        write_text(self.place("id2label.json"), json.dumps(names, indent=1, ensure_ascii=False) + "\n")
